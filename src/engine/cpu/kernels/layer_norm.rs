//! Normalisation of groups of neighbouring elements.

use crate::engine::cpu::math;
use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, multiversion};
use crate::engine::cpu::tile::Tile;

use super::Generic;

/// (x − mean) / √(var + eps) · weight + bias for each group of `size` neighbours; mean and variance are the group's.
#[derive(Debug)]
pub struct LayerNorm {
    /// Operand.
    pub x: Place,
    /// Result.
    pub out: Place,
    /// Elements of a group.
    pub size: usize,
    /// As many factors, or none.
    pub weight: Option<Vec<f32>>,
    /// As many addends, or none.
    pub bias: Option<Vec<f32>>,
    /// Added to the variance.
    pub eps: f32,
}

impl Generic for LayerNorm {
    fn run(&self, tile: &Tile) {
        let (x, mut out) = (tile.source::<f32>(&self.x), tile.target::<f32>(&self.out));
        for row in 0..tile.rows {
            layer_norm(tile.simd, self, x.row(row), out.row(row));
        }
    }
}

multiversion! {
    fn layer_norm(norm: &LayerNorm, x: &[f32], out: &mut [f32]) = layer_norm_body;
}

#[inline(always)]
fn layer_norm_body<M: MulAdd>(norm: &LayerNorm, x: &[f32], out: &mut [f32]) {
    let count = norm.size as f32;
    for (x, out) in x.chunks_exact(norm.size).zip(out.chunks_exact_mut(norm.size)) {
        // The differences first: squares of large numbers would lose a small variance.
        let mean = math::sum(x) / count;
        out.iter_mut().zip(x).for_each(|(out, &x)| *out = x - mean);
        let scale = 1.0 / (math::dot::<M>(out, out) / count + norm.eps).sqrt();
        match (&norm.weight, &norm.bias) {
            (Some(weight), Some(bias)) => {
                for ((out, &weight), &bias) in out.iter_mut().zip(weight).zip(bias) {
                    *out = M::mul_add(*out * scale, weight, bias);
                }
            }
            (Some(weight), None) => out.iter_mut().zip(weight).for_each(|(out, &weight)| *out = *out * scale * weight),
            (None, Some(bias)) => {
                for (out, &bias) in out.iter_mut().zip(bias) {
                    *out = M::mul_add(*out, scale, bias);
                }
            }
            (None, None) => out.iter_mut().for_each(|out| *out *= scale),
        }
    }
}
