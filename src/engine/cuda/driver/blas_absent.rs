//! In builds without the feature `cublaslt`: there is no such library.

use std::convert::Infallible;
use std::sync::Arc;

use super::matmul_shape::MatmulShape;
use super::{Context, DriverError, Stream};
use crate::engine::cuda::DevicePointer;

/// None.
#[derive(Debug)]
pub struct Blas(Infallible);

/// None.
#[derive(Clone, Debug)]
pub struct Matmul(Infallible);

/// Why it cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this gavel was built without the feature cublaslt")]
pub struct BlasUnavailable;

impl Blas {
    /// There is none.
    pub fn open(_: &Arc<Context>) -> Result<Arc<Blas>, BlasUnavailable> {
        Err(BlasUnavailable)
    }

    /// Of none.
    pub fn version(&self) -> usize {
        match self.0 {}
    }

    /// Of none.
    pub fn matmuls(self: &Arc<Blas>, _: &MatmulShape, _: usize) -> Result<Vec<Matmul>, DriverError> {
        match self.0 {}
    }
}

impl Matmul {
    /// Of none.
    pub fn for_rows(&self, _: usize) -> Result<Matmul, DriverError> {
        match self.0 {}
    }

    /// Of none.
    pub fn workspace_bytes(&self) -> usize {
        match self.0 {}
    }

    /// Of none.
    ///
    /// # Safety
    /// - nobody can call it.
    pub unsafe fn put(&self, _: &Stream, _: DevicePointer, _: DevicePointer, _: DevicePointer) -> Result<(), DriverError> {
        match self.0 {}
    }
}
