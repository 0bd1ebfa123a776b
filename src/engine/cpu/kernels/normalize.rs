//! Along one axis: softmax, L2 norm, batch norm. Values are seen as `[outer][axis][inner]`.

use crate::engine::cpu::math;
use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, multiversion};
use crate::engine::cpu::tile::Tile;

/// Where the axis lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AxisView {
    /// Size of the axis.
    pub axis: usize,
    /// Elements behind each index of the axis.
    pub inner: usize,
}

impl AxisView {
    /// The axis of a row-major shape.
    pub fn new(shape: &[usize], axis: usize) -> AxisView {
        AxisView { axis: shape[axis], inner: shape[axis + 1..].iter().product() }
    }

    fn block(self) -> usize {
        (self.axis * self.inner).max(1)
    }
}

/// eˣ / Σ eˣ along the axis, with the maximum taken off first.
#[derive(Debug)]
pub struct Softmax {
    /// Operand.
    pub x: Place,
    /// Result.
    pub out: Place,
    /// The axis.
    pub view: AxisView,
}

impl Softmax {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let (x, mut out) = (tile.source::<f32>(&self.x), tile.target::<f32>(&self.out));
        for row in 0..tile.rows {
            softmax(tile.simd, self.view, x.row(row), out.row(row));
        }
    }
}

/// x / max(‖x‖₂, eps) along the axis.
#[derive(Debug)]
pub struct L2Norm {
    /// Operand.
    pub x: Place,
    /// Result.
    pub out: Place,
    /// The axis.
    pub view: AxisView,
    /// Least divisor.
    pub eps: f32,
}

impl L2Norm {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let (x, mut out) = (tile.source::<f32>(&self.x), tile.target::<f32>(&self.out));
        for row in 0..tile.rows {
            l2_norm(tile.simd, self.view, self.eps, x.row(row), out.row(row));
        }
    }
}

/// (x − mean) · scale + bias, each a vector over the axis.
#[derive(Debug)]
pub struct BatchNorm {
    /// Operand.
    pub x: Place,
    /// Result.
    pub out: Place,
    /// The axis.
    pub view: AxisView,
    /// Taken off first: the difference is exact where x is near the mean.
    pub mean: Vec<f32>,
    /// weight / √(var + eps).
    pub scale: Vec<f32>,
    /// Added last.
    pub bias: Vec<f32>,
}

impl BatchNorm {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let (x, mut out) = (tile.source::<f32>(&self.x), tile.target::<f32>(&self.out));
        for row in 0..tile.rows {
            batch_norm(tile.simd, self, x.row(row), out.row(row));
        }
    }
}

multiversion! {
    fn softmax(view: AxisView, x: &[f32], out: &mut [f32]) = softmax_body;
    fn l2_norm(view: AxisView, eps: f32, x: &[f32], out: &mut [f32]) = l2_norm_body;
    fn batch_norm(norm: &BatchNorm, x: &[f32], out: &mut [f32]) = batch_norm_body;
}

#[inline(always)]
fn softmax_body<M: MulAdd>(view: AxisView, x: &[f32], out: &mut [f32]) {
    for (x, out) in x.chunks_exact(view.block()).zip(out.chunks_exact_mut(view.block())) {
        if view.inner == 1 {
            let max = x.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
            for (out, &x) in out.iter_mut().zip(x) {
                *out = math::exp::<M>(x - max);
            }
            let sum = math::sum(out);
            out.iter_mut().for_each(|out| *out /= sum);
            continue;
        }
        for at in 0..view.inner {
            let column = || (at..x.len()).step_by(view.inner);
            let max = column().fold(f32::NEG_INFINITY, |max, i| if x[i] > max { x[i] } else { max });
            let mut sum = 0.0;
            for i in column() {
                out[i] = math::exp::<M>(x[i] - max);
                sum += out[i];
            }
            column().for_each(|i| out[i] /= sum);
        }
    }
}

#[inline(always)]
fn l2_norm_body<M: MulAdd>(view: AxisView, eps: f32, x: &[f32], out: &mut [f32]) {
    for (x, out) in x.chunks_exact(view.block()).zip(out.chunks_exact_mut(view.block())) {
        for at in 0..view.inner {
            let column = || (at..x.len()).step_by(view.inner);
            let square = if view.inner == 1 { math::dot::<M>(x, x) } else { column().fold(0.0, |sum, i| M::mul_add(x[i], x[i], sum)) };
            let norm = square.sqrt();
            let norm = if norm < eps { eps } else { norm };
            column().for_each(|i| out[i] = x[i] / norm);
        }
    }
}

#[inline(always)]
fn batch_norm_body<M: MulAdd>(norm: &BatchNorm, x: &[f32], out: &mut [f32]) {
    let view = norm.view;
    for (x, out) in x.chunks_exact(view.block()).zip(out.chunks_exact_mut(view.block())) {
        if view.inner == 1 {
            for ((((out, &x), &mean), &scale), &bias) in out.iter_mut().zip(x).zip(&norm.mean).zip(&norm.scale).zip(&norm.bias) {
                *out = M::mul_add(x - mean, scale, bias);
            }
            continue;
        }
        for (at, (x, out)) in x.chunks_exact(view.inner).zip(out.chunks_exact_mut(view.inner)).enumerate() {
            let (mean, scale, bias) = (norm.mean[at], norm.scale[at], norm.bias[at]);
            for (out, &x) in out.iter_mut().zip(x) {
                *out = M::mul_add(x - mean, scale, bias);
            }
        }
    }
}
