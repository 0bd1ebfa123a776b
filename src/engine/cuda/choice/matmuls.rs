//! A product that serves, for each number of rows that a graph is for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::engine::cuda::driver::Matmul;

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

    /// The product of so many rows; `None` where the library cannot multiply them in the chosen way, which is logged the first time.
    pub fn for_rows(&self, rows: usize) -> Option<Matmul> {
        let mut by_rows = self.by_rows.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || match self.chosen.for_rows(rows) {
            Ok(matmul) => Some(matmul),
            Err(error) => {
                let Matmuls { kernel, layer, .. } = self;
                tracing::warn!(
                    kernel,
                    "layer {layer} is computed by mma.sync, not by cuBLASLt, in the graph for {rows} candidates: {error}"
                );
                None
            }
        };
        by_rows.entry(rows).or_insert_with(make).clone()
    }
}
