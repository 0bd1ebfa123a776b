//! The CUDA engine: a model's own kernels, generated, compiled and launched on slots that the device reads where they lie.
//!
//! `docs/cuda.md` explains it. [`probe`] says which devices there are; the driver is opened at run time, a machine without it is no error.

#![allow(unsafe_code)] // calls of the driver, memory shared with a device

mod buckets;
mod calls;
mod choice;
pub mod compile;
mod device;
pub mod driver;
mod engine;
mod generate;
mod image;
mod inputs;
mod job;
mod kernels;
mod loaded;
mod measure;
mod permits;
mod prepare;
mod program;
mod slot;
mod tables;
#[cfg(test)]
pub(in crate::engine) mod tests;

pub use buckets::sizes_apart;
pub use calls::LaunchShape;
pub use choice::{LayerChoice, Trial, WayFound, WideLayers};
pub use device::{Device, DeviceOptions};
pub use driver::{DriverError, Gpu, GpuUnavailable, probe};
pub use engine::CudaEngine;
pub use generate::{LaunchWork, Numbers, Target, works};
pub use image::{Image, ImageError};
pub use job::{DevicePointer, Header, InputRows, Job};
pub use kernels::KernelFacts;
pub use loaded::Loaded;
pub use measure::Batches;
pub use prepare::{load, prepare};
pub use program::{DeviceTable, Launch, Needs, Over, Product, Program, RowsAt, RowsMemory, Variant, Way, WideLayer};
