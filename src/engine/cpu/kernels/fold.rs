//! Maxima, minima and products over axes.

use bytemuck::Pod;

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, Simd, multiversion};
use crate::engine::cpu::tile::Tile;
use crate::engine::cpu::walk::Walk;

use super::Generic;

/// How two elements become one; the order does not matter but for rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldFn {
    /// The larger; NaN if either is.
    Max,
    /// The smaller; NaN if either is.
    Min,
    /// The product (f32 alone).
    Prod,
}

/// An element type that can be folded.
pub trait Element: Pod + std::fmt::Debug + Send + Sync {
    /// What changes nothing.
    fn neutral(function: FoldFn) -> Self;
    /// Of two.
    fn fold(function: FoldFn, a: Self, b: Self) -> Self;
    /// Of a slice.
    fn all(simd: Simd, function: FoldFn, x: &[Self]) -> Self;
    /// Element by element into `out`.
    fn each(simd: Simd, function: FoldFn, x: &[Self], out: &mut [Self]);
}

/// `out` = fold of `x` over the axes through which the walk does not move `out`.
#[derive(Debug)]
pub struct Fold<T> {
    /// How.
    pub function: FoldFn,
    /// Operand.
    pub x: Place,
    /// Result.
    pub out: Place,
    /// Loops over (out, x) of one row.
    pub walk: Walk<2>,
    /// Of the elements.
    pub element: std::marker::PhantomData<T>,
}

impl<T: Element> Generic for Fold<T> {
    fn run(&self, tile: &Tile) {
        debug_assert!(!self.walk.rows_merged());
        let (x, mut out) = (tile.source::<T>(&self.x), tile.target::<T>(&self.out));
        let [out_step, x_step] = self.walk.inner();
        for row in 0..tile.rows {
            let (x, out) = (x.row(row), out.row(row));
            out.fill(T::neutral(self.function));
            self.walk.run(1, |[out_at, x_at], count| match (out_step, x_step) {
                (0, 1) => out[out_at] = T::fold(self.function, out[out_at], T::all(tile.simd, self.function, &x[x_at..x_at + count])),
                (1, 1) => T::each(tile.simd, self.function, &x[x_at..x_at + count], &mut out[out_at..out_at + count]),
                _ => {
                    for turn in 0..count {
                        let (out_at, x_at) = (out_at + turn * out_step, x_at + turn * x_step);
                        out[out_at] = T::fold(self.function, out[out_at], x[x_at]);
                    }
                }
            });
        }
    }
}

impl Element for f32 {
    fn neutral(function: FoldFn) -> f32 {
        match function {
            FoldFn::Max => f32::NEG_INFINITY,
            FoldFn::Min => f32::INFINITY,
            FoldFn::Prod => 1.0,
        }
    }
    #[inline(always)]
    fn fold(function: FoldFn, a: f32, b: f32) -> f32 {
        match function {
            FoldFn::Max if a > b || a.is_nan() => a,
            FoldFn::Min if a < b || a.is_nan() => a,
            FoldFn::Max | FoldFn::Min => b,
            FoldFn::Prod => a * b,
        }
    }
    fn all(simd: Simd, function: FoldFn, x: &[f32]) -> f32 {
        all_f32(simd, function, x)
    }
    fn each(simd: Simd, function: FoldFn, x: &[f32], out: &mut [f32]) {
        each_f32(simd, function, x, out);
    }
}

impl Element for i64 {
    fn neutral(function: FoldFn) -> i64 {
        match function {
            FoldFn::Max => i64::MIN,
            FoldFn::Min => i64::MAX,
            FoldFn::Prod => 1,
        }
    }
    #[inline(always)]
    fn fold(function: FoldFn, a: i64, b: i64) -> i64 {
        match function {
            FoldFn::Max => a.max(b),
            FoldFn::Min => a.min(b),
            FoldFn::Prod => a.wrapping_mul(b),
        }
    }
    fn all(_: Simd, function: FoldFn, x: &[i64]) -> i64 {
        x.iter().fold(i64::neutral(function), |all, &x| i64::fold(function, all, x))
    }
    fn each(_: Simd, function: FoldFn, x: &[i64], out: &mut [i64]) {
        out.iter_mut().zip(x).for_each(|(out, &x)| *out = i64::fold(function, *out, x));
    }
}

multiversion! {
    fn all_f32(function: FoldFn, x: &[f32]) -> f32 = all_body;
    fn each_f32(function: FoldFn, x: &[f32], out: &mut [f32]) = each_body;
}

#[inline(always)]
fn all_body<M: MulAdd>(function: FoldFn, x: &[f32]) -> f32 {
    match function {
        FoldFn::Max => lanes(x, f32::NEG_INFINITY, |a, b| f32::fold(FoldFn::Max, a, b)),
        FoldFn::Min => lanes(x, f32::INFINITY, |a, b| f32::fold(FoldFn::Min, a, b)),
        FoldFn::Prod => lanes(x, 1.0, |a, b| a * b),
    }
}

/// Sixteen lanes, joined one after the other: the same order at every level.
#[inline(always)]
fn lanes(x: &[f32], neutral: f32, fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [neutral; 16];
    let mut chunks = x.chunks_exact(16);
    for chunk in &mut chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane = fold(*lane, x));
    }
    lanes.iter_mut().zip(chunks.remainder()).for_each(|(lane, &x)| *lane = fold(*lane, x));
    lanes.into_iter().fold(neutral, fold)
}

#[inline(always)]
fn each_body<M: MulAdd>(function: FoldFn, x: &[f32], out: &mut [f32]) {
    let pairs = out.iter_mut().zip(x);
    match function {
        FoldFn::Max => pairs.for_each(|(out, &x)| *out = f32::fold(FoldFn::Max, *out, x)),
        FoldFn::Min => pairs.for_each(|(out, &x)| *out = f32::fold(FoldFn::Min, *out, x)),
        FoldFn::Prod => pairs.for_each(|(out, &x)| *out *= x),
    }
}
