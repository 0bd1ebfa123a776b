//! Generated kernels against an independent f64 evaluation: on the emulator, or on a GPU with `GAVEL_CUDA=real` in the environment.
//!
//! With `GAVEL_ENGINE_TESTS=cuda` the CPU engine's own tests check their models here, too ([`check_also`]).

#[path = "../../../../tests/support/emulator.rs"]
mod emulator;

mod axes;
mod dense_layers;
mod elementwise;
mod lookups;
mod mixtures;
mod planted;
mod products;
mod recurrent;
mod registers;
mod sizes;
mod tails;
mod trees;
mod wide_layers;
mod window;

use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::cpu::tests::batches::{self, Request};
use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::kernels::elements;
use crate::engine::cpu::tests::{Bench, Random, oracle};
use crate::engine::cpu::{Hoist, Simd};
use crate::engine::{Engine, EngineError, Prepared, Step};
use crate::model::{DType, Model, Op, ValueId};
use crate::units::{Clock, Instant};

use self::emulator::Cuda;
use super::compile::{Arch, CompileOptions, Cubins};
use super::{CudaEngine, Device, DeviceOptions, LayerChoice, Loaded, Numbers, Program, Target, Trial};

/// Runs requests in f32, with and without passes, in tiles of every size, and compares each score with the oracle's.
pub fn check(model: &Arc<Model>, requests: &[Request], tolerance: f64) {
    check_in(Numbers::F32, model, requests, tolerance);
}

/// The same in other numbers.
pub fn check_in(numbers: Numbers, model: &Arc<Model>, requests: &[Request], tolerance: f64) {
    compare(numbers, model, requests, &oracle::scores(model, requests), tolerance);
}

/// The same, with the CPU engine's scores: the oracle knows neither integers that wrap nor what becomes of NaN.
pub fn check_like_cpu(model: &Arc<Model>, requests: &[Request], tolerance: f64) {
    let (scores, _) = Bench::new(model, Simd::detect(), batches::limits(requests)).run(requests, Instant::NEVER);
    let expected: Vec<Vec<f64>> = scores.iter().map(|scores| scores.iter().map(|&score| f64::from(score)).collect()).collect();
    compare(Numbers::F32, model, requests, &expected, tolerance);
}

fn compare(numbers: Numbers, model: &Arc<Model>, requests: &[Request], expected: &[Vec<f64>], tolerance: f64) {
    compare_on(&targets(numbers), model, requests, expected, tolerance);
}

/// On certain targets.
fn compare_on(targets: &[Target], model: &Arc<Model>, requests: &[Request], expected: &[Vec<f64>], tolerance: f64) {
    if emulator::cuda().is_none() {
        return;
    }
    for target in targets {
        let variants = Program::new(model, target).expect("memory").variants.len();
        for variant in 0..variants {
            let scores = run(model, target, variant, requests).unwrap_or_else(|error| panic!("{target:?}: {error}\n{:#?}", model.graph));
            for (request, (scores, expected)) in scores.iter().zip(expected).enumerate() {
                assert_eq!(scores.len(), expected.len());
                for (at, (&score, &expected)) in scores.iter().zip(expected).enumerate() {
                    let error = (f64::from(score) - expected).abs();
                    assert!(
                        error <= tolerance * expected.abs().max(1.0),
                        "{target:?}, variant {variant}: request {request}, score {at}: {score} for {expected}\n{:#?}",
                        model.graph
                    );
                }
            }
        }
    }
}

/// Checks values of one model, in requests of so many candidates: of long values three sums with random factors.
fn check_values(seed: u64, rows: &[usize], make: impl FnOnce(&mut ModelBuilder) -> Vec<ValueId>) {
    let mut model = ModelBuilder::new(seed);
    let mut outputs = Vec::new();
    for x in make(&mut model) {
        let len = model.shape(x).iter().product();
        let flat = model.op_as(Op::Reshape { x }, vec![len], DType::F32);
        let few = if len > 4 { model.linear(flat, 3) } else { flat };
        outputs.extend(elements(&mut model, few));
    }
    let model = model.finish(&outputs);
    let mut random = Random::new(seed);
    let requests: Vec<_> = rows.iter().map(|&rows| batches::request(&model, &mut random, rows)).collect();
    check(&model, &requests, 1e-5);
}

/// [`check`] for tests of other engines, where the environment asks for it: it takes seconds per model.
pub fn check_also(model: &Arc<Model>, requests: &[Request], tolerance: f64) {
    if wants_all() {
        check(model, requests, tolerance);
    }
}

/// Plans that put values into every kind of memory; where the environment asks for all, one without passes, too.
fn targets(numbers: Numbers) -> Vec<Target> {
    let usual = Target::new(SHARED_BYTES, numbers);
    let mut targets = vec![
        usual,
        // Values between kernels, and values that do not fit into shared memory.
        Target { hoist: Hoist::Everything, wide_from: 64, shared_limit: 4096, ..usual },
    ];
    if wants_all() {
        targets.push(Target { hoist: Hoist::Everything, wide_from: 64, ..usual });
        targets.push(Target { hoist: Hoist::Nothing, fuse: false, shared_limit: 4096, ..usual });
    }
    targets
}

