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

/// A Dice activation over the channels of a sequence, as torch writes it: channels to the middle, batch norm, gate, back.
fn dice(model: &mut ModelBuilder, x: ValueId, perm: &[usize]) -> ValueId {
    let channels = *model.shape(x).last().expect("an axis");
    let middle = model.op(Op::Transpose { x, perm: perm.to_vec() });
    let axis = perm.iter().position(|&axis| axis + 1 == perm.len()).expect("the last axis");
    let [mean, weight, bias] = [0.3; 3].map(|scale| model.tensor(&[channels], scale));
    let var = model.tensor_of(&[channels], TensorData::F32((0..channels).map(|at| 0.5 + at as f32 / 7.0).collect()));
    let normed = model.op(Op::BatchNorm { x: middle, axis, mean, var, weight: Some(weight), bias: Some(bias), eps: 1e-5 });
    let gate = model.op(Op::Sigmoid { x: normed });
    let mut shape = vec![1; perm.len()];
    shape[axis] = channels;
    let alpha = model.tensor(&shape, 0.4);
    let alpha = model.op_as(Op::Const { tensor: alpha }, shape, DType::F32);
    let rest = model.op(Op::Sub { a: Operand::Scalar(1.0), b: value(gate) });
    let rest = model.op(Op::Mul { a: value(alpha), b: value(rest) });
    let rest = model.op(Op::Mul { a: value(rest), b: value(middle) });
    let kept = model.op(Op::Mul { a: value(gate), b: value(middle) });
    let sum = model.op(Op::Add { a: value(rest), b: value(kept) });
    let mut back = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(to, &from)| back[from] = to);
    model.op(Op::Transpose { x: sum, perm: back })
}

#[test]
fn transposes_around_elementwise_ops_vanish() {
    for (shape, perm) in [(vec![7usize, 5], vec![1usize, 0]), (vec![3, 4, 6], vec![2, 0, 1]), (vec![2, 5, 3], vec![0, 2, 1])] {
        let mut model = ModelBuilder::new(31);
        let feature = model.dense(Scope::Candidate, shape.iter().product::<usize>() as u32);
        let x = model.op(Op::Dense { features: vec![feature] });
        let x = model.op_as(Op::Reshape { x }, shape.clone(), DType::F32);
        let x = model.linear(x, 9);
        let x = dice(&mut model, x, &perm);
        let x = model.linear(x, 1);
        let total = sum_all(&mut model, x);
        let model = model.finish(&[total]);
        let program = Program::for_level(&model, Simd::detect()).expect("memory");
        let report = program.report().tasks.iter().map(|task| task.op.clone()).collect::<Vec<_>>();
        assert!(!report.iter().any(|op| op == "transpose"), "{report:?}");
        agrees(&model);
    }
}

#[test]
fn a_transpose_that_somebody_reads_in_its_order_stays() {
    let mut model = ModelBuilder::new(33);
    let feature = model.dense(Scope::Candidate, 12);
    let x = model.op(Op::Dense { features: vec![feature] });
    let x = model.op_as(Op::Reshape { x }, vec![3, 4], DType::F32);
    let turned = model.op(Op::Transpose { x, perm: vec![1, 0] });
    // Along the turned axes; an operand that is not turned; and one whose own turn is another.
    let soft = model.op(Op::Softmax { x: turned, axis: 0 });
    let square = model.op(Op::Mul { a: value(turned), b: value(turned) });
    let other = model.op(Op::Add { a: value(square), b: value(soft) });
    let row = model.tensor(&[3], 0.5);
    let row = model.op_as(Op::Const { tensor: row }, vec![3], DType::F32);
    let shifted = model.op(Op::Add { a: value(square), b: value(row) });
    let both = model.op(Op::Mul { a: value(shifted), b: value(other) });
    let back = model.op(Op::Transpose { x: both, perm: vec![1, 0] });
    let y = model.linear(back, 2);
    let total = sum_all(&mut model, y);
    let total = model.op(Op::Mul { a: value(total), b: Operand::Scalar(0.05) });
    let model = model.finish(&[total]);
    agrees(&model);
}

