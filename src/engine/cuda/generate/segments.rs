//! Where the steps of a scope are cut into kernels: before and after layers that are too wide to be streamed again for every tile.

use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{Task, Work};
use crate::model::ValueScope;

/// Steps that one kernel runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Contexts or candidates.
    pub scope: ValueScope,
    /// Indices of its tasks, ascending.
    pub tasks: Vec<usize>,
    /// Whether it is a single wide layer.
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
    /// Cuts a plan at layers of `wide_from` weights or more.
    pub fn new(lowered: &Lowered, wide_from: usize) -> Segments {
        let mut list: Vec<Segment> = Vec::new();
        for scope in [ValueScope::Context, ValueScope::Candidate] {
            let mut open: Option<usize> = None;
            for (at, task) in lowered.tasks.iter().enumerate().filter(|(_, task)| lowered.values[task.out].scope == scope) {
                let wide = is_wide(task, lowered, wide_from);
                match open {
                    Some(segment) if !wide => list[segment].tasks.push(at),
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
}

fn is_wide(task: &Task, lowered: &Lowered, wide_from: usize) -> bool {
    match &task.work {
        Work::Linear { matrix, .. } => matrix.k * matrix.n >= wide_from && lowered.values[task.out].len() == matrix.n,
        _ => false,
    }
}
