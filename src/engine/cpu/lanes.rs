//! Registers of f32: one body of a kernel serves every instruction set and width.
//!
//! Narrow formats are decoded on the way: bytes of a row become lanes without a stop in memory.

use half::f16;

/// `COUNT` floats in a register.
///
/// # Safety
/// Of all functions:
/// - The CPU has the instructions of the implementing type, and the caller is compiled for them.
/// - Pointers may be read or written for as many elements as the function says, at any alignment.
pub unsafe trait Lanes: Copy {
    /// Lanes.
    const COUNT: usize;

    /// The same number in every lane.
    unsafe fn splat(value: f32) -> Self;
    /// `COUNT` floats.
    unsafe fn load(from: *const f32) -> Self;
    /// `count` < `COUNT` floats, then zeros.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    /// `count` floats, `COUNT` at most, then zeros.
    #[inline(always)]
    unsafe fn load_up_to(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe { if count >= Self::COUNT { Self::load(from) } else { Self::load_first(from, count) } }
    }
    /// `COUNT` f16.
    unsafe fn load_f16(from: *const u8) -> Self;
    /// `COUNT` bf16.
    unsafe fn load_bf16(from: *const u8) -> Self;
    /// `COUNT` codes of 8 bits.
    unsafe fn load_8bit(from: *const u8) -> Self;
    /// `COUNT` codes of 4 bits, low ones first.
    unsafe fn load_4bit(from: *const u8) -> Self;
    /// `COUNT` codes of 2 bits, low ones first.
    unsafe fn load_2bit(from: *const u8) -> Self;
    /// One f16 in every lane.
    unsafe fn splat_f16(from: *const u8) -> Self;
    /// Writes `COUNT` floats.
    unsafe fn store(self, to: *mut f32);
    /// Writes the first `count` < `COUNT`.
    unsafe fn store_first(self, to: *mut f32, count: usize);
    /// Writes the first `count`, `COUNT` at most.
    #[inline(always)]
    unsafe fn store_up_to(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise.
        unsafe { if count >= Self::COUNT { self.store(to) } else { self.store_first(to, count) } }
    }
    /// self + addend.
    unsafe fn add(self, addend: Self) -> Self;
    /// self · factor.
    unsafe fn mul(self, factor: Self) -> Self;
    /// self / divisor.
    unsafe fn div(self, divisor: Self) -> Self;
    /// The larger one of each lane; `other` where one is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// self · factor + addend, rounded as the level rounds: once with FMA, twice without.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// self · factor + addend, rounded once.
    unsafe fn fused_mul_add(self, factor: Self, addend: Self) -> Self;
}

/// Plain floats, which the compiler puts into registers as it can: the portable level.
#[derive(Clone, Copy)]
pub struct Plain([f32; N]);

/// Lanes of [`Plain`].
const N: usize = 8;

impl Plain {
    #[inline(always)]
    fn make(lane: impl Fn(usize) -> f32) -> Plain {
        let mut lanes = [0.0; N];
        for (at, value) in lanes.iter_mut().enumerate() {
            *value = lane(at);
        }
        Plain(lanes)
    }
}

// SAFETY: no instructions beyond the target's own; pointers are read and written as the functions say.
unsafe impl Lanes for Plain {
    const COUNT: usize = N;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Plain([value; N])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Plain(unsafe { from.cast::<[f32; N]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise: `count` floats.
        Plain::make(|lane| if lane < count { unsafe { from.add(lane).read_unaligned() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller's promise: `N` elements of 2 bytes.
        Plain::make(|lane| f16::from_bits(unsafe { from.cast::<u16>().add(lane).read_unaligned() }).to_f32_const())
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: as above.
        Plain::make(|lane| f32::from_bits(u32::from(unsafe { from.cast::<u16>().add(lane).read_unaligned() }) << 16))
    }
    #[inline(always)]
    unsafe fn load_8bit(from: *const u8) -> Self {
        // SAFETY: the caller's promise: `N` bytes.
        Plain::make(|lane| f32::from(unsafe { *from.add(lane) }))
    }
    #[inline(always)]
    unsafe fn load_4bit(from: *const u8) -> Self {
        // SAFETY: the caller's promise: `N` codes, two to a byte.
        Plain::make(|lane| f32::from((unsafe { *from.add(lane / 2) } >> (lane % 2 * 4)) & 15))
    }
    #[inline(always)]
    unsafe fn load_2bit(from: *const u8) -> Self {
        // SAFETY: the caller's promise: `N` codes, four to a byte.
        Plain::make(|lane| f32::from((unsafe { *from.add(lane / 4) } >> (lane % 4 * 2)) & 3))
    }
    #[inline(always)]
    unsafe fn splat_f16(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 2 bytes.
        Plain([f16::from_bits(unsafe { from.cast::<u16>().read_unaligned() }).to_f32_const(); N])
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; N]>().write_unaligned(self.0) };
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        for (lane, &value) in self.0.iter().enumerate().take(count) {
            // SAFETY: the caller's promise: `count` floats.
            unsafe { to.add(lane).write_unaligned(value) };
        }
    }
    #[inline(always)]
    unsafe fn add(self, addend: Self) -> Self {
        Plain::make(|lane| self.0[lane] + addend.0[lane])
    }
    #[inline(always)]
    unsafe fn mul(self, factor: Self) -> Self {
        Plain::make(|lane| self.0[lane] * factor.0[lane])
    }
    #[inline(always)]
    unsafe fn div(self, divisor: Self) -> Self {
        Plain::make(|lane| self.0[lane] / divisor.0[lane])
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Plain::make(|lane| if self.0[lane] > other.0[lane] { self.0[lane] } else { other.0[lane] })
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Plain::make(|lane| self.0[lane] * factor.0[lane] + addend.0[lane])
    }
    #[inline(always)]
    unsafe fn fused_mul_add(self, factor: Self, addend: Self) -> Self {
        Plain::make(|lane| self.0[lane].mul_add(factor.0[lane], addend.0[lane]))
    }
}
