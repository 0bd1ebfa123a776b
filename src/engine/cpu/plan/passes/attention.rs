//! Attention: two products with a softmax between them become one kernel, and that reads and writes heads where they lie.
//!
//! ```text
//!   softmax(q·kᵀ · scale, masked) · v      scale: constant factors of q, of k, of the scores
//!                                          masked: a sum with a mask, or a choice between score and constant
//! ```
//!
//! Transposes, slices and stacks that cut heads out of projections are not run: the kernel takes steps instead. So do those that bring its results
//! together, where nothing else reads them. The same goes for the graph's own `sdpa`.

use std::collections::HashSet;

use crate::engine::EngineError;
use crate::engine::cpu::kernels::binary::BinaryOp;
use crate::engine::cpu::plan::constant::Constant;
use crate::engine::cpu::plan::generic::Generic;
use crate::engine::cpu::plan::generic::attention::{Hidden, Hiding, Matrix, Wanted};
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::strides::{Strided, Strides};
use crate::engine::cpu::plan::task::{Note, PlanValue, Task, ValueIndex, Work};
use crate::engine::cpu::program::Options;
use crate::model::{DType, Model};

/// The pass.
pub fn run(lowered: &mut Lowered, _: &Model, _: &Options) -> Result<(), EngineError> {
    let mut strides = Strides::default();
    for task in &lowered.tasks {
        strides.learn(task, lowered);
    }
    // Results that are written where their reader wants them: nothing can be read from them.
    let mut gone = HashSet::new();
    let mut placed_at = HashSet::new();
    for at in 0..lowered.tasks.len() {
        let task = &lowered.tasks[at];
        // What was placed at its reader comes by again: its operands are no matrices of heads any more.
        let is_open = matches!(task.work, Work::MatMul { .. } | Work::Generic(Generic::Attention(_))) && !placed_at.contains(&at);
        if !is_open {
            continue;
        }
        let graph = Graph::new(lowered);
        let Some(wanted) = graph.wanted(task) else { continue };
        let fused = matches!(task.work, Work::MatMul { .. });
        let values = |value: ValueIndex| lowered.values[value].clone();
        let lies = |value: ValueIndex, attempt: usize| match strides.of(value, lowered) {
            strided if attempt == 0 && !gone.contains(&strided.value) => strided,
            _ => Strided::whole(value, lowered.values[value].len()),
        };
        let len = lowered.values[task.out].len();
        let own = task.out;
        let sinks = graph.sinks(own);
        let placed = sinks.iter().rev().find_map(|&sink| {
            let written = strides.of(sink, lowered);
            let written = (written.value == own).then(|| written.inverse(len))??;
            wanted.placed(own, Some(&written), &values, &lies).map(|attention| (sink, attention))
        });
        let placed = placed.or_else(|| wanted.placed(own, None, &values, &lies).map(|attention| (own, attention)));
        let Some((sink, mut attention)) = placed else { continue };
        let to = graph.makers[sink].unwrap_or(at);
        let PlanValue { scope, .. } = lowered.values[own];
        attention.room = lowered.values.len();
        lowered.values.push(PlanValue { shape: vec![attention.shape.room()], dtype: DType::F32, scope });
        if sink != own {
            gone.insert(own);
        }
        placed_at.insert(to);
        let mut notes = std::mem::take(&mut lowered.tasks[at].notes);
        if fused {
            notes.push(Note::Fused("matmul, softmax, matmul".to_owned()));
        }
        let moved = attention.q.0 != wanted.q.value || attention.k.0 != wanted.k.value || attention.v.0 != wanted.v.value;
        if moved || sink != own {
            notes.push(Note::Fused("layout of heads".to_owned()));
        }
        let task = &mut lowered.tasks[to];
        task.work = Work::Generic(Generic::Attention(Box::new(attention)));
        task.notes = notes;
    }
    Ok(())
}

/// Who makes and who reads what.
struct Graph<'l, 'a> {
    lowered: &'l Lowered<'a>,
    makers: Vec<Option<usize>>,
    readers: Vec<Vec<usize>>,
    /// Reads by tasks and outputs.
    reads: Vec<usize>,
}

