//! The graph of typed ops, resolved and shape-checked. **Shapes are per row: the row dimension is implicit and no op may touch it.**

use serde::{Deserialize, Serialize};

use super::arguments::{Comparison, Gru, LogicFn, Reduction, Trees, UnaryFn, Window};
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
    /// The smaller; NaN if either is NaN.
    Min {
        a: Operand,
        b: Operand,
    },
    /// The larger; NaN if either is NaN.
    Max {
        a: Operand,
        b: Operand,
    },
    /// Remainder with the sign of the divisor; i64: 0 where the divisor is 0.
    Mod {
        a: Operand,
        b: Operand,
    },
    /// i64: 1 where the comparison holds, else 0. A number next to f32 values is one that f32 holds exactly.
    Compare {
        cmp: Comparison,
        a: Operand,
        b: Operand,
    },
    /// i64 truth values (any non-zero is true) to 0 or 1.
    Logic {
        function: LogicFn,
        a: ValueId,
        b: ValueId,
    },
    /// i64: 1 where x is 0, else 0.
    Not {
        x: ValueId,
    },
    /// a where `cond` (i64) is not 0, else b; broadcast of the three.
    Where {
        cond: ValueId,
        a: Operand,
        b: Operand,
    },
    /// Element by element, f32.
    Unary {
        function: UnaryFn,
        x: ValueId,
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
    Reduce {
        function: Reduction,
        x: ValueId,
        axes: Vec<Axis>,
        keep: bool,
    },
    /// Running sum along an axis.
    CumSum {
        x: ValueId,
        axis: Axis,
        exclusive: bool,
        reverse: bool,
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
    /// More elements before and behind each axis.
    Pad {
        x: ValueId,
        pads: Vec<(usize, usize)>,
        value: f64,
    },
    /// Picks along an axis by computed indices (i64); the index's axes take the place of that axis. Out of range: NaN, or the least i64.
    Gather {
        x: ValueId,
        index: ValueId,
        axis: Axis,
    },
    /// Picks one element along an axis for each element of `index` (i64), whose other axes are those of x. Out of range: as `Gather`.
    TakeAlong {
        x: ValueId,
        index: ValueId,
        axis: Axis,
    },
    /// Rows of a table by computed indices (i64) → `[.., dim]`. Out of range: NaN.
    Embedding {
        index: ValueId,
        table: TableId,
    },
    /// i64 `[..]` → f32 `[.., depth]`; the value's last axis is `depth`.
    OneHot {
        x: ValueId,
        on: f64,
        off: f64,
    },
    /// The k largest (or smallest) along an axis, sorted. NaN counts as larger than every number; of equals the one of lower index first.
    TopK {
        x: ValueId,
        axis: Axis,
        k: usize,
        largest: bool,
    },
    /// Where the elements of `TopK` lie: i64.
    ArgTopK {
        x: ValueId,
        axis: Axis,
        k: usize,
        largest: bool,
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
    /// (x − mean) / sqrt(var + eps) · weight + bias over the last `axes` axes, var of the population; tensors have those axes.
    LayerNorm {
        x: ValueId,
        axes: usize,
        weight: Option<TensorId>,
        bias: Option<TensorId>,
        eps: f64,
    },
    /// x `[.., C, s..]`, weight `[O, C / groups, k..]`, bias `[O]` → `[.., O, t..]`; the window has as many axes as k.
    Conv {
        x: ValueId,
        weight: TensorId,
        bias: Option<TensorId>,
        window: Window,
        groups: usize,
    },
    /// Largest element of a window over the last axes; padding does not count.
    MaxPool {
        x: ValueId,
        window: Window,
    },
    /// Mean over a window of the last axes; padding counts as zeros if `count_include_pad`, else not at all.
    AvgPool {
        x: ValueId,
        window: Window,
        count_include_pad: bool,
    },
    /// softmax(q · kᵀ · scale, masked) · v; q `[.., L, E]`, k `[.., S, E]`, v `[.., S, V]`, leading axes broadcast.
    /// mask, which broadcasts to `[.., L, S]`: i64 = may attend, f32 = added. A row that may attend to nothing gives zeros.
    Sdpa {
        q: ValueId,
        k: ValueId,
        v: ValueId,
        mask: Option<ValueId>,
        scale: f64,
        causal: bool,
    },
    /// Recurrent layer.
    Gru(Gru),
    /// Sum over decision trees → `[targets]`.
    Trees(Trees),
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
            Op::Min { .. } => "min",
            Op::Max { .. } => "max",
            Op::Mod { .. } => "mod",
            Op::Compare { .. } => "compare",
            Op::Logic { function, .. } => function.name(),
            Op::Not { .. } => "not",
            Op::Where { .. } => "where",
            Op::Unary { function, .. } => function.name(),
            Op::Reduce { function, .. } => function.name(),
            Op::CumSum { .. } => "cumsum",
            Op::Pad { .. } => "pad",
            Op::Gather { .. } => "gather",
            Op::TakeAlong { .. } => "take_along",
            Op::Embedding { .. } => "embedding",
            Op::OneHot { .. } => "one_hot",
            Op::TopK { .. } => "topk",
            Op::ArgTopK { .. } => "argtopk",
            Op::LayerNorm { .. } => "layer_norm",
            Op::Conv { .. } => "conv",
            Op::MaxPool { .. } => "max_pool",
            Op::AvgPool { .. } => "avg_pool",
            Op::Sdpa { .. } => "sdpa",
            Op::Gru(_) => "gru",
            Op::Trees(_) => "trees",
        }
    }
    /// The tensors it reads, in argument order.
    pub fn tensors(&self) -> Vec<TensorId> {
        let some = |tensors: &[Option<TensorId>]| tensors.iter().flatten().copied().collect();
        match self {
            Op::Const { tensor } | Op::Prelu { slope: tensor, .. } => vec![*tensor],
            Op::Linear { weight, bias, .. } | Op::Conv { weight, bias, .. } => some(&[Some(*weight), *bias]),
            Op::BatchNorm { mean, var, weight, bias, .. } => some(&[Some(*mean), Some(*var), *weight, *bias]),
            Op::LayerNorm { weight, bias, .. } => some(&[*weight, *bias]),
            Op::Gru(gru) => some(&[Some(gru.w_ih), Some(gru.w_hh), gru.b_ih, gru.b_hh]),
            Op::Trees(trees) => {
                let Trees { feature, threshold, mode, yes, no, missing_yes, roots, leaves, .. } = *trees;
                some(&[Some(feature), Some(threshold), Some(mode), Some(yes), Some(no), missing_yes, Some(roots), Some(leaves)])
            }
            _ => vec![],
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
            Op::MatMul { a, b, .. } | Op::Logic { a, b, .. } => vec![*a, *b],
            Op::Add { a, b }
            | Op::Sub { a, b }
            | Op::Mul { a, b }
            | Op::Div { a, b }
            | Op::Pow { a, b }
            | Op::Min { a, b }
            | Op::Max { a, b }
            | Op::Mod { a, b }
            | Op::Compare { a, b, .. } => operand(&[*a, *b]),
            Op::Where { cond, a, b } => operand(&[Operand::Value(*cond), *a, *b]),
            Op::Gather { x, index, .. } | Op::TakeAlong { x, index, .. } => vec![*x, *index],
            Op::Embedding { index, .. } => vec![*index],
            Op::Sdpa { q, k, v, mask, .. } => [Some(*q), Some(*k), Some(*v), *mask].into_iter().flatten().collect(),
            Op::Gru(Gru { x, h0, length, attention, .. }) => [Some(*x), *h0, *length, *attention].into_iter().flatten().collect(),
            Op::Trees(Trees { x, .. }) => vec![*x],
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
            | Op::L2Norm { x, .. }
            | Op::Not { x }
            | Op::Unary { x, .. }
            | Op::Reduce { x, .. }
            | Op::CumSum { x, .. }
            | Op::Pad { x, .. }
            | Op::OneHot { x, .. }
            | Op::TopK { x, .. }
            | Op::ArgTopK { x, .. }
            | Op::LayerNorm { x, .. }
            | Op::Conv { x, .. }
            | Op::MaxPool { x, .. }
            | Op::AvgPool { x, .. } => vec![*x],
        }
    }
}
