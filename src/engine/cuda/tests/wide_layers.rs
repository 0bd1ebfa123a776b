//! Wide layers in every way that there is: by warpgroups, and by cuBLASLt in builds with it, against the oracle and against mma.sync.
//!
//! On the emulator warpgroups are emulated for any architecture, and its stand-in multiplies for cuBLASLt.

#[cfg(feature = "cublaslt")]
mod cublaslt;

use std::sync::{Arc, Mutex, PoisonError};

use half::bf16;

use crate::engine::cpu::gemm::Activation;
use crate::engine::cpu::tests::batches::{self, Request};
use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::{Random, oracle};
use crate::engine::cuda::compile::headers;
use crate::engine::cuda::program::{Way, WideLayer};
use crate::model::*;

use super::super::{Numbers, Program, Target, Trial};
use super::emulator::{self, Cuda};
use super::{arch_of_gpu, only, run_program};

/// Short: the emulator takes milliseconds a row.
const TRIAL: Trial = Trial { rows: 70, turns: 1, launches: 1, prefer: None };
const WGMMA: Trial = Trial { prefer: Some("wgmma"), ..TRIAL };
const SHARED_BYTES: usize = 163 << 10;

/// `GAVEL_CUDA=real` on a device without warpgroups has none to test.
fn target() -> Option<Target> {
    let warpgroups = match emulator::cuda()? {
        Cuda::Emulated => true,
        Cuda::Real => arch_of_gpu().has_warpgroups(),
    };
    Some(Target { wide_from: 1 << 10, warpgroups, ..Target::new(SHARED_BYTES, Numbers::Bf16) })
}

/// One of the planned errors, or of the counts of a device, at a time.
fn turn() -> std::sync::MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A layer k to n over inputs that bf16 holds, with another one behind it so that its result lies between kernels, in bf16 unless it is `shown`.
fn chain(seed: u64, scope: Scope, [k, n]: [usize; 2], activation: Activation, shown: bool) -> Arc<Model> {
    let mut model = ModelBuilder::new(seed);
    let feature = model.dense(scope, k as u32);
    let x = model.op(Op::Dense { features: vec![feature] });
    let weights = |model: &mut ModelBuilder, k: usize, n: usize| -> Vec<f32> {
        (0..n * k).map(|_| bf16::from_f64(model.random.unit() / (k as f64).sqrt()).to_f32()).collect()
    };
    let data = weights(&mut model, k, n);
    let weight = model.tensor_of(&[n, k], TensorData::F32(data));
    let bias = model.tensor(&[n], 0.5);
    let y = model.op(Op::Linear { x, weight, bias: Some(bias) });
    let y = match activation {
        Activation::Sigmoid => model.op(Op::Sigmoid { x: y }),
        Activation::Relu => model.op(Op::Relu { x: y }),
        Activation::None => y,
    };
    let data = weights(&mut model, n, 40);
    let weight = model.tensor_of(&[40, n], TensorData::F32(data));
    let z = model.op(Op::Linear { x: y, weight, bias: None });
    let mut outputs: Vec<ValueId> =
        (0..8).map(|at| model.op(Op::Slice { x: z, axis: 0, start: at * 5, end: at * 5 + 1, step: 1 })).collect();
    if shown {
        // The first, the last and some between.
        outputs.extend([0, n / 3, n - 1].map(|at| model.op(Op::Slice { x: y, axis: 0, start: at, end: at + 1, step: 1 })));
    }
    if scope == Scope::Context {
        let feature = model.dense(Scope::Candidate, 1);
        outputs.push(model.op(Op::Dense { features: vec![feature] }));
    }
    model.finish(&outputs)
}

fn requests(model: &Model, rows: &[usize]) -> Vec<Request> {
    let mut random = Random::new(rows.len() as u64);
    rows.iter().map(|&rows| batches::request(model, &mut random, rows)).collect()
}

fn large(model: &Arc<Model>, target: &Target) -> Program {
    let program = Program::new(model, target).expect("memory");
    let last = program.variants.len() - 1;
    assert!(last > 0, "a variant of large tiles");
    only(program, last)
}

