//! Embedding lookups: rows of tables, read in whatever format they are stored, pooled per bag, straight into their places.
//!
//! All lookups of one scope are one step. Tables of a kind (format, width, pool) share one compiled loop, which keeps the sums of a bag in
//! registers: `columns` says what is done with numbers, `format` what bytes mean, `lanes` how registers do it, `machine` puts them together.

mod columns;
mod format;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod lanes_x86;
mod machine;

use std::fmt;
use std::ops::Range;

use crate::batch::Starts;
use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::Simd;
use crate::engine::cpu::tile::Tile;
use crate::model::{Coding, Pool, Scope, Table, TableMemory};

use self::columns::{Bag, Rows};
use self::format::Format;
use self::machine::{Functions, Run};

/// One lookup: a bag of every row, a table, a pool, and where the result goes.
///
/// Absent ids ([`crate::batch::NO_ROW`], or any id at or above the table's rows) contribute nothing and are not counted by `mean`; with
/// [`Pool::None`] their place is zero. An empty bag gives zeros.
#[derive(Clone, Debug)]
pub struct Lookup {
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

/// Lookups of one scope in one step.
pub struct Lookups {
    parts: Vec<Part>,
    /// Neighbouring parts of one kind.
    groups: Vec<Group>,
}

struct Group {
    parts: Range<usize>,
    run: Run,
}

/// A lookup with what its loop needs of the table.
pub struct Part {
    scope: Scope,
    bag: usize,
    mean: bool,
    weighted: bool,
    data: TableMemory,
    rows: u32,
    row_bytes: usize,
    dim: usize,
    coding: Option<Coding>,
    out: Place,
}

impl Lookups {
    /// Lookups for rows of `scope`, each with its table.
    pub fn new<'t>(simd: Simd, scope: Scope, lookups: impl IntoIterator<Item = (Lookup, &'t Table)>) -> Lookups {
        let mut parts: Vec<(Run, Part)> = Vec::new();
        for (lookup, table) in lookups {
            let Lookup { bag, width, pool, weighted, out } = lookup;
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
            parts.push((run, Part { bag, mean: pool == Pool::Mean, weighted, ..Part::new(scope, table, out) }));
        }
        // Those of a kind together, otherwise in their order.
        let mut groups: Vec<Group> = Vec::new();
        let mut sorted = Vec::with_capacity(parts.len());
        while let Some(&(run, _)) = parts.first() {
            let first = sorted.len();
            for (_, part) in parts.extract_if(.., |(other, _)| std::ptr::fn_addr_eq(*other, run)) {
                sorted.push(part);
            }
            groups.push(Group { parts: first..sorted.len(), run });
        }
        Lookups { parts: sorted, groups }
    }

    /// Looks up all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        for group in &self.groups {
            // SAFETY: `Functions::of` picked the function for this CPU and for these parts' tables.
            unsafe { (group.run)(&self.parts[group.parts.clone()], tile) };
        }
    }
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lookups({} in {} groups)", self.parts.len(), self.groups.len())
    }
}

/// Reads single rows of a table, for steps that compute ids.
pub struct RowReader {
    part: Part,
    read: machine::Read,
}

impl RowReader {
    /// For a table.
    pub fn new(simd: Simd, table: &Table) -> RowReader {
        let nowhere = Place { region: crate::engine::cpu::memory::Region::Tile, offset: 0, stride: 0, len: 0 };
        RowReader { part: Part::new(Scope::Candidate, table, nowhere), read: Functions::of(simd, table).read }
    }

    /// Numbers per row.
    pub fn dim(&self) -> usize {
        self.part.dim
    }

    /// Rows of the table.
    pub fn rows(&self) -> u32 {
        self.part.rows
    }

    /// Writes row `row`, or zeros if the table has no such row. `out`: [`RowReader::dim`] numbers.
    pub fn read(&self, row: u32, out: &mut [f32]) {
        assert_eq!(out.len(), self.part.dim, "room for one row");
        // SAFETY: `Functions::of` picked the function for this CPU and this table.
        unsafe { (self.read)(&self.part, row, out.as_mut_ptr()) };
    }
}

impl fmt::Debug for RowReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowReader({} rows of {})", self.part.rows, self.part.dim)
    }
}

impl Part {
    fn new(scope: Scope, table: &Table, out: Place) -> Part {
        let (dim, row_bytes) = (table.dim as usize, table.row_bytes());
        assert!(row_bytes >= table.dtype.row_bytes(dim), "rows of table {:?} are whole", table.name);
        assert!(row_bytes * table.rows as usize <= table.data.len(), "table {:?} has its rows", table.name);
        Part {
            scope,
            bag: 0,
            mean: false,
            weighted: false,
            data: table.data.clone(),
            rows: table.rows,
            row_bytes,
            dim,
            coding: table.dtype.coding(dim),
            out,
        }
    }

    #[inline(always)]
    fn rows<F: Format>(&self) -> Rows<F> {
        Rows { base: self.data.as_ptr(), row_bytes: self.row_bytes, rows: self.rows, dim: self.dim, format: F::new(self.coding) }
    }

    /// The ids of a bag that always has one, for the rows of a tile.
    #[inline(always)]
    fn single_ids<'a>(&self, tile: &Tile<'a>) -> impl Iterator<Item = &'a u32> {
        let rows = tile.rows_of(self.scope);
        let first = rows.bag(tile.first, self.bag).start;
        let (ids, starts, stride) = match rows.starts {
            Starts::Fixed { stride, .. } => (&rows.ids[first..], None, stride),
            Starts::Listed { bags, starts } => (rows.ids, Some((&starts[tile.first * bags + self.bag..], bags)), 0),
        };
        (0..tile.rows).map(move |row| match starts {
            None => &ids[row * stride],
            Some((starts, bags)) => &ids[starts[row * bags] as usize],
        })
    }

    /// The bag of a row of the tile.
    #[inline(always)]
    fn bag<'a>(&self, tile: &Tile<'a>, row: usize) -> Bag<'a> {
        let rows = tile.rows_of(self.scope);
        let positions = rows.bag(tile.row_in(self.scope, row), self.bag);
        Bag { weights: self.weighted.then(|| &rows.weights[positions.clone()]), ids: &rows.ids[positions] }
    }
}
