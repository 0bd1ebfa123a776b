//! A program, batches for it, and what they must score.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use gavel::batch::{Counts, Layout, Need, Slot, SlotLimits};
use gavel::engine::cuda::compile::Cubins;
use gavel::engine::cuda::{CudaEngine, Device, DeviceOptions, DeviceTable, Launch, Loaded, Needs, Over, Program, Variant, load};
use gavel::engine::{Engine, EngineError, Prepared, SlotId, Step};
use gavel::model::{Feature, FeatureKind, IdType, MissingRule, Model, Pool, RangeRule, Scope, TableId};
use gavel::units::{Clock, Instant};

use crate::emulator::{self, Cuda};
use crate::support;

/// Three kernels: kept values of contexts, a sum per candidate on its way through scratch memory into work memory, two scores per candidate in two
/// columns of blocks. Small integers, so that f32 is exact. `GATE` holds the address of a word that the first kernel waits for, or 0.
const SOURCE: &str = r#"
#include "tile.cuh"

constexpr uint32_t STRIDE = @STRIDE@;

KERNEL(32) contexts(Job job) {
    if (volatile const uint32_t* gate = *(volatile const uint32_t* const*)(job.weights + 8)) {
        while (*gate == 0) {
        }
    }
    const float bias = *(const float*)job.weights;
    for (uint32_t c = block_x() * 32 + thread_x(); c < job.header->contexts; c += blocks_x() * 32) {
        ((float*)job.kept)[c] = 2 * job.contexts.dense[c] + bias;
    }
}

KERNEL(32) candidates(Job job) {
    float* scratch = (float*)(job.scratch + block_x() * 128);
    for (uint32_t first = block_x() * 32; first < job.header->rows; first += blocks_x() * 32) {
        const uint32_t r = first + thread_x();
        if (r < job.header->rows) {
            float sum = job.candidates.dense[2 * r] + 3 * job.candidates.dense[2 * r + 1];
            const uint32_t from = STRIDE ? r * STRIDE : job.candidates.starts[r];
            const uint32_t to = STRIDE ? from + STRIDE : job.candidates.starts[r + 1];
            for (uint32_t i = from; i < to; i++) {
                sum += (float)job.candidates.ids[i] * job.candidates.weights[i];
            }
            scratch[thread_x()] = sum;
        }
        sync_block();
        if (r < job.header->rows) {
            ((float*)job.work)[r] = scratch[thread_x()] + ((const float*)job.tables[0])[0] * 0;
        }
        sync_block();
    }
}

KERNEL(32) scores(Job job) {
    for (uint32_t r = block_x() * 32 + thread_x(); r < job.header->rows; r += blocks_x() * 32) {
        const float value = ((const float*)job.work)[r] + ((const float*)job.kept)[job.row_context[r]];
        job.scores[2 * r + block_y()] = value + (float)(block_y() * job.candidates.ints[r]);
    }
    finish(job);
}

KERNEL(32) silent(Job job) {
    if (job.header->rows == 0) {
        finish(job);
    }
}
"#;

/// How many ids a candidate has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Always two.
    Two,
    /// None to three.
    Listed,
}

/// Largest batch.
pub const LIMITS: SlotLimits = SlotLimits { contexts: 8, rows: 200, ids: 1000 };

/// A test's turn on the device that all tests of the process share.
pub struct Rig {
    /// Opened for this test.
    pub device: Arc<Device>,
    /// What the first kernel of each batch waits for, once it is shut.
    pub gate: &'static AtomicU32,
    _turn: MutexGuard<'static, ()>,
}

/// Compilers take seconds: once per kind of layout.
static LIBRARIES: Mutex<()> = Mutex::new(());

impl Rig {
    /// `None`, with the reason printed, where there is neither emulator nor GPU.
    pub fn new(options: DeviceOptions) -> Option<Rig> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if emulator::cuda()? == Cuda::Emulated {
            emulator::reset();
        }
        let gate = Box::leak(Box::new(AtomicU32::new(1)));
        Some(Rig { device: Device::open(options).unwrap(), gate, _turn: turn })
    }

    /// For tests that plan errors or stop kernels.
    pub fn emulated(options: DeviceOptions) -> Option<Rig> {
        if emulator::cuda()? != Cuda::Emulated {
            println!("skipped: only the emulator fails when it is told to");
            return None;
        }
        Rig::new(options)
    }

    /// Kernels wait from now on.
    pub fn shut(&self) {
        self.gate.store(0, Ordering::Release);
    }

    /// And go on.
    pub fn open(&self) {
        self.gate.store(1, Ordering::Release);
    }

    /// The program on the device.
    pub fn load(&self, ids: Ids) -> Result<Prepared, EngineError> {
        self.load_program(program(ids, self.gate))
    }

    /// The program, not loaded.
    pub fn program(&self, ids: Ids) -> Program {
        program(ids, self.gate)
    }

    /// Another program on the device.
    pub fn load_program(&self, program: Program) -> Result<Prepared, EngineError> {
        let _one_at_a_time = LIBRARIES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Ok(Prepared::Cuda(Arc::new(load(&self.device, program, &cubins())?)))
    }

    /// The program without a compiler, for tests that plan errors of the driver.
    pub fn load_code(&self, ids: Ids, code: &[u8]) -> Result<Prepared, EngineError> {
        Ok(Prepared::Cuda(Arc::new(Loaded::new(&self.device, Arc::new(program(ids, self.gate)), code)?)))
    }
}

/// Compiled kernels are kept beside the tests.
pub fn cubins() -> Cubins {
    cubins_in(&std::env::current_exe().unwrap().with_file_name(emulator::kernels_folder()))
}

