//! The driver's library as owned types: the only module that names the binding.
//!
//! Each type frees what it holds; each holds the [`Context`] that it belongs to. What is called while serving (`Graph::launch`, `Stream::is_done`,
//! `Stream::call`) allocates, locks and formats nothing here. Nothing panics: a library that is missing or too old is found out by [`open`] or [`Blas::open`], once.

#[cfg(feature = "cublaslt")]
mod blas;
#[cfg(not(feature = "cublaslt"))]
#[path = "blas_absent.rs"]
mod blas;
#[cfg(feature = "cublaslt")]
mod blas_functions;
mod context;
mod error;
mod event;
mod foreign;
mod functions;
mod graph;
mod library;
mod matmul_shape;
mod memory;
mod module;
mod properties;
mod stream;

pub use blas::{Blas, BlasUnavailable, Matmul};
pub use context::Context;
pub use error::DriverError;
pub use event::Event;
pub use graph::Graph;
pub use library::{Gpu, GpuUnavailable, open, probe};
pub use matmul_shape::MatmulShape;
pub use memory::{DeviceMemory, HostMemory, RegisteredMemory};
pub use module::{Function, Grid, Module};
pub use properties::Properties;
pub use stream::Stream;

use error::check;
