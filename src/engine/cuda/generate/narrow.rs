//! Which values are stored in 16 bits: those that wide layers alone read, which would round them anyway, so that no result changes. Of what
//! others read as well, wide layers get a copy.

use std::collections::HashSet;

use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::place::Homes;
use crate::engine::cpu::plan::task::{Task, ValueIndex, Work};
use crate::model::{DType, ValueScope};

use super::dense_layers::is_multiplied_in_bf16;
use super::segments::{Segments, is_wide};
use super::traffic::{is_in_place, makers};
use super::{Numbers, Target};

/// Roots of homes whose elements can be bf16; none where arithmetic is that of f32.
pub fn narrow(lowered: &Lowered, homes: &Homes, segments: &Segments, numbers: Numbers) -> HashSet<ValueIndex> {
    if numbers == Numbers::F32 {
        return HashSet::new();
    }
    let root = |value: ValueIndex| homes.of(value).0;
    let makers = makers(lowered);
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
            let from_memory = |input: &ValueIndex| makers[*input].is_none_or(|maker| !segments.in_registers(maker, at));
            for input in task.work.inputs().into_iter().filter(from_memory) {
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

/// Gives wide layers that multiply in bf16 narrow copies of what they read, where others read the same in f32: each element is rounded once, not
/// for every strip of columns, and comes in half the bytes. A copy is made by the kernel that makes the value.
pub fn add_copies(lowered: &mut Lowered, target: &Target) {
    if target.numbers == Numbers::F32 {
        return;
    }
    let wide_from = target.wide_from;
    let (homes, segments) = (Homes::new(lowered), Segments::new(lowered, wide_from, &HashSet::new()));
    let narrow = narrow(lowered, &homes, &segments, target.numbers);
    let mut originals: Vec<ValueIndex> = Vec::new();
    for task in lowered.tasks.iter().filter(|task| is_wide(task, lowered, wide_from)) {
        let Work::Linear { x, matrix, .. } = &task.work else { continue };
        let is_whole = lowered.values[*x].scope == lowered.values[task.out].scope && !narrow.contains(&homes.of(*x).0);
        if is_whole && is_multiplied_in_bf16(matrix) && !originals.contains(x) && costs_no_kernel(*x, lowered, &homes, &segments) {
            originals.push(*x);
        }
    }
    for original in originals {
        let copy = lowered.values.len();
        lowered.values.push(lowered.values[original].clone());
        let maker = lowered.tasks.iter().position(|task| task.out == original).expect("no constant");
        lowered.tasks.insert(maker + 1, Task::new(copy, Work::Broadcast { x: original }));
        for at in maker + 2..lowered.tasks.len() {
            let wide = is_wide(&lowered.tasks[at], lowered, wide_from);
            if let Work::Linear { x, matrix, .. } = &mut lowered.tasks[at].work
                && wide
                && *x == original
                && is_multiplied_in_bf16(matrix)
            {
                *x = copy;
            }
        }
    }
}

/// Whether a copy of a value can be made where the value is: in a kernel that computes all of it, or as the tail of the wide layer that does.
fn costs_no_kernel(value: ValueIndex, lowered: &Lowered, homes: &Homes, segments: &Segments) -> bool {
    let makers = makers(lowered);
    let Some(maker) = makers[value] else { return false };
    let task = &lowered.tasks[maker];
    let own = segments.of(maker);
    let same = |input: &ValueIndex| makers[*input].is_some_and(|maker| segments.of(maker) == own);
    match &task.work {
        Work::View { x, .. } if lowered.values[*x].len() == lowered.values[value].len() => costs_no_kernel(*x, lowered, homes, segments),
        work if is_in_place(task, lowered, homes) => !segments.list[own].wide && work.inputs().iter().all(same),
        _ => true,
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
