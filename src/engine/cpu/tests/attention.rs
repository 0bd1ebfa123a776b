//! Attention in the forms in which models write it: one kernel, and the same scores.

use std::sync::Arc;

use crate::model::*;

use super::builder::ModelBuilder;
use super::{Hoist, Options, Program, Random, Simd, batches, check};

/// How scores are scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    None,
    /// The scores, by a product or a quotient.
    Mul,
    Div,
    /// The queries, before or behind the cut into heads.
    Queries,
    CutQueries,
    /// Both sides, as torch's ONNX export does.
    Both,
}

/// How keys are hidden.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hide {
    None,
    /// A computed mask `[keys]` is added.
    Added,
    /// A constant mask `[rows, keys]` is added.
    AddedConstant,
    /// The score where a truth holds, else a constant; or the other way round.
    Where,
    WhereNot,
}

/// How heads are cut out and brought together again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Heads {
    /// Reshape and transpose.
    Transposed,
    /// Slices of the columns, stacked; slices of the heads, joined.
    Stacked,
    /// One projection for queries, keys and values.
    Joined,
    /// There is one, without an axis.
    One,
    /// The graph's own op between transposes.
    Op,
}

const SCALES: [Scale; 6] = [Scale::None, Scale::Mul, Scale::Div, Scale::Queries, Scale::CutQueries, Scale::Both];
const HIDES: [Hide; 5] = [Hide::None, Hide::Added, Hide::AddedConstant, Hide::Where, Hide::WhereNot];
const HEADS: [Heads; 5] = [Heads::Transposed, Heads::Stacked, Heads::Joined, Heads::One, Heads::Op];

#[derive(Clone, Copy, Debug)]
struct Form {
    scale: Scale,
    hide: Hide,
    heads: Heads,
    rows: usize,
    keys: usize,
    count: usize,
    dim: usize,
    of_context: bool,
}

fn value(id: ValueId) -> Operand {
    Operand::Value(id)
}

fn mul(model: &mut ModelBuilder, x: ValueId, factor: f64) -> ValueId {
    model.op(Op::Mul { a: value(x), b: Operand::Scalar(factor) })
}

fn matmul(model: &mut ModelBuilder, a: ValueId, b: ValueId, transpose_b: bool) -> ValueId {
    model.op(Op::MatMul { a, b, transpose_a: false, transpose_b })
}

/// `[rows, count · dim]` of `x` by heads: `[count, rows, dim]`.
fn cut(model: &mut ModelBuilder, x: ValueId, form: &Form, rows: usize) -> ValueId {
    let (count, dim) = (form.count, form.dim);
    match form.heads {
        Heads::One => x,
        Heads::Stacked => {
            let parts = (0..count).map(|head| {
                let part = model.op(Op::Slice { x, axis: 1, start: head * dim, end: (head + 1) * dim, step: 1 });
                model.op_as(Op::Reshape { x: part }, vec![1, rows, dim], DType::F32)
            });
            let parts = parts.collect();
            model.op(Op::Concat { xs: parts, axis: 0 })
        }
        Heads::Transposed | Heads::Joined | Heads::Op => {
            let x = model.op_as(Op::Reshape { x }, vec![rows, count, dim], DType::F32);
            model.op(Op::Transpose { x, perm: vec![1, 0, 2] })
        }
    }
}

/// `[count, rows, dim]` as `[rows, count · dim]`.
fn together(model: &mut ModelBuilder, x: ValueId, form: &Form) -> ValueId {
    let (rows, count, dim) = (form.rows, form.count, form.dim);
    match form.heads {
        Heads::One => x,
        Heads::Stacked => {
            let parts = (0..count).map(|head| model.op(Op::Slice { x, axis: 0, start: head, end: head + 1, step: 1 })).collect();
            let joined = model.op(Op::Concat { xs: parts, axis: 2 });
            model.op_as(Op::Reshape { x: joined }, vec![rows, count * dim], DType::F32)
        }
        Heads::Transposed | Heads::Joined | Heads::Op => {
            let x = model.op(Op::Transpose { x, perm: vec![1, 0, 2] });
            model.op_as(Op::Reshape { x }, vec![rows, count * dim], DType::F32)
        }
    }
}

