//! Elements picked by computed indices. An index out of range picks nothing: NaN, or the least integer, takes its place.

use std::fmt::Debug;

use bytemuck::Pod;

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::tile::Tile;
use crate::model::TableId;

use super::Generic;
use super::lookup::RowReader;
use super::normalize::AxisView;

/// `x` is `[outer][axis][inner]`, `index` `[n]`, `out` `[outer][n][inner]`.
#[derive(Debug)]
pub struct Pick<T> {
    /// Operand.
    pub x: Place,
    /// i64.
    pub index: Place,
    /// Result.
    pub out: Place,
    /// The operand's axis.
    pub view: AxisView,
    /// What stands for an element that is not there.
    pub lost: T,
}

impl<T: Pod + Debug + Send + Sync> Generic for Pick<T> {
    fn run(&self, tile: &Tile) {
        let (x, index, mut out) = (tile.source::<T>(&self.x), tile.source::<i64>(&self.index), tile.target::<T>(&self.out));
        let AxisView { axis, inner } = self.view;
        for row in 0..tile.rows {
            let index = index.row(row);
            let blocks = x.row(row).chunks_exact(axis * inner).zip(out.row(row).chunks_exact_mut(index.len() * inner));
            for (from, to) in blocks {
                for (to, &index) in to.chunks_exact_mut(inner).zip(index) {
                    match below(index, axis) {
                        Some(index) => to.copy_from_slice(&from[index * inner..][..inner]),
                        None => to.fill(self.lost),
                    }
                }
            }
        }
    }
}

/// `x` is `[outer][axis][inner]`, `index` and `out` are `[outer][n][inner]`.
#[derive(Debug)]
pub struct TakeAlong<T> {
    /// Operand.
    pub x: Place,
    /// i64.
    pub index: Place,
    /// Result.
    pub out: Place,
    /// The operand's axis.
    pub view: AxisView,
    /// Size of the index's axis.
    pub picked: usize,
    /// What stands for an element that is not there.
    pub lost: T,
}

impl<T: Pod + Debug + Send + Sync> Generic for TakeAlong<T> {
    fn run(&self, tile: &Tile) {
        let (x, index, mut out) = (tile.source::<T>(&self.x), tile.source::<i64>(&self.index), tile.target::<T>(&self.out));
        let AxisView { axis, inner } = self.view;
        let block = self.picked * inner;
        for row in 0..tile.rows {
            let from = x.row(row).chunks_exact(axis * inner);
            let to = out.row(row).chunks_exact_mut(block).zip(index.row(row).chunks_exact(block));
            for (from, (to, index)) in from.zip(to) {
                for (place, (to, &index)) in to.iter_mut().zip(index).enumerate() {
                    *to = below(index, axis).map_or(self.lost, |index| from[index * inner + place % inner]);
                }
            }
        }
    }
}

/// Rows of a table: `index` `[n]` → f32 `[n][dim]`.
#[derive(Debug)]
pub struct Embedding {
    /// i64.
    pub index: Place,
    /// Which table.
    pub table: TableId,
    /// f32.
    pub out: Place,
}

impl Generic for Embedding {
    fn run(&self, tile: &Tile) {
        let (index, mut out) = (tile.source::<i64>(&self.index), tile.target::<f32>(&self.out));
        let table = tile.weights.table(self.table);
        let (dim, reader) = (table.dim as usize, RowReader::new(tile.simd, table));
        for row in 0..tile.rows {
            for (to, &index) in out.row(row).chunks_exact_mut(dim).zip(index.row(row)) {
                match below(index, table.rows as usize) {
                    Some(index) => reader.read(index as u32, to),
                    None => to.fill(f32::NAN),
                }
            }
        }
    }
}

/// i64 `[n]` → f32 `[n][depth]`.
#[derive(Debug)]
pub struct OneHot {
    /// i64.
    pub x: Place,
    /// f32.
    pub out: Place,
    /// Size of the new axis.
    pub depth: usize,
    /// At the index.
    pub on: f32,
    /// Elsewhere.
    pub off: f32,
}

impl Generic for OneHot {
    fn run(&self, tile: &Tile) {
        let (x, mut out) = (tile.source::<i64>(&self.x), tile.target::<f32>(&self.out));
        for row in 0..tile.rows {
            for (to, &index) in out.row(row).chunks_exact_mut(self.depth).zip(x.row(row)) {
                to.fill(self.off);
                if let Some(index) = below(index, self.depth) {
                    to[index] = self.on;
                }
            }
        }
    }
}

#[inline(always)]
fn below(index: i64, size: usize) -> Option<usize> {
    usize::try_from(index).ok().filter(|&index| index < size)
}
