//! Sums over fields of different scope (wide parts, factorisation machines): the context's fields are summed once per request.
//!
//! Nothing need be copied beside the candidates' fields then, which is most of what such a sum costs.

use crate::engine::EngineError;
use crate::engine::cpu::kernels::binary::BinaryOp;
use crate::engine::cpu::kernels::unary::UnaryF32;
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::origins::{Piece, push};
use crate::engine::cpu::plan::task::{Note, Task, ValueIndex, Work};
use crate::engine::cpu::program::{Hoist, Options};
use crate::model::{DType, Model, ValueScope};

use super::rewriter::{Rewriter, reads};

/// The pass.
pub fn run(lowered: &mut Lowered, _: &Model, options: &Options) -> Result<(), EngineError> {
    let (mut rewriter, tasks) = Rewriter::new(lowered);
    let mut kept = kept(&rewriter, &tasks);
    kept.resize(rewriter.lowered.values.len(), true);
    for task in tasks {
        let fields = match &task.work {
            Work::Sum { x, axes } => Fields::new(&rewriter, task.out, *x, axes),
            Work::Fm { x, sums: None } => Fields::new(&rewriter, task.out, *x, &[]),
            _ => None,
        };
        match fields {
            Some(fields) if options.hoist == Hoist::Everything || !kept[fields.x] => split(&mut rewriter, task, fields),
            _ => rewriter.put(task),
        }
    }
    Ok(())
}

/// For each value: whether something else than one sum reads it, or what it is a view of.
fn kept(rewriter: &Rewriter, tasks: &[Task]) -> Vec<bool> {
    let reads = reads(rewriter.lowered, tasks);
    let mut kept: Vec<bool> = reads.iter().map(|&reads| reads > 1).collect();
    for task in tasks {
        if let Work::View { x, .. } = &task.work {
            kept[task.out] |= kept[*x];
        }
    }
    kept
}

/// Fields `[inner]` each, by scope.
struct Fields {
    x: ValueIndex,
    inner: usize,
    context: Vec<Piece>,
    candidate: Vec<Piece>,
}

impl Fields {
    /// If `x` is fields one behind the other, of both scopes. `axes`: that are summed over; none stands for the first one that is not 1.
    fn new(rewriter: &Rewriter, out: ValueIndex, x: ValueIndex, axes: &[usize]) -> Option<Fields> {
        let (value, inner) = (rewriter.value(x), rewriter.value(out).len());
        if value.dtype != DType::F32 || rewriter.value(out).scope != ValueScope::Candidate || inner == 0 {
            return None;
        }
        // Behind the last axis that is summed over, nothing is; before it, all is.
        if let Some(last) = axes.iter().max()
            && value.shape[last + 1..].iter().product::<usize>() != inner
        {
            return None;
        }
        let mut fields = Fields { x, inner, context: vec![], candidate: vec![] };
        let mut field: Vec<Piece> = Vec::new();
        let mut at = 0;
        for &piece in rewriter.origins_of(x).iter() {
            let mut piece = piece;
            while piece.len > 0 {
                let len = piece.len.min(inner - at % inner);
                field.push(Piece { len, ..piece });
                piece = Piece { first: piece.first + len, len: piece.len - len, ..piece };
                at += len;
                if at.is_multiple_of(inner) {
                    let of_candidate = rewriter.scope_of(&field) == ValueScope::Candidate;
                    let list = if of_candidate { &mut fields.candidate } else { &mut fields.context };
                    field.drain(..).for_each(|piece| push(list, piece));
                }
            }
        }
        // Whole fields of both scopes; constants alone are not worth a step.
        let both = !fields.candidate.is_empty() && rewriter.scope_of(&fields.context) == ValueScope::Context;
        both.then_some(fields)
    }
}

fn split<'a>(rewriter: &mut Rewriter<'_, 'a>, mut task: Task<'a>, fields: Fields) {
    let Fields { inner, context, candidate, .. } = fields;
    let name = rewriter.name(task.out);
    let count = |pieces: &[Piece]| pieces.iter().map(|piece| piece.len).sum::<usize>() / inner;
    let (hoisted, left) = (count(&context), count(&candidate));
    let note = Note::Hoisted(format!("{hoisted} of {} fields are summed once per request", hoisted + left));
    let context = stack(rewriter, &context, inner, &format!("{name} (context fields)"));
    let sum = add(rewriter, context, inner, &format!("{name} (context sum)"), &note);
    let candidate = stack(rewriter, &candidate, inner, &format!("{name} (candidate fields)"));
    if let Work::Fm { x, sums } = &mut task.work {
        let shape = rewriter.value(context).shape.clone();
        let squares = rewriter.add_value(shape, ValueScope::Context, format!("{name} (context squares)"));
        rewriter.put(Task::new(squares, Work::Unary { function: UnaryF32::Square, x: context }));
        let squares = add(rewriter, squares, inner, &format!("{name} (context sum of squares)"), &note);
        let both = rewriter.add_value(vec![2 * inner], ValueScope::Context, format!("{name} (context sums)"));
        rewriter.put(Task::new(both, Work::Concat { xs: vec![sum, squares], axis: 0 }));
        (*x, *sums) = (candidate, Some(both));
        task.notes.push(note);
        rewriter.put(task);
        return;
    }
    let part = add_of(rewriter, candidate, inner, ValueScope::Candidate, &format!("{name} (candidate sum)"));
    let shape = rewriter.value(task.out).shape.clone();
    let hoisted_sum = shaped(rewriter, sum, &shape);
    let candidate_sum = shaped(rewriter, part, &shape);
    task.work = Work::Binary { op: BinaryOp::Add, a: candidate_sum, b: hoisted_sum };
    task.notes.push(note);
    rewriter.put(task);
}

/// Fields as `[count, inner]`.
fn stack(rewriter: &mut Rewriter, pieces: &[Piece], inner: usize, name: &str) -> ValueIndex {
    let joined = rewriter.join(pieces, name);
    let count = rewriter.value(joined).len() / inner;
    shaped(rewriter, joined, &[count, inner])
}

/// The same elements in this shape.
fn shaped(rewriter: &mut Rewriter, x: ValueIndex, shape: &[usize]) -> ValueIndex {
    if rewriter.value(x).shape == shape {
        return x;
    }
    let (scope, name) = (rewriter.value(x).scope, rewriter.name(x));
    let view = rewriter.add_value(shape.to_vec(), scope, name);
    rewriter.put(Task::new(view, Work::View { x, first: 0 }));
    view
}

/// The sum over fields of the context, `[inner]`.
fn add(rewriter: &mut Rewriter, x: ValueIndex, inner: usize, name: &str, note: &Note) -> ValueIndex {
    let sum = add_of(rewriter, x, inner, ValueScope::Context, name);
    if let Some(task) = rewriter.lowered.tasks.last_mut() {
        task.notes.push(note.clone());
    }
    sum
}

fn add_of(rewriter: &mut Rewriter, x: ValueIndex, inner: usize, scope: ValueScope, name: &str) -> ValueIndex {
    let sum = rewriter.add_value(vec![inner], scope, name.to_owned());
    // A sum over an axis of one is a view.
    let work = if rewriter.value(x).shape[0] == 1 { Work::View { x, first: 0 } } else { Work::Sum { x, axes: vec![0] } };
    rewriter.put(Task::new(sum, work));
    sum
}
