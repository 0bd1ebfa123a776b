//! Ops that become a kernel each, one at a time, at awkward sizes and with what random graphs leave out.

use crate::model::*;

use super::builder::ModelBuilder;
use super::kernels::{array, check_op};
use super::random;

fn constant(model: &mut ModelBuilder, shape: &[usize], data: Vec<i64>) -> ValueId {
    let tensor = model.tensor_of(shape, TensorData::I64(data));
    model.op(Op::Const { tensor })
}

fn to_float(model: &mut ModelBuilder, x: ValueId) -> ValueId {
    let shape = model.shape(x).to_vec();
    model.op_as(Op::Cast { x }, shape, DType::F32)
}

/// 9 where an element is NaN.
fn marked(model: &mut ModelBuilder, x: ValueId) -> ValueId {
    let lost = model.op(Op::Compare { cmp: Comparison::Ne, a: Operand::Value(x), b: Operand::Value(x) });
    model.op(Op::Where { cond: lost, a: Operand::Scalar(9.0), b: Operand::Value(x) })
}

#[test]
fn functions_at_every_tail() {
    for (seed, function) in UnaryFn::ALL.into_iter().enumerate() {
        for len in [1, 7, 15, 16, 17, 33, 100] {
            check_op(seed as u64, &[3, 1], |model| {
                let x = array(model, &[len]);
                let x = match function {
                    UnaryFn::Log | UnaryFn::Sqrt => model.op(Op::Pow { a: Operand::Value(x), b: Operand::Scalar(2.0) }),
                    UnaryFn::Sin | UnaryFn::Cos => model.op(Op::Mul { a: Operand::Value(x), b: Operand::Scalar(1.5) }),
                    _ => x,
                };
                // −∞ of a zero's logarithm is no score to compare.
                let x = if function == UnaryFn::Log { model.op(Op::Max { a: Operand::Value(x), b: Operand::Scalar(0.125) }) } else { x };
                model.op(Op::Unary { function, x })
            });
        }
    }
}

#[test]
fn choices_ignore_what_they_do_not_take() {
    for (seed, shapes) in
        [[vec![5], vec![5], vec![5]], [vec![4, 1], vec![17], vec![4, 17]], [vec![], vec![3, 20], vec![1, 20]]].into_iter().enumerate()
    {
        check_op(seed as u64, &[9], |model| {
            let [cond, a, b] = shapes.map(|shape| array(model, &shape));
            let cond = model.op(Op::Compare { cmp: Comparison::Gt, a: Operand::Value(cond), b: Operand::Scalar(0.25) });
            // NaN wherever an element of a is not positive.
            let positive = model.op(Op::Compare { cmp: Comparison::Gt, a: Operand::Value(a), b: Operand::Scalar(0.0) });
            let a = model.op(Op::Unary { function: UnaryFn::Log, x: a });
            let cond = model.op(Op::Logic { function: LogicFn::And, a: cond, b: positive });
            model.op(Op::Where { cond, a: Operand::Value(a), b: Operand::Value(b) })
        });
    }
}

#[test]
fn indices_out_of_range_are_never_a_silent_score() {
    for (seed, (shape, axis)) in [(vec![5], 0), (vec![3, 4], 0), (vec![3, 4], 1), (vec![2, 3, 2], 1)].into_iter().enumerate() {
        let seed = seed as u64;
        check_op(seed, &[7], |model| {
            let x = array(model, &shape);
            let index = constant(model, &[2, 3], vec![-1, 0, 2, 1, i64::MAX, 7]);
            let picked = model.op(Op::Gather { x, index, axis });
            marked(model, picked)
        });
        check_op(seed, &[7], |model| {
            let x = array(model, &shape);
            let mut wanted = shape.clone();
            wanted[axis] = 3;
            let len = wanted.iter().product::<usize>();
            let index = constant(model, &wanted, (0..len).map(|at| at as i64 - 2).collect());
            let picked = model.op(Op::TakeAlong { x, index, axis });
            marked(model, picked)
        });
        // Integers: the least one.
        check_op(seed, &[7], |model| {
            let feature = model.integer(Scope::Candidate, 4);
            let x = model.op(Op::Integer { feature });
            let picked = model.op(Op::Gather { x, index: x, axis: 0 });
            let lost = model.op(Op::Compare { cmp: Comparison::Lt, a: Operand::Value(picked), b: Operand::Scalar(-1e15) });
            let picked = model.op(Op::Where { cond: lost, a: Operand::Scalar(77.0), b: Operand::Value(picked) });
            to_float(model, picked)
        });
    }
    check_op(9, &[20], |model| {
        let feature = model.integer(Scope::Candidate, 5);
        let index = model.op(Op::Integer { feature });
        let table = model.table(3, 7);
        let rows = model.op(Op::Embedding { index, table });
        marked(model, rows)
    });
}

