//! Sums over axes.

use std::marker::PhantomData;

use bytemuck::Pod;

use crate::engine::cpu::math;
use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, Simd, multiversion};
use crate::engine::cpu::tile::Tile;
use crate::engine::cpu::walk::Walk;

/// `out` = sum of `x` over the axes through which the walk does not move `out`.
#[derive(Debug)]
pub struct Sum<T> {
    /// Operand.
    pub x: Place,
    /// Result.
    pub out: Place,
    /// Loops over (out, x) of one row.
    pub walk: Walk<2>,
    /// Of the elements.
    pub element: PhantomData<T>,
}

/// An element type that can be summed.
pub trait Element: Pod {
    /// a + b.
    fn add(a: Self, b: Self) -> Self;
    /// Sum of a slice.
    fn sum(simd: Simd, x: &[Self]) -> Self;
    /// Adds element by element.
    fn add_to(simd: Simd, x: &[Self], out: &mut [Self]);
}

impl<T: Element> Sum<T> {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        debug_assert!(!self.walk.rows_merged());
        let (x, mut out) = (tile.source::<T>(&self.x), tile.target::<T>(&self.out));
        let [out_step, x_step] = self.walk.inner();
        for row in 0..tile.rows {
            let (x, out) = (x.row(row), out.row(row));
            out.fill(T::zeroed());
            self.walk.run(1, |[out_at, x_at], count| match (out_step, x_step) {
                (0, 1) => out[out_at] = T::add(out[out_at], T::sum(tile.simd, &x[x_at..x_at + count])),
                (1, 1) => T::add_to(tile.simd, &x[x_at..x_at + count], &mut out[out_at..out_at + count]),
                _ => {
                    for turn in 0..count {
                        let (out_at, x_at) = (out_at + turn * out_step, x_at + turn * x_step);
                        out[out_at] = T::add(out[out_at], x[x_at]);
                    }
                }
            });
        }
    }
}

impl Element for f32 {
    fn add(a: f32, b: f32) -> f32 {
        a + b
    }
    fn sum(simd: Simd, x: &[f32]) -> f32 {
        sum_f32(simd, x)
    }
    fn add_to(simd: Simd, x: &[f32], out: &mut [f32]) {
        add_to_f32(simd, x, out);
    }
}

multiversion! {
    fn sum_f32(x: &[f32]) -> f32 = sum_body;
    fn add_to_f32(x: &[f32], out: &mut [f32]) = add_to_body;
}

#[inline(always)]
fn sum_body<M: MulAdd>(x: &[f32]) -> f32 {
    math::sum(x)
}

#[inline(always)]
fn add_to_body<M: MulAdd>(x: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(out, &x)| *out += x);
}

impl Element for i64 {
    fn add(a: i64, b: i64) -> i64 {
        a.wrapping_add(b)
    }
    fn sum(_: Simd, x: &[i64]) -> i64 {
        x.iter().fold(0, |sum, &x| sum.wrapping_add(x))
    }
    fn add_to(_: Simd, x: &[i64], out: &mut [i64]) {
        out.iter_mut().zip(x).for_each(|(out, &x)| *out = out.wrapping_add(x));
    }
}
