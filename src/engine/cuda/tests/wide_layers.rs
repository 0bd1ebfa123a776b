//! Wide layers in every way that there is: by warpgroups, and by cuBLASLt in builds with it, against the oracle and against mma.sync.
//!
//! On the emulator warpgroups are emulated for any architecture, and its stand-in multiplies for cuBLASLt.

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

#[cfg(feature = "cublaslt")]
mod cublaslt {
    use crate::batch::SlotLimits;
    use crate::engine::cuda::buckets::shape;
    use crate::engine::cuda::calls::Call;
    use crate::engine::cuda::driver::{Blas, BlasUnavailable};
    use crate::engine::cuda::{Device, DeviceOptions, LayerChoice, Loaded};

    use super::super::{TURN, compile, run_planned};
    use super::*;

    const LIBRARY: Trial = Trial { prefer: Some("cuBLASLt"), ..TRIAL };

    /// As for others, where the library is: the emulator has it, a machine may not.
    fn target() -> Option<Target> {
        let target = super::target()?;
        let device = Device::open(DeviceOptions::default()).expect("a device");
        match Blas::open(device.context()) {
            Ok(_) => Some(target),
            Err(reason) if emulator::cuda() == Some(Cuda::Real) => {
                println!("skipped: {reason}");
                None
            }
            Err(reason) => panic!("the emulator's library: {reason}"),
        }
    }

