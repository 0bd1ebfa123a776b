//! Rows through an engine outside the server: for the selftest at load, `gavel check` and benches.

use crate::batch::{Slot, SlotLimits};
use crate::units::{Clock, Instant};

use super::{Engine, EngineError, Prepared, SlotId, Step, new_engine};

/// An engine with one slot.
pub struct Replay {
    engine: Box<dyn Engine>,
    slot: SlotId,
    clock: Clock,
}

/// The engine could not compute a batch; its log line says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine failed to compute a batch; its log line says why")]
pub struct BatchFailed;

impl Replay {
    /// An engine of the right kind for `model`, with one slot of this size.
    pub fn new(model: &Prepared, limits: SlotLimits) -> Result<Replay, EngineError> {
        let mut engine = new_engine(model.kind())?;
        let slot = engine.attach(model, 1, limits)?[0];
        Ok(Replay { engine, slot, clock: Clock::start() })
    }

    /// Clears the slot and lets `fill` write a batch into it.
    pub fn fill<E>(&mut self, fill: impl FnOnce(&mut Slot) -> Result<(), E>) -> Result<(), E> {
        let slot = self.engine.slot(self.slot);
        slot.clear();
        fill(slot)
    }

    /// Computes the batch in the slot, as often as asked; the scores are in the slot that is returned. Does not allocate.
    pub fn run(&mut self) -> Result<&Slot, BatchFailed> {
        self.engine.start(self.slot);
        loop {
            match self.engine.step(&self.clock, Instant::NEVER) {
                Step::Pending => {}
                Step::Done(_) => return Ok(self.engine.slot(self.slot)),
                Step::Failed(_) | Step::Idle => return Err(BatchFailed),
            }
        }
    }

    /// Runs batches until `fill` leaves the slot empty, and gives all scores, `[rows][outputs]` in the order in which rows were written.
    pub fn collect<E: From<BatchFailed>>(&mut self, mut fill: impl FnMut(&mut Slot) -> Result<(), E>) -> Result<Vec<f32>, E> {
        let mut scores = Vec::new();
        loop {
            self.fill(&mut fill)?;
            let slot = self.run()?;
            if slot.segments().is_empty() {
                return Ok(scores);
            }
            (0..slot.segments().len()).for_each(|segment| scores.extend_from_slice(slot.scores(segment)));
        }
    }
}
