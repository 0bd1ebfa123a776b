//! The work that a plan reports for an op, against figures counted by hand.

use crate::model::*;

use super::builder::ModelBuilder;
use super::kernels::{array, elements};
use super::{Options, Program, Simd};
use crate::engine::cpu::PlanWork;

/// Plans a model whose outputs are the elements of what `make` adds: the work of its only task called `op`.
fn work(op: &str, make: impl FnOnce(&mut ModelBuilder) -> ValueId) -> PlanWork {
    let mut model = ModelBuilder::new(1);
    let x = make(&mut model);
    let x = match model.graph.value(x).dtype {
        DType::F32 => x,
        DType::I64 => {
            let shape = model.shape(x).to_vec();
            model.op_as(Op::Cast { x }, shape, DType::F32)
        }
    };
    let outputs = elements(&mut model, x);
    let program = Program::planned(&model.finish(&outputs), &Options::new(Simd::detect())).expect("memory");
    let tasks: Vec<_> = program.report().tasks.iter().filter(|task| task.op == op && task.kernels > 0).collect();
    let [task] = tasks[..] else { panic!("{} tasks {op:?}: {:#?}", tasks.len(), program.report().tasks) };
    task.work
}

fn integers(model: &mut ModelBuilder, width: u32) -> ValueId {
    let feature = model.integer(Scope::Candidate, width);
    model.op(Op::Integer { feature })
}

fn constant(model: &mut ModelBuilder, shape: &[usize], data: Vec<i64>) -> ValueId {
    let tensor = model.tensor_of(shape, TensorData::I64(data));
    model.op(Op::Const { tensor })
}

fn above(model: &mut ModelBuilder, shape: &[usize]) -> ValueId {
    let x = array(model, shape);
    model.op(Op::Compare { cmp: Comparison::Gt, a: Operand::Value(x), b: Operand::Scalar(0.5) })
}

type Make = fn(&mut ModelBuilder) -> ValueId;
/// What it is, the op's name in the plan, how it is made, then FLOPs, bytes of values, bytes of table rows, bytes of weights.
type Case = (&'static str, &'static str, Make, [u64; 4]);

fn check(cases: &[Case]) {
    for &(what, op, make, [flops, value_bytes, table_bytes, weight_bytes]) in cases {
        let expected = PlanWork { flops, value_bytes, table_bytes, weight_bytes };
        assert_eq!(work(op, make), expected, "{what}");
    }
}

fn attention(model: &mut ModelBuilder, mask: Option<ValueId>, causal: bool) -> ValueId {
    let [q, k, v] = [[5, 4]; 3].map(|shape| array(model, &shape));
    model.op(Op::Sdpa { q, k, v, mask, scale: 0.5, causal })
}

fn gated(model: &mut ModelBuilder, softmax: bool) -> ValueId {
    let (gate, experts) = (array(model, &[1, 3]), array(model, &[3, 8]));
    let gate = if softmax { model.op(Op::Softmax { x: gate, axis: 1 }) } else { gate };
    model.op(Op::MatMul { a: gate, b: experts, transpose_a: false, transpose_b: false })
}

#[test]
fn mixtures_count_their_vectors_and_a_softmax() {
    check(&[
        ("three vectors of eight, weighted", "mix", |model| gated(model, false), [48, 140, 0, 0]),
        ("the weights' softmax too", "mix", |model| gated(model, true), [48 + 15, 140, 0, 0]),
    ]);
}

#[test]
fn attention_counts_every_pair_of_query_and_key() {
    // A pair: a product of 4 (8), scale (1), softmax (5), 4 values weighted (8). Four arrays of 20.
    check(&[
        ("every query sees all keys", "attention", |model| attention(model, None, false), [25 * 22, 320, 0, 0]),
        ("query l sees keys 0..=l", "attention", |model| attention(model, None, true), [15 * 22, 320, 0, 0]),
        (
            "truth costs its bytes",
            "attention",
            |model| {
                let mask = above(model, &[5]);
                attention(model, Some(mask), false)
            },
            [25 * 22, 320 + 5 * 8, 0, 0],
        ),
        (
            "numbers are added",
            "attention",
            |model| {
                let mask = array(model, &[5]);
                attention(model, Some(mask), false)
            },
            [25 * 23, 320 + 5 * 4, 0, 0],
        ),
    ]);
}

fn gru(model: &mut ModelBuilder, kind: GruKind, reset_after: bool, last: bool) -> ValueId {
    let x = array(model, &[3, 2]);
    let (w_ih, w_hh) = (model.tensor(&[12, 2], 1.0), model.tensor(&[12, 4], 1.0));
    let biases = [(); 2].map(|()| Some(model.tensor(&[12], 1.0)));
    let attention = (kind != GruKind::Gru).then(|| array(model, &[3]));
    let [b_ih, b_hh] = biases;
    let gru = Gru { x, w_ih, w_hh, b_ih, b_hh, h0: None, length: None, attention, kind, reset_after, reverse: false, last };
    model.op(Op::Gru(gru))
}

