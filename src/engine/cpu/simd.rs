//! Instruction sets: what this CPU has, and one body compiled for each.

/// Instruction sets that kernels are written for, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SimdLevel {
    /// What every CPU of the target has (SSE2 on x86-64). Products and sums are rounded apart.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl SimdLevel {
    /// Every level, ascending.
    pub const ALL: [SimdLevel; 3] = [SimdLevel::Portable, SimdLevel::Avx2, SimdLevel::Avx512];

    /// Whether this CPU (and the system) has it.
    pub fn is_available(self) -> bool {
        match self {
            SimdLevel::Portable => true,
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => {
                SimdLevel::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            SimdLevel::Avx2 | SimdLevel::Avx512 => false,
        }
    }

    /// As in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            SimdLevel::Portable => "portable",
            SimdLevel::Avx2 => "avx2",
            SimdLevel::Avx512 => "avx512",
        }
    }
}

/// A level that this CPU has: holding one is the proof that its instructions may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simd(SimdLevel);

impl Simd {
    /// The best level of this CPU.
    pub fn detect() -> Simd {
        let best = SimdLevel::ALL.into_iter().rev().find(|level| level.is_available());
        Simd(best.unwrap_or(SimdLevel::Portable))
    }

    /// This level, if the CPU has it.
    pub fn new(level: SimdLevel) -> Option<Simd> {
        level.is_available().then_some(Simd(level))
    }

    /// Every level of this CPU, ascending.
    pub fn available() -> impl Iterator<Item = Simd> {
        SimdLevel::ALL.into_iter().filter_map(Simd::new)
    }

    /// Which it is.
    pub fn level(self) -> SimdLevel {
        self.0
    }
}

/// How a body rounds a·b + c.
pub trait MulAdd {
    /// a·b + c.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// Once: for levels with FMA.
pub struct Fused;

impl MulAdd for Fused {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// Twice: where FMA would be a call into a library.
pub struct Separate;

impl MulAdd for Separate {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// Compiles one generic body (`#[inline(always)] fn body<M: MulAdd>(..)`) for every level and makes a function that picks by [`Simd`]:
/// `multiversion! { pub fn name(arg: Type, ..) = body; }`. Loops in the body are vectorised by the compiler with the level's registers.
macro_rules! multiversion {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? = $body:ident;)+) => {$(
        $(#[$meta])*
        #[inline]
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(simd: $crate::engine::cpu::simd::Simd, $($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($arg: $type),*) $(-> $result)? {
                $body::<$crate::engine::cpu::simd::Fused>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $type),*) $(-> $result)? {
                $body::<$crate::engine::cpu::simd::Fused>($($arg),*)
            }
            match simd.level() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a `Simd` of this level exists only where the CPU has its instructions.
                $crate::engine::cpu::simd::SimdLevel::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::engine::cpu::simd::SimdLevel::Avx2 => unsafe { avx2($($arg),*) },
                _ => $body::<$crate::engine::cpu::simd::Separate>($($arg),*),
            }
        }
    )+};
}

pub(super) use multiversion;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_level_is_available_and_the_portable_one_always_is() {
        assert!(Simd::detect().level().is_available());
        assert_eq!(Simd::available().next().map(Simd::level), Some(SimdLevel::Portable));
        assert_eq!(Simd::available().last(), Some(Simd::detect()));
    }
}
