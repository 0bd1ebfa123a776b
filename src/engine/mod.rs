//! Engines: each runs one model's batch behind one small trait.
//!
//! Contract, in order: [`Engine::attach`] gives a model its slots; rows are written into a slot (by [`crate::batch`]); [`Engine::start`] hands it
//! over; [`Engine::step`] is called until it says [`Step::Done`]; the scores are read from the slot, which is then cleared and filled again.
//! Steps are bounded (about 200 µs), so that a long batch does not stop the shard from reading, refusing and answering.
//! Absent on purpose: requests, deadlines, sockets.

pub mod cpu;
pub mod cuda;
mod null;
pub mod precision;
mod replay;
pub mod selftest;
mod slots;

use std::sync::Arc;

use crate::batch::{Layout, Slot, SlotLimits};
use crate::model::Model;
use crate::units::{Clock, Instant};

pub use crate::units::SlotId;

pub use cpu::CpuEngine;
pub use cuda::CudaEngine;
pub use null::{NullEngine, NullProgram};
pub use replay::{BatchFailed, Replay};

/// What [`Engine::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing in flight.
    Idle,
    /// Work remains.
    Pending,
    /// The scores of this slot are ready.
    Done(SlotId),
    /// This batch could not be computed; the cause was logged.
    Failed(SlotId),
}

/// One per shard.
pub trait Engine {
    /// Takes a prepared model in and makes `slots` slots for it. Control path: allocates.
    fn attach(&mut self, model: &Prepared, slots: usize, limits: SlotLimits) -> Result<Vec<SlotId>, EngineError>;
    /// Gives the slots of a model back. None of them may be in flight.
    fn detach(&mut self, slots: &[SlotId]);
    /// A slot that is not in flight: to fill, read or clear it.
    fn slot(&mut self, id: SlotId) -> &mut Slot;
    /// Runs a filled slot. At most [`Engine::capacity`] are in flight at once.
    fn start(&mut self, id: SlotId);
    /// Works until about `until`, by `clock`, or until a batch is done.
    fn step(&mut self, clock: &Clock, until: Instant) -> Step;
    /// Batches started and not done.
    fn in_flight(&self) -> usize;
    /// Batches it takes at once; no more than [`Engine::in_flight`] while what computes is busy with batches of others.
    fn capacity(&self) -> usize;
    /// Whether its batches go on only in [`Engine::step`]. Else steps merely look, and the shard may sleep when [`Engine::may_sleep`] says so.
    fn works_in_steps(&self) -> bool {
        true
    }
    /// What [`Engine::may_sleep`] rings, on any thread. Control path, with nothing in flight.
    fn wake_with(&mut self, _: Wake) {}
    /// Whether the shard may sleep now. If batches are in flight, the engine then sees to it that it is woken when one of them is done.
    fn may_sleep(&mut self) -> bool {
        self.in_flight() == 0
    }
}

/// Wakes a shard that sleeps; returns at once.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Why a model cannot be served by an engine. Start-up and reload only.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine does not run on this machine.
    #[error("{engine} engine: {reason}; {remedy}")]
    Unavailable {
        /// Which engine.
        engine: &'static str,
        /// Why not.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// Reduced precision of dense layers.
    #[error("precision {precision}: {reason}")]
    Precision {
        /// As asked for.
        precision: &'static str,
        /// Why not, and what to do.
        reason: String,
    },
    /// A GPU or its driver.
    #[error("cuda engine on {device}: {what}: {source}{}", remedy(.source))]
    Device {
        /// The GPU.
        device: String,
        /// For what.
        what: String,
        /// As the driver told it.
        source: cuda::DriverError,
    },
    /// Tables and weights are larger than what is free of a GPU's memory.
    #[error(
        "cuda engine on {device}: {what}; store tables in fewer bytes (int8 or int4 rows, or f16), free the memory that others hold (a reload \
         holds both versions for a while), take a GPU with more memory, or serve the model with --engine cpu"
    )]
    DeviceTooSmall {
        /// The GPU.
        device: String,
        /// What takes how much, and how much there is.
        what: String,
    },
    /// Memory for slots, weights or workspace.
    #[error("out of memory: {what} needs {bytes} bytes: {source}")]
    Memory {
        /// For what.
        what: String,
        /// How much.
        bytes: usize,
        /// The system's error.
        source: std::io::Error,
    },
}

fn remedy(error: &cuda::DriverError) -> &'static str {
    match error.is_out_of_memory() {
        true => "; lower limits.batch_rows, limits.slots_per_model or the number of shards, or take a GPU with more memory",
        false => "",
    }
}

impl From<cuda::GpuUnavailable> for EngineError {
    fn from(reason: cuda::GpuUnavailable) -> EngineError {
        EngineError::Unavailable { engine: "cuda", reason: reason.to_string(), remedy: format!("{}, or take engine cpu", reason.remedy()) }
    }
}

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// Computes on the shard's own core.
    Cpu,
    /// Computes on a GPU.
    Cuda,
    /// Every score is 0: measures everything around an engine.
    Null,
}

impl EngineKind {
    /// As flags and logs name it.
    pub const fn name(self) -> &'static str {
        match self {
            EngineKind::Cpu => "cpu",
            EngineKind::Cuda => "cuda",
            EngineKind::Null => "null",
        }
    }
}