#[test]
fn recurrent_layers_count_every_step() {
    // A step and unit: three products of 4 (24), two gates of sum and sigmoid (8), then the new state and its mixing.
    check(&[
        // bias, r, inputs' part, tanh (4); 1 − z and a mean (4). Gates of 3 steps and a state; 4 × 12 weights and 4 biases.
        ("gru", "gru", |model| gru(model, GruKind::Gru, true, true), [12 * 40, 36 * 4 + 16, 0, 52 * 4]),
        // r before the product (3); a · z, 1 − z and a mean (5). Gates, attention, all states.
        ("augru", "gru", |model| gru(model, GruKind::Augru, false, false), [12 * 40, 36 * 4 + 12 + 48, 0, 48 * 4]),
        // The inputs' part is a layer of its own: 3 × 12 sums of 2 products and a bias.
        ("inputs' part", "linear", |model| gru(model, GruKind::Gru, true, true), [36 * 5, 6 * 4 + 36 * 4, 0, 24 * 4 + 12 * 4]),
    ]);
}

fn window(kernel: usize, stride: usize, pads: (usize, usize)) -> Window {
    Window { kernel: vec![kernel], strides: vec![stride], dilations: vec![1], pads: vec![pads] }
}

fn conv(model: &mut ModelBuilder, x: [usize; 2], outputs: usize, groups: usize, window: Window) -> ValueId {
    let (weight, bias) = (model.tensor(&[outputs, x[0] / groups, window.kernel[0]], 0.5), Some(model.tensor(&[outputs], 0.5)));
    let x = array(model, &x);
    model.op(Op::Conv { x, weight, bias, window, groups })
}

#[test]
fn windows_count_elements_that_are_no_padding() {
    check(&[
        // A channel pair: 5 + 6 + 5 products over 6 positions; 3 × 2 pairs, and 18 biases.
        ("padded", "conv", |model| conv(model, [2, 6], 3, 1, window(3, 1, (1, 1))), [2 * 6 * 16 + 18, 48 + 72, 0, (18 + 3) * 4]),
        // 4 positions of 2 elements, 4 channels that see 2 each.
        ("in groups", "conv", |model| conv(model, [4, 5], 4, 2, window(2, 1, (0, 0))), [2 * 8 * 8 + 16, 80 + 64, 0, (16 + 4) * 4]),
        (
            "largest",
            "pool",
            |model| {
                let x = array(model, &[2, 6]);
                model.op(Op::MaxPool { x, window: window(2, 2, (0, 0)) })
            },
            [12, 48 + 24, 0, 0],
        ),
        (
            "means are divided",
            "pool",
            |model| {
                let x = array(model, &[2, 6]);
                model.op(Op::AvgPool { x, window: window(2, 2, (0, 0)), count_include_pad: false })
            },
            [12 + 6, 48 + 24, 0, 0],
        ),
    ]);
}

/// A tree whose root leads to a leaf or to a second node with two leaves; and one that is a leaf.
fn trees(model: &mut ModelBuilder) -> ValueId {
    let x = array(model, &[2]);
    let mut integers = |data: &[i64]| model.tensor_of(&[data.len()], TensorData::I64(data.to_vec()));
    let (feature, mode) = (integers(&[0, 0, 1, 1, 2, 3]), integers(&[1, 0, 1, 0, 0, 0]));
    let (yes, no, roots) = (integers(&[1, 0, 3, 0, 0, 0]), integers(&[2, 0, 4, 0, 0, 0]), integers(&[0, 0, 5]));
    let (threshold, leaves) = (model.tensor(&[6], 1.0), model.tensor(&[4, 2], 1.0));
    model.op(Op::Trees(Trees { x, feature, threshold, mode, yes, no, missing_yes: None, roots, leaves }))
}

