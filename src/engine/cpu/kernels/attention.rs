//! Scaled dot-product attention, one row of queries at a time: scores, softmax, weighted sum of values. Source: Vaswani et al. 2017,
//! arXiv:1706.03762.

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, multiversion};
use crate::engine::cpu::tile::Tile;
use crate::engine::cpu::walk::Walk;
use crate::engine::cpu::{elementary, math};

use super::Generic;

/// `out[rows][values] = softmax(q[rows][width] · k[keys][width]ᵀ · scale, masked) · v[keys][values]` per row and leading index. A row that
/// may attend to nothing gives zeros.
#[derive(Debug)]
pub struct Attention {
    /// Queries.
    pub q: Place,
    /// Keys.
    pub k: Place,
    /// Values.
    pub v: Place,
    /// Result.
    pub out: Place,
    /// Which keys count.
    pub mask: Mask,
    /// `keys` f32 of room.
    pub scores: Place,
    /// Loops over the leading axes of (out, q, k, v, mask) within a row.
    pub walk: Walk<5>,
    /// Sizes.
    pub shape: AttentionShape,
}

/// Sizes, and what does not depend on the row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Queries.
    pub rows: usize,
    /// Keys, and rows of values.
    pub keys: usize,
    /// Elements of a query and a key.
    pub width: usize,
    /// Elements of a row of values.
    pub values: usize,
    /// Factor of a score.
    pub scale: f32,
    /// Whether a query attends to no key behind its own place.
    pub causal: bool,
}

/// Which keys count for which queries: element `row · row_step + key · key_step`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mask {
    /// All.
    None,
    /// Those whose element is not 0.
    Truth(MaskPlace),
    /// Its element is added to the score.
    Added(MaskPlace),
}

/// Where a mask lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskPlace {
    /// Its memory.
    pub place: Place,
    /// Elements from query to query.
    pub row_step: usize,
    /// Elements from key to key.
    pub key_step: usize,
}

/// One query's part of a mask.
#[derive(Clone, Copy)]
enum Row<'a> {
    None,
    Truth(&'a [i64], usize),
    Added(&'a [f32], usize),
}

impl Generic for Attention {
    fn run(&self, tile: &Tile) {
        let AttentionShape { rows, keys, width, values, .. } = self.shape;
        let (q, k, v) = (tile.source::<f32>(&self.q), tile.source::<f32>(&self.k), tile.source::<f32>(&self.v));
        let (mut out, mut scores) = (tile.target::<f32>(&self.out), tile.target::<f32>(&self.scores));
        let truth = if let Mask::Truth(mask) = &self.mask { Some((tile.source::<i64>(&mask.place), mask)) } else { None };
        let added = if let Mask::Added(mask) = &self.mask { Some((tile.source::<f32>(&mask.place), mask)) } else { None };
        let steps = self.walk.inner();
        for tile_row in 0..tile.rows {
            let (q, k, v) = (q.row(tile_row), k.row(tile_row), v.row(tile_row));
            let (out, scores) = (out.row(tile_row), scores.row(tile_row));
            self.walk.run(1, |at, count| {
                for turn in 0..count {
                    let [out_at, q_at, k_at, v_at, mask_at] = std::array::from_fn(|operand| at[operand] + turn * steps[operand]);
                    let (k, v) = (&k[k_at..][..keys * width], &v[v_at..][..keys * values]);
                    for row in 0..rows {
                        let mask = if let Some((truth, mask)) = &truth {
                            Row::Truth(&truth.row(tile_row)[mask_at + row * mask.row_step..], mask.key_step)
                        } else if let Some((added, mask)) = &added {
                            Row::Added(&added.row(tile_row)[mask_at + row * mask.row_step..], mask.key_step)
                        } else {
                            Row::None
                        };
                        let keys = if self.shape.causal { keys.min(row + 1) } else { keys };
                        let (q, out) = (&q[q_at + row * width..][..width], &mut out[out_at + row * values..][..values]);
                        attend(tile.simd, self.shape.scale, mask, q, &k[..keys * width], &v[..keys * values], &mut scores[..keys], out);
                    }
                }
            });
        }
    }
}

multiversion! {
    fn attend(scale: f32, mask: Row<'_>, q: &[f32], k: &[f32], v: &[f32], scores: &mut [f32], out: &mut [f32]) = attend_body;
}

#[inline(always)]
fn attend_body<M: MulAdd>(scale: f32, mask: Row<'_>, q: &[f32], k: &[f32], v: &[f32], scores: &mut [f32], out: &mut [f32]) {
    for (score, k) in scores.iter_mut().zip(k.chunks_exact(q.len())) {
        *score = math::dot::<M>(q, k) * scale;
    }
    match mask {
        Row::None => {}
        Row::Truth(mask, step) => {
            for (key, score) in scores.iter_mut().enumerate() {
                *score = if mask[key * step] != 0 { *score } else { f32::NEG_INFINITY };
            }
        }
        Row::Added(mask, step) => scores.iter_mut().enumerate().for_each(|(key, score)| *score += mask[key * step]),
    }
    out.fill(0.0);
    let most = scores.iter().fold(f32::NEG_INFINITY, |most, &score| if score > most || score.is_nan() { score } else { most });
    if most == f32::NEG_INFINITY {
        return;
    }
    for score in scores.iter_mut() {
        *score = elementary::exp::<M>(*score - most);
    }
    let sum = math::sum(scores);
    for (&score, v) in scores.iter().zip(v.chunks_exact(out.len())) {
        // A key that does not count takes no part, whatever its value.
        if score != 0.0 {
            let weight = score / sum;
            for (out, &v) in out.iter_mut().zip(v) {
                *out = M::mul_add(weight, v, *out);
            }
        }
    }
}
