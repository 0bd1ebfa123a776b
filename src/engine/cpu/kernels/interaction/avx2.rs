//! Eight rows at once.

use std::arch::x86_64::*;

use super::lanes::{self, Square};

lanes::compiled! { "avx2,fma", __m256, 8 }

// SAFETY: 8 lanes; AVX2 and FMA alone.
unsafe impl Square<8> for __m256 {
    const COLUMNS: usize = 2;

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
}
