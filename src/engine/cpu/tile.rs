//! What a kernel sees while it runs: some rows of a batch, and where their values lie.

use bytemuck::Pod;

use crate::batch::{Inputs, Rows};
use crate::model::{Scope, ValueScope, Weights};

use super::memory::{Place, Region, Source, Target};
use super::simd::Simd;

/// Rows `first .. first + rows` of a scope, computed from `inputs`; in the tile's memory they are rows `tile_row ..`.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// Instructions to use.
    pub simd: Simd,
    /// Whose rows: contexts, candidates, or (while a program is made) the one row of constants.
    pub scope: ValueScope,
    /// First row within the batch.
    pub first: usize,
    /// Rows.
    pub rows: usize,
    /// First row within the tile's memory.
    pub tile_row: usize,
    /// The batch.
    pub inputs: Inputs<'a>,
    /// The model's numbers.
    pub weights: &'a Weights,
    /// Packed matrices.
    pub packed: &'a [f32],
    /// Memory of each region.
    pub memory: Memory,
}

/// Start of each [`Region`].
#[derive(Clone, Copy)]
pub struct Memory {
    /// [`Region::Constant`]: only read, except while a program is made.
    pub constants: *mut u8,
    /// [`Region::Context`].
    pub contexts: *mut u8,
    /// [`Region::Tile`].
    pub tile: *mut u8,
    /// For what a kernel keeps while it runs.
    pub scratch: *mut u8,
    /// Bytes of it.
    pub scratch_bytes: usize,
}

impl<'a> Tile<'a> {
    /// `rows` rows from row `skip` on.
    pub fn part(&self, skip: usize, rows: usize) -> Tile<'a> {
        debug_assert!(skip + rows <= self.rows);
        Tile { first: self.first + skip, tile_row: self.tile_row + skip, rows, ..*self }
    }

    /// A value to read. The plan wrote it before this step, and gave it memory that this step does not write.
    pub fn source<T: Pod>(&self, place: &Place) -> Source<'a, T> {
        let (base, first, index) = match place.region {
            Region::Constant => (self.memory.constants, 0, None),
            Region::Tile => (self.memory.tile, self.tile_row, None),
            Region::Context if self.scope == ValueScope::Context => (self.memory.contexts, self.first, None),
            Region::Context => (self.memory.contexts, 0, Some(&self.inputs.row_context[self.first..self.first + self.rows])),
        };
        let base = base.wrapping_add(place.offset).cast::<T>().wrapping_add(first * place.stride);
        // SAFETY: the workspace was made for this program's places, this batch's contexts and full tiles (`Workspace::fit`), and is zeroed
        // memory, so every row is initialised; the plan never lets a step write what it reads.
        unsafe { Source::new(base, place.stride, place.len, self.rows, index) }
    }

    /// A value to write.
    pub fn target<T: Pod>(&self, place: &Place) -> Target<'a, T> {
        let (base, first) = match place.region {
            Region::Constant => (self.memory.constants, 0),
            Region::Tile => (self.memory.tile, self.tile_row),
            Region::Context => (self.memory.contexts, self.first),
        };
        let base = base.wrapping_add(place.offset).cast::<T>().wrapping_add(first * place.stride);
        // SAFETY: as for `source`; values that live at the same time have disjoint elements, and a step writes one value.
        unsafe { Target::new(base, place.stride, place.len, self.rows) }
    }

    /// The first `bytes` of scratch memory, on a page boundary, with whatever an earlier kernel left there. A kernel takes it once.
    #[allow(clippy::mut_from_ref)]
    pub fn scratch(&self, bytes: usize) -> &mut [f32] {
        assert!(bytes <= self.memory.scratch_bytes, "the program asked for its kernels' scratch memory");
        // SAFETY: as many bytes of the workspace, which start as zeros and which no value lies in; a step is run by one thread, and takes
        // its scratch memory once.
        unsafe { std::slice::from_raw_parts_mut(self.memory.scratch.cast(), bytes / size_of::<f32>()) }
    }

    /// The batch's rows of a scope.
    pub fn rows_of(&self, scope: Scope) -> &Rows<'a> {
        match scope {
            Scope::Context => &self.inputs.contexts,
            Scope::Candidate => &self.inputs.candidates,
        }
    }

    /// Which row of `scope` belongs to row `row` of this tile.
    pub fn row_in(&self, scope: Scope, row: usize) -> usize {
        match (scope, self.scope) {
            (Scope::Context, ValueScope::Candidate) => self.inputs.row_context[self.first + row] as usize,
            _ => self.first + row,
        }
    }
}
