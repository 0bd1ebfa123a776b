//! The engine against an independent f64 evaluation, on every instruction set of this machine.

pub(in crate::engine) mod attention;
pub(in crate::engine) mod batches;
pub(in crate::engine) mod builder;
mod families;
pub(in crate::engine) mod generic;
mod guarantees;
mod interaction;
pub(in crate::engine) mod kernels;
mod mixtures;
pub(in crate::engine) mod oracle;
mod passes;
mod products;
pub(in crate::engine) mod random;
pub(in crate::engine) mod tables;
mod work;

use std::sync::Arc;

use crate::batch::SlotLimits;
use crate::engine::{Engine, Prepared, SlotId, Step};
use crate::model::Model;
use crate::units::{Clock, Instant};

use super::{CpuEngine, Hoist, Options, Program, Simd};
use batches::Request;

/// Every level of this machine; says which are missing.
fn levels() -> impl Iterator<Item = Simd> {
    for level in super::SimdLevel::ALL.into_iter().filter(|level| !level.is_available()) {
        println!("skipped: this CPU has no {}", level.name());
    }
    Simd::available()
}

/// An engine with one slot for a model.
pub(in crate::engine) struct Bench {
    engine: CpuEngine,
    slot: SlotId,
    clock: Clock,
}

impl Bench {
    pub fn new(model: &Arc<Model>, simd: Simd, limits: SlotLimits) -> Bench {
        Bench::planned(model, &Options::new(simd), limits)
    }

    fn planned(model: &Arc<Model>, options: &Options, limits: SlotLimits) -> Bench {
        let program = Prepared::Cpu(Arc::new(Program::planned(model, options).expect("memory")));
        let mut engine = CpuEngine::new().expect("memory");
        let slot = engine.attach(&program, 1, limits).expect("memory")[0];
        Bench { engine, slot, clock: Clock::start() }
    }

    /// Scores per request, [rows][outputs]; empty for dead ones. `until` bounds every step. Gives the number of steps too.
    pub fn run(&mut self, requests: &[Request], until: Instant) -> (Vec<Vec<f32>>, usize) {
        let slot = self.engine.slot(self.slot);
        slot.clear();
        for (ticket, request) in requests.iter().enumerate() {
            let segment = batches::write(slot, ticket as u32, request);
            if request.dead {
                slot.drop_segment(segment);
            }
        }
        slot.run().1.fill(f32::NAN);
        self.engine.start(self.slot);
        assert_eq!((self.engine.in_flight(), self.engine.capacity()), (1, 1));
        let mut steps = 1;
        while self.engine.step(&self.clock, until) != Step::Done(self.slot) {
            steps += 1;
        }
        assert_eq!(self.engine.step(&self.clock, until), Step::Idle);
        let slot = self.engine.slot(self.slot);
        let scores = |(at, request): (usize, &Request)| if request.dead { vec![] } else { slot.scores(at).to_vec() };
        (requests.iter().enumerate().map(scores).collect(), steps)
    }
}

/// Plans with and without passes.
fn plans(simd: Simd) -> [Options; 4] {
    let usual = Options::new(simd);
    [
        usual,
        Options { hoist: Hoist::Everything, ..usual },
        Options { hoist: Hoist::Nothing, ..usual },
        Options { hoist: Hoist::Nothing, fuse: false, ..usual },
    ]
}

/// Runs requests on every level, with and without passes, and compares each score with the oracle's.
///
/// With `GAVEL_ENGINE_TESTS=cuda` in the environment the CUDA engine's scores, too.
fn check(model: &Arc<Model>, requests: &[Request], tolerance: f64) {
    let expected = oracle::scores(model, requests);
    for options in levels().flat_map(plans) {
        let (scores, _) = Bench::planned(model, &options, batches::limits(requests)).run(requests, Instant::NEVER);
        for (request, (scores, expected)) in scores.iter().zip(&expected).enumerate() {
            assert_eq!(scores.len(), expected.len());
            for (at, (&score, &expected)) in scores.iter().zip(expected).enumerate() {
                let error = (f64::from(score) - expected).abs();
                assert!(
                    error <= tolerance * expected.abs().max(1.0),
                    "{options:?}: request {request}, score {at}: {score} for {expected}\n{:#?}",
                    model.graph
                );
            }
        }
    }
    crate::engine::cuda::tests::check_also(model, requests, tolerance);
}

/// xorshift64*: the same numbers everywhere.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 33) as usize) % end
    }
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
    /// In −1 .. 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
    pub fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}
