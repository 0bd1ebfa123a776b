//! Products with weights held as 16-bit floats and widened as they are read; activations and sums are f32.
//!
//! Half of the bytes: where few rows meet weights that no near cache holds, reading them is what takes the time. With many rows the widening is
//! shared by all of them, and the product costs what it does in f32.
//!
//! **A row's result does not depend on its neighbours**, for the reason that [`super`] names: one chain of multiply-adds per element.

#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use half::f16;

use super::int8::{Dot, Geometry};
use super::{ADDENDS, Activation, UNIT_NS, Unit};
use crate::engine::EngineError;
use crate::engine::cpu::kernels::unary::sigmoid_in_place;
use crate::engine::cpu::memory::{self, Place};
use crate::engine::cpu::simd::{Simd, SimdLevel};
use crate::engine::cpu::tile::Tile;

/// A level whose instructions widen 16-bit floats, on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widening(SimdLevel);

impl Widening {
    /// At this level, if the CPU can.
    pub fn of(simd: Simd) -> Option<Widening> {
        match simd.level() {
            SimdLevel::Portable => None,
            #[cfg(target_arch = "x86_64")]
            level @ (SimdLevel::Avx2 | SimdLevel::Avx512) => is_x86_feature_detected!("f16c").then_some(Widening(level)),
            #[cfg(not(target_arch = "x86_64"))]
            SimdLevel::Avx2 | SimdLevel::Avx512 => None,
        }
    }

    /// As in reports.
    pub fn name(self) -> &'static str {
        match self.0 {
            SimdLevel::Avx512 => "avx512, widened",
            _ => "f16c, widened",
        }
    }

    /// Most rows that a micro-kernel takes at once, and multiply-adds per nanosecond to expect (for planning only).
    fn speed(self) -> (usize, usize) {
        if self.0 == SimdLevel::Avx512 { (14, 48) } else { (6, 24) }
    }
}

/// A matrix of 16-bit floats, packed as panels `[k][width]`; columns behind `n` are zero.
pub struct HalfMatrix {
    /// Inner size.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Columns with the padding of the last panel.
    pub padded: usize,
    widening: Widening,
    geometry: Geometry,
    numbers: memory::Block,
}

impl fmt::Debug for HalfMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HalfMatrix").field("k", &self.k).field("n", &self.n).finish_non_exhaustive()
    }
}

impl HalfMatrix {
    /// Rounds `weight(k, n)`; what is too large for 16 bits becomes infinite.
    pub fn new(widening: Widening, k: usize, n: usize, weight: impl Fn(usize, usize) -> f32) -> Result<HalfMatrix, EngineError> {
        let geometry = Dot::geometry(widening.0);
        let padded = n.next_multiple_of(geometry.vector);
        let mut numbers = memory::Block::zeroed("packed weights", k * padded * size_of::<u16>())?;
        let packed = numbers.as_mut_slice::<u16>();
        for column in 0..n {
            let first = column / geometry.panel * geometry.panel;
            let width = geometry.panel.min(padded - first);
            let panel = packed[first * k + column - first..].iter_mut().step_by(width);
            panel.take(k).enumerate().for_each(|(at, number)| *number = f16::from_f32(weight(at, column)).to_bits());
        }
        Ok(HalfMatrix { k, n, padded, widening, geometry, numbers })
    }

    /// Number of panels.
    pub fn panels(&self) -> usize {
        self.n.div_ceil(self.geometry.panel)
    }

    /// Bytes of its numbers.
    pub fn bytes(&self) -> usize {
        self.k * self.padded * size_of::<u16>()
    }

    fn from_panel(&self, panel: usize) -> &[u16] {
        &self.numbers.as_slice()[(panel * self.geometry.panel).min(self.padded) * self.k..]
    }
}

/// Operands of a product over `n` columns that begin a panel. Strides count elements.
#[derive(Clone, Copy)]
struct Block {
    m: usize,
    n: usize,
    k: usize,
    a: *const f32,
    a_stride: usize,
    /// Packed panels, one behind the other.
    b: *const u16,
    c: *mut f32,
    c_stride: usize,
    /// One per column, padded to whole vectors.
    bias: *const f32,
    /// Null, or for each of the `m` rows where its `n` addends lie.
    addends: *const *const f32,
    relu: bool,
}