fn assert_close(scores: &[Vec<f32>], expected: &[Vec<f64>], tolerance: f64, what: &str) {
    for (request, (scores, expected)) in scores.iter().zip(expected).enumerate() {
        for (at, (&score, &expected)) in scores.iter().zip(expected).enumerate() {
            let error = (f64::from(score) - expected).abs();
            assert!(error <= tolerance * expected.abs().max(1.0), "{what}: request {request}, score {at}: {score} for {expected}");
        }
    }
}

fn widened(scores: &[Vec<f32>]) -> Vec<Vec<f64>> {
    scores.iter().map(|scores| scores.iter().map(|&score| f64::from(score)).collect()).collect()
}

/// Tails of rows, columns and inputs around a tile of 128 x 128 and a piece of 64, in strips of several blocks.
#[test]
fn warpgroups_compute_tails_as_warps_do() {
    let Some(target) = target().filter(|target| target.warpgroups) else { return };
    let _turn = turn();
    let shapes = [[64, 128], [63, 127], [65, 129], [128, 40], [257, 200], [33, 256]];
    for (at, shape) in shapes.into_iter().enumerate() {
        let activation = [Activation::None, Activation::Relu, Activation::Sigmoid][at % 3];
        let model = chain(at as u64, Scope::Candidate, shape, activation, at % 2 == 1);
        let rows: &[usize] = [&[127][..], &[100, 28], &[1, 0, 128], &[200, 57]][at % 4];
        let requests = requests(&model, rows);
        let (scores, choices) = run_program(large(&model, &target), &requests, Some(&WGMMA)).expect("a run");
        let (by_warps, _) = run_program(large(&model, &target), &requests, None).expect("a run");
        let names: Vec<&str> = choices.iter().map(|choice| choice.taken().name).collect();
        assert!(!names.is_empty() && names.iter().all(|name| *name == "wgmma"), "{shape:?}: {choices:#?}");
        let expected = oracle::scores(&model, &requests);
        // What lies between the layers is rounded to bf16.
        assert_close(&scores, &expected, 1e-2, &format!("{shape:?} by warpgroups"));
        assert_close(&scores, &widened(&by_warps), 2e-3, &format!("{shape:?} against warps"));
    }
}

/// A context's layers have rows of their own, and addends are looked up by context.
#[test]
fn warpgroups_compute_layers_of_contexts() {
    let Some(target) = target().filter(|target| target.warpgroups) else { return };
    let _turn = turn();
    let model = chain(9, Scope::Context, [70, 130], Activation::Relu, true);
    let requests = requests(&model, &[3, 0, 40, 1]);
    let (scores, choices) = run_program(large(&model, &target), &requests, Some(&WGMMA)).expect("a run");
    assert!(choices.iter().any(|choice| choice.kernel.starts_with("contexts") && choice.taken().name == "wgmma"), "{choices:#?}");
    assert_close(&scores, &oracle::scores(&model, &requests), 1e-2, "contexts");
}

/// Two cross layers of 72 columns: elementwise ops at the ends of the layers' kernels.
fn crosses() -> Arc<Model> {
    let mut model = ModelBuilder::new(12);
    let feature = model.dense(Scope::Candidate, 72);
    let x0 = model.op(Op::Dense { features: vec![feature] });
    let mut x = x0;
    for _ in 0..2 {
        let y = model.linear(x, 72);
        let product = model.op(Op::Mul { a: Operand::Value(x0), b: Operand::Value(y) });
        x = model.op(Op::Add { a: Operand::Value(product), b: Operand::Value(x) });
    }
    let outputs: Vec<ValueId> = [0, 35, 71].map(|at| model.op(Op::Slice { x, axis: 0, start: at, end: at + 1, step: 1 })).to_vec();
    model.finish(&outputs)
}

/// The tails of cross layers, of which cuBLASLt knows nothing.
#[test]
fn warpgroups_compute_tails_of_elementwise_ops() {
    let Some(target) = target().filter(|target| target.warpgroups) else { return };
    let _turn = turn();
    let model = crosses();
    let requests = requests(&model, &[130, 3]);
    let program = large(&model, &target);
    let tails: Vec<&WideLayer> = program.variants[0].launches.iter().filter_map(|launch| launch.layer.as_deref()).collect();
    assert!(
        !tails.is_empty() && tails.iter().all(|layer| layer.has_tail && matches!(layer.ways.as_slice(), [Way::Kernel(_)])),
        "{tails:#?}"
    );
    let (scores, choices) = run_program(program, &requests, Some(&WGMMA)).expect("a run");
    assert!(choices.iter().all(|choice| choice.taken().name == "wgmma"), "{choices:#?}");
    let (by_warps, _) = run_program(large(&model, &target), &requests, None).expect("a run");
    assert_close(&scores, &widened(&by_warps), 1e-3, "against warps");
}

