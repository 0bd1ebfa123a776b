//! What a plan does, for people: every task with its work, what was fused into it, what was hoisted, what stayed generic and why.

use std::fmt::{self, Write};

use serde::Serialize;

use crate::engine::cpu::program::TILE_ROWS;
use crate::model::{DType, Model, ValueScope};

use super::generic::Generic;
use super::lower::Lowered;
use super::task::{Note, PlanValue, Task, ValueIndex, Work};
use super::work::{self, PlanWork};

/// A plan as it is run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PlanReport {
    /// Tasks, in order: those of requests and those of candidates.
    pub tasks: Vec<PlanTask>,
    /// All tasks that run once per request, for one request.
    pub request: PlanWork,
    /// All tasks that run once per candidate, for one candidate.
    pub candidate: PlanWork,
    /// Bytes of context values that candidates read, kept for each request of a batch.
    pub bytes_per_context: usize,
    /// Bytes of all values that live in a tile of 64 rows (the height of a tile).
    pub tile_bytes: usize,
    /// Rows of a full tile.
    pub tile_rows: usize,
}

/// One task of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanTask {
    /// What it makes: a value of the graph, or a part of one.
    pub value: String,
    /// What it does.
    pub op: String,
    /// Of its value, per row.
    pub shape: Vec<usize>,
    /// Element type, if not f32.
    pub integer: bool,
    /// How often it runs.
    pub per: Per,
    /// Kernels that it became; 0: its value is part of another one's memory, nothing is run.
    pub kernels: usize,
    /// For one row.
    pub work: PlanWork,
    /// Ops that became part of it.
    pub fused: Vec<String>,
    /// Work that moved from candidates to the request.
    pub hoisted: Vec<String>,
    /// Why a special kernel was not taken.
    pub generic: Vec<String>,
}

/// How often a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Once per request.
    Request,
    /// Once per candidate.
    Candidate,
}

impl PlanReport {
    /// The report of these tasks and the number of kernels that each became.
    pub fn new(model: &Model, lowered: &Lowered, kernels: &[usize]) -> PlanReport {
        let mut report = PlanReport { tile_rows: TILE_ROWS, ..PlanReport::default() };
        for (task, &kernels) in lowered.tasks.iter().zip(kernels) {
            let task = describe(model, lowered, task, kernels);
            match task.per {
                Per::Request => report.request.add(task.work),
                Per::Candidate => report.candidate.add(task.work),
            }
            report.tasks.push(task);
        }
        report
    }
}

fn describe(model: &Model, lowered: &Lowered, task: &Task, kernels: usize) -> PlanTask {
    let out = &lowered.values[task.out];
    let (mut fused, mut hoisted, mut generic) = (vec![], vec![], vec![]);
    for note in &task.notes {
        match note {
            Note::Fused(note) => fused.push(note.clone()),
            Note::Hoisted(note) => hoisted.push(note.clone()),
            Note::Generic(note) => generic.push(note.clone()),
        }
    }
    if generic.is_empty() && kernels > 0 {
        generic.extend(why_generic(task, out, lowered).map(str::to_owned));
    }
    PlanTask {
        value: lowered.names.get(&task.out).cloned().unwrap_or_default(),
        op: name(&task.work),
        shape: out.shape.clone(),
        integer: out.dtype == DType::I64,
        per: if out.scope == ValueScope::Candidate { Per::Candidate } else { Per::Request },
        kernels,
        work: if kernels > 0 { work::count(model, &lowered.values, task) } else { PlanWork::default() },
        fused,
        hoisted,
        generic,
    }
}

/// For tasks that move what might have lain in place, or compute what has no kernel of its own.
fn why_generic(task: &Task, out: &PlanValue, lowered: &Lowered) -> Option<&'static str> {
    let other_scope = |x: &ValueIndex| lowered.values[*x].scope != out.scope;
    Some(match &task.work {
        Work::Generic(Generic::Attention(_)) => return None,
        Work::Generic(_) => "a kernel of its own; no pass looks into it",
        Work::MatMul { .. } => "a product of two computed values, in no pattern that has a kernel",
        Work::Concat { xs, .. } if xs.iter().any(other_scope) => "parts of the context or constants are copied beside the candidates'",
        Work::Concat { .. } => "parts that others read in another place, or that do not lie in one piece, are copied",
        Work::View { .. } => "copied: it is part of another value that is not where its reader wants it",
        Work::Slice { .. } | Work::Transpose { .. } | Work::Broadcast { .. } | Work::Gather { .. } => "moves elements into another order",
        _ => return None,
    })
}

/// The variant's name, as ops are written: `batch_norm`.
fn name(work: &Work) -> String {
    /// Takes what comes before the variant's fields, then stops the formatting.
    struct Name(String);
    impl Write for Name {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for letter in text.chars() {
                if !letter.is_alphanumeric() {
                    return Err(fmt::Error);
                }
                if letter.is_uppercase() && !self.0.is_empty() {
                    self.0.push('_');
                }
                self.0.extend(letter.to_lowercase());
            }
            Ok(())
        }
    }
    let mut name = Name(String::new());
    // Ends in an error by design.
    let _ = match work {
        Work::Generic(generic) => write!(name, "{generic:?}"),
        work => write!(name, "{work:?}"),
    };
    name.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_variants() {
        let bias = vec![1.0; 3];
        for (work, expected) in [
            (Work::BatchNorm { x: 1, axis: 0, mean: bias.clone(), scale: bias.clone(), bias }, "batch_norm"),
            (Work::View { x: 1, first: 0 }, "view"),
            (Work::ClampI64 { x: 1, min: 0, max: 1 }, "clamp_i64"),
        ] {
            assert_eq!(name(&work), expected);
        }
    }
}
