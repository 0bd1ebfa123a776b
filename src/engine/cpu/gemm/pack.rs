//! Weights in the order in which micro-kernels read them.
//!
//! ```text
//!   panel 0            panel 1           ..  last panel: as many whole vectors as it needs
//!   k=0: w w .. w      k=0: w w .. w
//!   k=1: w w .. w      k=1: ..               columns behind n are zero
//! ```

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
    /// Columns with the padding of the last panel.
    pub padded: usize,
    /// First element in the program's packed memory.
    offset: usize,
}

impl Matrix {
    /// Number of panels.
    pub fn panels(&self) -> usize {
        self.n.div_ceil(self.panel)
    }

    /// Where a panel starts in the program's packed memory; the panel behind the last one starts at the end.
    pub fn panel_start(&self, panel: usize) -> usize {
        self.offset + (panel * self.panel).min(self.padded) * self.k
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
        let padded = n.next_multiple_of(self.geometry.vector);
        let matrix = Matrix { k, n, panel: self.geometry.panel, padded, offset: self.elements };
        self.elements = (self.elements + k * padded).next_multiple_of(LINE);
        self.requests.push((matrix, Box::new(weight)));
        matrix
    }

    /// Packs everything.
    pub fn pack(self) -> Result<Block, EngineError> {
        let mut block = Block::zeroed("packed weights", self.elements * size_of::<f32>())?;
        let memory = block.as_mut_slice::<f32>();
        for (matrix, weight) in &self.requests {
            for panel in 0..matrix.panels() {
                let first = panel * matrix.panel;
                let width = matrix.panel.min(matrix.padded - first);
                let columns = width.min(matrix.n - first);
                let rows = memory[matrix.panel_start(panel)..matrix.panel_start(panel + 1)].chunks_exact_mut(width);
                for (k, row) in rows.enumerate() {
                    row[..columns].iter_mut().enumerate().for_each(|(column, out)| *out = weight(k, first + column));
                }
            }
        }
        Ok(block)
    }
}

/// f32 per cache line: matrices start on one.
const LINE: usize = 16;
