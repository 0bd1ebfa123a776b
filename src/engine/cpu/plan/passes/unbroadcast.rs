//! Elementwise ops broadcast by themselves: a value that was spread out for them alone is read where it is.

use crate::engine::EngineError;
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{ValueIndex, Work};
use crate::engine::cpu::program::Options;
use crate::engine::cpu::walk::spreads;
use crate::model::Model;

/// The pass.
pub fn run(lowered: &mut Lowered, _: &Model, _: &Options) -> Result<(), EngineError> {
    let mut sources: Vec<Option<ValueIndex>> = vec![None; lowered.values.len()];
    for at in 0..lowered.tasks.len() {
        let out = lowered.tasks[at].out;
        let values = &lowered.values;
        let mut work = std::mem::replace(&mut lowered.tasks[at].work, Work::View { x: out, first: 0 });
        match &mut work {
            Work::Broadcast { x } => sources[out] = Some(*x),
            Work::Binary { a, b, .. } => {
                // The result's shape must still come from somewhere: from the other operand, if that has it whole.
                let (left, right) = (*a, *b);
                for (operand, other) in [(a, right), (b, left)] {
                    if let Some(source) = sources[*operand]
                        && values[other].shape == values[out].shape
                        && spreads(&values[source].shape, &values[out].shape)
                    {
                        *operand = source;
                    }
                }
            }
            _ => {}
        }
        lowered.tasks[at].work = work;
    }
    Ok(())
}
