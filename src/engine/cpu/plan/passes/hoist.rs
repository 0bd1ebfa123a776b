//! Linear layers over parts of different scope: what depends on the context alone is multiplied once per request.
//!
//! ```text
//!   y = act(W·[c, x, 1] + b)   becomes   h = W_c·c            once per request
//!                                        y = act(W_x·x + b' + h)    once per candidate; constants went into b'
//! ```
//!
//! The parts are found through whatever moves elements (views, concatenations, slices, gathers), element by element; the order of a layer's
//! inputs is free, so that parts of one value stay together however they were mixed. A layer is split only where that pays.

use crate::engine::EngineError;
use crate::engine::cpu::gemm::Activation;
use crate::engine::cpu::plan::constant::Constant;
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::origins::{Piece, push};
use crate::engine::cpu::plan::task::{Note, Task, ValueIndex, Work};
use crate::engine::cpu::plan::weights::LayerMatrix;
use crate::engine::cpu::program::{Hoist, Options};
use crate::model::{Model, ValueScope};

use super::rewriter::{Rewriter, reads};

/// The pass.
pub fn run(lowered: &mut Lowered, model: &Model, options: &Options) -> Result<(), EngineError> {
    let (mut rewriter, tasks) = Rewriter::new(lowered);
    let mut reads = reads(rewriter.lowered, &tasks);
    // Reads by layers that may be split do not keep their input alive.
    let layer_over = |task: &Task| match &task.work {
        Work::Linear { x, .. } => Some(*x),
        _ => None,
    };
    tasks.iter().filter_map(layer_over).for_each(|x| reads[x] -= 1);
    for mut task in tasks {
        let scope = rewriter.value(task.out).scope;
        match &task.work {
            Work::Linear { x, matrix, addend: None, .. }
                if scope == ValueScope::Candidate && matrix.n == rewriter.value(task.out).len() =>
            {
                let split = Split::new(&rewriter, *x);
                if split.is_possible() && (options.hoist == Hoist::Everything || split.pays(&rewriter, matrix.n, reads[*x] > 0)) {
                    split_layer(&mut rewriter, task, split);
                    continue;
                }
                if split.is_possible() {
                    let count: usize = split.context.iter().map(|(_, piece)| piece.len).sum();
                    let note = format!("{count} of {} inputs are of the context: too little work to compute apart", matrix.k);
                    task.notes.push(Note::Generic(note));
                }
                rewriter.put(task);
            }
            Work::Dense { features } if scope == ValueScope::Candidate => {
                let features = features.clone();
                split_features(&mut rewriter, model, &task, &features);
                // Behind `set`: the task itself moves nothing that `learn` knows of.
                rewriter.put(task);
            }
            _ => rewriter.put(task),
        }
    }
    Ok(())
}

/// Inputs of a layer by what they depend on.
struct Split {
    /// Position among the layer's inputs, and what stands there.
    constant: Vec<(usize, Piece)>,
    context: Vec<(usize, Piece)>,
    candidate: Vec<(usize, Piece)>,
}

impl Split {
    fn new(rewriter: &Rewriter, x: ValueIndex) -> Split {
        let mut split = Split { constant: vec![], context: vec![], candidate: vec![] };
        let mut at = 0;
        for &piece in rewriter.origins_of(x).iter() {
            let list = match rewriter.value(piece.value).scope {
                ValueScope::Constant => &mut split.constant,
                ValueScope::Context => &mut split.context,
                ValueScope::Candidate => &mut split.candidate,
            };
            list.push((at, piece));
            at += piece.len;
        }
        // Any order is right: this one keeps values whole.
        for list in [&mut split.constant, &mut split.context, &mut split.candidate] {
            list.sort_by_key(|&(_, piece)| piece);
        }
        split
    }

    fn is_possible(&self) -> bool {
        !self.context.is_empty() && !self.candidate.is_empty()
    }

    /// Whether computing this layer of `n` columns in two parts is faster for requests of some candidates. `kept`: others read the whole input
    /// too, so that the candidates' part of it is a copy.
    fn pays(&self, rewriter: &Rewriter, n: usize, kept: bool) -> bool {
        let len = |list: &[(usize, Piece)]| list.iter().map(|(_, piece)| piece.len).sum::<usize>() as f32;
        let saved = len(&self.context) * n as f32 * NS_MAC;
        let mut pieces = Vec::new();
        self.candidate.iter().for_each(|&(_, piece)| push(&mut pieces, piece));
        // Whole values are computed in place.
        let copies = pieces.iter().filter(|piece| kept || piece.len < rewriter.value(piece.value).len());
        let copied: f32 = copies.map(|piece| NS_PIECE + piece.len as f32 * NS_COPY).sum();
        saved > 2.0 * (n as f32 * NS_ADDEND + copied) + NS_STEP
    }
}

/// Whether multiplying so many inputs of a layer of `n` columns once per request is faster, if nothing need be copied for it.
pub fn pays(inputs: usize, n: usize) -> bool {
    inputs as f32 * n as f32 * NS_MAC > 2.0 * n as f32 * NS_ADDEND + NS_STEP
}

