//! Elementwise ops at the end of wide layers, around the edges of their blocks: 64 and 128 rows and columns.

use std::sync::Arc;

use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::{Random, batches, oracle};
use crate::model::*;

use super::super::program::{Launch, Over};
use super::super::{Numbers, Program, Target};
use super::{SHARED_BYTES, compare_on};

/// Every layer of `from` weights or more is a kernel of its own.
fn target(numbers: Numbers, from: usize) -> Target {
    Target { wide_from: from, ..Target::new(SHARED_BYTES, numbers) }
}

/// Runs requests of so many candidates each, in both numbers.
fn check(model: &Arc<Model>, from: usize, batches: &[&[usize]]) {
    for rows in batches {
        let mut random = Random::new(rows.len() as u64);
        let requests: Vec<_> = rows.iter().map(|&rows| batches::request(model, &mut random, rows)).collect();
        let expected = oracle::scores(model, &requests);
        for (numbers, tolerance) in [(Numbers::F32, 1e-5), (Numbers::Bf16, 3e-2)] {
            compare_on(&[target(numbers, from)], model, &requests, &expected, tolerance);
        }
    }
}

/// The large variant's kernels of candidates, `t`: in tiles, `w`: a wide layer, `W`: one with a tail.
fn kernels(model: &Arc<Model>, numbers: Numbers, from: usize) -> String {
    let program = Program::new(model, &target(numbers, from)).expect("memory");
    let launches = &program.variants.last().expect("a variant").launches;
    let candidates = launches.iter().filter(|launch| launch.kernel.starts_with("candidates"));
    let kind = |launch: &Launch| match launch.over {
        Over::Grid { .. } => {
            if launch.kernel.contains("_tail_") {
                'W'
            } else {
                'w'
            }
        }
        _ => 't',
    };
    candidates.map(kind).collect()
}

fn dense(model: &mut ModelBuilder, scope: Scope, width: usize) -> ValueId {
    let feature = model.dense(scope, width as u32);
    model.op(Op::Dense { features: vec![feature] })
}

fn mul(model: &mut ModelBuilder, a: ValueId, b: ValueId) -> ValueId {
    model.op(Op::Mul { a: Operand::Value(a), b: Operand::Value(b) })
}

fn add(model: &mut ModelBuilder, a: ValueId, b: ValueId) -> ValueId {
    model.op(Op::Add { a: Operand::Value(a), b: Operand::Value(b) })
}

/// All of a value, as three sums with random factors.
fn sums(model: &mut ModelBuilder, x: ValueId) -> Vec<ValueId> {
    let len = model.graph.value(x).len();
    let flat = model.op_as(Op::Reshape { x }, vec![len], DType::F32);
    let few = model.linear(flat, 3);
    (0..3).map(|at| model.op(Op::Slice { x: few, axis: 0, start: at, end: at + 1, step: 1 })).collect()
}

/// x = x0 * (U (V x)) + x, twice; without V where there is no rank.
fn cross(widths: [usize; 2], rank: Option<usize>) -> Arc<Model> {
    let mut model = ModelBuilder::new(widths[0] as u64);
    let (own, shared) = (dense(&mut model, Scope::Candidate, widths[0]), dense(&mut model, Scope::Context, widths[1]));
    let x0 = model.op(Op::Concat { xs: vec![own, shared], axis: 0 });
    // Sums of products of sums stay of the size of what is given in.
    let x0 = model.op(Op::Unary { function: UnaryFn::Tanh, x: x0 });
    let mut x = x0;
    for _ in 0..2 {
        let inner = rank.map_or(x, |rank| model.linear(x, rank));
        let y = model.linear(inner, widths[0] + widths[1]);
        let product = mul(&mut model, x0, y);
        x = add(&mut model, product, x);
    }
    let outputs = sums(&mut model, x);
    model.finish(&outputs)
}

#[test]
fn cross_layers_end_with_their_products() {
    let batches: [&[&[usize]]; 4] = [&[&[63], &[1, 127]], &[&[64], &[128]], &[&[40, 25], &[100, 29]], &[&[17, 0, 113, 129]]];
    for (at, (widths, rank)) in [([60, 3], None), ([64, 64], Some(9)), ([126, 3], Some(24)), ([50, 15], Some(8))].into_iter().enumerate() {
        let model = cross(widths, rank);
        check(&model, 400, batches[at]);
        for numbers in [Numbers::F32, Numbers::Bf16] {
            // The inputs, each step, the sums.
            let expected = if rank.is_some() { "twWwWt" } else { "tWWt" };
            assert_eq!(kernels(&model, numbers, 400), expected, "{widths:?} {rank:?} {numbers:?}");
        }
    }
}

