//! Products with a constant on either side, and products of inner size 1: what they become, and that scores stay the same.

use std::sync::Arc;

use crate::model::*;

use super::builder::ModelBuilder;
use super::kernels::{array, check_op, elements};
use super::{Hoist, Options, Program, Simd};

/// The kernels of a model whose outputs are the elements of what `make` makes.
fn kernels(options: &Options, make: impl FnOnce(&mut ModelBuilder) -> ValueId) -> String {
    let mut model = ModelBuilder::new(1);
    let x = make(&mut model);
    let outputs = elements(&mut model, x);
    let model: Arc<Model> = model.finish(&outputs);
    Program::planned(&model, options).expect("memory").kernels()
}

fn constant(model: &mut ModelBuilder, shape: &[usize]) -> ValueId {
    let scale = 1.5 / (*shape.iter().max().expect("an axis") as f64).sqrt();
    let tensor = model.tensor(shape, scale);
    model.op(Op::Const { tensor })
}

fn add(model: &mut ModelBuilder, a: ValueId, b: ValueId) -> ValueId {
    model.op(Op::Add { a: Operand::Value(a), b: Operand::Value(b) })
}

/// A constant and a computed operand, and which way round.
#[derive(Clone, Debug)]
struct Case {
    weights: Vec<usize>,
    x: Vec<usize>,
    weights_left: bool,
    transpose_a: bool,
    transpose_b: bool,
    /// Added behind, then a relu; empty: neither.
    bias: Vec<usize>,
    /// Whether it becomes a layer.
    layer: bool,
}

fn case(weights: &[usize], x: &[usize], sides: &str, bias: &[usize], layer: bool) -> Case {
    let sides: Vec<char> = sides.chars().collect();
    let (weights_left, transpose_a, transpose_b) = (sides[0] == 'W', sides.contains(&'a'), sides.contains(&'b'));
    Case { weights: weights.to_vec(), x: x.to_vec(), weights_left, transpose_a, transpose_b, bias: bias.to_vec(), layer }
}

/// `W`: weights on the left, `x`: on the right; `a`, `b`: that operand is transposed.
fn cases() -> Vec<Case> {
    vec![
        // A column: a cross layer as deepctr writes it, its bias a column too.
        case(&[9, 9], &[9, 1], "W", &[9, 1], true),
        case(&[33, 70], &[70, 1], "W", &[33, 1], true),
        case(&[33, 70], &[70, 1], "W", &[1, 33, 1], true),
        case(&[70, 33], &[70, 1], "Wa", &[], true),
        case(&[33, 70], &[1, 70], "Wb", &[1], true),
        case(&[1, 33, 7], &[7, 1], "W", &[1], true),
        case(&[5, 7], &[3, 7, 1], "W", &[5, 1], true),
        // A sum that spreads the product out is no bias.
        case(&[5, 7], &[7, 1], "W", &[5], true),
        case(&[5, 7], &[7, 1], "W", &[5, 6], true),
        // Vectors on either side.
        case(&[33, 7], &[7], "W", &[33], true),
        case(&[7], &[7, 1], "W", &[1], true),
        case(&[7], &[7], "W", &[], true),
        case(&[1, 7], &[7, 1], "W", &[1, 1], true),
        case(&[7], &[5, 7], "x", &[5], true),
        // Several columns: turned where that pays.
        case(&[64, 64], &[64, 5], "W", &[64, 1], true),
        case(&[48, 40], &[6, 40], "Wb", &[48, 1], true),
        case(&[40, 48], &[2, 40, 6], "Wa", &[6], true),
        case(&[40], &[40, 6], "W", &[6], false),
        case(&[1, 40], &[6, 40], "Wb", &[1, 6], true),
        case(&[3, 3], &[3, 9], "W", &[3, 1], false),
        // Weights on the right, the other one turned.
        case(&[20, 30], &[20, 1], "xa", &[30], true),
        case(&[64, 64], &[64, 9], "xa", &[64], true),
        case(&[3, 2], &[3, 4], "xa", &[2], false),
    ]
}

fn make(model: &mut ModelBuilder, case: &Case) -> ValueId {
    let (weights, x) = (constant(model, &case.weights), array(model, &case.x));
    let (a, b) = if case.weights_left { (weights, x) } else { (x, weights) };
    let (transpose_a, transpose_b) = (case.transpose_a, case.transpose_b);
    let mut y = model.op(Op::MatMul { a, b, transpose_a, transpose_b });
    if !case.bias.is_empty() {
        let bias = constant(model, &case.bias);
        y = add(model, y, bias);
        y = model.op(Op::Relu { x: y });
    }
    y
}

#[test]
fn products_with_weights_on_either_side_are_layers() {
    for (seed, case) in cases().iter().enumerate() {
        let planned = kernels(&Options::new(Simd::detect()), |model| make(model, case));
        assert_eq!(planned.contains("Linear"), case.layer, "{case:?}: {planned}");
        assert!(!case.layer || !planned.contains("MatMul"), "{case:?}: {planned}");
        check_op(seed as u64, &[3, 1, 20], |model| make(model, case));
    }
}

