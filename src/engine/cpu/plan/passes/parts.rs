//! Layers over a sequence beside what is compared with it, as attention to a target item reads them: `W·[q, k, q − k, q·k]` for every
//! position of k.
//!
//! ```text
//!   W₁q + W₂k + W₃(q − k) + W₄(q·k)  =  (W₁ + W₃)q  +  (W₂ − W₃)k  +  W₄(q·k)
//!                                       once a row     by scope of k   per position
//! ```
//!
//! Sums and differences among a layer's inputs go into its weights, and what is the same for all positions is multiplied once instead of once
//! per position. What the sequence alone decides is multiplied once per request where it is of the context. Source of the layer: Zhou et al.
//! 2018 (DIN), arXiv:1706.06978.

use crate::engine::EngineError;
use crate::engine::cpu::gemm::Activation;
use crate::engine::cpu::kernels::binary::BinaryOp;
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{Note, Task, ValueIndex, Work};
use crate::engine::cpu::plan::weights::LayerMatrix;
use crate::engine::cpu::program::{Hoist, Options};
use crate::model::{Model, ValueScope};

use super::rewriter::Rewriter;

/// The pass.
pub fn run(lowered: &mut Lowered, _: &Model, options: &Options) -> Result<(), EngineError> {
    let mut makers: Vec<Option<Made>> = vec![None; lowered.values.len()];
    let (mut rewriter, tasks) = Rewriter::new(lowered);
    for task in tasks {
        match &task.work {
            Work::Broadcast { x } => makers[task.out] = Some(Made::Spread(*x)),
            Work::Binary { op: BinaryOp::Add, a, b } => makers[task.out] = Some(Made::Sum(*a, *b, 1.0)),
            Work::Binary { op: BinaryOp::Sub, a, b } => makers[task.out] = Some(Made::Sum(*a, *b, -1.0)),
            Work::Concat { xs, axis } if axis + 1 == rewriter.value(task.out).shape.len() => {
                makers[task.out] = Some(Made::Joined(xs.clone()));
            }
            _ => {}
        }
        let split = match &task.work {
            Work::Linear { x, matrix, addend: None, .. } => match &makers[*x] {
                Some(Made::Joined(xs)) => Split::new(&rewriter, &makers, xs, matrix, rewriter.value(task.out).len() / matrix.n),
                _ => None,
            },
            _ => None,
        };
        match split {
            Some(split) if split.pays() => split.put(&mut rewriter, task, options),
            _ => rewriter.put(task),
        }
    }
    Ok(())
}

/// How a value was made, as far as it matters here.
#[derive(Clone)]
enum Made {
    Spread(ValueIndex),
    /// a + factor · b.
    Sum(ValueIndex, ValueIndex, f32),
    /// Side by side along the last axis.
    Joined(Vec<ValueIndex>),
}

/// An input of the layer, and its weights `[width][n]`.
struct Term {
    value: ValueIndex,
    /// One vector for all positions.
    single: bool,
    weights: Vec<f32>,
}

/// A layer taken apart.
struct Split {
    width_before: usize,
    positions: usize,
    n: usize,
    terms: Vec<Term>,
}

impl Split {
    /// `positions`: rows of the layer per row of the batch.
    fn new(rewriter: &Rewriter, makers: &[Option<Made>], xs: &[ValueIndex], matrix: &LayerMatrix, positions: usize) -> Option<Split> {
        let mut split = Split { width_before: matrix.k, positions, n: matrix.n, terms: Vec::new() };
        let mut first = 0;
        for &x in xs {
            let width = *rewriter.value(x).shape.last()?;
            let weights = (0..width * matrix.n).map(|at| matrix.at(first + at / matrix.n, at % matrix.n)).collect::<Vec<_>>();
            split.add(rewriter, makers, x, &weights)?;
            first += width;
        }
        (positions > 1).then_some(split)
    }

