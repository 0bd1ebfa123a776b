//! Random small graphs over all ops, scopes and shapes.

mod more;

use std::sync::Arc;

use crate::model::*;

use super::batches::{self, Request};
use super::builder::{ModelBuilder, broadcast_shape};
use super::{Random, check};

pub use more::ensemble;

/// Values stay below this, so that f32 errors stay far below the tolerance.
const SIZE_MAX: f64 = 64.0;

/// What the generator knows about a value.
#[derive(Clone, Copy)]
struct Known {
    id: ValueId,
    /// No element is larger.
    size: f64,
    /// f32 and f64 agree to the last bit: it may be cut to integers.
    exact: bool,
}

struct Generator {
    model: ModelBuilder,
    known: Vec<Known>,
}

/// A random model.
pub fn model(seed: u64) -> Arc<Model> {
    let mut generator = Generator { model: ModelBuilder::new(seed), known: vec![] };
    generator.leaves();
    let count = 8 + generator.random().below(25);
    for _ in 0..count {
        generator.grow();
    }
    generator.finish()
}

/// A random batch for it: rows of awkward counts over some requests.
pub fn requests(model: &Model, seed: u64, rows: usize) -> Vec<Request> {
    let mut random = Random::new(seed ^ 0x5eed);
    let mut requests = vec![];
    let mut left = rows;
    while left > 0 {
        let candidates = (1 + random.below(left)).min(1 + random.below(90));
        let mut request = batches::request(model, &mut random, candidates);
        request.dead = random.chance(5);
        requests.push(request);
        left -= candidates;
        if random.chance(6) {
            requests.push(batches::request(model, &mut random, 0));
        }
    }
    requests
}

impl Generator {
    fn random(&mut self) -> &mut Random {
        &mut self.model.random
    }

    fn keep(&mut self, id: ValueId, size: f64, exact: bool) {
        assert!(size.is_finite());
        self.known.push(Known { id, size, exact });
    }

    fn leaves(&mut self) {
        let mut dense = vec![];
        for _ in 0..3 {
            let scope = self.random().pick(&[Scope::Context, Scope::Candidate]);
            let width = self.random().pick(&[1, 2, 3, 7, 16]);
            dense.push(self.model.dense(scope, width));
        }
        dense.push(self.model.dense(Scope::Candidate, 2));
        let together = self.model.op(Op::Dense { features: dense.clone() });
        self.keep(together, 4.0, true);
        for feature in dense {
            let id = self.model.op(Op::Dense { features: vec![feature] });
            self.keep(id, 4.0, true);
        }
        for _ in 0..4 {
            let scope = self.random().pick(&[Scope::Context, Scope::Candidate]);
            let (rows, dim) = (self.random().pick(&[1, 5, 40]), self.random().pick(&[1, 3, 4, 8, 16, 17]));
            let (_, dtype) = self.random().pick(&TableDType::ALL);
            let table = self.model.table_of(dtype, rows, dim);
            let (width, max_len) = self.random().pick(&[(1, 1), (1, 1), (3, 3), (0, 6), (0, 2)]);
            let weighted = self.random().chance(3);
            let feature = self.model.sparse(scope, width, max_len, table, weighted);
            for pool in [Pool::Sum, Pool::Mean, Pool::Max, Pool::None] {
                let id = self.model.op(Op::Lookup { feature, table, pool });
                self.keep(id, 6.0, pool == Pool::Max || (pool == Pool::None && !weighted));
            }
            let id = self.model.op(Op::Length { feature });
            self.keep(id, 6.0, true);
        }
        for scope in [Scope::Context, Scope::Candidate] {
            let width = self.random().pick(&[1, 2, 3]);
            let feature = self.model.integer(scope, width);
            let id = self.model.op(Op::Integer { feature });
            self.keep(id, 4.0, true);
        }
        let size = self.random().pick(&[1usize, 3, 7, 16]);
        let tensor = self.model.tensor(&[size], 1.0);
        let id = self.model.op(Op::Const { tensor });
        self.keep(id, 1.0, true);
        let data = TensorData::I64((0..size).map(|_| self.random().below(7) as i64 - 3).collect());
        let tensor = self.model.tensor_of(&[size], data);
        let id = self.model.op(Op::Const { tensor });
        self.keep(id, 3.0, true);
        let dtype = self.random().pick(&[DType::F32, DType::I64]);
        let id = self.model.op_as(Op::Iota { start: -1.0, step: 2.0 }, vec![3], dtype);
        self.keep(id, 5.0, true);
        let id = self.model.op_as(Op::Fill { value: 1.5 }, vec![2, 1], DType::F32);
        self.keep(id, 1.5, true);
    }