/// Compiled kernels are kept in a folder.
pub fn cubins_in(folder: &Path) -> Cubins {
    Cubins::new(Some(folder.to_path_buf()), emulator::compiler())
}

/// The compiled program.
pub fn code(device: &Device, ids: Ids) -> Vec<u8> {
    static NONE: AtomicU32 = AtomicU32::new(1);
    let (major, minor) = device.gpu().capability;
    let arch = gavel::engine::cuda::compile::Arch::of_device(major, minor).unwrap();
    cubins().find_or_compile(&program(ids, &NONE), arch, &Default::default()).unwrap().code
}

fn features(ids: Ids) -> Vec<Feature> {
    let feature =
        |name: &str, kind, scope, width, max_len| Feature { name: name.into(), kind, scope, width, max_len, id_type: IdType::U32 };
    let sparse = FeatureKind::Sparse {
        table: TableId(0),
        rows: 100,
        pool: Pool::Sum,
        weighted: true,
        hash: None,
        padding: None,
        missing: MissingRule::Error,
        out_of_range: RangeRule::Error,
    };
    let width = if ids == Ids::Two { 2 } else { 0 };
    vec![
        feature("context", FeatureKind::dense(), Scope::Context, 1, 1),
        feature("dense", FeatureKind::dense(), Scope::Candidate, 2, 2),
        feature("ids", sparse, Scope::Candidate, width, 3),
        feature("integer", FeatureKind::Integer, Scope::Candidate, 1, 1),
    ]
}

/// Any model with a table: programs written by hand take features of their own.
fn model() -> Arc<Model> {
    static MODEL: Mutex<Option<Arc<Model>>> = Mutex::new(None);
    let mut model = MODEL.lock().unwrap();
    Arc::clone(model.get_or_insert_with(|| support::models(|name| name == "deepfm_scoped").remove(0)))
}

const BIAS: f32 = 5.0;

pub fn program(ids: Ids, gate: &'static AtomicU32) -> Program {
    let launch = |kernel: &str, over, scratch_bytes| Launch {
        kernel: kernel.into(),
        over,
        threads: 32,
        shared_bytes: 0,
        scratch_bytes,
        layer: None,
    };
    let launches = |tile: usize| {
        vec![
            launch("contexts", Over::Contexts { tile: 32 }, 0),
            launch("candidates", Over::Candidates { tile }, 128),
            launch("scores", Over::Grid { rows: tile, columns: 2 }, 0),
        ]
    };
    let mut weights = vec![0; 16];
    weights[..4].copy_from_slice(&BIAS.to_ne_bytes());
    if emulator::cuda() == Some(Cuda::Emulated) {
        weights[8..].copy_from_slice(&(std::ptr::from_ref(gate) as usize).to_ne_bytes());
    }
    Program {
        model: model(),
        layout: Arc::new(Layout::new(&features(ids), 2)),
        source: SOURCE.replace("@STRIDE@", if ids == Ids::Two { "2" } else { "0" }),
        variants: vec![Variant { rows_from: 0, launches: launches(32) }, Variant { rows_from: 65, launches: launches(64) }],
        weights,
        product_weights: vec![],
        tables: vec![DeviceTable::new(TableId(0), model().weights.table(TableId(0)))],
        needs: Needs { kept_bytes: 4, work_bytes: 4 },
        layers: vec![],
    }
}

/// Writes requests of these numbers of candidates into a slot, drawn from `seed`; gives the scores.
pub fn fill(slot: &mut Slot, ids: Ids, requests: &[usize], seed: usize) -> Vec<f32> {
    slot.clear();
    let mut expected = Vec::new();
    let mut at = seed;
    let mut draw = |below: usize| {
        at = at.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (at >> 33) % below
    };
    for &rows in requests {
        let lengths: Vec<usize> = (0..rows).map(|_| if ids == Ids::Two { 2 } else { draw(4) }).collect();
        let candidate_ids = lengths.iter().sum();
        let draft = slot.reserve(Need { rows, context_ids: 0, candidate_ids }).unwrap();
        let context = draw(50) as f32;
        draft.context.dense[0] = context;
        let candidates = draft.candidates;
        let mut id = 0;
        for (row, &length) in lengths.iter().enumerate() {
            if ids == Ids::Listed {
                candidates.starts[row] = candidates.ids_base + id as u32;
            }
            let dense = [draw(50) as f32, draw(50) as f32];
            candidates.dense[2 * row..][..2].copy_from_slice(&dense);
            candidates.ints[row] = draw(90) as i64 - 40;
            let mut sum = dense[0] + 3.0 * dense[1];
            for _ in 0..length {
                (candidates.ids[id], candidates.weights[id]) = (draw(100) as u32, draw(4) as f32);
                sum += candidates.ids[id] as f32 * candidates.weights[id];
                id += 1;
            }
            let score = sum + 2.0 * context + BIAS;
            expected.extend([score, score + candidates.ints[row] as f32]);
        }
        slot.commit(0, Counts { rows, context_ids: 0, candidate_ids });
    }
    expected
}

/// All scores of a slot.
pub fn scores(slot: &mut Slot) -> Vec<f32> {
    (0..slot.segments().len()).flat_map(|segment| slot.scores(segment).to_vec()).collect()
}

/// Steps until something is done.
pub fn wait(engine: &mut CudaEngine) -> Step {
    let clock = Clock::start();
    loop {
        match engine.step(&clock, Instant::NEVER) {
            Step::Pending => std::thread::yield_now(),
            step => return step,
        }
    }
}

/// An engine with slots of one program.
pub fn engine(prepared: &Prepared, slots: usize) -> (CudaEngine, Vec<SlotId>) {
    let mut engine = CudaEngine::new();
    let slots = engine.attach(prepared, slots, LIMITS).unwrap();
    (engine, slots)
}
