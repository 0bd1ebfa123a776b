//! What passes from kernel to kernel through device memory.

use std::collections::{HashMap, HashSet};

use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::place::Homes;
use crate::engine::cpu::plan::task::{Task, ValueIndex, Work};

use super::segments::Segments;

/// Which task makes each value; `None`: a constant.
pub fn makers(lowered: &Lowered) -> Vec<Option<usize>> {
    let mut makers = vec![None; lowered.values.len()];
    lowered.tasks.iter().enumerate().for_each(|(at, task)| makers[task.out] = Some(at));
    makers
}

/// Whether a task has nothing to do: what it moves lies in place.
pub fn is_in_place(task: &Task, lowered: &Lowered, homes: &Homes) -> bool {
    match &task.work {
        Work::View { .. } => true,
        Work::Concat { xs, .. } => {
            let (root, mut at) = homes.of(task.out);
            xs.iter().all(|&x| {
                let len = lowered.values[x].len();
                at += len;
                len == 0 || homes.of(x) == (root, at - len)
            })
        }
        _ => false,
    }
}

/// Bytes per row that each segment reads of what others left in device memory, and leaves there itself. `narrow`: roots of bf16.
pub fn passed(lowered: &Lowered, homes: &Homes, segments: &Segments, narrow: &HashSet<ValueIndex>) -> Vec<u64> {
    let makers = makers(lowered);
    let bytes = |value: ValueIndex, elements: usize| {
        let element = if narrow.contains(&homes.of(value).0) { 2 } else { lowered.values[value].element_bytes() };
        (elements * element) as u64
    };
    // By reading segment and value that was computed.
    let mut read: HashMap<(usize, ValueIndex), usize> = HashMap::new();
    let mut written: HashSet<ValueIndex> = HashSet::new();
    let mut note = |value: ValueIndex, reader: usize| {
        let mut origins = Vec::new();
        trace(lowered, homes, &makers, value, usize::MAX, &mut origins);
        for (origin, maker, elements) in origins {
            if segments.of(maker) != segments.of(reader) {
                let most = read.entry((segments.of(reader), origin)).or_default();
                *most = elements.max(*most);
                written.insert(origin);
            }
        }
    };
    for (at, task) in lowered.tasks.iter().enumerate().filter(|(_, task)| !is_in_place(task, lowered, homes)) {
        task.work.inputs().into_iter().for_each(|input| note(input, at));
    }
    lowered.outputs.iter().for_each(|&output| note(output, lowered.tasks.len()));
    let mut passed = vec![0; segments.list.len()];
    for ((segment, value), elements) in read {
        passed[segment] += bytes(value, elements);
    }
    for value in written {
        let maker = makers[value].expect("constants are not traced");
        passed[segments.of(maker)] += bytes(value, lowered.values[value].len());
    }
    passed
}

/// The values that a value consists of, with the tasks that computed them, and how many elements at most are read of each.
fn trace(
    lowered: &Lowered,
    homes: &Homes,
    makers: &[Option<usize>],
    value: ValueIndex,
    most: usize,
    origins: &mut Vec<(ValueIndex, usize, usize)>,
) {
    let most = most.min(lowered.values[value].len());
    let Some(maker) = makers[value] else { return };
    let task = &lowered.tasks[maker];
    if is_in_place(task, lowered, homes) {
        task.work.inputs().into_iter().for_each(|input| trace(lowered, homes, makers, input, most, origins));
    } else {
        origins.push((value, maker, most));
    }
}
