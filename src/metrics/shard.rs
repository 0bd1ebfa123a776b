//! The cells of one shard. The shard's thread is the only writer; the scrape reads.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use gavel_protocol::Code;

use super::cell::{Counter, Gauge};
use super::histogram::{Candidates, Histogram, Nanoseconds};
use super::outcome::Outcome;
use crate::units::Instant;

/// Where a model version counts: given out by [`super::Registry::register`], valid on every shard of that registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModelSlot(pub(super) u16);

/// A rule of the model that replaced a value of a request, left it out or handed it on as NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// An id at or above its table's rows.
    OutOfRange,
    /// The missing value.
    Missing,
    /// NaN in a dense feature.
    Nan,
}

impl Rule {
    /// All rules.
    pub const ALL: [Rule; 3] = [Rule::OutOfRange, Rule::Missing, Rule::Nan];

    /// The label.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::OutOfRange => "out_of_range",
            Rule::Missing => "missing",
            Rule::Nan => "nan",
        }
    }
}

/// What one shard counts for one model version.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ModelCells {
    outcomes: [Counter; Outcome::COUNT],
    rules: [Counter; Rule::ALL.len()],
    /// Candidates of requests that were answered with scores.
    pub candidates: Counter,
    /// Header read to answer queued, of requests answered with scores; ns.
    pub latency: Histogram<Nanoseconds>,
    /// Rows of each batch that the engine ran.
    pub batch: Histogram<Candidates>,
    /// Time spent in the engine; ns.
    pub engine_ns: Counter,
}

impl ModelCells {
    /// Requests that ended so.
    #[inline]
    pub fn outcome(&self, outcome: Outcome) -> &Counter {
        &self.outcomes[outcome.index()]
    }

    /// Values that this rule replaced.
    #[inline]
    pub fn rule(&self, rule: Rule) -> &Counter {
        &self.rules[rule as usize]
    }
}

/// What one shard counts beside its models. On cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub struct Cells {
    models: Box<[ModelCells]>,
    /// Errors answered before a model was known, by code.
    errors: [Counter; Outcome::COUNT],
    /// Connections now.
    pub connections: Gauge,
    /// Connections taken in so far.
    pub connections_opened: Counter,
    /// Connections that are over, those included that were dealt to the shard and not taken in: the acceptor's view of its load.
    pub connections_closed: Counter,
    /// Bytes received.
    pub received_bytes: Counter,
    /// Bytes handed to the wire.
    pub sent_bytes: Counter,
    /// Requests admitted and not yet answered.
    pub in_flight: Gauge,
    /// Candidates admitted that no engine has begun.
    pub queued_candidates: Gauge,
    /// Turns of the loop.
    pub turns: Counter,
    /// Times the shard went to sleep because nothing was to do.
    pub sleeps: Counter,
    /// Times another thread woke it.
    pub wakes: Counter,
    beat: Gauge,
}

impl Cells {
    /// The cells of a model.
    #[inline]
    pub fn model(&self, slot: ModelSlot) -> &ModelCells {
        &self.models[usize::from(slot.0)]
    }

    /// Errors with this code that were answered before a model was known (framing, unknown signature, limits of connections).
    #[inline]
    pub fn error(&self, code: Code) -> &Counter {
        &self.errors[Outcome::from(code).index()]
    }

    /// The loop is alive. To be called at least once a second, also when there is nothing to do.
    #[inline]
    pub fn beat(&self, now: Instant) {
        self.beat.set(now.0);
    }

    /// When the loop was last known to be alive.
    pub fn last_beat(&self) -> Instant {
        Instant(self.beat.get())
    }

    pub(super) fn models(&self) -> &[ModelCells] {
        &self.models
    }
}

/// The writer's handle: one per shard, moved into its thread. Cannot be shared between threads nor cloned, so every cell has one writer.
///
/// ```
/// # use gavel::metrics::{Outcome, Registry};
/// # use gavel::units::Clock;
/// # let registry = Registry::new(Clock::start(), 4);
/// # let model = registry.register("dlrm", 1, "sha256:..", 7).unwrap();
/// let cells = registry.add_shard();
/// cells.model(model).outcome(Outcome::OK).inc();
/// cells.model(model).latency.observe(180_000);
/// cells.received_bytes.add(4096);
/// ```
#[derive(Debug)]
pub struct ShardCells {
    cells: Arc<Cells>,
    not_sync: PhantomData<Cell<()>>,
}

impl ShardCells {
    /// Cells for so many model versions.
    pub fn new(models_max: usize) -> ShardCells {
        let cells = Cells {
            models: (0..models_max).map(|_| ModelCells::default()).collect(),
            errors: [const { Counter::new() }; Outcome::COUNT],
            connections: Gauge::default(),
            connections_opened: Counter::new(),
            connections_closed: Counter::new(),
            received_bytes: Counter::new(),
            sent_bytes: Counter::new(),
            in_flight: Gauge::default(),
            queued_candidates: Gauge::default(),
            turns: Counter::new(),
            sleeps: Counter::new(),
            wakes: Counter::new(),
            beat: Gauge::default(),
        };
        ShardCells { cells: Arc::new(cells), not_sync: PhantomData }
    }

    /// For readers in other threads.
    pub fn reader(&self) -> Arc<Cells> {
        Arc::clone(&self.cells)
    }
}

impl Deref for ShardCells {
    type Target = Cells;

    #[inline]
    fn deref(&self) -> &Cells {
        &self.cells
    }
}
