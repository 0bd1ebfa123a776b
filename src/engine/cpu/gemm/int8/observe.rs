//! How large a layer's inputs get: looked at while a plan is made, never while serving.

use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::tile::Tile;

/// Largest magnitude of each of `k` inputs so far.
pub type Largest = Arc<Mutex<Vec<f32>>>;

/// Takes the rows of a tile into account.
#[derive(Debug)]
pub struct Observe {
    /// Rows, `[inner][k]` each.
    pub x: Place,
    /// Of `k` inputs.
    pub largest: Largest,
}

impl Observe {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let x = tile.source::<f32>(&self.x);
        let mut largest = self.largest.lock().unwrap_or_else(PoisonError::into_inner);
        for row in 0..tile.rows {
            for x in x.row(row).chunks_exact(largest.len().max(1)) {
                largest.iter_mut().zip(x).for_each(|(largest, x)| *largest = largest.max(x.abs()));
            }
        }
    }
}