/// A kernel that writes nothing at all: with a tail, too, results are no numbers before.
#[test]
fn what_writes_nothing_is_never_taken() {
    let Some(target) = target().filter(|target| target.warpgroups) else { return };
    let _turn = turn();
    for model in [chain(3, Scope::Candidate, [64, 100], Activation::None, false), crosses()] {
        let mut program = large(&model, &target);
        program.source = program.source.replace("Layer::run(job, shared);", "(void)job, (void)shared;");
        let (_, choices) = run_program(program, &requests(&model, &[3]), Some(&WGMMA)).expect("a run");
        for choice in &choices {
            let refused = choice.ways[1].refused.as_deref().unwrap_or_default();
            assert!(choice.taken().name != "wgmma" && refused.starts_with("row 0, column 0 is NaN instead of "), "{choice:?}");
        }
        assert!(!choices.is_empty());
    }
}

#[test]
fn choices_tell_what_was_measured() {
    let Some(target) = target().filter(|target| target.warpgroups) else { return };
    let _turn = turn();
    let model = chain(2, Scope::Candidate, [64, 100], Activation::None, false);
    let requests = requests(&model, &[5]);
    let (_, choices) = run_program(large(&model, &target), &requests, Some(&TRIAL)).expect("a run");
    assert_eq!(choices.len(), 2);
    for choice in &choices {
        let [judge, other, ..] = choice.ways.as_slice() else { panic!("{choice:?}") };
        assert_eq!((judge.name, other.name, choice.rows), ("mma.sync", "wgmma", TRIAL.rows));
        assert_eq!(choice.ways.iter().filter(|way| way.taken).count(), 1);
        let taken = choice.taken().microseconds.expect("it was timed");
        assert!(choice.ways.iter().all(|way| way.refused.is_none() && way.microseconds.is_some_and(|time| time >= taken)), "{choice:?}");
        assert!(other.difference.is_some_and(|share| share <= 1.0));
        let line = choice.to_string();
        assert!(line.contains("mma.sync ") && line.contains("TFLOP/s), differs by") && line.ends_with(" is taken"), "{line}");
    }
    let (_, choices) = run_program(large(&model, &target), &requests, None).expect("a run");
    assert!(choices.is_empty(), "nothing is measured unless it is asked for");
}

/// A kernel that computes something else is refused, however fast, and the rest of the batch is right.
#[test]
fn what_disagrees_is_never_taken() {
    let Some(target) = target().filter(|target| target.warpgroups) else { return };
    let _turn = turn();
    let model = chain(3, Scope::Candidate, [64, 100], Activation::None, false);
    let requests = requests(&model, &[30]);
    let mut program = large(&model, &target);
    let first = program.source.lines().find(|line| line.contains("WideHopper<")).expect("a kernel of warpgroups").to_owned();
    program.source = program.source.replace(&first, &first.replace("IDENTITY", "RELU"));
    let (scores, choices) = run_program(program, &requests, Some(&WGMMA)).expect("a run");
    let taken: Vec<&str> = choices.iter().map(|choice| choice.taken().name).collect();
    assert!(taken[0] != "wgmma" && taken[1] == "wgmma", "{taken:?}");
    let refused = &choices[0].ways[1];
    assert!(refused.difference.is_some_and(|share| share > 1.0) && refused.microseconds.is_none(), "{refused:?}");
    assert!(refused.refused.as_ref().is_some_and(|reason| reason.contains(" is 0 instead of -")), "{refused:?}");
    assert!(choices[0].to_string().contains("wgmma refused"), "{}", choices[0]);
    assert_close(&scores, &oracle::scores(&model, &requests), 1e-2, "the judge");
}

