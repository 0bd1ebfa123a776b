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
#[cfg(target_arch = "x86_64")]
pub(super) use simd::{load_8, load_16, store_8, store_16};

use std::sync::Arc;

use super::{ADDENDS, Activation, UNIT_NS, Unit};
use crate::engine::cpu::kernels::unary::sigmoid_in_place;
use crate::engine::cpu::memory::Place;
use crate::engine::cpu::tile::Tile;

use self::block::{Block, product};
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

/// A linear layer over quantised rows.
#[derive(Debug)]
pub struct Int8Linear {
    /// What [`Quantize`] made of the operand.
    pub x: Place,
    /// Result, `[inner][n]` per row.
    pub out: Place,
    /// The weights.
    pub matrix: Arc<Int8Matrix>,
    /// Instructions; of the matrix's level.
    pub dot: Dot,
    /// Per column, padded as the matrix.
    pub bias: Vec<f32>,
    /// Added beside the bias: `[n]` per row, or `[inner][n]`.
    pub addend: Option<Place>,
    /// Of the result.
    pub activation: Activation,
    /// Rows of the product per row of the tile.
    pub inner: usize,
}

impl Int8Linear {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        self.block(tile, 0, self.matrix.panels());
    }

    /// Runs one unit of about [`UNIT_NS`] and says where the next one starts, if there is one, and about how many nanoseconds it took.
    pub fn run_unit(&self, tile: &Tile, unit: Unit) -> (Option<Unit>, u64) {
        let macs_per_ns = self.dot.macs_per_ns();
        let budget = UNIT_NS * macs_per_ns;
        let macs_per_row = ((self.matrix.quads * 4 + EPILOGUE * self.matrix.ranges.len()) * self.inner * self.matrix.panel).max(1);
        let panels = self.matrix.panels();
        if unit.row == 0 && macs_per_row * tile.rows <= budget {
            let count = (budget / (macs_per_row * tile.rows)).min(panels - unit.panel);
            self.block(tile, unit.panel, count);
            let next = unit.panel + count;
            return ((next < panels).then_some(Unit { panel: next, row: 0 }), (macs_per_row * tile.rows * count / macs_per_ns) as u64);
        }
        // One panel over some rows: in whole micro-kernels where that is possible.
        let (rows, most) = (budget / macs_per_row, self.dot.rows());
        let rows = if rows > most { rows - rows % most } else { most.min(rows.max(1)) };
        let rows = rows.min(tile.rows - unit.row);
        self.block(&tile.part(unit.row, rows), unit.panel, 1);
        let next = if unit.row + rows < tile.rows {
            Some(Unit { panel: unit.panel, row: unit.row + rows })
        } else {
            (unit.panel + 1 < panels).then_some(Unit { panel: unit.panel + 1, row: 0 })
        };
        (next, (macs_per_row * rows / macs_per_ns) as u64)
    }

    fn block(&self, tile: &Tile, panel: usize, panels: usize) {
        let (matrix, column) = (&self.matrix, panel * self.matrix.panel);
        let n = (panels * matrix.panel).min(matrix.n - column);
        let (x, mut out) = (tile.source::<f32>(&self.x), tile.target::<f32>(&self.out));
        let addends = self.addend.as_ref().map(|place| tile.source::<f32>(place));
        let a_stride = if self.inner == 1 { self.x.stride * 4 } else { matrix.row_bytes() };
        let c_stride = if self.inner == 1 { self.out.stride } else { matrix.n };
        assert!(self.bias.len() == matrix.padded && matrix.row_bytes() * self.inner == self.x.len * 4, "operands of the layer");
        // Rows of the tile that are one block: all of them, or each with its inner rows.
        let (groups, m) = if self.inner == 1 { (1, tile.rows) } else { (tile.rows, self.inner) };
        let mut addresses = [std::ptr::null(); ADDENDS];
        for group in 0..groups {
            for first in (0..m).step_by(ADDENDS) {
                let rows = ADDENDS.min(m - first);
                if let Some(addends) = &addends {
                    for (at, address) in addresses[..rows].iter_mut().enumerate() {
                        let (row, inner) = if self.inner == 1 { (first + at, 0) } else { (group, first + at) };
                        let inner = if addends.width() == matrix.n { 0 } else { inner };
                        *address = addends.row_ptr(row).wrapping_add(inner * matrix.n + column);
                    }
                }
                let block = Block {
                    m: rows,
                    n,
                    ranges: &matrix.ranges,
                    quads: matrix.quads,
                    a: x.row_ptr(group).cast::<u8>().wrapping_add(first * a_stride),
                    a_stride,
                    b: matrix.from_panel(panel).as_ptr(),
                    scales: matrix.scales[column..].as_ptr(),
                    lows: matrix.lows[column..].as_ptr(),
                    padded: matrix.padded,
                    bias: self.bias[column..].as_ptr(),
                    addends: if addends.is_some() { addresses.as_ptr() } else { std::ptr::null() },
                    c: out.row_ptr(group).wrapping_add(first * c_stride + column),
                    c_stride,
                    relu: self.activation == Activation::Relu,
                };
                // SAFETY: rows of `a` are those that `Quantize` wrote for these ranges, as long as was checked above, with codes for this `dot`;
                // panels, factors and bias from `column` on are the matrix's, padded to whole vectors; rows of `c` are those of the place;
                // addends are rows of their place, `n` elements from `column` on; the plan keeps `c` apart from what is read.
                unsafe { product(self.dot, &block) };
                if self.activation == Activation::Sigmoid {
                    for row in 0..rows {
                        // SAFETY: elements that `product` has just written.
                        let values = unsafe { std::slice::from_raw_parts_mut(block.c.add(row * c_stride), n) };
                        sigmoid_in_place(tile.simd, values);
                    }
                }
            }
        }
    }
}

/// A range's part of the epilogue, in multiply-adds of a column: for planning only.
const EPILOGUE: usize = 32;