/// A compressed interaction network as einsum and a convolution with one tap write it. Source: Lian et al. 2018, arXiv:1803.05170.
#[test]
fn outer_products_are_made_in_the_order_that_the_layer_reads() {
    let mut model = ModelBuilder::new(35);
    let (fields, dim) = (5usize, 6usize);
    let feature = model.dense(Scope::Candidate, (fields * dim) as u32);
    let flat = model.op(Op::Dense { features: vec![feature] });
    let x0 = model.op_as(Op::Reshape { x: flat }, vec![fields, dim], DType::F32);
    let (mut x, mut ends) = (x0, Vec::new());
    for width in [7usize, 4] {
        let before = model.shape(x)[0];
        let a = model.op(Op::Transpose { x, perm: vec![1, 0] });
        let a = model.op_as(Op::Reshape { x: a }, vec![dim, before, 1], DType::F32);
        let b = model.op(Op::Transpose { x: x0, perm: vec![1, 0] });
        let b = model.op_as(Op::Reshape { x: b }, vec![dim, 1, fields], DType::F32);
        let outer = model.op(Op::Mul { a: value(a), b: value(b) });
        let outer = model.op(Op::Transpose { x: outer, perm: vec![1, 2, 0] });
        let outer = model.op_as(Op::Reshape { x: outer }, vec![before * fields, dim], DType::F32);
        let turned = model.op(Op::Transpose { x: outer, perm: vec![1, 0] });
        let layer = model.linear(turned, width);
        let layer = model.op(Op::Transpose { x: layer, perm: vec![1, 0] });
        let layer = model.op(Op::Relu { x: layer });
        // Half of it goes on, half to the end.
        let half = model.shape(layer)[0] / 2;
        x = model.op_as(Op::Slice { x: layer, axis: 0, start: 0, end: half, step: 1 }, vec![half, dim], DType::F32);
        let len = model.shape(layer)[0] - half;
        ends.push(model.op_as(Op::Slice { x: layer, axis: 0, start: half, end: half + len, step: 1 }, vec![len, dim], DType::F32));
    }
    let joined = model.op(Op::Concat { xs: ends, axis: 0 });
    let sums = model.op(Op::ReduceSum { x: joined, axes: vec![1], keep: false });
    let y = model.linear(sums, 1);
    let model = model.finish(&[y]);
    let program = Program::for_level(&model, Simd::detect()).expect("memory");
    let left: Vec<_> = program.report().tasks.iter().filter(|task| task.op == "transpose").map(|task| (&task.value, &task.shape)).collect();
    // Of the fields' vectors alone.
    assert!(left.len() <= 1, "{left:?}");
    agrees(&model);
}

/// Integers keep their size on the way: as numbers, and compared with others that were turned as well.
#[test]
fn transposes_of_integers_stay() {
    let mut model = ModelBuilder::new(37);
    let feature = model.integer(Scope::Candidate, 12);
    let x = model.op_as(Op::Integer { feature }, vec![12], DType::I64);
    let x = model.op_as(Op::Reshape { x }, vec![3, 4], DType::I64);
    let turned = model.op_as(Op::Transpose { x, perm: vec![1, 0] }, vec![4, 3], DType::I64);
    let half = model.op_as(Op::Slice { x: turned, axis: 0, start: 1, end: 3, step: 1 }, vec![2, 3], DType::I64);
    let back = model.op_as(Op::Transpose { x: half, perm: vec![1, 0] }, vec![3, 2], DType::I64);
    let merged = model.op_as(Op::Reshape { x: turned }, vec![2, 2, 3], DType::I64);
    let merged = model.op_as(Op::Transpose { x: merged, perm: vec![2, 0, 1] }, vec![3, 2, 2], DType::I64);
    let joined = model.op_as(Op::Concat { xs: vec![half, turned], axis: 0 }, vec![6, 3], DType::I64);
    let mut parts = Vec::new();
    for x in [back, merged, joined] {
        let len = model.shape(x).iter().product();
        let flat = model.op_as(Op::Reshape { x }, vec![len], DType::I64);
        let numbers = model.op_as(Op::Cast { x: flat }, vec![len], DType::F32);
        parts.push(model.op(Op::Mul { a: value(numbers), b: Operand::Scalar(1e-3) }));
    }
    let joined = model.op(Op::Concat { xs: parts, axis: 0 });
    let y = model.linear(joined, 1);
    let model = model.finish(&[y]);
    agrees(&model);
}
