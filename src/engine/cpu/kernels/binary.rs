//! Element by element, two operands with numpy's broadcasting.

use bytemuck::Pod;

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, Simd, multiversion};
use crate::engine::cpu::tile::Tile;
use crate::engine::cpu::walk::Walk;

/// The function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    /// a + b (i64: wrapping, as are the next two).
    Add,
    /// a − b.
    Sub,
    /// a · b.
    Mul,
    /// a / b; i64: towards zero, 0 where b is 0.
    Div,
    /// aᵇ; i64: 0 where b is negative, unless a is ±1.
    Pow,
    /// a where a ≥ 0, else a · b.
    Prelu,
    /// The smaller; NaN if either is.
    Min,
    /// The larger; NaN if either is.
    Max,
    /// Remainder with the sign of b; i64: 0 where b is 0.
    Mod,
}

impl BinaryOp {
    /// Its name in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            BinaryOp::Add => "add",
            BinaryOp::Sub => "sub",
            BinaryOp::Mul => "mul",
            BinaryOp::Div => "div",
            BinaryOp::Pow => "pow",
            BinaryOp::Prelu => "prelu",
            BinaryOp::Min => "min",
            BinaryOp::Max => "max",
            BinaryOp::Mod => "mod",
        }
    }
}

/// An element type that binary ops know.
pub trait Element: Pod {
    /// One pair.
    fn one(op: BinaryOp, a: Self, b: Self) -> Self;
    /// Equally long slices.
    fn both(simd: Simd, op: BinaryOp, a: &[Self], b: &[Self], out: &mut [Self]);
    /// One left operand for all.
    fn left(simd: Simd, op: BinaryOp, a: Self, b: &[Self], out: &mut [Self]);
    /// One right operand for all.
    fn right(simd: Simd, op: BinaryOp, a: &[Self], b: Self, out: &mut [Self]);
}

/// `out = op(a, b)`.
#[derive(Debug)]
pub struct Binary<T> {
    /// The function.
    pub op: BinaryOp,
    /// Left operand.
    pub a: Place,
    /// Right operand.
    pub b: Place,
    /// Result.
    pub out: Place,
    /// Loops over (out, a, b).
    pub walk: Walk<3>,
    /// Of the elements.
    pub element: std::marker::PhantomData<T>,
}

impl<T: Element> Binary<T> {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let (a, b, mut out) = (tile.source::<T>(&self.a), tile.source::<T>(&self.b), tile.target::<T>(&self.out));
        if self.walk.rows_merged() {
            self.loops(tile.simd, tile.rows, out.row_ptr(0), a.row_ptr(0), b.row_ptr(0));
        } else {
            for row in 0..tile.rows {
                self.loops(tile.simd, 1, out.row_ptr(row), a.row_ptr(row), b.row_ptr(row));
            }
        }
    }

    fn loops(&self, simd: Simd, rows: usize, out: *mut T, a: *const T, b: *const T) {
        let [out_step, a_step, b_step] = self.walk.inner();
        self.walk.run(rows, |[out_at, a_at, b_at], count| {
            // SAFETY: the walk was made for these places' shapes, so it stays within their rows; the plan keeps the output apart from both
            // operands.
            unsafe {
                let (out, a, b) = (out.add(out_at), a.add(a_at), b.add(b_at));
                match (out_step, a_step, b_step) {
                    (1, 1, 1) => T::both(simd, self.op, slice(a, count), slice(b, count), slice_mut(out, count)),
                    (1, 0, 1) => T::left(simd, self.op, *a, slice(b, count), slice_mut(out, count)),
                    (1, 1, 0) => T::right(simd, self.op, slice(a, count), *b, slice_mut(out, count)),
                    _ => {
                        for turn in 0..count {
                            *out.add(turn * out_step) = T::one(self.op, *a.add(turn * a_step), *b.add(turn * b_step));
                        }
                    }
                }
            }
        });
    }
}

/// # Safety
/// `count` initialised elements from `start`, not written meanwhile.
unsafe fn slice<'a, T>(start: *const T, count: usize) -> &'a [T] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, count) }
}

/// # Safety
/// `count` initialised elements from `start`, not touched otherwise meanwhile.
unsafe fn slice_mut<'a, T>(start: *mut T, count: usize) -> &'a mut [T] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(start, count) }
}

