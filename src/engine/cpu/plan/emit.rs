//! Tasks to kernels: places, strided loops, cost.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::batch::{IdTarget, Layout};
use crate::engine::cpu::gemm::half::HalfLinear;
use crate::engine::cpu::gemm::int8::{Int8Linear, Observe, Quantize};
use crate::engine::cpu::gemm::{Linear, Packer};
use crate::engine::cpu::kernels::Kernel;
use crate::engine::cpu::kernels::binary::{Binary, BinaryOp};
use crate::engine::cpu::kernels::chain::{Chain, ChainOp, Instruction, OPERANDS};
use crate::engine::cpu::kernels::copy::{Copy, Gather};
use crate::engine::cpu::kernels::fm::Fm;
use crate::engine::cpu::kernels::input::{Dense, DensePart, Integer, Length};
use crate::engine::cpu::kernels::interaction::{Blocks, Interaction};
use crate::engine::cpu::kernels::matmul::{MatMul, MatMulShape};
use crate::engine::cpu::kernels::mix::Mix;
use crate::engine::cpu::kernels::normalize::{AxisView, BatchNorm, L2Norm, Softmax};
use crate::engine::cpu::kernels::reduce::Sum;
use crate::engine::cpu::kernels::unary::{Cast, Unary, UnaryF32, UnaryI64};
use crate::engine::cpu::memory::{Place, Region};
use crate::engine::cpu::program::Step;
use crate::engine::cpu::walk::{Dim, Walk, broadcast, row_major};
use crate::model::{DType, Model, ValueScope};

use super::origins::Piece;
use super::place::Placing;
use super::task::{PlanValue, Task, ValueIndex, Work};

/// Adds the steps of a task (none if its result is already in place); matrices go to the packer.
pub fn emit<'p>(
    task: &'p Task<'p>,
    values: &[PlanValue],
    places: &mut dyn Placing,
    packer: &mut Packer<'p>,
    layout: &Layout,
    model: &Model,
    steps: &mut Vec<Step>,
) {
    Emitter { task, values, places, packer, layout, model, steps }.emit();
}

pub(super) struct Emitter<'e, 'p> {
    pub(super) task: &'p Task<'p>,
    pub(super) values: &'e [PlanValue],
    pub(super) places: &'e mut dyn Placing,
    pub(super) packer: &'e mut Packer<'p>,
    pub(super) layout: &'e Layout,
    pub(super) model: &'e Model,
    pub(super) steps: &'e mut Vec<Step>,
}

