//! A thread with an engine of its own, as a shard has: fills slots, runs them, keeps time.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gavel::batch::SlotLimits;
use gavel::engine::{Engine, Prepared, SlotId, Step, new_engine};
use gavel::units::{Clock, Span};
use serde_json::{Value, json};

use super::clock::{Moment, Spent};
use super::inputs::Inputs;

/// What a worker is told.
enum Order {
    /// Scores of the first so many requests.
    Score(usize),
    /// Runs for so long, and at least so many requests; begins when all workers of a round have come.
    Round { time: Duration, calls: usize, start: Arc<Barrier> },
}

enum Report {
    Scores(Vec<f32>),
    Round(Round),
}

/// What a round took.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Requests.
    calls: usize,
    /// From starting a filled slot until its scores are there.
    compute: Spent,
    /// Checking requests and copying them into slots.
    copy: Spent,
    /// Nanoseconds of wall time per request: median over groups of requests.
    median_ns: u64,
}

impl Round {
    /// For the driver.
    pub fn json(&self) -> Value {
        json!({
            "calls": self.calls,
            "wall_ns": self.compute.wall_ns,
            "cpu_ns": self.compute.cpu_ns,
            "copy_wall_ns": self.copy.wall_ns,
            "copy_cpu_ns": self.copy.cpu_ns,
            "median_ns": self.median_ns,
        })
    }
}

/// The handle of a worker.
pub struct Worker {
    orders: Option<Sender<Order>>,
    reports: Receiver<Result<Report, String>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a worker for requests of `batch` candidates, on a CPU of its own if one is named.
    pub fn start(model: &Prepared, inputs: &Arc<Inputs>, batch: usize, cpu: Option<usize>) -> Worker {
        let (orders, inbox) = channel();
        let (outbox, reports) = channel();
        let (model, inputs) = (model.clone(), Arc::clone(inputs));
        let thread = std::thread::spawn(move || {
            let mut bench = Bench::new(&model, &inputs, batch, cpu);
            for order in inbox {
                let report = match &mut bench {
                    Ok(bench) => bench.obey(&order),
                    Err(problem) => Err(problem.clone()),
                };
                if outbox.send(report).is_err() {
                    return;
                }
            }
        });
        Worker { orders: Some(orders), reports, thread: Some(thread) }
    }

    /// Scores of the first `sets` requests, one after the other.
    pub fn score(&self, sets: usize) -> Result<Vec<f32>, String> {
        self.order(Order::Score(sets))?;
        match self.report()? {
            Report::Scores(scores) => Ok(scores),
            Report::Round(_) => Err("a worker answers in order".into()),
        }
    }

    /// A round on all workers at once.
    pub fn round(workers: &[Worker], time: Duration, calls: usize) -> Result<Vec<Round>, String> {
        let start = Arc::new(Barrier::new(workers.len()));
        for worker in workers {
            worker.order(Order::Round { time, calls, start: Arc::clone(&start) })?;
        }
        let round = |worker: &Worker| match worker.report()? {
            Report::Round(round) => Ok(round),
            Report::Scores(_) => Err("a worker answers in order".to_string()),
        };
        workers.iter().map(round).collect()
    }

    fn order(&self, order: Order) -> Result<(), String> {
        self.orders.as_ref().and_then(|orders| orders.send(order).ok()).ok_or_else(|| "a worker is gone".to_string())
    }

    fn report(&self) -> Result<Report, String> {
        self.reports.recv().map_err(|_| "a worker is gone".to_string())?
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // A panic was printed by the thread itself.
            let _ = thread.join();
        }
    }
}

/// What lives on the worker's thread.
struct Bench {
    engine: Box<dyn Engine>,
    slots: Vec<SlotId>,
    inputs: Arc<Inputs>,
    clock: Clock,
    /// The request that comes next.
    next: usize,
    /// Requests that are filled, then run: so many that reading clocks does not count.
    group: usize,
}

impl Bench {
    fn new(model: &Prepared, inputs: &Arc<Inputs>, batch: usize, cpu: Option<usize>) -> Result<Bench, String> {
        if let Some(cpu) = cpu {
            let mut set = rustix::thread::CpuSet::new();
            set.set(cpu);
            rustix::thread::sched_setaffinity(None, &set).map_err(|error| format!("CPU {cpu}: {error}"))?;
        }
        let layout = model.layout();
        let ids = layout.context.fixed_ids.max(batch * layout.candidate.fixed_ids).max(1);
        let limits = SlotLimits { contexts: 1, rows: batch, ids };
        let mut engine = new_engine(model.kind()).map_err(|error| error.to_string())?;
        let slots = engine.attach(model, GROUP_MAX, limits).map_err(|error| error.to_string())?;
        let mut bench = Bench { engine, slots, inputs: Arc::clone(inputs), clock: Clock::start(), next: 0, group: 1 };
        let mut fastest = u64::MAX;
        for _ in 0..5 {
            bench.fill(0)?;
            let moment = Moment::now();
            bench.run(0)?;
            fastest = fastest.min(moment.elapsed().wall_ns);
        }
        bench.group = (GROUP_NS / fastest.max(1)).clamp(1, GROUP_MAX as u64) as usize;
        Ok(bench)
    }

    fn obey(&mut self, order: &Order) -> Result<Report, String> {
        match order {
            Order::Score(sets) => self.score(*sets).map(Report::Scores),
            Order::Round { time, calls, start } => {
                start.wait();
                self.round(*time, *calls).map(Report::Round)
            }
        }
    }

    fn fill(&mut self, slot: usize) -> Result<(), String> {
        let set = self.next % self.inputs.sets();
        self.next += 1;
        self.inputs.fill(set, self.engine.slot(self.slots[slot]))
    }

    /// As a shard runs a batch: in steps of at most about 200 µs.
    fn run(&mut self, slot: usize) -> Result<(), String> {
        self.engine.start(self.slots[slot]);
        loop {
            match self.engine.step(&self.clock, self.clock.now() + STEP) {
                Step::Pending => {}
                Step::Done(_) => return Ok(()),
                Step::Failed(_) | Step::Idle => return Err("the engine failed to compute a batch".into()),
            }
        }
    }

    fn score(&mut self, sets: usize) -> Result<Vec<f32>, String> {
        let mut scores = Vec::new();
        self.next = 0;
        for _ in 0..sets {
            self.fill(0)?;
            self.run(0)?;
            scores.extend_from_slice(self.engine.slot(self.slots[0]).scores(0));
        }
        Ok(scores)
    }

    fn round(&mut self, time: Duration, calls: usize) -> Result<Round, String> {
        let mut round = Round::default();
        let mut groups = Vec::new();
        let begun = Instant::now();
        while round.calls < calls || begun.elapsed() < time {
            let moment = Moment::now();
            (0..self.group).try_for_each(|slot| self.fill(slot))?;
            round.copy += moment.elapsed();
            let moment = Moment::now();
            (0..self.group).try_for_each(|slot| self.run(slot))?;
            let spent = moment.elapsed();
            round.compute += spent;
            round.calls += self.group;
            groups.push(spent.wall_ns / self.group as u64);
        }
        groups.sort_unstable();
        round.median_ns = groups[groups.len() / 2];
        Ok(round)
    }
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, more: Spent) {
        self.wall_ns += more.wall_ns;
        self.cpu_ns += more.cpu_ns;
    }
}

/// A shard's turn.
const STEP: Span = Span::from_us(200);
/// Slots of a worker.
const GROUP_MAX: usize = 16;
/// Requests are grouped up to about this time.
const GROUP_NS: u64 = 100_000;