    fn any(&mut self) -> Known {
        let at = self.model.random.below(self.known.len());
        self.known[at]
    }

    fn any_of(&mut self, wanted: impl Fn(&ModelBuilder, &Known) -> bool) -> Option<Known> {
        let list: Vec<Known> = self.known.iter().filter(|known| wanted(&self.model, known)).copied().collect();
        if list.is_empty() { None } else { Some(list[self.model.random.below(list.len())]) }
    }

    fn float(&mut self) -> Known {
        self.any_of(|model, known| model.graph.value(known.id).dtype == DType::F32).expect("dense features are floats")
    }

    /// A float with axes.
    fn array(&mut self) -> Known {
        let wanted = |model: &ModelBuilder, known: &Known| {
            let value = model.graph.value(known.id);
            value.dtype == DType::F32 && !value.shape.is_empty()
        };
        self.any_of(wanted).expect("dense features have an axis")
    }

    fn dtype(&self, known: Known) -> DType {
        self.model.graph.value(known.id).dtype
    }

    fn shape(&self, known: Known) -> Vec<usize> {
        self.model.shape(known.id).to_vec()
    }

    /// A value that broadcasts with `a`.
    fn partner(&mut self, a: Known, dtype: DType) -> Option<Known> {
        let shape = self.shape(a);
        let fits = |b: &[usize]| {
            let pairs = shape.iter().rev().zip(b.iter().rev());
            pairs.clone().all(|(a, b)| a == b || *a == 1 || *b == 1) && broadcast_shape(&shape, b).iter().product::<usize>() <= 400
        };
        self.any_of(|model, b| model.graph.value(b.id).dtype == dtype && fits(model.shape(b.id)))
    }

    /// Adds one op, or none where the choice does not fit.
    fn grow(&mut self) {
        match self.model.random.below(40) {
            0 | 1 => self.layer(),
            2 => self.matmul(),
            3 | 4 => self.sum_or_difference(),
            5 | 6 => self.product(),
            7 => self.quotient(),
            8 => self.power(),
            9 => {
                let x = self.any();
                let (min, max) = self.random().pick(&[(Some(-1.0), Some(2.0)), (None, Some(1.0)), (Some(0.0), None)]);
                let id = self.model.op(Op::Clamp { x: x.id, min, max });
                self.keep(id, x.size.max(2.0), x.exact);
            }
            10 | 11 => self.reduce(),
            12 | 13 => self.concat(),
            14 => self.slice(),
            15 => self.reshape(),
            16 => self.transpose(),
            17 => self.broadcast(),
            18 => self.gather(),
            19 => {
                let x = self.float();
                let id = self.model.op(Op::Relu { x: x.id });
                self.keep(id, x.size, x.exact);
            }
            20 => {
                let x = self.float();
                let id = self.model.op(Op::Sigmoid { x: x.id });
                self.keep(id, 1.0, false);
            }
            21 => self.prelu_or_cast(),
            22 | 23 => self.normalize(),
            _ => self.grow_more(),
        }
    }

    fn layer(&mut self) {
        let x = self.array();
        let k = *self.shape(x).last().expect("an axis");
        let n = self.random().pick(&[1usize, 2, 7, 8, 9, 15, 16, 17, 31, 33, 48, 65]);
        if k == 0 || self.model.graph.value(x.id).len() / k * n > 400 {
            return;
        }
        let weight = self.model.tensor(&[n, k], 2.0 / k as f64);
        let bias = if self.random().chance(3) { None } else { Some(self.model.tensor(&[n], 1.0)) };
        let mut id = self.model.op(Op::Linear { x: x.id, weight, bias });
        let mut size = 2.0 * x.size + 1.0;
        if self.random().chance(3) {
            let axis = self.model.shape(id).len() - 1;
            id = self.batch_norm(id, axis);
            size = (size + 1.0) * 2.0 + 1.0;
        }
        if self.random().chance(2) {
            id = self.model.op(Op::Relu { x: id });
        }
        if size < SIZE_MAX {
            self.keep(id, size, false);
        }
    }

