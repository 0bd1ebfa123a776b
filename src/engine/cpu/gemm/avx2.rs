//! Micro-kernels for AVX2 and FMA: up to 6 rows × 16 columns in 12 of the 16 registers.
//!
//! A panel has 32 columns: one to three rows take them at once, so that enough chains of multiply-adds are under way to hide their latency and
//! the weights are one stream; more rows take one half behind the other.

use std::arch::x86_64::*;

use super::{Block, Geometry, ahead, row_blocks};
use crate::engine::cpu::simd::SimdLevel;

const GEOMETRY: Geometry = Geometry::of(SimdLevel::Avx2);
const PANEL: usize = GEOMETRY.panel;
const VECTOR: usize = GEOMETRY.vector;
/// Elements of a cache line.
const LINE: usize = 2 * VECTOR;

/// # Safety
/// As [`super::product`]; the CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn product(block: &Block) {
    for column in (0..block.n).step_by(PANEL) {
        // SAFETY: the caller's promise; the panel lies within the block.
        unsafe { panel(block, column) };
    }
}

/// All rows of one panel.
///
/// # Safety
/// The panel lies within the block; AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn panel(block: &Block, column: usize) {
    let width = PANEL.min((block.n - column).next_multiple_of(VECTOR));
    // SAFETY: the caller's promise; the parts below make up the panel.
    unsafe {
        match (block.m, width) {
            (1, PANEL) => return tile::<1, 4, true>(block, 0, Part { column, at: 0, width, ahead: ahead(block.m) }),
            (2, PANEL) => return tile::<2, 4, true>(block, 0, Part { column, at: 0, width, ahead: ahead(block.m) }),
            (3, PANEL) => return tile::<3, 4, true>(block, 0, Part { column, at: 0, width, ahead: ahead(block.m) }),
            _ => {}
        }
        let next = block.k * width;
        let passes = block.m.div_ceil(GEOMETRY.rows) * width.div_ceil(LINE);
        let mut pass = 0;
        for (row, count) in row_blocks(block.m, GEOMETRY.rows) {
            for at in (0..width).step_by(LINE) {
                let ahead = if passes == 1 { ahead(block.m) } else { next + next * pass / passes };
                let part = Part { column, at, width, ahead };
                pass += 1;
                match width - at {
                    _ if width == PANEL => rows::<2, true>(block, row, count, part),
                    1..=VECTOR => rows::<1, false>(block, row, count, part),
                    _ => rows::<2, false>(block, row, count, part),
                }
            }
        }
    }
}

/// Some vectors of a panel.
#[derive(Clone, Copy)]
struct Part {
    /// Where the panel begins in the block.
    column: usize,
    /// Where the part begins in the panel.
    at: usize,
    /// Of the panel, in elements.
    width: usize,
    /// Weights are asked for so many elements behind the panel's own.
    ahead: usize,
}

/// # Safety
/// As [`tile`], for `count` rows.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn rows<const VECTORS: usize, const WHOLE: bool>(block: &Block, row: usize, count: usize, part: Part) {
    // SAFETY: the caller's promise.
    unsafe {
        match count {
            1 => tile::<1, VECTORS, WHOLE>(block, row, part),
            2 => tile::<2, VECTORS, WHOLE>(block, row, part),
            3 => tile::<3, VECTORS, WHOLE>(block, row, part),
            4 => tile::<4, VECTORS, WHOLE>(block, row, part),
            5 => tile::<5, VECTORS, WHOLE>(block, row, part),
            _ => tile::<6, VECTORS, WHOLE>(block, row, part),
        }
    }
}

/// `ROWS` rows × `VECTORS` vectors.
///
/// # Safety
/// Rows and part lie within the block; AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const ROWS: usize, const VECTORS: usize, const WHOLE: bool>(block: &Block, row: usize, part: Part) {
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
    let first = part.column + part.at;
    let mask: [__m256i; VECTORS] = std::array::from_fn(|vector| mask((block.n - first).saturating_sub(vector * VECTOR)));
    // SAFETY: reads are of `k` elements of rows of `a`, of the panel's `k` rows, of the bias; of addends and `c`, only
    // the `n` columns are touched.
    unsafe {
        let c = block.c.add(row * block.c_stride + first);
        if block.resume {
            for r in 0..ROWS {
                for vector in 0..VECTORS {
                    sums[r][vector] = _mm256_maskload_ps(c.add(r * block.c_stride + vector * VECTOR), mask[vector]);
                }
            }
        }
        let a = block.a.add(row * block.a_stride);
        let b = block.b.add(part.column * block.k + part.at);
        let fetch = b.wrapping_add(part.ahead);
        for k in 0..block.k {
            let b = b.add(k * if WHOLE { PANEL } else { part.width });
            for vector in (0..VECTORS).step_by(2) {
                _mm_prefetch::<_MM_HINT_T0>(fetch.wrapping_add((k * VECTORS + vector) * VECTOR).cast());
            }
            if VECTORS > 2 {
                // Three rows of four vectors leave four registers: weights come one by one.
                let x: [__m256; ROWS] = std::array::from_fn(|r| _mm256_broadcast_ss(&*a.add(r * block.a_stride + k)));
                for vector in 0..VECTORS {
                    let weights = _mm256_loadu_ps(b.add(vector * VECTOR));
                    for r in 0..ROWS {
                        sums[r][vector] = _mm256_fmadd_ps(x[r], weights, sums[r][vector]);
                    }
                }
            } else {
                let weights: [__m256; VECTORS] = std::array::from_fn(|vector| _mm256_loadu_ps(b.add(vector * VECTOR)));
                for r in 0..ROWS {
                    let x = _mm256_broadcast_ss(&*a.add(r * block.a_stride + k));
                    for vector in 0..VECTORS {
                        sums[r][vector] = _mm256_fmadd_ps(x, weights[vector], sums[r][vector]);
                    }
                }
            }
        }
        if let Some(finish) = block.finish {
            // The second operand of a maximum is the result where one is NaN.
            let least = _mm256_set1_ps(if finish.relu { 0.0 } else { f32::NEG_INFINITY });
            for vector in 0..VECTORS {
                let bias = _mm256_loadu_ps(finish.bias.add(first + vector * VECTOR));
                for r in 0..ROWS {
                    let mut sum = _mm256_add_ps(sums[r][vector], bias);
                    if !finish.addends.is_null() {
                        let addends = (*finish.addends.add(row + r)).add(first + vector * VECTOR);
                        sum = _mm256_add_ps(sum, _mm256_maskload_ps(addends, mask[vector]));
                    }
                    sums[r][vector] = _mm256_max_ps(least, sum);
                }
            }
        }
        for r in 0..ROWS {
            for vector in 0..VECTORS {
                let c = c.add(r * block.c_stride + vector * VECTOR);
                if first + (vector + 1) * VECTOR <= block.n {
                    _mm256_storeu_ps(c, sums[r][vector]);
                } else {
                    _mm256_maskstore_ps(c, mask[vector], sums[r][vector]);
                }
            }
        }
    }
}

/// The first `count` lanes.
#[target_feature(enable = "avx2")]
#[inline]
fn mask(count: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count.min(VECTOR) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}
