//! Eight rows at once.

use std::arch::x86_64::*;

use crate::engine::cpu::simd::Simd;

use super::blocks::Blocks;
use super::lanes::{self, Lanes};

/// # Safety
/// AVX2 and FMA, and what [`super::strips::run`] asks for.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn run(
    blocks: &Blocks,
    dim: usize,
    rows: usize,
    simd: Simd,
    scratch: &mut [f32],
    at: impl Fn(usize, usize) -> *const f32,
    to: impl FnMut(usize) -> *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe { lanes::run::<Avx2>(blocks, dim, rows, simd, scratch, at, to) }
}

struct Avx2;

// SAFETY: every function is AVX2 and FMA alone.
unsafe impl Lanes for Avx2 {
    type Register = __m256;
    const COUNT: usize = 8;
    // 4 × 2 sums, 4 left vectors and one right one fit into 16 registers.
    const COLUMNS: usize = 2;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, register: __m256) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(to, register) }
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_set1_ps(*from) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn gather(from: impl Fn(usize) -> *const f32, count: usize, to: *mut f32) {
        // SAFETY: the caller's promise; masked lanes are not read.
        unsafe {
            let mut rows = [_mm256_setzero_ps(); 8];
            for (lane, row) in rows.iter_mut().enumerate() {
                let from = from(lane);
                *row = if count >= 8 { _mm256_loadu_ps(from) } else { _mm256_maskload_ps(from, mask(count)) };
            }
            transpose(&mut rows);
            for (k, row) in rows.iter().enumerate() {
                _mm256_storeu_ps(to.add(8 * k), *row);
            }
        }
    }
    #[inline(always)]
    unsafe fn scatter(from: *const f32, count: usize, rows: usize, mut to: impl FnMut(usize) -> *mut f32) {
        // SAFETY: the caller's promise; masked lanes are not written.
        unsafe {
            let mut registers = [_mm256_setzero_ps(); 8];
            for (at, register) in registers.iter_mut().enumerate() {
                *register = _mm256_loadu_ps(from.add(8 * at));
            }
            transpose(&mut registers);
            for (row, register) in registers.iter().enumerate() {
                if row < rows {
                    if count >= 8 {
                        _mm256_storeu_ps(to(row), *register);
                    } else {
                        _mm256_maskstore_ps(to(row), mask(count), *register);
                    }
                }
            }
        }
    }
}

/// The first `count` lanes.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn mask(count: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

/// Eight rows of eight become columns.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn transpose(rows: &mut [__m256; 8]) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut a = [_mm256_setzero_ps(); 8];
        for i in 0..4 {
            a[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            a[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        let mut b = [_mm256_setzero_ps(); 8];
        for i in 0..2 {
            for half in 0..2 {
                let (low, high) = (_mm256_castps_pd(a[4 * i + half]), _mm256_castps_pd(a[4 * i + 2 + half]));
                b[4 * i + 2 * half] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
                b[4 * i + 2 * half + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
            }
        }
        for c in 0..4 {
            rows[c] = _mm256_permute2f128_ps::<0x20>(b[c], b[4 + c]);
            rows[4 + c] = _mm256_permute2f128_ps::<0x31>(b[c], b[4 + c]);
        }
    }
}
