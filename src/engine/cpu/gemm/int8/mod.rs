//! Products in 8-bit integers: `out = activation(x · weight + bias)` with `x` quantised row by row while it runs, weights quantised at load.
//!
//! - **Activations**: a row gets codes 0 to 255 (127 where the CPU's multiplier would saturate) that reach from its least element to its
//!   greatest: nothing is calibrated, and after a ReLU all codes are in use. Where a layer reads parts of different range side by side, each
//!   part (a [`Range`]) has a scale of its own.
//! - **Weights**: codes -127 to 127, a scale per range and column.
//! - Sums of a range are exact integers; ranges, bias and addend are added in f32.
//!
//! **A row's result does not depend on its neighbours**: its codes come from that row alone, integer sums are exact in any order, and ranges are
//! added in order.

mod block;
mod observe;
mod pack;
mod portable;
mod quantize;
#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(test)]
mod tests;

pub use block::{Dot, Geometry, Range};
pub use observe::{Largest, Observe};
pub use pack::{Int8Matrix, ranges, row_bytes};

use std::sync::Arc;

use super::layer::{Block, Packed, PackedLinear};
use crate::engine::cpu::memory::Place;
use crate::engine::cpu::tile::Tile;

use self::block::{Codes, product};
use self::quantize::quantize_row;

/// Rows to codes and scales.
#[derive(Debug)]
pub struct Quantize {
    /// Operand, `[inner][k]` per row.
    pub x: Place,
    /// Quantised rows, `[inner][row_bytes]`, in memory of f32 elements.
    pub out: Place,
    /// What each of the `k` inputs is multiplied with first.
    pub factors: Arc<Vec<f32>>,
    /// Of the `k` inputs.
    pub ranges: Vec<Range>,
    /// Largest code.
    pub levels: u8,
    /// Rows of the product per row of the tile.
    pub inner: usize,
}

impl Quantize {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let (x, mut out) = (tile.source::<f32>(&self.x), tile.target::<f32>(&self.out));
        let (k, bytes) = (self.x.len / self.inner, row_bytes(&self.ranges));
        for row in 0..tile.rows {
            let out: &mut [u8] = bytemuck::cast_slice_mut(out.row(row));
            for (x, out) in x.row(row).chunks_exact(k).zip(out.chunks_exact_mut(bytes)) {
                quantize_row(tile.simd, x, &self.factors, &self.ranges, self.levels, out);
            }
        }
    }

    /// About how long a row takes.
    pub fn ns_per_row(&self) -> f32 {
        let ranges = self.ranges.len() as f32 * 6.0;
        (10.0 + ranges) * self.inner as f32 + self.x.len as f32 * 0.08
    }
}

/// A quantised matrix and what multiplies it.
#[derive(Debug)]
pub struct Int8Weights {
    /// The codes.
    pub matrix: Arc<Int8Matrix>,
    /// Instructions; of the matrix's level.
    pub dot: Dot,
}

/// A linear layer over what [`Quantize`] made of its operand.
pub type Int8Linear = PackedLinear<Int8Weights>;

impl Packed for Int8Weights {
    type View<'b> = Codes<'b>;

    fn columns(&self) -> usize {
        self.matrix.n
    }

    fn padded(&self) -> usize {
        self.matrix.padded
    }

    fn panel(&self) -> usize {
        self.matrix.panel
    }

    fn row_elements(&self) -> usize {
        self.matrix.row_bytes() / size_of::<f32>()
    }

    fn macs(&self) -> usize {
        self.matrix.quads * 4 + EPILOGUE * self.matrix.ranges.len()
    }

    fn macs_per_ns(&self) -> usize {
        self.dot.macs_per_ns()
    }

    fn rows_most(&self) -> usize {
        self.dot.rows()
    }

    fn view(&self, panel: usize) -> Codes<'_> {
        self.matrix.codes_from(panel)
    }

    unsafe fn product(&self, block: &Block<Codes>) {
        // SAFETY: the caller's promise: rows of `a` are those that `Quantize` wrote for these ranges, with codes for this `dot`; the codes were
        // packed for its level.
        unsafe { product(self.dot, block) }
    }
}

/// A range's part of the epilogue, in multiply-adds of a column: for planning only.
const EPILOGUE: usize = 32;
