//! Micro-kernels of integer products with vector instructions: one text, compiled for each instruction that multiplies.
//!
//! A group of four codes of a row is broadcast over a register and multiplied with four codes of each column: `[quad][column][4]` is how
//! weights are packed. Sums of a range are exact integers; ranges are added in f32, in order, then bias and addend. Few rows take several
//! panels at once, so that enough sums are under way to hide the latency of the multiplier.

// Several arrays of registers are indexed by the same number, in loops that are unrolled.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::super::row_blocks;
use super::block::{Block, Dot, Range, Scale};
use crate::engine::cpu::simd::SimdLevel;

/// Weights are asked for so many bytes ahead.
const AHEAD: usize = 8192;

macro_rules! kernels {
    (
        $(#[$meta:meta])* $name:ident, $features:literal, $level:ident, lanes $lanes:literal, rows [$($rows:literal)+] most $most:literal,
        integers $int:ty, zero $zero:ident, load $load:ident, broadcast $broadcast:ident, dot $dot:expr,
        floats $float:ty, convert $convert:ident, set $set:ident, float_load $float_load:ident, float_store $float_store:ident, mul $mul:ident, fma $fma:ident, add $add:ident,
        max $max:ident, float_zero $float_zero:ident, masked_load $masked_load:expr, masked_store $masked_store:expr, few $few:literal
    ) => {
        $(#[$meta])*
        pub mod $name {
            use super::*;

            const PANEL: usize = Dot::geometry(SimdLevel::$level).panel;
            const LANES: usize = $lanes;

            /// # Safety
            /// As [`super::super::block::product`]; the CPU has the instructions.
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
                let width = VECTORS * LANES;
                let mut sums = [[[MaybeUninit::<$int>::uninit(); VECTORS]; PANELS]; ROWS];
                let mut before = [[[MaybeUninit::<$float>::uninit(); VECTORS]; PANELS]; ROWS];
                // SAFETY: reads are of the rows' scales and codes, of the panels' codes and factors, of `bias` and `addends`; writes are masked
                // to the `n` columns of `c`; `sums` is written whole for every range before it is read, `before` is written by every range but
                // the last and read by every range but the first.
                unsafe {
                    let a = block.a.add(row * block.a_stride);
                    for (at, range) in block.ranges.iter().enumerate() {
                        multiply::<ROWS, VECTORS, PANELS>(block, row, column, range, &mut sums);
                        let last = at + 1 == block.ranges.len();
                        for panel in 0..PANELS {
                            for vector in 0..VECTORS {
                                let first = column + panel * width + vector * LANES;
                                let factor = at * block.padded + first;
                                let (scales, lows) = ($float_load(block.scales.add(factor)), $float_load(block.lows.add(factor)));
                                let (bias, rest) = ($float_load(block.bias.add(first)), block.n - first);
                                for r in 0..ROWS {
                                    let Scale { scale, low } = a.add(r * block.a_stride).cast::<Scale>().add(at).read();
                                    let mut value = bias;
                                    if at > 0 {
                                        value = before[r][panel][vector].assume_init();
                                    } else if !block.addends.is_null() {
                                        let addends = (*block.addends.add(row + r)).add(first);
                                        value = $add(value, $masked_load(rest, addends));
                                    }
                                    let sum = $mul($convert(sums[r][panel][vector].assume_init()), $set(scale));
                                    value = $fma(sum, scales, $fma($set(low), lows, value));
                                    if !last {
                                        before[r][panel][vector].write(value);
                                        continue;
                                    }
                                    if block.relu {
                                        // The second operand is the result where one is NaN.
                                        value = $max($float_zero(), value);
                                    }
                                    let c = block.c.add((row + r) * block.c_stride + first);
                                    if rest >= LANES {
                                        $float_store(c, value);
                                    } else {
                                        $masked_store(rest, c, value);
                                    }
                                }
                            }
                        }
                    }
                }
                PANELS * width
            }

            /// Sums of products of codes over one range. A function of its own: in the middle of another the compiler keeps sums in memory.
            ///
            /// # Safety
            /// Rows and panels lie within the block, and so does the range.
            #[inline(never)]
            #[target_feature(enable = $features)]
            unsafe fn multiply<const ROWS: usize, const VECTORS: usize, const PANELS: usize>(
                block: &Block,
                row: usize,
                column: usize,
                range: &Range,
                out: &mut [[[MaybeUninit<$int>; VECTORS]; PANELS]; ROWS],
            ) {
                let width = VECTORS * LANES;
                let mut sums = [[[$zero(); VECTORS]; PANELS]; ROWS];
                // SAFETY: reads are of the rows' codes and of the panels' codes.
                unsafe {
                    let codes = block.a.add(row * block.a_stride + block.ranges.len() * size_of::<Scale>());
                    let b = block.b.add(column * block.quads * 4);
                    for quad in range.quad..range.quad + range.quads {
                        for panel in 0..PANELS {
                            let b = b.add((panel * block.quads + quad) * width * 4);
                            let mut weights = [$zero(); VECTORS];
                            for (vector, weights) in weights.iter_mut().enumerate() {
                                let b = b.add(vector * LANES * 4);
                                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD).cast());
                                *weights = $load(b.cast());
                            }
                            for r in 0..ROWS {
                                let x = $broadcast(codes.add(r * block.a_stride + quad * 4).cast::<i32>().read_unaligned());
                                for vector in 0..VECTORS {
                                    sums[r][panel][vector] = $dot(sums[r][panel][vector], x, weights[vector]);
                                }
                            }
                        }
                    }
                }
                for r in 0..ROWS {
                    for panel in 0..PANELS {
                        for vector in 0..VECTORS {
                            out[r][panel][vector].write(sums[r][panel][vector]);
                        }
                    }
                }
            }
        }
    };
}

