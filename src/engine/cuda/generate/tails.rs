//! Which elementwise tasks a wide layer's kernel computes on its sums, while they are in registers: its tail.
//!
//! A cross layer `x0 * (W v + b) + x` would write `W v + b` to device memory for the next kernel to read it. Tasks of a tail have one element
//! for each column of the layer, and read the layer, each other, and what earlier kernels left or the model holds. Views of these results
//! belong to the tail as well: they are nothing to do.

use std::collections::HashSet;

use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::place::Homes;
use crate::engine::cpu::plan::task::{Task, ValueIndex, Work};
use crate::model::{DType, ValueScope};

use super::Target;
use super::narrow::{add_copies, narrow};
use super::segments::{Segments, is_wide};
use super::traffic::{is_in_place, passed};

/// Puts tasks into the order in which kernels run them: contexts before candidates, tails behind their layers. Gives the cut into kernels.
pub fn arrange(lowered: &mut Lowered, target: &Target) -> Segments {
    let values = &lowered.values;
    lowered.tasks.sort_by_key(|task| values[task.out].scope == ValueScope::Candidate);
    add_copies(lowered, target);
    let mut tails = HashSet::new();
    let mut at = 0;
    while at < lowered.tasks.len() {
        let wide = is_wide(&lowered.tasks[at], lowered, target.wide_from);
        at += 1 + if wide { attach(lowered, target, &mut tails, at) } else { 0 };
    }
    Segments::new(lowered, target.wide_from, &tails)
}

/// Moves tasks behind the wide layer `at`, as many of its possible tail as leave least to be passed on; gives how many.
fn attach(lowered: &mut Lowered, target: &Target, tails: &mut HashSet<ValueIndex>, at: usize) -> usize {
    let possible = possible(lowered, at);
    let mut best = (cost(lowered, target, tails), 0);
    for (count, &from) in possible.iter().enumerate() {
        let to = at + 1 + count;
        lowered.tasks[to..=from].rotate_right(1);
        tails.insert(lowered.tasks[to].out);
        let cost = cost(lowered, target, tails);
        if cost <= best.0 {
            best = (cost, count + 1);
        }
    }
    for (count, &from) in possible.iter().enumerate().skip(best.1).rev() {
        let to = at + 1 + count;
        tails.remove(&lowered.tasks[to].out);
        lowered.tasks[to..=from].rotate_left(1);
    }
    best.1
}

/// Bytes per row that pass between kernels, and some more for each kernel.
fn cost(lowered: &Lowered, target: &Target, tails: &HashSet<ValueIndex>) -> u64 {
    let (homes, segments) = (Homes::new(lowered), Segments::new(lowered, target.wide_from, tails));
    let narrow = narrow(lowered, &homes, &segments, target.numbers);
    passed(lowered, &homes, &segments, &narrow).iter().sum::<u64>() + segments.list.len() as u64 * LAUNCH_BYTES
}

/// The tasks, ascending, that could follow the wide layer `at` in its kernel, each after those before it.
fn possible(lowered: &Lowered, at: usize) -> Vec<usize> {
    let values = &lowered.values;
    let homes = Homes::new(lowered);
    let out = lowered.tasks[at].out;
    let mut made: HashSet<ValueIndex> = lowered.tasks[..=at].iter().map(|task| task.out).collect();
    // What registers hold, and what is a part of that or holds it.
    let (mut held, mut related) = (HashSet::from([out]), HashSet::from([out]));
    let mut operands = Operands::of_layer(&lowered.tasks[at]);
    let mut found = Vec::new();
    // Pieces lie in the first of the values that are made of them, so that these keep their order.
    let mut left_behind = false;
    let behind = lowered.tasks.iter().enumerate().skip(at + 1).filter(|(_, task)| values[task.out].scope == values[out].scope);
    for (number, task) in behind {
        let inputs = task.work.inputs();
        let is_ready = inputs.iter().all(|input| made.contains(input) || values[*input].scope == ValueScope::Constant);
        let joins = matches!(task.work, Work::Concat { .. });
        if is_ready && is_in_place(task, lowered, &homes) && inputs.iter().any(|input| related.contains(input)) && !(joins && left_behind) {
            if inputs.iter().all(|input| held.contains(input)) && !joins && values[task.out].len() == values[out].len() {
                held.insert(task.out);
            }
        } else if is_ready && is_of_each_column(task, lowered, out) && operands.take(task, &held, &related) {
            held.insert(task.out);
        } else {
            left_behind |= joins;
            continue;
        }
        found.push(number);
        made.insert(task.out);
        related.insert(task.out);
    }
    found
}

/// Whether an elementwise task has an element for each of a layer's columns.
fn is_of_each_column(task: &Task, lowered: &Lowered, layer: ValueIndex) -> bool {
    let values = &lowered.values;
    let is_elementwise = matches!(
        task.work,
        Work::Binary { .. } | Work::Unary { .. } | Work::Chain { .. } | Work::Broadcast { .. } | Work::BatchNorm { .. }
    );
    let is_f32 = |value: ValueIndex| values[value].dtype == DType::F32;
    is_elementwise && is_f32(task.out) && task.work.inputs().into_iter().all(is_f32) && values[task.out].len() == values[layer].len()
}

/// What a tail loads beside its layer's sums, a pair of numbers each.
#[derive(Clone, Default)]
struct Operands {
    values: HashSet<ValueIndex>,
    /// The layer's addend, and constants of normalizations.
    others: usize,
}

impl Operands {
    /// Those of the layer itself.
    fn of_layer(layer: &Task) -> Operands {
        let has_addend = matches!(layer.work, Work::Linear { addend: Some(_), .. });
        Operands { values: HashSet::new(), others: usize::from(has_addend) }
    }

    /// Adds those of a task, if the tail can have it: some of its inputs come from registers, the others from memory as earlier kernels left it, and
    /// registers are there for all of them.
    fn take(&mut self, task: &Task, held: &HashSet<ValueIndex>, related: &HashSet<ValueIndex>) -> bool {
        let (own, others): (Vec<ValueIndex>, Vec<ValueIndex>) = task.work.inputs().iter().partition(|input| held.contains(input));
        let mut all = self.clone();
        all.values.extend(&others);
        all.others += if matches!(task.work, Work::BatchNorm { .. }) { NORM_CONSTANTS } else { 0 };
        let fits = !own.is_empty() && !others.iter().any(|input| related.contains(input)) && all.values.len() + all.others <= OPERANDS_MAX;
        if fits {
            *self = all;
        }
        fits
    }
}

/// Bytes per row that a kernel more is worth: it takes about 2 us, in which an H100 passes on so many for each of 4096 rows.
const LAUNCH_BYTES: u64 = 1024;
/// Operands of a tail from memory. `end_layer` of `kernels/wide.cuh` holds 8 bytes of each for 2 to 8 pairs.
const OPERANDS_MAX: usize = 8;
/// Constants of a normalization: means, scales and biases, of each column.
const NORM_CONSTANTS: usize = 3;
