//! Elementwise ops and batch norms take elements in any order: a transpose before them moves behind them, also through reshapes, slices and
//! concatenations, and two that undo each other vanish.
//!
//! Batch norm over the channels of a sequence (torch wants them in the middle) and the Dice activation (DIN, DIEN) are written as
//! transpose, a few such ops, transpose back; the layers of a compressed interaction network (xDeepFM) as outer product, transpose, reshape,
//! convolution with one tap.

use std::collections::HashMap;
use std::ops::Range;

use crate::engine::EngineError;
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{Task, ValueIndex, Work};
use crate::engine::cpu::program::Options;
use crate::model::{DType, Model};

use super::rewriter::Rewriter;

/// The pass.
pub fn run(lowered: &mut Lowered, _: &Model, _: &Options) -> Result<(), EngineError> {
    let stays = read_in_order(lowered);
    let (mut rewriter, tasks) = Rewriter::new(lowered);
    let mut turned = HashMap::new();
    let mut made = HashMap::new();
    for task in tasks {
        let out = task.out;
        let found = match &task.work {
            // New values of a pass are floats.
            _ if rewriter.value(out).dtype != DType::F32 => keep(&mut rewriter, task),
            Work::Transpose { x, perm } => {
                let found = turned.get(x).map_or_else(|| Turned { source: *x, perm: perm.clone() }, |before: &Turned| before.then(perm));
                let work = match made.get(&found) {
                    Some(&same) => Work::View { x: same, first: 0 },
                    None => found.work(&rewriter),
                };
                made.entry(found.clone()).or_insert(out);
                rewriter.put(Task { out, work, notes: task.notes });
                Some(found)
            }
            // Of a turned value that is made anyway, a part is there for nothing.
            Work::View { .. } | Work::Slice { .. } | Work::Concat { .. } if stays[out] => keep(&mut rewriter, task),
            _ => move_behind(&mut rewriter, &turned, task),
        };
        if let Some(found) = found.filter(|found| !stays[out] && !found.is_view(&rewriter)) {
            turned.insert(out, found);
        }
    }
    Ok(())
}

/// A value as a transpose of another one.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Turned {
    source: ValueIndex,
    /// Axis `i` of the value is axis `perm[i]` of the source.
    perm: Vec<usize>,
}

impl Turned {
    fn then(&self, perm: &[usize]) -> Turned {
        Turned { source: self.source, perm: perm.iter().map(|&axis| self.perm[axis]).collect() }
    }

    /// Whether the elements lie as in the source: axes of size 1 alone move.
    fn is_view(&self, rewriter: &Rewriter) -> bool {
        let shape = &rewriter.value(self.source).shape;
        self.perm.iter().filter(|&&axis| shape[axis] != 1).is_sorted()
    }

    fn work<'a>(&self, rewriter: &Rewriter) -> Work<'a> {
        match self.is_view(rewriter) {
            true => Work::View { x: self.source, first: 0 },
            false => Work::Transpose { x: self.source, perm: self.perm.clone() },
        }
    }

    /// Puts `work`, which makes the result of `task` before the turn, and the turn.
    fn put_before<'a>(&self, rewriter: &mut Rewriter<'_, 'a>, work: Work<'a>, task: Task<'a>) -> Turned {
        let (value, name) = (rewriter.value(task.out).clone(), rewriter.name(task.out));
        let source = rewriter.add_value(self.shape_before(&value.shape), value.scope, name);
        rewriter.put(Task { out: source, work, notes: task.notes });
        let found = Turned { source, perm: self.perm.clone() };
        let work = found.work(rewriter);
        rewriter.put(Task::new(task.out, work));
        found
    }

    /// The source's shape for a value of this shape.
    fn shape_before(&self, shape: &[usize]) -> Vec<usize> {
        let mut before = vec![1; shape.len()];
        self.perm.iter().zip(shape).for_each(|(&axis, &size)| before[axis] = size);
        before
    }
}

/// Values that something reads that cares about the order, or an output.
fn read_in_order(lowered: &Lowered) -> Vec<bool> {
    let mut stays = vec![false; lowered.values.len()];
    lowered.outputs.iter().for_each(|&output| stays[output] = true);
    for task in &lowered.tasks {
        let moves = match task.work {
            Work::Transpose { .. } | Work::Binary { .. } | Work::Unary { .. } | Work::BatchNorm { .. } => true,
            Work::Slice { .. } | Work::Concat { .. } | Work::Sum { .. } => true,
            Work::View { x, first } => {
                let (from, to) = (&lowered.values[x], &lowered.values[task.out]);
                from.len() == to.len() || leading(&from.shape, &to.shape, first).is_some()
            }
            _ => false,
        };
        if !moves {
            task.work.inputs().into_iter().for_each(|input| stays[input] = true);
        }
    }
    stays
}

