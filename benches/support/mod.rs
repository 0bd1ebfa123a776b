//! What the criterion benches share: a model under an engine, with fresh random requests.

mod random;

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};
use gavel::batch::{Counts, Need, RowsMut, ScopeLayout, Slot, SlotLimits};
use gavel::engine::{EngineKind, Prepared, Replay, prepare};
use gavel::model::Model;

pub use random::Random;

/// Candidates of the request that is benched.
pub const BATCHES: [usize; 4] = [1, 16, 64, 256];

/// Whether figures are wanted (cargo passes `--bench`) or one tiny turn of everything.
pub fn measuring() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// A group's function per batch: the time from starting a filled slot until the scores are there. Every turn has fresh ids, so that table rows
/// come from where they would come from in service.
pub fn bench_model(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, model: &Arc<Model>) {
    for rows in if measuring() { &BATCHES[..] } else { &BATCHES[..2] } {
        let mut requests = Requests::new(model, *rows);
        group.throughput(Throughput::Elements(*rows as u64));
        group.bench_function(BenchmarkId::new(name, rows), |bench| {
            bench.iter_custom(|turns| {
                let mut spent = Duration::ZERO;
                for _ in 0..turns {
                    requests.fill();
                    let start = Instant::now();
                    requests.run();
                    spent += start.elapsed();
                }
                spent
            });
        });
    }
}

/// An engine with one request of random rows.
pub struct Requests {
    replay: Replay,
    rows: usize,
    random: Random,
}

impl Requests {
    /// For `rows` candidates; the first is filled in, and has run.
    pub fn new(model: &Arc<Model>, rows: usize) -> Requests {
        Requests::to(&prepare(EngineKind::Cpu, model).expect("memory"), rows)
    }

    /// The same, for a model that is prepared.
    pub fn to(prepared: &Prepared, rows: usize) -> Requests {
        let layout = prepared.layout();
        let ids = layout.context.fixed_ids.max(rows * layout.candidate.fixed_ids).max(1);
        let replay = Replay::new(prepared, SlotLimits { contexts: 1, rows, ids }).expect("memory");
        let mut requests = Requests { replay, rows, random: Random(1) };
        requests.fill();
        requests.run();
        requests
    }

    /// Other values and ids.
    pub fn fill(&mut self) {
        let Requests { replay, rows, random } = self;
        let Ok(()) = replay.fill(|slot: &mut Slot| -> Result<(), Infallible> {
            let layout = Arc::clone(slot.layout());
            let (context_ids, candidate_ids) = (layout.context.fixed_ids, *rows * layout.candidate.fixed_ids);
            let draft = slot.reserve(Need { rows: *rows, context_ids, candidate_ids }).expect("the limits were made for this request");
            random.fill(&layout.context, draft.context);
            random.fill(&layout.candidate, draft.candidates);
            slot.commit(0, Counts { rows: *rows, context_ids, candidate_ids });
            Ok(())
        });
    }

    /// Computes it.
    pub fn run(&mut self) {
        black_box(self.replay.run().expect("the engine runs").rows());
    }
}

impl Random {
    /// Legal rows of a scope without bags of variable length.
    fn fill(&mut self, layout: &ScopeLayout, rows: RowsMut<'_>) {
        rows.dense.iter_mut().for_each(|value| *value = self.unit());
        let bounds = layout.plain_bounds.as_ref().expect("the bench's models have plain ids");
        for row in rows.ids.chunks_exact_mut(bounds.len().max(1)) {
            for (id, bound) in row.iter_mut().zip(bounds) {
                *id = self.next() % bound;
            }
        }
    }
}
