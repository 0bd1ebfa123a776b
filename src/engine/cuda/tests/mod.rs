//! The engine against the CPU engine's independent f64 evaluation, on the emulator (or, with `GAVEL_CUDA=real`, on the machine's GPU).

#[path = "../../../../tests/support/emulator.rs"]
mod emulator;
mod products;
mod recurrent;
mod trees;
mod window;

use std::sync::{Arc, Mutex};

use crate::engine::cpu::Hoist;
use crate::engine::cpu::tests::batches::{self, Request};
use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::kernels::elements;
use crate::engine::cpu::tests::{Random, oracle};
use crate::engine::{Engine, Prepared, Step};
use crate::model::{DType, Model, Op, ValueId};
use crate::units::{Clock, Instant};

use super::compile::Cubins;
use super::{CudaEngine, Device, DeviceOptions, Numbers, Program, Target, Variant, load};

/// Plans with and without passes.
fn targets() -> [Target; 2] {
    let usual = Target::new(100 << 10, Numbers::F32);
    [usual, Target { hoist: Hoist::Nothing, fuse: false, ..usual }]
}

/// Runs requests with and without passes and with tiles of every size, and compares each score with the oracle's.
pub(in crate::engine) fn check(model: &Arc<Model>, requests: &[Request], tolerance: f64) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some(cuda) = emulator::cuda() else { return };
    let compiler = (cuda == emulator::Cuda::Emulated).then(|| emulator::build(&[]).expect("the emulator builds"));
    let own = std::env::current_exe().expect("the test's own path");
    let cubins =
        Cubins::new(Some(own.with_file_name(if compiler.is_some() { "cuda-test-emulated" } else { "cuda-test-cubins" })), compiler);
    let device = Device::open(DeviceOptions::default()).expect("a device");
    let expected = oracle::scores(model, requests);
    for target in targets() {
        let variants = Program::new(model, &target).expect("a program").variants;
        for Variant { launches, .. } in variants {
            let mut program = Program::new(model, &target).expect("a program");
            program.variants = vec![Variant { rows_from: 0, launches }];
            let loaded = load(&device, program, &cubins).unwrap_or_else(|error| panic!("{error}\n{:#?}", model.graph));
            let mut engine = CudaEngine::new();
            let slot = engine.attach(&Prepared::Cuda(Arc::new(loaded)), 1, batches::limits(requests)).expect("memory")[0];
            requests.iter().enumerate().for_each(|(ticket, request)| {
                batches::write(engine.slot(slot), ticket as u32, request);
            });
            engine.slot(slot).run().1.fill(f32::NAN);
            engine.start(slot);
            let clock = Clock::start();
            loop {
                match engine.step(&clock, Instant::NEVER) {
                    Step::Pending => std::thread::yield_now(),
                    Step::Done(_) => break,
                    _ => panic!("{:?} {}\n{:#?}", device.fault(), emulator::fault(), model.graph),
                }
            }
            for (request, expected) in expected.iter().enumerate() {
                let scores = engine.slot(slot).scores(request);
                assert_eq!(scores.len(), expected.len());
                for (at, (&score, &expected)) in scores.iter().zip(expected).enumerate() {
                    let error = (f64::from(score) - expected).abs();
                    let is_same = score.is_nan() && expected.is_nan() || f64::from(score) == expected;
                    assert!(
                        is_same || error <= tolerance * expected.abs().max(1.0),
                        "{target:?}: request {request}, score {at}: {score} for {expected}\n{:#?}",
                        model.graph
                    );
                }
            }
        }
    }
}

/// Checks values of one model: of long ones three sums with random factors.
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