#[test]
fn norms_folds_and_orders() {
    check(&[
        (
            "trees",
            "trees",
            trees,
            // 1.5 comparisons from each of the two roots; three leaves of two numbers. Nodes of 20 bytes.
            [3 + 6, 8 + 8, 0, 6 * 20 + 3 * 4 + 8 * 4],
        ),
        (
            "layer norm with weights",
            "layer_norm",
            |model| {
                let (x, weight, bias) = (array(model, &[3, 4]), Some(model.tensor(&[4], 1.0)), Some(model.tensor(&[4], 1.0)));
                model.op(Op::LayerNorm { x, axes: 1, weight, bias, eps: 1e-5 })
            },
            [7 * 12, 96, 0, 32],
        ),
        (
            "layer norm without",
            "layer_norm",
            |model| {
                let x = array(model, &[3, 4]);
                model.op(Op::LayerNorm { x, axes: 1, weight: None, bias: None, eps: 1e-5 })
            },
            [5 * 12, 96, 0, 0],
        ),
        (
            "batch norm",
            "batch_norm",
            |model| {
                let x = array(model, &[4]);
                let mean = model.tensor(&[4], 1.0);
                let var = model.tensor_of(&[4], TensorData::F32(vec![1.0; 4]));
                model.op(Op::BatchNorm { x, axis: 0, mean, var, weight: None, bias: None, eps: 1e-5 })
            },
            [3 * 4, 32, 0, 3 * 16],
        ),
        (
            "softmax",
            "softmax",
            |model| {
                let x = array(model, &[2, 3]);
                model.op(Op::Softmax { x, axis: 1 })
            },
            [5 * 6, 48, 0, 0],
        ),
        (
            "sigmoid",
            "unary",
            |model| {
                let x = array(model, &[4]);
                model.op(Op::Sigmoid { x })
            },
            [3 * 4, 32, 0, 0],
        ),
        (
            "running sum",
            "cum_sum",
            |model| {
                let x = array(model, &[2, 5]);
                model.op(Op::CumSum { x, axis: 1, exclusive: false, reverse: false })
            },
            [10, 80, 0, 0],
        ),
        (
            "largest of a row",
            "fold",
            |model| {
                let x = array(model, &[3, 4]);
                model.op(Op::Reduce { function: Reduction::Max, x, axes: vec![1], keep: false })
            },
            [9, 48 + 12, 0, 0],
        ),
        (
            "the three largest of six, twice: 0 + 1 + 2 + 3 + 3 + 3 comparisons",
            "top",
            |model| {
                let x = array(model, &[2, 6]);
                model.op(Op::TopK { x, axis: 1, k: 3, largest: true })
            },
            [24, 48 + 24, 0, 0],
        ),
        (
            "where they lie",
            "top",
            |model| {
                let x = array(model, &[2, 6]);
                model.op(Op::ArgTopK { x, axis: 1, k: 3, largest: true })
            },
            [24, 48 + 48, 0, 0],
        ),
        ("comparison with a number", "compare", |model| above(model, &[4]), [4, 16 + 4 + 32, 0, 0]),
    ]);
}

#[test]
fn moving_elements_costs_bytes_alone() {
    check(&[
        (
            "two of six elements",
            "pick",
            |model| {
                let (x, index) = (array(model, &[6]), integers(model, 2));
                model.op(Op::Gather { x, index, axis: 0 })
            },
            [0, 8 + 8 + 16, 0, 0],
        ),
        (
            "along an axis",
            "take_along",
            |model| {
                let (x, index) = (array(model, &[2, 3]), constant(model, &[2, 2], vec![0, 2, 1, 1]));
                model.op(Op::TakeAlong { x, index, axis: 1 })
            },
            [0, 16 + 16 + 32, 0, 0],
        ),
        (
            "rows of a table by computed indices",
            "embedding",
            |model| {
                let (index, table) = (integers(model, 5), model.table(3, 7));
                model.op(Op::Embedding { index, table })
            },
            [0, 40 + 140, 140, 0],
        ),
        (
            "of half floats",
            "embedding",
            |model| {
                let (index, table) = (integers(model, 5), model.table_of(TableDType::F16, 3, 7));
                model.op(Op::Embedding { index, table })
            },
            [0, 40 + 140, 70, 0],
        ),
        (
            "a full bag: three rows, each times its weight, their mean",
            "lookup",
            |model| {
                let table = model.table(9, 4);
                let feature = model.sparse(Scope::Candidate, 0, 3, table, true);
                model.op(Op::Lookup { feature, table, pool: Pool::Mean })
            },
            [12 + 12, 16, 48, 0],
        ),
        (
            "padding",
            "pad",
            |model| {
                let x = array(model, &[4]);
                model.op_as(Op::Pad { x, pads: vec![(1, 1)], value: 0.0 }, vec![6], DType::F32)
            },
            [0, 16 + 24, 0, 0],
        ),
        (
            "one of two",
            "where",
            |model| {
                let (cond, a) = (above(model, &[4]), array(model, &[4]));
                model.op(Op::Where { cond, a: Operand::Value(a), b: Operand::Scalar(0.0) })
            },
            [0, 32 + 16 + 4 + 16, 0, 0],
        ),
    ]);
}

#[test]
fn products_count_their_weights() {
    check(&[
        (
            "a layer",
            "linear",
            |model| {
                let x = array(model, &[4]);
                model.linear(x, 3)
            },
            [3 * 9, 16 + 12, 0, (12 + 3) * 4],
        ),
        (
            "a layer with relu",
            "linear",
            |model| {
                let x = array(model, &[4]);
                model.mlp(x, &[3])
            },
            [3 * 10, 16 + 12, 0, (12 + 3) * 4],
        ),
        (
            "of two values",
            "mat_mul",
            |model| {
                let (a, b) = (array(model, &[2, 3]), array(model, &[3, 4]));
                model.op(Op::MatMul { a, b, transpose_a: false, transpose_b: false })
            },
            [2 * 3 * 8, 24 + 48 + 32, 0, 0],
        ),
    ]);
}
