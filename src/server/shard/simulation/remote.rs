//! An engine whose batches go on without the shard, as a device's do: done after so many looks, or while the shard sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::batch::{Slot, SlotLimits};
use crate::engine::{Engine, EngineError, Prepared, Step, Wake};
use crate::units::{Clock, Instant, SlotId};

/// What the simulation sees of it.
#[derive(Debug, Default)]
pub struct Remote {
    /// It will ring when a batch is done.
    armed: AtomicBool,
    /// It has rung, or a moment has come in which it would have.
    done: AtomicBool,
    slept: AtomicUsize,
}

impl Remote {
    /// The shard sleeps over so many batches until one is done.
    pub fn sleep(&self, in_flight: usize) {
        if in_flight > 0 {
            assert!(self.armed.swap(false, Ordering::Relaxed), "a shard that sleeps over a batch is woken");
            self.done.store(true, Ordering::Relaxed);
            self.slept.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often it slept over batches.
    pub fn slept(&self) -> usize {
        self.slept.load(Ordering::Relaxed)
    }

    /// Rings nobody: the simulation turns the shard anyway.
    pub fn wake(&self) -> Wake {
        Arc::new(|| {})
    }
}

/// Computes at once, by another engine, and tells later.
pub struct RemoteEngine {
    inner: Box<dyn Engine>,
    remote: Arc<Remote>,
    flights: Vec<(SlotId, usize)>,
    started: usize,
    wake: Option<Wake>,
}

impl RemoteEngine {
    pub fn new(inner: Box<dyn Engine>, remote: Arc<Remote>, seed: u64) -> RemoteEngine {
        RemoteEngine { inner, remote, flights: Vec::new(), started: seed as usize, wake: None }
    }
}

impl Engine for RemoteEngine {
    fn attach(&mut self, model: &Prepared, slots: usize, limits: SlotLimits) -> Result<Vec<SlotId>, EngineError> {
        self.inner.attach(model, slots, limits)
    }

    fn detach(&mut self, slots: &[SlotId]) {
        self.inner.detach(slots);
    }

    fn slot(&mut self, id: SlotId) -> &mut Slot {
        assert!(!self.flights.iter().any(|(slot, _)| *slot == id), "a slot in flight belongs to the engine");
        self.inner.slot(id)
    }

    fn start(&mut self, id: SlotId) {
        assert!(self.flights.len() < 2);
        self.inner.start(id);
        while self.inner.step(&Clock::start(), Instant::NEVER) == Step::Pending {}
        self.started += 1;
        // Some are done at the first look, some not before the shard sleeps.
        self.flights.push((id, self.started * 7 % 40));
    }

    fn step(&mut self, _: &Clock, _: Instant) -> Step {
        if self.remote.done.swap(false, Ordering::Relaxed) {
            self.flights.iter_mut().take(1).for_each(|(_, looks)| *looks = 0);
        }
        if let Some(at) = self.flights.iter().position(|(_, looks)| *looks == 0) {
            return Step::Done(self.flights.remove(at).0);
        }
        self.flights.iter_mut().for_each(|(_, looks)| *looks -= 1);
        if self.flights.is_empty() { Step::Idle } else { Step::Pending }
    }

    fn in_flight(&self) -> usize {
        self.flights.len()
    }

    fn capacity(&self) -> usize {
        2
    }

    fn works_in_steps(&self) -> bool {
        false
    }

    fn wake_with(&mut self, wake: Wake) {
        self.wake = Some(wake);
    }

    fn may_sleep(&mut self) -> bool {
        let may = self.flights.iter().all(|(_, looks)| *looks > 0) && self.wake.is_some();
        self.remote.armed.store(may && !self.flights.is_empty(), Ordering::Relaxed);
        may
    }
}
