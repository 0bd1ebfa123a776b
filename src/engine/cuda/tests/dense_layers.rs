//! Dense layers and dot interactions, in f32 and on tensor cores.
//!
//! Inputs (eighths below 4), tables and the weights of first layers are numbers that bf16 holds, so that a product on tensor cores differs from
//! f64 only as much as sums of f32 do, and an operand in a wrong place shows.

use std::path::Path;
use std::sync::Arc;

use half::bf16;

use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::{Random, batches, oracle};
use crate::model::*;

use super::super::{Numbers, Program, Target};
use super::{SHARED_BYTES, check, check_in, emulator, run, targets};

const NUMBERS: [Numbers; 2] = [Numbers::F32, Numbers::Bf16];

/// A layer whose weights bf16 holds.
fn layer(model: &mut ModelBuilder, x: ValueId, n: usize) -> ValueId {
    let k = *model.shape(x).last().expect("an axis");
    let data = (0..n * k).map(|_| bf16::from_f64(model.random.unit() / (k as f64).sqrt()).to_f32()).collect();
    let weight = model.tensor_of(&[n, k], TensorData::F32(data));
    let bias = model.tensor(&[n], 0.5);
    model.op(Op::Linear { x, weight, bias: Some(bias) })
}

/// All elements of these values.
fn elements(model: &mut ModelBuilder, values: &[ValueId]) -> Vec<ValueId> {
    let mut elements = Vec::new();
    for &x in values {
        let len = model.graph.value(x).len();
        let flat = model.op_as(Op::Reshape { x }, vec![len], DType::F32);
        elements.extend((0..len).map(|at| model.op(Op::Slice { x: flat, axis: 0, start: at, end: at + 1, step: 1 })));
    }
    elements
}

/// One element in some, and always the first and the last.
fn some_elements(model: &mut ModelBuilder, x: ValueId, most: usize) -> Vec<ValueId> {
    let len = model.graph.value(x).len();
    let step = len.div_ceil(most).max(1);
    let at: Vec<usize> = (0..len - 1).step_by(step).chain([len - 1]).collect();
    at.into_iter().map(|at| model.op(Op::Slice { x, axis: 0, start: at, end: at + 1, step: 1 })).collect()
}

fn dense(model: &mut ModelBuilder, scope: Scope, width: usize) -> ValueId {
    let feature = model.dense(scope, width as u32);
    model.op(Op::Dense { features: vec![feature] })
}

fn requests(model: &Model, rows: &[usize]) -> Vec<batches::Request> {
    let mut random = Random::new(rows.len() as u64);
    rows.iter().map(|&rows| batches::request(model, &mut random, rows)).collect()
}

#[test]
fn layers_of_awkward_shapes() {
    let shapes = [
        [1, 1],
        [7, 9],
        [8, 8],
        [9, 7],
        [15, 17],
        [16, 16],
        [17, 15],
        [31, 33],
        [33, 31],
        [64, 64],
        [100, 1],
        [1, 100],
        [368, 24],
        [13, 368],
    ];
    for (at, chunk) in shapes.chunks(5).enumerate() {
        let mut model = ModelBuilder::new(at as u64);
        let mut outputs = vec![];
        for (turn, [k, n]) in chunk.iter().copied().enumerate() {
            let scope = if turn == 2 { Scope::Context } else { Scope::Candidate };
            let x = dense(&mut model, scope, k);
            let y = layer(&mut model, x, n);
            let y = match turn % 3 {
                0 => y,
                1 => model.op(Op::Relu { x: y }),
                _ => model.op(Op::Sigmoid { x: y }),
            };
            outputs.extend(some_elements(&mut model, y, 40));
        }
        let model = model.finish(&outputs);
        let rows: &[usize] = [&[1usize][..], &[15, 1], &[17, 46, 2]][at % 3];
        for numbers in NUMBERS {
            check_in(numbers, &model, &requests(&model, rows), 1e-5);
        }
    }
}