#[test]
fn ranks_of_ties_and_nan() {
    for (seed, (shape, axis, k)) in
        [(vec![40], 0, 40), (vec![7, 5], 0, 3), (vec![7, 5], 1, 1), (vec![2, 6, 3], 1, 4), (vec![1], 0, 1)].into_iter().enumerate()
    {
        for largest in [true, false] {
            for indices in [true, false] {
                check_op(seed as u64, &[5], |model| {
                    let x = array(model, &shape);
                    // Few different values, so that there are ties.
                    let x = model.op(Op::Unary { function: UnaryFn::Floor, x });
                    if indices {
                        let x = model.op(Op::ArgTopK { x, axis, k, largest });
                        to_float(model, x)
                    } else {
                        model.op(Op::TopK { x, axis, k, largest })
                    }
                });
            }
        }
    }
}

#[test]
fn convolutions_of_every_shape() {
    type Case = (Vec<usize>, usize, Vec<usize>, Vec<usize>, Vec<usize>, Vec<(usize, usize)>, usize);
    // x, outputs, kernel, strides, dilations, pads, groups.
    let cases: [Case; 9] = [
        (vec![3, 20], 4, vec![1], vec![1], vec![1], vec![(0, 0)], 1),
        (vec![2, 6, 17], 33, vec![1], vec![1], vec![1], vec![(0, 0)], 1),
        (vec![5, 1], 2, vec![1], vec![1], vec![1], vec![(0, 0)], 1),
        (vec![4, 19], 6, vec![3], vec![1], vec![1], vec![(1, 1)], 2),
        (vec![1, 26, 8], 3, vec![6, 1], vec![1, 1], vec![1, 1], vec![(5, 0), (0, 0)], 1),
        (vec![2, 7, 9], 2, vec![3, 2], vec![2, 3], vec![2, 1], vec![(1, 2), (0, 1)], 2),
        (vec![3, 4, 5, 6], 2, vec![2, 3, 2], vec![1, 2, 2], vec![1, 1, 2], vec![(0, 1), (1, 0), (1, 1)], 1),
        (vec![2, 3, 2, 2, 2], 6, vec![2, 2, 2], vec![1, 1, 1], vec![1, 1, 1], vec![(1, 1), (0, 0), (0, 1)], 3),
        (vec![4, 3, 3], 4, vec![1, 1], vec![2, 2], vec![1, 1], vec![(0, 0), (0, 0)], 4),
    ];
    for (seed, (shape, outputs, kernel, strides, dilations, pads, groups)) in cases.into_iter().enumerate() {
        for with_bias in [false, true] {
            check_op(seed as u64, &[4, 1], |model| {
                let x = array(model, &shape);
                let channels = shape[shape.len() - kernel.len() - 1];
                let sizes = [&[outputs, channels / groups][..], &kernel].concat();
                let weight = model.tensor(&sizes, 1.0 / sizes[1..].iter().product::<usize>() as f64);
                let bias = with_bias.then(|| model.tensor(&[outputs], 1.0));
                let window = Window { kernel: kernel.clone(), strides: strides.clone(), dilations: dilations.clone(), pads: pads.clone() };
                model.op(Op::Conv { x, weight, bias, window, groups })
            });
        }
    }
}

#[test]
fn pools_of_every_shape() {
    let cases = [
        (vec![3, 20], vec![2], vec![2], vec![(0, 0)]),
        (vec![2, 5, 7], vec![3, 2], vec![1, 2], vec![(1, 1), (0, 1)]),
        (vec![1, 3, 4, 5], vec![2, 2, 2], vec![2, 1, 3], vec![(1, 0), (0, 0), (1, 1)]),
    ];
    for (seed, (shape, kernel, strides, pads)) in cases.into_iter().enumerate() {
        for which in 0..3 {
            check_op(seed as u64, &[4], |model| {
                let x = array(model, &shape);
                let dilations = vec![1; kernel.len()];
                let window = Window { kernel: kernel.clone(), strides: strides.clone(), dilations, pads: pads.clone() };
                match which {
                    0 => model.op(Op::MaxPool { x, window }),
                    _ => model.op(Op::AvgPool { x, window, count_include_pad: which == 1 }),
                }
            });
        }
    }
}

