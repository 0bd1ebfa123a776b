//! Layout of a batch in memory: what a slot holds, how rows are checked and copied into it.
//!
//! Invariant: a row in a slot is valid. Ids are below their table's rows (or [`NO_ROW`]), lengths within their limits, NaN only where a rule
//! allows it: engines index without asking. Absent on purpose: FlatBuffers, sockets, engines.

mod admit;
mod arena;
mod layout;
mod slot;
pub mod status;
#[cfg(test)]
mod tests;

pub use admit::{Blocks, Fault, FaultKind, Request, admit, measure};
pub use arena::{Arena, Piece};
pub use layout::{DenseRun, IdField, IdTarget, Layout, ScopeLayout};
pub use slot::{Counts, Draft, Full, Inputs, Need, Rows, RowsMut, ScopeMap, Segment, Slot, SlotLimits, SlotMap, Starts};

/// In the ids of a slot: no row. Contributes nothing to a bag and is not counted by `mean`.
pub const NO_ROW: u32 = u32::MAX;
