//! Packed matrix products: `out[rows][n] = activation(x[rows][k] · weight[k][n] + bias)`.
//!
//! Weights are packed once per process and instruction set into panels of a few vector registers' width ([`pack`]), so that a micro-kernel
//! streams through them; rows of `x` are read in place. A long inner size is cut into blocks: a block of the rows stays in the second-level
//! cache while the weights pass by, and the sums wait in the output for the next block.
//!
//! Layers of very few columns are scalar products instead ([`narrow`]).
//!
//! **A row's result does not depend on its neighbours.** Every element of the output is one chain of multiply-adds over k in ascending order,
//! starting from zero, bias added last, then the addend if there is one; how many rows or panels a micro-kernel takes at once, and where a
//! chain waits in memory, changes which chains run side by side, never a chain. (A narrow layer's element is one scalar product, always in the
//! same order.) So scores are the same bits whatever a row was batched with.
//! Between instruction sets they differ: the portable one rounds
//! products.

// Micro-kernels index several arrays of registers by the same number, in loops that are unrolled.
#![allow(clippy::needless_range_loop)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod half;
pub mod int8;
mod narrow;
mod pack;
mod portable;
mod small;

pub use small::small_product;

pub use pack::{Matrix, Packer};

use self::pack::Chunks;

use super::kernels::unary::sigmoid_in_place;
use super::memory::Place;
use super::simd::{Simd, SimdLevel};
use super::tile::Tile;

/// Applied to an element right after its bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// As it is.
    None,
    /// x where x ≥ 0, else 0; NaN stays.
    Relu,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
}

/// A linear layer over packed weights.
#[derive(Debug)]
pub struct Linear {
    /// Operand, `[inner][k]` per row.
    pub x: Place,
    /// Result, `[inner][n]` per row.
    pub out: Place,
    /// The weights.
    pub matrix: Matrix,
    /// `n` elements and zeros to whole vectors.
    pub bias: Vec<f32>,
    /// Added beside the bias: `[n]` per row, or `[inner][n]`.
    pub addend: Option<Place>,
    /// Of the result.
    pub activation: Activation,
    /// Rows of the product per row of the tile.
    pub inner: usize,
}

/// How a level cuts matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Columns of a panel.
    pub panel: usize,
    /// Columns of a vector register: the last panel is a multiple of it.
    pub vector: usize,
    /// Most rows that a micro-kernel takes at once.
    pub rows: usize,
    /// Most inner indices of a block: a block of a tile's rows then stays in the second-level cache while all panels pass by, and what a
    /// micro-kernel reads again for the next rows stays near.
    pub block: usize,
    /// Multiply-adds per nanosecond to expect, for planning only.
    pub macs_per_ns: usize,
}

impl Geometry {
    /// Of a level.
    pub const fn of(level: SimdLevel) -> Geometry {
        match level {
            SimdLevel::Portable => Geometry { panel: 8, vector: 8, rows: 4, block: 512, macs_per_ns: 4 },
            SimdLevel::Avx2 => Geometry { panel: 32, vector: 8, rows: 6, block: 256, macs_per_ns: 24 },
            SimdLevel::Avx512 => Geometry { panel: 32, vector: 16, rows: 14, block: 512, macs_per_ns: 48 },
        }
    }
}

/// Elements that `m` rows, which pass over the weights once, ask for ahead of what they multiply: 8 or 16 KiB, as much as the first-level cache
/// lets stand. Measured on an EPYC 9005, 64 MB of weights from memory: 10 rows 1.3 times as fast with 16 KiB as with 4 KiB, 1 row the same
/// with 2 to 16; 1.9 MB from the third-level cache: up to 4 rows 1.05 to 1.1 times as fast with 8 KiB as with 16.
#[cfg(target_arch = "x86_64")]
const fn ahead(m: usize) -> usize {
    if m < 7 { 2048 } else { 4096 }
}

/// Rows with addends that are computed at once: those of a tile.
const ADDENDS: usize = 64;

/// Columns of the widest panel of any level.
pub const PANEL_MAX: usize = 32;

/// Operands of a product over one block of k and `n` columns that begin a panel. Strides count elements.
#[derive(Clone, Copy)]
struct Block {
    m: usize,
    n: usize,
    k: usize,
    a: *const f32,
    a_stride: usize,
    /// Packed panels, one behind the other.
    b: *const f32,
    c: *mut f32,
    c_stride: usize,
    /// Whether sums go on from what an earlier block left in `c`.
    resume: bool,
    /// After the last block: what is done with the sums before they are written.
    finish: Option<Finish>,
}

