//! The graph of typed ops, resolved and shape-checked. **Shapes are per row: the row dimension is implicit and no op may touch it.**

use serde::{Deserialize, Serialize};

use super::table::TableId;
use super::weights::TensorId;

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

/// How the rows of a bag are combined. An empty bag gives zeros in every mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Sum; each row times its weight where the feature is weighted.
    #[default]
    Sum,
    /// That sum divided by the number of ids that count (not by the sum of their weights).
    Mean,
    /// Elementwise maximum; not of weighted features.
    Max,
    /// Not combined: `[max_len, dim]`, rows times their weights, zeros behind the bag's length.
    None,
}

impl Pool {
    /// Its name in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Pool::Sum => "sum",
            Pool::Mean => "mean",
            Pool::Max => "max",
            Pool::None => "none",
        }
    }
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

/// An argument of an elementwise op.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operand {
    /// A value of the graph, broadcast as numpy does over the per-row shape.
    Value(ValueId),
    /// A number.
    Scalar(f64),
}

/// A typed op. Semantics follow ONNX / numpy on the per-row shape; `docs/bundle.md` defines each with its shapes.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the fields are the op's arguments, defined in docs/bundle.md
pub enum Op {
    /// Dense features side by side → [sum of widths]. `features` index [`crate::model::Feature`]s.
    Dense {
        features: Vec<usize>,
    },
    /// The values of an integer feature → i64 `[width]`.
    Integer {
        feature: usize,
    },
    /// Number of ids of a bag → i64 [].
    Length {
        feature: usize,
    },
    /// Pooled rows → `[dim]`, or `[max_len, dim]` with `Pool::None`.
    Lookup {
        feature: usize,
        table: TableId,
        pool: Pool,
    },
    /// A tensor of the weights.
    Const {
        tensor: TensorId,
    },
    /// x `[.., in]` · weightᵀ + bias; weight `[out, in]`, bias `[out]` → `[.., out]`.
    Linear {
        x: ValueId,
        weight: TensorId,
        bias: Option<TensorId>,
    },
    /// Batched matrix product over the last two axes, numpy rules; the flags transpose the last two axes of an argument first.
    MatMul {
        a: ValueId,
        b: ValueId,
        transpose_a: bool,
        transpose_b: bool,
    },
    Add {
        a: Operand,
        b: Operand,
    },
    Sub {
        a: Operand,
        b: Operand,
    },
    Mul {
        a: Operand,
        b: Operand,
    },
    Div {
        a: Operand,
        b: Operand,
    },
    Pow {
        a: Operand,
        b: Operand,
    },
    Clamp {
        x: ValueId,
        min: Option<f64>,
        max: Option<f64>,
    },
    ReduceSum {
        x: ValueId,
        axes: Vec<Axis>,
        keep: bool,
    },
    Concat {
        xs: Vec<ValueId>,
        axis: Axis,
    },
    /// Elements start, start+step, .. below end; resolved: 0 ≤ start ≤ end ≤ size, step ≥ 1.
    Slice {
        x: ValueId,
        axis: Axis,
        start: usize,
        end: usize,
        step: usize,
    },
    /// Same elements in row-major order, new shape (that of the value).
    Reshape {
        x: ValueId,
    },
    Transpose {
        x: ValueId,
        perm: Vec<Axis>,
    },
    /// numpy broadcast to the value's shape.
    Broadcast {
        x: ValueId,
    },
    /// Picks elements along an axis by constant indices.
    GatherConst {
        x: ValueId,
        axis: Axis,
        indices: Vec<usize>,
    },
    /// A constant of the value's shape and type.
    Fill {
        value: f64,
    },
    /// start, start+step, ..: a constant of the value's shape `[n]`.
    Iota {
        start: f64,
        step: f64,
    },
    /// To the value's type; f32 → i64 truncates towards zero.
    Cast {
        x: ValueId,
    },
    Relu {
        x: ValueId,
    },
    Sigmoid {
        x: ValueId,
    },
    /// x where x ≥ 0, else slope · x; slope broadcasts over the per-row shape.
    Prelu {
        x: ValueId,
        slope: TensorId,
    },
    Softmax {
        x: ValueId,
        axis: Axis,
    },
    /// (x − mean) / sqrt(var + eps) · weight + bias along `axis`; tensors [size of axis].
    BatchNorm {
        x: ValueId,
        axis: Axis,
        mean: TensorId,
        var: TensorId,
        weight: Option<TensorId>,
        bias: Option<TensorId>,
        eps: f64,
    },
    /// x / max(‖x‖₂, eps) along `axis`.
    L2Norm {
        x: ValueId,
        axis: Axis,
        eps: f64,
    },
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

impl Op {
    /// Its name in the manifest.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Dense { .. } => "dense",
            Op::Integer { .. } => "integer",
            Op::Length { .. } => "length",
            Op::Lookup { .. } => "lookup",
            Op::Const { .. } => "const",
            Op::Linear { .. } => "linear",
            Op::MatMul { .. } => "matmul",
            Op::Add { .. } => "add",
            Op::Sub { .. } => "sub",
            Op::Mul { .. } => "mul",
            Op::Div { .. } => "div",
            Op::Pow { .. } => "pow",
            Op::Clamp { .. } => "clamp",
            Op::ReduceSum { .. } => "reduce_sum",
            Op::Concat { .. } => "concat",
            Op::Slice { .. } => "slice",
            Op::Reshape { .. } => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::Broadcast { .. } => "broadcast",
            Op::GatherConst { .. } => "gather_const",
            Op::Fill { .. } => "fill",
            Op::Iota { .. } => "iota",
            Op::Cast { .. } => "cast",
            Op::Relu { .. } => "relu",
            Op::Sigmoid { .. } => "sigmoid",
            Op::Prelu { .. } => "prelu",
            Op::Softmax { .. } => "softmax",
            Op::BatchNorm { .. } => "batch_norm",
            Op::L2Norm { .. } => "l2_norm",
        }
    }
    /// The values it reads, in argument order.
    pub fn inputs(&self) -> Vec<ValueId> {
        fn operand(operands: &[Operand]) -> Vec<ValueId> {
            operands
                .iter()
                .filter_map(|operand| match operand {
                    Operand::Value(id) => Some(*id),
                    Operand::Scalar(_) => None,
                })
                .collect()
        }
        match self {
            Op::Dense { .. }
            | Op::Integer { .. }
            | Op::Length { .. }
            | Op::Lookup { .. }
            | Op::Const { .. }
            | Op::Fill { .. }
            | Op::Iota { .. } => vec![],
            Op::MatMul { a, b, .. } => vec![*a, *b],
            Op::Add { a, b } | Op::Sub { a, b } | Op::Mul { a, b } | Op::Div { a, b } | Op::Pow { a, b } => operand(&[*a, *b]),
            Op::Concat { xs, .. } => xs.clone(),
            Op::Linear { x, .. }
            | Op::Clamp { x, .. }
            | Op::ReduceSum { x, .. }
            | Op::Slice { x, .. }
            | Op::Reshape { x }
            | Op::Transpose { x, .. }
            | Op::Broadcast { x }
            | Op::GatherConst { x, .. }
            | Op::Cast { x }
            | Op::Relu { x }
            | Op::Sigmoid { x }
            | Op::Prelu { x, .. }
            | Op::Softmax { x, .. }
            | Op::BatchNorm { x, .. }
            | Op::L2Norm { x, .. } => vec![*x],
        }
    }
}
