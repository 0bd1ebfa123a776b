//! gavel: an inference server for ad ranking and bidding. `docs/architecture.md` is the map.

pub mod batch;
pub mod cli;
pub mod config;
pub mod connection;
pub mod engine;
pub mod import;
pub mod limits;
pub mod metrics;
pub mod model;
pub mod reference;
pub mod scheduler;
pub mod server;
pub mod synth;
pub mod units;
pub mod wire;