impl Emitter<'_, '_> {
    fn emit(&mut self) {
        let out = self.places.of(self.task.out);
        let len = out.len as f32;
        match &self.task.work {
            Work::Dense { features } => {
                let kernel = Kernel::Dense(Dense { parts: self.dense_parts(features), out });
                self.push(kernel, 4.0 + len * NS_COPY);
            }
            Work::Integer { feature } => {
                let scope = self.model.features[*feature].scope;
                let fields = &self.layout.scope(scope).ids;
                let column = fields.iter().find(|field| field.feature == *feature).and_then(|field| match field.target {
                    IdTarget::Integer { column } => Some(column),
                    IdTarget::Bag { .. } => None,
                });
                let column = column.expect("the shape pass lets `integer` read integer features alone");
                self.push(Kernel::Integer(Integer { scope, column, out }), 4.0 + len * NS_COPY);
            }
            Work::Length { feature } => {
                let (scope, bag) = (self.model.features[*feature].scope, self.bag(*feature));
                self.push(Kernel::Length(Length { scope, bag, out }), 4.0);
            }
            Work::Lookup { .. } => unreachable!("lookups are emitted together, by `lookups`"),
            Work::Linear { x, matrix, bias, addend, activation } => {
                let (x, addend, inner) = (self.places.of(*x), addend.map(|addend| self.places.of(addend)), out.len / matrix.n);
                let packed = self.packer.add(matrix.k, matrix.n, |k, n| matrix.at(k, n));
                let mut bias = bias.clone();
                bias.resize(packed.padded, 0.0);
                let kernel = Linear { x, out, matrix: packed, bias, addend, activation: *activation, inner };
                self.push(Kernel::Linear(kernel), 0.0);
            }
            Work::Observe { x, largest } => {
                let kernel = Observe { x: self.places.of(*x), largest: Arc::clone(largest) };
                self.push(Kernel::Observe(kernel), 0.0);
            }
            Work::Quantize { x, factors, matrix, dot } => {
                let x = self.places.of(*x);
                let kernel = Quantize {
                    x,
                    out,
                    factors: Arc::clone(factors),
                    ranges: matrix.ranges.clone(),
                    levels: dot.levels(),
                    inner: x.len / matrix.k,
                };
                let ns = kernel.ns_per_row();
                self.push(Kernel::Quantize(kernel), ns);
            }
            Work::Int8Linear { x, matrix, dot, bias, addend, activation } => {
                let (x, addend, inner) = (self.places.of(*x), addend.map(|addend| self.places.of(addend)), out.len / matrix.n);
                let mut bias = bias.clone();
                bias.resize(matrix.padded, 0.0);
                let kernel = Int8Linear { x, out, matrix: Arc::clone(matrix), dot: *dot, bias, addend, activation: *activation, inner };
                self.push(Kernel::Int8Linear(kernel), 0.0);
            }
            Work::Interaction { vectors, dim, split, pairs } => {
                let blocks = Blocks::new(vectors.len(), *split, pairs).expect("the pass that made this task looked at the sizes");
                let vectors =
                    vectors.iter().map(|vector| self.places.of(vector.value).part(vector.first, *dim, size_of::<f32>())).collect();
                let ns = (pairs.len() * dim) as f32 * NS_PACKED + len * NS_ELEMENT;
                self.push(Kernel::Interaction(Interaction { vectors, dim: *dim, out, blocks }), ns);
            }
            Work::HalfLinear { x, matrix, bias, addend, activation } => {
                let (x, addend, inner) = (self.places.of(*x), addend.map(|addend| self.places.of(addend)), out.len / matrix.n);
                let mut bias = bias.clone();
                bias.resize(matrix.padded, 0.0);
                let kernel = HalfLinear { x, out, matrix: Arc::clone(matrix), bias, addend, activation: *activation, inner };
                self.push(Kernel::HalfLinear(kernel), 0.0);
            }
            Work::MatMul { a, b, transpose_a, transpose_b } => self.matmul(*a, *b, *transpose_a, *transpose_b, out),
            Work::Mix { weights, softmax, vectors } => {
                let mut place = |piece: &Piece| self.places.of(piece.value).part(piece.first, piece.len, size_of::<f32>());
                let kernel = Mix { weights: place(weights), softmax: *softmax, vectors: vectors.iter().map(place).collect(), out };
                let exponentials = if *softmax { 10.0 } else { 0.0 };
                self.push(Kernel::Mix(kernel), 10.0 + exponentials + (vectors.len() as f32) * len * NS_PACKED);
            }
            Work::Binary { op, a, b } => self.binary(*op, *a, *b, out),
            Work::Chain { leaves, steps } => self.chain(leaves, steps, out),
            Work::Fm { x, sums } => {
                let ns = 4.0 + self.values[*x].len() as f32 * NS_ELEMENT;
                let kernel = Fm { x: self.places.of(*x), sums: sums.map(|sums| self.places.of(sums)), out };
                self.push(Kernel::Fm(kernel), ns);
            }
            Work::Unary { function, x } => {
                let ns = if matches!(function, UnaryF32::Sigmoid | UnaryF32::Function(_)) { NS_EXP } else { NS_ELEMENT };
                let kernel = Kernel::UnaryF32(Unary::new(*function, self.places.of(*x), out));
                self.push(kernel, 2.0 + len * ns);
            }
            Work::ClampI64 { x, min, max } => {
                let function = UnaryI64::Clamp { min: *min, max: *max };
                let kernel = Kernel::UnaryI64(Unary::new(function, self.places.of(*x), out));
                self.push(kernel, 2.0 + len * NS_ELEMENT);
            }
            Work::Cast { x } => {
                let kernel = Kernel::Cast(Cast::new(self.values[self.task.out].dtype, self.places.of(*x), out));
                self.push(kernel, 2.0 + len * 2.0 * NS_ELEMENT);
            }
            Work::Sum { x, axes } => self.sum(*x, axes, out),
            Work::Concat { xs, axis } => self.concat(xs, *axis, out),
            Work::View { x, first } => {
                let from = self.places.of(*x).part(*first, out.len, self.values[*x].element_bytes());
                if from != out {
                    self.copy(from, out, &[Dim { size: out.len, strides: [1, 1] }]);
                }
            }
            Work::Slice { x, axis, start, step } => {
                let strides = row_major(&self.values[*x].shape);
                let from = self.places.of(*x).part(start * strides[*axis], out.len, self.values[*x].element_bytes());
                let strides: Vec<usize> =
                    strides.iter().enumerate().map(|(at, stride)| if at == *axis { stride * step } else { *stride }).collect();
                self.copy_shaped(from, out, &strides);
            }
            Work::Transpose { x, perm } => {
                let strides = row_major(&self.values[*x].shape);
                let strides: Vec<usize> = perm.iter().map(|&axis| strides[axis]).collect();
                let from = self.places.of(*x);
                self.copy_shaped(from, out, &strides);
            }
            Work::Broadcast { x } => {
                let strides = broadcast(&self.values[*x].shape, &self.values[self.task.out].shape);
                let from = self.places.of(*x);
                self.copy_shaped(from, out, &strides);
            }
            Work::Gather { x, axis, indices } => self.gather(*x, *axis, indices, out),
            Work::Softmax { x, axis } => {
                let kernel = Softmax { x: self.places.of(*x), out, view: AxisView::new(&self.values[*x].shape, *axis) };
                self.push(Kernel::Softmax(kernel), 10.0 + len * 2.0 * NS_EXP);
            }
            Work::L2Norm { x, axis, eps } => {
                let kernel = L2Norm { x: self.places.of(*x), out, view: AxisView::new(&self.values[*x].shape, *axis), eps: *eps };
                self.push(Kernel::L2Norm(kernel), 10.0 + len * 4.0 * NS_ELEMENT);
            }
            Work::BatchNorm { x, axis, mean, scale, bias } => {
                let kernel = BatchNorm {
                    x: self.places.of(*x),
                    out,
                    view: AxisView::new(&self.values[*x].shape, *axis),
                    mean: mean.clone(),
                    scale: scale.clone(),
                    bias: bias.clone(),
                };
                self.push(Kernel::BatchNorm(kernel), 4.0 + len * NS_ELEMENT);
            }
            Work::Generic(generic) => self.generic(generic, out),
        }
    }

