//! Passes: each rewrites the tasks of a lowered graph, between [`super::lower`] and [`super::place`]. To add one, add a file and a line to
//! [`PASSES`].

mod attention;
mod chain;
mod fm;
mod hoist;
mod interaction;
mod mix;
mod parts;
mod projections;
mod rewriter;
mod siblings;
mod sums;
mod transposes;
mod unbroadcast;

use crate::engine::EngineError;
use crate::engine::cpu::program::{Hoist, Options};
use crate::model::Model;

use super::lower::Lowered;
use super::task::Work;

/// A rewriting of tasks that keeps what outputs compute, up to rounding.
pub struct Pass {
    /// Whether these options ask for it.
    pub wanted: fn(&Options) -> bool,
    /// Does it.
    pub run: fn(&mut Lowered, &Model, &Options) -> Result<(), EngineError>,
}

/// All passes, in order.
const PASSES: &[Pass] = &[
    Pass { wanted: |options| options.fuse, run: attention::run },
    Pass { wanted: |options| options.fuse, run: mix::run },
    Pass { wanted: |options| options.fuse, run: interaction::run },
    Pass { wanted: |options| options.fuse, run: unbroadcast::run },
    Pass { wanted: |options| options.fuse, run: transposes::run },
    Pass { wanted: |options| options.fuse, run: parts::run },
    Pass { wanted: |options| options.fuse, run: siblings::run },
    Pass { wanted: |options| options.fuse, run: projections::run },
    Pass { wanted: |options| options.hoist != Hoist::Nothing, run: hoist::run },
    Pass { wanted: |options| options.fuse, run: fm::run },
    Pass { wanted: |options| options.hoist != Hoist::Nothing, run: sums::run },
    Pass { wanted: |options| options.fuse, run: chain::run },
];

/// Runs every pass that the options ask for; tasks that nothing reads any more are dropped after each.
pub fn run(lowered: &mut Lowered, model: &Model, options: &Options) -> Result<(), EngineError> {
    for pass in PASSES.iter().filter(|pass| (pass.wanted)(options)) {
        (pass.run)(lowered, model, options)?;
        sweep(lowered);
        debug_assert!(moves_keep_types(lowered), "what moves elements leaves their type");
    }
    Ok(())
}

/// Whether all tasks that only move elements make values of their operands' type.
fn moves_keep_types(lowered: &Lowered) -> bool {
    lowered.tasks.iter().all(|task| {
        let moves = matches!(
            task.work,
            Work::View { .. }
                | Work::Slice { .. }
                | Work::Transpose { .. }
                | Work::Broadcast { .. }
                | Work::Gather { .. }
                | Work::Concat { .. }
        );
        !moves || task.work.inputs().iter().all(|&input| lowered.values[input].dtype == lowered.values[task.out].dtype)
    })
}

/// Drops tasks that no output depends on.
fn sweep(lowered: &mut Lowered) {
    let mut live = vec![false; lowered.values.len()];
    lowered.outputs.iter().for_each(|&output| live[output] = true);
    for task in lowered.tasks.iter().rev() {
        if live[task.out] {
            task.work.inputs().into_iter().for_each(|input| live[input] = true);
        }
    }
    lowered.tasks.retain(|task| live[task.out]);
}
