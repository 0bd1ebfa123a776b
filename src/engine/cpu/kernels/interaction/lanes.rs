//! Rows side by side in the lanes of vector registers: the kernel for every level that has them.

// Arrays of registers are indexed by the same number, in loops that are unrolled.
#![allow(clippy::needless_range_loop)]

use crate::engine::cpu::simd::Simd;

use super::blocks::{Block, Blocks, Part, UNWANTED};
use super::strips;

/// Registers of a level.
///
/// # Safety
/// All functions need the level's instructions, and are meant to be inlined into a function that has them.
pub unsafe trait Lanes {
    /// A register.
    type Register: Copy;
    /// f32 in it.
    const COUNT: usize;
    /// Right vectors of a block whose sums fit into the registers.
    const COLUMNS: usize;

    /// # Safety
    /// The level's instructions.
    unsafe fn zero() -> Self::Register;
    /// # Safety
    /// The level's instructions; `COUNT` elements to read.
    unsafe fn load(from: *const f32) -> Self::Register;
    /// # Safety
    /// The level's instructions; `COUNT` elements to write.
    unsafe fn store(to: *mut f32, register: Self::Register);
    /// # Safety
    /// The level's instructions; an element to read.
    unsafe fn splat(from: *const f32) -> Self::Register;
    /// a·b + c.
    ///
    /// # Safety
    /// The level's instructions.
    unsafe fn mul_add(a: Self::Register, b: Self::Register, c: Self::Register) -> Self::Register;
    /// `COUNT` rows of `count` ≤ `COUNT` elements each become `count` registers at `to`.
    ///
    /// # Safety
    /// The level's instructions; `from` gives addresses of `count` elements; `to` has room for `COUNT` registers.
    unsafe fn gather(from: impl Fn(usize) -> *const f32, count: usize, to: *mut f32);
    /// `COUNT` registers at `from` become `count` ≤ `COUNT` elements of each of `rows` rows.
    ///
    /// # Safety
    /// The level's instructions; `COUNT` registers to read; `to` gives addresses of `count` elements.
    unsafe fn scatter(from: *const f32, count: usize, rows: usize, to: impl FnMut(usize) -> *mut f32);
}

/// So few rows are faster one by one.
const SINGLE_MAX: usize = 2;

/// Computes `rows` rows: in groups of lanes, what is left one by one if it is little.
///
/// # Safety
/// The level's instructions, and what [`strips::run`] asks for.
#[inline(always)]
pub unsafe fn run<L: Lanes>(
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
        let count = L::COUNT.min(rows - row);
        // SAFETY: the caller's promise, for some of the rows.
        unsafe {
            if count <= SINGLE_MAX {
                strips::run(blocks, dim, row..rows, simd, scratch, &at, &mut to);
            } else {
                group::<L>(blocks, dim, row, count, scratch, &at, &mut to);
            }
        }
        row += count;
    }
}

/// Rows `row .. row + count`, at most as many as there are lanes; other lanes repeat the last row.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn group<L: Lanes>(
    blocks: &Blocks,
    dim: usize,
    row: usize,
    count: usize,
    scratch: &mut [f32],
    at: &impl Fn(usize, usize) -> *const f32,
    to: &mut impl FnMut(usize) -> *mut f32,
) {
    let stride = L::COUNT * L::COUNT;
    let wanted = blocks.pairs();
    assert!(scratch.len() >= blocks.vectors() * stride + wanted.next_multiple_of(L::COUNT) * L::COUNT, "scratch memory for all");
    let vectors = scratch.as_mut_ptr();
    // SAFETY: vectors take the first part of the scratch memory, results the second, as was just checked. Rows and vectors are those of the
    // caller's promise.
    unsafe {
        let pairs = vectors.add(blocks.vectors() * stride);
        for first in (0..dim).step_by(L::COUNT) {
            let elements = L::COUNT.min(dim - first);
            for vector in 0..blocks.vectors() {
                let to = vectors.add(vector * stride);
                let lane = |lane: usize| at(vector, row + lane.min(count - 1)).wrapping_add(first);
                let start = lane(0);
                if (1..count).all(|other| lane(other) == start) {
                    // The same context for all rows.
                    (0..elements).for_each(|k| L::store(to.add(k * L::COUNT), L::splat(start.add(k))));
                } else {
                    L::gather(lane, elements, to);
                }
            }
            for block in &blocks.blocks {
                multiply::<L>(block, vectors, elements, pairs, first == 0);
            }
        }
        for &(from, to) in &blocks.copies {
            L::store(pairs.add(to as usize * L::COUNT), L::load(pairs.add(from as usize * L::COUNT)));
        }
        for first in (0..wanted).step_by(L::COUNT) {
            L::scatter(pairs.add(first * L::COUNT), L::COUNT.min(wanted - first), count, |lane| to(row + lane).wrapping_add(first));
        }
    }
}

/// One block over `elements` of each vector.
///
/// # Safety
/// As [`tile`], for the block's vectors.
#[inline(always)]
unsafe fn multiply<L: Lanes>(block: &Block, vectors: *const f32, elements: usize, pairs: *mut f32, start: bool) {
    let stride = L::COUNT * L::COUNT;
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
                        $((Part::Whole, $a, $b) => tile::<L, $a, $b, WHOLE>(a, b, elements, out, pairs, start),)+
                        $((Part::Below, $triangle, _) => tile::<L, $triangle, $triangle, BELOW>(a, b, elements, out, pairs, start),)+
                        $((Part::BelowAndDiagonal, $triangle, _) => tile::<L, $triangle, $triangle, DIAGONAL>(a, b, elements, out, pairs, start),)+
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
unsafe fn tile<L: Lanes, const A: usize, const B: usize, const PART: u8>(
    a: *const f32,
    b: *const f32,
    elements: usize,
    out: &[u32],
    pairs: *mut f32,
    start: bool,
) {
    let stride = L::COUNT * L::COUNT;
    let computed = |i: usize, j: usize| match PART {
        WHOLE => true,
        BELOW => j < i,
        _ => j <= i,
    };
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[L::zero(); B]; A];
        if !start {
            for i in 0..A {
                for j in 0..B {
                    if computed(i, j) && out[4 * i + j] != UNWANTED {
                        sums[i][j] = L::load(pairs.add(out[4 * i + j] as usize * L::COUNT));
                    }
                }
            }
        }
        for k in 0..elements {
            let mut left = [L::zero(); A];
            for i in 0..A {
                left[i] = L::load(a.add(i * stride + k * L::COUNT));
            }
            for j in 0..B {
                let right = L::load(b.add(j * stride + k * L::COUNT));
                for i in 0..A {
                    if computed(i, j) {
                        sums[i][j] = L::mul_add(left[i], right, sums[i][j]);
                    }
                }
            }
        }
        for i in 0..A {
            for j in 0..B {
                if computed(i, j) && out[4 * i + j] != UNWANTED {
                    L::store(pairs.add(out[4 * i + j] as usize * L::COUNT), sums[i][j]);
                }
            }
        }
    }
}

const WHOLE: u8 = 0;
const BELOW: u8 = 1;
const DIAGONAL: u8 = 2;
