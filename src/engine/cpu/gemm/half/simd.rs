//! Micro-kernels over weights of 16 bits: one text, compiled for two widths.

use std::arch::x86_64::*;

use super::super::int8::{load_8, load_16, store_8, store_16};
use super::super::row_blocks;
use super::{Block, Dot};
use crate::engine::cpu::simd::SimdLevel;

/// Weights are asked for so many bytes ahead.
const AHEAD: usize = 4096;

macro_rules! kernels {
    (
        $(#[$meta:meta])* $name:ident, $features:literal, $level:ident, lanes $lanes:literal, rows [$($rows:literal)+] most $most:literal,
        zero $zero:ident, widen $widen:ident, broadcast $broadcast:ident, load $load:ident, fma $fma:ident, add $add:ident, max $max:ident,
        masked_load $masked_load:ident, masked_store $masked_store:ident, few $few:literal
    ) => {
        $(#[$meta])*
        pub mod $name {
            use super::*;

            const PANEL: usize = Dot::geometry(SimdLevel::$level).panel;
            const LANES: usize = $lanes;

            /// # Safety
            /// As [`super::super::product`]; the CPU has the instructions.
            #[target_feature(enable = $features)]
            pub unsafe fn product(block: &Block) {
                let mut column = 0;
                while column < block.n {
                    let whole = (block.n - column) / PANEL;
                    // SAFETY: the caller's promise; the columns asked for lie within the block.
                    unsafe {
                        column += match (block.m, whole) {
                            (1, $few..) => tiles::<1, 2, $few>(block, 0, column),
                            (2, $few..) => tiles::<2, 2, $few>(block, 0, column),
                            (3, $few..) => tiles::<3, 2, $few>(block, 0, column),
                            _ if block.n - column > LANES => panel::<2>(block, column),
                            _ => panel::<1>(block, column),
                        };
                    }
                }
            }

            /// All rows of one panel of `VECTORS` vectors.
            ///
            /// # Safety
            /// The panel lies within the block.
            #[target_feature(enable = $features)]
            unsafe fn panel<const VECTORS: usize>(block: &Block, column: usize) -> usize {
                for (row, rows) in row_blocks(block.m, $most) {
                    // SAFETY: the caller's promise.
                    unsafe {
                        match rows {
                            $($rows => tiles::<$rows, VECTORS, 1>(block, row, column),)+
                            _ => tiles::<$most, VECTORS, 1>(block, row, column),
                        };
                    }
                }
                VECTORS * LANES
            }

            /// `ROWS` rows × `PANELS` panels of `VECTORS` vectors. Returns the columns it took.
            ///
            /// # Safety
            /// Rows and panels lie within the block.
            #[target_feature(enable = $features)]
            unsafe fn tiles<const ROWS: usize, const VECTORS: usize, const PANELS: usize>(block: &Block, row: usize, column: usize) -> usize {
                let mut sums = [[[$zero(); VECTORS]; PANELS]; ROWS];
                let width = VECTORS * LANES;
                // SAFETY: reads are of `k` elements of rows of `a`, of the panels' `k` rows, of `bias` and `addends`; writes are masked to the
                // `n` columns of `c`.
                unsafe {
                    let a = block.a.add(row * block.a_stride);
                    let b = block.b.add(column * block.k);
                    for k in 0..block.k {
                        for panel in 0..PANELS {
                            let b = b.add((panel * block.k + k) * width);
                            _mm_prefetch::<_MM_HINT_T0>(b.cast::<i8>().wrapping_add(AHEAD));
                            let mut weights = [$zero(); VECTORS];
                            for (vector, weights) in weights.iter_mut().enumerate() {
                                *weights = $widen(b.add(vector * LANES));
                            }
                            for r in 0..ROWS {
                                let x = $broadcast(*a.add(r * block.a_stride + k));
                                for vector in 0..VECTORS {
                                    sums[r][panel][vector] = $fma(x, weights[vector], sums[r][panel][vector]);
                                }
                            }
                        }
                    }
                    for panel in 0..PANELS {
                        for vector in 0..VECTORS {
                            let at = column + panel * width + vector * LANES;
                            let (bias, rest) = ($load(block.bias.add(at)), block.n - at);
                            for r in 0..ROWS {
                                let mut value = $add(sums[r][panel][vector], bias);
                                if !block.addends.is_null() {
                                    value = $add(value, $masked_load(rest, (*block.addends.add(row + r)).add(at)));
                                }
                                if block.relu {
                                    // The second operand is the result where one is NaN.
                                    value = $max($zero(), value);
                                }
                                $masked_store(rest, block.c.add((row + r) * block.c_stride + at), value);
                            }
                        }
                    }
                }
                PANELS * width
            }
        }
    };
}

kernels! {
    /// 14 rows × 32 columns.
    avx512, "avx512f,avx512bw,avx512dq,avx512vl", Avx512, lanes 16, rows [1 2 3 4 5 6 7 8 9 10 11 12 13] most 14,
    zero _mm512_setzero_ps, widen widen_16, broadcast _mm512_set1_ps, load _mm512_loadu_ps, fma _mm512_fmadd_ps, add _mm512_add_ps,
    max _mm512_max_ps, masked_load load_16, masked_store store_16, few 4
}

kernels! {
    /// 6 rows × 16 columns.
    avx2, "avx2,fma,f16c", Avx2, lanes 8, rows [1 2 3 4 5] most 6,
    zero _mm256_setzero_ps, widen widen_8, broadcast _mm256_set1_ps, load _mm256_loadu_ps, fma _mm256_fmadd_ps, add _mm256_add_ps,
    max _mm256_max_ps, masked_load load_8, masked_store store_8, few 2
}

/// 16 numbers.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn widen_16(from: *const u16) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
}

/// 8 numbers.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn widen_8(from: *const u16) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
}