/// Bugs of the ring and of the operands' places: each is found out by the comparison, or by the emulator.
#[test]
fn planted_bugs_of_warpgroups_are_found() {
    let Some(target) = target() else { return };
    if emulator::cuda() != Some(Cuda::Emulated) {
        return;
    }
    let _turn = turn();
    // Pieces of eight rings, so that each place of the ring is used again.
    let model = chain(7, Scope::Candidate, [520, 136], Activation::None, false);
    let requests = requests(&model, &[3]);
    let file = headers().iter().find(|header| header.name == "wide_hopper.cuh").expect("the kernel's file");
    for (what, from, to) in [
        ("a piece is given free while products read it", "products_wait<1>();", "products_wait<2>();"),
        (
            "a piece is given free before the one before it",
            "ring.empty + (turn - 1) % STAGES);\n            }",
            "ring.empty + turn % STAGES);\n            }",
        ),
        ("pieces are brought into a ring that is full", "if (turn >= STAGES) {", "if (turn >= 2 * STAGES) {"),
        ("a piece is told before its copies are there", "cp_async_wait<BEHIND>();", "cp_async_wait<BEHIND + 1>();"),
        ("the next inputs are looked for too near", "w + step * 2 * (BN * 16)", "w + step * (BN * 16)"),
        ("groups of rows overlap", "unswizzled(x + step * 2 * ALONG_K, ALONG_K, 128)", "unswizzled(x + step * 2 * ALONG_K, ALONG_K, 64)"),
        ("fewer bytes are waited for", "barrier_expect(full, W_BYTES);", "barrier_expect(full, W_BYTES / 2);"),
    ] {
        assert_eq!(file.text.matches(from).count(), 1, "{what}: {from:?} in {}", file.name);
        let mut program = large(&model, &target);
        let planted = file.text.replace(from, to).replace("#pragma once", "");
        program.source = program.source.replace("#include \"wide_hopper.cuh\"", &planted);
        let found = match run_program(program, &requests, Some(&WGMMA)) {
            Ok((_, choices)) => choices[0].taken().name != "wgmma",
            Err(_) => true,
        };
        assert!(found, "{what}: nobody noticed");
    }
}

/// What breaks the device while it is tried is named, with what to do.
#[test]
fn a_fault_on_trial_names_the_way() {
    let Some(target) = target() else { return };
    if emulator::cuda() != Some(Cuda::Emulated) {
        return;
    }
    let _turn = turn();
    let model = chain(4, Scope::Candidate, [64, 100], Activation::None, false);
    let program = large(&model, &target);
    let way = program.kernels().find(|launch| launch.kernel.ends_with("_warpgroups")).expect("a way").kernel.clone();
    let source = program.source.replace(&format!(") {way}(Job job) {{"), &format!(") {way}(Job job) {{\n    unreachable_trap();"));
    let error = run_program(Program { source, ..program }, &requests(&model, &[3]), Some(&TRIAL)).expect_err("a fault").to_string();
    assert!(error.contains(" by wgmma (wide_layers = \"mma\" in [cuda]"), "{error}");
}

#[test]
fn large_batches_in_bf16_alone_have_ways() {
    let model = chain(6, Scope::Candidate, [64, 200], Activation::None, false);
    let usual = Target { wide_from: 1 << 10, ..Target::new(SHARED_BYTES, Numbers::Bf16) };
    for (warpgroups, numbers, expected) in [(false, Numbers::Bf16, 0), (true, Numbers::F32, 0), (true, Numbers::Bf16, 2)] {
        let program = Program::new(&model, &Target { warpgroups, numbers, ..usual }).expect("memory");
        assert_eq!(program.source.contains("WideHopper<"), expected > 0, "{warpgroups} {numbers:?}");
        assert_eq!(program.source.contains("wide_hopper.cuh"), expected > 0);
        for (at, variant) in program.variants.iter().enumerate() {
            let by_kernels = |launch: &super::super::Launch| launch.kernels().count() - 1;
            let count: usize = variant.launches.iter().map(by_kernels).sum();
            assert_eq!(count, if at == 0 { 0 } else { expected }, "{warpgroups} {numbers:?} variant {at}");
            let wide = variant.launches.iter().filter(|launch| launch.layer.is_some());
            assert!(wide.clone().all(|launch| launch.threads == 256), "the judge is in the launch's place");
            for layer in wide.filter_map(|launch| launch.layer.as_deref()) {
                assert_eq!(layer.lengths.len(), layer.n);
                assert!(
                    layer
                        .ways
                        .iter()
                        .all(|way| matches!(way, Way::Kernel(launch) if launch.threads == 384) || matches!(way, Way::Product(_)))
                );
            }
        }
    }
}
