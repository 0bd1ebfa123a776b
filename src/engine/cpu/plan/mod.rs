//! From a graph to a program.
//!
//! 1. [`lower`]: nodes that no output needs are left out; what depends on weights alone is computed now; the rest becomes [`task`]s, with
//!    bias, batch norm and activation folded into the linear layer before them where nothing else reads what lies between.
//! 2. [`lookups`]: the lookups of a scope are brought together, and later become one step.
//! 3. [`place`]: every value gets memory. Reshapes and leading slices are views; what is joined by a concatenation is written in its place;
//!    context values that candidates read are kept per context; the rest shares the tile's memory, as long as each lives.
//! 4. [`emit`]: tasks become kernels with places and strided loops, context and candidate steps apart.
//!
//! The row dimension is implicit throughout; passes that rewrite tasks (fusion, splitting a layer over context and candidate) go between 1 and 2.

mod constant;
mod emit;
mod lookups;
mod lower;
mod place;
mod task;

use std::sync::Arc;

use crate::batch::Layout;
use crate::engine::EngineError;
use crate::model::{Model, ValueScope};

use self::place::Placing;
use super::program::{Needs, Program, TILE_ROWS};
use super::simd::Simd;

/// Plans a model for these instructions.
pub fn plan(model: &Arc<Model>, simd: Simd) -> Result<Program, EngineError> {
    let layout = Arc::new(Layout::new(&model.features, model.graph.outputs.len()));
    let (mut lowered, packer) = lower::lower(model, &layout, simd)?;
    lookups::join(&mut lowered);
    let mut places = place::place(&lowered);
    let mut context = Vec::new();
    let mut candidate = Vec::new();
    let mut tasks = lowered.tasks.as_slice();
    while let Some((task, rest)) = tasks.split_first() {
        let steps = match lowered.values[task.out].scope {
            ValueScope::Candidate => &mut candidate,
            ValueScope::Context | ValueScope::Constant => &mut context,
        };
        let joined = lookups::count(tasks, &lowered.values);
        if joined > 0 {
            steps.push(lookups::emit(&tasks[..joined], &mut places, &layout, model, simd));
            tasks = &tasks[joined..];
            continue;
        }
        tasks = rest;
        emit::emit(task, &lowered.values, &mut places, &layout, model, steps);
    }
    let outputs = lowered.outputs.iter().map(|&value| places.of(value)).collect();
    let needs = Needs { bytes_per_context: places.bytes_per_context(), tile_bytes: places.bytes_per_tile_row() * TILE_ROWS };
    let constants = places.into_constants()?;
    let packed = packer.pack()?;
    drop(lowered);
    Ok(Program { constants, packed, model: Arc::clone(model), layout, simd, context, candidate, outputs, needs })
}