    fn taken(choices: &[LayerChoice]) -> Vec<&'static str> {
        choices.iter().map(|choice| choice.taken().name).collect()
    }

    fn ways(choices: &[LayerChoice]) -> Vec<Vec<&'static str>> {
        choices.iter().map(|choice| choice.ways.iter().map(|way| way.name).collect()).collect()
    }

    #[test]
    fn the_library_computes_as_warps_do() {
        let Some(target) = target() else { return };
        let _turn = turn();
        // Layers of 40 columns are stored in f32, those that layers alone read in bf16.
        for (at, shape) in [[64, 128], [80, 96], [128, 40], [264, 200]].into_iter().enumerate() {
            let activation = [Activation::None, Activation::Relu][at % 2];
            let model = chain(at as u64, Scope::Candidate, shape, activation, at == 3);
            let requests = requests(&model, &[[60, 70], [1, 0]][at % 2]);
            let (scores, choices) = run_program(large(&model, &target), &requests, Some(&LIBRARY)).expect("a run");
            assert!(taken(&choices).contains(&"cuBLASLt"), "{shape:?}: {choices:#?}");
            assert_close(&scores, &oracle::scores(&model, &requests), 1e-2, &format!("{shape:?}"));
        }
    }

    /// A product is for all rows that there may be, and contexts are seldom as many.
    #[test]
    fn layers_of_contexts_are_ours() {
        let Some(target) = target() else { return };
        let _turn = turn();
        let model = chain(9, Scope::Context, [72, 136], Activation::Relu, false);
        let requests = requests(&model, &[3, 0, 40, 1]);
        let (scores, choices) = run_program(large(&model, &target), &requests, Some(&LIBRARY)).expect("a run");
        let names = ways(&choices);
        assert!(!names.concat().contains(&"cuBLASLt") && names.len() == usize::from(target.warpgroups) * 2, "{choices:#?}");
        assert_close(&scores, &oracle::scores(&model, &requests), 1e-2, "contexts");
    }

    /// What the library cannot do as our kernels do is not offered to it.
    #[test]
    fn sigmoids_and_inputs_in_f32_are_ours() {
        let target = Target { wide_from: 1 << 10, ..Target::new(SHARED_BYTES, Numbers::Bf16) };
        // Ways of the library, and yardsticks.
        let offered = |model: &Arc<Model>| {
            let program = Program::new(model, &target).expect("memory");
            let launches = &program.variants.last().expect("a variant").launches;
            let layers = || launches.iter().filter_map(|launch| launch.layer.as_deref());
            let ways = layers().flat_map(|layer| &layer.ways).filter(|way| matches!(way, Way::Product(_))).count();
            [ways, layers().filter(|layer| layer.yardstick.is_some()).count()]
        };
        assert_eq!(offered(&chain(1, Scope::Candidate, [64, 128], Activation::None, false)), [2, 0]);
        assert_eq!(offered(&chain(1, Scope::Candidate, [64, 128], Activation::Sigmoid, false)), [1, 0]);
        assert_eq!(
            offered(&chain(1, Scope::Candidate, [64, 128], Activation::None, true)),
            [1, 1],
            "what is shown is a copy, made at the end of the first layer"
        );
    }

    /// A layer over inputs of both scopes: what the context gives is added to the candidates'.
    fn added() -> Arc<Model> {
        let mut model = ModelBuilder::new(13);
        let (context, candidate) = (model.dense(Scope::Context, 64), model.dense(Scope::Candidate, 64));
        let context = model.op(Op::Dense { features: vec![context] });
        let candidate = model.op(Op::Dense { features: vec![candidate] });
        let x = model.op(Op::Concat { xs: vec![context, candidate], axis: 0 });
        let y = model.linear(x, 128);
        let y = model.op(Op::Relu { x: y });
        let z = model.linear(y, 40);
        let outputs: Vec<ValueId> = [0, 19, 39].map(|at| model.op(Op::Slice { x: z, axis: 0, start: at, end: at + 1, step: 1 })).to_vec();
        model.finish(&outputs)
    }

    /// Timed beside the ways of a layer, never in its place, whatever is preferred.
    #[test]
    fn layers_with_tails_or_addends_have_a_yardstick() {
        let Some(target) = target() else { return };
        let _turn = turn();
        for (model, leaves_out) in [(crosses(), "the tail"), (added(), "the addend")] {
            let requests = requests(&model, &[30, 3]);
            let (scores, choices) = run_program(large(&model, &target), &requests, Some(&LIBRARY)).expect("a run");
            let found = choices.iter().flat_map(|choice| choice.ways.iter().map(move |way| (choice, way)));
            let reason = format!("yardstick: leaves out {leaves_out}");
            let yardsticks: Vec<_> = found.filter(|(_, way)| way.refused.as_ref() == Some(&reason)).collect();
            assert!(!yardsticks.is_empty(), "{leaves_out}: {choices:#?}");
            for (choice, way) in yardsticks {
                assert_eq!((way.name, way.taken, way.difference), ("cuBLASLt", false, None), "{choice:?}");
                assert!(way.microseconds.is_some() && way.teraflops.is_some_and(|rate| rate > 0.0), "{choice:?}");
                assert!(choice.taken().name != "cuBLASLt" && choice.to_string().contains(&format!(" TFLOP/s), {reason}")), "{choice}");
            }
            let (by_warps, _) = run_program(large(&model, &target), &requests, None).expect("a run");
            assert_close(&scores, &widened(&by_warps), 1e-3, leaves_out);
        }
    }

    /// One that the library refuses, or computes wrong, is a yardstick that is not there, or as good as any.
    #[test]
    fn yardsticks_are_refused_alone() {
        if emulator::cuda() != Some(Cuda::Emulated) {
            return;
        }
        let Some(target) = target() else { return };
        let _turn = turn();
        let model = crosses();
        let plans: Vec<String> = (1..=3).map(|nth| format!("cublasLtMatmul:{nth}:1")).collect();
        let (_, choices) = run_planned(large(&model, &target), &requests(&model, &[20]), Some(&WGMMA), &plans.join(",")).expect("a run");
        let of_library = |choice: &LayerChoice| choice.ways.iter().find(|way| way.name == "cuBLASLt").cloned().expect("a yardstick");
        let [refused, timed] = [&choices[0], &choices[1]].map(of_library);
        assert!(refused.microseconds.is_none() && refused.refused.is_some_and(|reason| reason.contains("status 13")), "{choices:#?}");
        assert!(timed.microseconds.is_some(), "{choices:#?}");
        assert!(choices.iter().all(|choice| choice.taken().name == "wgmma"), "{choices:#?}");
    }

    #[test]
    fn wrong_and_refused_products_are_not_taken() {
        if emulator::cuda() != Some(Cuda::Emulated) {
            return;
        }
        let Some(target) = target() else { return };
        let target = Target { warpgroups: false, ..target };
        let _turn = turn();
        let model = chain(5, Scope::Candidate, [64, 128], Activation::None, false);
        let requests = requests(&model, &[20]);
        // Two layers of three proposals each; every call of a trial counts: three to compare, then those that are timed.
        let wrong = ("result:cublasLtMatmul", 1, "times what rounding explains");
        let refused = [1, 4].map(|first| ("cublasLtMatmul", first, "cuBLASLt answers status 13"));
        for (plan, first, reason) in [wrong].into_iter().chain(refused) {
            let all: Vec<String> = (first..first + 3).map(|nth| format!("{plan}:{nth}:1")).collect();
            let run = || run_planned(large(&model, &target), &requests, Some(&LIBRARY), &all.join(",")).expect("a run");
            let (scores, choices) = run();
            let scores = scores.expect("a batch that does not fail");
            assert_eq!(taken(&choices), ["mma.sync", "cuBLASLt"], "{choices:#?}");
            let refused = choices[0].ways[1].refused.as_ref().expect("it was refused");
            assert!(refused.contains(reason), "{refused}");
            assert_close(&scores, &oracle::scores(&model, &requests), 1e-2, plan);
        }
        let (_, choices) = run_planned(large(&model, &target), &requests, Some(&LIBRARY), "result:cublasLtMatmul:1:1").expect("a run");
        assert_eq!(taken(&choices), ["cuBLASLt", "cuBLASLt"], "another proposal agrees");
    }

    /// Our kernel computes such batches, the library the others; told once, whatever the number of slots.
    #[test]
    fn rows_that_the_library_refuses_are_ours() {
        if emulator::cuda() != Some(Cuda::Emulated) {
            return;
        }
        let Some(target) = target() else { return };
        let _turn = turn();
        let model = chain(5, Scope::Candidate, [64, 128], Activation::None, false);
        let requests = requests(&model, &[20]);
        // The question whether the chosen way can.
        let refusal = "rows:20:1:15";
        let (scores, choices) = run_planned(large(&model, &target), &requests, Some(&LIBRARY), refusal).expect("a run");
        assert_eq!(taken(&choices), ["cuBLASLt", "cuBLASLt"]);
        assert_close(&scores.expect("scores"), &oracle::scores(&model, &requests), 1e-2, "20 rows");

        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        emulator::reset();
        let program = large(&model, &target);
        let code = compile(&program).expect("code");
        let device = Device::open(DeviceOptions::default()).expect("the emulator");
        let loaded = Loaded::new(&device, Arc::new(program), &code).expect("memory");
        loaded.choose_wide_layers(&LIBRARY).expect("a choice");
        let limits = SlotLimits { contexts: 1, rows: 20, ids: 1 };
        let products = |rows: usize| {
            let shape = shape(&loaded, rows, limits);
            let layers = shape.variant.launches.iter().zip(&shape.calls).filter(|(launch, _)| launch.layer.is_some());
            layers.map(|(_, call)| matches!(call, Call::Product { .. })).collect::<Vec<bool>>()
        };
        let lines = Lines::default();
        tracing::subscriber::with_default(lines.subscriber(), || {
            emulator::fail(refusal);
            let found = [20, 20, 16].map(products);
            assert_eq!(found, [[false, true], [false, true], [true, true]]);
        });
        let text = lines.text();
        let name = &choices[0].layer;
        let expected = format!(
            "layer {name} is computed by mma.sync, not by cuBLASLt, in the graph for 20 candidates: \
             asking cuBLASLt whether it multiplies another number of rows so, too: cuBLASLt answers status 15"
        );
        assert!(text.lines().count() == 1 && text.contains(&expected), "{text}");
    }

    /// Warnings of a test.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + use<> {
            let writer = self.clone();
            tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::WARN).with_writer(move || writer.clone()).finish()
        }

        fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
        }
    }

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Of another version neither the interface nor the codes are known.
    #[test]
    fn libraries_of_another_version_are_not_called() {
        if emulator::cuda() != Some(Cuda::Emulated) {
            return;
        }
        let Some(target) = target() else { return };
        let _turn = turn();
        for (version, named) in [(130_100, "13.1"), (110_205, "11.2")] {
            let plan = format!("cublasLtGetVersion:1:{version}");
            let opened = {
                let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
                emulator::reset();
                let device = Device::open(DeviceOptions::default()).expect("the emulator");
                emulator::fail(&plan);
                Blas::open(device.context()).map(|_| ())
            };
            assert_eq!(opened, Err(BlasUnavailable::WrongVersion { found: version }));
            let reason = opened.expect_err("another version").to_string();
            assert!(reason.contains(&format!("has version {named}, and version 12 is needed")), "{reason}");
            let model = chain(5, Scope::Candidate, [64, 128], Activation::None, false);
            let (_, choices) = run_planned(large(&model, &target), &requests(&model, &[20]), Some(&LIBRARY), &plan).expect("a run");
            assert_eq!(ways(&choices), [["mma.sync", "wgmma"]; 2], "{choices:#?}");
        }
    }

    /// A code that the binding does not know is a number like others.
    #[test]
    fn unknown_answers_of_the_library_are_refusals() {
        if emulator::cuda() != Some(Cuda::Emulated) {
            return;
        }
        let Some(target) = target() else { return };
        let _turn = turn();
        let model = chain(5, Scope::Candidate, [64, 128], Activation::None, false);
        // The first question is for the first layer.
        let plan = format!("rows:{}:1:4321", LIBRARY.rows);
        let (_, choices) = run_planned(large(&model, &target), &requests(&model, &[20]), Some(&LIBRARY), &plan).expect("a run");
        assert_eq!(ways(&choices), [vec!["mma.sync", "wgmma"], vec!["mma.sync", "wgmma", "cuBLASLt"]], "{choices:#?}");
    }

    /// In a process of its own, since this one has the library open.
    #[test]
    fn a_missing_library_leaves_our_kernels() {
        if emulator::cuda() != Some(Cuda::Emulated) {
            return;
        }
        if std::env::var(emulator::WITHOUT).is_err() {
            let test = "engine::cuda::tests::wide_layers::cublaslt::a_missing_library_leaves_our_kernels";
            let child = std::process::Command::new(std::env::current_exe().expect("the test's own path"))
                .args(["--exact", test, "--nocapture"])
                .env(emulator::WITHOUT, "libcublasLt.so.12")
                .output()
                .expect("a process");
            let text = String::from_utf8_lossy(&child.stdout);
            assert!(child.status.success() && text.contains("1 passed"), "{text}\n{}", String::from_utf8_lossy(&child.stderr));
            return;
        }
        let Some(target) = super::target() else { return };
        let model = chain(5, Scope::Candidate, [64, 128], Activation::None, false);
        let (_, choices) = run_program(large(&model, &target), &requests(&model, &[20]), Some(&LIBRARY)).expect("a run");
        assert_eq!(ways(&choices), [["mma.sync", "wgmma"]; 2], "{choices:#?}");
    }
}
