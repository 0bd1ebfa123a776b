//! The GPU, as far as this version goes: is there one, and what is it? The driver is opened at run time; a machine without it is no error.

#![allow(unsafe_code)] // calls of the driver

mod probe;

pub use probe::{Gpu, GpuUnavailable, probe};