/// Whether the environment asks for tests that take long.
fn wants_all() -> bool {
    std::env::var("GAVEL_ENGINE_TESTS").is_ok_and(|engine| engine == "cuda")
}

/// Per request, [rows][outputs]; empty for dead ones.
type Scores = Vec<Vec<f32>>;

/// Scores of one batch.
fn run(model: &Arc<Model>, target: &Target, variant: usize, requests: &[Request]) -> Result<Vec<Vec<f32>>, EngineError> {
    run_batch(model, target, variant, requests).map(|scores| scores.expect("a batch that does not fail"))
}

/// The same; `None` if the batch failed and the device goes on.
fn run_batch(model: &Arc<Model>, target: &Target, variant: usize, requests: &[Request]) -> Result<Option<Vec<Vec<f32>>>, EngineError> {
    run_planned(only(Program::new(model, target)?, variant), requests, None, "").map(|(scores, _)| scores)
}

/// A program with one of its variants, for batches of all sizes.
fn only(mut program: Program, variant: usize) -> Program {
    program.variants.swap(0, variant);
    program.variants.truncate(1);
    program.variants[0].rows_from = 0;
    program
}

/// Scores per request, after a choice of how wide layers are computed where a trial is named.
fn run_program(program: Program, requests: &[Request], trial: Option<&Trial>) -> Result<(Scores, Vec<LayerChoice>), EngineError> {
    let (scores, choices) = run_planned(program, requests, trial, "")?;
    Ok((scores.expect("a batch that does not fail"), choices))
}

/// The same with errors that the emulator is told to make once the program is loaded; no scores if the batch failed and the device goes on.
fn run_planned(
    program: Program,
    requests: &[Request],
    trial: Option<&Trial>,
    plan: &str,
) -> Result<(Option<Scores>, Vec<LayerChoice>), EngineError> {
    let code = compile(&program)?;
    let (ended, choices) = run_code(program, &code, requests, trial, plan)?;
    match ended {
        Ended::Done(scores) => Ok((Some(scores), choices)),
        Ended::Failed => Ok((None, choices)),
        Ended::Lost(fault) => panic!("{fault}"),
    }
}

/// How a batch ended.
enum Ended {
    /// Scores per request.
    Done(Vec<Vec<f32>>),
    /// The batch alone.
    Failed,
    /// With the device; why, and what the emulator says of it.
    Lost(String),
}

/// One batch of a program whose code is there.
fn run_code(
    program: Program,
    code: &[u8],
    requests: &[Request],
    trial: Option<&Trial>,
    plan: &str,
) -> Result<(Ended, Vec<LayerChoice>), EngineError> {
    let limits = batches::limits(requests);
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if emulator::cuda() == Some(Cuda::Emulated) {
        emulator::reset();
    }
    let device = Device::open(DeviceOptions::default()).expect("the emulator, or a GPU");
    let loaded = Arc::new(Loaded::new(&device, Arc::new(program), code)?);
    if !plan.is_empty() {
        emulator::fail(plan);
    }
    if let Some(trial) = trial {
        loaded.choose_wide_layers(trial)?;
    }
    let choices = loaded.wide_layers().to_vec();
    let prepared = Prepared::Cuda(loaded);
    let mut engine = CudaEngine::new();
    let id = engine.attach(&prepared, 1, limits)?[0];
    let slot = engine.slot(id);
    for (ticket, request) in requests.iter().enumerate() {
        let segment = batches::write(slot, ticket as u32, request);
        if request.dead {
            slot.drop_segment(segment);
        }
    }
    slot.run().1.fill(f32::NAN);
    engine.start(id);
    let clock = Clock::start();
    loop {
        match engine.step(&clock, Instant::NEVER) {
            Step::Pending => {}
            Step::Done(_) => break,
            Step::Failed(_) if device.fault().is_none() => return Ok((Ended::Failed, choices)),
            other => return Ok((Ended::Lost(format!("{other:?}: {:?}: {}", device.fault(), emulator::fault())), choices)),
        }
    }
    let slot = engine.slot(id);
    let scores = |(at, request): (usize, &Request)| if request.dead { vec![] } else { slot.scores(at).to_vec() };
    Ok((Ended::Done(requests.iter().enumerate().map(scores).collect()), choices))
}

/// A program's code, compiled once per content: it is kept in the target folder.
fn compile(program: &Program) -> Result<Vec<u8>, EngineError> {
    let emulated = emulator::cuda() == Some(Cuda::Emulated);
    let own = std::env::current_exe().expect("the test's own path");
    let cubins = Cubins::new(Some(own.with_file_name(emulator::kernels_folder())), emulator::compiler());
    let arch = if emulated { "sm_80".parse().expect("an architecture") } else { arch_of_gpu() };
    Ok(cubins.find_or_compile(program, arch, &CompileOptions::default())?.code)
}

/// Of the first GPU: code for others may not run there.
fn arch_of_gpu() -> Arch {
    let gpus = crate::engine::cuda::probe().expect("a driver");
    let (major, minor) = gpus.first().expect("a GPU").capability;
    Arch::of_device(major, minor).expect("a GPU that kernels are made for")
}

/// Tests share a device, and one that fails takes it from all.
static TURN: Mutex<()> = Mutex::new(());
/// What a block may have on the devices with the least.
const SHARED_BYTES: usize = 99 << 10;