/// Rows near a slot's limits, which are the batch's: not a multiple of what memory is aligned to.
#[test]
fn full_slots_of_awkward_sizes() {
    let model = cross([38, 5], Some(7));
    check(&model, 250, &[&[255], &[256], &[200, 57], &[383, 1], &[385]]);
}

#[test]
fn tails_read_operands_of_all_kinds() {
    let mut model = ModelBuilder::new(3);
    // Layers over the same value would be one.
    let [first, second, third] = [40, 41, 42].map(|width| dense(&mut model, Scope::Candidate, width));
    let gate = dense(&mut model, Scope::Candidate, 1);
    let (of_context, one_of_context) = (dense(&mut model, Scope::Context, 66), dense(&mut model, Scope::Context, 1));
    let mut outputs = Vec::new();
    // An own row, a context's, one number of each.
    let y = model.linear(first, 66);
    let y = model.op(Op::Sigmoid { x: y });
    let y = mul(&mut model, y, of_context);
    let y = mul(&mut model, y, gate);
    let y = add(&mut model, y, one_of_context);
    let y = model.op(Op::Mul { a: Operand::Value(y), b: Operand::Scalar(0.5) });
    outputs.extend(sums(&mut model, y));
    // Operands that broadcast along either axis, of an odd number of columns; functions of one number. What is made behind a layer is no operand
    // of its tail.
    let across = dense(&mut model, Scope::Candidate, 13);
    let down = dense(&mut model, Scope::Context, 5);
    let z = model.linear(second, 65);
    let z = model.op_as(Op::Reshape { x: z }, vec![5, 13], DType::F32);
    let down = model.op_as(Op::Reshape { x: down }, vec![5, 1], DType::F32);
    let z = mul(&mut model, z, across);
    let z = model.op(Op::Unary { function: UnaryFn::Tanh, x: z });
    let z = add(&mut model, z, down);
    let z = model.op(Op::Clamp { x: z, min: Some(-0.7), max: Some(2.5) });
    outputs.extend(sums(&mut model, z));
    // A part of a wider value that starts at an odd element, and numbers of the model.
    let wide = dense(&mut model, Scope::Candidate, 100);
    let part = model.op(Op::Slice { x: wide, axis: 0, start: 3, end: 67, step: 1 });
    let u = model.linear(third, 64);
    let u = mul(&mut model, u, part);
    let tensors = [(); 4].map(|()| model.tensor(&[64], 0.5));
    let var = model.tensor_of(&[64], TensorData::F32((0..64).map(|at| 0.5 + at as f32 / 64.0).collect()));
    let [mean, weight, bias, _] = tensors;
    let u = model.op(Op::BatchNorm { x: u, axis: 0, mean, var, weight: Some(weight), bias: Some(bias), eps: 1e-3 });
    outputs.extend(sums(&mut model, u));
    let model = model.finish(&outputs);
    check(&model, 2000, &[&[65, 64], &[3, 0, 20]]);
    assert_eq!(kernels(&model, Numbers::F32, 2000).matches('W').count(), 3);
}

/// What others read is stored as well; layers of contexts have tails; a gate is the tail of the later of its layers.
#[test]
fn tails_leave_what_others_read() {
    let mut model = ModelBuilder::new(4);
    let (x, c) = (dense(&mut model, Scope::Candidate, 33), dense(&mut model, Scope::Context, 35));
    let of_context = model.linear(c, 70);
    let of_context = model.op(Op::Sigmoid { x: of_context });
    let squared = mul(&mut model, of_context, of_context);
    let of_context = add(&mut model, squared, of_context);
    let both = model.op(Op::Concat { xs: vec![x, c], axis: 0 });
    let (value, gate) = (model.linear(both, 70), model.linear(x, 70));
    let gate = model.op(Op::Sigmoid { x: gate });
    let gated = mul(&mut model, value, gate);
    let mixed = add(&mut model, gated, of_context);
    let next = model.linear(mixed, 67);
    let next = model.op(Op::Relu { x: next });
    let mut outputs = sums(&mut model, mixed);
    outputs.extend(sums(&mut model, next));
    outputs.extend(sums(&mut model, value));
    let model = model.finish(&outputs);
    assert_eq!(kernels(&model, Numbers::F32, 2000), "twWwt");
    check(&model, 2000, &[&[64, 1, 62], &[129]]);
}

