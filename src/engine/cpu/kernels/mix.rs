//! Weighted sums of vectors that lie anywhere: experts under a gate, positions of a history under their weights. Source of the mixture: Ma et
//! al. 2018 (MMoE), KDD.
//!
//! Vectors are read where they were computed, so that nothing is stacked first; a gate's softmax is part of it.

use crate::engine::cpu::elementary;
use crate::engine::cpu::math;
use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, multiversion};
use crate::engine::cpu::tile::Tile;

/// Most vectors of a mixture.
pub const VECTORS_MAX: usize = 64;

/// `out[dim]` = Σ weight · vector.
#[derive(Debug)]
pub struct Mix {
    /// One per vector.
    pub weights: Place,
    /// Whether the weights' softmax is taken first.
    pub softmax: bool,
    /// `dim` elements each, of any scope; at most [`VECTORS_MAX`].
    pub vectors: Vec<Place>,
    /// Result.
    pub out: Place,
}

impl Mix {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let Some(first) = self.vectors.first() else { return };
        let count = self.vectors.len();
        let mut sources = [tile.source::<f32>(first); VECTORS_MAX];
        sources.iter_mut().zip(&self.vectors).for_each(|(source, place)| *source = tile.source::<f32>(place));
        let (gate, mut out) = (tile.source::<f32>(&self.weights), tile.target::<f32>(&self.out));
        let mut weights = [0.0; VECTORS_MAX];
        let mut vectors: [&[f32]; VECTORS_MAX] = [&[]; VECTORS_MAX];
        for row in 0..tile.rows {
            weights[..count].copy_from_slice(gate.row(row));
            vectors.iter_mut().zip(&sources[..count]).for_each(|(vector, source)| *vector = source.row(row));
            mix(tile.simd, self.softmax, &mut weights, &vectors[..count], out.row(row));
        }
    }
}

multiversion! {
    fn mix(softmax: bool, weights: &mut [f32; VECTORS_MAX], vectors: &[&[f32]], out: &mut [f32]) = mix_body;
}

#[inline(always)]
fn mix_body<M: MulAdd>(softmax: bool, weights: &mut [f32; VECTORS_MAX], vectors: &[&[f32]], out: &mut [f32]) {
    let factor = if softmax { normalize::<M>(weights, vectors.len()) } else { 1.0 };
    let weights = &weights[..vectors.len()];
    let mut column = 0;
    while column < out.len() {
        column += match out.len() - column {
            64.. => columns::<M, 64>(column, weights, factor, vectors, out),
            32.. => columns::<M, 32>(column, weights, factor, vectors, out),
            16.. => columns::<M, 16>(column, weights, factor, vectors, out),
            8.. => columns::<M, 8>(column, weights, factor, vectors, out),
            4.. => columns::<M, 4>(column, weights, factor, vectors, out),
            _ => columns::<M, 1>(column, weights, factor, vectors, out),
        };
    }
}

/// The first `count` weights to exponentials; gives what makes them a softmax. NaN, and nothing but −∞, make all of it NaN.
#[inline(always)]
fn normalize<M: MulAdd>(weights: &mut [f32; VECTORS_MAX], count: usize) -> f32 {
    let padded = count.next_multiple_of(LANES);
    weights[count..padded].fill(f32::NEG_INFINITY);
    let weights = &mut weights[..padded];
    let most = weights.iter().fold(f32::NEG_INFINITY, |most, &weight| if weight > most { weight } else { most });
    weights.iter_mut().for_each(|weight| *weight = elementary::exp::<M>(*weight - most));
    1.0 / math::sum(weights)
}

/// Columns `column .. column + COLUMNS`, whose number it gives.
#[inline(always)]
fn columns<M: MulAdd, const COLUMNS: usize>(column: usize, weights: &[f32], factor: f32, vectors: &[&[f32]], out: &mut [f32]) -> usize {
    let mut sums = [0.0f32; COLUMNS];
    for (&weight, vector) in weights.iter().zip(vectors) {
        sums.iter_mut().zip(&vector[column..][..COLUMNS]).for_each(|(sum, &x)| *sum = M::mul_add(weight, x, *sum));
    }
    out[column..][..COLUMNS].iter_mut().zip(&sums).for_each(|(out, sum)| *out = sum * factor);
    COLUMNS
}

/// Exponentials are taken so many at once.
const LANES: usize = 16;
