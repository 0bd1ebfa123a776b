//! Along axes: sums, folds, running sums, normalisations, sorted elements, factorisation machines, mixtures.

use std::sync::Arc;

use crate::engine::cpu::tests::Random;
use crate::engine::cpu::tests::batches::{self, Request};
use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::kernels::array;
use crate::model::*;

use super::{check, check_like_cpu};

/// Shapes and axes whose lines end before, at and behind every power of two of lanes, side by side and in rows.
const SHAPES: [(&[usize], usize); 11] = [
    (&[1], 0),
    (&[3], 0),
    (&[33], 0),
    (&[300], 0),
    (&[3, 7], 1),
    (&[5, 16], 1),
    (&[40, 16], 0),
    (&[41, 3], 0),
    (&[2, 9, 3], 1),
    (&[2, 31], 1),
    (&[40, 1], 0),
];

/// Two numbers that any element changes.
pub fn mixed(model: &mut ModelBuilder, x: ValueId) -> Vec<ValueId> {
    let len = model.graph.value(x).len();
    let shape = model.shape(x).to_vec();
    let x = match model.graph.value(x).dtype {
        DType::I64 => model.op_as(Op::Cast { x }, shape, DType::F32),
        DType::F32 => x,
    };
    let x = model.op_as(Op::Reshape { x }, vec![len], DType::F32);
    let x = model.linear(x, 2);
    (0..2).map(|at| model.op(Op::Slice { x, axis: 0, start: at, end: at + 1, step: 1 })).collect()
}

/// Whole tiles, tiles that lack a row, tiles of one row.
pub fn check_rows(model: ModelBuilder, outputs: &[ValueId], check: fn(&Arc<Model>, &[Request], f64)) {
    let model: Arc<Model> = model.finish(outputs);
    let mut random = Random::new(1);
    for rows in [&[1][..], &[15], &[16, 1], &[63], &[2, 0, 63]] {
        let requests: Vec<_> = rows.iter().map(|&rows| batches::request(&model, &mut random, rows)).collect();
        check(&model, &requests, 5e-5);
    }
}

#[test]
fn sums_and_folds() {
    let mut model = ModelBuilder::new(1);
    let mut outputs = vec![];
    for (shape, axis) in SHAPES {
        let x = array(&mut model, shape);
        for function in [None, Some(Reduction::Max), Some(Reduction::Min), Some(Reduction::Prod), Some(Reduction::Mean)] {
            let (axes, keep) = (vec![axis], outputs.len() % 4 == 0);
            let y = match function {
                None => model.op(Op::ReduceSum { x, axes, keep }),
                Some(Reduction::Prod) => {
                    // Near 1, or the product of many is no number to compare.
                    let x = model.op(Op::Mul { a: Operand::Value(x), b: Operand::Scalar(0.01) });
                    let x = model.op(Op::Add { a: Operand::Value(x), b: Operand::Scalar(1.0) });
                    model.op(Op::Reduce { function: Reduction::Prod, x, axes, keep })
                }
                Some(function) => model.op(Op::Reduce { function, x, axes, keep }),
            };
            outputs.extend(mixed(&mut model, y));
        }
    }
    let x = array(&mut model, &[3, 4, 5, 2]);
    for axes in [vec![0, 2], vec![1, 3], vec![0, 1], vec![0, 1, 2, 3]] {
        let y = model.op(Op::ReduceSum { x, axes, keep: false });
        outputs.extend(mixed(&mut model, y));
    }
    check_rows(model, &outputs, check);
}

#[test]
fn folds_of_integers_and_of_nan() {
    let mut model = ModelBuilder::new(2);
    let mut outputs = vec![];
    for width in [1, 5, 40] {
        let feature = model.integer(Scope::Candidate, width);
        let x = model.op(Op::Integer { feature });
        // The largest and the smallest among them.
        let large = model.op(Op::Compare { cmp: Comparison::Gt, a: Operand::Value(x), b: Operand::Scalar(3.0) });
        let factor = model.tensor_of(&[2], TensorData::I64(vec![1, i64::MAX / 4]));
        let factor = model.op(Op::Const { tensor: factor });
        let factor = model.op(Op::Gather { x: factor, index: large, axis: 0 });
        let x = model.op(Op::Mul { a: Operand::Value(x), b: Operand::Value(factor) });
        for function in [Reduction::Max, Reduction::Min] {
            let y = model.op(Op::Reduce { function, x, axes: vec![0], keep: false });
            outputs.extend(scaled(&mut model, y));
        }
        let y = model.op(Op::ReduceSum { x, axes: vec![0], keep: false });
        outputs.extend(scaled(&mut model, y));
        for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
            let y = model.op(Op::CumSum { x, axis: 0, exclusive, reverse });
            outputs.extend(scaled(&mut model, y));
        }
        // NaN of a negative number's root is larger and smaller than all.
        let y = model.op_as(Op::Cast { x }, vec![width as usize], DType::F32);
        let y = model.op(Op::Add { a: Operand::Value(y), b: Operand::Scalar(3.5) });
        let y = model.op(Op::Unary { function: UnaryFn::Sqrt, x: y });
        for function in [Reduction::Max, Reduction::Min] {
            let y = model.op(Op::Reduce { function, x: y, axes: vec![0], keep: false });
            let is_number = model.op(Op::Compare { cmp: Comparison::Eq, a: Operand::Value(y), b: Operand::Value(y) });
            outputs.extend(mixed(&mut model, is_number));
        }
    }
    check_rows(model, &outputs, check_like_cpu);
}

