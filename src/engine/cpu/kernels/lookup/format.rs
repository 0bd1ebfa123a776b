//! Row formats, as registers read them. [`crate::model::Table::value`] defines what they hold.

use crate::engine::cpu::lanes::Lanes;
use crate::model::Coding;

/// Reads numbers of a row.
pub trait Format: Copy {
    /// The format of a table, of coded rows with this layout.
    fn new(coding: Option<Coding>) -> Self;

    /// What is read once per row: scale and bias.
    type Header<V: Lanes>: Copy;

    /// Reads it.
    ///
    /// # Safety
    /// `row` starts a row of this format; the caller is compiled for the instructions of `V`.
    unsafe fn header<V: Lanes>(self, row: *const u8) -> Self::Header<V>;

    /// Numbers `column ..` of a row: as many as `V` has lanes, or `left` if that is less; other lanes hold anything.
    ///
    /// # Safety
    /// As for `header`; the row has `column + left` numbers, `left` > 0, `column` is a multiple of the lanes, and 64 bytes may be read behind the row.
    unsafe fn read<V: Lanes>(self, row: *const u8, header: Self::Header<V>, column: usize, left: usize) -> V;
}

/// 32-bit floats.
#[derive(Clone, Copy)]
pub struct F32;

impl Format for F32 {
    fn new(_: Option<Coding>) -> F32 {
        F32
    }

    type Header<V: Lanes> = ();

    #[inline(always)]
    unsafe fn header<V: Lanes>(self, _row: *const u8) {}

    #[inline(always)]
    unsafe fn read<V: Lanes>(self, row: *const u8, (): (), column: usize, left: usize) -> V {
        // SAFETY: the caller's promise. Not beyond the row, although that would be safe: it could be another cache line.
        unsafe {
            let from = row.cast::<f32>().add(column);
            if left >= V::COUNT { V::load(from) } else { V::load_first(from, left) }
        }
    }
}

/// 16-bit floats: IEEE, or with the exponent of f32.
#[derive(Clone, Copy)]
pub struct Half<const BRAIN: bool>;

impl<const BRAIN: bool> Format for Half<BRAIN> {
    fn new(_: Option<Coding>) -> Half<BRAIN> {
        Half
    }

    type Header<V: Lanes> = ();

    #[inline(always)]
    unsafe fn header<V: Lanes>(self, _row: *const u8) {}

    #[inline(always)]
    unsafe fn read<V: Lanes>(self, row: *const u8, (): (), column: usize, _left: usize) -> V {
        // SAFETY: the caller's promise; what lies behind the row may be read.
        unsafe {
            let from = row.add(2 * column);
            if BRAIN { V::load_bf16(from) } else { V::load_f16(from) }
        }
    }
}

/// Codes of `BITS` bits with scale and bias.
#[derive(Clone, Copy)]
pub struct Coded<const BITS: usize>(pub Coding);

impl<const BITS: usize> Format for Coded<BITS> {
    fn new(coding: Option<Coding>) -> Coded<BITS> {
        Coded(coding.expect("a table of coded rows has a layout for them"))
    }

    type Header<V: Lanes> = (V, V);

    #[inline(always)]
    unsafe fn header<V: Lanes>(self, row: *const u8) -> (V, V) {
        // SAFETY: the caller's promise: scale and bias are part of the row.
        unsafe {
            let from = row.add(self.0.scale);
            if self.0.half {
                (V::splat_f16(from), V::splat_f16(from.add(2)))
            } else {
                let from = from.cast::<f32>();
                (V::splat(from.read_unaligned()), V::splat(from.add(1).read_unaligned()))
            }
        }
    }

    #[inline(always)]
    unsafe fn read<V: Lanes>(self, row: *const u8, (scale, bias): (V, V), column: usize, _left: usize) -> V {
        // SAFETY: the caller's promise; what lies behind the row may be read.
        unsafe {
            let from = row.add(self.0.codes + column * BITS / 8);
            match BITS {
                // The product of a code and an f32 needs up to 32 bits, so it must not be rounded before the sum.
                8 if !self.0.half => V::load_8bit(from).fused_mul_add(scale, bias),
                // That of a code and an f16 is exact in f32: rounded once with or without FMA.
                8 => V::load_8bit(from).mul_add(scale, bias),
                4 => V::load_4bit(from).mul_add(scale, bias),
                _ => V::load_2bit(from).mul_add(scale, bias),
            }
        }
    }
}
