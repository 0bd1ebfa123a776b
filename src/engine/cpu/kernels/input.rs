//! Leaves that read a batch's rows: dense features, integers, bag lengths.

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::tile::Tile;
use crate::model::Scope;

/// Dense features side by side, of either scope → `[sum of widths]`.
#[derive(Debug)]
pub struct Dense {
    /// Runs of columns, in order of the output.
    pub parts: Vec<DensePart>,
    /// f32.
    pub out: Place,
}

/// Columns of one scope's dense rows that lie side by side in the output too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DensePart {
    /// Whose rows.
    pub scope: Scope,
    /// First column of the dense row.
    pub column: usize,
    /// First element of the output.
    pub at: usize,
    /// Columns.
    pub width: usize,
}

impl Dense {
    /// Copies all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let mut out = tile.target::<f32>(&self.out);
        for part in &self.parts {
            let rows = tile.rows_of(part.scope);
            for row in 0..tile.rows {
                let start = tile.row_in(part.scope, row) * rows.dense_width + part.column;
                out.row(row)[part.at..part.at + part.width].copy_from_slice(&rows.dense[start..start + part.width]);
            }
        }
    }
}

/// Values of an integer feature → i64 `[width]`.
#[derive(Debug)]
pub struct Integer {
    /// Whose rows.
    pub scope: Scope,
    /// First column of the integer row.
    pub column: usize,
    /// i64.
    pub out: Place,
}

impl Integer {
    /// Copies all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let mut out = tile.target::<i64>(&self.out);
        let rows = tile.rows_of(self.scope);
        for row in 0..tile.rows {
            let start = tile.row_in(self.scope, row) * rows.int_width + self.column;
            out.row(row).copy_from_slice(&rows.ints[start..start + self.out.len]);
        }
    }
}

/// Number of ids of a bag → i64 `[]`.
#[derive(Debug)]
pub struct Length {
    /// Whose rows.
    pub scope: Scope,
    /// Which bag.
    pub bag: usize,
    /// i64.
    pub out: Place,
}

impl Length {
    /// Counts for all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let mut out = tile.target::<i64>(&self.out);
        let rows = tile.rows_of(self.scope);
        for row in 0..tile.rows {
            out.row(row)[0] = rows.bag(tile.row_in(self.scope, row), self.bag).len() as i64;
        }
    }
}
