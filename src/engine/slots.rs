//! What an engine keeps per slot, by the slot's number.

use std::io;
use std::sync::Arc;

use crate::batch::{Layout, Slot, SlotLimits};

use super::{EngineError, SlotId};

/// Slots by number; numbers of removed slots are given again.
pub struct Slots<T> {
    entries: Vec<Option<T>>,
}

impl<T> Slots<T> {
    /// None yet.
    pub fn new() -> Slots<T> {
        Slots { entries: Vec::new() }
    }

    /// Takes in `count` slots as `make` makes them; none if one cannot be made.
    pub fn add(&mut self, count: usize, mut make: impl FnMut() -> Result<T, EngineError>) -> Result<Vec<SlotId>, EngineError> {
        Ok(self.take_in((0..count).map(|_| make()).collect::<Result<Vec<T>, EngineError>>()?))
    }

    /// Takes in slots.
    pub fn take_in(&mut self, slots: Vec<T>) -> Vec<SlotId> {
        slots.into_iter().map(|slot| self.insert(slot)).collect()
    }

    /// Frees slots.
    pub fn remove(&mut self, slots: &[SlotId]) {
        for slot in slots {
            let entry = self.entries[slot.0 as usize].take();
            assert!(entry.is_some(), "a slot is given back once");
        }
    }

    /// What belongs to a slot.
    pub fn get(&mut self, id: SlotId) -> &mut T {
        self.entries[id.0 as usize].as_mut().expect("a slot that was given out and not back")
    }

    fn insert(&mut self, slot: T) -> SlotId {
        let free = self.entries.iter().position(Option::is_none).unwrap_or(self.entries.len());
        if free == self.entries.len() {
            self.entries.push(None);
        }
        self.entries[free] = Some(slot);
        SlotId(u16::try_from(free).expect("the configuration's check bounds models times slots"))
    }
}

/// Memory for a batch.
pub fn new_slot(layout: &Arc<Layout>, limits: SlotLimits) -> Result<Slot, EngineError> {
    Slot::new(Arc::clone(layout), limits).map_err(no_memory(layout, limits, 1))
}

/// Why there is no memory for so many slots.
pub fn no_memory(layout: &Layout, limits: SlotLimits, slots: usize) -> impl FnOnce(io::Error) -> EngineError {
    let SlotLimits { contexts, rows, ids } = limits;
    let count = if slots == 1 { "a slot".to_owned() } else { format!("{slots} slots") };
    let (what, bytes) =
        (format!("{count} of {rows} candidates, {contexts} requests and 2 x {ids} ids"), slots * Slot::bytes(layout, limits));
    move |source| EngineError::Memory { what, bytes, source }
}
