//! A trained model: features, tables, a graph of typed ops, weights, a selftest. Loaded from a bundle before serving, immutable after.
//!
//! Absent on purpose: sockets, clocks, engines. `docs/bundle.md` is the specification of the files.

mod feature;
mod graph;
mod weights;

pub use feature::{DenseTransform, Feature, FeatureKind, Hash, HashFn, IdType, MissingRule, NanRule, RangeRule, Scope};
pub use graph::{Axis, DType, Graph, Node, Op, Operand, Output, OutputKind, Pool, ShapeBuf, Value, ValueId, ValueScope};
pub use weights::{Table, TableDType, TableId, Tensor, TensorDType, TensorData, TensorId, Weights};

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
}
