//! NVIDIA's library beside our kernels of wide layers: taken, refused, missing, of another version.

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
