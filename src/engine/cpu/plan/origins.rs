//! Where the elements of a value come from: through views, concatenations, slices and other ops that only move elements, back to the values
//! that were computed.

use std::collections::HashMap;
use std::rc::Rc;

use crate::engine::cpu::walk::{broadcast, row_major};

use super::task::{PlanValue, Task, ValueIndex, Work};

/// Elements `first .. first + len` of a value, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Piece {
    /// Whose.
    pub value: ValueIndex,
    /// First element.
    pub first: usize,
    /// How many.
    pub len: usize,
}

/// What is known so far about values that were moved together from others. Tasks are learned in execution order.
#[derive(Default)]
pub struct Origins {
    of: HashMap<ValueIndex, Rc<[Piece]>>,
}

impl Origins {
    /// The pieces that make up a value, in order: of values that are computed, not moved.
    pub fn of(&self, value: ValueIndex, values: &[PlanValue]) -> Rc<[Piece]> {
        match self.of.get(&value) {
            Some(pieces) => Rc::clone(pieces),
            None => Rc::new([Piece { value, first: 0, len: values[value].len() }]),
        }
    }

    /// Says what a value is made of.
    pub fn set(&mut self, value: ValueIndex, pieces: Vec<Piece>) {
        self.of.insert(value, pieces.into());
    }

    /// Remembers what a task moves. A value in more than [`PIECES_MAX`] pieces counts as computed.
    pub fn learn(&mut self, task: &Task, values: &[PlanValue]) {
        let Some(runs) = moved(task, values) else { return };
        let mut pieces: Vec<Piece> = Vec::new();
        for run in runs {
            let from = self.of(run.value, values);
            cut(&from, run.first, run.len, &mut pieces);
            if pieces.len() > PIECES_MAX {
                return;
            }
        }
        self.set(task.out, pieces);
    }
}

/// Appends elements `first .. first + len` of a value made of `from`, joined to the last piece where they follow it.
fn cut(from: &[Piece], first: usize, len: usize, pieces: &mut Vec<Piece>) {
    let (mut start, end) = (0, first + len);
    for piece in from {
        let (low, high) = (first.max(start), end.min(start + piece.len));
        if low < high {
            push(pieces, Piece { value: piece.value, first: piece.first + low - start, len: high - low });
        }
        start += piece.len;
        if start >= end {
            break;
        }
    }
}

/// Adds a piece behind others, in one with the last one if it goes on there.
pub fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    match pieces.last_mut() {
        Some(last) if last.value == piece.value && last.first + last.len == piece.first => last.len += piece.len,
        _ => pieces.push(piece),
    }
}

/// Runs of elements of inputs, in the order of the output, of a task that only moves elements.
fn moved(task: &Task, values: &[PlanValue]) -> Option<Vec<Piece>> {
    let out = &values[task.out];
    let mut runs = Vec::new();
    match &task.work {
        Work::View { x, first } => runs.push(Piece { value: *x, first: *first, len: out.len() }),
        Work::Concat { xs, axis } => {
            let outer: usize = out.shape[..*axis].iter().product();
            for turn in 0..outer {
                for &x in xs {
                    let len = values[x].len() / outer;
                    runs.push(Piece { value: x, first: turn * len, len });
                }
                if runs.len() > PIECES_MAX {
                    return None;
                }
            }
        }
        Work::Slice { x, axis, start, step } => {
            let mut strides = row_major(&values[*x].shape);
            let first = start * strides[*axis];
            strides[*axis] *= step;
            strided(*x, first, &out.shape, &strides, &mut runs)?;
        }
        Work::Transpose { x, perm } => {
            let strides = row_major(&values[*x].shape);
            let strides: Vec<usize> = perm.iter().map(|&axis| strides[axis]).collect();
            strided(*x, 0, &out.shape, &strides, &mut runs)?;
        }
        Work::Broadcast { x } => strided(*x, 0, &out.shape, &broadcast(&values[*x].shape, &out.shape), &mut runs)?,
        Work::Gather { x, axis, indices } => {
            let shape = &values[*x].shape;
            let (outer, inner): (usize, usize) = (shape[..*axis].iter().product(), shape[axis + 1..].iter().product());
            if outer * indices.len() > PIECES_MAX {
                return None;
            }
            for turn in 0..outer {
                runs.extend(indices.iter().map(|index| Piece { value: *x, first: (turn * shape[*axis] + index) * inner, len: inner }));
            }
        }
        _ => return None,
    }
    Some(runs)
}

fn strided(value: ValueIndex, first: usize, shape: &[usize], strides: &[usize], runs: &mut Vec<Piece>) -> Option<()> {
    let Some((&stride, outer_strides)) = strides.split_last() else {
        runs.push(Piece { value, first, len: 1 });
        return Some(());
    };
    let (&size, outer_shape) = shape.split_last()?;
    if stride == 1 {
        if outer_shape.iter().product::<usize>() > PIECES_MAX {
            return None;
        }
    } else if shape.iter().product::<usize>() > PIECES_MAX {
        return None;
    }
    let mut index = vec![0; outer_shape.len()];
    for _ in 0..outer_shape.iter().product::<usize>() {
        let start = first + index.iter().zip(outer_strides).map(|(index, stride)| index * stride).sum::<usize>();
        if stride == 1 {
            runs.push(Piece { value, first: start, len: size });
        } else {
            runs.extend((0..size).map(|at| Piece { value, first: start + at * stride, len: 1 }));
        }
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < outer_shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Some(())
}

/// More pieces are not worth following.
const PIECES_MAX: usize = 1 << 13;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DType, ValueScope};

    fn value(shape: &[usize]) -> PlanValue {
        PlanValue { shape: shape.to_vec(), dtype: DType::F32, scope: ValueScope::Candidate }
    }

    #[test]
    fn elements_are_followed_through_moves() {
        // 0: [2, 3] computed, 1: [3] computed, 2: both stacked, 3: its transpose, 4: picked columns, 5: a view of a part.
        let values = [&[2, 3][..], &[1, 3], &[3, 3], &[3, 3], &[3, 2], &[4]].map(value);
        let mut origins = Origins::default();
        for (out, work) in [
            (2, Work::Concat { xs: vec![0, 1], axis: 0 }),
            (3, Work::Transpose { x: 2, perm: vec![1, 0] }),
            (4, Work::Gather { x: 2, axis: 1, indices: vec![2, 0] }),
            (5, Work::View { x: 2, first: 4 }),
        ] {
            origins.learn(&Task::new(out, work), &values);
        }
        let pieces = |value| origins.of(value, &values).iter().map(|piece| (piece.value, piece.first, piece.len)).collect::<Vec<_>>();
        assert_eq!(pieces(0), [(0, 0, 6)]);
        assert_eq!(pieces(2), [(0, 0, 6), (1, 0, 3)]);
        assert_eq!(pieces(3), [(0, 0, 1), (0, 3, 1), (1, 0, 1), (0, 1, 1), (0, 4, 1), (1, 1, 1), (0, 2, 1), (0, 5, 1), (1, 2, 1)]);
        assert_eq!(pieces(4), [(0, 2, 1), (0, 0, 1), (0, 5, 1), (0, 3, 1), (1, 2, 1), (1, 0, 1)]);
        assert_eq!(pieces(5), [(0, 4, 2), (1, 0, 2)]);
    }
}
