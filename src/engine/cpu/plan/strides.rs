//! Where the elements of a value lie in another one, as nested loops: what reshapes, transposes, slices, broadcasts, stacks and constant
//! factors come to. Unlike [`super::origins`] it follows one value only, but costs the same however long that is.

use std::collections::HashMap;

use crate::engine::cpu::kernels::binary::BinaryOp;

use super::constant::Constant;
use super::lower::Lowered;
use super::task::{Task, ValueIndex, Work};

/// A loop: turns, and elements from turn to turn.
pub type Loop = (usize, usize);

/// Elements of `value`, in the order in which loops visit them, each times `factor`.
#[derive(Clone, Debug, PartialEq)]
pub struct Strided {
    /// Whose.
    pub value: ValueIndex,
    /// The first one.
    pub first: usize,
    /// Of every element.
    pub factor: f32,
    /// Outermost first; none has one turn, none goes on where the one inside it ends.
    loops: Vec<Loop>,
}

impl Strided {
    /// A value as it is.
    pub fn whole(value: ValueIndex, len: usize) -> Strided {
        Strided { value, first: 0, factor: 1.0, loops: joined([(len, 1)]) }
    }

    /// The loops of each axis of this shape; none if an axis begins inside a loop.
    pub fn axes(&self, shape: &[usize]) -> Option<Vec<Vec<Loop>>> {
        let mut left = self.loops.clone();
        let mut axes = vec![Vec::new(); shape.len()];
        for (axis, &size) in axes.iter_mut().zip(shape).rev() {
            let mut need = size;
            while need > 1 {
                let (turns, stride) = left.pop().filter(|&(turns, _)| turns > 0)?;
                if need % turns == 0 {
                    axis.insert(0, (turns, stride));
                    need /= turns;
                } else if turns % need == 0 {
                    axis.insert(0, (need, stride));
                    left.push((turns / need, stride * need));
                    need = 1;
                } else {
                    return None;
                }
            }
        }
        left.is_empty().then_some(axes)
    }

    /// The same elements spread out from shape `from`, whose axes' loops are given, to a shape that it broadcasts to.
    pub fn spread(&self, axes: Vec<Vec<Loop>>, from: &[usize], to: &[usize]) -> Option<Strided> {
        let missing = to.len().checked_sub(from.len())?;
        let mut loops: Vec<Loop> = to[..missing].iter().map(|&size| (size, 0)).collect();
        for ((own, &from), &to) in axes.into_iter().zip(from).zip(&to[missing..]) {
            match from == to {
                true => loops.extend(own),
                false if from == 1 => loops.push((to, 0)),
                false => return None,
            }
        }
        Some(Strided { loops: joined(loops), ..self.clone() })
    }

    /// If these are all `len` elements of the value in another order: where in that order each lies, in the value's own.
    pub fn inverse(&self, len: usize) -> Option<Strided> {
        let mut step = self.loops.iter().map(|(turns, _)| turns).product::<usize>();
        if step != len || len == 0 || self.first != 0 || self.factor != 1.0 {
            return None;
        }
        let mut loops: Vec<(usize, Loop)> = Vec::new();
        for &(turns, stride) in &self.loops {
            step /= turns;
            loops.push((stride, (turns, step)));
        }
        loops.sort_by_key(|&(stride, _)| std::cmp::Reverse(stride));
        let mut rest = len;
        for &(stride, (turns, _)) in &loops {
            rest /= turns;
            if rest != stride {
                return None;
            }
        }
        let loops = joined(loops.into_iter().map(|(_, own)| own));
        Some(Strided { loops, ..self.clone() })
    }
}

/// Loops without those of one turn, neighbours made one where the outer goes on behind the inner.
fn joined(loops: impl IntoIterator<Item = Loop>) -> Vec<Loop> {
    let mut out: Vec<Loop> = Vec::new();
    for (turns, stride) in loops.into_iter().filter(|&(turns, _)| turns != 1) {
        match out.last_mut() {
            Some(last) if last.1 == stride * turns => *last = (last.0 * turns, stride),
            _ => out.push((turns, stride)),
        }
    }
    out
}

