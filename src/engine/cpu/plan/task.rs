//! Tasks: the graph's nodes as the planner rewrites them.

use std::sync::Arc;

use crate::engine::cpu::gemm::Activation;
use crate::engine::cpu::gemm::half::HalfMatrix;
use crate::engine::cpu::gemm::int8::{Dot, Int8Matrix, Largest};
use crate::engine::cpu::kernels::binary::BinaryOp;
use crate::engine::cpu::kernels::chain::Instruction;
use crate::engine::cpu::kernels::unary::UnaryF32;
use crate::model::{DType, Pool, TableId, ValueScope};

use super::generic::Generic;
use super::origins::Piece;
use super::weights::LayerMatrix;

/// Index into [`super::lower::Lowered::values`]; the graph's values come first.
pub type ValueIndex = usize;

/// A value as the planner knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanValue {
    /// Per row.
    pub shape: Vec<usize>,
    /// Of its elements.
    pub dtype: DType,
    /// What it depends on.
    pub scope: ValueScope,
}

impl PlanValue {
    /// Elements per row.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Bytes of an element.
    pub fn element_bytes(&self) -> usize {
        match self.dtype {
            DType::F32 => 4,
            DType::I64 => 8,
        }
    }
}

/// Computes `out`.
#[derive(Debug)]
pub struct Task<'a> {
    /// What it makes.
    pub out: ValueIndex,
    /// How.
    pub work: Work<'a>,
    /// What the planner did to it, for the plan's report.
    pub notes: Vec<Note>,
}

/// What the planner did to a task, or why it did nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Other ops became part of it: which.
    Fused(String),
    /// Work moved from candidates to the request: which.
    Hoisted(String),
    /// A special kernel was possible in principle: why it was not taken.
    Generic(String),
}

