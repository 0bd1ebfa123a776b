//! The work of a task, counted from shapes: arithmetic and bytes for one row.
//!
//! A multiply-add is two operations, every other arithmetic step on an element one: a sum, a product, a comparison, a maximum, a function such
//! as exp or tanh. So a sigmoid is three (exp, add, divide) and an element of a softmax five. What only moves elements is none.

use serde::Serialize;

use crate::engine::cpu::gemm::Activation;
use crate::engine::cpu::kernels::attention::AttentionShape;
use crate::engine::cpu::kernels::binary::BinaryOp;
use crate::engine::cpu::kernels::chain::ChainOp;
use crate::engine::cpu::kernels::gru::GruLayer;
use crate::engine::cpu::kernels::trees::TreeNode;
use crate::engine::cpu::kernels::unary::UnaryF32;
use crate::engine::cpu::kernels::window::PoolFn;
use crate::model::{DenseTransform, FeatureKind, GruKind, Model, Pool, TableId};

use super::generic::Generic;
use super::generic::attention::Hiding;
use super::task::{PlanValue, Task, ValueIndex, Work};

/// Work of a task for one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlanWork {
    /// Arithmetic operations, on integers and codes too; a multiply-add is two. Sequences and bags count as full.
    pub flops: u64,
    /// Bytes of values read and written; constants that are operands are values.
    pub value_bytes: u64,
    /// Bytes of table rows read, bags full.
    pub table_bytes: u64,
    /// Bytes of weights read: by dense layers once per tile, whatever its rows; by other ops for every row, as a rule out of a near cache.
    pub weight_bytes: u64,
}

impl PlanWork {
    /// Adds the work of another task.
    pub fn add(&mut self, other: PlanWork) {
        self.flops += other.flops;
        self.value_bytes += other.value_bytes;
        self.table_bytes += other.table_bytes;
        self.weight_bytes += other.weight_bytes;
    }
}

/// Counts a task's work.
pub fn count(model: &Model, values: &[PlanValue], task: &Task) -> PlanWork {
    let count = Count { model, values, out: task.out };
    let work = count.plain(&task.work);
    PlanWork { value_bytes: count.bytes(task.out) + count.bytes_read(&task.work), ..work }
}

/// One task among its values.
struct Count<'c> {
    model: &'c Model,
    values: &'c [PlanValue],
    out: ValueIndex,
}

