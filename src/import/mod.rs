//! Models of other formats as bundles, offline: nothing here runs while a server serves.
//!
//! Absent on purpose: engines, sockets, flags. What is imported is judged by the reference interpreter; whoever has an engine
//! may judge the draft too, before it is published.

pub mod onnx;

mod bundle_files;
