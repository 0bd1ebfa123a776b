//! The CUDA engine: a model's own kernels, generated, compiled and launched on slots that the device reads where they lie.
//!
//! `docs/cuda.md` explains it. [`probe`] says which devices there are; the driver is opened at run time, a machine without it is no error.

#![allow(unsafe_code)] // calls of the driver, memory shared with a device

pub mod compile;
mod generate;
mod job;
mod probe;
mod program;

pub use generate::{Numbers, Target};
pub use job::{DevicePointer, Header, InputRows, Job};
pub use probe::{Gpu, GpuUnavailable, probe};
pub use program::{Launch, Needs, Over, Program, Variant};
