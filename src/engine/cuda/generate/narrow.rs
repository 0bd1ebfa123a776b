//! Which values are stored in 16 bits: those that wide layers alone read, which would round them anyway, so that no result changes.

use std::collections::HashSet;

use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::place::Homes;
use crate::engine::cpu::plan::task::{Task, ValueIndex, Work};
use crate::model::{DType, ValueScope};

use super::dense_layers::is_multiplied_in_bf16;
use super::segments::Segments;

/// Roots of homes whose elements can be bf16.
pub fn narrow(lowered: &Lowered, homes: &Homes, segments: &Segments) -> HashSet<ValueIndex> {
    let root = |value: ValueIndex| homes.of(value).0;
    let is_f32 = |value: ValueIndex| lowered.values[value].dtype == DType::F32 && lowered.values[value].scope != ValueScope::Constant;
    let mut narrow: HashSet<ValueIndex> = lowered.tasks.iter().map(|task| root(task.out)).filter(|&root| is_f32(root)).collect();
    for task in lowered.tasks.iter().filter(|task| !writes_any_element(task)) {
        narrow.remove(&root(task.out));
    }
    for &output in &lowered.outputs {
        narrow.remove(&root(output));
    }
    // A value that is moved into another one is as narrow as that one.
    loop {
        let before = narrow.len();
        for (at, task) in lowered.tasks.iter().enumerate() {
            let out_is_narrow = narrow.contains(&root(task.out));
            for input in task.work.inputs() {
                let rounds = match &task.work {
                    // Layers of tiles take their inputs whole.
                    Work::Linear { x, matrix, addend, .. } => {
                        input == *x && *addend != Some(input) && segments.list[segments.of(at)].wide && is_multiplied_in_bf16(matrix)
                    }
                    work => is_move(work) && out_is_narrow,
                };
                if !rounds {
                    narrow.remove(&root(input));
                }
            }
        }
        if narrow.len() == before {
            return narrow;
        }
    }
}

/// Whether the task's step writes elements of either type.
fn writes_any_element(task: &Task) -> bool {
    let computes = matches!(
        task.work,
        Work::Dense { .. }
            | Work::Lookup { .. }
            | Work::Linear { .. }
            | Work::Interaction { .. }
            | Work::Binary { .. }
            | Work::Unary { .. }
            | Work::Chain { .. }
            | Work::BatchNorm { .. }
    );
    computes || is_move(&task.work)
}

fn is_move(work: &Work) -> bool {
    matches!(
        work,
        Work::View { .. }
            | Work::Concat { .. }
            | Work::Slice { .. }
            | Work::Transpose { .. }
            | Work::Broadcast { .. }
            | Work::Gather { .. }
    )
}
