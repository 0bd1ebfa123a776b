//! Counters and histograms: one set of cells per shard, merged at scrape.
//!
//! ```text
//!   shard k ── ShardCells ──▶ relaxed stores, one writer per cell, own cache lines
//!   scrape ── Registry::snapshot ──▶ sums the shards ── CellCollector ──▶ Prometheus' text format
//! ```
//! Invariant: one writer per cell; no lock, allocation or label lookup on a shard's way. Labels are bounded: models that are loaded, outcomes
//! of the protocol's table, shards. Never a client, never a request.

mod cell;
mod collector;
mod histogram;
mod outcome;
mod process;
mod registry;
mod shard;

pub use cell::{Counter, Gauge};
pub use collector::{CONTENT_TYPE, CellCollector, encode};
pub use histogram::{Candidates, Counts, Histogram, Nanoseconds, Scale};
pub use outcome::Outcome;
pub use registry::{ModelLabel, ModelTotals, Registry, ShardTotals, SlotsTaken, Snapshot};
pub use shard::{Cells, ModelCells, ModelSlot, Rule, ShardCells};