fn sequence(model: &mut ModelBuilder, scope: Scope, rows: usize, width: usize) -> ValueId {
    let feature = model.dense(scope, (rows * width) as u32);
    let x = model.op(Op::Dense { features: vec![feature] });
    model.op_as(Op::Reshape { x }, vec![rows, width], DType::F32)
}

fn model(seed: u64, form: &Form) -> Arc<Model> {
    let mut model = ModelBuilder::new(seed);
    let model = &mut model;
    let Form { rows, keys, count, dim, .. } = *form;
    let width = count * dim;
    let scope = if form.of_context { Scope::Context } else { Scope::Candidate };
    let (from, to) = (sequence(model, Scope::Candidate, rows, 5), sequence(model, scope, keys, 5));
    let [q, k, v] = if form.heads == Heads::Joined {
        // Of one value: as many queries as keys.
        let all = model.linear(from, 3 * width);
        let all = model.op_as(Op::Reshape { x: all }, vec![1, rows, 3, width], DType::F32);
        let all = model.op(Op::Transpose { x: all, perm: vec![2, 1, 0, 3] });
        [0, 1, 2].map(|at| {
            let part = model.op(Op::Slice { x: all, axis: 0, start: at, end: at + 1, step: 1 });
            model.op_as(Op::Reshape { x: part }, vec![rows, width], DType::F32)
        })
    } else {
        [model.linear(from, width), model.linear(to, width), model.linear(to, width)]
    };
    let keys = if form.heads == Heads::Joined { rows } else { keys };
    let q = if form.scale == Scale::Queries { mul(model, q, 0.6) } else { q };
    let (mut q, mut k, v) = (cut(model, q, form, rows), cut(model, k, form, keys), cut(model, v, form, keys));
    let out = if form.heads == Heads::Op {
        model.op(Op::Sdpa { q, k, v, mask: None, scale: 0.4, causal: rows == keys })
    } else {
        if matches!(form.scale, Scale::CutQueries | Scale::Both) {
            q = mul(model, q, 0.7);
        }
        if form.scale == Scale::Both {
            k = mul(model, k, -0.8);
        }
        let rank = model.shape(k).len();
        let mut scores = if form.scale == Scale::Mul {
            matmul(model, q, k, true)
        } else {
            // A transpose of its own.
            let mut perm: Vec<usize> = (0..rank).collect();
            perm.swap(rank - 1, rank - 2);
            let k = model.op(Op::Transpose { x: k, perm });
            matmul(model, q, k, false)
        };
        scores = match form.scale {
            Scale::Mul => mul(model, scores, 0.5),
            Scale::Div => model.op(Op::Div { a: value(scores), b: Operand::Scalar(1.7) }),
            _ => scores,
        };
        scores = match form.hide {
            Hide::None => scores,
            Hide::Added => {
                let mask = sequence(model, scope, 1, keys);
                model.op(Op::Add { a: value(mask), b: value(scores) })
            }
            Hide::AddedConstant => {
                let mask = model.tensor(&[rows, keys], 2.0);
                let mask = model.op(Op::Const { tensor: mask });
                model.op(Op::Add { a: value(scores), b: value(mask) })
            }
            Hide::Where | Hide::WhereNot => {
                let mask = sequence(model, scope, 1, keys);
                let cond = model.op(Op::Compare { cmp: Comparison::Gt, a: value(mask), b: Operand::Scalar(0.3) });
                let hidden = Operand::Scalar(-1e9);
                let (a, b) = if form.hide == Hide::Where { (value(scores), hidden) } else { (hidden, value(scores)) };
                model.op(Op::Where { cond, a, b })
            }
        };
        let weights = model.op(Op::Softmax { x: scores, axis: rank - 1 });
        matmul(model, weights, v, false)
    };
    let out = together(model, out, form);
    let flat = model.op_as(Op::Reshape { x: out }, vec![rows * width], DType::F32);
    let len = rows * width;
    let outputs: Vec<_> =
        (0..len).step_by(len.div_ceil(60)).map(|at| model.op(Op::Slice { x: flat, axis: 0, start: at, end: at + 1, step: 1 })).collect();
    std::mem::replace(model, ModelBuilder::new(0)).finish(&outputs)
}