    fn batch_norm(&mut self, x: ValueId, axis: usize) -> ValueId {
        let size = self.model.shape(x)[axis];
        let mean = self.model.tensor(&[size], 1.0);
        let var = TensorData::F32((0..size).map(|_| 1.0 + self.random().unit().abs() as f32).collect());
        let var = self.model.tensor_of(&[size], var);
        let weight = if self.random().chance(2) { None } else { Some(self.model.tensor(&[size], 2.0)) };
        let bias = if self.random().chance(2) { None } else { Some(self.model.tensor(&[size], 1.0)) };
        self.model.op(Op::BatchNorm { x, axis, mean, var, weight, bias, eps: 1e-3 })
    }

    fn matmul(&mut self) {
        let a = self.array();
        let shape = self.shape(a);
        let transpose_a = self.random().chance(3);
        let k = if transpose_a && shape.len() > 1 { shape[shape.len() - 2] } else { shape[shape.len() - 1] };
        let transpose_b = self.random().chance(2);
        let fits = |model: &ModelBuilder, b: &Known| {
            let value = model.graph.value(b.id);
            let rank = value.shape.len();
            if value.dtype != DType::F32 || rank == 0 {
                return false;
            }
            let inner = if rank == 1 || transpose_b { value.shape[rank - 1] } else { value.shape[rank - 2] };
            let (a_lead, b_lead) = (&shape[..shape.len().saturating_sub(2)], &value.shape[..rank.saturating_sub(2)]);
            inner == k && a_lead.iter().rev().zip(b_lead.iter().rev()).all(|(a, b)| a == b || *a == 1 || *b == 1)
        };
        let b = if self.random().chance(2) {
            let n = self.random().pick(&[1usize, 3, 16, 20]);
            let tensor = self.model.tensor(&if transpose_b { [n, k] } else { [k, n] }, 1.0);
            let id = self.model.op(Op::Const { tensor });
            Known { id, size: 1.0, exact: true }
        } else {
            let Some(b) = self.any_of(fits) else { return };
            b
        };
        let size = k as f64 * a.size * b.size;
        let (transpose_a, transpose_b) = (transpose_a && shape.len() > 1, transpose_b && self.model.shape(b.id).len() > 1);
        if size < SIZE_MAX {
            let id = self.model.op(Op::MatMul { a: a.id, b: b.id, transpose_a, transpose_b });
            if self.model.graph.value(id).len() <= 400 {
                self.keep(id, size, false);
            }
        }
    }

    /// Two operands of one type, or one and a number.
    fn pair(&mut self) -> Option<(Known, Known, Operand, Operand)> {
        let a = self.any();
        if self.random().chance(4) {
            let number = self.random().pick(&[-2.0, 0.5, 1.0, 3.0]);
            let number = if self.dtype(a) == DType::I64 { f64::trunc(number) } else { number };
            let b = Known { id: a.id, size: number.abs(), exact: true };
            let (value, scalar) = (Operand::Value(a.id), Operand::Scalar(number));
            return Some(if self.random().chance(2) { (a, b, value, scalar) } else { (a, b, scalar, value) });
        }
        let b = self.partner(a, self.dtype(a))?;
        Some((a, b, Operand::Value(a.id), Operand::Value(b.id)))
    }

    fn sum_or_difference(&mut self) {
        let Some((a, b, left, right)) = self.pair() else { return };
        let op = if self.random().chance(2) { Op::Add { a: left, b: right } } else { Op::Sub { a: left, b: right } };
        if a.size + b.size < SIZE_MAX {
            let id = self.model.op(op);
            self.keep(id, a.size + b.size, false);
        }
    }

    fn product(&mut self) {
        let Some((a, b, left, right)) = self.pair() else { return };
        if a.size * b.size < SIZE_MAX {
            let id = self.model.op(Op::Mul { a: left, b: right });
            self.keep(id, a.size * b.size, false);
        }
    }

    fn quotient(&mut self) {
        let Some((a, b, left, right)) = self.pair() else { return };
        if self.dtype(a) == DType::I64 {
            let id = self.model.op(Op::Div { a: left, b: right });
            self.keep(id, a.size.max(b.size), true);
            return;
        }
        // Divisors stay away from zero: 1 + sigmoid.
        let below = self.model.op(Op::Sigmoid { x: b.id });
        let below = self.model.op(Op::Add { a: Operand::Value(below), b: Operand::Scalar(1.0) });
        let id = self.model.op(Op::Div { a: Operand::Value(a.id), b: Operand::Value(below) });
        self.keep(id, a.size, false);
    }