/// [`mixed`] of numbers of any size.
fn scaled(model: &mut ModelBuilder, x: ValueId) -> Vec<ValueId> {
    let shape = model.shape(x).to_vec();
    let x = model.op_as(Op::Cast { x }, shape, DType::F32);
    let x = model.op(Op::Mul { a: Operand::Value(x), b: Operand::Scalar(1e-18) });
    mixed(model, x)
}

#[test]
fn running_sums() {
    let mut model = ModelBuilder::new(3);
    let mut outputs = vec![];
    for (shape, axis) in SHAPES {
        let x = array(&mut model, shape);
        for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
            let y = model.op(Op::CumSum { x, axis, exclusive, reverse });
            outputs.extend(mixed(&mut model, y));
        }
    }
    check_rows(model, &outputs, check);
}

#[test]
fn norms() {
    let mut model = ModelBuilder::new(4);
    let mut outputs = vec![];
    for (shape, axis) in SHAPES {
        let x = array(&mut model, shape);
        let y = model.op(Op::Softmax { x, axis });
        outputs.extend(mixed(&mut model, y));
        let y = model.op(Op::L2Norm { x, axis, eps: if shape.len() == 1 { 3.0 } else { 1e-12 } });
        outputs.extend(mixed(&mut model, y));
        let axes = shape.len() - axis;
        let sizes = &shape[axis..];
        for (has_weight, has_bias) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut numbers = |wanted: bool| wanted.then(|| model.tensor(sizes, 1.0));
            let (weight, bias) = (numbers(has_weight), numbers(has_bias));
            let y = model.op(Op::LayerNorm { x, axes, weight, bias, eps: 0.1 });
            outputs.extend(mixed(&mut model, y));
        }
    }
    check_rows(model, &outputs, check);
}

#[test]
fn sorted_elements() {
    let mut model = ModelBuilder::new(5);
    let mut outputs = vec![];
    for (shape, axis) in SHAPES {
        let x = array(&mut model, shape);
        // Few different values, for ties; NaN where they are above 3, minus zero among the zeros.
        let y = model.op(Op::Unary { function: UnaryFn::Floor, x });
        let zero = model.op(Op::Mul { a: Operand::Value(x), b: Operand::Scalar(0.0) });
        let small = model.op(Op::Compare { cmp: Comparison::Lt, a: Operand::Value(x), b: Operand::Scalar(-1.0) });
        let y = model.op(Op::Where { cond: small, a: Operand::Value(zero), b: Operand::Value(y) });
        let y = model.op(Op::Sub { a: Operand::Scalar(2.0), b: Operand::Value(y) });
        let x = model.op(Op::Unary { function: UnaryFn::Sqrt, x: y });
        for k in [1, 4, shape[axis]] {
            let k = k.min(shape[axis]);
            for largest in [true, false] {
                let y = model.op(Op::ArgTopK { x, axis, k, largest });
                outputs.extend(mixed(&mut model, y));
                let y = model.op(Op::TopK { x, axis, k, largest });
                let lost = model.op(Op::Compare { cmp: Comparison::Ne, a: Operand::Value(y), b: Operand::Value(y) });
                let y = model.op(Op::Where { cond: lost, a: Operand::Scalar(9.0), b: Operand::Value(y) });
                outputs.extend(mixed(&mut model, y));
            }
        }
    }
    check_rows(model, &outputs, check_like_cpu);
}

#[test]
fn picked_elements() {
    let mut model = ModelBuilder::new(6);
    let mut outputs = vec![];
    for (shape, axis) in SHAPES {
        let x = array(&mut model, shape);
        let wide = model.integer(Scope::Candidate, 5);
        let index = model.op(Op::Integer { feature: wide });
        let mut wanted = shape.to_vec();
        wanted[axis] = 2;
        let many = model.integer(Scope::Candidate, wanted.iter().product::<usize>() as u32);
        let each = model.op(Op::Integer { feature: many });
        let each = model.op_as(Op::Reshape { x: each }, wanted, DType::I64);
        let whole = model.op_as(Op::Cast { x }, shape.to_vec(), DType::I64);
        for y in [
            model.op(Op::Gather { x, index, axis }),
            model.op(Op::TakeAlong { x, index: each, axis }),
            model.op(Op::Gather { x: whole, index, axis }),
            model.op(Op::TakeAlong { x: whole, index: each, axis }),
        ] {
            let sizes = model.shape(y).to_vec();
            let y = model.op_as(Op::Cast { x: y }, sizes, DType::F32);
            let found = model.op(Op::Compare { cmp: Comparison::Ge, a: Operand::Value(y), b: Operand::Scalar(-99.0) });
            let y = model.op(Op::Where { cond: found, a: Operand::Value(y), b: Operand::Scalar(9.0) });
            outputs.extend(mixed(&mut model, y));
        }
        let y = model.op(Op::Mod { a: Operand::Value(index), b: Operand::Scalar(5.0) });
        let y = model.op_as(Op::OneHot { x: y, on: 2.0, off: -0.5 }, vec![5, 3], DType::F32);
        outputs.extend(mixed(&mut model, y));
        let pads: Vec<(usize, usize)> = (0..shape.len()).map(|at| (at + axis, 2 * axis + 1 - at % 2)).collect();
        for (x, value) in [(x, 0.75), (whole, -7.0)] {
            let y = model.op(Op::Pad { x, pads: pads.clone(), value });
            outputs.extend(mixed(&mut model, y));
        }
    }
    check_rows(model, &outputs, check);
}