/// Turns `first .. first + len` of nested loops, counted innermost: the element where they begin, and their loops.
fn cut(loops: &[Loop], first: usize, len: usize) -> Option<(usize, Vec<Loop>)> {
    let Some((&(_, stride), inner)) = loops.split_first() else { return Some((0, vec![])) };
    let turns: usize = inner.iter().map(|(turns, _)| turns).product();
    if first.is_multiple_of(turns) && len.is_multiple_of(turns) {
        let mut cut = vec![(len / turns, stride)];
        cut.extend_from_slice(inner);
        return Some((first / turns * stride, cut));
    }
    let turn = first / turns;
    if len == 0 || (first + len - 1) / turns != turn {
        return None;
    }
    let (at, cut) = cut(inner, first % turns, len)?;
    Some((turn * stride + at, cut))
}

/// What is known so far. Tasks are learned in execution order.
#[derive(Default)]
pub struct Strides {
    of: HashMap<ValueIndex, Strided>,
}

impl Strides {
    /// Where the elements of a value lie: in the value that was computed.
    pub fn of(&self, value: ValueIndex, lowered: &Lowered) -> Strided {
        self.of.get(&value).cloned().unwrap_or_else(|| Strided::whole(value, lowered.values[value].len()))
    }

    /// Remembers what a task moves or scales.
    pub fn learn(&mut self, task: &Task, lowered: &Lowered) {
        if let Some(strided) = self.moved(task, lowered) {
            self.of.insert(task.out, strided);
        }
    }

