//! Synthetic models: the shapes of published recommenders with random numbers, for benches and for trying things out.
//!
//! Every number is a function of the seed, its tensor's name and its place, so tables are written as they are made and nothing is held twice;
//! a table's first rows are the same under every cap. Written as a bundle (whose selftest comes from [`crate::reference`], in f64) and as
//! ONNX for a comparison with other runtimes. Absent on purpose: engines; `gavel check` says whether one computes what the bundle records.

mod bundle;
mod error;
mod format;
mod graph;
mod onnx;
mod onnx_file;
mod random;
mod rows;
mod shape;
mod tensor_writer;
mod tensors;

pub use bundle::write_bundle;
pub use error::SynthError;
pub use format::TableFormat;
pub use onnx::{Tables, write_onnx};
pub use shape::{ContextShare, Family, Interaction, Shape};

/// What to make.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Tables, layers, interaction.
    pub shape: Shape,
    /// Where all numbers come from.
    pub seed: u64,
    /// Which features are the context's.
    pub context: ContextShare,
    /// How tables store their rows.
    pub tables: TableFormat,
    /// Rows of the selftest.
    pub selftest_rows: usize,
}

/// Bytes written so far, and bytes there will be.
pub type Progress<'p> = dyn FnMut(u64, u64) + 'p;
