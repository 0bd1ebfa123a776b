//! The typed ops of a graph and their arguments.

use serde::{Deserialize, Serialize};

use super::arguments::{Comparison, Gru, LogicFn, Reduction, Trees, UnaryFn, Window};
use super::graph::{Axis, ValueId};
use super::table::TableId;
use super::weights::TensorId;

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

/// An argument of an elementwise op.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operand {
    /// A value of the graph, broadcast as numpy does over the per-row shape.
    Value(ValueId),
    /// A number.
    Scalar(f64),
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
