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
    /// The same for alternatives that are no kernels ([`Way::Product`]): apart, so that kernels compiled without them are the same.
    pub product_weights: Vec<u8>,
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
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// Candidates of the smallest batch that this one is for.
    pub rows_from: usize,
    /// In order.
    pub launches: Vec<Launch>,
}

/// One kernel of the source and the shape of its grid.
#[derive(Clone, Debug, PartialEq)]
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
    /// The layer that it is, where there are other ways to compute it; the kernel itself is the judge of those.
    pub layer: Option<Box<WideLayer>>,
}

/// A dense layer over the whole batch that can be computed in several ways: one is chosen on the device, when it is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct WideLayer {
    /// Its name in the plan.
    pub name: String,
    /// Inputs.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Whether its rows are candidates; else contexts.
    pub per_candidate: bool,
    /// Whether its kernels compute more than the layer: what they leave is not the layer's result alone.
    pub has_tail: bool,
    /// What its kernels leave in memory: rows of `n` columns each.
    pub outs: Vec<RowsAt>,
    /// The Euclidean length of each column of the weights: how large rounded sums can get.
    pub lengths: Vec<f32>,
    /// All ways but the launch itself.
    pub ways: Vec<Way>,
    /// What a library computes of it, where that is not all.
    pub yardstick: Option<Yardstick>,
}

/// A part of a layer that a library is timed with, so that there is something to compare the layer's own time with. It is never in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Yardstick {
    /// Leaves its results in the memory of the layer's first.
    pub product: Product,
    /// Of what the layer's kernels compute.
    pub leaves_out: &'static str,
}

/// Another way to compute a wide layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Way {
    /// By another kernel of the source.
    Kernel(Launch),
    /// By a library for products of matrices: cuBLASLt, in builds with the feature `cublaslt`.
    Product(Product),
}

/// `OUT[rows][n] = activation(X[rows][k] · W[n][k]ᵀ + bias)` of candidates, inputs in bf16, sums in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Inputs.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// bf16, on a boundary of 16 bytes, rows as well.
    pub x: RowsAt,
    /// f32 or bf16.
    pub out: RowsAt,
    /// bf16 `[n][weights_stride]`, from this byte of [`Program::product_weights`] on.
    pub weights: usize,
    /// Elements from column to column of the weights: a multiple of 8.
    pub weights_stride: usize,
    /// `[n]` in the type of the result, from this byte on.
    pub bias: usize,
    /// Whether results below 0 become 0.
    pub relu: bool,
}

/// Rows of a value between kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowsAt {
    /// Which memory.
    pub memory: RowsMemory,
    /// Elements from row to row.
    pub stride: usize,
    /// Whether elements are bf16, else f32.
    pub is_bf16: bool,
}

/// Memory of a slot that holds rows, with the place of the first element of the first row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsMemory {
    /// Work memory: `offset` bytes for each row that there is room for, and `first` more.
    Work {
        /// Of the value.
        offset: usize,
        /// Within the row.
        first: usize,
    },
    /// Kept memory.
    Kept {
        /// Bytes from its beginning.
        offset: usize,
    },
}

impl Launch {
    /// The launch and all that could be in its place.
    pub fn kernels(&self) -> impl Iterator<Item = &Launch> {
        let ways = self.layer.iter().flat_map(|layer| &layer.ways);
        std::iter::once(self).chain(ways.filter_map(|way| if let Way::Kernel(launch) = way { Some(launch) } else { None }))
    }
}

impl RowsAt {
    /// Bytes of an element.
    pub fn element_bytes(&self) -> usize {
        if self.is_bf16 { 2 } else { 4 }
    }

    /// Where the first row begins in its memory, which has room for `work_rows` rows.
    pub fn first_byte(&self, work_rows: usize) -> usize {
        match self.memory {
            RowsMemory::Work { offset, first } => offset * work_rows + first,
            RowsMemory::Kept { offset } => offset,
        }
    }
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
    /// The launches of every variant, and all that could be in their place.
    pub fn kernels(&self) -> impl Iterator<Item = &Launch> {
        self.variants.iter().flat_map(|variant| &variant.launches).flat_map(Launch::kernels)
    }

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
            (52, 56),
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
