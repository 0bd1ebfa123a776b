//! The loops over rows of a tile and tables of a group: row by row, so that neighbouring reads go to different tables and results are written
//! front to back, with the rows of tables that come next asked for ahead of time.

use crate::batch::Starts;
use crate::engine::cpu::lanes::Lanes;
use crate::engine::cpu::tile::Tile;
use crate::model::{Scope, ValueScope};

use super::ahead::Ahead;
use super::columns::{Bag, copy, max, sum};
use super::format::Format;
use super::part::Group;

/// Bags of one id each.
///
/// # Safety
/// As for [`super::machine::Run`].
#[inline(always)]
pub unsafe fn singles<V: Lanes, F: Format, const N: usize>(group: &Group, tile: &Tile) {
    let (scope, rows) = (group.scope(), tile.rows_of(group.scope()));
    // SAFETY: the caller's promise.
    unsafe {
        match rows.starts {
            // Rows of contexts, for each candidate.
            _ if scope == Scope::Context && tile.scope == ValueScope::Candidate => {
                each_single::<V, F, N>(group, tile, |row, bag| rows.ids[rows.bag(tile.row_in(scope, row), bag).start]);
            }
            Starts::Fixed { stride, offsets } => {
                let ids = &rows.ids[tile.first * stride..][..tile.rows * stride];
                each_single::<V, F, N>(group, tile, |row, bag| ids[row * stride + offsets[bag]]);
            }
            Starts::Listed { bags, starts } => {
                let starts = &starts[tile.first * bags..][..tile.rows * bags];
                each_single::<V, F, N>(group, tile, |row, bag| rows.ids[starts[row * bags + bag] as usize]);
            }
        }
    }
}

/// # Safety
/// As for [`super::machine::Run`]; `id` gives the id of a row's bag.
#[inline(always)]
unsafe fn each_single<V: Lanes, F: Format, const N: usize>(group: &Group, tile: &Tile, id: impl Fn(usize, usize) -> u32) {
    let mut out = group.out(tile);
    // Of a tile of few rows all is under way at once, without help.
    let ahead = group.rows_ahead();
    let ahead = if ahead < tile.rows { ahead } else { 0 };
    for row in 0..ahead {
        group.parts().iter().for_each(|part| part.prefetch(id(row, part.bag)));
    }
    for row in 0..tile.rows {
        let next = row + ahead;
        let next = if ahead > 0 && next < tile.rows { Some(next) } else { None };
        for part in group.parts() {
            if let Some(next) = next {
                part.prefetch(id(next, part.bag));
            }
            // SAFETY: the caller's promise; a part's output has room for a row of its table.
            unsafe { copy::<V, F, N>(&part.rows::<F>(), id(row, part.bag), None, out.row_of(part, row)) };
        }
    }
}

/// Sums and means.
///
/// # Safety
/// As for [`super::machine::Run`].
#[inline(always)]
pub unsafe fn sums<V: Lanes, F: Format, const N: usize>(group: &Group, tile: &Tile) {
    let (mut out, mut ahead) = (group.out(tile), Ahead::new(group, tile));
    for row in 0..tile.rows {
        for part in group.parts() {
            let bag = group.bag(part, tile, row);
            // SAFETY: as in `each_single`.
            unsafe { sum::<V, F, N>(&part.rows::<F>(), bag, part.mean, || ahead.next(), out.row_of(part, row)) };
        }
    }
}

/// Maxima.
///
/// # Safety
/// As for [`super::machine::Run`].
#[inline(always)]
pub unsafe fn maxima<V: Lanes, F: Format, const N: usize>(group: &Group, tile: &Tile) {
    let (mut out, mut ahead) = (group.out(tile), Ahead::new(group, tile));
    for row in 0..tile.rows {
        for part in group.parts() {
            let bag = group.bag(part, tile, row);
            // SAFETY: as in `each_single`.
            unsafe { max::<V, F, N>(&part.rows::<F>(), bag.ids, || ahead.next(), out.row_of(part, row)) };
        }
    }
}

/// Rows one behind the other, then zeros.
///
/// # Safety
/// As for [`super::machine::Run`].
#[inline(always)]
pub unsafe fn sequences<V: Lanes, F: Format, const N: usize>(group: &Group, tile: &Tile) {
    let (mut out, mut ahead) = (group.out(tile), Ahead::new(group, tile));
    for row in 0..tile.rows {
        for part in group.parts() {
            let Bag { ids, weights } = group.bag(part, tile, row);
            let table = part.rows::<F>();
            // SAFETY: a part's output is `part.out.len` numbers, and zeroed memory at least.
            let out = unsafe { std::slice::from_raw_parts_mut(out.row_of(part, row), part.out.len) };
            let (filled, rest) = out.split_at_mut(ids.len() * table.dim);
            for (at, (&id, out)) in ids.iter().zip(filled.chunks_exact_mut(table.dim)).enumerate() {
                ahead.next();
                // SAFETY: the caller's promise; the chunk has room for a row.
                unsafe { copy::<V, F, N>(&table, id, weights.map(|weights| weights[at]), out.as_mut_ptr()) };
            }
            rest.fill(0.0);
        }
    }
}