    pub(super) fn push(&mut self, kernel: Kernel, ns_per_row: f32) {
        self.steps.push(Step::new(kernel, ns_per_row));
    }

    fn bag(&self, feature: usize) -> usize {
        let scope = self.model.features[feature].scope;
        self.layout.scope(scope).bag_of(feature).expect("the shape pass lets sparse features alone be looked up")
    }

    fn dense_parts(&self, features: &[usize]) -> Vec<DensePart> {
        let mut parts: Vec<DensePart> = Vec::new();
        let mut at = 0;
        for &feature in features {
            let scope = self.model.features[feature].scope;
            let run = self.layout.scope(scope).dense.iter().find(|run| run.feature == feature);
            let run = run.expect("the shape pass lets `dense` read dense features alone");
            match parts.last_mut() {
                Some(last) if last.scope == scope && last.column + last.width == run.column => last.width += run.width,
                _ => parts.push(DensePart { scope, column: run.column, at, width: run.width }),
            }
            at += run.width;
        }
        parts
    }

    /// Whether kernels of this task read `place` through the rows' contexts.
    fn is_indexed(&self, place: &Place) -> bool {
        place.region == Region::Context && self.values[self.task.out].scope == ValueScope::Candidate
    }

    fn walk<const N: usize>(&self, places: [&Place; N], dims: &[Dim<N>]) -> Walk<N> {
        let merge = places.iter().all(|place| !self.is_indexed(place));
        Walk::new(merge.then(|| places.map(|place| place.stride)), dims)
    }

