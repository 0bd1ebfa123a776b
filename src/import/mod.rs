//! Models of other formats as bundles, offline: nothing here runs while a server serves.
//!
//! Absent on purpose: engines, sockets, flags. What is imported is judged by the reference interpreter.

pub mod onnx;

mod bundle_files;
