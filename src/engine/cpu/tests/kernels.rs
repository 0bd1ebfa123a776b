//! Single ops at awkward sizes.

use crate::model::*;

use super::builder::ModelBuilder;
use super::{Random, batches, check};

/// x of these shapes as a candidate value: a dense feature, reshaped.
pub fn array(model: &mut ModelBuilder, shape: &[usize]) -> ValueId {
    let len = shape.iter().product::<usize>();
    let feature = model.dense(Scope::Candidate, len as u32);
    let x = model.op(Op::Dense { features: vec![feature] });
    model.op_as(Op::Reshape { x }, shape.to_vec(), DType::F32)
}

/// Every element of `x` as an output.
pub fn elements(model: &mut ModelBuilder, x: ValueId) -> Vec<ValueId> {
    let len = model.graph.value(x).len();
    let flat = model.op_as(Op::Reshape { x }, vec![len], DType::F32);
    (0..len).map(|at| model.op(Op::Slice { x: flat, axis: 0, start: at, end: at + 1, step: 1 })).collect()
}

pub fn check_op(seed: u64, rows: &[usize], make: impl FnOnce(&mut ModelBuilder) -> ValueId) {
    let mut model = ModelBuilder::new(seed);
    let x = make(&mut model);
    let outputs = elements(&mut model, x);
    let model = model.finish(&outputs);
    let mut random = Random::new(seed);
    let requests: Vec<_> = rows.iter().map(|&rows| batches::request(&model, &mut random, rows)).collect();
    check(&model, &requests, 3e-6);
}

#[test]
fn linear_layers_of_every_width() {
    let rows = [1, 2, 3, 4, 5, 6, 7, 12, 14, 15, 27, 29, 64, 65];
    for (seed, (k, n)) in
        [(1, 1), (13, 64), (16, 17), (33, 31), (64, 32), (7, 33), (100, 48), (5, 129), (367, 96), (2, 200)].iter().enumerate()
    {
        for activation in [0, 1, 2] {
            let rows = [rows[(seed * 3 + activation) % rows.len()]];
            check_op(seed as u64, &rows, |model| {
                let x = array(model, &[*k]);
                let x = model.linear(x, *n);
                match activation {
                    0 => x,
                    1 => model.op(Op::Relu { x }),
                    _ => model.op(Op::Sigmoid { x }),
                }
            });
        }
    }
}

#[test]
fn every_row_count_of_a_micro_kernel() {
    for rows in 1..=34 {
        check_op(rows as u64, &[rows], |model| {
            let x = array(model, &[19]);
            model.linear(x, 145)
        });
    }
}

#[test]
fn inner_sizes_of_several_blocks() {
    for (seed, (k, n)) in [(513, 40), (1025, 33), (1600, 1)].into_iter().enumerate() {
        for rows in [1, 3, 15, 64] {
            check_op(seed as u64, &[rows, 2], |model| {
                let x = array(model, &[5]);
                let x = model.linear(x, k);
                let x = model.linear(x, n);
                let x = model.op(Op::Relu { x });
                // Sums of so many products are not as exact as what the tolerance is made for.
                model.op(Op::Mul { a: Operand::Value(x), b: Operand::Scalar(0.1) })
            });
        }
    }
}

#[test]
fn layers_over_matrices() {
    for (seed, shape) in [vec![3, 5], vec![1, 16], vec![2, 3, 7], vec![70, 4]].into_iter().enumerate() {
        check_op(seed as u64, &[9, 2], |model| {
            let x = array(model, &shape);
            let x = model.linear(x, 6);
            model.op(Op::Relu { x })
        });
        // In a concatenation, where rows lie apart.
        check_op(seed as u64, &[9, 2], |model| {
            let x = array(model, &shape);
            let y = model.linear(x, *shape.last().expect("an axis"));
            let z = model.linear(y, *shape.last().expect("an axis"));
            model.op(Op::Concat { xs: vec![y, z, y], axis: 0 })
        });
    }
}

#[test]
fn products_of_computed_matrices() {
    let sizes = [(1, 1, 1), (4, 4, 4), (27, 16, 27), (5, 128, 33), (4, 130, 6), (3, 7, 65), (9, 2, 70), (1, 40, 3), (6, 5, 1)];
    for (seed, (m, k, n)) in sizes.into_iter().enumerate() {
        for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)] {
            check_op(seed as u64, &[3, 1], |model| {
                let (a, b) = (if transpose_a { [k, m] } else { [m, k] }, if transpose_b { [n, k] } else { [k, n] });
                let (a, b) = (array(model, &a), array(model, &b));
                // Small enough that sums of k products keep their digits.
                let b = model.op(Op::Mul { a: Operand::Value(b), b: Operand::Scalar(1.0 / k as f64) });
                model.op(Op::MatMul { a, b, transpose_a, transpose_b })
            });
        }
    }
}

#[test]
fn row_strides_of_a_whole_page() {
    check_op(1, &[40], |model| {
        let x = array(model, &[3]);
        let x = model.linear(x, 1024);
        let x = model.op(Op::Relu { x });
        let x = model.linear(x, 2048);
        model.linear(x, 3)
    });
}

#[test]
fn values_without_elements() {
    check_op(1, &[3], |model| {
        let x = array(model, &[4, 3]);
        let none = model.op(Op::Slice { x, axis: 0, start: 2, end: 2, step: 1 });
        let none = model.op(Op::Relu { x: none });
        let sum = model.op(Op::ReduceSum { x: none, axes: vec![0], keep: false });
        let joined = model.op(Op::Concat { xs: vec![none, x, none], axis: 0 });
        model.op(Op::Add { a: Operand::Value(joined), b: Operand::Value(sum) })
    });
}

#[test]
fn outputs_of_every_scope() {
    let mut model = ModelBuilder::new(8);
    let context = model.dense(Scope::Context, 1);
    let candidate = model.dense(Scope::Candidate, 1);
    let context = model.op(Op::Dense { features: vec![context] });
    let candidate = model.op(Op::Dense { features: vec![candidate] });
    let constant = model.op_as(Op::Fill { value: 0.75 }, vec![], DType::F32);
    let constant = model.op(Op::Mul { a: Operand::Value(constant), b: Operand::Scalar(2.0) });
    let model = model.finish(&[context, candidate, constant, context]);
    let mut random = Random::new(1);
    let requests: Vec<_> = [3usize, 1, 70, 2].iter().map(|&rows| batches::request(&model, &mut random, rows)).collect();
    check(&model, &requests, 0.0);
}