#[test]
fn biases_of_columns_are_folded() {
    // Linear, and what takes the scores apart.
    for (weights, x, bias) in
        [(vec![9, 9], vec![9, 1], vec![9, 1]), (vec![9, 9], vec![9], vec![9]), (vec![4, 9], vec![9, 1], vec![1, 4, 1])]
    {
        let case = Case { weights, x, weights_left: true, transpose_a: false, transpose_b: false, bias, layer: true };
        let planned = kernels(&Options::new(Simd::detect()), |model| make(model, &case));
        assert!(!planned.contains("Binary") && !planned.contains("Unary") && !planned.contains("Chain"), "{case:?}: {planned}");
    }
}

#[test]
fn batch_norms_of_other_axes_are_not_folded() {
    for (seed, (weights, x, axis)) in
        [(vec![7], vec![5, 7], 0), (vec![5, 7], vec![7, 1], 0), (vec![5, 7], vec![7, 1], 1), (vec![5, 7], vec![7], 0)]
            .into_iter()
            .enumerate()
    {
        check_op(seed as u64, &[4], |model| {
            let left = weights.len() == 2;
            let case = Case { weights, x, weights_left: left, transpose_a: false, transpose_b: false, bias: vec![], layer: true };
            let y = make(model, &case);
            let size = model.shape(y)[axis];
            let (mean, weight, bias) = (model.tensor(&[size], 0.5), model.tensor(&[size], 1.0), model.tensor(&[size], 0.5));
            let var = model.tensor_of(&[size], TensorData::F32((0..size).map(|at| 0.4 + at as f32 * 0.2).collect()));
            model.op(Op::BatchNorm { x: y, axis, mean, var, weight: Some(weight), bias: Some(bias), eps: 1e-5 })
        });
    }
}

#[test]
fn products_of_inner_size_1_are_elementwise() {
    let shapes = [
        (vec![9, 1], vec![1, 1]),
        (vec![9, 1], vec![1, 5]),
        (vec![1], vec![1, 5]),
        (vec![9, 1], vec![1]),
        (vec![1], vec![1]),
        (vec![3, 9, 1], vec![1, 4]),
        (vec![2, 1, 3, 1], vec![4, 1, 2]),
    ];
    for (seed, (a, b)) in shapes.into_iter().enumerate() {
        for turn in [false, true] {
            let make = |model: &mut ModelBuilder| {
                let flip = |shape: &[usize]| match *shape {
                    [ref lead @ .., rows, columns] if turn => [lead, &[columns, rows]].concat(),
                    _ => shape.to_vec(),
                };
                let (a, b) = (array(model, &flip(&a)), array(model, &flip(&b)));
                model.op(Op::MatMul { a, b, transpose_a: turn, transpose_b: turn })
            };
            let planned = kernels(&Options::new(Simd::detect()), make);
            assert!(!planned.contains("MatMul"), "{planned}");
            check_op(seed as u64, &[5, 1], make);
        }
    }
}

#[test]
fn cross_layers_are_one_chain() {
    // x0 · (xᵀ·w) + b + x, as columns.
    let make = |model: &mut ModelBuilder| {
        let x0 = array(model, &[21, 1]);
        let mut x = x0;
        for _ in 0..2 {
            let w = constant(model, &[21, 1]);
            let inner = model.op(Op::MatMul { a: x, b: w, transpose_a: true, transpose_b: false });
            let outer = model.op(Op::MatMul { a: x0, b: inner, transpose_a: false, transpose_b: false });
            let bias = constant(model, &[21, 1]);
            let y = add(model, outer, bias);
            x = add(model, y, x);
        }
        // Large values keep fewer digits behind the point.
        model.op(Op::Mul { a: Operand::Value(x), b: Operand::Scalar(0.1) })
    };
    let planned = kernels(&Options::new(Simd::detect()), make);
    assert_eq!(planned.matches("Chain").count(), 2, "{planned}");
    assert!(!planned.contains("MatMul") && !planned.contains("Binary"), "{planned}");
    check_op(3, &[1, 30], make);
}

#[test]
fn layers_of_weights_on_the_left_are_split_by_scope() {
    let make = |model: &mut ModelBuilder| {
        let features = [model.dense(Scope::Context, 200), model.dense(Scope::Candidate, 40)];
        let x = model.op(Op::Dense { features: features.to_vec() });
        let x = model.op_as(Op::Reshape { x }, vec![240, 1], DType::F32);
        let w = constant(model, &[64, 240]);
        model.op(Op::MatMul { a: w, b: x, transpose_a: false, transpose_b: false })
    };
    for (hoist, layers) in [(Hoist::WherePaying, 2), (Hoist::Nothing, 1)] {
        let planned = kernels(&Options { hoist, ..Options::new(Simd::detect()) }, make);
        assert_eq!(planned.matches("Linear").count(), layers, "{planned}");
    }
    check_op(4, &[1, 30], make);
}
