//! Slots of an engine with the program that each belongs to.

use std::sync::Arc;

use crate::batch::{Layout, Slot, SlotLimits};

use super::{EngineError, SlotId};

/// Slots by number; numbers of removed slots are given again.
pub struct Slots<P> {
    entries: Vec<Option<(Slot, P)>>,
}

impl<P: Clone> Slots<P> {
    /// None yet.
    pub fn new() -> Slots<P> {
        Slots { entries: Vec::new() }
    }

    /// Makes `count` slots for `program`.
    pub fn add(&mut self, program: &P, layout: &Arc<Layout>, count: usize, limits: SlotLimits) -> Result<Vec<SlotId>, EngineError> {
        let mut made = Vec::with_capacity(count);
        for _ in 0..count {
            let slot = Slot::new(Arc::clone(layout), limits).map_err(|source| EngineError::Memory {
                what: format!("a slot of {} candidates, {} requests and 2 x {} ids", limits.rows, limits.contexts, limits.ids),
                bytes: Slot::bytes(layout, limits),
                source,
            });
            match slot {
                Ok(slot) => made.push(self.insert(slot, program.clone())),
                Err(error) => {
                    self.remove(&made);
                    return Err(error);
                }
            }
        }
        Ok(made)
    }

    /// Frees slots.
    pub fn remove(&mut self, slots: &[SlotId]) {
        for slot in slots {
            let entry = self.entries[slot.0 as usize].take();
            assert!(entry.is_some(), "a slot is given back once");
        }
    }

    /// A slot and its program.
    pub fn get(&mut self, id: SlotId) -> (&mut Slot, &P) {
        let entry = self.entries[id.0 as usize].as_mut();
        let (slot, program) = entry.expect("a slot that was given out and not back");
        (slot, program)
    }

    fn insert(&mut self, slot: Slot, program: P) -> SlotId {
        let free = self.entries.iter().position(Option::is_none).unwrap_or(self.entries.len());
        if free == self.entries.len() {
            self.entries.push(None);
        }
        self.entries[free] = Some((slot, program));
        SlotId(u16::try_from(free).expect("the configuration's check bounds models times slots"))
    }
}