/// Puts an op that takes its operands before they are turned, and the turn behind it; or the op as it was.
fn move_behind<'a>(rewriter: &mut Rewriter<'_, 'a>, turned: &HashMap<ValueIndex, Turned>, task: Task<'a>) -> Option<Turned> {
    let moved = match &task.work {
        Work::View { x, .. } | Work::Slice { x, .. } | Work::Sum { x, .. } => turned.get(x),
        _ => return elementwise(rewriter, turned, task),
    };
    match (moved, &task.work) {
        (Some(moved), Work::View { x, first }) => match leading(&rewriter.value(*x).shape, &rewriter.value(task.out).shape, *first) {
            Some(start) => slice(rewriter, moved, 0, start, 1, task),
            None => reshape(rewriter, moved, task),
        },
        (Some(moved), &Work::Slice { axis, start, step, .. }) => slice(rewriter, moved, axis, start, step, task),
        (Some(moved), Work::Sum { axes, .. }) => match sum(rewriter, moved, axes) {
            Some(work) => keep(rewriter, Task { work, ..task }),
            None => keep(rewriter, task),
        },
        _ => keep(rewriter, task),
    }
}

/// Puts a task whose result is no turned value.
fn keep<'a>(rewriter: &mut Rewriter<'_, 'a>, task: Task<'a>) -> Option<Turned> {
    rewriter.put(task);
    None
}

/// Where a view of whole elements of the first axis starts, counted in such elements.
fn leading(from: &[usize], to: &[usize], first: usize) -> Option<usize> {
    let inner = from.iter().skip(1).product::<usize>().max(1);
    (from.len() == to.len() && from.len() > 1 && from[1..] == to[1..] && from[0] != to[0] && first.is_multiple_of(inner))
        .then_some(first / inner)
}

/// Elements of one axis of a turned value.
fn slice<'a>(rewriter: &mut Rewriter<'_, 'a>, moved: &Turned, axis: usize, start: usize, step: usize, task: Task<'a>) -> Option<Turned> {
    let work = Work::Slice { x: moved.source, axis: moved.perm[axis], start, step };
    Some(moved.put_before(rewriter, work, task))
}

/// A sum of the source, if what is left of it lies in the same order.
fn sum<'a>(rewriter: &Rewriter<'_, 'a>, moved: &Turned, axes: &[usize]) -> Option<Work<'a>> {
    let shape = &rewriter.value(moved.source).shape;
    let left = (0..moved.perm.len()).filter(|at| !axes.contains(at)).map(|at| moved.perm[at]).filter(|&axis| shape[axis] != 1);
    let mut before: Vec<usize> = axes.iter().map(|&axis| moved.perm[axis]).collect();
    before.sort_unstable();
    left.is_sorted().then_some(Work::Sum { x: moved.source, axes: before })
}

/// A reshape of a turned value: the source's axes are merged and split in the same way, where those that belong together lie together there too.
fn reshape<'a>(rewriter: &mut Rewriter<'_, 'a>, moved: &Turned, task: Task<'a>) -> Option<Turned> {
    let (value, source) = (rewriter.value(task.out).clone(), rewriter.value(moved.source).shape.clone());
    let from: Vec<usize> = moved.perm.iter().map(|&axis| source[axis]).collect();
    let found = groups(&from, &value.shape).and_then(|groups| {
        // Per group: its first axis in the source (those of size 1 lie anywhere), and its new axes.
        let mut placed = Vec::new();
        for (old, new) in groups {
            let axes: Vec<usize> = old.map(|at| moved.perm[at]).filter(|&axis| source[axis] != 1).collect();
            let together = axes.windows(2).all(|pair| pair[0] < pair[1] && source[pair[0] + 1..pair[1]].iter().all(|&size| size == 1));
            if !together {
                return None;
            }
            placed.push((axes.first().copied().unwrap_or(source.len()), new));
        }
        placed.sort_by_key(|(axis, _)| *axis);
        let order: Vec<usize> = placed.into_iter().flat_map(|(_, new)| new).collect();
        let mut perm = vec![0; order.len()];
        order.iter().enumerate().for_each(|(at, &axis)| perm[axis] = at);
        Some((order.iter().map(|&axis| value.shape[axis]).collect::<Vec<_>>(), perm))
    });
    let Some((shape, perm)) = found else { return keep(rewriter, task) };
    let name = rewriter.name(task.out);
    let source = rewriter.add_value(shape, value.scope, name);
    rewriter.put(Task::new(source, Work::View { x: moved.source, first: 0 }));
    // For readers that do not move: both views are free.
    rewriter.put(task);
    Some(Turned { source, perm })
}

