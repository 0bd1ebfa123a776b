//! A trained model: features, tables, a graph of typed ops, weights, a selftest. Loaded from a bundle before serving, immutable after.
//!
//! Absent on purpose: sockets, clocks, engines. `docs/bundle.md` is the specification of the files.

mod arguments;
mod blocks;
mod digest;
mod discover;
mod error;
mod feature;
mod graph;
mod json;
mod load;
mod manifest;
mod name;
mod op;
mod op_reads;
mod ops;
mod resolve;
mod row_files;
mod rows;
mod selftest;
mod shape;
mod table;
mod table_memory;
mod tensor_file;
mod trees;
mod weights;
mod widen;

use std::path::PathBuf;

pub use arguments::{Comparison, Gru, GruKind, LogicFn, Reduction, TreeMode, Trees, UnaryFn, Window};
pub use blocks::{PackedRows, id_bytes};
pub use digest::Digest;
pub use discover::{BundleRef, discover};
pub use error::{Fault, LoadError};
pub use feature::{DenseTransform, Feature, FeatureKind, Hash, HashFn, IdType, MissingRule, NanRule, RangeRule, Scope};
pub use graph::{Axis, DType, Graph, Node, Output, OutputKind, ShapeBuf, Value, ValueId, ValueScope};
pub use load::{Bundle, LoadOptions, MANIFEST, Progress, load};
pub use manifest::{FORMAT, FileSpec, Manifest, RowsOrigin, TableSpec, Tolerance};
pub use name::is_model_name;
pub use op::{Op, Operand, Pool};
pub use ops::OPS;
pub use rows::{Cell, FeatureRows, Field, FieldKind, RowError};
pub use selftest::Selftest;
pub use table::{Coding, Table, TableDType, TableId};
pub use table_memory::{TableArena, TableMemory};
pub use tensor_file::{TensorFile, TensorRef};
pub use weights::{Tensor, TensorDType, TensorData, TensorId, Weights};

/// A loaded, checked model version: immutable, shared by all shards.
#[derive(Debug)]
pub struct Model {
    /// Public name.
    pub name: String,
    /// Version: the folder's number.
    pub version: u64,
    /// In signature order.
    pub features: Vec<Feature>,
    /// Ops in execution order.
    pub graph: Graph,
    /// Numbers.
    pub weights: Weights,
    /// Rows that an engine must reproduce before it serves.
    pub selftest: Selftest,
    /// SHA-256 of the manifest, which holds the digests of all other files.
    pub digest: Digest,
    /// Folder of the bundle that it was loaded from; None for a model that was made in memory.
    pub folder: Option<PathBuf>,
}

/// What the signature says of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureFeature<'a> {
    /// Name.
    pub name: &'a str,
    /// Kind.
    pub kind: FieldKind,
    /// Scope.
    pub scope: Scope,
    /// Values per row; 0 = variable.
    pub width: u32,
    /// Most ids per row.
    pub max_len: u32,
    /// 0 for dense features, else 4 or 8.
    pub id_bytes: u8,
}

impl Model {
    /// The features as clients know them, in signature order.
    pub fn fields(&self) -> Vec<Field> {
        self.features.iter().map(Field::from).collect()
    }

    /// What the signature covers, feature by feature, in order.
    pub fn signature_features(&self) -> impl Iterator<Item = SignatureFeature<'_>> {
        self.features.iter().map(|feature| {
            let kind = Field::from(feature).kind;
            let id_bytes = match (kind, feature.id_type) {
                (FieldKind::Dense, _) => 0,
                (_, IdType::U32) => 4,
                (_, IdType::U64) => 8,
            };
            let Feature { name, scope, width, max_len, .. } = feature;
            SignatureFeature { name, kind, scope: *scope, width: *width, max_len: *max_len, id_bytes }
        })
    }
}