/// A linear layer over weights of 16 bits.
#[derive(Debug)]
pub struct HalfLinear {
    /// Operand, `[inner][k]` per row.
    pub x: Place,
    /// Result, `[inner][n]` per row.
    pub out: Place,
    /// The weights.
    pub matrix: Arc<HalfMatrix>,
    /// Per column, padded as the matrix.
    pub bias: Vec<f32>,
    /// Added beside the bias: `[n]` per row, or `[inner][n]`.
    pub addend: Option<Place>,
    /// Of the result.
    pub activation: Activation,
    /// Rows of the product per row of the tile.
    pub inner: usize,
}

impl HalfLinear {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        self.block(tile, 0, self.matrix.panels());
    }

    /// Runs one unit of about [`UNIT_NS`] and says where the next one starts, if there is one, and about how many nanoseconds it took.
    pub fn run_unit(&self, tile: &Tile, unit: Unit) -> (Option<Unit>, u64) {
        let (most, macs_per_ns) = self.matrix.widening.speed();
        let budget = UNIT_NS * macs_per_ns;
        let macs_per_row = (self.matrix.k * self.inner * self.matrix.geometry.panel).max(1);
        let panels = self.matrix.panels();
        if unit.row == 0 && macs_per_row * tile.rows <= budget {
            let count = (budget / (macs_per_row * tile.rows)).min(panels - unit.panel);
            self.block(tile, unit.panel, count);
            let next = unit.panel + count;
            return ((next < panels).then_some(Unit { panel: next, row: 0 }), (macs_per_row * tile.rows * count / macs_per_ns) as u64);
        }
        // One panel over some rows: in whole micro-kernels where that is possible.
        let rows = budget / macs_per_row;
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
        let (matrix, column) = (&*self.matrix, panel * self.matrix.geometry.panel);
        let n = (panels * matrix.geometry.panel).min(matrix.n - column);
        let (x, mut out) = (tile.source::<f32>(&self.x), tile.target::<f32>(&self.out));
        let addends = self.addend.as_ref().map(|place| tile.source::<f32>(place));
        assert!(self.bias.len() == matrix.padded && matrix.k * self.inner == self.x.len, "operands of the layer");
        // Rows of the tile that are one block: all of them, or each with its inner rows.
        let (groups, m) = if self.inner == 1 { (1, tile.rows) } else { (tile.rows, self.inner) };
        let (a_stride, c_stride) = if self.inner == 1 { (self.x.stride, self.out.stride) } else { (matrix.k, matrix.n) };
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
                    k: matrix.k,
                    a: x.row_ptr(group).wrapping_add(first * a_stride),
                    a_stride,
                    b: matrix.from_panel(panel).as_ptr(),
                    c: out.row_ptr(group).wrapping_add(first * c_stride + column),
                    c_stride,
                    bias: self.bias[column..].as_ptr(),
                    addends: if addends.is_some() { addresses.as_ptr() } else { std::ptr::null() },
                    relu: self.activation == Activation::Relu,
                };
                // SAFETY: rows of `a` and `c` are those of the places, as long as was checked above; panels and bias from `column` on are the
                // matrix's, padded to whole vectors; addends are rows of their place; the plan keeps `c` apart from what is read.
                unsafe { product(matrix.widening, &block) };
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

/// # Safety
/// - `a`: `m` rows of `k` elements; `c`: `m` rows of `n` elements, written here; overlaps nothing that is read.
/// - `b`: packed for this level, `k` rows of `n` columns padded to whole vectors in the last panel; `bias` as long as the padded columns.
/// - `addends`: null, or `m` addresses of `n` elements.
unsafe fn product(widening: Widening, block: &Block) {
    match widening.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promise; a `Widening` of this level exists only where the CPU has its instructions.
        SimdLevel::Avx512 => unsafe { simd::avx512::product(block) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        SimdLevel::Avx2 => unsafe { simd::avx2::product(block) },
        _ => {
            let _ = block;
            unreachable!("no `Widening` of other levels is made")
        }
    }
}
