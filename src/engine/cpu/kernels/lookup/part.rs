//! A lookup as its loop sees it, and groups of them.

use crate::engine::cpu::memory::{Place, Target};
use crate::engine::cpu::tile::Tile;
use crate::model::{Coding, Scope, Table, TableMemory};

use super::columns::{Bag, Rows};
use super::format::Format;

/// A table in memory.
#[derive(Clone, Copy)]
pub struct Stored {
    base: *const u8,
    row_bytes: usize,
    /// Ids at or above are absent.
    pub rows: u32,
    /// Numbers per row.
    pub dim: usize,
    coding: Option<Coding>,
}

/// One lookup.
pub struct Part {
    table: Stored,
    /// Which bag.
    pub bag: usize,
    /// Sums are divided by the number of ids that are not absent.
    pub mean: bool,
    /// Rows are multiplied with the weights of their ids.
    pub weighted: bool,
    /// Room for `dim` numbers; for a sequence, for a whole number of rows that no bag exceeds.
    pub out: Place,
    /// Lines of what is read of a row, and, if rows need not start on a line, its last byte.
    lines: u32,
    last: Option<u32>,
    /// Keeps what `table` points to.
    data: TableMemory,
}

// SAFETY: `table` points into `data`, which is shared and never written.
unsafe impl Send for Part {}
// SAFETY: as above.
unsafe impl Sync for Part {}

impl Stored {
    /// Where a table's rows are, as long as the table lives.
    pub fn new(table: &Table) -> Stored {
        let (dim, row_bytes) = (table.dim as usize, table.row_bytes());
        assert!(row_bytes >= table.dtype.row_bytes(dim), "rows of table {:?} are whole", table.name);
        assert!(row_bytes * table.rows as usize <= table.data.len(), "table {:?} has its rows", table.name);
        Stored { base: table.data.as_ptr(), row_bytes, rows: table.rows, dim, coding: table.dtype.coding(dim) }
    }

    /// The rows, of this format.
    #[inline(always)]
    pub fn rows<F: Format>(&self) -> Rows<F> {
        Rows { base: self.base, row_bytes: self.row_bytes, rows: self.rows, dim: self.dim, format: F::new(self.coding) }
    }
}

impl Part {
    /// A lookup in a table: bag 0, summed, without weights.
    pub fn new(table: &Table, out: Place) -> Part {
        let (stored, need) = (Stored::new(table), table.dtype.row_bytes(table.dim as usize));
        Part {
            table: stored,
            bag: 0,
            mean: false,
            weighted: false,
            out,
            lines: need.div_ceil(LINE) as u32,
            last: (!stored.row_bytes.is_multiple_of(LINE) && !LINE.is_multiple_of(stored.row_bytes)).then_some(need as u32 - 1),
            data: table.data.clone(),
        }
    }

    /// The table, of this format.
    #[inline(always)]
    pub fn rows<F: Format>(&self) -> Rows<F> {
        self.table.rows()
    }

    /// Cache lines of a row.
    #[inline(always)]
    pub fn lines(&self) -> usize {
        self.lines as usize
    }

    /// Asks for the row of an id, if there is one.
    #[inline(always)]
    pub fn prefetch(&self, id: u32) {
        if id >= self.table.rows {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let row = self.table.base.wrapping_add(id as usize * self.table.row_bytes);
            for line in 0..self.lines as usize {
                // SAFETY: a hint, of an address within the table.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(line * LINE).cast()) };
            }
            if let Some(last) = self.last {
                // SAFETY: as above.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(last as usize).cast()) };
            }
        }
    }
}

/// Lookups of one kind, whose results lie in rows of the same region and stride.
pub struct Group {
    scope: Scope,
    parts: Vec<Part>,
    ids_ahead: usize,
}

impl Group {
    /// Lookups of rows of `scope`; not none.
    pub fn new(scope: Scope, parts: Vec<Part>) -> Group {
        let bytes: usize = parts.iter().map(|part| part.data.len()).sum();
        let lines = parts.iter().map(|part| part.lines as usize).max().unwrap_or(1);
        let ids_ahead = if bytes <= CACHE_BYTES { 0 } else { (AHEAD_LINES / lines).clamp(AHEAD_IDS_MIN, AHEAD_IDS_MAX) };
        Group { scope, parts, ids_ahead }
    }

    /// Whose rows.
    #[inline(always)]
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The lookups.
    #[inline(always)]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// How many ids ahead of the work rows are asked for; 0: not at all.
    #[inline(always)]
    pub fn ids_ahead(&self) -> usize {
        self.ids_ahead
    }

    /// The same in rows of the tile, if each has an id per part.
    #[inline(always)]
    pub fn rows_ahead(&self) -> usize {
        self.ids_ahead.div_ceil(self.parts.len())
    }

    /// The bag of a row of the tile.
    #[inline(always)]
    pub fn bag<'a>(&self, part: &Part, tile: &Tile<'a>, row: usize) -> Bag<'a> {
        let rows = tile.rows_of(self.scope);
        let positions = rows.bag(tile.row_in(self.scope, row), part.bag);
        Bag { weights: part.weighted.then(|| &rows.weights[positions.clone()]), ids: &rows.ids[positions] }
    }

    /// Where results go.
    #[inline(always)]
    pub fn out<'a>(&self, tile: &Tile<'a>) -> Results<'a> {
        let first = &self.parts[0].out;
        Results { target: tile.target(first), offset: first.offset }
    }
}

/// Rows of results of a group.
pub struct Results<'a> {
    target: Target<'a, f32>,
    /// Of the first part.
    offset: usize,
}

impl Results<'_> {
    /// Where a part's result of a row goes: `part.out.len` numbers. A group's parts share region and stride.
    #[inline(always)]
    pub fn row_of(&mut self, part: &Part, row: usize) -> *mut f32 {
        self.target.row_ptr(row).wrapping_byte_add(part.out.offset).wrapping_byte_sub(self.offset)
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Tables of so many bytes stay in the core's own cache.
const CACHE_BYTES: usize = 512 << 10;

/// Lines of rows that are asked for ahead of time: enough to keep memory busy, few enough to stay in the first-level cache.
const AHEAD_LINES: usize = 128;
/// Ids, whatever their lines.
const AHEAD_IDS_MIN: usize = 8;
const AHEAD_IDS_MAX: usize = 48;
