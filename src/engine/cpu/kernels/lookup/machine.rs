//! The loops of lookups, compiled for each kind of register, row format and width of rows; a plan picks one of them per table.

use crate::engine::cpu::lanes::{Lanes, Plain};
use crate::engine::cpu::simd::{Simd, SimdLevel};
use crate::engine::cpu::tile::Tile;
use crate::model::{Table, TableDType};

use super::columns::copy;
use super::format::{Coded, F32, Format, Half};
use super::loops;
use super::part::{Group, Stored};

/// Looks up a group of parts, all of the kind that the function was picked for, for the rows of a tile.
///
/// # Safety
/// The CPU has the instructions that the function was compiled for, and every part's table is of the format and width that it was picked for.
pub type Run = unsafe fn(&Group, &Tile);

/// One row of a table to a place with room for it; zeros for an id at or above the table's rows.
///
/// # Safety
/// As for [`Run`]; the place has room for the row.
pub type Read = unsafe fn(&Stored, u32, *mut f32);

/// The functions for a format and width.
#[derive(Clone, Copy)]
pub struct Functions {
    /// Bags of exactly one id without weight, whatever the pool.
    pub singles: Run,
    /// Pools `sum` and `mean`.
    pub sums: Run,
    /// Pool `max`.
    pub maxima: Run,
    /// Pool `none`.
    pub sequences: Run,
    /// A row by its number.
    pub read: Read,
}

impl Functions {
    /// The functions for a table.
    pub fn of(simd: Simd, table: &Table) -> Functions {
        let dim = table.dim as usize;
        match simd.level() {
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 if dim >= 16 => of_format::<Registers16>(table.dtype, dim),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 | SimdLevel::Avx2 if dim >= 8 => of_format::<Registers8>(table.dtype, dim),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 | SimdLevel::Avx2 => of_format::<Registers4>(table.dtype, dim),
            _ => of_format::<PlainRegisters>(table.dtype, dim),
        }
    }
}

fn of_format<M: Machine>(dtype: TableDType, dim: usize) -> Functions {
    match dtype {
        TableDType::F32 => of_width::<M, F32>(dim),
        TableDType::F16 => of_width::<M, Half<false>>(dim),
        TableDType::Bf16 => of_width::<M, Half<true>>(dim),
        TableDType::Int8Rowwise | TableDType::Int8Tbe => of_width::<M, Coded<8>>(dim),
        TableDType::Int4Rowwise | TableDType::Int4Tbe => of_width::<M, Coded<4>>(dim),
        TableDType::Int2Rowwise | TableDType::Int2Tbe => of_width::<M, Coded<2>>(dim),
    }
}

fn of_width<M: Machine, F: Format>(dim: usize) -> Functions {
    match (dim / M::LANES, dim % M::LANES) {
        (1, 0) => M::functions::<F, 1>(),
        (2, 0) if M::LANES > 4 => M::functions::<F, 2>(),
        (4, 0) if M::LANES > 4 => M::functions::<F, 4>(),
        (8, 0) if M::LANES > 4 => M::functions::<F, 8>(),
        _ => M::functions::<F, 0>(),
    }
}

/// A kind of registers.
trait Machine {
    const LANES: usize;
    /// For rows of `N` registers, or, if `N` is 0, of any width.
    fn functions<F: Format, const N: usize>() -> Functions;
}

macro_rules! machine {
    ($(#[$meta:meta])* $name:ident, $lanes:ty $(, $features:literal)?) => {
        $(#[$meta])*
        struct $name;

        $(#[$meta])*
        impl Machine for $name {
            const LANES: usize = <$lanes as Lanes>::COUNT;

            fn functions<F: Format, const N: usize>() -> Functions {
                $(#[target_feature(enable = $features)])?
                unsafe fn singles<F: Format, const N: usize>(group: &Group, tile: &Tile) {
                    // SAFETY: the caller's promise.
                    unsafe { loops::singles::<$lanes, F, N>(group, tile) }
                }
                $(#[target_feature(enable = $features)])?
                unsafe fn sums<F: Format, const N: usize>(group: &Group, tile: &Tile) {
                    // SAFETY: the caller's promise.
                    unsafe { loops::sums::<$lanes, F, N>(group, tile) }
                }
                $(#[target_feature(enable = $features)])?
                unsafe fn maxima<F: Format, const N: usize>(group: &Group, tile: &Tile) {
                    // SAFETY: the caller's promise.
                    unsafe { loops::maxima::<$lanes, F, N>(group, tile) }
                }
                $(#[target_feature(enable = $features)])?
                unsafe fn sequences<F: Format, const N: usize>(group: &Group, tile: &Tile) {
                    // SAFETY: the caller's promise.
                    unsafe { loops::sequences::<$lanes, F, N>(group, tile) }
                }
                $(#[target_feature(enable = $features)])?
                unsafe fn read<F: Format, const N: usize>(table: &Stored, id: u32, out: *mut f32) {
                    // SAFETY: the caller's promise.
                    unsafe { copy::<$lanes, F, N>(&table.rows::<F>(), id, None, out) }
                }
                Functions {
                    singles: singles::<F, N>,
                    sums: sums::<F, N>,
                    maxima: maxima::<F, N>,
                    sequences: sequences::<F, N>,
                    read: read::<F, N>,
                }
            }
        }
    };
}

machine!(
    #[cfg(target_arch = "x86_64")]
    Registers16,
    std::arch::x86_64::__m512,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
);
machine!(
    #[cfg(target_arch = "x86_64")]
    Registers8,
    std::arch::x86_64::__m256,
    "avx2,fma,f16c"
);
machine!(
    #[cfg(target_arch = "x86_64")]
    Registers4,
    std::arch::x86_64::__m128,
    "avx2,fma,f16c"
);
machine!(PlainRegisters, Plain);