    fn moved(&self, task: &Task, lowered: &Lowered) -> Option<Strided> {
        let values = &lowered.values;
        let out = &values[task.out].shape;
        let axes_of = |x: ValueIndex| {
            let strided = self.of(x, lowered);
            strided.axes(&values[x].shape).map(|axes| (strided, axes))
        };
        match &task.work {
            Work::View { x, first } => {
                let from = self.of(*x, lowered);
                let (at, loops) = cut(&from.loops, *first, values[task.out].len())?;
                Some(Strided { first: from.first + at, loops: joined(loops), ..from })
            }
            Work::Slice { x, axis, start, step } => {
                let (from, mut axes) = axes_of(*x)?;
                let at = match (axes[*axis].as_slice(), step) {
                    (loops, 1) => {
                        let (at, loops) = cut(loops, *start, out[*axis])?;
                        axes[*axis] = loops;
                        at
                    }
                    (&[(_, stride)], step) => {
                        axes[*axis] = vec![(out[*axis], stride * step)];
                        start * stride
                    }
                    _ => return None,
                };
                Some(Strided { first: from.first + at, loops: joined(axes.into_iter().flatten()), ..from })
            }
            Work::Transpose { x, perm } => {
                let (from, axes) = axes_of(*x)?;
                Some(Strided { loops: joined(perm.iter().flat_map(|&axis| axes[axis].clone())), ..from })
            }
            Work::Broadcast { x } => {
                let (from, axes) = axes_of(*x)?;
                from.spread(axes, &values[*x].shape, out)
            }
            Work::Concat { xs, axis } => {
                let mut parts = Vec::with_capacity(xs.len());
                for &x in xs {
                    parts.push((axes_of(x)?, &values[x].shape));
                }
                let ((first, axes), shape) = parts.first()?;
                let step = parts.get(1).map_or(Some(0), |((next, _), _)| next.first.checked_sub(first.first))?;
                let even = parts.iter().enumerate().all(|(at, ((part, own), own_shape))| {
                    let same = part.value == first.value && part.factor == first.factor && own == axes && own_shape == shape;
                    same && part.first == first.first + at * step
                });
                let mut loops: Vec<Loop> = axes[..*axis].iter().flatten().copied().collect();
                loops.push((xs.len(), step));
                loops.extend(axes[*axis..].iter().flatten());
                even.then(|| Strided { loops: joined(loops), ..first.clone() })
            }
            Work::Binary { op: op @ (BinaryOp::Mul | BinaryOp::Div), a, b } => {
                let number = |value: &ValueIndex| match lowered.constants.get(value) {
                    Some(Constant::F32(numbers)) if numbers.len() == 1 => Some(numbers[0]),
                    _ => None,
                };
                let (x, factor) = match (number(a), number(b), op) {
                    (None, Some(number), BinaryOp::Mul) => (a, number),
                    (None, Some(number), _) => (a, 1.0 / number),
                    (Some(number), None, BinaryOp::Mul) => (b, number),
                    _ => return None,
                };
                // Not behind a shape that another operand gave.
                if values[*x].len() != values[task.out].len() {
                    return None;
                }
                let from = self.of(*x, lowered);
                let factor = from.factor * factor;
                (factor.is_finite() && factor != 0.0).then_some(Strided { factor, ..from })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cpu::plan::task::PlanValue;
    use crate::model::{DType, ValueScope};

    /// Values of these shapes; the first is computed, each other by its task. Gives what the last one is.
    fn last(shapes: &[&[usize]], works: Vec<Work>) -> Strided {
        let value = |shape: &&[usize]| PlanValue { shape: shape.to_vec(), dtype: DType::F32, scope: ValueScope::Candidate };
        let lowered = Lowered {
            values: shapes.iter().map(value).collect(),
            tasks: vec![],
            outputs: vec![],
            constants: HashMap::new(),
            names: HashMap::new(),
            own: 0,
        };
        let mut strides = Strides::default();
        for (at, work) in works.into_iter().enumerate() {
            strides.learn(&Task::new(at + 1, work), &lowered);
        }
        strides.of(shapes.len() - 1, &lowered)
    }

    #[test]
    fn heads_of_a_projection_are_loops() {
        // [5, 3·2·4] as one of three, by heads.
        let strided = last(
            &[&[5, 24], &[5, 3, 2, 4], &[5, 1, 2, 4], &[5, 2, 4], &[2, 5, 4]],
            vec![
                Work::View { x: 0, first: 0 },
                Work::Slice { x: 1, axis: 1, start: 1, step: 1 },
                Work::View { x: 2, first: 0 },
                Work::Transpose { x: 3, perm: vec![1, 0, 2] },
            ],
        );
        assert_eq!((strided.value, strided.first), (0, 8));
        assert_eq!(strided.axes(&[2, 5, 4]), Some(vec![vec![(2, 4)], vec![(5, 24)], vec![(4, 1)]]));
        assert_eq!(strided.axes(&[10, 4]), Some(vec![vec![(2, 4), (5, 24)], vec![(4, 1)]]));
        assert_eq!(strided.axes(&[4, 10]), None);
    }

    #[test]
    fn stacks_of_slices_are_loops_and_have_an_inverse() {
        // Two halves of the columns of [5, 8], stacked: [2, 5, 4].
        let strided = last(
            &[&[5, 8], &[5, 4], &[5, 4], &[1, 5, 4], &[1, 5, 4], &[2, 5, 4]],
            vec![
                Work::Slice { x: 0, axis: 1, start: 0, step: 1 },
                Work::Slice { x: 0, axis: 1, start: 4, step: 1 },
                Work::View { x: 1, first: 0 },
                Work::View { x: 2, first: 0 },
                Work::Concat { xs: vec![3, 4], axis: 0 },
            ],
        );
        assert_eq!(strided.axes(&[2, 5, 4]), Some(vec![vec![(2, 4)], vec![(5, 8)], vec![(4, 1)]]));
        let inverse = strided.inverse(40).expect("a permutation");
        assert_eq!(inverse.axes(&[5, 2, 4]), Some(vec![vec![(5, 4)], vec![(2, 20)], vec![(4, 1)]]));
    }

    #[test]
    fn what_is_no_even_walk_is_a_value_of_its_own() {
        let flat: &[usize] = &[12];
        let own = |strided: Strided, value| assert_eq!((strided.value, strided.first), (value, 0));
        // Parts out of step, and a view across rows.
        own(
            last(
                &[flat, &[2], &[2], &[2], &[6]],
                vec![
                    Work::View { x: 0, first: 0 },
                    Work::View { x: 0, first: 4 },
                    Work::View { x: 0, first: 6 },
                    Work::Concat { xs: vec![1, 2, 3], axis: 0 },
                ],
            ),
            4,
        );
        let columns = Work::Transpose { x: 1, perm: vec![1, 0] };
        own(last(&[flat, &[3, 4], &[4, 3], &[5]], vec![Work::View { x: 0, first: 0 }, columns, Work::View { x: 2, first: 2 }]), 3);
        let spread = last(&[&[1, 4], &[3, 4]], vec![Work::Broadcast { x: 0 }]);
        assert_eq!(spread.axes(&[3, 4]), Some(vec![vec![(3, 0)], vec![(4, 1)]]));
        assert_eq!(spread.inverse(12), None);
    }
}