/// One model for each way of cutting heads, with other scales and masks each.
pub fn samples() -> Vec<Arc<Model>> {
    let form = |(at, heads): (usize, Heads)| Form {
        scale: SCALES[at + 1],
        hide: HIDES[at],
        heads,
        rows: 3 + at,
        keys: 5 + 7 * at,
        count: if heads == Heads::One { 1 } else { 2 },
        dim: 4 + at % 2,
        of_context: at % 2 == 1,
    };
    HEADS.into_iter().enumerate().map(form).enumerate().map(|(seed, form)| model(seed as u64, &form)).collect()
}

fn agrees(model: &Arc<Model>, seed: u64) {
    let mut random = Random::new(seed);
    let requests: Vec<_> = [3usize, 1, 0, 9].iter().map(|&rows| batches::request(model, &mut random, rows)).collect();
    // Softmaxes of large scores: what f32 holds of them, with or without passes.
    check(model, &requests, 2e-5);
}

fn kernels(model: &Arc<Model>) -> String {
    let options = Options { hoist: Hoist::Nothing, ..Options::new(Simd::detect()) };
    Program::planned(model, &options).expect("memory").kernels()
}

#[test]
fn every_form_is_one_kernel_without_copies() {
    // Rows, keys, heads, elements of a head.
    let sizes = [[5, 5, 2, 4], [1, 20, 3, 16], [7, 33, 1, 8], [9, 16, 2, 33], [4, 1, 5, 1], [2, 3, 2, 52]];
    let mut seed = 0;
    for heads in HEADS {
        for scale in SCALES {
            for hide in HIDES {
                if heads == Heads::Op && (scale != Scale::None || hide != Hide::None) {
                    continue;
                }
                let [rows, keys, count, dim] = sizes[seed % sizes.len()];
                seed += 1;
                let count = if heads == Heads::One { 1 } else { count };
                let form = Form { scale, hide, heads, rows, keys, count, dim, of_context: seed % 3 == 0 };
                let model = model(seed as u64, &form);
                let planned = kernels(&model);
                // A single column or inner element is no product of matrices: then it is other ops.
                let keys = if heads == Heads::Joined { rows } else { keys };
                if dim > 1 && keys > 1 {
                    assert!(!planned.contains("MatMul") && !planned.contains("Softmax"), "{form:?}: {planned}");
                    assert_eq!(
                        planned.matches("Generic").count(),
                        1 + usize::from(hide == Hide::Where || hide == Hide::WhereNot),
                        "{form:?}"
                    );
                    assert!(!planned.contains("Copy") && !planned.contains("Binary"), "{form:?}: {planned}");
                }
                agrees(&model, seed as u64);
            }
        }
    }
}

#[test]
fn scores_that_others_read_stay_a_softmax() {
    let mut model = ModelBuilder::new(3);
    let x = sequence(&mut model, Scope::Candidate, 4, 6);
    let (q, k) = (model.linear(x, 6), model.linear(x, 6));
    let scores = matmul(&mut model, q, k, true);
    let weights = model.op(Op::Softmax { x: scores, axis: 1 });
    let y = matmul(&mut model, weights, x, false);
    let sum = model.op(Op::ReduceSum { x: y, axes: vec![0, 1], keep: false });
    let most = model.op(Op::Reduce { function: Reduction::Max, x: weights, axes: vec![0, 1], keep: false });
    let model = model.finish(&[sum, most]);
    assert!(kernels(&model).contains("Softmax"));
    agrees(&model, 3);
}

#[test]
fn other_axes_and_factors_around_a_mask_are_not_taken() {
    for form in 0..3 {
        let mut model = ModelBuilder::new(form);
        let x = sequence(&mut model, Scope::Candidate, 5, 5);
        let (q, k) = (model.linear(x, 5), model.linear(x, 5));
        let mut scores = matmul(&mut model, q, k, true);
        if form == 1 {
            let mask = sequence(&mut model, Scope::Candidate, 5, 5);
            scores = model.op(Op::Add { a: value(scores), b: value(mask) });
            scores = mul(&mut model, scores, 0.5);
        }
        if form == 2 {
            // Not a number for all: a factor per key.
            let factors = model.tensor(&[5], 1.0);
            let factors = model.op(Op::Const { tensor: factors });
            scores = model.op(Op::Mul { a: value(scores), b: value(factors) });
        }
        let weights = model.op(Op::Softmax { x: scores, axis: usize::from(form > 0) });
        let y = matmul(&mut model, weights, x, false);
        let sum = model.op(Op::ReduceSum { x: y, axes: vec![0, 1], keep: false });
        let model = model.finish(&[sum]);
        assert!(kernels(&model).contains("Softmax"), "{form}");
        agrees(&model, form);
    }
}

