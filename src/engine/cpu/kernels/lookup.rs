//! Embedding lookups: rows of a table, pooled per bag.

use crate::batch::NO_ROW;
use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, multiversion, prefetch};
use crate::engine::cpu::tile::Tile;
use crate::model::{Pool, Scope, TableId};

/// Pooled rows of a bag → `[dim]`, or `[max_len, dim]` with [`Pool::None`].
///
/// [`NO_ROW`] contributes nothing and is not counted by `mean`; with `Pool::None` its place stays zero. An empty bag gives zeros.
#[derive(Debug)]
pub struct Lookup {
    /// Whose rows.
    pub scope: Scope,
    /// Which bag.
    pub bag: usize,
    /// Which table; every id is below its rows.
    pub table: TableId,
    /// How rows are combined.
    pub pool: Pool,
    /// Rows are multiplied with their weight (sum alone).
    pub weighted: bool,
    /// f32.
    pub out: Place,
}

impl Lookup {
    /// Looks up all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let table = tile.weights.table(self.table);
        let dim = table.dim as usize;
        let rows = tile.rows_of(self.scope);
        let mut out = tile.target::<f32>(&self.out);
        let bag = |row: usize| rows.bag(tile.row_in(self.scope, row), self.bag);
        let fetch = |row: usize| {
            let ids = &rows.ids[bag(row)];
            ids.iter().take(AHEAD_IDS).for_each(|&id| prefetch(&table.data, id as usize * dim, dim.min(AHEAD_ELEMENTS)));
        };
        (0..tile.rows.min(AHEAD_ROWS)).for_each(fetch);
        for row in 0..tile.rows {
            if row + AHEAD_ROWS < tile.rows {
                fetch(row + AHEAD_ROWS);
            }
            let positions = bag(row);
            let weights = if self.weighted { &rows.weights[positions.clone()] } else { &[] };
            let bag = Bag { ids: &rows.ids[positions], weights, table: &table.data, dim };
            let out = out.row(row);
            match (self.pool, bag.ids) {
                (Pool::None, _) => bag.sequence(out),
                (_, &[id]) if id != NO_ROW && !self.weighted => out.copy_from_slice(bag.embedding(id)),
                (Pool::Sum, _) => sum_bag(tile.simd, &bag, out),
                (Pool::Mean, _) => mean_bag(tile.simd, &bag, out),
                (Pool::Max, _) => max_bag(tile.simd, &bag, out),
            }
        }
    }
}

/// One bag: ids below the table's rows, `dim` elements per row.
struct Bag<'a> {
    ids: &'a [u32],
    /// Parallel to `ids`, or empty.
    weights: &'a [f32],
    table: &'a [f32],
    dim: usize,
}

impl<'a> Bag<'a> {
    #[inline(always)]
    fn embedding(&self, id: u32) -> &'a [f32] {
        &self.table[id as usize * self.dim..][..self.dim]
    }

    fn sequence(&self, out: &mut [f32]) {
        let (filled, rest) = out.split_at_mut(self.ids.len() * self.dim);
        for (&id, out) in self.ids.iter().zip(filled.chunks_exact_mut(self.dim)) {
            if id == NO_ROW {
                out.fill(0.0);
            } else {
                out.copy_from_slice(self.embedding(id));
            }
        }
        rest.fill(0.0);
    }
}

multiversion! {
    fn sum_bag(bag: &Bag, out: &mut [f32]) = sum_body;
    fn mean_bag(bag: &Bag, out: &mut [f32]) = mean_body;
    fn max_bag(bag: &Bag, out: &mut [f32]) = max_body;
}

#[inline(always)]
fn sum_body<M: MulAdd>(bag: &Bag, out: &mut [f32]) {
    out.fill(0.0);
    for (position, &id) in bag.ids.iter().enumerate().filter(|&(_, &id)| id != NO_ROW) {
        let embedding = bag.embedding(id);
        match bag.weights.get(position) {
            Some(&weight) => out.iter_mut().zip(embedding).for_each(|(sum, &value)| *sum = M::mul_add(weight, value, *sum)),
            None => out.iter_mut().zip(embedding).for_each(|(sum, &value)| *sum += value),
        }
    }
}

#[inline(always)]
fn mean_body<M: MulAdd>(bag: &Bag, out: &mut [f32]) {
    sum_body::<M>(bag, out);
    let counted = bag.ids.iter().filter(|&&id| id != NO_ROW).count();
    if counted > 1 {
        let count = counted as f32;
        out.iter_mut().for_each(|sum| *sum /= count);
    }
}

#[inline(always)]
fn max_body<M: MulAdd>(bag: &Bag, out: &mut [f32]) {
    let mut first = true;
    for &id in bag.ids.iter().filter(|&&id| id != NO_ROW) {
        let embedding = bag.embedding(id);
        if first {
            out.copy_from_slice(embedding);
        } else {
            out.iter_mut().zip(embedding).for_each(|(max, &value)| *max = if value > *max { value } else { *max });
        }
        first = false;
    }
    if first {
        out.fill(0.0);
    }
}

/// Rows of tables are asked for so many rows ahead: memory answers many requests at once, and slowly.
const AHEAD_ROWS: usize = 16;
/// Of a bag, and of an embedding row, only the start: more would push out what is still wanted.
const AHEAD_IDS: usize = 8;
const AHEAD_ELEMENTS: usize = 64;
