//! Rows of activations to codes, with a scale of their own per row and range.

use super::block::{Range, Scale};
use crate::engine::cpu::simd::{MulAdd, Simd, SimdLevel, multiversion};

/// Quantises the ranges of a row: `out` gets a [`Scale`] per range, then the codes, 0 to `levels`, each range filled up to groups of four.
///
/// The codes of a range reach from its least element to its greatest. A range that holds an infinity or a NaN gets NaN for its scale, and so
/// does everything that is computed from it.
pub fn quantize_row(simd: Simd, x: &[f32], ranges: &[Range], levels: u8, out: &mut [u8]) {
    let (scales, codes) = out.split_at_mut(ranges.len() * size_of::<Scale>());
    let scales: &mut [Scale] = bytemuck::cast_slice_mut(scales);
    for (scale, range) in scales.iter_mut().zip(ranges) {
        let codes = &mut codes[range.quad * 4..(range.quad + range.quads) * 4];
        let x = &x[range.first..range.first + range.len];
        *scale = match simd.level() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Simd` of this level exists only where the CPU has its instructions.
            SimdLevel::Avx512 => unsafe { avx512::quantize(x, levels, codes) },
            _ => quantize(simd, x, levels, codes),
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
    fn quantize(x: &[f32], levels: u8, codes: &mut [u8]) -> Scale = quantize_body;
}

#[inline(always)]
fn quantize_body<M: MulAdd>(x: &[f32], levels: u8, codes: &mut [u8]) -> Scale {
    const LANES: usize = 16;
    let (mut low, mut high, mut check) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES], [0.0f32; LANES]);
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            let x = chunk[lane];
            low[lane] = if x < low[lane] { x } else { low[lane] };
            high[lane] = if x > high[lane] { x } else { high[lane] };
            check[lane] += x - x;
        }
    }
    for (lane, &x) in chunks.remainder().iter().enumerate() {
        low[lane] = if x < low[lane] { x } else { low[lane] };
        high[lane] = if x > high[lane] { x } else { high[lane] };
        check[lane] += x - x;
    }
    let low = low.into_iter().fold(f32::INFINITY, f32::min);
    let high = high.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let (factor, scale) = scale_of(low, high, check.into_iter().sum(), levels);
    // Where elements are no numbers the codes do not matter: the scale is NaN.
    for (code, &x) in codes.iter_mut().zip(x) {
        // Rounded to the nearest: a number below 2^22 has no fraction left once 1.5 · 2^23 was added to it.
        *code = ((x - low) * factor + ROUND).to_bits() as u8;
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
    pub fn quantize(x: &[f32], levels: u8, codes: &mut [u8]) -> Scale {
        assert!(codes.len() >= x.len(), "a code per element");
        let (mut low, mut high) = ([_mm512_set1_ps(f32::INFINITY); 2], [_mm512_set1_ps(f32::NEG_INFINITY); 2]);
        let mut check = [_mm512_setzero_ps(); 2];
        let mut chunks = x.chunks_exact(32);
        for chunk in &mut chunks {
            for half in 0..2 {
                // SAFETY: 16 of the chunk's 32 elements.
                let x = unsafe { _mm512_loadu_ps(chunk.as_ptr().add(half * 16)) };
                (low[half], high[half]) = (_mm512_min_ps(x, low[half]), _mm512_max_ps(x, high[half]));
                check[half] = _mm512_add_ps(check[half], _mm512_sub_ps(x, x));
            }
        }
        for rest in chunks.remainder().chunks(16) {
            let mask = mask(rest.len());
            // SAFETY: the elements of the rest.
            let x = unsafe { _mm512_maskz_loadu_ps(mask, rest.as_ptr()) };
            low[0] = _mm512_mask_min_ps(low[0], mask, x, low[0]);
            high[0] = _mm512_mask_max_ps(high[0], mask, x, high[0]);
            check[0] = _mm512_add_ps(check[0], _mm512_sub_ps(x, x));
        }
        let low = _mm512_reduce_min_ps(_mm512_min_ps(low[0], low[1]));
        let high = _mm512_reduce_max_ps(_mm512_max_ps(high[0], high[1]));
        let check = _mm512_reduce_add_ps(_mm512_add_ps(check[0], check[1]));
        let (factor, scale) = scale_of(low, high, check, levels);
        let (low, factor) = (_mm512_set1_ps(low), _mm512_set1_ps(factor));
        let mut chunks = x.chunks_exact(16);
        let mut at = 0;
        for chunk in &mut chunks {
            // SAFETY: 16 elements, and the codes of the same 16.
            unsafe {
                let x = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(chunk.as_ptr()), low), factor);
                _mm_storeu_si128(codes.as_mut_ptr().add(at).cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
            }
            at += 16;
        }
        let (rest, codes) = (chunks.remainder(), &mut codes[at..]);
        for (rest, codes) in rest.chunks(16).zip(codes.chunks_mut(16)) {
            // SAFETY: the elements of the rest, and their codes.
            unsafe {
                let x = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask(rest.len()), rest.as_ptr()), low), factor);
                let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
                _mm_mask_storeu_epi8(codes.as_mut_ptr().cast(), mask(rest.len()), bytes);
            }
        }
        codes[rest.len()..].fill(0);
        scale
    }

    fn mask(count: usize) -> u16 {
        if count >= 16 { !0 } else { (1 << count) - 1 }
    }
}
