//! Loops over operands that step by one, stand still, or neither.

use crate::engine::cpu::walk::Walk;

/// What one operand gives to `count` turns of a loop: elements of a row, `step` apart (0: the same one for all).
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a, T> {
    elements: &'a [T],
    step: usize,
}

impl<'a, T: Copy> Lane<'a, T> {
    /// `count` (at least 1) elements of a row from `at` on.
    #[inline(always)]
    pub fn new(row: &'a [T], at: usize, step: usize, count: usize) -> Lane<'a, T> {
        Lane { elements: &row[at..=at + (count - 1) * step], step }
    }

    #[inline(always)]
    fn at(&self, turn: usize) -> T {
        self.elements[turn * self.step]
    }
}

/// `out[i] = function(a[i], b[i])`; the usual steps get loops of their own, which are vectorised.
#[inline(always)]
pub fn zip<A: Copy, B: Copy, O>(a: Lane<'_, A>, b: Lane<'_, B>, out: &mut [O], function: impl Fn(A, B) -> O) {
    match (a.step, b.step) {
        (1, 1) => out.iter_mut().zip(a.elements).zip(b.elements).for_each(|((out, &a), &b)| *out = function(a, b)),
        (0, 1) => {
            let a = a.at(0);
            out.iter_mut().zip(b.elements).for_each(|(out, &b)| *out = function(a, b));
        }
        (1, 0) => {
            let b = b.at(0);
            out.iter_mut().zip(a.elements).for_each(|(out, &a)| *out = function(a, b));
        }
        _ => out.iter_mut().enumerate().for_each(|(turn, out)| *out = function(a.at(turn), b.at(turn))),
    }
}

/// `out[i] = if cond[i] != 0 { a[i] } else { b[i] }`.
#[inline(always)]
pub fn choose<T: Copy>(cond: Lane<'_, i64>, a: Lane<'_, T>, b: Lane<'_, T>, out: &mut [T]) {
    let pick = |cond: i64, a: T, b: T| if cond != 0 { a } else { b };
    match (cond.step, a.step, b.step) {
        (0, ..) => {
            let taken = if cond.at(0) != 0 { a } else { b };
            match taken.step {
                0 => out.fill(taken.at(0)),
                1 => out.copy_from_slice(taken.elements),
                _ => out.iter_mut().enumerate().for_each(|(turn, out)| *out = taken.at(turn)),
            }
        }
        (1, 1, 1) => {
            let operands = cond.elements.iter().zip(a.elements).zip(b.elements);
            out.iter_mut().zip(operands).for_each(|(out, ((&cond, &a), &b))| *out = pick(cond, a, b));
        }
        (1, 1, 0) => {
            let b = b.at(0);
            out.iter_mut().zip(cond.elements.iter().zip(a.elements)).for_each(|(out, (&cond, &a))| *out = pick(cond, a, b));
        }
        (1, 0, 1) => {
            let a = a.at(0);
            out.iter_mut().zip(cond.elements.iter().zip(b.elements)).for_each(|(out, (&cond, &b))| *out = pick(cond, a, b));
        }
        _ => out.iter_mut().enumerate().for_each(|(turn, out)| *out = pick(cond.at(turn), a.at(turn), b.at(turn))),
    }
}

/// Calls `run` for every innermost loop of a walk over one row whose first operand is the result: its elements of that loop, the offsets and
/// steps of all operands, and how many turns.
#[inline(always)]
pub fn over<const N: usize, O>(walk: &Walk<N>, out: &mut [O], mut run: impl FnMut(&mut [O], [usize; N], [usize; N])) {
    debug_assert!(!walk.rows_merged());
    let steps = walk.inner();
    walk.run(1, |at, count| run(&mut out[at[0]..at[0] + count], at, steps));
}
