//! Micro-kernels over weights of 16 bits: one text, compiled for two widths.

use std::arch::x86_64::*;

use super::Panels;
use crate::engine::cpu::gemm::layer::Block;
use crate::engine::cpu::gemm::walk::{self, Kernel, kernel};
use crate::engine::cpu::lanes::Lanes;

/// Weights are asked for so many bytes ahead.
const AHEAD: usize = 4096;

kernel! {
    /// 14 rows × 32 columns.
    Avx512: "avx512f,avx512bw,avx512dq,avx512vl", __m512, Panels, rows 14, panels 4
}

kernel! {
    /// 6 rows × 16 columns.
    Avx2: "avx2,fma,f16c", __m256, Panels, rows 6, panels 2
}

/// # Safety
/// As [`Kernel::tiles`].
#[inline(always)]
unsafe fn tiles<K: Kernel, const ROWS: usize, const VECTORS: usize, const PANELS: usize>(
    block: &Block<Panels>,
    row: usize,
    column: usize,
) -> usize {
    let (lanes, k) = (K::Lanes::COUNT, block.weights.k);
    let width = VECTORS * lanes;
    // SAFETY: reads are of `k` elements of rows of `a`, of the panels' `k` rows, of `bias` and `addends`; writes are of the `n` columns of `c`.
    unsafe {
        let mut sums = [[[K::Lanes::splat(0.0); VECTORS]; PANELS]; ROWS];
        let a = block.a.add(row * block.a_stride);
        let b = block.weights.numbers.as_ptr().add(column * k);
        for at in 0..k {
            for panel in 0..PANELS {
                let b = b.add((panel * k + at) * width);
                _mm_prefetch::<_MM_HINT_T0>(b.cast::<i8>().wrapping_add(AHEAD));
                let mut weights = [K::Lanes::splat(0.0); VECTORS];
                for (vector, weights) in weights.iter_mut().enumerate() {
                    *weights = K::Lanes::load_f16(b.add(vector * lanes).cast());
                }
                for r in 0..ROWS {
                    let x = K::Lanes::splat(*a.add(r * block.a_stride + at));
                    for vector in 0..VECTORS {
                        sums[r][panel][vector] = x.mul_add(weights[vector], sums[r][panel][vector]);
                    }
                }
            }
        }
        for panel in 0..PANELS {
            for vector in 0..VECTORS {
                let at = column + panel * width + vector * lanes;
                let (bias, rest) = (K::Lanes::load(block.bias.add(at)), block.n - at);
                for r in 0..ROWS {
                    let mut value = sums[r][panel][vector].add(bias);
                    if !block.addends.is_null() {
                        value = value.add(K::Lanes::load_up_to((*block.addends.add(row + r)).add(at), rest));
                    }
                    if block.relu {
                        // The second operand is the result where one is NaN.
                        value = K::Lanes::splat(0.0).max(value);
                    }
                    value.store_up_to(block.c.add((row + r) * block.c_stride + at), rest);
                }
            }
        }
    }
    PANELS * width
}