impl<'l, 'a> Graph<'l, 'a> {
    fn new(lowered: &'l Lowered<'a>) -> Graph<'l, 'a> {
        let mut makers = vec![None; lowered.values.len()];
        let mut readers = vec![Vec::new(); lowered.values.len()];
        for (at, task) in lowered.tasks.iter().enumerate() {
            makers[task.out] = Some(at);
            task.work.inputs().into_iter().for_each(|input| readers[input].push(at));
        }
        let reads = super::rewriter::reads(lowered, &lowered.tasks);
        Graph { lowered, makers, readers, reads }
    }

    fn work(&self, value: ValueIndex) -> Option<&'l Work<'a>> {
        Some(&self.lowered.tasks[self.makers[value]?].work)
    }

    /// What made a value that nothing else reads.
    fn own(&self, value: ValueIndex) -> Option<&'l Work<'a>> {
        if self.reads[value] == 1 { self.work(value) } else { None }
    }

    fn shape(&self, value: ValueIndex) -> &'l [usize] {
        &self.lowered.values[value].shape
    }

    fn len(&self, value: ValueIndex) -> usize {
        self.lowered.values[value].len()
    }

    fn number(&self, value: ValueIndex) -> Option<f32> {
        match self.lowered.constants.get(&value) {
            Some(Constant::F32(numbers)) if numbers.len() == 1 => Some(numbers[0]),
            _ => None,
        }
    }

    /// The attention that a task is, or ends.
    fn wanted(&self, task: &Task) -> Option<Wanted> {
        match &task.work {
            Work::Generic(Generic::Attention(attention)) => {
                let [q, k, v] = [attention.q, attention.k, attention.v].map(|(value, _)| Matrix { value, turned: false });
                let mask = attention.mask.as_ref().map(|mask| Hidden { value: mask.value, hiding: mask.hiding, to: None });
                let shape = attention.shape;
                let (scale, causal) = (shape.scale, shape.causal);
                Some(Wanted { q, k, v, mask, scores: None, scale, causal, nan_without_keys: shape.nan_without_keys })
            }
            Work::MatMul { a, b, transpose_a: false, transpose_b } => self.products(*a, Matrix { value: *b, turned: *transpose_b }),
            _ => None,
        }
    }

    /// `weights` · `v`, if the weights are a softmax of scores.
    fn products(&self, weights: ValueIndex, v: Matrix) -> Option<Wanted> {
        let keys = *self.shape(weights).last().filter(|_| self.shape(weights).len() > 1)?;
        let Work::Softmax { x, axis } = self.through_views(weights, keys)? else { return None };
        if axis + 1 != self.shape(*x).len() || *self.shape(*x).last()? != keys {
            return None;
        }
        let mut wanted = Wanted { q: v, k: v, v, mask: None, scores: None, scale: 1.0, causal: false, nan_without_keys: true };
        self.scores(*x, keys, &mut wanted).then_some(wanted)
    }

    /// What made a value that nothing else reads, through views that keep its rows of `keys`.
    fn through_views(&self, mut value: ValueIndex, keys: usize) -> Option<&'l Work<'a>> {
        loop {
            match self.own(value)? {
                Work::View { x, first: 0 } if self.len(*x) == self.len(value) && self.shape(*x).last() == Some(&keys) => value = *x,
                work => return Some(work),
            }
        }
    }

    /// Whether a value is scores of queries and keys, scaled and masked: says how.
    fn scores(&self, value: ValueIndex, keys: usize, wanted: &mut Wanted) -> bool {
        let Some(work) = self.own(value) else { return false };
        let len = self.len(value);
        let whole = |x: ValueIndex| self.len(x) == len && self.shape(x).last() == Some(&keys);
        match work {
            Work::View { x, first: 0 } if whole(*x) => self.scores(*x, keys, wanted),
            Work::MatMul { a, b, transpose_a, transpose_b } => {
                // kᵀ stands on the right.
                wanted.q = Matrix { value: *a, turned: *transpose_a };
                wanted.k = Matrix { value: *b, turned: !transpose_b };
                wanted.scores = Some(self.shape(value).to_vec());
                [*a, *b].iter().all(|&side| self.shape(side).len() > 1)
            }
            Work::Binary { op: op @ (BinaryOp::Mul | BinaryOp::Div), a, b } => {
                let (x, factor) = match (self.number(*a), self.number(*b), op) {
                    (_, Some(number), BinaryOp::Mul) => (*a, number),
                    (_, Some(number), _) => (*a, 1.0 / number),
                    (Some(number), _, BinaryOp::Mul) => (*b, number),
                    _ => return false,
                };
                wanted.scale *= factor;
                factor.is_finite() && whole(x) && self.scores(x, keys, wanted)
            }
            Work::Binary { op: BinaryOp::Add, a, b } => {
                // A factor outside the sum would be the mask's too.
                let to = Some(self.shape(value).to_vec());
                let is_free = wanted.mask.is_none() && wanted.scale == 1.0;
                is_free
                    && [(*a, *b), (*b, *a)].into_iter().any(|(scores, mask)| {
                        let mut inner =
                            Wanted { mask: Some(Hidden { value: mask, hiding: Hiding::Added, to: to.clone() }), ..wanted.clone() };
                        let found = whole(scores) && self.scores(scores, keys, &mut inner);
                        if found {
                            *wanted = inner;
                        }
                        found
                    })
            }
            Work::Generic(Generic::Where { cond, a, b }) if wanted.mask.is_none() => {
                let (scores, number, hides_zero) = match (self.number(*a), self.number(*b)) {
                    (None, Some(number)) => (*a, number, true),
                    (Some(number), None) => (*b, number, false),
                    _ => return false,
                };
                let hiding = Hiding::Truth { hides_zero, score: number * wanted.scale };
                wanted.mask = Some(Hidden { value: *cond, hiding, to: Some(self.shape(value).to_vec()) });
                whole(scores) && self.scores(scores, keys, wanted)
            }
            _ => false,
        }
    }

    /// Values that are this one moved about, each read by nothing but what makes the next.
    fn sinks(&self, value: ValueIndex) -> Vec<ValueIndex> {
        let mut sinks = Vec::new();
        let mut value = value;
        while let Some(next) = self.next(value) {
            sinks.push(next);
            value = next;
        }
        sinks
    }

    fn next(&self, value: ValueIndex) -> Option<ValueIndex> {
        if let Some(next) = self.alone(value) {
            return (self.len(next) == self.len(value)).then_some(next);
        }
        // Parts that one concatenation brings together again.
        let is_whole = self.reads[value] == self.readers[value].len() && self.readers[value].len() > 1;
        let ends = self.readers[value].iter().map(|&reader| {
            let task = &self.lowered.tasks[reader];
            let mut part = matches!(task.work, Work::View { .. } | Work::Slice { .. }).then_some(task.out)?;
            while let Some(next) = self.alone(part) {
                part = next;
            }
            match self.readers[part][..] {
                [reader] if self.reads[part] == 1 => Some(reader),
                _ => None,
            }
        });
        let ends: Option<Vec<usize>> = ends.collect();
        let ends = ends.filter(|_| is_whole)?;
        let end = *ends.first()?;
        let task = &self.lowered.tasks[end];
        let together = matches!(&task.work, Work::Concat { xs, .. } if xs.len() == ends.len());
        (together && ends.iter().all(|&other| other == end) && self.len(task.out) == self.len(value)).then_some(task.out)
    }

    /// The only reader's value, if it just moves all of this one.
    fn alone(&self, value: ValueIndex) -> Option<ValueIndex> {
        let [reader] = self.readers[value][..] else { return None };
        let task = &self.lowered.tasks[reader];
        let moves = match &task.work {
            Work::View { .. } | Work::Transpose { .. } => true,
            Work::Concat { xs, .. } => xs.len() == 1,
            _ => false,
        };
        (moves && self.len(task.out) == self.len(value) && self.reads[value] == 1).then_some(task.out)
    }
}