#[test]
fn attention_of_every_shape_and_mask() {
    type Case = (Vec<usize>, Vec<usize>, Vec<usize>);
    let cases: [Case; 5] = [
        (vec![1, 1], vec![1, 1], vec![1, 1]),
        (vec![3, 16], vec![7, 16], vec![7, 5]),
        (vec![2, 5, 8], vec![2, 5, 8], vec![2, 5, 8]),
        (vec![2, 1, 33], vec![20, 33], vec![20, 17]),
        (vec![1, 2, 4], vec![3, 1, 6, 4], vec![2, 6, 3]),
    ];
    for (seed, (q, k, v)) in cases.into_iter().enumerate() {
        let lead = |shape: &[usize]| shape[..shape.len() - 2].to_vec();
        let all = super::builder::broadcast_shape(&super::builder::broadcast_shape(&lead(&q), &lead(&k)), &lead(&v));
        let (rows, keys) = (q[q.len() - 2], k[k.len() - 2]);
        for mask in 0..6 {
            check_op(seed as u64, &[3, 2], |model| {
                let [q, k, v] = [&q, &k, &v].map(|shape| array(model, shape));
                let shape = match mask {
                    1 => vec![keys],
                    2 => vec![rows, 1],
                    3 => vec![],
                    _ => [all.clone(), vec![rows, keys]].concat(),
                };
                let mask_value = (mask > 0).then(|| {
                    let x = array(model, &shape);
                    match mask {
                        // Of truth values: a third of them false, and so whole rows of the narrow ones.
                        1..=4 => model.op(Op::Compare { cmp: Comparison::Gt, a: Operand::Value(x), b: Operand::Scalar(-1.25) }),
                        _ => {
                            let taken = model.op(Op::Compare { cmp: Comparison::Gt, a: Operand::Value(x), b: Operand::Scalar(-1.0) });
                            let (a, b) = (Operand::Value(x), Operand::Scalar(f64::NEG_INFINITY));
                            model.op(Op::Where { cond: taken, a, b })
                        }
                    }
                });
                model.op(Op::Sdpa { q, k, v, mask: mask_value, scale: 0.2, causal: mask == 0 && seed % 2 == 0 })
            });
        }
    }
}

/// A recurrent layer over x `[steps, inputs]`. Flags 1, 2, 4: not `reset_after`, not `reverse`, not `last`; other operands come and go with them.
pub(in crate::engine) fn recurrent_layer(model: &mut ModelBuilder, x: ValueId, hidden: usize, kind: GruKind, flags: usize) -> ValueId {
    let [steps, inputs] = model.shape(x)[..] else { panic!("a sequence") };
    let w_ih = model.tensor(&[3 * hidden, inputs], 1.0 / inputs as f64);
    let w_hh = model.tensor(&[3 * hidden, hidden], 1.0 / hidden as f64);
    let b_ih = Some(model.tensor(&[3 * hidden], 0.5)).filter(|_| flags != 3);
    let b_hh = Some(model.tensor(&[3 * hidden], 0.5)).filter(|_| flags != 5);
    let h0 = (flags % 2 == 1).then(|| array(model, &[hidden]));
    // From -2 to 6.
    let length = (flags >= 2).then(|| {
        let feature = model.integer(Scope::Candidate, 1);
        let length = model.op(Op::Integer { feature });
        let length = model.op_as(Op::Reshape { x: length }, vec![], DType::I64);
        model.op(Op::Add { a: Operand::Value(length), b: Operand::Scalar(2.0) })
    });
    let attention = (kind != GruKind::Gru).then(|| {
        let x = array(model, &[steps]);
        model.op(Op::Sigmoid { x })
    });
    let (reset_after, reverse, last) = (flags & 1 == 0, flags & 2 == 0, flags & 4 == 0);
    model.op(Op::Gru(Gru { x, w_ih, w_hh, b_ih, b_hh, h0, length, attention, kind, reset_after, reverse, last }))
}

#[test]
fn recurrent_layers_of_every_kind() {
    for (seed, (steps, inputs, hidden)) in [(1, 1, 1), (5, 3, 4), (9, 16, 21), (3, 8, 43)].into_iter().enumerate() {
        for kind in GruKind::NAMES.map(|(_, kind)| kind) {
            for flags in 0..8 {
                check_op(seed as u64, &[6], |model| {
                    let x = array(model, &[steps, inputs]);
                    recurrent_layer(model, x, hidden, kind, flags)
                });
            }
        }
    }
}

#[test]
fn trees_of_every_mode_and_missing_features() {
    for seed in 0..12 {
        check_op(seed, &[70, 1], |model| {
            let x = array(model, &[6]);
            // NaN wherever an element is not positive, for one seed in two.
            let x = if seed % 2 == 0 {
                let below = model.op(Op::Compare { cmp: Comparison::Lt, a: Operand::Value(x), b: Operand::Scalar(-2.0) });
                let nan = model.op_as(Op::Fill { value: -1.0 }, vec![6], DType::F32);
                let nan = model.op(Op::Unary { function: UnaryFn::Log, x: nan });
                model.op(Op::Where { cond: below, a: Operand::Value(nan), b: Operand::Value(x) })
            } else {
                x
            };
            let trees = random::ensemble(model, x, 6);
            model.op(Op::Trees(trees))
        });
    }
}
