//! Standard families, trained nowhere: the shapes that real graphs have.

use std::sync::Arc;

use crate::model::*;

use super::builder::ModelBuilder;
use super::{Random, batches, check};

/// Bottom MLP, embeddings of half the features from the context, dot interaction (lower triangle), top MLP, sigmoid.
pub fn dlrm(seed: u64, bottom: &[usize], top: &[usize]) -> Arc<Model> {
    let mut model = ModelBuilder::new(seed);
    let dim = *bottom.last().expect("a layer");
    let dense = [model.dense(Scope::Context, 6), model.dense(Scope::Candidate, 7)];
    let x = model.op(Op::Dense { features: dense.to_vec() });
    let mut vectors = vec![model.mlp(x, bottom)];
    for at in 0..8 {
        let table = model.table(30, dim as u32);
        let scope = if at % 2 == 0 { Scope::Context } else { Scope::Candidate };
        let feature = if at == 5 { model.sparse(scope, 0, 9, table, false) } else { model.sparse(scope, 1, 1, table, false) };
        vectors.push(model.op(Op::Lookup { feature, table, pool: Pool::Sum }));
    }
    let joined = model.op(Op::Concat { xs: vectors.clone(), axis: 0 });
    let matrix = model.op_as(Op::Reshape { x: joined }, vec![vectors.len(), dim], DType::F32);
    let products = model.op(Op::MatMul { a: matrix, b: matrix, transpose_a: false, transpose_b: true });
    let flat = model.op_as(Op::Reshape { x: products }, vec![vectors.len() * vectors.len()], DType::F32);
    let pairs = (0..vectors.len()).flat_map(|i| (0..i).map(move |j| i * 9 + j)).collect();
    let pairs = model.op(Op::GatherConst { x: flat, axis: 0, indices: pairs });
    let x = model.op(Op::Concat { xs: vec![vectors[0], pairs], axis: 0 });
    let (last, hidden) = top.split_last().expect("a layer");
    let x = model.mlp(x, hidden);
    let x = model.linear(x, *last);
    let x = model.op(Op::Sigmoid { x });
    model.finish(&[x])
}

/// Experts over everything, softmax gates over everything, two towers.
pub fn mmoe(seed: u64) -> Arc<Model> {
    let mut model = ModelBuilder::new(seed);
    let dense = [model.dense(Scope::Context, 10), model.dense(Scope::Candidate, 33)];
    let x = model.op(Op::Dense { features: dense.to_vec() });
    let experts: Vec<ValueId> = (0..3)
        .map(|_| {
            let expert = model.mlp(x, &[40, 24]);
            model.op_as(Op::Reshape { x: expert }, vec![1, 24], DType::F32)
        })
        .collect();
    let experts = model.op(Op::Concat { xs: experts, axis: 0 });
    let outputs: Vec<ValueId> = (0..2)
        .map(|_| {
            let gate = model.linear(x, 3);
            let gate = model.op(Op::Softmax { x: gate, axis: 0 });
            let mixed = model.op(Op::MatMul { a: gate, b: experts, transpose_a: false, transpose_b: false });
            let tower = model.mlp(mixed, &[16]);
            let logit = model.linear(tower, 1);
            model.op(Op::Sigmoid { x: logit })
        })
        .collect();
    model.finish(&outputs)
}

/// Wide part, FM and MLP over the same ids; batch norm between layers; cross layers.
fn deep_and_cross(seed: u64) -> Arc<Model> {
    let mut model = ModelBuilder::new(seed);
    let (mut wide, mut deep) = (vec![], vec![]);
    for at in 0..6 {
        let scope = if at < 3 { Scope::Context } else { Scope::Candidate };
        let (narrow, embedding) = (model.table(50, 1), model.table(50, 8));
        let feature = model.sparse(scope, 1, 1, embedding, false);
        wide.push(model.op(Op::Lookup { feature, table: narrow, pool: Pool::Sum }));
        let vector = model.op(Op::Lookup { feature, table: embedding, pool: Pool::Sum });
        deep.push(model.op_as(Op::Reshape { x: vector }, vec![1, 8], DType::F32));
    }
    let fields = model.op(Op::Concat { xs: deep, axis: 0 });
    let sum = model.op(Op::ReduceSum { x: fields, axes: vec![0], keep: false });
    let square_of_sum = model.op(Op::Pow { a: Operand::Value(sum), b: Operand::Scalar(2.0) });
    let squares = model.op(Op::Mul { a: Operand::Value(fields), b: Operand::Value(fields) });
    let sum_of_squares = model.op(Op::ReduceSum { x: squares, axes: vec![0], keep: false });
    let fm = model.op(Op::Sub { a: Operand::Value(square_of_sum), b: Operand::Value(sum_of_squares) });
    let fm = model.op(Op::ReduceSum { x: fm, axes: vec![0], keep: true });
    let fm = model.op(Op::Mul { a: Operand::Value(fm), b: Operand::Scalar(0.5) });
    let wide = model.op(Op::Concat { xs: wide, axis: 0 });
    let wide = model.op(Op::ReduceSum { x: wide, axes: vec![0], keep: true });

    let x0 = model.op_as(Op::Reshape { x: fields }, vec![48], DType::F32);
    let mut x = x0;
    for _ in 0..2 {
        let weight = model.tensor(&[48, 48], 0.15);
        let weight = model.op(Op::Const { tensor: weight });
        let bias = model.tensor(&[48], 0.2);
        let bias = model.op(Op::Const { tensor: bias });
        let y = model.op(Op::MatMul { a: x, b: weight, transpose_a: false, transpose_b: true });
        let y = model.op(Op::Add { a: Operand::Value(y), b: Operand::Value(bias) });
        let y = model.op(Op::Mul { a: Operand::Value(x0), b: Operand::Value(y) });
        x = model.op(Op::Add { a: Operand::Value(y), b: Operand::Value(x) });
    }
    let mut y = x0;
    for width in [32, 20] {
        y = model.linear(y, width);
        let (mean, weight, bias) = (model.tensor(&[width], 0.5), model.tensor(&[width], 1.0), model.tensor(&[width], 0.5));
        let var = model.tensor_of(&[width], TensorData::F32((0..width).map(|at| 0.3 + at as f32 * 0.1).collect()));
        y = model.op(Op::BatchNorm { x: y, axis: 0, mean, var, weight: Some(weight), bias: Some(bias), eps: 1e-5 });
        y = model.op(Op::Relu { x: y });
    }
    let both = model.op(Op::Concat { xs: vec![x, y], axis: 0 });
    let logit = model.linear(both, 1);
    let logit = model.op(Op::Add { a: Operand::Value(logit), b: Operand::Value(fm) });
    let logit = model.op(Op::Add { a: Operand::Value(logit), b: Operand::Value(wide) });
    let logit = model.op(Op::Mul { a: Operand::Value(logit), b: Operand::Scalar(0.3) });
    let p = model.op(Op::Sigmoid { x: logit });
    model.finish(&[p, logit])
}

#[test]
fn families_are_within_2e_6_of_f64() {
    for (seed, model) in [dlrm(1, &[64, 16], &[100, 30, 1]), mmoe(2), deep_and_cross(3)].into_iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let mut requests: Vec<_> = [1usize, 7, 64, 0, 163, 2, 31].iter().map(|&rows| batches::request(&model, &mut random, rows)).collect();
        requests[1].dead = true;
        check(&model, &requests, 2e-6);
    }
}
