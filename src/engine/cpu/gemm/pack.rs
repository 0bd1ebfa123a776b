//! Weights in the order in which micro-kernels read them.
//!
//! The inner size is cut into blocks of even size, each block into panels of columns; a panel of a block is a chunk. Chunks follow one another
//! as they are computed, so that weights are one stream through memory, whatever the number of rows.
//!
//! ```text
//!   block 0                                       block 1
//!   panel 0         panel 1         .. last       panel 0         panel 1         .. last
//!   k=0: w w .. w   k=0: w w .. w                 k=4: w w .. w   k=4: w w .. w
//!   ..              ..                            ..              ..
//!   k=3: w w .. w   k=3: w w .. w                 k=6: w w .. w   k=6: w w .. w
//!
//!   the last panel has as many whole vectors as it needs; its columns behind n are zero
//! ```
//!
//! A narrow matrix is its columns one behind the other.

use std::ops::Range;

use crate::engine::EngineError;
use crate::engine::cpu::memory::Block;
use crate::engine::cpu::simd::Simd;

use super::Geometry;

/// A packed matrix of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Inner size.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Columns of a whole panel.
    pub panel: usize,
    /// Most inner indices of a block.
    pub block: usize,
    /// Columns with the padding of the last panel.
    pub padded: usize,
    /// First element in the program's packed memory.
    offset: usize,
}

/// Some panels of one block of k.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// Inner indices.
    pub k: Range<usize>,
    /// Columns, without padding.
    pub columns: Range<usize>,
    /// Elements in the program's packed memory.
    pub elements: Range<usize>,
}

impl Matrix {
    /// Number of panels of a block.
    pub fn panels(&self) -> usize {
        self.n.div_ceil(self.panel)
    }

    /// Whether its columns lie one behind the other, unpadded, for scalar products.
    pub fn is_narrow(&self) -> bool {
        self.n <= NARROW
    }

    /// Number of blocks of k; an empty sum is one empty block.
    fn blocks(&self) -> usize {
        if self.is_narrow() { 1 } else { self.k.div_ceil(self.block).max(1) }
    }

    /// Number of chunks.
    pub fn chunks(&self) -> usize {
        self.panels() * self.blocks()
    }

    /// Chunks from number `first` on: at most `count`, and of one block.
    pub fn chunks_from(&self, first: usize, count: usize) -> Chunks {
        let (block, panel) = (first / self.panels(), first % self.panels());
        let end = (panel + count).min(self.panels());
        let (blocks, k) = (self.blocks(), self.k);
        let k = block * k / blocks..(block + 1) * k / blocks;
        let start = |panel: usize| self.offset + k.start * self.padded + (panel * self.panel).min(self.padded) * k.len();
        let elements = start(panel)..start(end);
        Chunks { columns: panel * self.panel..(end * self.panel).min(self.n), elements, k }
    }
}

/// Collects the matrices of a program, then packs them into one block.
pub struct Packer<'a> {
    geometry: Geometry,
    requests: Vec<(Matrix, Weight<'a>)>,
    elements: usize,
}

/// Element (k, n) of a matrix to pack.
type Weight<'a> = Box<dyn Fn(usize, usize) -> f32 + 'a>;

impl<'a> Packer<'a> {
    /// For this level.
    pub fn new(simd: Simd) -> Packer<'a> {
        Packer { geometry: Geometry::of(simd.level()), requests: Vec::new(), elements: 0 }
    }

    /// Reserves room for `weight(k, n)`.
    pub fn add(&mut self, k: usize, n: usize, weight: impl Fn(usize, usize) -> f32 + 'a) -> Matrix {
        let padded = if n <= NARROW { n } else { n.next_multiple_of(self.geometry.vector) };
        let matrix = Matrix { k, n, panel: self.geometry.panel, block: self.geometry.block, padded, offset: self.elements };
        self.elements = (self.elements + k * padded).next_multiple_of(LINE);
        self.requests.push((matrix, Box::new(weight)));
        matrix
    }

    /// Packs everything.
    pub fn pack(self) -> Result<Block, EngineError> {
        let mut block = Block::zeroed("packed weights", self.elements * size_of::<f32>())?;
        let memory = block.as_mut_slice::<f32>();
        for (matrix, weight) in &self.requests {
            for chunk in (0..matrix.chunks()).map(|chunk| matrix.chunks_from(chunk, 1)) {
                if matrix.is_narrow() {
                    let columns = memory[chunk.elements].chunks_exact_mut(matrix.k.max(1));
                    chunk
                        .columns
                        .zip(columns)
                        .for_each(|(n, column)| column.iter_mut().enumerate().for_each(|(k, out)| *out = weight(k, n)));
                    continue;
                }
                let width = chunk.columns.len().next_multiple_of(self.geometry.vector);
                for (k, row) in chunk.k.zip(memory[chunk.elements].chunks_exact_mut(width)) {
                    row.iter_mut().zip(chunk.columns.clone()).for_each(|(out, column)| *out = weight(k, column));
                }
            }
        }
        Ok(block)
    }
}

/// f32 per cache line: matrices start on one.
const LINE: usize = 16;

/// Matrices of so many columns are narrow: padded to a vector they would mostly multiply zeros.
const NARROW: usize = 4;
