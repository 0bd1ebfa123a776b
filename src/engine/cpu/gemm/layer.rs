//! Linear layers whose weights have reduced precision: which rows and columns are multiplied at once, and where their operands lie.

use super::units::{Unit, Units};
use super::{ADDENDS, Activation};
use crate::engine::cpu::kernels::unary::sigmoid_in_place;
use crate::engine::cpu::memory::Place;
use crate::engine::cpu::tile::Tile;

/// Operands of a product over `n` columns that begin a panel. Strides count elements.
#[derive(Clone, Copy)]
pub struct Block<W> {
    /// Rows.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Rows of what is multiplied.
    pub a: *const f32,
    /// From row to row.
    pub a_stride: usize,
    /// What they are multiplied with, from the first of the columns on.
    pub weights: W,
    /// One per column, padded to whole vectors.
    pub bias: *const f32,
    /// Null, or for each of the `m` rows where its `n` addends lie.
    pub addends: *const *const f32,
    /// Result.
    pub c: *mut f32,
    /// From row to row.
    pub c_stride: usize,
    /// Whether negative results become 0.
    pub relu: bool,
}

/// Weights packed in panels, and the instructions that multiply them.
pub trait Packed {
    /// What a block sees of them.
    type View<'b>
    where
        Self: 'b;

    /// Columns.
    fn columns(&self) -> usize;
    /// Columns with the padding of the last panel to whole vectors.
    fn padded(&self) -> usize;
    /// Columns of a whole panel.
    fn panel(&self) -> usize;
    /// f32 elements of a row of the operand.
    fn row_elements(&self) -> usize;
    /// Multiply-adds of a row and a column, with what else that costs, for planning only.
    fn macs(&self) -> usize;
    /// Multiply-adds per nanosecond to expect, for planning only.
    fn macs_per_ns(&self) -> usize;
    /// Most rows that a micro-kernel takes at once.
    fn rows_most(&self) -> usize;
    /// Weights from this panel on.
    fn view(&self, panel: usize) -> Self::View<'_>;
    /// Runs the micro-kernels.
    ///
    /// # Safety
    /// - The weights are a [`Packed::view`] of these; `bias` is as long as their padded columns.
    /// - `a`: `m` rows of [`Packed::row_elements`]; `c`: `m` rows of `n` elements, written here; overlaps nothing that is read.
    /// - `addends`: null, or `m` addresses of `n` elements.
    unsafe fn product(&self, block: &Block<Self::View<'_>>);
}

/// A linear layer over such weights.
#[derive(Debug)]
pub struct PackedLinear<W> {
    /// Operand, `[inner][row_elements]` per row.
    pub x: Place,
    /// Result, `[inner][n]` per row.
    pub out: Place,
    /// The weights.
    pub weights: W,
    /// Per column, padded as the weights.
    pub bias: Vec<f32>,
    /// Added beside the bias: `[n]` per row, or `[inner][n]`.
    pub addend: Option<Place>,
    /// Of the result.
    pub activation: Activation,
    /// Rows of the product per row of the tile.
    pub inner: usize,
}

impl<W: Packed> PackedLinear<W> {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        self.block(tile, 0, self.panels());
    }

    /// Runs one unit of about [`UNIT_NS`](super::UNIT_NS) and says where the next one starts, if there is one, and about how many nanoseconds
    /// it took.
    pub fn run_unit(&self, tile: &Tile, unit: Unit) -> (Option<Unit>, u64) {
        let weights = &self.weights;
        let macs_per_row = (weights.macs() * self.inner * weights.panel()).max(1);
        let macs_per_ns = weights.macs_per_ns();
        let units = Units { panels: self.panels(), rows: tile.rows, macs_per_row, most: weights.rows_most(), macs_per_ns };
        let piece = units.piece(unit);
        self.block(&tile.part(unit.row, piece.rows), unit.panel, piece.panels);
        (piece.next, (piece.macs / macs_per_ns) as u64)
    }

    fn panels(&self) -> usize {
        self.weights.columns().div_ceil(self.weights.panel())
    }

    fn block(&self, tile: &Tile, panel: usize, panels: usize) {
        let (weights, column) = (&self.weights, panel * self.weights.panel());
        let (columns, elements) = (weights.columns(), weights.row_elements());
        let n = (panels * weights.panel()).min(columns - column);
        let (x, mut out) = (tile.source::<f32>(&self.x), tile.target::<f32>(&self.out));
        let addends = self.addend.as_ref().map(|place| tile.source::<f32>(place));
        assert!(self.bias.len() == weights.padded() && elements * self.inner == self.x.len, "operands of the layer");
        // Rows of the tile that are one block: all of them, or each with its inner rows.
        let (groups, m) = if self.inner == 1 { (1, tile.rows) } else { (tile.rows, self.inner) };
        let (a_stride, c_stride) = if self.inner == 1 { (self.x.stride, self.out.stride) } else { (elements, columns) };
        let mut addresses = [std::ptr::null(); ADDENDS];
        for group in 0..groups {
            for first in (0..m).step_by(ADDENDS) {
                let rows = ADDENDS.min(m - first);
                if let Some(addends) = &addends {
                    for (at, address) in addresses[..rows].iter_mut().enumerate() {
                        let (row, inner) = if self.inner == 1 { (first + at, 0) } else { (group, first + at) };
                        let inner = if addends.width() == columns { 0 } else { inner };
                        *address = addends.row_ptr(row).wrapping_add(inner * columns + column);
                    }
                }
                let block = Block {
                    m: rows,
                    n,
                    a: x.row_ptr(group).wrapping_add(first * a_stride),
                    a_stride,
                    weights: weights.view(panel),
                    bias: self.bias[column..].as_ptr(),
                    addends: if addends.is_some() { addresses.as_ptr() } else { std::ptr::null() },
                    c: out.row_ptr(group).wrapping_add(first * c_stride + column),
                    c_stride,
                    relu: self.activation == Activation::Relu,
                };
                // SAFETY: rows of `a` and `c` are those of the places, as long as was checked above; the bias from `column` on is as long as
                // the weights' columns; addends are rows of their place, `n` elements from `column` on; the plan keeps `c` apart from what is
                // read.
                unsafe { weights.product(&block) };
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
