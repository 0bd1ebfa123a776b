//! Rows side by side in the lanes of vector registers: the kernel for every level that has them.

// Arrays of registers are indexed by the same number, in loops that are unrolled.
#![allow(clippy::needless_range_loop)]

use crate::engine::cpu::lanes::Lanes;
use crate::engine::cpu::simd::Simd;

use super::blocks::{Block, Blocks, Part, UNWANTED};
use super::strips;

/// Registers of `N` lanes that can change places with the elements in them.
///
/// # Safety
/// `N` is [`Lanes::COUNT`]; of functions as for [`Lanes`].
pub unsafe trait Square<const N: usize>: Lanes {
    /// Right vectors of a block whose sums fit into the registers, beside four left vectors and one right one.
    const COLUMNS: usize;

    /// `N` rows of `N` elements become columns.
    unsafe fn transpose(rows: &mut [Self; N]);
}

/// `N` rows of `count` ≤ `N` elements each become `count` registers at `to`.
///
/// # Safety
/// The level's instructions; `from` gives addresses of `count` elements; `to` has room for `N` registers.
#[inline(always)]
unsafe fn gather<L: Square<N>, const N: usize>(from: impl Fn(usize) -> *const f32, count: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows = [L::splat(0.0); N];
        for (lane, row) in rows.iter_mut().enumerate() {
            *row = L::load_up_to(from(lane), count);
        }
        L::transpose(&mut rows);
        for (k, row) in rows.iter().enumerate() {
            row.store(to.add(N * k));
        }
    }
}

/// `N` registers at `from` become `count` ≤ `N` elements of each of `rows` rows.
///
/// # Safety
/// The level's instructions; `N` registers to read; `to` gives addresses of `count` elements.
#[inline(always)]
unsafe fn scatter<L: Square<N>, const N: usize>(from: *const f32, count: usize, rows: usize, mut to: impl FnMut(usize) -> *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut registers = [L::splat(0.0); N];
        for (at, register) in registers.iter_mut().enumerate() {
            *register = L::load(from.add(N * at));
        }
        L::transpose(&mut registers);
        for (row, register) in registers.iter().enumerate() {
            if row < rows {
                register.store_up_to(to(row), count);
            }
        }
    }
}

/// So few rows are faster one by one.
const SINGLE_MAX: usize = 2;

/// Computes `rows` rows: in groups of lanes, what is left one by one if it is little. To be inlined into a function that has the instructions.
///
/// # Safety
/// The level's instructions, and what [`strips::run`] asks for.
#[inline(always)]
pub unsafe fn run<L: Square<N>, const N: usize>(
    blocks: &Blocks,
    dim: usize,
    rows: usize,
    simd: Simd,
    scratch: &mut [f32],
    at: impl Fn(usize, usize) -> *const f32,
    mut to: impl FnMut(usize) -> *mut f32,
) {
    let mut row = 0;
    while row < rows {
        let count = N.min(rows - row);
        // SAFETY: the caller's promise, for some of the rows.
        unsafe {
            if count <= SINGLE_MAX {
                strips::run(blocks, dim, row..rows, simd, scratch, &at, &mut to);
            } else {
                group::<L, N>(blocks, dim, row, count, scratch, &at, &mut to);
            }
        }
        row += count;
    }
}

/// Makes [`run`] for a set of instructions.
macro_rules! compiled {
    ($features:literal, $lanes:ty, $count:literal) => {
        /// # Safety
        /// The CPU has the instructions; and what [`super::strips::run`] asks for.
        #[target_feature(enable = $features)]
        pub unsafe fn run(
            blocks: &super::blocks::Blocks,
            dim: usize,
            rows: usize,
            simd: crate::engine::cpu::simd::Simd,
            scratch: &mut [f32],
            at: impl Fn(usize, usize) -> *const f32,
            to: impl FnMut(usize) -> *mut f32,
        ) {
            // SAFETY: the caller's promise.
            unsafe { super::lanes::run::<$lanes, $count>(blocks, dim, rows, simd, scratch, at, to) }
        }
    };
}

pub(super) use compiled;