impl Element for f32 {
    #[inline(always)]
    fn one(op: BinaryOp, a: f32, b: f32) -> f32 {
        match op {
            BinaryOp::Add => a + b,
            BinaryOp::Sub => a - b,
            BinaryOp::Mul => a * b,
            BinaryOp::Div => a / b,
            BinaryOp::Pow => a.powf(b),
            BinaryOp::Prelu => {
                if a < 0.0 {
                    a * b
                } else {
                    a
                }
            }
            BinaryOp::Min => {
                if a < b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
            BinaryOp::Max => {
                if a > b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
            BinaryOp::Mod => {
                let rest = a % b;
                if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
            }
        }
    }
    fn both(simd: Simd, op: BinaryOp, a: &[f32], b: &[f32], out: &mut [f32]) {
        both_f32(simd, op, a, b, out);
    }
    fn left(simd: Simd, op: BinaryOp, a: f32, b: &[f32], out: &mut [f32]) {
        left_f32(simd, op, a, b, out);
    }
    fn right(simd: Simd, op: BinaryOp, a: &[f32], b: f32, out: &mut [f32]) {
        right_f32(simd, op, a, b, out);
    }
}

multiversion! {
    fn both_f32(op: BinaryOp, a: &[f32], b: &[f32], out: &mut [f32]) = both_body;
    fn left_f32(op: BinaryOp, a: f32, b: &[f32], out: &mut [f32]) = left_body;
    fn right_f32(op: BinaryOp, a: &[f32], b: f32, out: &mut [f32]) = right_body;
}

/// Repeats a loop once per op with the op known in it, so that each is vectorised.
macro_rules! by_op {
    ($op:ident => $loop:expr) => {
        match $op {
            BinaryOp::Add => by_op!(@ $op Add $loop),
            BinaryOp::Sub => by_op!(@ $op Sub $loop),
            BinaryOp::Mul => by_op!(@ $op Mul $loop),
            BinaryOp::Div => by_op!(@ $op Div $loop),
            BinaryOp::Pow => by_op!(@ $op Pow $loop),
            BinaryOp::Prelu => by_op!(@ $op Prelu $loop),
            BinaryOp::Min => by_op!(@ $op Min $loop),
            BinaryOp::Max => by_op!(@ $op Max $loop),
            BinaryOp::Mod => by_op!(@ $op Mod $loop),
        }
    };
    (@ $op:ident $name:ident $loop:expr) => {{
        let $op = BinaryOp::$name;
        $loop
    }};
}

#[inline(always)]
fn both_body<M: MulAdd>(op: BinaryOp, a: &[f32], b: &[f32], out: &mut [f32]) {
    by_op!(op => out.iter_mut().zip(a).zip(b).for_each(|((out, &a), &b)| *out = f32::one(op, a, b)));
}

#[inline(always)]
fn left_body<M: MulAdd>(op: BinaryOp, a: f32, b: &[f32], out: &mut [f32]) {
    by_op!(op => out.iter_mut().zip(b).for_each(|(out, &b)| *out = f32::one(op, a, b)));
}

#[inline(always)]
fn right_body<M: MulAdd>(op: BinaryOp, a: &[f32], b: f32, out: &mut [f32]) {
    by_op!(op => out.iter_mut().zip(a).for_each(|(out, &a)| *out = f32::one(op, a, b)));
}

impl Element for i64 {
    fn one(op: BinaryOp, a: i64, b: i64) -> i64 {
        match op {
            BinaryOp::Add => a.wrapping_add(b),
            BinaryOp::Sub => a.wrapping_sub(b),
            BinaryOp::Mul => a.wrapping_mul(b),
            BinaryOp::Div => a.checked_div(b).unwrap_or(if b == 0 { 0 } else { i64::MIN }),
            BinaryOp::Pow => integer_power(a, b),
            BinaryOp::Prelu => {
                if a < 0 {
                    a.wrapping_mul(b)
                } else {
                    a
                }
            }
            BinaryOp::Min => a.min(b),
            BinaryOp::Max => a.max(b),
            BinaryOp::Mod => {
                let rest = a.checked_rem(b).unwrap_or(0);
                if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
            }
        }
    }
    fn both(_: Simd, op: BinaryOp, a: &[i64], b: &[i64], out: &mut [i64]) {
        out.iter_mut().zip(a).zip(b).for_each(|((out, &a), &b)| *out = i64::one(op, a, b));
    }
    fn left(_: Simd, op: BinaryOp, a: i64, b: &[i64], out: &mut [i64]) {
        out.iter_mut().zip(b).for_each(|(out, &b)| *out = i64::one(op, a, b));
    }
    fn right(_: Simd, op: BinaryOp, a: &[i64], b: i64, out: &mut [i64]) {
        out.iter_mut().zip(a).for_each(|(out, &a)| *out = i64::one(op, a, b));
    }
}

fn integer_power(base: i64, exponent: i64) -> i64 {
    match (u32::try_from(exponent), base) {
        (Ok(exponent), _) => base.wrapping_pow(exponent),
        (Err(_), 1) => 1,
        (Err(_), -1) => {
            if exponent % 2 == 0 {
                1
            } else {
                -1
            }
        }
        (Err(_), _) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_never_panic() {
        for (op, a, b, expected) in [
            (BinaryOp::Div, 7, -2, -3),
            (BinaryOp::Div, 7, 0, 0),
            (BinaryOp::Div, i64::MIN, -1, i64::MIN),
            (BinaryOp::Add, i64::MAX, 1, i64::MIN),
            (BinaryOp::Pow, 3, 4, 81),
            (BinaryOp::Pow, 2, -1, 0),
            (BinaryOp::Pow, -1, -3, -1),
            (BinaryOp::Pow, -1, -4, 1),
            (BinaryOp::Pow, 1, i64::MIN, 1),
            (BinaryOp::Mod, -7, 3, 2),
            (BinaryOp::Mod, 7, -3, -2),
            (BinaryOp::Mod, -6, 3, 0),
            (BinaryOp::Mod, 5, 0, 0),
            (BinaryOp::Mod, i64::MIN, -1, 0),
            (BinaryOp::Min, -7, 3, -7),
            (BinaryOp::Max, -7, 3, 3),
        ] {
            assert_eq!(i64::one(op, a, b), expected, "{op:?} {a} {b}");
        }
    }
}