kernels! {
    /// 14 rows × 32 columns in 28 of the 32 registers.
    avx512vnni, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", Avx512, lanes 16, rows [1 2 3 4 5 6 7 8 9 10 11 12 13] most 14,
    integers __m512i, zero _mm512_setzero_si512, load _mm512_loadu_si512, broadcast _mm512_set1_epi32, dot _mm512_dpbusd_epi32,
    floats __m512, convert _mm512_cvtepi32_ps, set _mm512_set1_ps, float_load _mm512_loadu_ps, float_store _mm512_storeu_ps, mul _mm512_mul_ps, fma _mm512_fmadd_ps,
    add _mm512_add_ps, max _mm512_max_ps, float_zero _mm512_setzero_ps, masked_load load_16, masked_store store_16, few 4
}

kernels! {
    /// 12 rows × 32 columns: two more registers hold what is on its way into a sum.
    avx512bw, "avx512f,avx512bw,avx512dq,avx512vl", Avx512, lanes 16, rows [1 2 3 4 5 6 7 8 9 10 11] most 12,
    integers __m512i, zero _mm512_setzero_si512, load _mm512_loadu_si512, broadcast _mm512_set1_epi32, dot dot_512,
    floats __m512, convert _mm512_cvtepi32_ps, set _mm512_set1_ps, float_load _mm512_loadu_ps, float_store _mm512_storeu_ps, mul _mm512_mul_ps, fma _mm512_fmadd_ps,
    add _mm512_add_ps, max _mm512_max_ps, float_zero _mm512_setzero_ps, masked_load load_16, masked_store store_16, few 4
}

kernels! {
    /// 6 rows × 16 columns in 12 of the 16 registers.
    avxvnni, "avx2,fma,avxvnni", Avx2, lanes 8, rows [1 2 3 4 5] most 6,
    integers __m256i, zero _mm256_setzero_si256, load _mm256_loadu_si256, broadcast _mm256_set1_epi32, dot _mm256_dpbusd_avx_epi32,
    floats __m256, convert _mm256_cvtepi32_ps, set _mm256_set1_ps, float_load _mm256_loadu_ps, float_store _mm256_storeu_ps, mul _mm256_mul_ps, fma _mm256_fmadd_ps,
    add _mm256_add_ps, max _mm256_max_ps, float_zero _mm256_setzero_ps, masked_load load_8, masked_store store_8, few 2
}

kernels! {
    /// 4 rows × 16 columns: the constant ones and what is on its way into a sum take registers too.
    avx2, "avx2,fma", Avx2, lanes 8, rows [1 2 3] most 4,
    integers __m256i, zero _mm256_setzero_si256, load _mm256_loadu_si256, broadcast _mm256_set1_epi32, dot dot_256,
    floats __m256, convert _mm256_cvtepi32_ps, set _mm256_set1_ps, float_load _mm256_loadu_ps, float_store _mm256_storeu_ps, mul _mm256_mul_ps, fma _mm256_fmadd_ps,
    add _mm256_add_ps, max _mm256_max_ps, float_zero _mm256_setzero_ps, masked_load load_8, masked_store store_8, few 2
}

/// Sums of four products, added to `sums`; codes of `x` have 7 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn dot_512(sums: __m512i, x: __m512i, weights: __m512i) -> __m512i {
    _mm512_add_epi32(sums, _mm512_madd_epi16(_mm512_maddubs_epi16(x, weights), _mm512_set1_epi16(1)))
}

/// As [`dot_512`].
#[inline]
#[target_feature(enable = "avx2")]
fn dot_256(sums: __m256i, x: __m256i, weights: __m256i) -> __m256i {
    _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(x, weights), _mm256_set1_epi16(1)))
}

/// The first `count` elements, zeros behind them.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx512f")]
pub unsafe fn load_16(count: usize, from: *const f32) -> __m512 {
    let mask = if count >= 16 { !0 } else { (1u16 << count) - 1 };
    // SAFETY: the caller's promise.
    unsafe { _mm512_maskz_loadu_ps(mask, from) }
}

/// Writes the first `count` elements.
///
/// # Safety
/// They can be written.
#[inline]
#[target_feature(enable = "avx512f")]
pub unsafe fn store_16(count: usize, to: *mut f32, value: __m512) {
    let mask = if count >= 16 { !0 } else { (1u16 << count) - 1 };
    // SAFETY: the caller's promise.
    unsafe { _mm512_mask_storeu_ps(to, mask, value) }
}

/// As [`load_16`].
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2")]
pub unsafe fn load_8(count: usize, from: *const f32) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_maskload_ps(from, mask_8(count)) }
}

/// As [`store_16`].
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2")]
pub unsafe fn store_8(count: usize, to: *mut f32, value: __m256) {
    // SAFETY: the caller's promise.
    unsafe { _mm256_maskstore_ps(to, mask_8(count), value) }
}

/// The first `count` lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn mask_8(count: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count.min(8) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}
