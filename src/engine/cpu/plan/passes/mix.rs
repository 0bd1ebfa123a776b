//! Weighted sums of vectors: a mixture of experts under its gate, a history under its weights. They are written as a product of a row with a matrix, or
//! of a matrix with a column, or as products that are summed; the vectors are stacked for that, more than once where mixtures share experts.
//! One kernel reads them where they were computed instead, and takes the gate's softmax on the way.

use crate::engine::EngineError;
use crate::engine::cpu::kernels::binary::BinaryOp;
use crate::engine::cpu::kernels::mix::VECTORS_MAX;
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::origins::Piece;
use crate::engine::cpu::plan::task::{Note, Task, ValueIndex, Work};
use crate::engine::cpu::program::Options;
use crate::model::{DType, Model};

use super::rewriter::{Rewriter, reads};

/// The pass.
pub fn run(lowered: &mut Lowered, _: &Model, _: &Options) -> Result<(), EngineError> {
    let (rewriter, tasks) = Rewriter::new(lowered);
    let reads = reads(rewriter.lowered, &tasks);
    let makers = vec![None; rewriter.lowered.values.len()];
    let mut mixtures = Mixtures { rewriter, reads, makers };
    for mut task in tasks {
        if let Some((weights, softmax, vectors)) = mixtures.find(&task) {
            let gate = if softmax { "softmax, " } else { "" };
            task.notes.push(Note::Fused(format!("{gate}weighted sum of {} vectors", vectors.len())));
            task.work = Work::Mix { weights, softmax, vectors };
        }
        mixtures.makers[task.out] = Some(mixtures.rewriter.lowered.tasks.len());
        mixtures.rewriter.put(task);
    }
    Ok(())
}

struct Mixtures<'l, 'a> {
    rewriter: Rewriter<'l, 'a>,
    reads: Vec<usize>,
    /// Positions of the tasks put so far.
    makers: Vec<Option<usize>>,
}

/// `count` vectors of `dim` elements: rows of a matrix that lies so in memory, or its columns.
#[derive(Clone, Copy)]
struct Stack {
    value: ValueIndex,
    count: usize,
    dim: usize,
    by_column: bool,
}

impl<'a> Mixtures<'_, 'a> {
    /// Weights, whether their softmax is meant, and vectors, if a task sums these.
    fn find(&self, task: &Task) -> Option<(Piece, bool, Vec<Piece>)> {
        let (weights, stack) = match &task.work {
            Work::MatMul { a, b, transpose_a, transpose_b } => self.product(*a, *b, [*transpose_a, *transpose_b])?,
            Work::Sum { x, axes } => self.sum(*x, axes)?,
            _ => return None,
        };
        let Stack { value, count, dim, .. } = stack;
        let fits = count > 1 && count <= VECTORS_MAX && dim > 1;
        if !fits || self.len(weights) != count || self.len(value) != count * dim || self.len(task.out) != dim {
            return None;
        }
        let vectors = self.vectors(stack)?;
        let (gate, softmax) = self.gate(weights, count);
        Some((gate, softmax, vectors))
    }

    fn len(&self, value: ValueIndex) -> usize {
        self.rewriter.value(value).len()
    }

    fn work(&self, value: ValueIndex) -> Option<&Work<'a>> {
        Some(&self.rewriter.lowered.tasks[self.makers[value]?].work)
    }

    /// A row times a matrix, or a matrix times a column.
    fn product(&self, a: ValueIndex, b: ValueIndex, [transpose_a, transpose_b]: [bool; 2]) -> Option<(ValueIndex, Stack)> {
        let sides = |value: ValueIndex, transpose: bool, is_left: bool| match *self.rewriter.value(value).shape {
            [k] if is_left => [1, k],
            [k] => [k, 1],
            [.., rows, columns] if transpose => [columns, rows],
            [.., rows, columns] => [rows, columns],
            [] => [0, 0],
        };
        let ([m, k], [_, n]) = (sides(a, transpose_a, true), sides(b, transpose_b, false));
        match (m, n) {
            (1, _) => Some((a, Stack { value: b, count: k, dim: n, by_column: transpose_b })),
            (_, 1) => Some((b, Stack { value: a, count: k, dim: m, by_column: !transpose_a })),
            _ => None,
        }
    }

    /// A sum over the axis of the weights of their product with a matrix.
    fn sum(&self, x: ValueIndex, axes: &[usize]) -> Option<(ValueIndex, Stack)> {
        let shape = &self.rewriter.value(x).shape;
        let mut axes = axes.iter().copied().filter(|&axis| shape[axis] != 1);
        let (axis, None) = (axes.next()?, axes.next()) else { return None };
        let Work::Binary { op: BinaryOp::Mul, a, b } = self.work(x).filter(|_| self.reads[x] == 1)? else { return None };
        let (outer, inner): (usize, usize) = (shape[..axis].iter().product(), shape[axis + 1..].iter().product());
        if self.rewriter.value(x).dtype != DType::F32 || (outer != 1 && inner != 1) {
            return None;
        }
        let (count, dim, behind) = (shape[axis], outer * inner, shape.len() - axis);
        let is_gate = |value: ValueIndex| {
            let own = &self.rewriter.value(value).shape;
            own.len() >= behind && own[own.len() - behind] == count && own.iter().product::<usize>() == count
        };
        let (weights, value) =
            [(*a, *b), (*b, *a)].into_iter().find(|&(weights, value)| is_gate(weights) && self.len(value) == self.len(x))?;
        Some((weights, Stack { value, count, dim, by_column: outer != 1 }))
    }

    /// The vectors, if each lies in one piece.
    fn vectors(&self, stack: Stack) -> Option<Vec<Piece>> {
        let Stack { value, count, dim, by_column } = stack;
        let pieces = self.rewriter.origins_of(value);
        if !by_column {
            let mut vectors = Vec::with_capacity(count);
            let mut pieces = pieces.iter().copied();
            let mut piece = pieces.next()?;
            for _ in 0..count {
                if piece.len == 0 {
                    piece = pieces.next()?;
                }
                if piece.len < dim {
                    return None;
                }
                vectors.push(Piece { len: dim, ..piece });
                piece = Piece { first: piece.first + dim, len: piece.len - dim, ..piece };
            }
            return Some(vectors);
        }
        if count * dim > ELEMENTS_MAX {
            return None;
        }
        let elements: Vec<Piece> =
            pieces.iter().flat_map(|piece| (0..piece.len).map(|at| Piece { first: piece.first + at, len: 1, ..*piece })).collect();
        let column = |column: usize| {
            let first = elements[column];
            let is_run = (0..dim).all(|at| elements[at * count + column] == Piece { first: first.first + at, ..first });
            is_run.then_some(Piece { len: dim, ..first })
        };
        (0..count).map(column).collect()
    }

    /// Where the weights lie, or those whose softmax they are, if nothing else reads that.
    fn gate(&self, weights: ValueIndex, count: usize) -> (Piece, bool) {
        let whole = |value: ValueIndex| match *self.rewriter.origins_of(value) {
            [piece] => piece,
            _ => Piece { value, first: 0, len: count },
        };
        let mut value = weights;
        while self.reads[value] == 1 {
            match self.work(value) {
                Some(Work::View { x, first: 0 }) if self.len(*x) == count => value = *x,
                Some(Work::Softmax { x, axis }) if self.rewriter.value(*x).shape[*axis] == count => return (whole(*x), true),
                _ => break,
            }
        }
        (whole(weights), false)
    }
}

/// Longer matrices are not looked at element by element.
const ELEMENTS_MAX: usize = 1 << 14;