/// A model made ready for an engine, once per process: plan and packed weights, shared read-only by all shards.
#[derive(Clone)]
pub enum Prepared {
    /// For the CPU engine.
    Cpu(Arc<cpu::Program>),
    /// For the CUDA engine: its kernels and weights, on a device.
    Cuda(Arc<cuda::Loaded>),
    /// For the null engine.
    Null(Arc<NullProgram>),
}

impl Prepared {
    /// The engine it was prepared for.
    pub fn kind(&self) -> EngineKind {
        match self {
            Prepared::Cpu(_) => EngineKind::Cpu,
            Prepared::Cuda(_) => EngineKind::Cuda,
            Prepared::Null(_) => EngineKind::Null,
        }
    }

    /// Layout of its rows: that of its slots.
    pub fn layout(&self) -> &Arc<Layout> {
        match self {
            Prepared::Cpu(program) => program.layout(),
            Prepared::Cuda(loaded) => &loaded.program().layout,
            Prepared::Null(program) => &program.layout,
        }
    }

    /// What was decided for dense layers, where another precision than f32 was asked for.
    pub fn precision(&self) -> Option<&precision::PrecisionReport> {
        match self {
            Prepared::Cpu(program) => program.precision(),
            Prepared::Cuda(loaded) => loaded.precision(),
            Prepared::Null(_) => None,
        }
    }

    /// Batches that are computed by other means than smaller ones, ascending, among what slots of `limits` hold.
    pub fn sizes_apart(&self, limits: SlotLimits) -> Vec<SizeApart> {
        match self {
            Prepared::Cpu(_) | Prepared::Null(_) => vec![],
            Prepared::Cuda(loaded) => cuda::sizes_apart(loaded, limits),
        }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        match self {
            Prepared::Cpu(program) => program.model(),
            Prepared::Cuda(loaded) => &loaded.program().model,
            Prepared::Null(program) => &program.model,
        }
    }
}

/// A size of batches from which on an engine does something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeApart {
    /// Candidates of the smallest such batch.
    pub rows: usize,
    /// Candidates that a slot has to hold for that.
    pub slot_rows: usize,
}

/// How a model is made ready.
#[derive(Clone, Debug, Default)]
pub struct PrepareOptions {
    /// Number format of dense layers.
    pub precision: cpu::PrecisionOptions,
    /// The CUDA engine's device; the first one, with its defaults, unless named.
    pub device: Option<Arc<cuda::Device>>,
    /// Where it finds compiled kernels, and keeps those that it compiles; nowhere unless told.
    pub cubins: cuda::compile::Cubins,
    /// How its wide layers in bf16 are computed.
    pub wide_layers: cuda::WideLayers,
}

/// [`prepare_with`] the defaults: everything in f32.
pub fn prepare(kind: EngineKind, model: &Arc<Model>) -> Result<Prepared, EngineError> {
    prepare_with(kind, model, &PrepareOptions::default())
}

/// Makes a model ready for an engine. Start-up and reload only; once per process, whatever the number of shards. The null engine has no
/// options.
pub fn prepare_with(kind: EngineKind, model: &Arc<Model>, options: &PrepareOptions) -> Result<Prepared, EngineError> {
    Ok(match kind {
        EngineKind::Cpu => {
            let options = cpu::Options { precision: options.precision, ..cpu::Options::new(cpu::Simd::detect()) };
            Prepared::Cpu(Arc::new(cpu::Program::planned(model, &options)?))
        }
        EngineKind::Cuda => {
            let numbers = cuda_numbers(options.precision.precision)?;
            let device = match &options.device {
                Some(device) => Arc::clone(device),
                None => cuda::Device::open(cuda::DeviceOptions::default())?,
            };
            let loaded = Arc::new(cuda::prepare(model, &device, numbers, &options.cubins)?);
            if options.wide_layers == cuda::WideLayers::Measured {
                loaded.choose_wide_layers(&cuda::Trial::default())?;
            }
            if numbers == cuda::Numbers::Bf16 {
                loaded.measure_precision(options.precision.limits)?;
            }
            Prepared::Cuda(loaded)
        }
        EngineKind::Null => Prepared::Null(Arc::new(NullProgram::new(model))),
    })
}

/// The CUDA engine's arithmetic for a precision.
fn cuda_numbers(precision: precision::Precision) -> Result<cuda::Numbers, EngineError> {
    match precision {
        precision::Precision::F32 => Ok(cuda::Numbers::F32),
        precision::Precision::Bf16 => Ok(cuda::Numbers::Bf16),
        other => Err(EngineError::Precision {
            precision: other.name(),
            reason: "the cuda engine computes in f32 or bf16; take one of them, or engine cpu".into(),
        }),
    }
}

/// An engine for one shard.
pub fn new_engine(kind: EngineKind) -> Result<Box<dyn Engine>, EngineError> {
    Ok(match kind {
        EngineKind::Cpu => Box::new(CpuEngine::new()?),
        EngineKind::Cuda => Box::new(CudaEngine::new()),
        EngineKind::Null => Box::new(NullEngine::new()),
    })
}