    fn power(&mut self) {
        let x = self.float();
        let base = self.model.op(Op::Sigmoid { x: x.id });
        let base = self.model.op(Op::Add { a: Operand::Value(base), b: Operand::Scalar(0.25) });
        let b = match self.random().below(5) {
            0 => Operand::Scalar(2.0),
            1 => Operand::Scalar(0.5),
            2 => Operand::Scalar(-1.5),
            3 => Operand::Scalar(1.0),
            _ => match self.partner(x, DType::F32) {
                Some(b) if b.size <= 2.0 => Operand::Value(b.id),
                _ => return,
            },
        };
        let id = self.model.op(Op::Pow { a: Operand::Value(base), b });
        self.keep(id, 16.0, false);
        let squared = self.model.op(Op::Pow { a: Operand::Value(x.id), b: Operand::Scalar(2.0) });
        if x.size < 8.0 {
            self.keep(squared, x.size * x.size, false);
        }
    }

    fn reduce(&mut self) {
        let x = self.any();
        let shape = self.shape(x);
        let axes: Vec<usize> = (0..shape.len()).filter(|_| self.model.random.chance(2)).collect();
        let count: usize = axes.iter().map(|&axis| shape[axis]).product();
        let size = x.size * count as f64;
        if axes.is_empty() || size >= SIZE_MAX {
            return;
        }
        let keep = self.random().chance(2);
        let id = self.model.op(Op::ReduceSum { x: x.id, axes, keep });
        self.keep(id, size, false);
    }

    fn concat(&mut self) {
        let a = self.any();
        let shape = self.shape(a);
        if shape.is_empty() {
            return;
        }
        let axis = self.random().below(shape.len());
        let dtype = self.dtype(a);
        let mut xs = vec![a];
        for _ in 0..self.random().below(4) {
            let fits = |model: &ModelBuilder, b: &Known| {
                let value = model.graph.value(b.id);
                value.dtype == dtype
                    && value.shape.len() == shape.len()
                    && value.shape.iter().zip(&shape).enumerate().all(|(at, (b, a))| at == axis || a == b)
            };
            xs.extend(self.any_of(fits));
        }
        let size = xs.iter().map(|x| x.size).fold(0.0, f64::max);
        let exact = xs.iter().all(|x| x.exact);
        let id = self.model.op(Op::Concat { xs: xs.iter().map(|x| x.id).collect(), axis });
        if self.model.graph.value(id).len() <= 400 {
            self.keep(id, size, exact);
        }
    }

    fn slice(&mut self) {
        let x = self.any();
        let shape = self.shape(x);
        if shape.is_empty() {
            return;
        }
        let axis = self.random().below(shape.len());
        let start = self.random().below(shape[axis]);
        let end = start + 1 + self.random().below(shape[axis] - start);
        let step = 1 + self.random().below(3);
        let id = self.model.op(Op::Slice { x: x.id, axis, start, end, step });
        self.keep(id, x.size, x.exact);
    }

    fn reshape(&mut self) {
        let x = self.any();
        let (len, dtype) = (self.model.graph.value(x.id).len(), self.dtype(x));
        let shape = match self.random().below(4) {
            0 if len == 1 => vec![],
            0 => vec![1, len],
            1 if len % 2 == 0 => vec![2, len / 2],
            2 if len % 3 == 0 => vec![len / 3, 1, 3],
            _ => vec![len],
        };
        let id = self.model.op_as(Op::Reshape { x: x.id }, shape, dtype);
        self.keep(id, x.size, x.exact);
    }

    fn transpose(&mut self) {
        let x = self.any();
        let rank = self.shape(x).len();
        let mut perm: Vec<usize> = (0..rank).collect();
        for at in 1..rank {
            let other = self.random().below(at + 1);
            perm.swap(at, other);
        }
        let id = self.model.op(Op::Transpose { x: x.id, perm });
        self.keep(id, x.size, x.exact);
    }

    fn broadcast(&mut self) {
        let x = self.any();
        let mut shape = self.shape(x);
        for size in &mut shape {
            if *size == 1 && self.random().chance(2) {
                *size = 3;
            }
        }
        if self.random().chance(2) {
            shape.insert(0, 2);
        }
        if shape.iter().product::<usize>() <= 400 {
            let dtype = self.dtype(x);
            let id = self.model.op_as(Op::Broadcast { x: x.id }, shape, dtype);
            self.keep(id, x.size, x.exact);
        }
    }

