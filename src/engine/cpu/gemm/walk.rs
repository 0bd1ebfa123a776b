//! How micro-kernels of reduced precision pass over a block: panel by panel, all rows of one; few rows over several panels at once, so that
//! enough sums are under way to hide the latency of a multiplication.

use super::layer::Block;
use super::row_blocks;
use crate::engine::cpu::lanes::Lanes;

/// Micro-kernels compiled for one set of instructions.
///
/// # Safety
/// `tiles` touches nothing but what belongs to the rows and columns asked for.
pub unsafe trait Kernel {
    /// Weights of a block.
    type Weights<'b>;
    /// Registers of sums and results. A panel has two, the last one may have one.
    type Lanes: Lanes;

    /// `ROWS` rows × `PANELS` panels of `VECTORS` vectors. Returns the columns it took.
    ///
    /// # Safety
    /// Rows and panels lie within the block, the block holds what it says; the CPU has the instructions.
    unsafe fn tiles<const ROWS: usize, const VECTORS: usize, const PANELS: usize>(
        block: &Block<Self::Weights<'_>>,
        row: usize,
        column: usize,
    ) -> usize;

    /// [`panel`], compiled for these instructions.
    ///
    /// # Safety
    /// As for `tiles`.
    unsafe fn panel<const VECTORS: usize>(block: &Block<Self::Weights<'_>>, column: usize) -> usize;
}

/// All rows and columns of a block, and of up to three rows `FEW` panels at once. To be inlined into a function that has the instructions.
///
/// # Safety
/// As [`Kernel::tiles`].
#[inline(always)]
pub unsafe fn product<K: Kernel, const FEW: usize>(block: &Block<K::Weights<'_>>) {
    let (m, n) = (block.m, block.n);
    let mut column = 0;
    while column < n {
        let whole = (n - column) / (2 * K::Lanes::COUNT);
        // SAFETY: the caller's promise; the columns asked for lie within the block.
        unsafe {
            column += match m {
                1 if whole >= FEW => K::tiles::<1, 2, FEW>(block, 0, column),
                2 if whole >= FEW => K::tiles::<2, 2, FEW>(block, 0, column),
                3 if whole >= FEW => K::tiles::<3, 2, FEW>(block, 0, column),
                _ if n - column > K::Lanes::COUNT => K::panel::<2>(block, column),
                _ => K::panel::<1>(block, column),
            };
        }
    }
}

/// All rows of one panel of `VECTORS` vectors, at most `MOST` at once. Returns its columns. To be inlined as [`product`].
///
/// # Safety
/// As [`Kernel::tiles`].
#[inline(always)]
pub unsafe fn panel<K: Kernel, const MOST: usize, const VECTORS: usize>(block: &Block<K::Weights<'_>>, column: usize) -> usize {
    macro_rules! tiles {
        ($count:expr, $row:expr, $($rows:literal)+) => {
            match $count {
                $($rows if const { $rows < MOST } => K::tiles::<$rows, VECTORS, 1>(block, $row, column),)+
                _ => K::tiles::<MOST, VECTORS, 1>(block, $row, column),
            }
        };
    }
    for (row, count) in row_blocks(block.m, MOST) {
        // SAFETY: the caller's promise.
        unsafe { tiles!(count, row, 1 2 3 4 5 6 7 8 9 10 11 12 13) };
    }
    VECTORS * K::Lanes::COUNT
}

/// Compiles a generic body, `tiles` where the macro is called, for a set of instructions: makes a type with `product(&Block)`, which takes at
/// most so many rows at once, and of up to three rows so many panels.
macro_rules! kernel {
    ($(#[$meta:meta])* $name:ident: $features:literal, $lanes:ty, $weights:ident, rows $most:literal, panels $few:literal) => {
        $(#[$meta])*
        pub enum $name {}

        impl $name {
            /// # Safety
            /// The block holds what it says; the CPU has the instructions.
            #[target_feature(enable = $features)]
            pub unsafe fn product(block: &Block<$weights>) {
                // SAFETY: the caller's promise.
                unsafe { walk::product::<$name, $few>(block) }
            }
        }

        // SAFETY: `tiles` keeps to its rows and columns.
        unsafe impl walk::Kernel for $name {
            type Weights<'b> = $weights<'b>;
            type Lanes = $lanes;

            #[target_feature(enable = $features)]
            unsafe fn tiles<const ROWS: usize, const VECTORS: usize, const PANELS: usize>(
                block: &Block<$weights<'_>>,
                row: usize,
                column: usize,
            ) -> usize {
                // SAFETY: the caller's promise.
                unsafe { tiles::<$name, ROWS, VECTORS, PANELS>(block, row, column) }
            }

            #[target_feature(enable = $features)]
            unsafe fn panel<const VECTORS: usize>(block: &Block<$weights<'_>>, column: usize) -> usize {
                // SAFETY: the caller's promise.
                unsafe { walk::panel::<$name, $most, VECTORS>(block, column) }
            }
        }
    };
}

pub(super) use kernel;