/// Nanoseconds per candidate: of a multiply-add, of adding a number that was computed before, of copying a piece and each of its numbers, and of
/// the parts' own steps shared by a few candidates.
const NS_MAC: f32 = 0.015;
const NS_ADDEND: f32 = 0.05;
const NS_PIECE: f32 = 1.0;
const NS_COPY: f32 = 0.1;
const NS_STEP: f32 = 15.0;

fn split_layer<'a>(rewriter: &mut Rewriter<'_, 'a>, task: Task<'a>, split: Split) {
    let Task { out, work: Work::Linear { matrix, mut bias, activation, .. }, mut notes } = task else {
        unreachable!("the caller splits layers alone");
    };
    let (k, n) = (matrix.k, matrix.n);
    add_constants(rewriter, &split.constant, &matrix, &mut bias);
    let name = rewriter.name(out);
    let (context, context_matrix) = half(rewriter, &split.context, &matrix, &format!("{name} (context inputs)"));
    let (candidate, candidate_matrix) = half(rewriter, &split.candidate, &matrix, &format!("{name} (candidate inputs)"));
    let addend = rewriter.add_value(vec![n], ValueScope::Context, format!("{name} (context part)"));
    let (hoisted, constants) = (context_matrix.k, k - context_matrix.k - candidate_matrix.k);
    let work = Work::Linear { x: context, matrix: context_matrix, bias: vec![0.0; n], addend: None, activation: Activation::None };
    let note = Note::Hoisted(format!("{hoisted} of {k} inputs of {name}"));
    rewriter.put(Task { out: addend, work, notes: vec![note] });
    notes.push(Note::Hoisted(format!("{hoisted} of {k} inputs are multiplied once per request")));
    if constants > 0 {
        notes.push(Note::Fused(format!("{constants} constant inputs into the bias")));
    }
    let work = Work::Linear { x: candidate, matrix: candidate_matrix, bias, addend: Some(addend), activation };
    rewriter.put(Task { out, work, notes });
}

/// These inputs side by side, and the rows of the matrix that belong to them.
fn half<'a>(
    rewriter: &mut Rewriter<'_, 'a>,
    list: &[(usize, Piece)],
    matrix: &LayerMatrix<'a>,
    name: &str,
) -> (ValueIndex, LayerMatrix<'a>) {
    let mut pieces = Vec::new();
    list.iter().for_each(|&(_, piece)| push(&mut pieces, piece));
    let rows: Vec<usize> = list.iter().flat_map(|&(at, piece)| at..at + piece.len).collect();
    let is_run = rows.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    let part =
        if is_run { matrix.inputs(rows[0], rows.len()) } else { LayerMatrix::computed(rows.len(), matrix.n, |k, n| matrix.at(rows[k], n)) };
    (rewriter.join(&pieces, name), part)
}

/// Multiplies constant inputs now.
fn add_constants(rewriter: &Rewriter, list: &[(usize, Piece)], matrix: &LayerMatrix, bias: &mut [f32]) {
    for (n, bias) in bias.iter_mut().enumerate() {
        let mut sum = f64::from(*bias);
        for &(at, piece) in list {
            let Some(Constant::F32(numbers)) = rewriter.lowered.constants.get(&piece.value) else {
                unreachable!("constants that tasks read were computed, and layers read floats");
            };
            let numbers = &numbers[piece.first..piece.first + piece.len];
            sum += numbers.iter().enumerate().map(|(k, &x)| f64::from(x) * f64::from(matrix.at(at + k, n))).sum::<f64>();
        }
        *bias = sum as f32;
    }
}

/// Dense features of both scopes in one value: also as a value of each scope, for layers that are split. Where nothing reads those they are
/// dropped again.
fn split_features(rewriter: &mut Rewriter, model: &Model, task: &Task, features: &[usize]) {
    let width = |feature: usize| model.features[feature].width as usize;
    let scopes = [crate::model::Scope::Context, crate::model::Scope::Candidate];
    let parts = scopes.map(|scope| features.iter().copied().filter(|&feature| model.features[feature].scope == scope).collect::<Vec<_>>());
    if parts.iter().any(Vec::is_empty) {
        return;
    }
    let name = rewriter.name(task.out);
    let values = [(ValueScope::Context, "context"), (ValueScope::Candidate, "candidate")]
        .map(|(scope, word)| (scope, format!("{name} ({word} part)")));
    let mut made = Vec::new();
    for ((scope, name), part) in values.into_iter().zip(&parts) {
        let value = rewriter.add_value(vec![part.iter().map(|&feature| width(feature)).sum()], scope, name);
        let mut task = Task::new(value, Work::Dense { features: part.clone() });
        if scope == ValueScope::Context {
            task.notes.push(Note::Hoisted(format!("{} of {} features", part.len(), features.len())));
        }
        rewriter.put(task);
        made.push(value);
    }
    let mut next = [0, 0];
    let mut pieces = Vec::new();
    for &feature in features {
        let side = usize::from(model.features[feature].scope == crate::model::Scope::Candidate);
        push(&mut pieces, Piece { value: made[side], first: next[side], len: width(feature) });
        next[side] += width(feature);
    }
    rewriter.origins.set(task.out, pieces);
}