impl<'a> Task<'a> {
    /// A task without notes.
    pub fn new(out: ValueIndex, work: Work<'a>) -> Task<'a> {
        Task { out, work, notes: Vec::new() }
    }
}

/// What a task does. Shapes are those of the values.
#[derive(Debug)]
#[allow(missing_docs)] // arguments are those of `model::Op`
pub enum Work<'a> {
    Dense {
        features: Vec<usize>,
    },
    Integer {
        feature: usize,
    },
    Length {
        feature: usize,
    },
    Lookup {
        feature: usize,
        table: TableId,
        pool: Pool,
    },
    /// Product with weights, which are packed when the task becomes a kernel. `bias`: one per column. `addend`: a value `[n]` (or as many
    /// elements as the result) added to each row before the activation, as the part of a layer that was computed elsewhere.
    Linear {
        x: ValueIndex,
        matrix: LayerMatrix<'a>,
        bias: Vec<f32>,
        addend: Option<ValueIndex>,
        activation: Activation,
    },
    /// Writes down how large a layer's inputs are; makes nothing.
    Observe {
        x: ValueIndex,
        largest: Largest,
    },
    /// Rows of the matrix's inputs, each input times its factor, to 8-bit codes and scales.
    Quantize {
        x: ValueIndex,
        factors: Arc<Vec<f32>>,
        matrix: Arc<Int8Matrix>,
        dot: Dot,
    },
    /// [`Work::Linear`] over what `Quantize` made.
    Int8Linear {
        x: ValueIndex,
        matrix: Arc<Int8Matrix>,
        dot: Dot,
        bias: Vec<f32>,
        addend: Option<ValueIndex>,
        activation: Activation,
    },
    /// Dot products of pairs of vectors of `dim` elements. Vectors from `split` on are the candidates'.
    Interaction {
        vectors: Vec<Piece>,
        dim: usize,
        split: usize,
        pairs: Vec<[usize; 2]>,
    },
    /// [`Work::Linear`] over weights of 16 bits.
    HalfLinear {
        x: ValueIndex,
        matrix: Arc<HalfMatrix>,
        bias: Vec<f32>,
        addend: Option<ValueIndex>,
        activation: Activation,
    },
    MatMul {
        a: ValueIndex,
        b: ValueIndex,
        transpose_a: bool,
        transpose_b: bool,
    },
    /// Weighted sum of vectors as long as the result; `softmax`: of the weights' softmax.
    Mix {
        weights: Piece,
        softmax: bool,
        vectors: Vec<Piece>,
    },
    Binary {
        op: BinaryOp,
        a: ValueIndex,
        b: ValueIndex,
    },
    Unary {
        function: UnaryF32,
        x: ValueIndex,
    },
    /// Elementwise ops in one walk; leaves broadcast to the result.
    Chain {
        leaves: Vec<ValueIndex>,
        steps: Vec<Instruction>,
    },
    /// (Σ x)² − Σ x² over the leading axis that is not 1: x `[fields, inner..]`. `sums` `[2 · inner]`: Σ x and Σ x² of more fields.
    Fm {
        x: ValueIndex,
        sums: Option<ValueIndex>,
    },
    ClampI64 {
        x: ValueIndex,
        min: i64,
        max: i64,
    },
    Cast {
        x: ValueIndex,
    },
    Sum {
        x: ValueIndex,
        axes: Vec<usize>,
    },
    Concat {
        xs: Vec<ValueIndex>,
        axis: usize,
    },
    /// The same elements from element `first` on, in row-major order: no step where the memory can be shared.
    View {
        x: ValueIndex,
        first: usize,
    },
    Slice {
        x: ValueIndex,
        axis: usize,
        start: usize,
        step: usize,
    },
    Transpose {
        x: ValueIndex,
        perm: Vec<usize>,
    },
    Broadcast {
        x: ValueIndex,
    },
    Gather {
        x: ValueIndex,
        axis: usize,
        indices: Vec<usize>,
    },
    Softmax {
        x: ValueIndex,
        axis: usize,
    },
    L2Norm {
        x: ValueIndex,
        axis: usize,
        eps: f32,
    },
    BatchNorm {
        x: ValueIndex,
        axis: usize,
        mean: Vec<f32>,
        scale: Vec<f32>,
        bias: Vec<f32>,
    },
    /// An op that no pass looks into.
    Generic(Generic),
}

impl Work<'_> {
    /// The values it reads.
    pub fn inputs(&self) -> Vec<ValueIndex> {
        match self {
            Work::Dense { .. } | Work::Integer { .. } | Work::Length { .. } | Work::Lookup { .. } => vec![],
            Work::MatMul { a, b, .. } | Work::Binary { a, b, .. } => vec![*a, *b],
            Work::Concat { xs, .. } => xs.clone(),
            Work::Interaction { vectors, .. } => vectors.iter().map(|vector| vector.value).collect(),
            Work::Mix { weights, vectors, .. } => std::iter::once(weights).chain(vectors).map(|piece| piece.value).collect(),
            Work::Chain { leaves, .. } => leaves.clone(),
            Work::Generic(generic) => generic.inputs(),
            Work::Linear { x, addend, .. } | Work::Int8Linear { x, addend, .. } | Work::HalfLinear { x, addend, .. } => {
                std::iter::once(*x).chain(*addend).collect()
            }
            Work::Fm { x, sums } => std::iter::once(*x).chain(*sums).collect(),
            Work::Observe { x, .. }
            | Work::Quantize { x, .. }
            | Work::Unary { x, .. }
            | Work::ClampI64 { x, .. }
            | Work::Cast { x }
            | Work::Sum { x, .. }
            | Work::View { x, .. }
            | Work::Slice { x, .. }
            | Work::Transpose { x, .. }
            | Work::Broadcast { x }
            | Work::Gather { x, .. }
            | Work::Softmax { x, .. }
            | Work::L2Norm { x, .. }
            | Work::BatchNorm { x, .. } => vec![*x],
        }
    }
}
