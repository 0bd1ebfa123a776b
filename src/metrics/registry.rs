//! Who counts: the shards' cells and the names of the models. Control path only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cell::Counter;
use super::histogram::Counts;
use super::outcome::Outcome;
use super::shard::{Cells, ModelSlot, Rule, ShardCells};
use crate::units::{Clock, Span};

/// All cells of the process.
///
/// Shared by control thread and main; shards hold only their [`ShardCells`] and never come here.
#[derive(Debug)]
pub struct Registry {
    clock: Clock,
    models_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    shards: Vec<Arc<Cells>>,
    /// One per model slot.
    models: Vec<Place>,
    io_backend: Option<&'static str>,
    gauges: Vec<(&'static str, &'static str, Source)>,
}

/// A number that is asked for at scrape.
#[derive(Clone)]
struct Source(Arc<dyn Fn() -> u64 + Send + Sync>);

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

#[derive(Debug, Default)]
struct Place {
    label: Option<ModelLabel>,
    /// What the cells held when the present model took them over.
    base: ModelTotals,
}

/// A model version's name in the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLabel {
    /// Public name.
    pub model: String,
    /// Version.
    pub version: String,
    /// Digest of its weights.
    pub digest: String,
    /// Signature, in hexadecimal.
    pub signature: String,
}

/// Every model slot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} model versions are served already: raise limits.models")]
pub struct SlotsTaken(pub usize);

/// What all shards counted for one model version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelTotals {
    /// In the order of [`Outcome::all`].
    pub outcomes: Vec<u64>,
    /// In the order of [`Rule::ALL`].
    pub rules: Vec<u64>,
    /// Candidates answered with scores.
    pub candidates: u64,
    /// Latency of requests answered with scores.
    pub latency: Counts,
    /// Rows of batches.
    pub batch: Counts,
    /// ns.
    pub engine_ns: u64,
}

/// One shard at scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardTotals {
    /// Connections now.
    pub connections: u64,
    /// Turns of its loop.
    pub turns: u64,
    /// Times it slept.
    pub sleeps: u64,
    /// Times it was woken.
    pub wakes: u64,
    /// Since its last sign of life.
    pub beat_age: Span,
}

/// Everything at one moment. Shards go on counting while it is taken: numbers of one request may lie on both sides.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Models by slot.
    pub models: Vec<(ModelLabel, ModelTotals)>,
    /// Shards in order.
    pub shards: Vec<ShardTotals>,
    /// Errors answered before a model was known, in the order of [`Outcome::all`] (`ok` stays zero).
    pub errors: Vec<u64>,
    /// Connections taken in.
    pub connections_opened: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes handed to the wire.
    pub sent_bytes: u64,
    /// Requests admitted and unanswered.
    pub in_flight: u64,
    /// Candidates that no engine has begun.
    pub queued_candidates: u64,
    /// What the sockets run on.
    pub io_backend: Option<&'static str>,
    /// Further gauges (name, help, value).
    pub gauges: Vec<(&'static str, &'static str, u64)>,
}

impl Registry {
    /// A registry for up to `models_max` model versions at once. `clock` is the one that the shards beat with.
    pub fn new(clock: Clock, models_max: usize) -> Arc<Registry> {
        let models_max = models_max.min(usize::from(u16::MAX));
        let inner = Inner { models: (0..models_max).map(|_| Place::default()).collect(), ..Inner::default() };
        Arc::new(Registry { clock, models_max, inner: Mutex::new(inner) })
    }

    /// Cells for the next shard. It counts as alive from now on.
    pub fn add_shard(&self) -> ShardCells {
        let shard = ShardCells::new(self.models_max);
        shard.beat(self.clock.now());
        self.lock().shards.push(shard.reader());
        shard
    }

    /// Gives a model version its cells. Error: all slots are taken.
    pub fn register(&self, model: &str, version: u64, digest: &str, signature: u64) -> Result<ModelSlot, SlotsTaken> {
        let mut inner = self.lock();
        let slot = inner.models.iter().position(|place| place.label.is_none()).ok_or(SlotsTaken(self.models_max))?;
        let base = inner.totals(slot);
        inner.models[slot] = Place {
            label: Some(ModelLabel {
                model: model.into(),
                version: version.to_string(),
                digest: digest.into(),
                signature: format!("{signature:016x}"),
            }),
            base,
        };
        Ok(ModelSlot(slot as u16))
    }

    /// The model version is gone: no shard counts for it any longer. Its series end; the slot may be given to another one.
    pub fn retire(&self, slot: ModelSlot) {
        if let Some(place) = self.lock().models.get_mut(usize::from(slot.0)) {
            place.label = None;
        }
    }

    /// What the sockets run on: `uring` or `epoll`.
    pub fn set_io_backend(&self, backend: &'static str) {
        self.lock().io_backend = Some(backend);
    }

    /// A further number, asked for at scrape. The name bears no prefix: `gavel_` is put in front. A name that ends in `_total` is a counter.
    pub fn add_source(&self, name: &'static str, help: &'static str, read: impl Fn() -> u64 + Send + Sync + 'static) {
        self.lock().gauges.push((name, help, Source(Arc::new(read))));
    }

