//! What a micro-kernel of integer products works on, and which instructions multiply.

use crate::engine::cpu::gemm::layer::Block;
use crate::engine::cpu::simd::{Simd, SimdLevel};

/// Instructions that multiply unsigned codes of activations by signed codes of weights, four at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dot(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Portable,
    /// `vpmaddubsw`: sums of two products in 16 bits.
    Avx2,
    /// `vpdpbusd` on 256 bits.
    AvxVnni,
    /// `vpmaddubsw` on 512 bits.
    Avx512,
    /// `vpdpbusd` on 512 bits.
    Avx512Vnni,
}

impl Dot {
    /// The best at this level on this CPU.
    pub fn of(simd: Simd) -> Dot {
        Dot(match simd.level() {
            SimdLevel::Portable => Kind::Portable,
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 if is_x86_feature_detected!("avxvnni") => Kind::AvxVnni,
            SimdLevel::Avx2 => Kind::Avx2,
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 if is_x86_feature_detected!("avx512vnni") => Kind::Avx512Vnni,
            SimdLevel::Avx512 => Kind::Avx512,
        })
    }

    /// Everything that this CPU has at this level: the best first.
    #[cfg(test)]
    pub fn all(simd: Simd) -> Vec<Dot> {
        let plain = match simd.level() {
            SimdLevel::Portable => Kind::Portable,
            SimdLevel::Avx2 => Kind::Avx2,
            SimdLevel::Avx512 => Kind::Avx512,
        };
        let mut all = vec![Dot::of(simd), Dot(plain)];
        all.dedup();
        all
    }

    pub(super) fn kind(self) -> Kind {
        self.0
    }

    /// The level whose registers and panels it uses.
    pub fn level(self) -> SimdLevel {
        match self.0 {
            Kind::Portable => SimdLevel::Portable,
            Kind::Avx2 | Kind::AvxVnni => SimdLevel::Avx2,
            Kind::Avx512 | Kind::Avx512Vnni => SimdLevel::Avx512,
        }
    }

    /// As in reports.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            Kind::Avx2 => "avx2",
            Kind::AvxVnni => "avx-vnni",
            Kind::Avx512 => "avx512bw",
            Kind::Avx512Vnni => "avx512-vnni",
        }
    }

    /// How it cuts matrices.
    pub const fn geometry(level: SimdLevel) -> Geometry {
        match level {
            SimdLevel::Portable => Geometry { panel: 8, vector: 8 },
            SimdLevel::Avx2 => Geometry { panel: 16, vector: 8 },
            SimdLevel::Avx512 => Geometry { panel: 32, vector: 16 },
        }
    }

    /// Most rows that a micro-kernel takes at once.
    pub fn rows(self) -> usize {
        match self.0 {
            Kind::Portable => 1,
            Kind::Avx2 => 4,
            Kind::AvxVnni => 6,
            Kind::Avx512 => 12,
            Kind::Avx512Vnni => 14,
        }
    }

    /// Multiply-adds per nanosecond to expect, for planning only.
    pub fn macs_per_ns(self) -> usize {
        match self.0 {
            Kind::Portable => 4,
            Kind::Avx2 => 48,
            Kind::AvxVnni => 150,
            Kind::Avx512 => 120,
            Kind::Avx512Vnni => 320,
        }
    }

    /// Multiply-adds per nanosecond in f32 at this level and in 8 bits, measured on an EPYC 9005 where it has the instructions; what counts
    /// is their ratio.
    pub fn speeds(self) -> (f32, f32) {
        match self.0 {
            Kind::Portable => (6.0, 6.0),
            Kind::Avx2 => (60.0, 80.0),
            Kind::AvxVnni => (60.0, 210.0),
            Kind::Avx512 => (120.0, 150.0),
            Kind::Avx512Vnni => (120.0, 430.0),
        }
    }

    /// The largest code of an activation. `vpmaddubsw` saturates sums of two products at 2^15 - 1, so that 255 · 127 · 2 would be wrong; with
    /// 7 bits no sum can get there.
    pub fn levels(self) -> u8 {
        match self.0 {
            Kind::Avx2 | Kind::Avx512 => 127,
            _ => 255,
        }
    }
}

/// How a level cuts matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Columns of a panel: two vectors, or one.
    pub panel: usize,
    /// Columns of a vector register: the last panel is a multiple of it.
    pub vector: usize,
}

/// Neighbouring inputs of a layer that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First input.
    pub first: usize,
    /// Inputs.
    pub len: usize,
    /// First group of four codes.
    pub quad: usize,
    /// Groups of four codes: the last one is filled up.
    pub quads: usize,
}

/// A scale of a row and a range: an input is about `code * scale + low`.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Scale {
    /// Of a code.
    pub scale: f32,
    /// What code 0 stands for.
    pub low: f32,
}

/// Weights of a block, in the order of micro-kernels.
#[derive(Clone, Copy)]
pub struct Codes<'b> {
    /// Of the inputs.
    pub ranges: &'b [Range],
    /// Groups of four codes in all ranges.
    pub quads: usize,
    /// Packed panels `[quads][width][4]`, one behind the other.
    pub codes: &'b [i8],
    /// Per range and column: factor of the sum of codes.
    pub scales: *const f32,
    /// Per range and column: factor of the row's `low`.
    pub lows: *const f32,
    /// Elements of `scales` and `lows` from range to range.
    pub padded: usize,
}

/// Runs the micro-kernels of `dot`.
///
/// # Safety
/// - `a`: `m` rows of one [`Scale`] per range and 4 · `quads` codes of at most [`Dot::levels`], quantised.
/// - Codes are packed for the level of `dot`, columns padded to whole vectors in the last panel; `scales`, `lows` (per range) and `bias` are as
///   long.
/// - `c`: `m` rows of `n` elements, written here; overlaps nothing that is read. `addends`: null, or `m` addresses of `n` elements.
/// - The ranges lie one behind the other within `quads`.
pub unsafe fn product(dot: Dot, block: &Block<Codes>) {
    match dot.kind() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promise; a `Dot` of this kind exists only where the CPU has its instructions.
        Kind::Avx512Vnni => unsafe { super::simd::Avx512Vnni::product(block) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Kind::Avx512 => unsafe { super::simd::Avx512::product(block) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Kind::AvxVnni => unsafe { super::simd::AvxVnni::product(block) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Kind::Avx2 => unsafe { super::simd::Avx2::product(block) },
        // SAFETY: the caller's promise.
        _ => unsafe { super::portable::product(block) },
    }
}
