//! What it costs to have something done, and to know that it is.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gavel::engine::cuda::driver::{DriverError, Event, Grid, HostMemory};

use crate::report::Report;
use crate::rig::{Probe, Rig};

/// Kernels of a graph.
const GRAPHS: [usize; 4] = [1, 2, 5, 20];

/// Nothing that is waited for here takes as long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Launches of an empty kernel: what the CPU pays, and how soon it can know the end.
pub fn run(rig: &Rig, report: &mut Report) -> Result<(), DriverError> {
    let turns = rig.size(2000, 3);
    let small = Grid { threads: 32, ..rig.blocks(1) };
    let empty = Probe::default();
    // SAFETY: `nothing` uses no pointer.
    let launch = || unsafe { rig.launch("nothing", small, &empty) };
    for _ in 0..turns.min(100) {
        launch()?;
    }
    rig.stream.wait()?;

    let (mut submit, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        let began = Instant::now();
        launch()?;
        submit.push(microseconds(began));
        rig.stream.wait()?;
        whole.push(microseconds(began));
    }
    report.times("launch: CPU until it is submitted", submit);
    report.times("launch, then waiting for the stream", whole);

    let event = Event::new(&rig.context)?;
    let mut times = Vec::new();
    for _ in 0..turns {
        let began = Instant::now();
        launch()?;
        event.record(&rig.stream)?;
        while !event.is_done()? {}
        times.push(microseconds(began));
    }
    report.times("launch and event, then asking for the event", times);

    let flag = Flag::new(rig)?;
    let mut times = Vec::new();
    for number in 1..=turns as u32 {
        let began = Instant::now();
        // SAFETY: the flag lives until the stream is waited for.
        unsafe { rig.launch("raise", small, &Probe { flag: flag.memory.address(), value: number, ..Probe::default() })? };
        flag.wait(number);
        times.push(microseconds(began));
    }
    rig.stream.wait()?;
    report.times("launch, then looking at a word that it writes", times);

    for kernels in GRAPHS {
        let record = |number: u32| {
            rig.stream.capture(|stream| {
                for _ in 1..kernels {
                    // SAFETY: `nothing` uses no pointer.
                    unsafe { rig.launch_in(stream, "nothing", small, &empty)? };
                }
                let probe = Probe { flag: flag.memory.address(), value: number, ..Probe::default() };
                // SAFETY: the flag lives until the stream is waited for.
                unsafe { rig.launch_in(stream, "raise", small, &probe) }
            })
        };
        // Two graphs take turns, so that each writes a word that was not there before.
        let graphs = [record(1_000_001)?, record(1_000_002)?];
        for graph in &graphs {
            graph.launch(&rig.stream)?;
        }
        rig.stream.wait()?;
        let (mut submit, mut whole) = (Vec::new(), Vec::new());
        for turn in 0..turns {
            let began = Instant::now();
            graphs[turn % 2].launch(&rig.stream)?;
            submit.push(microseconds(began));
            flag.wait(1_000_001 + (turn % 2) as u32);
            whole.push(microseconds(began));
        }
        rig.stream.wait()?;
        report.times(&format!("graph of {kernels}: CPU until it is submitted"), submit);
        report.times(&format!("graph of {kernels}, then looking at a word"), whole);
    }
    Ok(())
}

/// A kernel that stays on the device, asked through host memory and answering there. The last of all facts: where it hangs, nothing follows.
pub fn resident(rig: &Rig, report: &mut Report) -> Result<(), DriverError> {
    let turns = rig.size(2000, 20) as u32;
    let (asked, flag) = (Flag::new(rig)?, Flag::new(rig)?);
    let probe = Probe { asked: asked.memory.address(), flag: flag.memory.address(), count: turns.into(), ..Probe::default() };
    // SAFETY: both words live until the stream is waited for.
    unsafe { rig.launch("answer", Grid { threads: 32, ..rig.blocks(1) }, &probe)? };
    let mut times = Vec::new();
    for number in 1..=turns {
        let began = Instant::now();
        asked.word().store(number, Ordering::Release);
        flag.wait(number);
        times.push(microseconds(began));
    }
    rig.stream.wait()?;
    report.times("a resident kernel: question and answer", times);
    Ok(())
}

/// A word of mapped host memory.
pub struct Flag {
    pub memory: HostMemory,
}

impl Flag {
    pub fn new(rig: &Rig) -> Result<Flag, DriverError> {
        let flag = Flag { memory: HostMemory::new(&rig.context, 256, false)? };
        flag.word().store(0, Ordering::Release);
        Ok(flag)
    }

    pub fn word(&self) -> &AtomicU32 {
        // SAFETY: the memory's first word, aligned, alive as long as `self`; the device writes it as one word.
        unsafe { AtomicU32::from_ptr(self.memory.as_ptr().cast()) }
    }

    /// Spins until the device writes `value`.
    pub fn wait(&self, value: u32) {
        let began = Instant::now();
        let mut looks = 0_u32;
        while self.word().load(Ordering::Acquire) != value {
            std::hint::spin_loop();
            looks += 1;
            assert!(!looks.is_multiple_of(1 << 20) || began.elapsed() < PATIENCE, "the device does not write {value}");
        }
    }
}

pub fn microseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}
