//! Micro-kernels for AVX-512: up to 14 rows × 32 columns in 28 of the 32 registers; few rows take several panels at once, so that enough
//! chains of multiply-adds are under way to hide their latency.

use std::arch::x86_64::*;

use super::{AHEAD, Block, Geometry, row_blocks};
use crate::engine::cpu::simd::SimdLevel;

const GEOMETRY: Geometry = Geometry::of(SimdLevel::Avx512);
const PANEL: usize = GEOMETRY.panel;
const VECTOR: usize = GEOMETRY.vector;

/// # Safety
/// As [`super::product`]; the CPU has AVX-512F.
#[target_feature(enable = "avx512f")]
pub unsafe fn product(block: &Block) {
    let mut column = 0;
    while column < block.n {
        let whole = (block.n - column) / PANEL;
        // SAFETY: the caller's promise; the columns asked for lie within the block.
        unsafe {
            column += match (block.m, whole) {
                (1, 4..) => tiles::<1, 2, 4>(block, 0, column),
                (2, 4..) => tiles::<2, 2, 4>(block, 0, column),
                (3, 4..) => tiles::<3, 2, 4>(block, 0, column),
                (1..=6, 2..) => few(block, column),
                _ if block.n - column > VECTOR => panel::<2>(block, column),
                _ => panel::<1>(block, column),
            };
        }
    }
}

/// Two panels of at most six rows.
///
/// # Safety
/// The panels lie within the block, which has at most six rows; AVX-512F.
#[target_feature(enable = "avx512f")]
unsafe fn few(block: &Block, column: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        match block.m {
            1 => tiles::<1, 2, 2>(block, 0, column),
            2 => tiles::<2, 2, 2>(block, 0, column),
            3 => tiles::<3, 2, 2>(block, 0, column),
            4 => tiles::<4, 2, 2>(block, 0, column),
            5 => tiles::<5, 2, 2>(block, 0, column),
            _ => tiles::<6, 2, 2>(block, 0, column),
        }
    }
}

/// All rows of one panel of `VECTORS` vectors.
///
/// # Safety
/// The panel lies within the block; AVX-512F.
#[target_feature(enable = "avx512f")]
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
                6 => tiles::<6, VECTORS, 1>(block, row, column),
                7 => tiles::<7, VECTORS, 1>(block, row, column),
                8 => tiles::<8, VECTORS, 1>(block, row, column),
                9 => tiles::<9, VECTORS, 1>(block, row, column),
                10 => tiles::<10, VECTORS, 1>(block, row, column),
                11 => tiles::<11, VECTORS, 1>(block, row, column),
                12 => tiles::<12, VECTORS, 1>(block, row, column),
                13 => tiles::<13, VECTORS, 1>(block, row, column),
                _ => tiles::<14, VECTORS, 1>(block, row, column),
            };
        }
    }
    VECTORS * VECTOR
}

/// `ROWS` rows × `PANELS` panels of `VECTORS` vectors. Returns the columns it took.
///
/// # Safety
/// Rows and panels lie within the block; AVX-512F.
#[target_feature(enable = "avx512f")]
unsafe fn tiles<const ROWS: usize, const VECTORS: usize, const PANELS: usize>(block: &Block, row: usize, column: usize) -> usize {
    let mut sums = [[[_mm512_setzero_ps(); VECTORS]; PANELS]; ROWS];
    let width = VECTORS * VECTOR;
    // SAFETY: reads are of `k` elements of rows of `a`, of the panels' `k` rows, of `bias` and `addends`; writes are masked to the `n` columns of `c`.
    unsafe {
        let a = block.a.add(row * block.a_stride);
        let b = block.b.add(column * block.k);
        for k in 0..block.k {
            for panel in 0..PANELS {
                let b = b.add((panel * block.k + k) * width);
                for vector in 0..VECTORS {
                    _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD + vector * VECTOR).cast());
                }
                let mut weights = [_mm512_setzero_ps(); VECTORS];
                for (vector, weights) in weights.iter_mut().enumerate() {
                    *weights = _mm512_loadu_ps(b.add(vector * VECTOR));
                }
                for r in 0..ROWS {
                    let x = _mm512_set1_ps(*a.add(r * block.a_stride + k));
                    for vector in 0..VECTORS {
                        sums[r][panel][vector] = _mm512_fmadd_ps(x, weights[vector], sums[r][panel][vector]);
                    }
                }
            }
        }
        for panel in 0..PANELS {
            for vector in 0..VECTORS {
                let at = column + panel * width + vector * VECTOR;
                let bias = _mm512_loadu_ps(block.bias.add(at));
                let rest = block.n - at;
                let mask = if rest >= VECTOR { !0 } else { (1u16 << rest) - 1 };
                for r in 0..ROWS {
                    let mut value = _mm512_add_ps(sums[r][panel][vector], bias);
                    if !block.addends.is_null() {
                        let addends = *block.addends.add(row + r);
                        value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, addends.add(at)));
                    }
                    if block.relu {
                        // The second operand is the result where one is NaN.
                        value = _mm512_max_ps(_mm512_setzero_ps(), value);
                    }
                    _mm512_mask_storeu_ps(block.c.add((row + r) * block.c_stride + at), mask, value);
                }
            }
        }
    }
    PANELS * width
}