/// The end of a layer.
#[derive(Clone, Copy)]
struct Finish {
    /// One per column, padded to whole vectors.
    bias: *const f32,
    /// Null, or for each of the `m` rows where its `n` addends lie.
    addends: *const *const f32,
    relu: bool,
}

/// Which part of a layer a unit of work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Next panel, counted through all blocks of k.
    pub panel: usize,
    /// Next row of the tile within that panel.
    pub row: usize,
}

impl Linear {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        self.chunks(tile, 0, self.matrix.chunks());
    }

    /// Runs one unit of about [`UNIT_NS`] and says where the next one starts, if there is one, and its size in multiply-adds.
    pub fn run_unit(&self, tile: &Tile, unit: Unit) -> (Option<Unit>, usize) {
        let geometry = Geometry::of(tile.simd.level());
        let budget = UNIT_NS * geometry.macs_per_ns;
        let chunks = self.matrix.chunks();
        let macs_per_row = (self.matrix.chunks_from(unit.panel, 1).k.len() * self.inner * geometry.panel.min(self.matrix.padded)).max(1);
        if unit.row == 0 && macs_per_row * tile.rows <= budget {
            let count = (budget / (macs_per_row * tile.rows)).min(chunks - unit.panel);
            self.chunks(tile, unit.panel, count);
            let next = unit.panel + count;
            return ((next < chunks).then_some(Unit { panel: next, row: 0 }), macs_per_row * tile.rows * count);
        }
        // One panel over some rows: in whole micro-kernels where that is possible.
        let rows = budget / macs_per_row;
        let rows = if rows > geometry.rows { rows - rows % geometry.rows } else { geometry.rows.min(rows.max(1)) };
        let rows = rows.min(tile.rows - unit.row);
        self.chunks(&tile.part(unit.row, rows), unit.panel, 1);
        let next = if unit.row + rows < tile.rows {
            Some(Unit { panel: unit.panel, row: unit.row + rows })
        } else {
            (unit.panel + 1 < chunks).then_some(Unit { panel: unit.panel + 1, row: 0 })
        };
        (next, macs_per_row * rows)
    }

    /// Runs `count` chunks of the matrix.
    fn chunks(&self, tile: &Tile, first: usize, count: usize) {
        let end = first + count;
        let mut chunk = first;
        while chunk < end {
            let chunks = self.matrix.chunks_from(chunk, end - chunk);
            chunk += chunks.columns.len().div_ceil(self.matrix.panel);
            self.block(tile, &chunks);
        }
    }

    fn block(&self, tile: &Tile, chunks: &Chunks) {
        let (k, n, column) = (self.matrix.k, chunks.columns.len(), chunks.columns.start);
        let (x, mut out) = (tile.source::<f32>(&self.x), tile.target::<f32>(&self.out));
        let b = &tile.packed[chunks.elements.clone()];
        let bias = &self.bias[column..];
        assert!(bias.len() + column >= self.matrix.padded, "bias is padded to whole vectors");
        let is_last = chunks.k.end == k;
        let regular = self.inner == 1 || (self.x.stride == self.inner * k && self.out.stride == self.inner * self.matrix.n);
        let (groups, m) = if regular { (1, tile.rows * self.inner) } else { (tile.rows, self.inner) };
        let (a_stride, c_stride) = if self.inner == 1 { (self.x.stride, self.out.stride) } else { (k, self.matrix.n) };
        let addends = self.addend.as_ref().filter(|_| is_last).map(|place| tile.source::<f32>(place));
        let mut addresses = [std::ptr::null(); ADDENDS];
        for group in 0..groups {
            let most = if addends.is_some() { ADDENDS } else { m.max(1) };
            for first in (0..m).step_by(most) {
                let rows = most.min(m - first);
                if let Some(addends) = &addends {
                    for (at, address) in addresses[..rows].iter_mut().enumerate() {
                        let (row, inner) =
                            if groups == 1 { ((first + at) / self.inner, (first + at) % self.inner) } else { (group, first + at) };
                        let inner = if addends.width() == self.matrix.n { 0 } else { inner };
                        *address = addends.row_ptr(row).wrapping_add(inner * self.matrix.n + column);
                    }
                }
                let addends = if addends.is_some() { addresses.as_ptr() } else { std::ptr::null() };
                let block = Block {
                    m: rows,
                    n,
                    k: chunks.k.len(),
                    a: x.row_ptr(group).wrapping_add(first * a_stride + chunks.k.start),
                    a_stride,
                    b: b.as_ptr(),
                    c: out.row_ptr(group).wrapping_add(first * c_stride + column),
                    c_stride,
                    resume: chunks.k.start > 0,
                    finish: is_last.then_some(Finish { bias: bias.as_ptr(), addends, relu: self.activation == Activation::Relu }),
                };
                // SAFETY: rows of `a` and `c` are those of the places (each `inner` product rows long, evenly spaced as `regular` says), `b`
                // holds the panels of these columns, `bias` was checked above; addends are rows of their place, `n` elements from `column`
                // on; the plan keeps `c` apart from what is read.
                unsafe {
                    if self.matrix.is_narrow() {
                        narrow::product(tile.simd, &block)
                    } else {
                        product(tile.simd, &block)
                    };
                }
                if self.activation == Activation::Sigmoid && is_last {
                    // All rows in one go where they lie side by side.
                    let (runs, count) = if c_stride == n { (1, rows * n) } else { (rows, n) };
                    for run in 0..runs {
                        // SAFETY: elements that `product` has just written.
                        let values = unsafe { std::slice::from_raw_parts_mut(block.c.add(run * c_stride), count) };
                        sigmoid_in_place(tile.simd, values);
                    }
                }
            }
        }
    }
}

