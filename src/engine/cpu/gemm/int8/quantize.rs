//! Rows of activations to codes, with a scale of their own per row and range.

use super::block::{Range, Scale};
use crate::engine::cpu::simd::{MulAdd, Simd, SimdLevel, multiversion};

/// Quantises the ranges of a row, each element times its factor: `out` gets a [`Scale`] per range, then the codes, 0 to `levels`, each range filled up to groups of four.
///
/// The codes of a range reach from its least element to its greatest. A range that holds an infinity or a NaN gets NaN for its scale, and so
/// does everything that is computed from it.
pub fn quantize_row(simd: Simd, x: &[f32], factors: &[f32], ranges: &[Range], levels: u8, out: &mut [u8]) {
    let (scales, codes) = out.split_at_mut(ranges.len() * size_of::<Scale>());
    let scales: &mut [Scale] = bytemuck::cast_slice_mut(scales);
    for (scale, range) in scales.iter_mut().zip(ranges) {
        let codes = &mut codes[range.quad * 4..(range.quad + range.quads) * 4];
        let inputs = range.first..range.first + range.len;
        let (x, factors) = (&x[inputs.clone()], &factors[inputs]);
        *scale = match simd.level() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Simd` of this level exists only where the CPU has its instructions.
            SimdLevel::Avx512 => unsafe { avx512::quantize(x, factors, levels, codes) },
            _ => quantize(simd, x, factors, levels, codes),
        };
    }
}

/// Factor to codes, and what the codes mean. `check` is 0 or NaN.
fn scale_of(low: f32, high: f32, check: f32, levels: u8) -> (f32, Scale) {
    let (spread, levels) = (high - low, f32::from(levels));
    // A spread whose inverse is no number: all elements are as good as equal.
    if spread < SPREAD_MIN {
        return (0.0, Scale { scale: check, low: low + check });
    }
    (levels / spread, Scale { scale: spread / levels + check, low: low + check })
}

const SPREAD_MIN: f32 = 1e-30;

multiversion! {
    fn quantize(x: &[f32], factors: &[f32], levels: u8, codes: &mut [u8]) -> Scale = quantize_body;
}

#[inline(always)]
fn quantize_body<M: MulAdd>(x: &[f32], factors: &[f32], levels: u8, codes: &mut [u8]) -> Scale {
    const LANES: usize = 16;
    let (mut low, mut high, mut check) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES], [0.0f32; LANES]);
    for (x, factors) in x.chunks(LANES).zip(factors.chunks(LANES)) {
        for (lane, (x, factor)) in x.iter().zip(factors).enumerate() {
            let x = x * factor;
            low[lane] = if x < low[lane] { x } else { low[lane] };
            high[lane] = if x > high[lane] { x } else { high[lane] };
            check[lane] += x * 0.0;
        }
    }
    let low = low.into_iter().fold(f32::INFINITY, f32::min);
    let high = high.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let (to_code, scale) = scale_of(low, high, check.into_iter().sum(), levels);
    // Where elements are no numbers the codes do not matter: the scale is NaN.
    for (code, (x, factor)) in codes.iter_mut().zip(x.iter().zip(factors)) {
        // Rounded to the nearest: a number below 2^22 has no fraction left once 1.5 · 2^23 was added to it.
        *code = ((x * factor - low) * to_code + ROUND).to_bits() as u8;
    }
    codes[x.len()..].fill(0);
    scale
}

const ROUND: f32 = 12_582_912.0;

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Scale, scale_of};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub fn quantize(x: &[f32], factors: &[f32], levels: u8, codes: &mut [u8]) -> Scale {
        assert!(codes.len() >= x.len() && factors.len() == x.len(), "a code and a factor per element");
        // SAFETY: 16 elements, or the rest, from an index below the length on.
        let load = |at: usize| unsafe {
            let mask = mask(x.len() - at);
            let (x, factors) = (_mm512_maskz_loadu_ps(mask, x.as_ptr().add(at)), _mm512_maskz_loadu_ps(mask, factors.as_ptr().add(at)));
            (mask, _mm512_mul_ps(x, factors))
        };
        let (mut low, mut high) = ([_mm512_set1_ps(f32::INFINITY); 2], [_mm512_set1_ps(f32::NEG_INFINITY); 2]);
        let mut check = [_mm512_setzero_ps(); 2];
        for at in (0..x.len()).step_by(32) {
            for half in 0..2 {
                if at + half * 16 < x.len() {
                    let (mask, x) = load(at + half * 16);
                    low[half] = _mm512_mask_min_ps(low[half], mask, x, low[half]);
                    high[half] = _mm512_mask_max_ps(high[half], mask, x, high[half]);
                    check[half] = _mm512_add_ps(check[half], _mm512_sub_ps(x, x));
                }
            }
        }
        let low = _mm512_reduce_min_ps(_mm512_min_ps(low[0], low[1]));
        let high = _mm512_reduce_max_ps(_mm512_max_ps(high[0], high[1]));
        let check = _mm512_reduce_add_ps(_mm512_add_ps(check[0], check[1]));
        let (to_code, scale) = scale_of(low, high, check, levels);
        let (low, to_code) = (_mm512_set1_ps(low), _mm512_set1_ps(to_code));
        for at in (0..x.len()).step_by(16) {
            let (mask, x) = load(at);
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_sub_ps(x, low), to_code)));
            // SAFETY: the codes of the same elements.
            unsafe { _mm_mask_storeu_epi8(codes.as_mut_ptr().add(at).cast(), mask, bytes) };
        }
        codes[x.len()..].fill(0);
        scale
    }

    fn mask(count: usize) -> u16 {
        if count >= 16 { !0 } else { (1 << count) - 1 }
    }
}
