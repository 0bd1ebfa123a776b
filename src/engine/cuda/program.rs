//! A model for the CUDA engine: what is compiled, what is uploaded, what is launched. Made without a device.

use std::sync::Arc;

use crate::batch::Layout;
use crate::model::{Model, TableId};

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
    /// Tables, in the order of `Job::tables`: uploaded once per device, as they are in memory.
    pub tables: Vec<TableId>,
    /// Device memory of a slot.
    pub needs: Needs,
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