/// `c` = `a` · `matrix` + `bias`, rows `[k]` of `a` and `[n]` of `c` one behind the other; a row does not depend on the others. `bias`: as long as
/// the matrix's padded columns.
pub fn rows_product(tile: &Tile, matrix: &Matrix, bias: &[f32], a: &[f32], c: &mut [f32]) {
    let Matrix { k, n, .. } = *matrix;
    let m = c.len() / n.max(1);
    assert!(a.len() == m * k && c.len() == m * n && bias.len() == matrix.padded, "as many rows in as out, and a padded bias");
    let mut chunk = 0;
    while chunk < matrix.chunks() {
        let chunks = matrix.chunks_from(chunk, matrix.chunks() - chunk);
        chunk += chunks.columns.len().div_ceil(matrix.panel);
        let block = Block {
            m,
            n: chunks.columns.len(),
            k: chunks.k.len(),
            a: a.as_ptr().wrapping_add(chunks.k.start),
            a_stride: k,
            b: tile.packed[chunks.elements.clone()].as_ptr(),
            c: c.as_mut_ptr().wrapping_add(chunks.columns.start),
            c_stride: n,
            resume: chunks.k.start > 0,
            finish: (chunks.k.end == k).then(|| Finish {
                bias: bias[chunks.columns.start..].as_ptr(),
                addends: std::ptr::null(),
                relu: false,
            }),
        };
        // SAFETY: `m` rows of both slices, and a bias for all columns, as checked; `b` holds the panels of these columns; `c` is borrowed alone.
        unsafe {
            match matrix.is_narrow() {
                true => narrow::product(tile.simd, &block),
                false => product(tile.simd, &block),
            }
        }
    }
}

/// # Safety
/// - `a`: `m` rows of `k` elements, `c`: `m` rows of `n` elements, written here; `c` overlaps nothing else that is read.
/// - `b`: packed for this level, `k` rows of `n` columns padded to whole vectors in the last panel; a bias as long as the padded columns.
/// - Addends: null, or `m` addresses of `n` elements each, which nothing writes meanwhile.
unsafe fn product(simd: Simd, block: &Block) {
    match simd.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promise; the `Simd` proves the instructions.
        SimdLevel::Avx512 => unsafe { avx512::product(block) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        SimdLevel::Avx2 => unsafe { avx2::product(block) },
        // SAFETY: the caller's promise.
        _ => unsafe { portable::product(block) },
    }
}

/// `m` rows in blocks of at most `most`, as even as can be: yields (first row, rows).
fn row_blocks(m: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let blocks = m.div_ceil(most);
    (0..blocks).map(move |block| {
        let (start, end) = (block * m / blocks, (block + 1) * m / blocks);
        (start, end - start)
    })
}

/// Length of a unit of work to aim at: long against the overhead of a unit, short against a step's 200 µs.
pub const UNIT_NS: usize = 30_000;
