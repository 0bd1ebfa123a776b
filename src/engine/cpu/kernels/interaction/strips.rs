//! One row at a time: its vectors transposed, then one vector times sixteen neighbours.

use std::ops::Range;

use crate::engine::cpu::simd::{MulAdd, Simd, multiversion};

use super::blocks::{Blocks, VECTORS_MAX};

/// Computes these rows. `at` gives the address of a vector in a row, `to` that of a row's results; `scratch`: `blocks.scratch()` f32.
///
/// # Safety
/// - `at` gives `dim` initialised elements for every vector of `blocks` and every row; `to` gives `blocks.pairs()` elements for every row.
/// - Nothing else touches the results meanwhile; they overlap nothing that is read.
pub unsafe fn run(
    blocks: &Blocks,
    dim: usize,
    rows: Range<usize>,
    simd: Simd,
    scratch: &mut [f32],
    at: impl Fn(usize, usize) -> *const f32,
    mut to: impl FnMut(usize) -> *mut f32,
) {
    // Strips at the end reach over the last vector.
    let mut columns = [[0.0; VECTORS_MAX]; CHUNK];
    let sums = &mut scratch[..16 * blocks.strips.len()];
    for row in rows {
        sums.fill(0.0);
        for first in (0..dim).step_by(CHUNK) {
            let count = CHUNK.min(dim - first);
            for vector in 0..blocks.vectors() {
                // SAFETY: elements `first .. first + count` of the vector's `dim`.
                let elements = unsafe { std::slice::from_raw_parts(at(vector, row).add(first), count) };
                columns.iter_mut().zip(elements).for_each(|(column, &element)| column[vector] = element);
            }
            multiply(simd, blocks, &columns[..count], sums);
        }
        // SAFETY: the caller's promise.
        let out = unsafe { std::slice::from_raw_parts_mut(to(row), blocks.pairs()) };
        blocks.moves.iter().for_each(|&(from, to)| out[to as usize] = sums[from as usize]);
    }
}

multiversion! {
    fn multiply(blocks: &Blocks, columns: &[[f32; VECTORS_MAX]], sums: &mut [f32]) = multiply_body;
}

#[inline(always)]
fn multiply_body<M: MulAdd>(blocks: &Blocks, columns: &[[f32; VECTORS_MAX]], sums: &mut [f32]) {
    for (strip, sums) in blocks.strips.iter().zip(sums.as_chunks_mut::<16>().0) {
        let mut chains = *sums;
        for column in columns {
            let a = column[strip.a];
            let b = &column[strip.b..strip.b + 16];
            chains.iter_mut().zip(b).for_each(|(chain, &b)| *chain = M::mul_add(a, b, *chain));
        }
        *sums = chains;
    }
}

/// Elements of each vector that are transposed at once.
const CHUNK: usize = 16;
