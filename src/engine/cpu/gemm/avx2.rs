//! Micro-kernels for AVX2 and FMA: up to 6 rows × 16 columns in 12 of the 16 registers; few rows take several panels at once, so that enough
//! chains of multiply-adds are under way to hide their latency.

use std::arch::x86_64::*;

use super::{AHEAD, Block, Geometry, row_blocks};
use crate::engine::cpu::simd::SimdLevel;

const GEOMETRY: Geometry = Geometry::of(SimdLevel::Avx2);
const PANEL: usize = GEOMETRY.panel;
const VECTOR: usize = GEOMETRY.vector;

/// # Safety
/// As [`super::product`]; the CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn product(block: &Block) {
    let mut column = 0;
    while column < block.n {
        let whole = (block.n - column) / PANEL;
        // SAFETY: the caller's promise; the columns asked for lie within the block.
        unsafe {
            column += match (block.m, whole) {
                (1, 4..) => tiles::<1, 2, 4>(block, 0, column),
                (2, 2..) => tiles::<2, 2, 2>(block, 0, column),
                (3, 2..) => tiles::<3, 2, 2>(block, 0, column),
                _ if block.n - column > VECTOR => panel::<2>(block, column),
                _ => panel::<1>(block, column),
            };
        }
    }
}

/// All rows of one panel of `VECTORS` vectors.
///
/// # Safety
/// The panel lies within the block; AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn panel<const VECTORS: usize>(block: &Block, column: usize) -> usize {
    for (row, rows) in row_blocks(block.m, GEOMETRY.rows) {
        // SAFETY: the caller's promise.
        unsafe {
            match rows {
                1 => tiles::<1, VECTORS, 1>(block, row, column),
                2 => tiles::<2, VECTORS, 1>(block, row, column),
                3 => tiles::<3, VECTORS, 1>(block, row, column),
                4 => tiles::<4, VECTORS, 1>(block, row, column),
                5 => tiles::<5, VECTORS, 1>(block, row, column),
                _ => tiles::<6, VECTORS, 1>(block, row, column),
            };
        }
    }
    VECTORS * VECTOR
}

/// `ROWS` rows × `PANELS` panels of `VECTORS` vectors. Returns the columns it took.
///
/// # Safety
/// Rows and panels lie within the block; AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn tiles<const ROWS: usize, const VECTORS: usize, const PANELS: usize>(block: &Block, row: usize, column: usize) -> usize {
    let mut sums = [[[_mm256_setzero_ps(); VECTORS]; PANELS]; ROWS];
    let width = VECTORS * VECTOR;
    // SAFETY: reads are of `k` elements of rows of `a`, of the panels' `k` rows, of `bias` and `addends`; writes are masked to the `n` columns of `c`.
    unsafe {
        let a = block.a.add(row * block.a_stride);
        let b = block.b.add(column * block.k);
        for k in 0..block.k {
            for panel in 0..PANELS {
                let b = b.add((panel * block.k + k) * width);
                // A line holds two vectors.
                for vector in (0..VECTORS).step_by(2) {
                    _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD + vector * VECTOR).cast());
                }
                let mut weights = [_mm256_setzero_ps(); VECTORS];
                for (vector, weights) in weights.iter_mut().enumerate() {
                    *weights = _mm256_loadu_ps(b.add(vector * VECTOR));
                }
                for r in 0..ROWS {
                    let x = _mm256_broadcast_ss(&*a.add(r * block.a_stride + k));
                    for vector in 0..VECTORS {
                        sums[r][panel][vector] = _mm256_fmadd_ps(x, weights[vector], sums[r][panel][vector]);
                    }
                }
            }
        }
        for panel in 0..PANELS {
            for vector in 0..VECTORS {
                let at = column + panel * width + vector * VECTOR;
                let bias = _mm256_loadu_ps(block.bias.add(at));
                let rest = block.n - at;
                for r in 0..ROWS {
                    let mut value = _mm256_add_ps(sums[r][panel][vector], bias);
                    if !block.addends.is_null() {
                        let addends = *block.addends.add(row + r);
                        value = _mm256_add_ps(value, _mm256_maskload_ps(addends.add(at), mask(rest)));
                    }
                    if block.relu {
                        // The second operand is the result where one is NaN.
                        value = _mm256_max_ps(_mm256_setzero_ps(), value);
                    }
                    let c = block.c.add((row + r) * block.c_stride + at);
                    if rest >= VECTOR {
                        _mm256_storeu_ps(c, value);
                    } else {
                        _mm256_maskstore_ps(c, mask(rest), value);
                    }
                }
            }
        }
    }
    PANELS * width
}

/// The first `count` lanes.
#[target_feature(enable = "avx2")]
fn mask(count: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}
