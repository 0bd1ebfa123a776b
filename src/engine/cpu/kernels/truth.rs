//! Comparisons, truth values, and the choice between two operands.

use bytemuck::Pod;

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, Simd, multiversion};
use crate::engine::cpu::tile::Tile;
use crate::engine::cpu::walk::Walk;
use crate::model::{Comparison, LogicFn};

use super::Generic;
use super::zip::{Lane, choose, over, zip};

/// i64 1 where the comparison of two `T` holds, else 0.
#[derive(Debug)]
pub struct Compare<T> {
    /// The comparison.
    pub cmp: Comparison,
    /// Left operand.
    pub a: Place,
    /// Right operand.
    pub b: Place,
    /// i64.
    pub out: Place,
    /// Loops over (out, a, b) of one row.
    pub walk: Walk<3>,
    /// Compares elements of a loop.
    pub compare: fn(Simd, Comparison, Lane<'_, T>, Lane<'_, T>, &mut [i64]),
}

impl<T: Pod + std::fmt::Debug + Send + Sync> Generic for Compare<T> {
    fn run(&self, tile: &Tile) {
        let (a, b, mut out) = (tile.source::<T>(&self.a), tile.source::<T>(&self.b), tile.target::<i64>(&self.out));
        for row in 0..tile.rows {
            let (a, b) = (a.row(row), b.row(row));
            over(&self.walk, out.row(row), |out, [_, a_at, b_at], [_, a_step, b_step]| {
                let count = out.len();
                (self.compare)(tile.simd, self.cmp, Lane::new(a, a_at, a_step, count), Lane::new(b, b_at, b_step, count), out);
            });
        }
    }
}

multiversion! {
    /// Of floats.
    pub fn compare_f32(cmp: Comparison, a: Lane<'_, f32>, b: Lane<'_, f32>, out: &mut [i64]) = compare_f32_body;
    /// Of integers.
    pub fn compare_i64(cmp: Comparison, a: Lane<'_, i64>, b: Lane<'_, i64>, out: &mut [i64]) = compare_i64_body;
    fn logic(function: LogicFn, a: Lane<'_, i64>, b: Lane<'_, i64>, out: &mut [i64]) = logic_body;
    /// Of elements of 4 bytes.
    pub fn choose_32(cond: Lane<'_, i64>, a: Lane<'_, u32>, b: Lane<'_, u32>, out: &mut [u32]) = choose_32_body;
    /// Of elements of 8 bytes.
    pub fn choose_64(cond: Lane<'_, i64>, a: Lane<'_, u64>, b: Lane<'_, u64>, out: &mut [u64]) = choose_64_body;
}

#[inline(always)]
fn compare_f32_body<M: MulAdd>(cmp: Comparison, a: Lane<'_, f32>, b: Lane<'_, f32>, out: &mut [i64]) {
    compare(cmp, a, b, out);
}

#[inline(always)]
fn compare_i64_body<M: MulAdd>(cmp: Comparison, a: Lane<'_, i64>, b: Lane<'_, i64>, out: &mut [i64]) {
    compare(cmp, a, b, out);
}

/// One loop per comparison.
#[inline(always)]
fn compare<T: Copy + PartialOrd>(cmp: Comparison, a: Lane<'_, T>, b: Lane<'_, T>, out: &mut [i64]) {
    match cmp {
        Comparison::Lt => zip(a, b, out, |a, b| i64::from(a < b)),
        Comparison::Le => zip(a, b, out, |a, b| i64::from(a <= b)),
        Comparison::Gt => zip(a, b, out, |a, b| i64::from(a > b)),
        Comparison::Ge => zip(a, b, out, |a, b| i64::from(a >= b)),
        Comparison::Eq => zip(a, b, out, |a, b| i64::from(a == b)),
        Comparison::Ne => zip(a, b, out, |a, b| i64::from(a != b)),
    }
}

/// A function of truth values.
#[derive(Debug)]
pub struct Logic {
    /// The function.
    pub function: LogicFn,
    /// Left operand.
    pub a: Place,
    /// Right operand.
    pub b: Place,
    /// i64.
    pub out: Place,
    /// Loops over (out, a, b) of one row.
    pub walk: Walk<3>,
}

impl Generic for Logic {
    fn run(&self, tile: &Tile) {
        let (a, b, mut out) = (tile.source::<i64>(&self.a), tile.source::<i64>(&self.b), tile.target::<i64>(&self.out));
        for row in 0..tile.rows {
            let (a, b) = (a.row(row), b.row(row));
            over(&self.walk, out.row(row), |out, [_, a_at, b_at], [_, a_step, b_step]| {
                let count = out.len();
                logic(tile.simd, self.function, Lane::new(a, a_at, a_step, count), Lane::new(b, b_at, b_step, count), out);
            });
        }
    }
}

#[inline(always)]
fn logic_body<M: MulAdd>(function: LogicFn, a: Lane<'_, i64>, b: Lane<'_, i64>, out: &mut [i64]) {
    match function {
        LogicFn::And => zip(a, b, out, |a, b| i64::from((a != 0) & (b != 0))),
        LogicFn::Or => zip(a, b, out, |a, b| i64::from((a | b) != 0)),
        LogicFn::Xor => zip(a, b, out, |a, b| i64::from((a != 0) != (b != 0))),
    }
}

/// Picks elements of a loop: where the first operand is not 0 those of the second, else those of the third.
pub type Choose<T> = fn(Simd, Lane<'_, i64>, Lane<'_, T>, Lane<'_, T>, &mut [T]);

/// a where cond is not 0, else b.
#[derive(Debug)]
pub struct Where<T> {
    /// i64.
    pub cond: Place,
    /// Taken where it is not 0.
    pub a: Place,
    /// Taken where it is.
    pub b: Place,
    /// Result.
    pub out: Place,
    /// Loops over (out, cond, a, b) of one row.
    pub walk: Walk<4>,
    /// Picks elements of a loop.
    pub choose: Choose<T>,
}

impl<T: Pod + std::fmt::Debug + Send + Sync> Generic for Where<T> {
    fn run(&self, tile: &Tile) {
        let cond = tile.source::<i64>(&self.cond);
        let (a, b, mut out) = (tile.source::<T>(&self.a), tile.source::<T>(&self.b), tile.target::<T>(&self.out));
        for row in 0..tile.rows {
            let (cond, a, b) = (cond.row(row), a.row(row), b.row(row));
            over(&self.walk, out.row(row), |out, at, steps| {
                let count = out.len();
                let cond = Lane::new(cond, at[1], steps[1], count);
                let (a, b) = (Lane::new(a, at[2], steps[2], count), Lane::new(b, at[3], steps[3], count));
                (self.choose)(tile.simd, cond, a, b, out);
            });
        }
    }
}

#[inline(always)]
fn choose_32_body<M: MulAdd>(cond: Lane<'_, i64>, a: Lane<'_, u32>, b: Lane<'_, u32>, out: &mut [u32]) {
    choose(cond, a, b, out);
}

#[inline(always)]
fn choose_64_body<M: MulAdd>(cond: Lane<'_, i64>, a: Lane<'_, u64>, b: Lane<'_, u64>, out: &mut [u64]) {
    choose(cond, a, b, out);
}
