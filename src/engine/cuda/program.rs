//! A model for the CUDA engine: what is compiled, what is uploaded, what is launched. Made without a device.

use std::sync::Arc;

use crate::batch::Layout;
use crate::engine::precision::LayerPrecision;
use crate::model::{Model, Table, TableId};

/// Made once per process and kind of device, shared by all shards.
pub struct Program {
    /// The model.
    pub model: Arc<Model>,
    /// Layout of its rows.
    pub layout: Arc<Layout>,
    /// CUDA C++ of the model's kernels; includes files of `kernels/` by name.
    pub source: String,
    /// What is launched, by size of the batch: ascending `rows_from`, the first 0.
    pub variants: Vec<Variant>,
    /// Packed weights and constants: uploaded once per device, on a boundary of 256 bytes.
    pub weights: Vec<u8>,
    /// Tables, in the order of `Job::tables`: uploaded once per device, each on a boundary of 256 bytes.
    pub tables: Vec<DeviceTable>,
    /// Device memory of a slot.
    pub needs: Needs,
    /// Dense layers in the order in which they are computed, with the arithmetic of each.
    pub layers: Vec<LayerPrecision>,
}

/// A table in device memory: the rows of [`Table`], byte by byte, perhaps further apart. Kernels read whole words of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTable {
    /// Which table.
    pub id: TableId,
    /// Bytes from row to row: [`Table::row_bytes`], or a few more that hold anything.
    pub row_stride: usize,
}

impl DeviceTable {
    /// The rows of a table start on boundaries of 4 bytes, and of 8 or 16 where that takes no more than an eighth more memory.
    pub fn new(id: TableId, table: &Table) -> DeviceTable {
        let row_bytes = table.row_bytes();
        let padded = |boundary: &usize| row_bytes.next_multiple_of(*boundary);
        let row_stride = [16, 8].iter().map(padded).find(|stride| stride * 8 <= row_bytes * 9).unwrap_or_else(|| padded(&4));
        DeviceTable { id, row_stride }
    }

    /// Bytes of the table on the device.
    pub fn bytes(&self, table: &Table) -> usize {
        self.row_stride * table.rows as usize
    }

    /// Bytes that the rows from `first_row` on have on the device, as many rows as `to` holds; gives how many those are. What is between rows is
    /// left as it is.
    pub fn pack(&self, table: &Table, first_row: u32, to: &mut [u8]) -> u32 {
        let rows = (to.len() / self.row_stride).min((table.rows - first_row) as usize);
        let row_bytes = table.row_bytes();
        let from = &table.data[first_row as usize * row_bytes..][..rows * row_bytes];
        if row_bytes == self.row_stride {
            to[..from.len()].copy_from_slice(from);
        } else {
            for (from, to) in from.chunks_exact(row_bytes).zip(to.chunks_exact_mut(self.row_stride)) {
                to[..row_bytes].copy_from_slice(from);
            }
        }
        rows as u32
    }
}

/// The launches of batches from some size on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Candidates of the smallest batch that this one is for.
    pub rows_from: usize,
    /// In order.
    pub launches: Vec<Launch>,
}

/// One kernel of the source and the shape of its grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Its name in the compiled module.
    pub kernel: String,
    /// What its blocks share out among them.
    pub over: Over,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Device memory that each block keeps while it runs, in bytes. A kernel with scratch gets at most as many blocks as the device runs at once.
    pub scratch_bytes: usize,
}

/// How many blocks a launch is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// One per `tile` contexts.
    Contexts {
        /// Rows of a block.
        tile: usize,
    },
    /// One per `tile` candidates.
    Candidates {
        /// Rows of a block.
        tile: usize,
    },
    /// Tiles of a product: one per `rows` candidates, for each of `columns` strips.
    Grid {
        /// Rows of a block.
        rows: usize,
        /// Strips of columns (grid's second dimension).
        columns: usize,
    },
}

/// Device memory of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Bytes per context.
    pub kept_bytes: usize,
    /// Bytes per candidate of values between kernels.
    pub work_bytes: usize,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "program of {}, {} bytes of source", self.model.name, self.source.len())
    }
}

impl Program {
    /// The launches for a batch of so many candidates.
    pub fn variant(&self, rows: usize) -> &Variant {
        let after = self.variants.partition_point(|variant| variant.rows_from <= rows);
        &self.variants[after.saturating_sub(1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableDType;

    fn table(rows: u32, row_bytes: usize) -> Table {
        let data: Vec<u8> = (0..rows as usize * row_bytes).map(|at| at as u8).collect();
        Table { name: "t".into(), rows, dim: 1, dtype: TableDType::Int8Rowwise, data: data.as_slice().into() }
    }

    #[test]
    fn rows_are_whole_words() {
        // Bytes of a row in the bundle, on the device.
        let cases = [
            (4, 4),
            (8, 8),
            (16, 16),
            (32, 32),
            (512, 512),
            (21, 24),
            (11, 12),
            (26, 28),
            (52, 52),
            (12, 12),
            (24, 24),
            (68, 72),
            (72, 80),
            (136, 144),
            (9, 12),
            (30, 32),
            (250, 256),
        ];
        for (row_bytes, expected) in cases {
            assert_eq!(DeviceTable::new(TableId(0), &table(1, row_bytes)).row_stride, expected, "{row_bytes}");
        }
    }

    #[test]
    fn rows_are_packed_piece_by_piece() {
        let table = table(5, 9);
        let placed = DeviceTable::new(TableId(0), &table);
        assert_eq!(placed.bytes(&table), 60);
        let mut found = Vec::new();
        let mut row = 0;
        while row < table.rows {
            let mut piece = [0xee; 26];
            let rows = placed.pack(&table, row, &mut piece);
            found.extend_from_slice(&piece[..rows as usize * placed.row_stride]);
            row += rows;
        }
        let expected: Vec<u8> = (0..5).flat_map(|row| table.row(row).iter().copied().chain([0xee; 3])).collect();
        assert_eq!(found, expected);
    }
}
