//! Sixteen rows at once.

use std::arch::x86_64::*;

use super::lanes::{self, Square};

lanes::compiled! { "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma", __m512, 16 }

// SAFETY: 16 lanes; AVX-512F alone.
unsafe impl Square<16> for __m512 {
    const COLUMNS: usize = 4;

    #[inline(always)]
    /// Pairs, fours, then 128-bit parts change places.
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
}
