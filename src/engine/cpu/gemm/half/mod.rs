//! Products with weights held as 16-bit floats and widened as they are read; activations and sums are f32.
//!
//! Half of the bytes: where few rows meet weights that no near cache holds, reading them is what takes the time. With many rows the widening is
//! shared by all of them, and the product costs what it does in f32.
//!
//! **A row's result does not depend on its neighbours**, for the reason that [`super`] names: one chain of multiply-adds per element.

#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use half::f16;

use super::int8::{Dot, Geometry};
use super::layer::{Block, Packed, PackedLinear};
use crate::engine::EngineError;
use crate::engine::cpu::memory;
use crate::engine::cpu::simd::{Simd, SimdLevel};

/// A level whose instructions widen 16-bit floats, on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widening(SimdLevel);

impl Widening {
    /// At this level, if the CPU can.
    pub fn of(simd: Simd) -> Option<Widening> {
        match simd.level() {
            SimdLevel::Portable => None,
            #[cfg(target_arch = "x86_64")]
            level @ (SimdLevel::Avx2 | SimdLevel::Avx512) => is_x86_feature_detected!("f16c").then_some(Widening(level)),
            #[cfg(not(target_arch = "x86_64"))]
            SimdLevel::Avx2 | SimdLevel::Avx512 => None,
        }
    }

    /// As in reports.
    pub fn name(self) -> &'static str {
        match self.0 {
            SimdLevel::Avx512 => "avx512, widened",
            _ => "f16c, widened",
        }
    }

    /// Most rows that a micro-kernel takes at once, and multiply-adds per nanosecond to expect (for planning only).
    fn speed(self) -> (usize, usize) {
        if self.0 == SimdLevel::Avx512 { (14, 48) } else { (6, 24) }
    }
}

/// A matrix of 16-bit floats, packed as panels `[k][width]`; columns behind `n` are zero.
pub struct HalfMatrix {
    /// Inner size.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Columns with the padding of the last panel.
    pub padded: usize,
    widening: Widening,
    geometry: Geometry,
    numbers: memory::Block,
}

impl fmt::Debug for HalfMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HalfMatrix").field("k", &self.k).field("n", &self.n).finish_non_exhaustive()
    }
}

impl HalfMatrix {
    /// Rounds `weight(k, n)`; what is too large for 16 bits becomes infinite.
    pub fn new(widening: Widening, k: usize, n: usize, weight: impl Fn(usize, usize) -> f32) -> Result<HalfMatrix, EngineError> {
        let geometry = Dot::geometry(widening.0);
        let padded = n.next_multiple_of(geometry.vector);
        let mut numbers = memory::Block::zeroed("packed weights", k * padded * size_of::<u16>())?;
        let packed = numbers.as_mut_slice::<u16>();
        for column in 0..n {
            let first = column / geometry.panel * geometry.panel;
            let width = geometry.panel.min(padded - first);
            let panel = packed[first * k + column - first..].iter_mut().step_by(width);
            panel.take(k).enumerate().for_each(|(at, number)| *number = f16::from_f32(weight(at, column)).to_bits());
        }
        Ok(HalfMatrix { k, n, padded, widening, geometry, numbers })
    }

    /// Bytes of its numbers.
    pub fn bytes(&self) -> usize {
        self.k * self.padded * size_of::<u16>()
    }

    fn panels_from(&self, panel: usize) -> &[u16] {
        &self.numbers.as_slice()[(panel * self.geometry.panel).min(self.padded) * self.k..]
    }
}

/// Packed panels of a block, one behind the other.
#[derive(Clone, Copy)]
pub struct Panels<'b> {
    /// Inner size.
    k: usize,
    /// `k` rows of the block's columns, padded to whole vectors in the last panel.
    numbers: &'b [u16],
}

/// A linear layer over weights of 16 bits.
pub type HalfLinear = PackedLinear<Arc<HalfMatrix>>;

impl Packed for Arc<HalfMatrix> {
    type View<'b> = Panels<'b>;

    fn columns(&self) -> usize {
        self.n
    }

    fn padded(&self) -> usize {
        self.padded
    }

    fn panel(&self) -> usize {
        self.geometry.panel
    }

    fn row_elements(&self) -> usize {
        self.k
    }

    fn macs(&self) -> usize {
        self.k
    }

    fn macs_per_ns(&self) -> usize {
        self.widening.speed().1
    }

    fn rows_most(&self) -> usize {
        self.widening.speed().0
    }

    fn view(&self, panel: usize) -> Panels<'_> {
        Panels { k: self.k, numbers: self.panels_from(panel) }
    }

    unsafe fn product(&self, block: &Block<Panels>) {
        // SAFETY: the caller's promise; the panels were packed for this level.
        unsafe { product(self.widening, block) }
    }
}

/// # Safety
/// - `a`: `m` rows of `k` elements; `c`: `m` rows of `n` elements, written here; overlaps nothing that is read.
/// - The panels were packed for this level; `bias` is as long as their padded columns. `addends`: null, or `m` addresses of `n` elements.
unsafe fn product(widening: Widening, block: &Block<Panels>) {
    match widening.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promise; a `Widening` of this level exists only where the CPU has its instructions.
        SimdLevel::Avx512 => unsafe { simd::Avx512::product(block) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        SimdLevel::Avx2 => unsafe { simd::Avx2::product(block) },
        _ => {
            let _ = block;
            unreachable!("no `Widening` of other levels is made")
        }
    }
}
