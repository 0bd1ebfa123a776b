//! [`Lanes`] in registers of 4, 8 (AVX2, FMA, F16C) and 16 floats (AVX-512).

#![allow(clippy::missing_safety_doc)] // that of the trait

use std::arch::x86_64::*;

use super::lanes::Lanes;

/// Masks of the first `count` lanes: element 8 - count on.
const FIRST: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// # Safety
/// AVX2; `count` is below 8.
#[inline(always)]
unsafe fn first(count: usize) -> __m256i {
    debug_assert!(count < 8);
    // SAFETY: elements 8 - count .. 16 - count of 16; the caller has AVX2.
    unsafe { _mm256_loadu_si256(FIRST.as_ptr().add(8 - count).cast()) }
}

/// The mask of the first `count` lanes, 8 at most.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn up_to_8(count: usize) -> __m256i {
    // SAFETY: the caller has AVX2.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(count.min(8) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

/// The mask of the first `count` lanes, 16 at most.
#[inline(always)]
fn up_to_16(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

// SAFETY: AVX2, FMA and F16C; pointers are read and written as the functions say.
unsafe impl Lanes for __m128 {
    const COUNT: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller has AVX2.
        unsafe { _mm_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise: 4 floats.
        unsafe { _mm_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise: `count` floats.
        unsafe {
            match count {
                1 => _mm_load_ss(from),
                2 => _mm_castpd_ps(_mm_load_sd(from.cast())),
                _ => _mm_movelh_ps(_mm_castpd_ps(_mm_load_sd(from.cast())), _mm_load_ss(from.add(2))),
            }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 8 bytes; F16C.
        unsafe { _mm_cvtph_ps(_mm_loadl_epi64(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 8 bytes.
        unsafe { _mm_castsi128_ps(_mm_slli_epi32::<16>(_mm_cvtepu16_epi32(_mm_loadl_epi64(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn load_8bit(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 4 bytes.
        unsafe { _mm_cvtepi32_ps(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(from.cast::<i32>().read_unaligned()))) }
    }
    #[inline(always)]
    unsafe fn load_4bit(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 2 bytes.
        unsafe {
            let packed = i32::from(from.cast::<u16>().read_unaligned());
            let codes = _mm_srlv_epi32(_mm_set1_epi32(packed), _mm_setr_epi32(0, 4, 8, 12));
            _mm_cvtepi32_ps(_mm_and_si128(codes, _mm_set1_epi32(15)))
        }
    }
    #[inline(always)]
    unsafe fn load_2bit(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 1 byte.
        unsafe {
            let codes = _mm_srlv_epi32(_mm_set1_epi32(i32::from(*from)), _mm_setr_epi32(0, 2, 4, 6));
            _mm_cvtepi32_ps(_mm_and_si128(codes, _mm_set1_epi32(3)))
        }
    }
    #[inline(always)]
    unsafe fn splat_f16(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 2 bytes; F16C.
        unsafe { _mm_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(from.cast::<u16>().read_unaligned())))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise: 4 floats.
        unsafe { _mm_storeu_ps(to, self) };
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise: `count` floats.
        unsafe {
            match count {
                0 => {}
                1 => _mm_store_ss(to, self),
                2 => _mm_storel_pd(to.cast(), _mm_castps_pd(self)),
                _ => {
                    _mm_storel_pd(to.cast(), _mm_castps_pd(self));
                    _mm_store_ss(to.add(2), _mm_movehl_ps(self, self));
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn add(self, addend: Self) -> Self {
        // SAFETY: the caller has AVX2.
        unsafe { _mm_add_ps(self, addend) }
    }
    #[inline(always)]
    unsafe fn mul(self, factor: Self) -> Self {
        // SAFETY: the caller has AVX2.
        unsafe { _mm_mul_ps(self, factor) }
    }
    #[inline(always)]
    unsafe fn div(self, divisor: Self) -> Self {
        // SAFETY: the caller has AVX2.
        unsafe { _mm_div_ps(self, divisor) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller has AVX2.
        unsafe { _mm_max_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller has FMA.
        unsafe { _mm_fmadd_ps(self, factor, addend) }
    }
    #[inline(always)]
    unsafe fn fused_mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller has FMA.
        unsafe { _mm_fmadd_ps(self, factor, addend) }
    }
}

// SAFETY: AVX2, FMA and F16C; pointers are read and written as the functions say.
unsafe impl Lanes for __m256 {
    const COUNT: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise: 8 floats.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise; masked lanes are not read.
        unsafe { _mm256_maskload_ps(from, first(count)) }
    }
    #[inline(always)]
    unsafe fn load_up_to(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise; masked lanes are not read.
        unsafe { if count >= 8 { _mm256_loadu_ps(from) } else { _mm256_maskload_ps(from, up_to_8(count)) } }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 16 bytes; F16C.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 16 bytes.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn load_8bit(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 8 bytes.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_4bit(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 4 bytes.
        unsafe {
            let codes =
                _mm256_srlv_epi32(_mm256_set1_epi32(from.cast::<i32>().read_unaligned()), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
            _mm256_cvtepi32_ps(_mm256_and_si256(codes, _mm256_set1_epi32(15)))
        }
    }
    #[inline(always)]
    unsafe fn load_2bit(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 2 bytes.
        unsafe {
            let packed = i32::from(from.cast::<u16>().read_unaligned());
            let codes = _mm256_srlv_epi32(_mm256_set1_epi32(packed), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
            _mm256_cvtepi32_ps(_mm256_and_si256(codes, _mm256_set1_epi32(3)))
        }
    }
    #[inline(always)]
    unsafe fn splat_f16(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 2 bytes; F16C.
        unsafe {
            let half = _mm_cvtsi32_si128(i32::from(from.cast::<u16>().read_unaligned()));
            _mm256_broadcastss_ps(_mm_cvtph_ps(half))
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise: 8 floats.
        unsafe { _mm256_storeu_ps(to, self) };
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise: `count` floats. In halves: masked stores of AVX2 are slow on some CPUs.
        unsafe {
            let low = _mm256_castps256_ps128(self);
            if count < 4 {
                return low.store_first(to, count);
            }
            low.store(to);
            _mm256_extractf128_ps::<1>(self).store_first(to.add(4), count - 4);
        }
    }
    #[inline(always)]
    unsafe fn store_up_to(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise; masked lanes are not written.
        unsafe { if count >= 8 { _mm256_storeu_ps(to, self) } else { _mm256_maskstore_ps(to, up_to_8(count), self) } };
    }
    #[inline(always)]
    unsafe fn add(self, addend: Self) -> Self {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_add_ps(self, addend) }
    }
    #[inline(always)]
    unsafe fn mul(self, factor: Self) -> Self {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_mul_ps(self, factor) }
    }
    #[inline(always)]
    unsafe fn div(self, divisor: Self) -> Self {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_div_ps(self, divisor) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_max_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller has FMA.
        unsafe { _mm256_fmadd_ps(self, factor, addend) }
    }
    #[inline(always)]
    unsafe fn fused_mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller has FMA.
        unsafe { _mm256_fmadd_ps(self, factor, addend) }
    }
}

// SAFETY: AVX-512 F, BW, DQ and VL; pointers are read and written as the functions say.
unsafe impl Lanes for __m512 {
    const COUNT: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise: 16 floats.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps((1 << count) - 1, from) }
    }
    #[inline(always)]
    unsafe fn load_up_to(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(up_to_16(count), from) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 32 bytes.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn load_8bit(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 16 bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_4bit(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 8 bytes. Lanes 0 to 7 take the first word, 8 to 15 the second.
        unsafe {
            let words = _mm512_castsi128_si512(_mm_loadl_epi64(from.cast()));
            let words = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), words);
            let shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
            _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srlv_epi32(words, shifts), _mm512_set1_epi32(15)))
        }
    }
    #[inline(always)]
    unsafe fn load_2bit(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 4 bytes.
        unsafe {
            let word = _mm512_set1_epi32(from.cast::<i32>().read_unaligned());
            let shifts = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srlv_epi32(word, shifts), _mm512_set1_epi32(3)))
        }
    }
    #[inline(always)]
    unsafe fn splat_f16(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 2 bytes.
        unsafe {
            let half = _mm_cvtsi32_si128(i32::from(from.cast::<u16>().read_unaligned()));
            _mm512_broadcastss_ps(_mm_cvtph_ps(half))
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise: 16 floats.
        unsafe { _mm512_storeu_ps(to, self) };
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(to, (1 << count) - 1, self) };
    }
    #[inline(always)]
    unsafe fn store_up_to(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(to, up_to_16(count), self) };
    }
    #[inline(always)]
    unsafe fn add(self, addend: Self) -> Self {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_add_ps(self, addend) }
    }
    #[inline(always)]
    unsafe fn mul(self, factor: Self) -> Self {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_mul_ps(self, factor) }
    }
    #[inline(always)]
    unsafe fn div(self, divisor: Self) -> Self {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_div_ps(self, divisor) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_max_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_fmadd_ps(self, factor, addend) }
    }
    #[inline(always)]
    unsafe fn fused_mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_fmadd_ps(self, factor, addend) }
    }
}
