//! gavel: an inference server for ad ranking and bidding. `docs/architecture.md` is the map.

pub mod batch;
pub mod cli;
pub mod engine;
pub mod limits;
pub mod model;
pub mod reference;
pub mod units;
pub mod wire;
