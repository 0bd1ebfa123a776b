//! Dot products of pairs of vectors: the interaction of DLRM and its like, and nothing but the pairs asked for.
//!
//! Sixteen rows (eight with AVX2) are computed at once, one per lane: the vectors' elements are transposed into scratch memory, then blocks of
//! 4 × 4 pairs are kept in registers while k runs, so that every multiply-add is one of a wanted pair (but for the corners of blocks), and
//! no sum crosses lanes. Results are transposed back and written in the order asked for. A few rows, and CPUs without AVX2, take a simpler
//! way.
//!
//! Every product of a pair is one chain of multiply-adds over k in ascending order from zero, on each way: a row's bits do not depend on
//! its neighbours.
//!
//! Cost per row: pairs · dim multiply-adds, vectors · dim · 4 bytes read, pairs · 4 bytes written.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod strips;

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::SimdLevel;
use crate::engine::cpu::tile::Tile;

pub use blocks::{Blocks, VECTORS_MAX};

/// `out[p]` = the dot product of pair p.
#[derive(Debug)]
pub struct Interaction {
    /// `dim` elements per row each, of any scope; at most [`VECTORS_MAX`].
    pub vectors: Vec<Place>,
    /// Elements of a vector.
    pub dim: usize,
    /// One element per pair.
    pub out: Place,
    /// The pairs.
    pub blocks: Blocks,
}

impl Interaction {
    /// Scratch memory that it asks for.
    pub fn scratch_bytes(&self) -> usize {
        self.blocks.scratch() * size_of::<f32>()
    }

    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let Some(first) = self.vectors.first() else { return };
        let mut sources = [tile.source::<f32>(first); VECTORS_MAX];
        sources.iter_mut().zip(&self.vectors).for_each(|(source, place)| *source = tile.source::<f32>(place));
        let mut out = tile.target::<f32>(&self.out);
        assert!(self.vectors.len() == self.blocks.vectors() && self.out.len == self.blocks.pairs());
        assert!(self.vectors.iter().all(|vector| vector.len == self.dim));
        let scratch = tile.scratch(self.scratch_bytes());
        let at = |vector: usize, row: usize| sources[vector].row_ptr(row);
        let to = |row: usize| out.row_ptr(row);
        // SAFETY: there is a source of `dim` elements for every vector of the blocks, and as many results as pairs (checked above), for each
        // of the tile's rows; the plan keeps `out` apart from what is read. A `Simd` of a level proves its instructions.
        unsafe {
            match tile.simd.level() {
                #[cfg(target_arch = "x86_64")]
                SimdLevel::Avx512 => avx512::run(&self.blocks, self.dim, tile.rows, tile.simd, scratch, at, to),
                #[cfg(target_arch = "x86_64")]
                SimdLevel::Avx2 => avx2::run(&self.blocks, self.dim, tile.rows, tile.simd, scratch, at, to),
                _ => strips::run(&self.blocks, self.dim, 0..tile.rows, tile.simd, scratch, at, to),
            }
        }
    }
}
