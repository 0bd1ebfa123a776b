//! The null engine: every score is 0, at once. What a server with it can do is what everything around an engine costs.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::batch::{Layout, Slot, SlotLimits};
use crate::model::Model;
use crate::units::{Clock, Instant};

use super::slots::{Slots, new_slot};
use super::{Engine, EngineError, Prepared, SlotId, Step};

/// A model for the null engine: its layout.
pub struct NullProgram {
    pub(super) model: Arc<Model>,
    pub(super) layout: Arc<Layout>,
}

impl NullProgram {
    /// Of a model.
    pub fn new(model: &Arc<Model>) -> NullProgram {
        let layout = Layout::new(&model.features, model.graph.outputs.len());
        NullProgram { model: Arc::clone(model), layout: Arc::new(layout) }
    }
}

/// Writes 0 as every score; each batch is done at its first step.
pub struct NullEngine {
    slots: Slots<Slot>,
    started: VecDeque<SlotId>,
}

impl NullEngine {
    /// An engine without models.
    pub fn new() -> NullEngine {
        NullEngine { slots: Slots::new(), started: VecDeque::with_capacity(CAPACITY) }
    }
}

impl Default for NullEngine {
    fn default() -> NullEngine {
        NullEngine::new()
    }
}

impl Engine for NullEngine {
    fn attach(&mut self, model: &Prepared, slots: usize, limits: SlotLimits) -> Result<Vec<SlotId>, EngineError> {
        let Prepared::Null(program) = model else {
            panic!("a model prepared for another engine");
        };
        self.slots.add(slots, || new_slot(&program.layout, limits))
    }

    fn detach(&mut self, slots: &[SlotId]) {
        assert!(!slots.iter().any(|slot| self.started.contains(slot)), "a slot in flight stays");
        self.slots.remove(slots);
    }

    fn slot(&mut self, id: SlotId) -> &mut Slot {
        assert!(!self.started.contains(&id), "a slot in flight belongs to the engine");
        self.slots.get(id)
    }

    fn start(&mut self, id: SlotId) {
        assert!(self.started.len() < CAPACITY, "no more than the capacity in flight");
        self.started.push_back(id);
    }

    fn step(&mut self, _: &Clock, _: Instant) -> Step {
        let Some(id) = self.started.pop_front() else { return Step::Idle };
        let (_, scores) = self.slots.get(id).run();
        scores.fill(0.0);
        Step::Done(id)
    }

    fn in_flight(&self) -> usize {
        self.started.len()
    }

    fn capacity(&self) -> usize {
        CAPACITY
    }
}

/// As the CPU engine, so that batching around it is the same.
const CAPACITY: usize = 1;