    fn gather(&mut self) {
        let x = self.any();
        let shape = self.shape(x);
        if shape.is_empty() {
            return;
        }
        let axis = self.random().below(shape.len());
        let indices = (0..1 + self.random().below(5)).map(|_| self.model.random.below(shape[axis])).collect();
        let id = self.model.op(Op::GatherConst { x: x.id, axis, indices });
        if self.model.graph.value(id).len() <= 400 {
            self.keep(id, x.size, x.exact);
        }
    }

    fn prelu_or_cast(&mut self) {
        if self.random().chance(2) {
            let x = self.float();
            let shape = self.shape(x);
            let slope = self.random().pick(&[0usize, 1]);
            let shape = if slope == 0 { vec![] } else { shape.last().map(|&size| vec![size]).unwrap_or_default() };
            let slope = self.model.tensor(&shape, 1.0);
            let id = self.model.op(Op::Prelu { x: x.id, slope });
            self.keep(id, x.size, false);
        } else if let Some(x) = self.any_of(|_, known| known.exact) {
            let to = if self.dtype(x) == DType::F32 { DType::I64 } else { DType::F32 };
            let shape = self.shape(x);
            let id = self.model.op_as(Op::Cast { x: x.id }, shape, to);
            self.keep(id, x.size, true);
        }
    }

    fn normalize(&mut self) {
        let x = self.array();
        let axis = self.model.random.below(self.shape(x).len());
        match self.random().below(3) {
            0 => {
                let id = self.model.op(Op::Softmax { x: x.id, axis });
                self.keep(id, 1.0, false);
            }
            1 => {
                let id = self.model.op(Op::L2Norm { x: x.id, axis, eps: 0.5 });
                self.keep(id, 1.0 + x.size, false);
            }
            _ => {
                let id = self.batch_norm(x.id, axis);
                if x.size < 20.0 {
                    self.keep(id, (x.size + 1.0) * 2.0 + 1.0, false);
                }
            }
        }
    }

    /// Elements of some of the latest values as outputs, each on its own: nothing is averaged away.
    fn finish(mut self) -> Arc<Model> {
        let mut outputs = vec![];
        let count = 3 + self.random().below(6);
        for _ in 0..count {
            let skip = self.known.len().saturating_sub(12);
            let x = self.known[skip + self.model.random.below(self.known.len() - skip)];
            let (len, shape) = (self.model.graph.value(x.id).len(), self.shape(x));
            let x = if self.dtype(x) == DType::I64 { self.model.op_as(Op::Cast { x: x.id }, shape, DType::F32) } else { x.id };
            let flat = self.model.op_as(Op::Reshape { x }, vec![len], DType::F32);
            for at in 0..len.min(12) {
                let at = if len > 12 { self.random().below(len) } else { at };
                let one = self.model.op(Op::Slice { x: flat, axis: 0, start: at, end: at + 1, step: 1 });
                outputs.push(if self.random().chance(2) { one } else { self.model.op_as(Op::Reshape { x: one }, vec![], DType::F32) });
            }
        }
        if outputs.is_empty() {
            let value = self.model.op_as(Op::Fill { value: 2.5 }, vec![], DType::F32);
            outputs.push(value);
        }
        self.model.finish(&outputs)
    }
}

#[test]
fn random_graphs_agree_with_f64_at_awkward_row_counts() {
    for (seed, rows) in (0..SEEDS).zip([1usize, 2, 7, 31, 32, 33, 63, 64, 65, 163, 20].into_iter().cycle()) {
        let model = model(seed);
        check(&model, &requests(&model, seed, rows), 1e-4);
    }
}

#[test]
fn random_graphs_have_every_op() {
    let names: std::collections::BTreeSet<&str> =
        (0..SEEDS).flat_map(|seed| model(seed).graph.nodes.iter().map(|node| node.op.name()).collect::<Vec<_>>()).collect();
    let missing: Vec<_> = OPS.into_iter().filter(|op| !names.contains(op)).collect();
    assert!(missing.is_empty(), "never made: {missing:?}");
}

/// Graphs that are made.
const SEEDS: u64 = 400;
