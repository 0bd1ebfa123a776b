//! Engines: each runs one model's batch behind one small trait.
//!
//! Contract, in order: [`Engine::attach`] gives a model its slots; rows are written into a slot (by [`crate::batch`]); [`Engine::start`] hands it
//! over; [`Engine::step`] is called until it says [`Step::Done`]; the scores are read from the slot, which is then cleared and filled again.
//! Steps are bounded (about 200 µs), so that a long batch does not stop the shard from reading, refusing and answering.
//! Absent on purpose: requests, deadlines, sockets.

use std::sync::Arc;

mod cpu;

use crate::batch::{Slot, SlotLimits};

use crate::units::{Clock, Instant};

/// A slot of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u16);

/// What [`Engine::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing in flight.
    Idle,
    /// Work remains.
    Pending,
    /// The scores of this slot are ready.
    Done(SlotId),
    /// This batch could not be computed; the cause was logged.
    Failed(SlotId),
}

/// One per shard.
pub trait Engine {
    /// Takes a prepared model in and makes `slots` slots for it. Control path: allocates.
    fn attach(&mut self, model: &Prepared, slots: usize, limits: SlotLimits) -> Result<Vec<SlotId>, EngineError>;
    /// Gives the slots of a model back. None of them may be in flight.
    fn detach(&mut self, slots: &[SlotId]);
    /// A slot that is not in flight: to fill, read or clear it.
    fn slot(&mut self, id: SlotId) -> &mut Slot;
    /// Runs a filled slot. At most [`Engine::capacity`] are in flight at once.
    fn start(&mut self, id: SlotId);
    /// Works until about `until`, by `clock`, or until a batch is done.
    fn step(&mut self, clock: &Clock, until: Instant) -> Step;
    /// Batches started and not done.
    fn in_flight(&self) -> usize;
    /// Batches it takes at once.
    fn capacity(&self) -> usize;
}

/// Why a model cannot be served by an engine. Start-up and reload only.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine does not run on this machine.
    #[error("{engine} engine: {reason}; {remedy}")]
    Unavailable {
        /// Which engine.
        engine: &'static str,
        /// Why not.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// Memory for slots, weights or workspace.
    #[error("out of memory: {what} needs {bytes} bytes: {source}")]
    Memory {
        /// For what.
        what: String,
        /// How much.
        bytes: usize,
        /// The system's error.
        source: std::io::Error,
    },
}

/// A model made ready for an engine, once per process: plan and packed weights, shared read-only by all shards.
#[derive(Clone)]
pub enum Prepared {
    /// For the CPU engine.
    Cpu(Arc<cpu::Program>),
}