impl Count<'_> {
    fn shape(&self, value: ValueIndex) -> &[usize] {
        &self.values[value].shape
    }

    fn len(&self, value: ValueIndex) -> u64 {
        self.values[value].len() as u64
    }

    fn bytes(&self, value: ValueIndex) -> u64 {
        self.len(value) * self.values[value].element_bytes() as u64
    }

    /// Elements of the result.
    fn made(&self) -> u64 {
        self.len(self.out)
    }

    /// Of values; each counts once, however often a kernel comes back to it.
    fn bytes_read(&self, work: &Work) -> u64 {
        let made = self.bytes(self.out);
        match work {
            // As many elements as they make, of an operand that may be larger.
            Work::View { .. } | Work::Slice { .. } | Work::Gather { .. } => made,
            Work::Generic(Generic::Pick { index, .. } | Generic::TakeAlong { index, .. }) => made + self.bytes(*index),
            Work::Interaction { vectors, dim, .. } => f32s(vectors.len() * dim),
            Work::Mix { weights, vectors, .. } => f32s(weights.len + vectors.iter().map(|vector| vector.len).sum::<usize>()),
            work => {
                let room = if let Work::Generic(generic) = work { generic.room() } else { None };
                let mut inputs = work.inputs();
                inputs.sort_unstable();
                inputs.dedup();
                inputs.into_iter().filter(|input| room != Some(*input)).map(|input| self.bytes(input)).sum()
            }
        }
    }

    /// All but bytes of values.
    fn plain(&self, work: &Work) -> PlanWork {
        let made = self.made();
        match work {
            Work::Dense { features } => flops(features.iter().map(|&feature| self.transformed(feature)).sum()),
            Work::Integer { .. }
            | Work::Length { .. }
            | Work::Concat { .. }
            | Work::View { .. }
            | Work::Slice { .. }
            | Work::Transpose { .. }
            | Work::Broadcast { .. }
            | Work::Gather { .. }
            | Work::Cast { .. } => flops(0),
            Work::Lookup { feature, table, pool } => self.lookup(*feature, *table, *pool),
            Work::Linear { matrix, bias, addend, activation, .. } => PlanWork {
                flops: (2 * matrix.k as u64 + behind(*addend, *activation)) * made,
                weight_bytes: f32s(matrix.k * matrix.n + bias.len()),
                ..PlanWork::default()
            },
            Work::HalfLinear { matrix, bias, addend, activation, .. } => PlanWork {
                flops: (2 * matrix.k as u64 + behind(*addend, *activation)) * made,
                weight_bytes: matrix.bytes() as u64 + f32s(bias.len()),
                ..PlanWork::default()
            },
            // Behind the products of codes, for each range of inputs: two scales, and the two that bring the lowest input back.
            Work::Int8Linear { matrix, bias, addend, activation, .. } => PlanWork {
                flops: (2 * matrix.k as u64 + 4 * matrix.ranges.len() as u64 + behind(*addend, *activation)) * made,
                weight_bytes: matrix.bytes() as u64 + f32s(bias.len()),
                ..PlanWork::default()
            },
            // The range: factor, least, largest. The codes: factor, less the least, scaled, rounded.
            Work::Quantize { x, factors, .. } => weighted(7 * self.len(*x), f32s(factors.len())),
            Work::Observe { x, .. } => flops(2 * self.len(*x)),
            Work::Interaction { dim, .. } => flops(2 * *dim as u64 * made),
            Work::MatMul { a, transpose_a, .. } => {
                let inner = match self.shape(*a) {
                    [.., inner, _] if *transpose_a => *inner,
                    [.., inner] => *inner,
                    [] => 1,
                };
                flops(2 * inner as u64 * made)
            }
            Work::Mix { softmax, vectors, .. } => {
                let count = vectors.len() as u64;
                flops(2 * count * made + if *softmax { 5 * count } else { 0 })
            }
            Work::Binary { op, .. } => flops(binary(*op) * made),
            Work::Unary { function, .. } => flops(unary(*function) * made),
            Work::Chain { steps, .. } => {
                let per_element = steps.iter().map(|step| match step.op {
                    ChainOp::Binary(op) => binary(op),
                    ChainOp::Unary(function) => unary(function),
                    ChainOp::MulAdd => 2,
                });
                flops(per_element.sum::<u64>() * made)
            }
            // Into both sums, squared; the square of a sum less the other.
            Work::Fm { x, .. } => flops(3 * self.len(*x) + 2 * made),
            Work::ClampI64 { .. } => flops(2 * made),
            Work::Sum { x, .. } => flops(self.len(*x).saturating_sub(made)),
            // Largest, difference, exp, sum, quotient.
            Work::Softmax { .. } => flops(5 * made),
            Work::L2Norm { .. } => flops(3 * made),
            Work::BatchNorm { mean, scale, bias, .. } => weighted(3 * made, f32s(mean.len() + scale.len() + bias.len())),
            Work::Generic(generic) => self.generic(generic),
        }
    }

    fn generic(&self, generic: &Generic) -> PlanWork {
        let made = self.made();
        match generic {
            Generic::Compare { .. } | Generic::Logic { .. } | Generic::Not { .. } | Generic::CumSum { .. } => flops(made),
            Generic::Where { .. } | Generic::Pad { .. } | Generic::Pick { .. } | Generic::TakeAlong { .. } | Generic::OneHot { .. } => {
                flops(0)
            }
            Generic::Fold { x, .. } => flops(self.len(*x).saturating_sub(made)),
            Generic::Embedding { index, table } => {
                let rows = self.len(*index);
                PlanWork { flops: self.decoded(*table, rows), table_bytes: self.rows_bytes(*table, rows), ..PlanWork::default() }
            }
            // At most so many comparisons: an element with each that is kept so far.
            Generic::Top { x, axis, .. } => {
                let (size, kept) = (self.shape(*x)[*axis] as u64, self.shape(self.out)[*axis] as u64);
                let lines = self.len(*x).checked_div(size).unwrap_or(0);
                flops(lines * (0..size).map(|at| at.min(kept)).sum::<u64>())
            }
            // Sum, difference, square and its sum, scale.
            Generic::LayerNorm { weight, bias, .. } => {
                let numbers = [weight, bias].map(|numbers| numbers.as_ref().map_or(0, Vec::len));
                let affine = numbers.iter().filter(|&&len| len > 0).count() as u64;
                weighted((5 + affine) * made, f32s(numbers.iter().sum()))
            }
            Generic::Conv { shape, inputs, outputs, weight, bias, .. } => {
                let planes = made.checked_div(shape.positions() as u64).unwrap_or(0);
                debug_assert!(planes.is_multiple_of(*outputs as u64), "all channels of the result");
                weighted(2 * planes * (inputs * shape.products()) as u64 + made, f32s(weight.len() + bias.len()))
            }
            Generic::Pool { function, shape, .. } => {
                let planes = made.checked_div(shape.positions() as u64).unwrap_or(0);
                let divided = match function {
                    PoolFn::Max => 0,
                    PoolFn::MeanOfAll | PoolFn::MeanOfInside => made,
                };
                flops(planes * shape.products() as u64 + divided)
            }
            Generic::Attention(attention) => {
                let AttentionShape { rows, keys, width, values, causal, .. } = attention.shape;
                let pairs: usize = (0..rows).map(|row| if causal { keys.min(row + 1) } else { keys }).sum();
                let matrices = made.checked_div((rows * values) as u64).unwrap_or(0);
                let added = attention.mask.as_ref().is_some_and(|mask| mask.hiding == Hiding::Added);
                // A score: product, scale, mask, softmax; its share of the values.
                flops(matrices * pairs as u64 * (2 * width + 1 + usize::from(added) + 5 + 2 * values) as u64)
            }
            Generic::Gru { layer, .. } => gru(layer),
            Generic::Trees { nodes, roots, leaves, .. } => {
                let comparisons = comparisons(nodes, roots);
                let bytes = size_of_val(nodes.as_slice()) + size_of_val(roots.as_slice()) + size_of_val(leaves.as_slice());
                weighted(comparisons + roots.len() as u64 * made, bytes as u64)
            }
        }
    }

    /// Of a dense feature: the larger of it and 0, logarithm of 1 more.
    fn transformed(&self, feature: usize) -> u64 {
        let feature = &self.model.features[feature];
        match feature.kind {
            FeatureKind::Dense { transform: DenseTransform::Log1pClamp0, .. } => 3 * u64::from(feature.width),
            FeatureKind::Dense { transform: DenseTransform::None, .. } | FeatureKind::Sparse { .. } | FeatureKind::Integer => 0,
        }
    }

    /// Rows of a full bag: each decoded, multiplied by its weight, combined.
    fn lookup(&self, feature: usize, table: TableId, pool: Pool) -> PlanWork {
        let feature = &self.model.features[feature];
        let (ids, dim) = (u64::from(feature.max_len), u64::from(self.model.weights.table(table).dim));
        let combined = match pool {
            Pool::None => 0,
            Pool::Sum | Pool::Max => ids.saturating_sub(1) * dim,
            Pool::Mean => ids * dim,
        };
        let scaled = if feature.is_weighted() { ids * dim } else { 0 };
        PlanWork { flops: self.decoded(table, ids) + scaled + combined, table_bytes: self.rows_bytes(table, ids), ..PlanWork::default() }
    }

    /// A code's number is a multiply-add.
    fn decoded(&self, table: TableId, rows: u64) -> u64 {
        let table = self.model.weights.table(table);
        if table.dtype.coding(table.dim as usize).is_some() { 2 * rows * u64::from(table.dim) } else { 0 }
    }

    fn rows_bytes(&self, table: TableId, rows: u64) -> u64 {
        rows * self.model.weights.table(table).row_bytes() as u64
    }
}

