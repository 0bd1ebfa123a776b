//! Layers over one sequence that only attention reads, its queries, keys and values, become one: the sequence is read once, and panels are filled
//! that narrow projections leave half empty. Attention reads its part of the joined rows with steps of their own.

use crate::engine::EngineError;
use crate::engine::cpu::gemm::Activation;
use crate::engine::cpu::plan::generic::Generic;
use crate::engine::cpu::plan::generic::attention::Attention;
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{Note, PlanValue, Task, ValueIndex, Work};
use crate::engine::cpu::plan::weights::LayerMatrix;
use crate::engine::cpu::program::Options;
use crate::model::{DType, Model};

use super::rewriter::reads;

/// The pass.
pub fn run(lowered: &mut Lowered, _: &Model, _: &Options) -> Result<(), EngineError> {
    let parts = parts(lowered);
    let mut at = 0;
    while at < lowered.tasks.len() {
        let members = members(lowered, &parts, at);
        if members.len() > 1 {
            join(lowered, &members);
        }
        at += 1;
    }
    Ok(())
}

/// An operand of an attention, by the place of its steps: whose elements, and the first one.
fn operand(attention: &mut Attention, slot: usize) -> &mut (ValueIndex, usize) {
    match slot {
        1 => &mut attention.q,
        2 => &mut attention.k,
        _ => &mut attention.v,
    }
}

/// For each value: whether attention alone reads it, and always within rows of its layer.
fn parts(lowered: &mut Lowered) -> Vec<bool> {
    let reads = reads(lowered, &lowered.tasks);
    let mut columns = vec![0; lowered.values.len()];
    for task in &lowered.tasks {
        if let Work::Linear { matrix, addend: None, .. } = &task.work {
            columns[task.out] = matrix.n;
        }
    }
    let mut found = vec![0; lowered.values.len()];
    for task in &mut lowered.tasks {
        let Work::Generic(Generic::Attention(attention)) = &mut task.work else { continue };
        for slot in 1..4 {
            let (value, _) = *operand(attention, slot);
            let fits = columns[value] > 0 && widened(attention, slot, columns[value], columns[value]).is_some();
            found[value] += usize::from(fits);
        }
    }
    found.iter().zip(&reads).map(|(&found, &reads)| found > 0 && found == reads).collect()
}

/// Positions of the layers that may become one with the one at `first`.
fn members(lowered: &Lowered, parts: &[bool], first: usize) -> Vec<usize> {
    type Kin = (ValueIndex, Activation, usize, usize);
    let kin = |task: &Task| -> Option<Kin> {
        let Work::Linear { x, matrix, addend: None, activation, .. } = &task.work else { return None };
        let is_part = parts.get(task.out).copied().unwrap_or(false);
        is_part.then_some((*x, *activation, matrix.k, lowered.values[task.out].len() / matrix.n))
    };
    let Some(wanted) = kin(&lowered.tasks[first]) else { return Vec::new() };
    let scope = lowered.values[lowered.tasks[first].out].scope;
    let same = |task: &Task| kin(task) == Some(wanted) && lowered.values[task.out].scope == scope;
    (first..lowered.tasks.len()).filter(|&at| same(&lowered.tasks[at])).collect()
}

/// First element and steps (of each leading loop, from row to row) of an operand whose layer of `n` columns became a part of one of `all`, from
/// its first column on. None if a row of the operand crosses rows of the layer.
fn widened(attention: &Attention, slot: usize, n: usize, all: usize) -> Option<(usize, Vec<usize>, usize)> {
    let shape = &attention.shape;
    let (rows, width) = match slot {
        1 => (shape.rows, shape.width),
        2 => (shape.keys, shape.width),
        _ => (shape.keys, shape.values),
    };
    let first = [attention.q.1, attention.k.1, attention.v.1][slot - 1];
    let mut inside = first % n + width - 1;
    let mut widen = |turns: usize, step: usize| {
        if step.is_multiple_of(n) {
            return step / n * all;
        }
        inside += (turns - 1) * step;
        step
    };
    let lead = attention.lead.iter().map(|dim| widen(dim.size, dim.strides[slot])).collect();
    let row_step = widen(rows, shape.steps[slot]);
    (inside < n).then_some((first / n * all + first % n, lead, row_step))
}

fn join(lowered: &mut Lowered, members: &[usize]) {
    let (mut matrices, mut biases, mut outs) = (Vec::new(), Vec::new(), Vec::new());
    for &at in members {
        let Work::Linear { matrix, bias, .. } = &lowered.tasks[at].work else { unreachable!("members are layers") };
        outs.push((lowered.tasks[at].out, matrix.n));
        matrices.push(matrix.clone());
        biases.extend_from_slice(&bias[..matrix.n]);
    }
    let Work::Linear { x, activation, .. } = lowered.tasks[members[0]].work else { unreachable!("members are layers") };
    let k = matrices[0].k;
    let owner: Vec<(usize, usize)> = matrices.iter().enumerate().flat_map(|(at, matrix)| (0..matrix.n).map(move |n| (at, n))).collect();
    let all = owner.len();
    let matrix = LayerMatrix::computed(k, all, |k, n| matrices[owner[n].0].at(k, owner[n].1));
    let PlanValue { scope, .. } = lowered.values[outs[0].0];
    let rows = lowered.values[outs[0].0].len() / outs[0].1;
    let joined = lowered.values.len();
    lowered.values.push(PlanValue { shape: vec![rows, all], dtype: DType::F32, scope });
    let names: Vec<&str> = outs.iter().filter_map(|(out, _)| lowered.names.get(out).map(String::as_str)).collect();
    lowered.names.insert(joined, names.join(" + "));
    let mut column = 0;
    for &(out, n) in &outs {
        for task in &mut lowered.tasks {
            let Work::Generic(Generic::Attention(attention)) = &mut task.work else { continue };
            for slot in 1..4 {
                if operand(attention, slot).0 != out {
                    continue;
                }
                let (first, lead, row_step) = widened(attention, slot, n, all).expect("parts were looked at before");
                *operand(attention, slot) = (joined, first + column);
                attention.lead.iter_mut().zip(lead).for_each(|(dim, step)| dim.strides[slot] = step);
                attention.shape.steps[slot] = row_step;
            }
        }
        column += n;
    }
    let mut notes: Vec<Note> = members.iter().flat_map(|&at| lowered.tasks[at].notes.clone()).collect();
    notes.push(Note::Fused(format!("{} layers of one sequence", members.len())));
    let work = Work::Linear { x, matrix, bias: biases, addend: None, activation };
    lowered.tasks[members[0]] = Task { out: joined, work, notes };
}