/// Rows `row .. row + count`, at most as many as there are lanes; other lanes repeat the last row.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn group<L: Square<N>, const N: usize>(
    blocks: &Blocks,
    dim: usize,
    row: usize,
    count: usize,
    scratch: &mut [f32],
    at: &impl Fn(usize, usize) -> *const f32,
    to: &mut impl FnMut(usize) -> *mut f32,
) {
    let stride = N * N;
    let wanted = blocks.pairs();
    assert!(scratch.len() >= blocks.vectors() * stride + wanted.next_multiple_of(N) * N, "scratch memory for all");
    let registers = scratch.as_mut_ptr();
    // SAFETY: vectors take the first part of the scratch memory, results the second, as was just checked. Rows and vectors are those of the
    // caller's promise.
    unsafe {
        let pairs = registers.add(blocks.vectors() * stride);
        for first in (0..dim).step_by(N) {
            let elements = N.min(dim - first);
            for vector in 0..blocks.vectors() {
                let to = registers.add(vector * stride);
                let lane = |lane: usize| at(vector, row + lane.min(count - 1)).wrapping_add(first);
                let start = lane(0);
                if (1..count).all(|other| lane(other) == start) {
                    // The same context for all rows.
                    (0..elements).for_each(|k| L::splat(*start.add(k)).store(to.add(k * N)));
                } else {
                    gather::<L, N>(lane, elements, to);
                }
            }
            for block in &blocks.blocks {
                multiply::<L, N>(block, registers, elements, pairs, first == 0);
            }
        }
        for &(from, to) in &blocks.copies {
            L::load(pairs.add(from as usize * N)).store(pairs.add(to as usize * N));
        }
        for first in (0..wanted).step_by(N) {
            scatter::<L, N>(pairs.add(first * N), N.min(wanted - first), count, |lane| to(row + lane).wrapping_add(first));
        }
    }
}

/// One block over `elements` of each vector.
///
/// # Safety
/// As [`tile`], for the block's vectors.
#[inline(always)]
unsafe fn multiply<L: Square<N>, const N: usize>(block: &Block, vectors: *const f32, elements: usize, pairs: *mut f32, start: bool) {
    let stride = N * N;
    macro_rules! tiles {
        ($($a:literal $b:literal),+; $($triangle:literal),+) => {
            // SAFETY: the caller's promise.
            unsafe {
                let a = vectors.add(block.a * stride);
                let mut column = 0;
                while column < block.b_count {
                    let b = vectors.add((block.b + column) * stride);
                    let out = &block.out[column..];
                    let width = if block.part == Part::Whole { L::COLUMNS.min(block.b_count - column) } else { block.b_count };
                    match (block.part, block.a_count, width) {
                        $((Part::Whole, $a, $b) => tile::<L, N, $a, $b, WHOLE>(a, b, elements, out, pairs, start),)+
                        $((Part::Below, $triangle, _) => tile::<L, N, $triangle, $triangle, BELOW>(a, b, elements, out, pairs, start),)+
                        $((Part::BelowAndDiagonal, $triangle, _) => tile::<L, N, $triangle, $triangle, DIAGONAL>(a, b, elements, out, pairs, start),)+
                        _ => unreachable!("blocks have one to four vectors on each side"),
                    }
                    column += width;
                }
            }
        };
    }
    tiles!(1 1, 1 2, 1 3, 1 4, 2 1, 2 2, 2 3, 2 4, 3 1, 3 2, 3 3, 3 4, 4 1, 4 2, 4 3, 4 4; 1, 2, 3, 4);
}

/// Sums of A × B pairs in registers. `start`: from zero, otherwise from what `pairs` holds.
///
/// # Safety
/// The level's instructions; `a` and `b`: A and B vectors of `elements` registers each; `pairs` has room for every wanted place of `out`.
#[inline(always)]
unsafe fn tile<L: Square<N>, const N: usize, const A: usize, const B: usize, const PART: u8>(
    a: *const f32,
    b: *const f32,
    elements: usize,
    out: &[u32],
    pairs: *mut f32,
    start: bool,
) {
    let stride = N * N;
    let computed = |i: usize, j: usize| match PART {
        WHOLE => true,
        BELOW => j < i,
        _ => j <= i,
    };
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[L::splat(0.0); B]; A];
        if !start {
            for i in 0..A {
                for j in 0..B {
                    if computed(i, j) && out[4 * i + j] != UNWANTED {
                        sums[i][j] = L::load(pairs.add(out[4 * i + j] as usize * N));
                    }
                }
            }
        }
        for k in 0..elements {
            let mut left = [L::splat(0.0); A];
            for i in 0..A {
                left[i] = L::load(a.add(i * stride + k * N));
            }
            for j in 0..B {
                let right = L::load(b.add(j * stride + k * N));
                for i in 0..A {
                    if computed(i, j) {
                        sums[i][j] = left[i].mul_add(right, sums[i][j]);
                    }
                }
            }
        }
        for i in 0..A {
            for j in 0..B {
                if computed(i, j) && out[4 * i + j] != UNWANTED {
                    sums[i][j].store(pairs.add(out[4 * i + j] as usize * N));
                }
            }
        }
    }
}

const WHOLE: u8 = 0;
const BELOW: u8 = 1;
const DIAGONAL: u8 = 2;