fn flops(flops: u64) -> PlanWork {
    PlanWork { flops, ..PlanWork::default() }
}

fn weighted(flops: u64, weight_bytes: u64) -> PlanWork {
    PlanWork { flops, weight_bytes, ..PlanWork::default() }
}

fn f32s(count: usize) -> u64 {
    (count * size_of::<f32>()) as u64
}

/// Per element of a layer, behind its product: bias, addend, activation.
fn behind(addend: Option<ValueIndex>, activation: Activation) -> u64 {
    let activation = match activation {
        Activation::None => 0,
        Activation::Relu => unary(UnaryF32::Relu),
        Activation::Sigmoid => unary(UnaryF32::Sigmoid),
    };
    1 + u64::from(addend.is_some()) + activation
}

fn binary(op: BinaryOp) -> u64 {
    match op {
        BinaryOp::Prelu => 2,
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Pow | BinaryOp::Min | BinaryOp::Max | BinaryOp::Mod => 1,
    }
}

fn unary(function: UnaryF32) -> u64 {
    match function {
        UnaryF32::Sigmoid => 3,
        UnaryF32::Clamp { .. } => 2,
        UnaryF32::Relu | UnaryF32::Square | UnaryF32::Sqrt | UnaryF32::Function(_) => 1,
    }
}

/// What depends on the state; the inputs' part of the gates is a dense layer before it.
fn gru(layer: &GruLayer) -> PlanWork {
    let hidden = layer.hidden as u64;
    let product = 2 * 3 * hidden;
    let (r, z) = (1 + unary(UnaryF32::Sigmoid), 1 + unary(UnaryF32::Sigmoid));
    // With the inputs' part and a tanh: the bias, scaled by r; or r before the product.
    let n = if layer.reset_after { 4 } else { 3 };
    // 1 − z, its product, a multiply-add.
    let next = match layer.kind {
        GruKind::Gru | GruKind::Agru => 4,
        GruKind::Augru => 5,
    };
    let numbers = if layer.reset_after { 3 * layer.hidden + 1 } else { 3 * layer.hidden };
    weighted(layer.steps as u64 * hidden * (product + r + z + n + next), f32s(layer.hidden * numbers))
}

/// Comparisons on the way from all roots to a leaf, if each holds in half of the cases.
fn comparisons(nodes: &[TreeNode], roots: &[u32]) -> u64 {
    let mut below = vec![0.0_f64; nodes.len()];
    for (at, node) in nodes.iter().enumerate().rev() {
        if node.outcomes != TreeNode::LEAF {
            below[at] = 1.0 + node.next.iter().map(|&next| below[next as usize]).sum::<f64>() / 2.0;
        }
    }
    roots.iter().map(|&root| below[root as usize]).sum::<f64>().round() as u64
}
