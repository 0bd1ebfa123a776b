//! Micro-kernel for every CPU: 4 rows × 8 columns in arrays that the compiler keeps in registers.

use super::{Block, Geometry, row_blocks};
use crate::engine::cpu::simd::SimdLevel;

const GEOMETRY: Geometry = Geometry::of(SimdLevel::Portable);
const COLUMNS: usize = GEOMETRY.panel;

/// # Safety
/// As [`super::product`].
pub unsafe fn product(block: &Block) {
    for column in (0..block.n).step_by(COLUMNS) {
        for (row, rows) in row_blocks(block.m, GEOMETRY.rows) {
            // SAFETY: the caller's promise, for these rows and this panel.
            unsafe {
                match rows {
                    1 => tile::<1>(block, row, column),
                    2 => tile::<2>(block, row, column),
                    3 => tile::<3>(block, row, column),
                    _ => tile::<4>(block, row, column),
                }
            }
        }
    }
}

/// # Safety
/// Rows `row .. row + ROWS` and the panel at `column` lie within the block.
#[inline(always)]
unsafe fn tile<const ROWS: usize>(block: &Block, row: usize, column: usize) {
    let mut sums = [[0.0f32; COLUMNS]; ROWS];
    let columns = COLUMNS.min(block.n - column);
    // SAFETY: all reads are of `k` elements of rows of `a`, of the panel's `k` rows, of bias, addends and `c`; writes are of the `n` columns of `c`.
    unsafe {
        if block.resume {
            for (r, sums) in sums.iter_mut().enumerate() {
                let c = block.c.add((row + r) * block.c_stride + column);
                (0..columns).for_each(|at| sums[at] = *c.add(at));
            }
        }
        let a = block.a.add(row * block.a_stride);
        let b = block.b.add(column * block.k);
        for k in 0..block.k {
            let weights = b.add(k * COLUMNS).cast::<[f32; COLUMNS]>().read();
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = *a.add(r * block.a_stride + k);
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += x * weight;
                }
            }
        }
        if let Some(finish) = block.finish {
            let bias = finish.bias.add(column).cast::<[f32; COLUMNS]>().read();
            for (r, sums) in sums.iter_mut().enumerate() {
                for at in 0..columns {
                    let mut value = sums[at] + bias[at];
                    if !finish.addends.is_null() {
                        value += *(*finish.addends.add(row + r)).add(column + at);
                    }
                    sums[at] = if finish.relu && value < 0.0 { 0.0 } else { value };
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let c = block.c.add((row + r) * block.c_stride + column);
            (0..columns).for_each(|at| *c.add(at) = sums[at]);
        }
    }
}
