//! Layers that read the same value become one: experts, gates and towers of a mixture, projections of an attention. One product over all
//! their columns reads the operand once, fills panels that small layers leave half empty, and is one step instead of many.

use crate::engine::EngineError;
use crate::engine::cpu::gemm::Activation;
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{Note, PlanValue, Task, ValueIndex, Work};
use crate::engine::cpu::plan::weights::LayerMatrix;
use crate::engine::cpu::program::Options;
use crate::model::{DType, Model, ValueScope};

/// Joins layers of the same operand, activation and scope that make one row each.
pub fn run(lowered: &mut Lowered, _: &Model, _: &Options) -> Result<(), EngineError> {
    let mut at = 0;
    while at < lowered.tasks.len() {
        let members = siblings(lowered, at);
        if members.len() > 1 {
            join(lowered, &members);
        }
        at += 1;
    }
    Ok(())
}

/// What layers must have in common.
type Kin = (ValueIndex, Activation, ValueScope, usize);

fn kin(lowered: &Lowered, task: &Task) -> Option<Kin> {
    match &task.work {
        Work::Linear { x, matrix, addend: None, activation, .. } if lowered.values[task.out].len() == matrix.n => {
            Some((*x, *activation, lowered.values[task.out].scope, matrix.k))
        }
        _ => None,
    }
}

/// Positions of the layers that may become one with the one at `first`, itself included, within [`COLUMNS_MAX`] columns.
fn siblings(lowered: &Lowered, first: usize) -> Vec<usize> {
    let Some(wanted) = kin(lowered, &lowered.tasks[first]) else { return Vec::new() };
    let mut columns = 0;
    let mut members = Vec::new();
    for (at, task) in lowered.tasks.iter().enumerate().skip(first) {
        let Work::Linear { matrix, .. } = &task.work else { continue };
        if kin(lowered, task) == Some(wanted) && (members.is_empty() || columns + matrix.n <= COLUMNS_MAX) {
            columns += matrix.n;
            members.push(at);
        }
    }
    members
}

fn join(lowered: &mut Lowered, members: &[usize]) {
    let first = members[0];
    let (mut matrices, mut biases, mut outs) = (Vec::new(), Vec::new(), Vec::new());
    for &at in members {
        let Work::Linear { matrix, bias, .. } = &lowered.tasks[at].work else { unreachable!("siblings are layers") };
        matrices.push(matrix.clone());
        biases.extend_from_slice(&bias[..matrix.n]);
        outs.push((lowered.tasks[at].out, matrix.n));
    }
    let Work::Linear { x, activation, .. } = lowered.tasks[first].work else { unreachable!("siblings are layers") };
    let k = matrices[0].k;
    let owner: Vec<(usize, usize)> = matrices.iter().enumerate().flat_map(|(at, matrix)| (0..matrix.n).map(move |n| (at, n))).collect();
    let matrix = LayerMatrix::computed(k, owner.len(), |k, n| matrices[owner[n].0].at(k, owner[n].1));
    let scope = lowered.values[outs[0].0].scope;
    let joined = lowered.values.len();
    lowered.values.push(PlanValue { shape: vec![owner.len()], dtype: DType::F32, scope });
    let names: Vec<&str> = outs.iter().filter_map(|(out, _)| lowered.names.get(out).map(String::as_str)).collect();
    lowered.names.insert(joined, names.join(" + "));
    let mut notes: Vec<Note> = members.iter().flat_map(|&at| lowered.tasks[at].notes.clone()).collect();
    notes.push(Note::Fused(format!("{} layers of one operand", members.len())));
    let layer = Work::Linear { x, matrix, bias: biases, addend: None, activation };
    let mut kept = Vec::with_capacity(lowered.tasks.len() + 1);
    for (at, task) in std::mem::take(&mut lowered.tasks).into_iter().enumerate() {
        if at == first {
            // The parts are views from here on, where all that reads them comes later.
            let mut column = 0;
            let views = outs.iter().map(|&(out, n)| {
                column += n;
                Task::new(out, Work::View { x: joined, first: column - n })
            });
            kept.extend(views);
        } else if !members.contains(&at) {
            kept.push(task);
        }
    }
    kept.insert(first, Task { out: joined, work: layer, notes });
    lowered.tasks = kept;
}

/// Wider layers gain nothing by being joined: their panels are full, and their operand is read from cache.
const COLUMNS_MAX: usize = 2048;