/// Inputs of a tile's layers are not rounded to bf16: 16 bits of them are kept.
#[test]
fn inputs_of_tiles_are_whole() {
    if emulator::cuda().is_none() {
        return;
    }
    let mut model = ModelBuilder::new(3);
    let x = dense(&mut model, Scope::Candidate, 70);
    // Numbers that bf16 does not hold.
    let x = model.op(Op::Unary { function: UnaryFn::Sin, x });
    let y = layer(&mut model, x, 24);
    let outputs = some_elements(&mut model, y, 24);
    let model = model.finish(&outputs);
    let target = Target::new(SHARED_BYTES, Numbers::Bf16);
    let requests = requests(&model, &[17, 50]);
    let expected = oracle::scores(&model, &requests);
    for variant in 0..Program::new(&model, &target).expect("memory").variants.len() {
        let scores = run(&model, &target, variant, &requests).expect("a run");
        for (score, expected) in scores.iter().flatten().zip(expected.iter().flatten()) {
            assert!((f64::from(*score) - expected).abs() < 5e-5, "{score} for {expected}");
        }
    }
}

#[test]
fn layers_over_inner_rows_and_parts_of_values() {
    for (seed, [inner, k, n]) in [[2, 16, 8], [3, 7, 9], [5, 33, 17], [4, 8, 1]].into_iter().enumerate() {
        let mut model = ModelBuilder::new(seed as u64);
        let of_candidate = dense(&mut model, Scope::Candidate, inner * k);
        let of_context = dense(&mut model, Scope::Context, 3);
        // A part that starts at an odd element, and one that is read by other ops, too.
        let both = model.op(Op::Concat { xs: vec![of_context, of_candidate], axis: 0 });
        let part = model.op(Op::Slice { x: both, axis: 0, start: 1, end: 3 + inner * k, step: 1 });
        let whole = layer(&mut model, part, n + 1);
        let x = model.op_as(Op::Reshape { x: of_candidate }, vec![inner, k], DType::F32);
        let y = layer(&mut model, x, n);
        let doubled = model.op(Op::Add { a: Operand::Value(x), b: Operand::Value(x) });
        let z = layer(&mut model, doubled, n);
        let z = model.op(Op::Relu { x: z });
        let outputs = elements(&mut model, &[whole, y, z]);
        let model = model.finish(&outputs);
        for numbers in NUMBERS {
            check_in(numbers, &model, &requests(&model, &[3, 0, 16]), 1e-5);
        }
    }
}

/// Models as they are trained: as exact as bf16 is.
#[test]
fn golden_models_on_tensor_cores() {
    for name in ["dlrm", "dcn", "mmoe"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(name);
        let options = LoadOptions { name: Some(name.to_owned()), version: 1 };
        let model = Arc::new(load(&folder, &options, &mut |_| {}).expect("a good bundle"));
        check_in(Numbers::Bf16, &model, &requests(&model, &[2, 31]), 2e-2);
    }
}

/// Rounds between layers: as exact as bf16 is.
#[test]
fn chains_of_layers_keep_narrow_values() {
    let mut model = ModelBuilder::new(7);
    let (of_candidate, of_context) = (dense(&mut model, Scope::Candidate, 20), dense(&mut model, Scope::Context, 12));
    let x = model.op(Op::Concat { xs: vec![of_candidate, of_context], axis: 0 });
    let x = model.mlp(x, &[100, 64, 33]);
    let y = model.op(Op::Relu { x });
    let one = model.linear(y, 1);
    let out = model.op(Op::Sigmoid { x: one });
    let model = model.finish(&[out]);
    check(&model, &requests(&model, &[5, 60, 1]), 1e-5);
    check_in(Numbers::Bf16, &model, &requests(&model, &[5, 60, 1]), 1e-2);
}

