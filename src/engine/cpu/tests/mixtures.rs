//! Mixtures of experts, and other weighted sums of vectors: one kernel, and the same scores.

use std::sync::Arc;

use crate::model::*;

use super::builder::ModelBuilder;
use super::kernels::elements;
use super::{Hoist, Options, Program, Random, Simd, batches, check};

/// How the sum is written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// `[1, n] x [n, dim]`.
    Row,
    /// `[n] x [n, dim]`.
    Vector,
    /// `[n, 1]ᵀ x [n, dim]`.
    Turned,
    /// `[1, n] x [dim, n]ᵀ`, the vectors being columns.
    ColumnsTurned,
    /// `[dim, n] x [n, 1]`.
    Columns,
    /// `[n, 1] * [n, dim]`, summed over the first axis.
    Sum,
    /// `[1, n] * [dim, n]`, summed over the last one.
    SumColumns,
}

const FORMS: [Form; 7] = [Form::Row, Form::Vector, Form::Turned, Form::ColumnsTurned, Form::Columns, Form::Sum, Form::SumColumns];

fn value(id: ValueId) -> Operand {
    Operand::Value(id)
}

fn shaped(model: &mut ModelBuilder, x: ValueId, shape: &[usize]) -> ValueId {
    model.op_as(Op::Reshape { x }, shape.to_vec(), DType::F32)
}

/// Σ of vectors `[dim]`, weighted `[n]`.
fn mix(model: &mut ModelBuilder, form: Form, weights: ValueId, vectors: &[ValueId]) -> ValueId {
    let (n, dim) = (vectors.len(), model.shape(vectors[0])[0]);
    let columns = matches!(form, Form::ColumnsTurned | Form::Columns | Form::SumColumns);
    let part = if columns { [dim, 1] } else { [1, dim] };
    let parts: Vec<ValueId> = vectors.iter().map(|&x| shaped(model, x, &part)).collect();
    let stack = model.op(Op::Concat { xs: parts, axis: usize::from(columns) });
    let matmul = |model: &mut ModelBuilder, a, b, transpose_a, transpose_b| model.op(Op::MatMul { a, b, transpose_a, transpose_b });
    let mixed = match form {
        Form::Row => {
            let weights = shaped(model, weights, &[1, n]);
            matmul(model, weights, stack, false, false)
        }
        Form::Vector => matmul(model, weights, stack, false, false),
        Form::Turned => {
            let weights = shaped(model, weights, &[n, 1]);
            matmul(model, weights, stack, true, false)
        }
        Form::ColumnsTurned => {
            let weights = shaped(model, weights, &[1, n]);
            matmul(model, weights, stack, false, true)
        }
        Form::Columns => {
            let weights = shaped(model, weights, &[n, 1]);
            matmul(model, stack, weights, false, false)
        }
        Form::Sum => {
            let weights = shaped(model, weights, &[n, 1]);
            let product = model.op(Op::Mul { a: value(weights), b: value(stack) });
            model.op(Op::ReduceSum { x: product, axes: vec![0], keep: false })
        }
        Form::SumColumns => {
            let weights = shaped(model, weights, &[1, n]);
            let product = model.op(Op::Mul { a: value(stack), b: value(weights) });
            model.op(Op::ReduceSum { x: product, axes: vec![1], keep: true })
        }
    };
    shaped(model, mixed, &[dim])
}

fn agrees(model: &Arc<Model>, seed: u64) {
    let mut random = Random::new(seed);
    let requests: Vec<_> = [3usize, 1, 0, 40].iter().map(|&rows| batches::request(model, &mut random, rows)).collect();
    check(model, &requests, 5e-6);
}

fn kernels(model: &Arc<Model>) -> String {
    let options = Options { hoist: Hoist::Nothing, ..Options::new(Simd::detect()) };
    Program::planned(model, &options).expect("memory").kernels()
}

/// Two gates over experts, some of the context; `shared`: how many the second one has in common with the first.
fn experts(seed: u64, form: Form, [n, dim, shared]: [usize; 3]) -> Arc<Model> {
    let mut model = ModelBuilder::new(seed);
    let features = [model.dense(Scope::Context, 6), model.dense(Scope::Candidate, 9)];
    let x = model.op(Op::Dense { features: features.to_vec() });
    let context = model.op(Op::Dense { features: vec![features[0]] });
    let count = 2 * n - shared;
    let experts: Vec<ValueId> = (0..count).map(|at| model.mlp(if at % 4 == 3 { context } else { x }, &[dim])).collect();
    let sums: Vec<ValueId> = [&experts[..n], &experts[count - n..]]
        .into_iter()
        .map(|experts| {
            let gate = model.linear(x, n);
            let gate = model.op(Op::Softmax { x: gate, axis: 0 });
            mix(&mut model, form, gate, experts)
        })
        .collect();
    let sum = model.op(Op::Add { a: value(sums[0]), b: value(sums[1]) });
    let outputs = elements(&mut model, sum);
    let outputs = outputs[outputs.len().saturating_sub(40)..].to_vec();
    model.finish(&outputs)
}

