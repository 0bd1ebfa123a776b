//! Products of computed matrices (`kernels/products.cuh`), attention (`kernels/attention.cuh`).

use crate::engine::cpu::tests::builder::{ModelBuilder, broadcast_shape};
use crate::engine::cpu::tests::kernels::array;
use crate::engine::cpu::tests::{Random, attention, batches};
use crate::model::{Comparison, DType, Op, Operand, Scope, ValueId};

use super::trees::with_nan;
use super::{check, check_values};

#[test]
fn products_of_every_shape() {
    let cases = [
        (vec![3], vec![3], false, false),
        (vec![4], vec![4, 6], false, false),
        (vec![5, 33], vec![33], false, false),
        (vec![8, 16], vec![8, 16], false, true),
        (vec![7, 9], vec![7, 5], true, false),
        (vec![2, 9, 17], vec![3, 9], true, true),
        (vec![2, 1, 5, 8], vec![3, 8, 9], false, false),
        (vec![1, 130], vec![1, 130], false, true),
        (vec![13, 2], vec![2, 13], false, false),
        (vec![6, 4, 3], vec![6, 3, 4], false, false),
    ];
    check_values(3, &[5, 17], |model| {
        cases
            .iter()
            .map(|(a, b, transpose_a, transpose_b)| {
                let (a, b) = (array(model, a), array(model, b));
                model.op(Op::MatMul { a, b, transpose_a: *transpose_a, transpose_b: *transpose_b })
            })
            .collect()
    });
}

/// Shapes of queries, keys and values.
pub(super) const SHAPES: [[&[usize]; 3]; 7] = [
    [&[1, 1], &[1, 1], &[1, 1]],
    [&[3, 16], &[7, 16], &[7, 5]],
    [&[2, 5, 8], &[2, 5, 8], &[2, 5, 8]],
    [&[2, 1, 33], &[20, 33], &[20, 17]],
    [&[1, 2, 4], &[3, 1, 6, 4], &[2, 6, 3]],
    [&[4, 12], &[33, 12], &[33, 40]],
    [&[1, 8], &[70, 8], &[70, 8]],
];

/// Masks: none; truth per key, per query, of all, per query and key; added, with -∞.
pub(super) fn masked(model: &mut ModelBuilder, [q, k, v]: [&[usize]; 3], mask: usize, causal: bool) -> ValueId {
    let lead = |shape: &[usize]| shape[..shape.len() - 2].to_vec();
    let all = broadcast_shape(&broadcast_shape(&lead(q), &lead(k)), &lead(v));
    let (rows, keys) = (q[q.len() - 2], k[k.len() - 2]);
    let [q, k, v] = [q, k, v].map(|shape| array(model, shape));
    let shape = match mask {
        1 => vec![keys],
        2 => vec![rows, 1],
        3 => vec![],
        _ => [all, vec![rows, keys]].concat(),
    };
    let mask = (mask > 0).then(|| {
        let x = array(model, &shape);
        let (cmp, a) = (Comparison::Gt, Operand::Value(x));
        if mask < 5 {
            return model.op(Op::Compare { cmp, a, b: Operand::Scalar(-1.25) });
        }
        let cond = model.op(Op::Compare { cmp, a, b: Operand::Scalar(-1.0) });
        model.op(Op::Where { cond, a, b: Operand::Scalar(f64::NEG_INFINITY) })
    });
    model.op(Op::Sdpa { q, k, v, mask, scale: 0.2, causal })
}

#[test]
fn attention_of_every_shape_and_mask() {
    for mask in 0..6 {
        check_values(mask as u64, &[3, 15], |model| {
            SHAPES.iter().enumerate().map(|(at, &shapes)| masked(model, shapes, mask, (at + mask) % 3 == 0)).collect()
        });
    }
}

/// Keys and values of the context, kept for its candidates.
#[test]
fn candidates_attend_to_their_contexts() {
    check_values(9, &[1, 15, 16, 33], |model| {
        let mut of = |scope, shape: &[usize]| {
            let feature = model.dense(scope, shape.iter().product::<usize>() as u32);
            let x = model.op(Op::Dense { features: vec![feature] });
            model.op_as(Op::Reshape { x }, shape.to_vec(), DType::F32)
        };
        let (q, k, v) = (of(Scope::Candidate, &[2, 8]), of(Scope::Context, &[19, 8]), of(Scope::Context, &[19, 6]));
        vec![model.op(Op::Sdpa { q, k, v, mask: None, scale: 0.3, causal: false })]
    });
}

#[test]
fn attention_in_the_forms_in_which_models_write_it() {
    for model in attention::samples() {
        let mut random = Random::new(4);
        let requests: Vec<_> = [2, 15].iter().map(|&rows| batches::request(&model, &mut random, rows)).collect();
        check(&model, &requests, 2e-5);
    }
}

/// A query without keys: NaN where a softmax has it, zeros where the op does. Hidden keys take no part whatever their values.
#[test]
fn hidden_keys_take_no_part() {
    check_values(5, &[9, 8], |model| {
        let [q, k, v] = [[5, 6], [9, 6], [9, 3]].map(|shape| array(model, &shape));
        let hidden = array(model, &[9]);
        let hidden = with_nan(model, hidden);
        let mask = model.op(Op::Compare { cmp: Comparison::Eq, a: Operand::Value(hidden), b: Operand::Value(hidden) });
        let column = model.op_as(Op::Reshape { x: hidden }, vec![9, 1], DType::F32);
        let v = model.op(Op::Add { a: Operand::Value(v), b: Operand::Value(column) });
        let zeros = model.op(Op::Sdpa { q, k, v, mask: Some(mask), scale: 0.5, causal: true });
        let scores = model.op(Op::MatMul { a: q, b: k, transpose_a: false, transpose_b: true });
        let x = array(model, &[5, 1]);
        let cond = model.op(Op::Compare { cmp: Comparison::Gt, a: Operand::Value(x), b: Operand::Scalar(0.0) });
        let scores = model.op(Op::Where { cond, a: Operand::Value(scores), b: Operand::Scalar(f64::NEG_INFINITY) });
        let weights = model.op(Op::Softmax { x: scores, axis: 1 });
        let nan = model.op(Op::MatMul { a: weights, b: k, transpose_a: false, transpose_b: false });
        let lost = model.op(Op::Compare { cmp: Comparison::Ne, a: Operand::Value(nan), b: Operand::Value(nan) });
        let marked = model.op(Op::Where { cond: lost, a: Operand::Scalar(9.0), b: Operand::Value(nan) });
        vec![zeros, marked]
    });
}
