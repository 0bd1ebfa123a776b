//! Sixteen rows at once.

use std::arch::x86_64::*;

use crate::engine::cpu::simd::Simd;

use super::blocks::Blocks;
use super::lanes::{self, Lanes};

/// # Safety
/// AVX-512F, and what [`super::strips::run`] asks for.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
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
    unsafe { lanes::run::<Avx512>(blocks, dim, rows, simd, scratch, at, to) }
}

struct Avx512;

// SAFETY: every function is AVX-512F alone.
unsafe impl Lanes for Avx512 {
    type Register = __m512;
    const COUNT: usize = 16;
    const COLUMNS: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, register: __m512) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(to, register) }
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_ps(*from) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn gather(from: impl Fn(usize) -> *const f32, count: usize, to: *mut f32) {
        // SAFETY: the caller's promise; masked lanes are not read.
        unsafe {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (lane, row) in rows.iter_mut().enumerate() {
                *row = _mm512_maskz_loadu_ps(mask(count), from(lane));
            }
            transpose(&mut rows);
            for (k, row) in rows.iter().enumerate() {
                _mm512_storeu_ps(to.add(16 * k), *row);
            }
        }
    }
    #[inline(always)]
    unsafe fn scatter(from: *const f32, count: usize, rows: usize, mut to: impl FnMut(usize) -> *mut f32) {
        // SAFETY: the caller's promise; masked lanes are not written.
        unsafe {
            let mut registers = [_mm512_setzero_ps(); 16];
            for (at, register) in registers.iter_mut().enumerate() {
                *register = _mm512_loadu_ps(from.add(16 * at));
            }
            transpose(&mut registers);
            for (row, register) in registers.iter().enumerate() {
                if row < rows {
                    _mm512_mask_storeu_ps(to(row), mask(count), *register);
                }
            }
        }
    }
}

#[inline(always)]
fn mask(count: usize) -> u16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// Sixteen rows of sixteen become columns: pairs, fours, then 128-bit parts change places.
///
/// # Safety
/// AVX-512F.
#[inline(always)]
unsafe fn transpose(rows: &mut [__m512; 16]) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut a = [_mm512_setzero_ps(); 16];
        for i in 0..8 {
            a[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            a[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        let mut b = [_mm512_setzero_ps(); 16];
        for i in 0..4 {
            for half in 0..2 {
                let (low, high) = (_mm512_castps_pd(a[4 * i + half]), _mm512_castps_pd(a[4 * i + 2 + half]));
                b[4 * i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
                b[4 * i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
            }
        }
        // b[4 i + c] holds, in part p, column 4 p + c of rows 4 i .. 4 i + 4.
        for c in 0..4 {
            let low02 = _mm512_shuffle_f32x4::<0x88>(b[c], b[4 + c]);
            let low13 = _mm512_shuffle_f32x4::<0xdd>(b[c], b[4 + c]);
            let high02 = _mm512_shuffle_f32x4::<0x88>(b[8 + c], b[12 + c]);
            let high13 = _mm512_shuffle_f32x4::<0xdd>(b[8 + c], b[12 + c]);
            rows[c] = _mm512_shuffle_f32x4::<0x88>(low02, high02);
            rows[8 + c] = _mm512_shuffle_f32x4::<0xdd>(low02, high02);
            rows[4 + c] = _mm512_shuffle_f32x4::<0x88>(low13, high13);
            rows[12 + c] = _mm512_shuffle_f32x4::<0xdd>(low13, high13);
        }
    }
}
