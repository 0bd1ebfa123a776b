//! Micro-kernels for AVX-512: up to 14 rows × 32 columns in 28 of the 32 registers.
//!
//! Rows that fit one micro-kernel pass over the weights once, and ask for them a little ahead: the stream that the CPU follows by itself stops
//! at pages. More rows pass over a panel several times, and spread the asking for the panel behind it over all passes.

use std::arch::x86_64::*;

use super::{Block, Geometry, ahead, row_blocks};
use crate::engine::cpu::simd::SimdLevel;

const GEOMETRY: Geometry = Geometry::of(SimdLevel::Avx512);
const PANEL: usize = GEOMETRY.panel;
const VECTOR: usize = GEOMETRY.vector;

/// # Safety
/// As [`super::product`]; the CPU has AVX-512F.
#[target_feature(enable = "avx512f")]
pub unsafe fn product(block: &Block) {
    for column in (0..block.n).step_by(PANEL) {
        // SAFETY: the caller's promise; the panel lies within the block.
        unsafe {
            match block.n - column > VECTOR {
                true => panel::<2>(block, column),
                false => panel::<1>(block, column),
            }
        }
    }
}

/// All rows of one panel of `VECTORS` vectors.
///
/// # Safety
/// The panel lies within the block; AVX-512F.
#[target_feature(enable = "avx512f")]
unsafe fn panel<const VECTORS: usize>(block: &Block, column: usize) {
    if block.m <= GEOMETRY.rows {
        // SAFETY: the caller's promise.
        return unsafe { rows::<VECTORS, true>(block, 0, block.m, column, ahead(block.m)) };
    }
    // Where the next panel starts, and which part of it this pass asks for.
    let (next, blocks) = (block.k * VECTORS * VECTOR, block.m.div_ceil(GEOMETRY.rows));
    for (at, (row, count)) in row_blocks(block.m, GEOMETRY.rows).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { rows::<VECTORS, false>(block, row, count, column, next + next * at / blocks) };
    }
}

/// # Safety
/// As [`tile`], for `count` rows.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn rows<const VECTORS: usize, const ONCE: bool>(block: &Block, row: usize, count: usize, column: usize, ahead: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match count {
            1 => tile::<1, VECTORS, ONCE>(block, row, column, ahead),
            2 => tile::<2, VECTORS, ONCE>(block, row, column, ahead),
            3 => tile::<3, VECTORS, ONCE>(block, row, column, ahead),
            4 => tile::<4, VECTORS, ONCE>(block, row, column, ahead),
            5 => tile::<5, VECTORS, ONCE>(block, row, column, ahead),
            6 => tile::<6, VECTORS, ONCE>(block, row, column, ahead),
            7 => tile::<7, VECTORS, ONCE>(block, row, column, ahead),
            8 => tile::<8, VECTORS, ONCE>(block, row, column, ahead),
            9 => tile::<9, VECTORS, ONCE>(block, row, column, ahead),
            10 => tile::<10, VECTORS, ONCE>(block, row, column, ahead),
            11 => tile::<11, VECTORS, ONCE>(block, row, column, ahead),
            12 => tile::<12, VECTORS, ONCE>(block, row, column, ahead),
            13 => tile::<13, VECTORS, ONCE>(block, row, column, ahead),
            _ => tile::<14, VECTORS, ONCE>(block, row, column, ahead),
        }
    }
}

/// `ROWS` rows × `VECTORS` vectors. With `ONCE`, every line of the panel asks for the one `ahead` elements behind it; otherwise the lines from
/// `ahead` on are asked for at half that speed.
///
/// # Safety
/// Rows and panel lie within the block; AVX-512F.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const ROWS: usize, const VECTORS: usize, const ONCE: bool>(block: &Block, row: usize, column: usize, ahead: usize) {
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let rest = block.n - column;
    let mask: [__mmask16; VECTORS] = std::array::from_fn(|vector| match rest.saturating_sub(vector * VECTOR) {
        VECTOR.. => !0,
        columns => (1 << columns) - 1,
    });
    // SAFETY: reads are of `k` elements of rows of `a`, of the panel's `k` rows, of the bias; of addends and `c`, only
    // the `n` columns are touched.
    unsafe {
        let c = block.c.add(row * block.c_stride + column);
        if block.resume {
            for r in 0..ROWS {
                for vector in 0..VECTORS {
                    sums[r][vector] = _mm512_maskz_loadu_ps(mask[vector], c.add(r * block.c_stride + vector * VECTOR));
                }
            }
        }
        let a = block.a.add(row * block.a_stride);
        let b = block.b.add(column * block.k);
        let fetch = b.wrapping_add(ahead);
        for k in 0..block.k {
            let b = b.add(k * VECTORS * VECTOR);
            if ONCE {
                for vector in 0..VECTORS {
                    _mm_prefetch::<_MM_HINT_T0>(fetch.wrapping_add((k * VECTORS + vector) * VECTOR).cast());
                }
            } else {
                _mm_prefetch::<_MM_HINT_T1>(fetch.wrapping_add(k * VECTOR).cast());
            }
            let mut weights = [_mm512_setzero_ps(); VECTORS];
            for vector in 0..VECTORS {
                weights[vector] = _mm512_loadu_ps(b.add(vector * VECTOR));
            }
            for r in 0..ROWS {
                let x = _mm512_set1_ps(*a.add(r * block.a_stride + k));
                for vector in 0..VECTORS {
                    sums[r][vector] = _mm512_fmadd_ps(x, weights[vector], sums[r][vector]);
                }
            }
        }
        if let Some(finish) = block.finish {
            // The second operand of a maximum is the result where one is NaN.
            let least = _mm512_set1_ps(if finish.relu { 0.0 } else { f32::NEG_INFINITY });
            for vector in 0..VECTORS {
                let bias = _mm512_loadu_ps(finish.bias.add(column + vector * VECTOR));
                for r in 0..ROWS {
                    let mut sum = _mm512_add_ps(sums[r][vector], bias);
                    if !finish.addends.is_null() {
                        let addends = (*finish.addends.add(row + r)).add(column + vector * VECTOR);
                        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask[vector], addends));
                    }
                    sums[r][vector] = _mm512_max_ps(least, sum);
                }
            }
        }
        for r in 0..ROWS {
            for vector in 0..VECTORS {
                _mm512_mask_storeu_ps(c.add(r * block.c_stride + vector * VECTOR), mask[vector], sums[r][vector]);
            }
        }
    }
}
