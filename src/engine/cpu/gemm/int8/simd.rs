//! Micro-kernels of integer products with vector instructions: one text, compiled for each instruction that multiplies.
//!
//! A group of four codes of a row is broadcast over a register and multiplied with four codes of each column: `[quad][column][4]` is how
//! weights are packed. Sums of a range are exact integers; ranges are added in f32, in order, then bias and addend.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::block::{Codes, Range, Scale};
use crate::engine::cpu::gemm::layer::Block;
use crate::engine::cpu::gemm::walk::{self, Kernel, kernel};
use crate::engine::cpu::lanes::Lanes;

/// Weights are asked for so many bytes ahead.
const AHEAD: usize = 8192;

/// Registers of codes, or of their sums, beside the floats that they become.
///
/// # Safety
/// All functions need the instructions of the level, and are meant to be inlined into a function that has them.
pub unsafe trait Integers: Copy {
    /// As many floats.
    type Floats: Lanes;

    /// # Safety
    /// The level's instructions.
    unsafe fn zero() -> Self;
    /// Codes of weights: four of each column.
    ///
    /// # Safety
    /// The level's instructions; a register to read.
    unsafe fn load(from: *const i8) -> Self;
    /// The same four codes for every column.
    ///
    /// # Safety
    /// The level's instructions.
    unsafe fn broadcast(codes: i32) -> Self;
    /// Sums as floats.
    ///
    /// # Safety
    /// The level's instructions.
    unsafe fn floats(self) -> Self::Floats;
}

macro_rules! integers {
    ($type:ty, $floats:ty, zero $zero:ident, load $load:ident, broadcast $broadcast:ident, floats $convert:ident) => {
        // SAFETY: the level's instructions alone.
        unsafe impl Integers for $type {
            type Floats = $floats;

            #[inline(always)]
            unsafe fn zero() -> $type {
                // SAFETY: the caller's promise.
                unsafe { $zero() }
            }
            #[inline(always)]
            unsafe fn load(from: *const i8) -> $type {
                // SAFETY: the caller's promise.
                unsafe { $load(from.cast()) }
            }
            #[inline(always)]
            unsafe fn broadcast(codes: i32) -> $type {
                // SAFETY: the caller's promise.
                unsafe { $broadcast(codes) }
            }
            #[inline(always)]
            unsafe fn floats(self) -> $floats {
                // SAFETY: the caller's promise.
                unsafe { $convert(self) }
            }
        }
    };
}

integers!(__m512i, __m512, zero _mm512_setzero_si512, load _mm512_loadu_si512, broadcast _mm512_set1_epi32, floats _mm512_cvtepi32_ps);
integers!(__m256i, __m256, zero _mm256_setzero_si256, load _mm256_loadu_si256, broadcast _mm256_set1_epi32, floats _mm256_cvtepi32_ps);

/// Micro-kernels of one instruction that multiplies.
///
/// # Safety
/// All functions need the kernel's instructions.
pub unsafe trait Multiply: Kernel<Lanes = <Self::Integers as Integers>::Floats> {
    /// Registers of codes.
    type Integers: Integers;

    /// Sums of four products, added to `sums`. To be inlined into a function that has the instructions.
    ///
    /// # Safety
    /// The kernel's instructions.
    unsafe fn dot(sums: Self::Integers, x: Self::Integers, weights: Self::Integers) -> Self::Integers;

    /// [`multiply`], compiled for the kernel's instructions. A function of its own: in the middle of another the compiler keeps sums in memory.
    ///
    /// # Safety
    /// Rows and panels lie within the block, and so does the range; the CPU has the instructions.
    unsafe fn multiply<const ROWS: usize, const VECTORS: usize, const PANELS: usize>(
        block: &Block<Codes>,
        row: usize,
        column: usize,
        range: &Range,
        out: &mut Tiles<Self::Integers, ROWS, VECTORS, PANELS>,
    );
}

/// A register for each vector of a micro-kernel.
type Tiles<R, const ROWS: usize, const VECTORS: usize, const PANELS: usize> = [[[MaybeUninit<R>; VECTORS]; PANELS]; ROWS];

