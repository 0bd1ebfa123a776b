//! A product that serves, for each number of rows that a graph is for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::engine::cuda::driver::{DriverError, Matmul};

/// The library is asked once per number of rows: all slots of a model compute alike, and what it refuses is told once.
#[derive(Debug)]
pub struct Matmuls {
    kernel: String,
    layer: String,
    chosen: Matmul,
    by_rows: Mutex<HashMap<usize, Option<Matmul>>>,
}

impl Matmuls {
    /// In place of a kernel, which computes the layer.
    pub fn new(kernel: &str, layer: &str, chosen: Matmul) -> Matmuls {
        Matmuls { kernel: kernel.to_owned(), layer: layer.to_owned(), chosen, by_rows: Mutex::default() }
    }

    /// The product of so many rows; `None` where the library has no way to multiply them, which is logged the first time. Errors: the device's.
    pub fn for_rows(&self, rows: usize) -> Result<Option<Matmul>, DriverError> {
        let mut by_rows = self.by_rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_rows.get(&rows) {
            return Ok(known.clone());
        }
        let made = match self.chosen.for_rows(rows) {
            Ok(matmul) => Some(matmul),
            Err(error) if error.is_of_library() => {
                let Matmuls { kernel, layer, .. } = self;
                tracing::warn!(
                    kernel,
                    "layer {layer} is computed by mma.sync in batches of up to {rows} candidates, not by cuBLASLt: {error}"
                );
                None
            }
            Err(error) => return Err(error),
        };
        by_rows.insert(rows, made.clone());
        Ok(made)
    }
}
