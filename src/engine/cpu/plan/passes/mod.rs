//! Passes: each rewrites the tasks of a lowered graph, between [`super::lower`] and [`super::place`]. To add one, add a file and a line to
//! [`PASSES`].

use crate::engine::EngineError;
use crate::engine::cpu::program::Options;

use super::lower::Lowered;

/// A rewriting of tasks that keeps what outputs compute, up to rounding.
pub struct Pass {
    /// As the plan's report names it.
    pub name: &'static str,
    /// Whether these options ask for it.
    pub wanted: fn(&Options) -> bool,
    /// Does it.
    pub run: for<'a> fn(&mut Lowered<'a>, &Options) -> Result<(), EngineError>,
}

/// All passes, in order.
const PASSES: &[Pass] = &[];

/// Runs every pass that the options ask for; tasks that nothing reads any more are dropped after each.
pub fn run(lowered: &mut Lowered, options: &Options) -> Result<(), EngineError> {
    for pass in PASSES.iter().filter(|pass| (pass.wanted)(options)) {
        (pass.run)(lowered, options)?;
        sweep(lowered);
    }
    Ok(())
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
