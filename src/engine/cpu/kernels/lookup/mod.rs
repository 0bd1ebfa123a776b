//! Embedding lookups: rows of tables, read in whatever format they are stored, pooled per bag, straight into their places.
//!
//! All lookups of one scope are one step. Tables of a kind (format, width, pool) share one compiled loop, which keeps the sums of a bag in
//! registers: `columns` says what is done with numbers, `format` what bytes mean, `cpu::lanes` how registers do it, `loops` in which order, `ahead`
//! what is asked for before it is needed; `machine` compiles them for each instruction set.

mod ahead;
mod columns;
mod format;
mod loops;
mod machine;
mod part;

use std::fmt;
use std::marker::PhantomData;

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::Simd;
use crate::engine::cpu::tile::Tile;
use crate::model::{Pool, Scope, Table};

use self::machine::{Functions, Read, Run};
use self::part::{Group, Part, Stored};

/// One lookup: a bag of every row, a pool, and where the result goes.
///
/// Absent ids ([`crate::batch::NO_ROW`], or any id at or above the table's rows) contribute nothing and are not counted by `mean`; with
/// [`Pool::None`] their place is zero. An empty bag gives zeros.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Whose rows: those of the contexts may be looked up for each candidate, where a plan hoists nothing.
    pub scope: Scope,
    /// Which bag.
    pub bag: usize,
    /// Its ids per row, if always the same number.
    pub width: Option<usize>,
    /// How rows are combined.
    pub pool: Pool,
    /// Rows are multiplied with the weights of their ids. Not with [`Pool::Max`].
    pub weighted: bool,
    /// f32: `dim` numbers, or with [`Pool::None`] a whole number of rows that no bag exceeds.
    pub out: Place,
}

/// Lookups in one step.
pub struct Lookups {
    groups: Vec<(Run, Group)>,
}

impl Lookups {
    /// Lookups, each with its table.
    pub fn new<'t>(simd: Simd, lookups: impl IntoIterator<Item = (Lookup, &'t Table)>) -> Lookups {
        let mut kinds: Vec<(Run, Scope, Vec<Part>)> = Vec::new();
        for (Lookup { scope, bag, width, pool, weighted, out }, table) in lookups {
            let functions = Functions::of(simd, table);
            let run = match pool {
                Pool::None => functions.sequences,
                _ if width == Some(1) && !weighted => functions.singles,
                Pool::Sum | Pool::Mean => functions.sums,
                Pool::Max => functions.maxima,
            };
            let dim = table.dim as usize;
            let fits = if pool == Pool::None { out.len.is_multiple_of(dim) } else { out.len == dim };
            assert!(fits, "the shape pass gave a lookup room for its rows");
            let mut part = Part::new(table, out);
            (part.bag, part.mean, part.weighted) = (bag, pool == Pool::Mean, weighted);
            let of_kind = |(other, of, parts): &&mut (Run, Scope, Vec<Part>)| {
                let place = parts[0].out;
                std::ptr::fn_addr_eq(*other, run) && (*of, place.region, place.stride) == (scope, out.region, out.stride)
            };
            match kinds.iter_mut().find(of_kind) {
                Some((_, _, parts)) => parts.push(part),
                None => kinds.push((run, scope, vec![part])),
            }
        }
        Lookups { groups: kinds.into_iter().map(|(run, scope, parts)| (run, Group::new(scope, parts))).collect() }
    }

    /// Asks for what the tile's first ids will read, as much as waits in the caches while the steps before this one run.
    pub fn ask(&self, tile: &Tile) {
        let mut lines = ASKED_LINES;
        for group in self.groups.iter().map(|(_, group)| group).filter(|group| group.ids_ahead() > 0) {
            for row in 0..tile.rows {
                for part in group.parts() {
                    for &id in group.bag(part, tile, row).ids {
                        if lines < part.lines() {
                            return;
                        }
                        lines -= part.lines();
                        part.prefetch(id);
                    }
                }
            }
        }
    }

    /// Looks up all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        for (run, group) in &self.groups {
            // SAFETY: `Functions::of` picked the function for this CPU and for these parts' tables.
            unsafe { run(group, tile) };
        }
    }
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: usize = self.groups.iter().map(|(_, group)| group.parts().len()).sum();
        write!(f, "Lookups({parts} in {} groups)", self.groups.len())
    }
}

/// Reads single rows of a table, for steps that compute ids.
pub struct RowReader<'t> {
    stored: Stored,
    read: Read,
    table: PhantomData<&'t Table>,
}

impl<'t> RowReader<'t> {
    /// For a table. Cheap: may be made for every tile.
    pub fn new(simd: Simd, table: &'t Table) -> RowReader<'t> {
        RowReader { stored: Stored::new(table), read: Functions::of(simd, table).read, table: PhantomData }
    }

    /// Writes row `row`, or zeros if the table has no such row. `out`: as many numbers as a row has.
    pub fn read(&self, row: u32, out: &mut [f32]) {
        assert_eq!(out.len(), self.stored.dim, "room for one row");
        // SAFETY: `Functions::of` picked the function for this CPU and this table, which lives as long as the reader.
        unsafe { (self.read)(&self.stored, row, out.as_mut_ptr()) };
    }
}

/// Lines of tables that are asked for before a tile's first step: about as many as a core may have under way. More would wait for one another:
/// with 2048, 64 rows of 26 ids took 1.1 times as long.
const ASKED_LINES: usize = 64;
