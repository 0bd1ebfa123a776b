//! Where the steps of a scope are cut into kernels: before and after layers that are too wide to be streamed again for every tile.

use std::collections::HashSet;

use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{Task, ValueIndex, Work};
use crate::model::ValueScope;

/// Steps that one kernel runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Contexts or candidates.
    pub scope: ValueScope,
    /// Indices of its tasks, ascending.
    pub tasks: Vec<usize>,
    /// Whether it is a wide layer: its first task. The others are its tail ([`super::tails`]).
    pub wide: bool,
}

/// All segments: those of the contexts, then those of the candidates, of which the last one is not wide: it writes the answer.
pub struct Segments {
    /// In order of execution.
    pub list: Vec<Segment>,
    /// Segment of each task.
    of: Vec<usize>,
}

impl Segments {
    /// Cuts a plan at layers of `wide_from` weights or more. `tails`: what tasks make that are part of the wide layer before them.
    pub fn new(lowered: &Lowered, wide_from: usize, tails: &HashSet<ValueIndex>) -> Segments {
        let mut list: Vec<Segment> = Vec::new();
        for scope in [ValueScope::Context, ValueScope::Candidate] {
            let mut open: Option<usize> = None;
            for (at, task) in lowered.tasks.iter().enumerate().filter(|(_, task)| lowered.values[task.out].scope == scope) {
                let wide = is_wide(task, lowered, wide_from);
                match (open, list.last_mut()) {
                    (None, Some(layer)) if tails.contains(&task.out) => layer.tasks.push(at),
                    (Some(_), Some(segment)) if !wide => segment.tasks.push(at),
                    _ => {
                        open = (!wide).then_some(list.len());
                        list.push(Segment { scope, tasks: vec![at], wide });
                    }
                }
            }
            if scope == ValueScope::Candidate && open.is_none() {
                list.push(Segment { scope, tasks: vec![], wide: false });
            }
        }
        let mut of = vec![list.len() - 1; lowered.tasks.len() + 1];
        for (number, segment) in list.iter().enumerate() {
            segment.tasks.iter().for_each(|&task| of[task] = number);
        }
        Segments { list, of }
    }

    /// The segment of a task; of the answer, for the number behind the last task.
    pub fn of(&self, task: usize) -> usize {
        self.of[task]
    }

    /// Whether a task's result is in registers when another one reads it: both are of the same wide layer.
    pub fn in_registers(&self, maker: usize, reader: usize) -> bool {
        self.of[maker] == self.of[reader] && self.list[self.of[maker]].wide
    }
}

/// Whether a task is a layer that becomes a kernel of its own: a product over one vector of each row, of `wide_from` weights or more.
pub fn is_wide(task: &Task, lowered: &Lowered, wide_from: usize) -> bool {
    match &task.work {
        Work::Linear { matrix, .. } => matrix.k * matrix.n >= wide_from && lowered.values[task.out].len() == matrix.n,
        _ => false,
    }
}