#[test]
fn mixtures_of_experts_are_one_kernel_without_copies() {
    let sizes = [[3, 16, 3], [2, 5, 1], [8, 64, 8], [5, 103, 2], [17, 2, 17], [4, 33, 0]];
    for (at, form) in FORMS.into_iter().enumerate() {
        for (turn, size) in sizes.into_iter().enumerate() {
            let model = experts((at + turn) as u64, form, size);
            let planned = kernels(&model);
            assert_eq!(planned.matches("Mix").count(), 2, "{form:?} {size:?}: {planned}");
            for other in ["MatMul", "Softmax", "Sum", "Copy"] {
                assert!(!planned.contains(other), "{form:?} {size:?}: {planned}");
            }
            agrees(&model, turn as u64);
        }
    }
}

#[test]
fn histories_are_mixed_up_to_a_number_of_positions() {
    for (seed, (positions, mixes)) in [(2, true), (50, true), (64, true), (65, false)].into_iter().enumerate() {
        for form in [Form::Turned, Form::Sum] {
            let mut model = ModelBuilder::new(seed as u64);
            let features = [model.dense(Scope::Context, (positions * 6) as u32), model.dense(Scope::Candidate, positions as u32)];
            let history = model.op(Op::Dense { features: vec![features[0]] });
            let history = shaped(&mut model, history, &[positions, 6]);
            let weights = model.op(Op::Dense { features: vec![features[1]] });
            let weights = shaped(&mut model, weights, &[positions, 1]);
            let pooled = if form == Form::Turned {
                model.op(Op::MatMul { a: weights, b: history, transpose_a: true, transpose_b: false })
            } else {
                let product = model.op(Op::Mul { a: value(history), b: value(weights) });
                model.op(Op::ReduceSum { x: product, axes: vec![0], keep: true })
            };
            let pooled = model.op(Op::Mul { a: value(pooled), b: Operand::Scalar(1.0 / positions as f64) });
            let outputs = elements(&mut model, pooled);
            let model = model.finish(&outputs);
            assert_eq!(kernels(&model).contains("Mix"), mixes, "{positions}");
            agrees(&model, seed as u64);
        }
    }
}

#[test]
fn weights_that_others_read_stay_values() {
    let mut model = ModelBuilder::new(9);
    let feature = model.dense(Scope::Candidate, 7);
    let x = model.op(Op::Dense { features: vec![feature] });
    let experts: Vec<ValueId> = (0..3).map(|_| model.linear(x, 20)).collect();
    let gate = model.linear(x, 3);
    let gate = model.op(Op::Softmax { x: gate, axis: 0 });
    let sums = [mix(&mut model, Form::Row, gate, &experts), mix(&mut model, Form::Sum, gate, &experts)];
    let both = model.op(Op::Concat { xs: vec![sums[0], sums[1], gate], axis: 0 });
    let outputs = elements(&mut model, both);
    let model = model.finish(&outputs);
    let planned = kernels(&model);
    assert!(planned.contains("Softmax") && planned.matches("Mix").count() == 2, "{planned}");
    agrees(&model, 9);
}

#[test]
fn dots_and_batches_of_products_stay_products() {
    let mut model = ModelBuilder::new(10);
    let array = super::kernels::array;
    let (keys, query) = (array(&mut model, &[9, 5]), array(&mut model, &[5, 1]));
    let dots = model.op(Op::MatMul { a: keys, b: query, transpose_a: false, transpose_b: false });
    let (rows, matrices) = (array(&mut model, &[3, 1, 4]), array(&mut model, &[3, 4, 6]));
    let batch = model.op(Op::MatMul { a: rows, b: matrices, transpose_a: false, transpose_b: false });
    let (dots, batch) = (shaped(&mut model, dots, &[9]), shaped(&mut model, batch, &[18]));
    let both = model.op(Op::Concat { xs: vec![dots, batch], axis: 0 });
    let outputs = elements(&mut model, both);
    let model = model.finish(&outputs);
    assert!(!kernels(&model).contains("Mix"));
    agrees(&model, 10);
}