#[test]
fn queries_without_keys_are_nan_as_a_softmax_has_it() {
    let mut model = ModelBuilder::new(5);
    let x = sequence(&mut model, Scope::Candidate, 4, 6);
    let (q, k) = (model.linear(x, 6), model.linear(x, 6));
    let scores = matmul(&mut model, q, k, true);
    let mask = sequence(&mut model, Scope::Candidate, 4, 1);
    let cond = model.op(Op::Compare { cmp: Comparison::Gt, a: value(mask), b: Operand::Scalar(0.0) });
    let scores = model.op(Op::Where { cond, a: value(scores), b: Operand::Scalar(f64::NEG_INFINITY) });
    let weights = model.op(Op::Softmax { x: scores, axis: 1 });
    let y = matmul(&mut model, weights, x, false);
    let lost = model.op(Op::Compare { cmp: Comparison::Ne, a: value(y), b: value(y) });
    let y = model.op(Op::Where { cond: lost, a: Operand::Scalar(9.0), b: value(y) });
    let sums = model.op(Op::ReduceSum { x: y, axes: vec![1], keep: false });
    let outputs: Vec<_> = (0..4).map(|at| model.op(Op::Slice { x: sums, axis: 0, start: at, end: at + 1, step: 1 })).collect();
    let model = model.finish(&outputs);
    assert!(!kernels(&model).contains("Softmax"));
    agrees(&model, 5);
}

#[test]
fn one_attention_on_another_reads_what_was_written() {
    let mut model = ModelBuilder::new(6);
    let x = sequence(&mut model, Scope::Candidate, 6, 8);
    let form =
        Form { scale: Scale::None, hide: Hide::None, heads: Heads::Transposed, rows: 6, keys: 6, count: 2, dim: 4, of_context: false };
    let mut y = x;
    for _ in 0..3 {
        let heads = cut(&mut model, y, &form, 6);
        let scores = matmul(&mut model, heads, heads, true);
        let weights = model.op(Op::Softmax { x: scores, axis: 2 });
        let mixed = matmul(&mut model, weights, heads, false);
        y = together(&mut model, mixed, &form);
    }
    let sum = model.op(Op::ReduceSum { x: y, axes: vec![0, 1], keep: false });
    let model = model.finish(&[sum]);
    let planned = kernels(&model);
    assert_eq!(planned.matches("Generic").count(), 3, "{planned}");
    agrees(&model, 6);
}

#[test]
fn projections_of_one_sequence_are_one_layer() {
    for (seed, heads) in [Heads::Transposed, Heads::Stacked, Heads::One, Heads::Op].into_iter().enumerate() {
        for count in [1, 2, 3] {
            let (rows, dim) = (7, 6);
            let mut model = ModelBuilder::new(seed as u64);
            let form = Form { scale: Scale::None, hide: Hide::None, heads, rows, keys: rows, count, dim, of_context: false };
            let width = count * dim;
            let mut y = sequence(&mut model, Scope::Candidate, rows, width);
            for _ in 0..2 {
                let [q, k, v, rest] = [(); 4].map(|()| model.linear(y, width));
                let [q, k, v] = [q, k, v].map(|x| cut(&mut model, x, &form, rows));
                let out = if heads == Heads::Op {
                    model.op(Op::Sdpa { q, k, v, mask: None, scale: 0.3, causal: false })
                } else {
                    let scores = matmul(&mut model, q, k, true);
                    let scores = mul(&mut model, scores, 0.2);
                    let axis = model.shape(scores).len() - 1;
                    let weights = model.op(Op::Softmax { x: scores, axis });
                    matmul(&mut model, weights, v, false)
                };
                let out = together(&mut model, out, &form);
                y = model.op(Op::Add { a: value(out), b: value(rest) });
            }
            let sums = model.op(Op::ReduceSum { x: y, axes: vec![1], keep: false });
            let outputs: Vec<_> = (0..rows).map(|at| model.op(Op::Slice { x: sums, axis: 0, start: at, end: at + 1, step: 1 })).collect();
            let model = model.finish(&outputs);
            let planned = kernels(&model);
            assert_eq!(planned.matches("Linear").count(), 4, "{heads:?}: {planned}");
            agrees(&model, seed as u64);
        }
    }
}