/// Many results of one layer, each read by a kernel of tiles: that kernel computes them of one value.
#[test]
fn tails_pass_on_no_more_than_their_layers() {
    let mut model = ModelBuilder::new(5);
    let x = dense(&mut model, Scope::Candidate, 32);
    let y = model.linear(x, 64);
    let mut outputs = Vec::new();
    for function in [UnaryFn::Tanh, UnaryFn::Sin, UnaryFn::Cos] {
        let z = model.op(Op::Unary { function, x: y });
        outputs.extend(sums(&mut model, z));
    }
    let model = model.finish(&outputs);
    assert_eq!(kernels(&model, Numbers::F32, 1024), "twt");
}

/// Three numbers of each normalization, and the layer's addend: of the third one registers hold no more.
#[test]
fn tails_hold_what_registers_can() {
    let operands = |normalizations: usize, has_addend: bool| {
        let mut model = ModelBuilder::new(6);
        let x = dense(&mut model, Scope::Candidate, 32);
        let mut y = model.linear(x, 64);
        if has_addend {
            // The part of a request's values is added by the layer.
            let context = dense(&mut model, Scope::Context, 32);
            let both = model.op(Op::Concat { xs: vec![x, context], axis: 0 });
            y = model.linear(both, 64);
        }
        for _ in 0..normalizations {
            y = model.op(Op::Unary { function: UnaryFn::Tanh, x: y });
            let [mean, weight, bias] = [(); 3].map(|()| model.tensor(&[64], 0.5));
            let var = model.tensor_of(&[64], TensorData::F32((0..64).map(|at| 0.5 + at as f32 / 64.0).collect()));
            y = model.op(Op::BatchNorm { x: y, axis: 0, mean, var, weight: Some(weight), bias: Some(bias), eps: 1e-3 });
        }
        let outputs = sums(&mut model, y);
        let model = model.finish(&outputs);
        check(&model, 2000, &[&[65]]);
        let source = Program::new(&model, &target(Numbers::F32, 2000)).expect("memory").source;
        let counts =
            source.lines().filter_map(|line| line.trim().strip_prefix("static constexpr int OPERANDS = ")?.strip_suffix(';')?.parse().ok());
        counts.max().unwrap_or(0)
    };
    let cases = [(1, false, 3), (2, false, 6), (3, false, 6), (1, true, 4), (2, true, 7), (3, true, 7)];
    for (normalizations, has_addend, expected) in cases {
        assert_eq!(operands(normalizations, has_addend), expected, "{normalizations} {has_addend}");
    }
}

/// What a wide layer and others read is written in both formats, by the kernel that makes it.
#[test]
fn wide_layers_read_narrow_copies() {
    let model = cross([60, 4], Some(9));
    let program = Program::new(&model, &target(Numbers::Bf16, 300)).expect("memory");
    let inputs =
        program.source.lines().filter_map(|line| line.split_once("WideBf16<")).map(|(_, rest)| rest.split_once(", ").expect("views").0);
    assert_eq!(inputs.filter(|x| !x.starts_with("Work<Bf16") && !x.starts_with("Kept<Bf16")).count(), 0, "{}", program.source);
    // The first step's result: f32 for the second product, bf16 for the second layer. The second's: f32.
    let stores = |end: &str| -> Vec<&str> {
        let end = program.source.split_once(end).expect("an end").1;
        let end = end.split_once("};\n}").map_or(end, |(own, _)| own);
        end.lines()
            .filter_map(|line| line.trim().strip_prefix("put_pair<Work<"))
            .map(|view| view.split_once(',').expect("a view").0)
            .collect()
    };
    let ends: Vec<&str> =
        program.source.match_indices("struct End").map(|(at, _)| program.source[at..].lines().next().expect("a line")).collect();
    assert_eq!(ends.len(), 2, "one for blocks of either size");
    assert_eq!((&stores(ends[0])[..2], stores(ends[1])), (&["float", "Bf16"][..], vec!["float"]));
}