    fn binary(&mut self, op: BinaryOp, a: ValueIndex, b: ValueIndex, out: Place) {
        let shape = &self.values[self.task.out].shape;
        let [out_strides, a_strides, b_strides] =
            [row_major(shape), broadcast(&self.values[a].shape, shape), broadcast(&self.values[b].shape, shape)];
        let dims: Vec<Dim<3>> = (0..shape.len())
            .map(|axis| Dim { size: shape[axis], strides: [out_strides[axis], a_strides[axis], b_strides[axis]] })
            .collect();
        let (a, b) = (self.places.of(a), self.places.of(b));
        let walk = self.walk([&out, &a, &b], &dims);
        let ns = if matches!(op, BinaryOp::Pow | BinaryOp::Mod) { NS_POW } else { NS_ELEMENT };
        let kernel = match self.values[self.task.out].dtype {
            DType::F32 => Kernel::BinaryF32(Binary { op, a, b, out, walk, element: PhantomData }),
            DType::I64 => Kernel::BinaryI64(Binary { op, a, b, out, walk, element: PhantomData }),
        };
        self.push(kernel, 2.0 + out.len as f32 * ns);
    }

    fn chain(&mut self, leaves: &[ValueIndex], steps: &[Instruction], out: Place) {
        let shape = &self.values[self.task.out].shape;
        let mut strides = vec![row_major(shape)];
        strides.extend(leaves.iter().map(|&leaf| broadcast(&self.values[leaf].shape, shape)));
        let step = |operand: usize, axis: usize| strides.get(operand).map_or(0, |strides| strides[axis]);
        let dims: Vec<Dim<OPERANDS>> =
            (0..shape.len()).map(|axis| Dim { size: shape[axis], strides: std::array::from_fn(|operand| step(operand, axis)) }).collect();
        let leaves: Vec<Place> = leaves.iter().map(|&leaf| self.places.of(leaf)).collect();
        let rows: [usize; OPERANDS] = std::array::from_fn(|operand| match operand {
            0 => out.stride,
            _ => leaves.get(operand - 1).map_or(0, |leaf| leaf.stride),
        });
        let merge = leaves.iter().all(|leaf| !self.is_indexed(leaf));
        let walk = Some(Walk::new(merge.then_some(rows), &dims)).filter(Chain::takes).unwrap_or_else(|| Walk::new(None, &dims));
        let ns = |step: &Instruction| match step.op {
            ChainOp::Binary(BinaryOp::Pow) => NS_POW,
            ChainOp::Unary(UnaryF32::Sigmoid) => NS_EXP,
            _ => NS_ELEMENT / 2.0,
        };
        let ns: f32 = 4.0 + out.len as f32 * (NS_ELEMENT + steps.iter().map(ns).sum::<f32>());
        self.push(Kernel::Chain(Box::new(Chain { leaves, steps: steps.to_vec(), out, walk })), ns);
    }

    fn sum(&mut self, x: ValueIndex, axes: &[usize], out: Place) {
        let shape = &self.values[x].shape;
        let kept: Vec<usize> = (0..shape.len()).map(|axis| if axes.contains(&axis) { 1 } else { shape[axis] }).collect();
        let out_strides = broadcast(&kept, shape);
        let x_strides = row_major(shape);
        let dims: Vec<Dim<2>> =
            (0..shape.len()).map(|axis| Dim { size: shape[axis], strides: [out_strides[axis], x_strides[axis]] }).collect();
        let walk = Walk::new(None, &dims);
        let ns = 4.0 + self.values[x].len() as f32 * NS_ELEMENT;
        let x = self.places.of(x);
        let kernel = match self.values[self.task.out].dtype {
            DType::F32 => Kernel::SumF32(Sum { x, out, walk, element: PhantomData }),
            DType::I64 => Kernel::SumI64(Sum { x, out, walk, element: PhantomData }),
        };
        self.push(kernel, ns);
    }

    fn concat(&mut self, xs: &[ValueIndex], axis: usize, out: Place) {
        let shape = self.values[self.task.out].shape.clone();
        let bytes = self.values[self.task.out].element_bytes();
        let outer: usize = shape[..axis].iter().product();
        let behind: usize = shape[axis + 1..].iter().product();
        let mut at = 0;
        for &x in xs {
            let size = self.values[x].shape[axis] * behind;
            let from = self.places.of(x);
            let to = out.part(at, from.len, bytes);
            at += size;
            if from != to && from.len > 0 {
                let dims = [Dim { size: outer, strides: [shape[axis] * behind, size] }, Dim { size, strides: [1, 1] }];
                self.copy(from, to, &dims);
            }
        }
    }