    /// Adds `weights` · `x`, whatever `x` is a sum of.
    fn add(&mut self, rewriter: &Rewriter, makers: &[Option<Made>], x: ValueIndex, weights: &[f32]) -> Option<()> {
        let width = weights.len() / self.n;
        let shape = &rewriter.value(x).shape;
        match makers.get(x).and_then(Option::as_ref) {
            Some(Made::Spread(source)) if self.fits(rewriter, *source, width) => return self.add(rewriter, makers, *source, weights),
            Some(Made::Sum(a, b, factor)) if self.fits(rewriter, *a, width) && self.fits(rewriter, *b, width) => {
                self.add(rewriter, makers, *a, weights)?;
                let scaled: Vec<f32> = weights.iter().map(|weight| weight * factor).collect();
                return self.add(rewriter, makers, *b, &scaled);
            }
            _ => {}
        }
        if !self.fits(rewriter, x, width) || rewriter.value(x).scope == ValueScope::Constant {
            return None;
        }
        let single = shape.iter().product::<usize>() == width;
        match self.terms.iter_mut().find(|term| term.value == x) {
            Some(term) => term.weights.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight),
            None => self.terms.push(Term { value: x, single, weights: weights.to_vec() }),
        }
        Some(())
    }

    /// Whether a value is one vector of this width, or one per position.
    fn fits(&self, rewriter: &Rewriter, value: ValueIndex, width: usize) -> bool {
        let value = rewriter.value(value);
        value.shape.last() == Some(&width) && (value.len() == width || value.len() == width * self.positions)
    }

    fn width(&self, of: impl Fn(&&Term) -> bool) -> usize {
        self.terms.iter().filter(of).map(|term| term.weights.len() / self.n).sum()
    }

    /// Whether fewer inputs per position remain, and some do.
    fn pays(&self) -> bool {
        let left = self.width(|term| !term.single);
        left > 0 && left < self.width_before
    }

    /// Puts the parts and the layer that adds them.
    fn put<'a>(mut self, rewriter: &mut Rewriter<'_, 'a>, task: Task<'a>, options: &Options) {
        let Task { out, work: Work::Linear { bias, activation, .. }, mut notes } = task else {
            unreachable!("the caller takes layers apart");
        };
        let own = rewriter.value(out).scope;
        let scope_of = |rewriter: &Rewriter, term: &Term| rewriter.value(term.value).scope;
        let early = |rewriter: &Rewriter, term: &Term| options.hoist != Hoist::Nothing && scope_of(rewriter, term) != own;
        // The layer itself keeps terms per position of its own scope; without one, all per position.
        let any_own = self.terms.iter().any(|term| !term.single && !early(rewriter, term));
        let terms = std::mem::take(&mut self.terms);
        let (main, rest): (Vec<Term>, Vec<Term>) = terms.into_iter().partition(|term| !term.single && (!any_own || !early(rewriter, term)));
        let mut groups: Vec<((bool, ValueScope), Vec<Term>)> = Vec::new();
        for term in rest {
            let key = (term.single, scope_of(rewriter, &term));
            match groups.iter_mut().find(|(other, _)| *other == key) {
                Some((_, group)) => group.push(term),
                None => groups.push((key, vec![term])),
            }
        }
        let name = rewriter.name(out);
        let mut addend: Option<ValueIndex> = None;
        for ((single, scope), group) in groups {
            let word = if single { "once for all positions" } else { "sequence alone" };
            let (x, matrix) = self.join(rewriter, group, single, &format!("{name} ({word}, inputs)"));
            let shape = if single { vec![1, self.n] } else { vec![self.positions, self.n] };
            let part = rewriter.add_value(shape, scope, format!("{name} ({word})"));
            let work = Work::Linear { x, matrix, bias: vec![0.0; self.n], addend: None, activation: Activation::None };
            rewriter.put(Task::new(part, work));
            addend = Some(match addend {
                None => part,
                Some(before) => {
                    let shape = [before, part].into_iter().map(|value| rewriter.value(value).shape.clone()).max().expect("two shapes");
                    let scope = rewriter.value(before).scope.max(scope);
                    let sum = rewriter.add_value(shape, scope, format!("{name} (parts)"));
                    rewriter.put(Task::new(sum, Work::Binary { op: BinaryOp::Add, a: before, b: part }));
                    sum
                }
            });
        }
        let kept: usize = main.iter().map(|term| term.weights.len() / self.n).sum();
        notes.push(Note::Fused(format!("sums and repetitions among its inputs: {kept} of {} are left per position", self.width_before)));
        let (x, matrix) = self.join(rewriter, main, false, &format!("{name} (inputs per position)"));
        rewriter.put(Task { out, work: Work::Linear { x, matrix, bias, addend, activation }, notes });
    }

    /// Terms side by side, and their weights.
    fn join<'a>(&self, rewriter: &mut Rewriter<'_, 'a>, terms: Vec<Term>, single: bool, name: &str) -> (ValueIndex, LayerMatrix<'a>) {
        let n = self.n;
        let weights: Vec<f32> = terms.iter().flat_map(|term| term.weights.iter().copied()).collect();
        let k = weights.len() / n;
        let matrix = LayerMatrix::computed(k, n, |k, column| weights[k * n + column]);
        let positions = if single { 1 } else { self.positions };
        let parts: Vec<ValueIndex> = terms
            .iter()
            .map(|term| {
                let (shape, scope) = (vec![positions, term.weights.len() / n], rewriter.value(term.value).scope);
                if rewriter.value(term.value).shape == shape {
                    return term.value;
                }
                let name = rewriter.name(term.value);
                let view = rewriter.add_value(shape, scope, name);
                rewriter.put(Task::new(view, Work::View { x: term.value, first: 0 }));
                view
            })
            .collect();
        if let [part] = parts[..] {
            return (part, matrix);
        }
        let scope = parts.iter().map(|&part| rewriter.value(part).scope).max().unwrap_or(ValueScope::Candidate);
        let joined = rewriter.add_value(vec![positions, k], scope, name.to_owned());
        rewriter.put(Task::new(joined, Work::Concat { xs: parts, axis: 1 }));
        (joined, matrix)
    }
}