/// The axes of two shapes with the same elements, cut into the smallest groups that hold the same: which axes become which.
fn groups(old: &[usize], new: &[usize]) -> Option<Vec<(Range<usize>, Range<usize>)>> {
    let mut found = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        let (first_old, first_new) = (i, j);
        let (mut a, mut b) = (1, 1);
        while i == first_old && j == first_new || a != b {
            if i < old.len() && (a <= b || j == new.len()) {
                a *= old[i];
                i += 1;
            } else if j < new.len() {
                b *= new[j];
                j += 1;
            } else {
                return None;
            }
        }
        found.push((first_old..i, first_new..j));
    }
    Some(found)
}

/// An op on each element by itself, or a concatenation.
fn elementwise<'a>(rewriter: &mut Rewriter<'_, 'a>, turned: &HashMap<ValueIndex, Turned>, task: Task<'a>) -> Option<Turned> {
    let moved = match &task.work {
        Work::Unary { x, .. } | Work::BatchNorm { x, .. } => turned.get(x),
        Work::Binary { a, b, .. } => [a, b].into_iter().find_map(|operand| turned.get(operand)),
        Work::Concat { xs, .. } => xs.first().and_then(|x| turned.get(x)),
        _ => None,
    };
    let out = rewriter.value(task.out).clone();
    let joins = matches!(task.work, Work::Concat { .. });
    let fits = |moved: &&Turned| joins || moved.shape_before(&out.shape) == rewriter.value(moved.source).shape;
    let moved = moved.filter(|_| out.dtype == DType::F32).filter(fits);
    let work = moved.and_then(|moved| match &task.work {
        Work::Unary { function, .. } => Some(Work::Unary { function: *function, x: moved.source }),
        Work::BatchNorm { axis, mean, scale, bias, .. } => {
            let (mean, scale, bias) = (mean.clone(), scale.clone(), bias.clone());
            Some(Work::BatchNorm { x: moved.source, axis: moved.perm[*axis], mean, scale, bias })
        }
        Work::Binary { op, a, b } => {
            let [a, b] = [a, b].map(|&operand| before(rewriter, turned, moved, operand));
            Some(Work::Binary { op: *op, a: a?, b: b? })
        }
        Work::Concat { xs, axis } => {
            let same = |x| turned.get(x).filter(|other| other.perm == moved.perm).map(|other| other.source);
            Some(Work::Concat { xs: xs.iter().map(same).collect::<Option<_>>()?, axis: moved.perm[*axis] })
        }
        _ => None,
    });
    let (Some(moved), Some(work)) = (moved, work) else { return keep(rewriter, task) };
    Some(moved.put_before(rewriter, work, task))
}

/// An operand as it is before the turn `moved`: another value turned in the same way, or one whose elements keep their order.
fn before(rewriter: &mut Rewriter, turned: &HashMap<ValueIndex, Turned>, moved: &Turned, operand: ValueIndex) -> Option<ValueIndex> {
    if let Some(other) = turned.get(&operand).filter(|other| other.perm == moved.perm) {
        return Some(other.source);
    }
    let value = rewriter.value(operand).clone();
    let missing = moved.perm.len().checked_sub(value.shape.len())?;
    let shape = [vec![1; missing], value.shape].concat();
    let in_order = moved.perm.iter().zip(&shape).filter(|&(_, &size)| size != 1).map(|(axis, _)| axis).is_sorted();
    if !in_order || value.dtype != DType::F32 {
        return None;
    }
    let name = rewriter.name(operand);
    let constant = rewriter.lowered.constants.get(&operand).cloned();
    let view = rewriter.add_value(moved.shape_before(&shape), value.scope, name);
    match constant {
        Some(constant) => drop(rewriter.lowered.constants.insert(view, constant)),
        None => rewriter.put(Task::new(view, Work::View { x: operand, first: 0 })),
    }
    Some(view)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_the_smallest_that_hold_as_many() {
        for (old, new, expected) in [
            (vec![20, 20, 16], vec![400, 16], Some(vec![(0..2, 0..1), (2..3, 1..2)])),
            (vec![400, 16], vec![20, 20, 16], Some(vec![(0..1, 0..2), (1..2, 2..3)])),
            (vec![6, 4], vec![4, 6], Some(vec![(0..2, 0..2)])),
            (vec![3, 1, 2], vec![3, 2], Some(vec![(0..1, 0..1), (1..2, 1..1), (2..3, 1..2)])),
            (vec![3], vec![1, 3, 1], Some(vec![(0..1, 0..2), (1..1, 2..3)])),
            (vec![], vec![1], Some(vec![(0..0, 0..1)])),
            (vec![4], vec![3], None),
        ] {
            assert_eq!(groups(&old, &new), expected, "{old:?} {new:?}");
        }
    }
}