    fn copy_shaped(&mut self, x: Place, out: Place, strides: &[usize]) {
        let shape = &self.values[self.task.out].shape;
        let dims: Vec<Dim<2>> = row_major(shape)
            .into_iter()
            .zip(strides)
            .zip(shape)
            .map(|((out_stride, &stride), &size)| Dim { size, strides: [out_stride, stride] })
            .collect();
        self.copy(x, out, &dims);
    }

    fn copy(&mut self, x: Place, out: Place, dims: &[Dim<2>]) {
        let walk = self.walk([&out, &x], dims);
        let ns = 2.0 + dims.iter().map(|dim| dim.size).product::<usize>() as f32 * NS_COPY;
        let kernel = match self.values[self.task.out].dtype {
            DType::F32 => Kernel::Copy32(Copy { x, out, walk, element: PhantomData }),
            DType::I64 => Kernel::Copy64(Copy { x, out, walk, element: PhantomData }),
        };
        self.push(kernel, ns);
    }

    fn gather(&mut self, x: ValueIndex, axis: usize, indices: &[usize], out: Place) {
        let shape = &self.values[x].shape;
        let (size, inner) = (shape[axis], shape[axis + 1..].iter().product());
        let (x, indices) = (self.places.of(x), indices.to_vec());
        let kernel = match self.values[self.task.out].dtype {
            DType::F32 => Kernel::Gather32(Gather { x, out, axis: size, inner, indices, element: PhantomData }),
            DType::I64 => Kernel::Gather64(Gather { x, out, axis: size, inner, indices, element: PhantomData }),
        };
        self.push(kernel, 4.0 + out.len as f32 * 2.0 * NS_COPY);
    }

    fn matmul(&mut self, a: ValueIndex, b: ValueIndex, transpose_a: bool, transpose_b: bool, out: Place) {
        // numpy: a vector on the left is one row, on the right one column, and the axis so made is dropped from the result.
        let (mut a_shape, mut b_shape) = (self.values[a].shape.clone(), self.values[b].shape.clone());
        let mut out_shape = self.values[self.task.out].shape.clone();
        let (transpose_a, transpose_b) = (transpose_a && a_shape.len() > 1, transpose_b && b_shape.len() > 1);
        if b_shape.len() == 1 {
            b_shape.push(1);
            out_shape.push(1);
        }
        if a_shape.len() == 1 {
            a_shape.insert(0, 1);
            out_shape.insert(out_shape.len() - 1, 1);
        }
        let [.., m, n] = out_shape[..] else { unreachable!("a product has two axes by now") };
        let (a_batch, a_matrix) = a_shape.split_at(a_shape.len() - 2);
        let k = if transpose_a { a_matrix[0] } else { a_matrix[1] };
        let batch = &out_shape[..out_shape.len() - 2];
        let [out_strides, a_strides, b_strides] =
            [row_major(batch), broadcast(a_batch, batch), broadcast(&b_shape[..b_shape.len() - 2], batch)];
        let dims: Vec<Dim<3>> = (0..batch.len())
            .map(|axis| Dim { size: batch[axis], strides: [out_strides[axis] * m * n, a_strides[axis] * m * k, b_strides[axis] * k * n] })
            .collect();
        let walk = Walk::new(None, &dims);
        let shape = MatMulShape { m, n, k, transpose_a, transpose_b };
        let kernel = MatMul { a: self.places.of(a), b: self.places.of(b), out, walk, shape };
        let ns = if shape.packs() { NS_PACKED } else { NS_ELEMENT };
        self.push(Kernel::MatMul(kernel), 10.0 + (out.len * k) as f32 * ns);
    }
}

/// Rough costs in nanoseconds, only to cut work into units: a memory-to-memory element, an arithmetic one, an exponential, a power,
/// a multiply-add of a packed product.
pub(super) const NS_COPY: f32 = 0.2;
pub(super) const NS_ELEMENT: f32 = 0.25;
pub(super) const NS_EXP: f32 = 1.0;
pub(super) const NS_POW: f32 = 15.0;
const NS_PACKED: f32 = 0.05;