#[test]
fn interactions_of_vectors_of_several_values() {
    for (seed, [count, of_context, dim]) in
        [[2, 1, 16], [5, 2, 4], [9, 9, 5], [27, 14, 16], [33, 1, 33], [40, 13, 12]].into_iter().enumerate()
    {
        let mut model = ModelBuilder::new(seed as u64);
        let mut vectors = vec![];
        for at in 0..count {
            let scope = if at * 7 % count < of_context { Scope::Context } else { Scope::Candidate };
            let table = model.table_of(TableDType::Bf16, 20, dim as u32);
            let feature = model.sparse(scope, 1, 1, table, false);
            let vector = model.op(Op::Lookup { feature, table, pool: Pool::Sum });
            vectors.push(model.op_as(Op::Reshape { x: vector }, vec![1, dim], DType::F32));
        }
        let x = model.op(Op::Concat { xs: vectors, axis: 0 });
        let product = model.op(Op::MatMul { a: x, b: x, transpose_a: false, transpose_b: true });
        let flat = model.op_as(Op::Reshape { x: product }, vec![count * count], DType::F32);
        let below = (0..count).flat_map(|i| (0..i).map(move |j| i * count + j));
        let diagonal = (0..count).map(|i| i * count + i);
        let above = (0..count).flat_map(|i| (i + 1..count).map(move |j| i * count + j));
        let indices: Vec<usize> = match seed % 3 {
            0 => below.collect(),
            1 => below.chain(diagonal).chain(above).collect(),
            _ => above.chain([1, 1, count]).collect(),
        };
        let pairs = model.op(Op::GatherConst { x: flat, axis: 0, indices });
        let outputs = some_elements(&mut model, pairs, 150);
        let model = model.finish(&outputs);
        for numbers in NUMBERS {
            check_in(numbers, &model, &requests(&model, &[1, 17, 0]), 1e-5);
        }
    }
}

#[test]
fn scores_do_not_depend_on_the_tile() {
    if emulator::cuda().is_none() {
        return;
    }
    let mut model = ModelBuilder::new(11);
    let x = dense(&mut model, Scope::Candidate, 133);
    let narrow = model.linear(x, 3);
    let wide = model.linear(x, 100);
    let wide = model.op(Op::Relu { x: wide });
    let inner = model.op_as(Op::Reshape { x: wide }, vec![2, 50], DType::F32);
    let inner = model.linear(inner, 5);
    let last = model.linear(wide, 1);
    let outputs = elements(&mut model, &[narrow, inner, last]);
    let model = model.finish(&outputs);
    let requests = requests(&model, &[40, 33]);
    for numbers in NUMBERS {
        for target in targets(numbers) {
            let variants = Program::new(&model, &target).expect("memory").variants.len();
            let bits = |variant| -> Vec<u32> {
                let scores = run(&model, &target, variant, &requests).expect("a run");
                scores.iter().flatten().map(|score| score.to_bits()).collect()
            };
            let expected = bits(0);
            (1..variants).for_each(|variant| assert!(bits(variant) == expected, "{target:?}"));
        }
    }
}

#[test]
fn values_that_wide_layers_alone_read_are_narrow() {
    let source = |numbers, shown: bool| {
        let mut model = ModelBuilder::new(5);
        let x = dense(&mut model, Scope::Candidate, 64);
        let y = model.linear(x, 200);
        let z = model.linear(y, 8);
        let last = model.linear(z, 1);
        let seen = model.op(Op::Slice { x: y, axis: 0, start: 0, end: 1, step: 1 });
        let model = model.finish(&[last, seen][..1 + usize::from(shown)]);
        let target = Target { wide_from: 1 << 10, ..Target::new(SHARED_BYTES, numbers) };
        Program::new(&model, &target).expect("memory").source
    };
    // Where it is shown as well, the first layer ends with a copy for the second.
    for (shown, first) in [(false, vec!["Bf16", "Bf16"]), (true, vec!["Bf16"])] {
        let text = source(Numbers::Bf16, shown);
        assert_eq!(text.contains("struct End"), shown);
        // Elements of X and of the result.
        let layers = text.lines().filter_map(|line| line.split_once("WideBf16<")).map(|(_, arguments)| {
            let elements = arguments.split("Work<").skip(1).take(2).map(|view| view.split(',').next().unwrap_or_default());
            elements.collect::<Vec<_>>()
        });
        assert_eq!(layers.take(2).collect::<Vec<_>>(), [first, vec!["Bf16", "float"]], "shown: {shown}");
        assert!(!source(Numbers::F32, shown).contains("<Bf16"));
    }
}
