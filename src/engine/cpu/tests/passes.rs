//! Patterns that passes rewrite: fewer steps, the same scores.

use std::sync::Arc;

use crate::model::*;

use super::builder::ModelBuilder;
use super::{Hoist, Options, Program, Random, Simd, batches, check};

/// Candidate steps without and with fusion, hoisting as usual in both.
fn steps(model: &Arc<Model>) -> (usize, usize) {
    let of = |fuse| {
        let options = Options { fuse, hoist: Hoist::Nothing, ..Options::new(Simd::detect()) };
        Program::planned(model, &options).expect("memory").steps().1
    };
    (of(false), of(true))
}

/// Scores of awkward batches agree with the oracle under every plan.
fn agrees(model: &Arc<Model>) {
    let mut random = Random::new(5);
    let requests: Vec<_> = [1usize, 3, 64, 0, 70].iter().map(|&rows| batches::request(model, &mut random, rows)).collect();
    check(model, &requests, 3e-6);
}

fn value(id: ValueId) -> Operand {
    Operand::Value(id)
}

fn sum_all(model: &mut ModelBuilder, x: ValueId) -> ValueId {
    let axes = (0..model.shape(x).len()).collect();
    model.op(Op::ReduceSum { x, axes, keep: false })
}

#[test]
fn layers_of_one_operand_are_one() {
    let mut model = ModelBuilder::new(11);
    let features = [model.dense(Scope::Context, 5), model.dense(Scope::Candidate, 9)];
    let x = model.op(Op::Dense { features: features.to_vec() });
    // Two kinds of activation, odd widths, and one that an output reads as it is.
    let layers: Vec<ValueId> = [7, 1, 40, 33].iter().map(|&n| model.linear(x, n)).collect();
    let layers: Vec<ValueId> = layers.iter().enumerate().map(|(at, &x)| if at % 2 == 0 { model.op(Op::Relu { x }) } else { x }).collect();
    let joined = model.op(Op::Concat { xs: vec![layers[3], layers[0], layers[2]], axis: 0 });
    let y = model.linear(joined, 1);
    let model = model.finish(&[y, layers[1]]);
    let (plain, fused) = steps(&model);
    assert!(fused < plain, "{fused} steps of {plain}");
    agrees(&model);
}

#[test]
fn elementwise_ops_are_joined_across_every_kind_of_broadcast() {
    for (seed, shape) in [(1, vec![6usize, 5]), (2, vec![1, 1]), (3, vec![300]), (4, vec![2, 3, 17])] {
        let mut model = ModelBuilder::new(seed);
        let count: usize = shape.iter().product();
        let array = |model: &mut ModelBuilder, scope, shape: &[usize]| {
            let width = shape.iter().product::<usize>() as u32;
            let feature = model.dense(scope, width);
            let flat = model.op(Op::Dense { features: vec![feature] });
            model.op_as(Op::Reshape { x: flat }, shape.to_vec(), DType::F32)
        };
        let x = array(&mut model, Scope::Candidate, &shape);
        let context = array(&mut model, Scope::Context, &shape);
        let last = array(&mut model, Scope::Candidate, &shape[shape.len() - 1..]);
        let mut thin = shape.clone();
        *thin.last_mut().expect("an axis") = 1;
        let thin = array(&mut model, Scope::Context, &thin);
        let one = array(&mut model, Scope::Candidate, &[1]);
        let a = model.op(Op::Mul { a: value(x), b: value(context) });
        let a = model.op(Op::Add { a: value(last), b: value(a) });
        let a = model.op(Op::Sigmoid { x: a });
        let b = model.op(Op::Mul { a: value(a), b: value(thin) });
        let b = model.op(Op::Sub { a: value(b), b: value(one) });
        let b = model.op(Op::Mul { a: value(b), b: Operand::Scalar(0.5) });
        let b = model.op(Op::Add { a: value(b), b: Operand::Scalar(-1.0) });
        // Read twice: stays a value of its own.
        let c = model.op(Op::Mul { a: value(b), b: value(b) });
        let c = model.op(Op::Relu { x: c });
        let d = model.op(Op::Add { a: value(c), b: value(b) });
        let total = sum_all(&mut model, d);
        let total = model.op(Op::Mul { a: value(total), b: Operand::Scalar(1.0 / count as f64) });
        let model = model.finish(&[total]);
        let (plain, fused) = steps(&model);
        assert!(fused + 5 <= plain, "{fused} steps of {plain}");
        agrees(&model);
    }
}

#[test]
fn pairs_of_a_factorisation_machine_are_one_step() {
    for (seed, (fields, dim)) in [(5, 8), (3, 1), (2, 21), (9, 16), (4, 40)].into_iter().enumerate() {
        let mut model = ModelBuilder::new(seed as u64);
        let feature = model.dense(Scope::Candidate, fields * dim);
        let x = model.op(Op::Dense { features: vec![feature] });
        let x = model.op_as(Op::Reshape { x }, vec![fields as usize, dim as usize], DType::F32);
        let sum = model.op(Op::ReduceSum { x, axes: vec![0], keep: seed % 2 == 0 });
        let square = model.op(Op::Pow { a: value(sum), b: Operand::Scalar(2.0) });
        let squares = model.op(Op::Mul { a: value(x), b: value(x) });
        let squares = model.op(Op::ReduceSum { x: squares, axes: vec![0], keep: seed % 2 == 0 });
        let pairs = model.op(Op::Sub { a: value(square), b: value(squares) });
        let total = sum_all(&mut model, pairs);
        let total = model.op(Op::Mul { a: value(total), b: Operand::Scalar(0.5 / f64::from(dim)) });
        let model = model.finish(&[total]);
        let (plain, fused) = steps(&model);
        assert!(fused + 3 <= plain, "{fused} steps of {plain}, {fields} fields of {dim}");
        agrees(&model);
    }
}

#[test]
fn attention_layers_multiply_repeated_inputs_once() {
    for (target, history) in [
        (Scope::Candidate, Scope::Context),
        (Scope::Context, Scope::Candidate),
        (Scope::Candidate, Scope::Candidate),
        (Scope::Context, Scope::Context),
    ] {
        let mut model = ModelBuilder::new(21);
        let (positions, dim) = (7usize, 6usize);
        let features = [model.dense(target, dim as u32), model.dense(history, (positions * dim) as u32)];
        let q = model.op(Op::Dense { features: vec![features[0]] });
        let q = model.op_as(Op::Reshape { x: q }, vec![1, dim], DType::F32);
        let q = model.op_as(Op::Broadcast { x: q }, vec![positions, dim], DType::F32);
        let k = model.op(Op::Dense { features: vec![features[1]] });
        let k = model.op_as(Op::Reshape { x: k }, vec![positions, dim], DType::F32);
        let difference = model.op(Op::Sub { a: value(q), b: value(k) });
        let product = model.op(Op::Mul { a: value(q), b: value(k) });
        let x = model.op(Op::Concat { xs: vec![q, k, difference, product], axis: 1 });
        let x = model.mlp(x, &[10, 5]);
        let scores = model.linear(x, 1);
        let weights = model.op(Op::Softmax { x: scores, axis: 0 });
        let pooled = model.op(Op::MatMul { a: weights, b: k, transpose_a: true, transpose_b: false });
        let total = sum_all(&mut model, pooled);
        let model = model.finish(&[total]);
        agrees(&model);
    }
}
