//! From a graph to a program.
//!
//! 1. [`lower`]: nodes that no output needs are left out; what depends on weights alone is computed now; the rest becomes [`task`]s, with
//!    bias, batch norm and activation folded into the linear layer before them where nothing else reads what lies between.
//! 2. [`passes`]: tasks are rewritten: split, hoisted, fused. Then [`precision`] gives dense layers their number format, where
//!    another one than f32 was asked for, and [`lookups`] brings the lookups of a scope together, to become one step.
//! 3. [`place`]: every value gets memory. Reshapes and leading slices are views; what is joined by a concatenation is written in its place;
//!    context values that candidates read are kept per context; the rest shares the tile's memory, as long as each lives.
//! 4. [`emit`]: tasks become kernels with places and strided loops, context and candidate steps apart; weights are packed.
//!
//! [`report`] says what was made of the graph, [`work`] counts what each task costs.
//!
//! The row dimension is implicit throughout.

pub(in crate::engine) mod constant;
mod emit;
pub(in crate::engine) mod generic;
pub(in crate::engine) mod lookups;
pub(in crate::engine) mod lower;
pub(in crate::engine) mod origins;
mod passes;
pub(in crate::engine) mod place;
mod precision;
mod report;
pub(in crate::engine) mod strides;
pub(in crate::engine) mod task;
pub(in crate::engine) mod weights;
mod work;

use std::sync::Arc;

use crate::batch::Layout;
use crate::engine::EngineError;
use crate::engine::precision::Precision;
use crate::model::{Model, ValueScope};

pub use self::report::{Per, PlanReport, PlanTask};
pub use self::work::PlanWork;
pub(in crate::engine) use self::work::count as count_work;

use self::lower::Lowered;
use self::place::Placing;
use super::gemm::Packer;
use super::program::{Needs, Options, Program, Step, TILE_ROWS};

pub use self::precision::PrecisionOptions;

/// Plans a model.
pub fn plan(model: &Arc<Model>, options: &Options) -> Result<Program, EngineError> {
    match options.precision.precision {
        Precision::F32 => build(model, options, &mut |_| Ok(())),
        _ => precision::plan(model, options),
    }
}

/// The tasks that compute a model's outputs, in execution order, rewritten by all passes that the options ask for: what every engine's steps
/// are made of.
pub(in crate::engine) fn tasks<'a>(
    model: &'a Model,
    layout: &'a Layout,
    options: &Options,
    rewrite: Rewrite,
) -> Result<Lowered<'a>, EngineError> {
    let mut lowered = lower::lower(model, layout, options)?;
    passes::run(&mut lowered, model, options)?;
    rewrite(&mut lowered)?;
    lookups::join(&mut lowered, model);
    Ok(lowered)
}

/// A last rewriting of tasks, after all passes.
type Rewrite<'r> = &'r mut dyn FnMut(&mut Lowered) -> Result<(), EngineError>;

fn build(model: &Arc<Model>, options: &Options, rewrite: Rewrite) -> Result<Program, EngineError> {
    let simd = options.simd;
    let layout = Arc::new(Layout::new(&model.features, model.graph.outputs.len()));
    let lowered = tasks(model, &layout, options, rewrite)?;
    let mut packer = Packer::new(simd);
    let mut places = place::place(&lowered);
    let mut context = Vec::new();
    let mut candidate = Vec::new();
    let mut kernels = Vec::with_capacity(lowered.tasks.len());
    let mut tasks = lowered.tasks.as_slice();
    while let Some((task, rest)) = tasks.split_first() {
        let steps = match lowered.values[task.out].scope {
            ValueScope::Candidate => &mut candidate,
            ValueScope::Context | ValueScope::Constant => &mut context,
        };
        let joined = lookups::count(tasks, &lowered.values, model);
        if joined > 0 {
            steps.push(lookups::emit(&tasks[..joined], &mut places, &layout, model, simd));
            tasks = &tasks[joined..];
            kernels.resize(kernels.len() + joined, 1);
            continue;
        }
        tasks = rest;
        let before = steps.len();
        emit::emit(task, &lowered.values, &mut places, &mut packer, &layout, model, steps);
        kernels.push(steps.len() - before);
    }
    let outputs = lowered.outputs.iter().map(|&value| places.of(value)).collect();
    let needs = Needs {
        bytes_per_context: places.bytes_per_context(),
        tile_bytes: places.bytes_per_tile_row() * TILE_ROWS,
        scratch_bytes: context.iter().chain(&candidate).map(Step::scratch_bytes).max().unwrap_or(0),
    };
    let mut report = PlanReport::new(model, &lowered, &kernels);
    (report.bytes_per_context, report.tile_bytes) = (needs.bytes_per_context, needs.tile_bytes);
    let constants = places.into_constants()?;
    let packed = packer.pack()?;
    drop(lowered);
    let model = Arc::clone(model);
    Ok(Program { constants, packed, model, layout, simd, context, candidate, outputs, needs, report, precision: None })
}