macro_rules! kernels {
    ($($(#[$meta:meta])* $name:ident: $features:literal, $integers:ty, $lanes:ty, dot $dot:ident, rows $most:literal, panels $few:literal;)+) => {$(
        kernel! { $(#[$meta])* $name: $features, $lanes, Codes, rows $most, panels $few }

        // SAFETY: the instructions of `features` alone.
        unsafe impl Multiply for $name {
            type Integers = $integers;

            #[inline(always)]
            unsafe fn dot(sums: $integers, x: $integers, weights: $integers) -> $integers {
                // SAFETY: the caller's promise.
                unsafe { $dot(sums, x, weights) }
            }

            #[inline(always)]
            unsafe fn multiply<const ROWS: usize, const VECTORS: usize, const PANELS: usize>(
                block: &Block<Codes>,
                row: usize,
                column: usize,
                range: &Range,
                out: &mut Tiles<$integers, ROWS, VECTORS, PANELS>,
            ) {
                #[inline(never)]
                #[target_feature(enable = $features)]
                unsafe fn compiled<const ROWS: usize, const VECTORS: usize, const PANELS: usize>(
                    block: &Block<Codes>,
                    row: usize,
                    column: usize,
                    range: &Range,
                    out: &mut Tiles<$integers, ROWS, VECTORS, PANELS>,
                ) {
                    // SAFETY: the caller's promise.
                    unsafe { multiply::<$name, ROWS, VECTORS, PANELS>(block, row, column, range, out) }
                }
                // SAFETY: the caller's promise.
                unsafe { compiled::<ROWS, VECTORS, PANELS>(block, row, column, range, out) }
            }
        }
    )+};
}

kernels! {
    /// 14 rows × 32 columns in 28 of the 32 registers.
    Avx512Vnni: "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", __m512i, __m512, dot _mm512_dpbusd_epi32, rows 14, panels 4;
    /// 12 rows × 32 columns: two more registers hold what is on its way into a sum.
    Avx512: "avx512f,avx512bw,avx512dq,avx512vl", __m512i, __m512, dot dot_512, rows 12, panels 4;
    /// 6 rows × 16 columns in 12 of the 16 registers.
    AvxVnni: "avx2,fma,avxvnni", __m256i, __m256, dot _mm256_dpbusd_avx_epi32, rows 6, panels 2;
    /// 4 rows × 16 columns: the constant ones and what is on its way into a sum take registers too.
    Avx2: "avx2,fma", __m256i, __m256, dot dot_256, rows 4, panels 2;
}

/// # Safety
/// As [`Kernel::tiles`].
#[inline(always)]
unsafe fn tiles<K: Multiply, const ROWS: usize, const VECTORS: usize, const PANELS: usize>(
    block: &Block<Codes>,
    row: usize,
    column: usize,
) -> usize {
    let (lanes, weights) = (K::Lanes::COUNT, &block.weights);
    let width = VECTORS * lanes;
    let mut sums: Tiles<K::Integers, ROWS, VECTORS, PANELS> = [[[MaybeUninit::uninit(); VECTORS]; PANELS]; ROWS];
    let mut before: Tiles<K::Lanes, ROWS, VECTORS, PANELS> = [[[MaybeUninit::uninit(); VECTORS]; PANELS]; ROWS];
    // SAFETY: reads are of the rows' scales and codes, of the panels' codes and factors, of `bias` and `addends`; writes are of the `n` columns
    // of `c`; `sums` is written whole for every range before it is read, `before` is written by every range but the last and read by every
    // range but the first.
    unsafe {
        let a = block.a.add(row * block.a_stride);
        for (at, range) in weights.ranges.iter().enumerate() {
            K::multiply::<ROWS, VECTORS, PANELS>(block, row, column, range, &mut sums);
            let last = at + 1 == weights.ranges.len();
            for panel in 0..PANELS {
                for vector in 0..VECTORS {
                    let first = column + panel * width + vector * lanes;
                    let factor = at * weights.padded + first;
                    let (scales, lows) = (K::Lanes::load(weights.scales.add(factor)), K::Lanes::load(weights.lows.add(factor)));
                    let (bias, rest) = (K::Lanes::load(block.bias.add(first)), block.n - first);
                    for r in 0..ROWS {
                        let Scale { scale, low } = a.add(r * block.a_stride).cast::<Scale>().add(at).read();
                        let mut value = bias;
                        if at > 0 {
                            value = before[r][panel][vector].assume_init();
                        } else if !block.addends.is_null() {
                            value = value.add(K::Lanes::load_up_to((*block.addends.add(row + r)).add(first), rest));
                        }
                        let sum = sums[r][panel][vector].assume_init().floats().mul(K::Lanes::splat(scale));
                        value = sum.mul_add(scales, K::Lanes::splat(low).mul_add(lows, value));
                        if !last {
                            before[r][panel][vector].write(value);
                            continue;
                        }
                        if block.relu {
                            // The second operand is the result where one is NaN.
                            value = K::Lanes::splat(0.0).max(value);
                        }
                        let c = block.c.add((row + r) * block.c_stride + first);
                        if rest >= lanes {
                            value.store(c);
                        } else {
                            value.store_up_to(c, rest);
                        }
                    }
                }
            }
        }
    }
    PANELS * width
}

/// Sums of products of codes over one range.
///
/// # Safety
/// Rows and panels lie within the block, and so does the range; the kernel's instructions.
#[inline(always)]
unsafe fn multiply<K: Multiply, const ROWS: usize, const VECTORS: usize, const PANELS: usize>(
    block: &Block<Codes>,
    row: usize,
    column: usize,
    range: &Range,
    out: &mut Tiles<K::Integers, ROWS, VECTORS, PANELS>,
) {
    let (lanes, weights) = (K::Lanes::COUNT, &block.weights);
    let width = VECTORS * lanes;
    // SAFETY: reads are of the rows' codes and of the panels' codes.
    unsafe {
        let mut sums = [[[K::Integers::zero(); VECTORS]; PANELS]; ROWS];
        let a_stride = block.a_stride * size_of::<f32>();
        let codes = block.a.cast::<u8>().add(row * a_stride + weights.ranges.len() * size_of::<Scale>());
        let b = weights.codes.as_ptr().add(column * weights.quads * 4);
        for quad in range.quad..range.quad + range.quads {
            for panel in 0..PANELS {
                let b = b.add((panel * weights.quads + quad) * width * 4);
                let mut columns = [K::Integers::zero(); VECTORS];
                for (vector, columns) in columns.iter_mut().enumerate() {
                    let b = b.add(vector * lanes * 4);
                    _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD));
                    *columns = K::Integers::load(b);
                }
                for r in 0..ROWS {
                    let x = K::Integers::broadcast(codes.add(r * a_stride + quad * 4).cast::<i32>().read_unaligned());
                    for vector in 0..VECTORS {
                        sums[r][panel][vector] = K::dot(sums[r][panel][vector], x, columns[vector]);
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