    /// Sums the shards.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.clock.now();
        let inner = self.lock();
        let mut snapshot = Snapshot { errors: vec![0; Outcome::COUNT], io_backend: inner.io_backend, ..Snapshot::default() };
        for (slot, place) in inner.models.iter().enumerate() {
            if let Some(label) = &place.label {
                snapshot.models.push((label.clone(), inner.totals(slot).since(&place.base)));
            }
        }
        for cells in &inner.shards {
            snapshot.shards.push(ShardTotals {
                connections: cells.connections.get(),
                turns: cells.turns.get(),
                sleeps: cells.sleeps.get(),
                wakes: cells.wakes.get(),
                beat_age: now.since(cells.last_beat()),
            });
            for (total, code) in snapshot.errors.iter_mut().skip(1).zip(gavel_protocol::Code::ALL) {
                *total += cells.error(*code).get();
            }
            snapshot.connections_opened += cells.connections_opened.get();
            snapshot.received_bytes += cells.received_bytes.get();
            snapshot.sent_bytes += cells.sent_bytes.get();
            snapshot.in_flight += cells.in_flight.get();
            snapshot.queued_candidates += cells.queued_candidates.get();
        }
        let sources = inner.gauges.clone();
        drop(inner);
        snapshot.gauges = sources.into_iter().map(|(name, help, source)| (name, help, (source.0)())).collect();
        snapshot
    }

    /// Since each shard's last sign of life.
    pub fn beat_ages(&self) -> Vec<Span> {
        let now = self.clock.now();
        self.lock().shards.iter().map(|cells| now.since(cells.last_beat())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn totals(&self, slot: usize) -> ModelTotals {
        let mut total = ModelTotals { outcomes: vec![0; Outcome::COUNT], rules: vec![0; Rule::ALL.len()], ..ModelTotals::default() };
        for cells in self.shards.iter().filter_map(|shard| shard.models().get(slot)) {
            add(&mut total.outcomes, Outcome::all().map(|outcome| cells.outcome(outcome)));
            add(&mut total.rules, Rule::ALL.into_iter().map(|rule| cells.rule(rule)));
            total.candidates += cells.candidates.get();
            total.engine_ns += cells.engine_ns.get();
            cells.latency.add_to(&mut total.latency);
            cells.batch.add_to(&mut total.batch);
        }
        total
    }
}

impl ModelTotals {
    fn since(mut self, base: &ModelTotals) -> ModelTotals {
        for (now, before) in self.outcomes.iter_mut().zip(&base.outcomes).chain(self.rules.iter_mut().zip(&base.rules)) {
            *now = now.saturating_sub(*before);
        }
        self.candidates = self.candidates.saturating_sub(base.candidates);
        self.engine_ns = self.engine_ns.saturating_sub(base.engine_ns);
        self.latency = self.latency.since(&base.latency);
        self.batch = self.batch.since(&base.batch);
        self
    }

    /// Requests that ended so.
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome.index()]
    }
}

fn add<'a>(totals: &mut [u64], cells: impl Iterator<Item = &'a Counter>) {
    for (total, cell) in totals.iter_mut().zip(cells) {
        *total += cell.get();
    }
}

#[cfg(test)]
mod tests {
    use gavel_protocol::Code;

    use super::*;

    #[test]
    fn sums_over_shards() {
        let registry = Registry::new(Clock::start(), 2);
        let shards = [registry.add_shard(), registry.add_shard()];
        let model = registry.register("dlrm", 3, "d", 0xab).expect("a free slot");
        for (n, shard) in (1..).zip(&shards) {
            shard.model(model).outcome(Outcome::OK).add(n);
            shard.model(model).outcome(Code::Overloaded.into()).inc();
            shard.model(model).rule(Rule::Missing).add(2);
            shard.model(model).latency.observe(n * 100_000);
            shard.model(model).batch.observe(64);
            shard.model(model).candidates.add(64);
            shard.connections.set(n);
            shard.error(Code::BadMagic).inc();
            shard.in_flight.set(5);
        }
        let snapshot = registry.snapshot();
        let (label, totals) = &snapshot.models[0];
        assert_eq!((label.model.as_str(), label.version.as_str(), label.signature.as_str()), ("dlrm", "3", "00000000000000ab"));
        assert_eq!(totals.outcome(Outcome::OK), 3);
        assert_eq!(totals.outcome(Code::Overloaded.into()), 2);
        assert_eq!(totals.rules, [0, 4, 0]);
        assert_eq!((totals.candidates, totals.latency.count(), totals.batch.count()), (128, 2, 2));
        assert_eq!(snapshot.shards.iter().map(|shard| shard.connections).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((snapshot.errors[1], snapshot.errors.iter().sum::<u64>(), snapshot.in_flight), (2, 2, 10));
    }

    #[test]
    fn a_reused_slot_starts_at_zero() {
        let registry = Registry::new(Clock::start(), 1);
        let shard = registry.add_shard();
        let first = registry.register("a", 1, "d", 1).expect("a free slot");
        shard.model(first).outcome(Outcome::OK).add(10);
        shard.model(first).latency.observe(60_000);
        assert_eq!(registry.register("b", 1, "d", 2), Err(SlotsTaken(1)));
        registry.retire(first);
        assert!(registry.snapshot().models.is_empty());
        let second = registry.register("b", 1, "d", 2).expect("the slot is free again");
        shard.model(second).outcome(Outcome::OK).inc();
        let (_, totals) = &registry.snapshot().models[0];
        assert_eq!((totals.outcome(Outcome::OK), totals.latency.count()), (1, 0));
    }

    #[test]
    fn beats_age() {
        let clock = Clock::start();
        let registry = Registry::new(clock, 1);
        let shard = registry.add_shard();
        shard.beat(clock.now());
        let age = registry.beat_ages()[0];
        assert!(age < Span::from_ms(1_000), "{age:?}");
    }
}
