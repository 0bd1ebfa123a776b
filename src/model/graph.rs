//! The graph of typed ops, resolved and shape-checked. **Shapes are per row: the row dimension is implicit and no op may touch it.**

use serde::{Deserialize, Serialize};

use super::op::Op;

/// Index into [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Shape of a value per row; `[]` is one scalar per row.
pub type ShapeBuf = Vec<usize>;

/// An axis of the per-row shape, already made non-negative and checked.
pub type Axis = usize;

/// Element type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DType {
    /// 32-bit float (the reference interpreter computes in f64).
    F32,
    /// 64-bit signed integer.
    I64,
}

/// What a value depends on: a constant is the same for all rows, a context value for all candidates of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ValueScope {
    /// Of weights alone.
    Constant,
    /// Of the context (and constants).
    Context,
    /// Of the candidate.
    Candidate,
}

/// A value: a name of the manifest, with what the shape pass found out.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Name in the manifest.
    pub name: String,
    /// Shape per row.
    pub shape: ShapeBuf,
    /// Element type.
    pub dtype: DType,
    /// What it depends on.
    pub scope: ValueScope,
}

impl Value {
    /// Elements per row.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether a row has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One step: `out` is computed by `op` from values that earlier nodes made.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value it makes.
    pub out: ValueId,
    /// How.
    pub op: Op,
}

/// What an output is, for whoever reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// In 0..1.
    Probability,
    /// Before a sigmoid.
    Logit,
    /// Anything else.
    Value,
}

/// A named score.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Name, unique.
    pub name: String,
    /// What it is.
    pub kind: OutputKind,
    /// One f32 element per row (shape `[]` or `[1]`).
    pub value: ValueId,
}

/// The whole graph, in execution order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Every value.
    pub values: Vec<Value>,
    /// Steps; each value is made by exactly one.
    pub nodes: Vec<Node>,
    /// Columns of the answer.
    pub outputs: Vec<Output>,
}

impl Graph {
    /// The value behind an id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }
}
