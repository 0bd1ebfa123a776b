//! Scaled dot-product attention: scores, softmax, weighted sum of values. Source: Vaswani et al. 2017, arXiv:1706.03762.
//!
//! Queries, keys and values are read where they were computed, at any distance from one another, and results are written as far apart as their
//! reader wants them: heads are not brought together first. Keys are transposed in panels of [`LANES`], so that a score is one lane's chain of
//! multiply-adds; [`BLOCK`] queries share what they read. A single long query takes one scalar product per key instead.

use std::ops::Range;

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, multiversion};
use crate::engine::cpu::tile::Tile;
use crate::engine::cpu::walk::Walk;
use crate::engine::cpu::{elementary, math};

use super::Generic;

/// `out[rows][values] = softmax(q[rows][width] · k[keys][width]ᵀ · scale, masked) · v[keys][values]` per row and leading index.
#[derive(Debug)]
pub struct Attention {
    /// Queries: from the first one on.
    pub q: Place,
    /// Keys.
    pub k: Place,
    /// Values.
    pub v: Place,
    /// Result.
    pub out: Place,
    /// Which keys count.
    pub mask: Mask,
    /// [`AttentionShape::room`] f32.
    pub room: Place,
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
    /// Elements from row to row of (out, q, k, v).
    pub steps: [usize; 4],
    /// Factor of a score.
    pub scale: f32,
    /// Whether a query attends to no key behind its own place.
    pub causal: bool,
    /// A query that may attend to nothing: NaN, as a softmax has it, or zeros. Then keys that do not count take no part whatever their value.
    pub nan_without_keys: bool,
}

/// Which keys count for which queries: element `row · row_step + key · key_step`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mask {
    /// All.
    None,
    /// Where its element is 0, or (`hides_zero` false) where it is not, the score is `score`.
    Truth {
        /// Where it lies.
        place: MaskPlace,
        /// Which elements hide a key.
        hides_zero: bool,
        /// The hidden key's score.
        score: f32,
    },
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

/// A mask from its first query and key on.
#[derive(Clone, Copy)]
enum Masking<'a> {
    None,
    Truth { mask: &'a [i64], row_step: usize, key_step: usize, hides_zero: bool, score: f32 },
    Added { mask: &'a [f32], row_step: usize, key_step: usize },
}

impl AttentionShape {
    /// f32 that it works in.
    pub fn room(&self) -> usize {
        let packed = if self.packs() { self.padded() * self.width } else { 0 };
        packed + BLOCK * self.padded()
    }

    /// Keys to whole panels.
    fn padded(&self) -> usize {
        self.keys.next_multiple_of(LANES)
    }

    /// Whether transposing the keys is worth it.
    fn packs(&self) -> bool {
        self.rows * LANES > self.width
    }
}

impl Generic for Attention {
    fn run(&self, tile: &Tile) {
        let (q, k, v) = (tile.source::<f32>(&self.q), tile.source::<f32>(&self.k), tile.source::<f32>(&self.v));
        let (mut out, mut room) = (tile.target::<f32>(&self.out), tile.target::<f32>(&self.room));
        let truth = if let Mask::Truth { place, .. } = &self.mask { Some(tile.source::<i64>(&place.place)) } else { None };
        let added = if let Mask::Added(mask) = &self.mask { Some(tile.source::<f32>(&mask.place)) } else { None };
        let steps = self.walk.inner();
        for tile_row in 0..tile.rows {
            let (q, k, v) = (q.row(tile_row), k.row(tile_row), v.row(tile_row));
            let (out, room) = (out.row(tile_row), room.row(tile_row));
            self.walk.run(1, |at, count| {
                for turn in 0..count {
                    let [out_at, q_at, k_at, v_at, mask_at] = std::array::from_fn(|operand| at[operand] + turn * steps[operand]);
                    let mask = match (self.mask, &truth, &added) {
                        (Mask::Truth { place: MaskPlace { row_step, key_step, .. }, hides_zero, score }, Some(truth), _) => {
                            Masking::Truth { mask: &truth.row(tile_row)[mask_at..], row_step, key_step, hides_zero, score }
                        }
                        (Mask::Added(MaskPlace { row_step, key_step, .. }), _, Some(added)) => {
                            Masking::Added { mask: &added.row(tile_row)[mask_at..], row_step, key_step }
                        }
                        _ => Masking::None,
                    };
                    attend(tile.simd, &self.shape, mask, &q[q_at..], &k[k_at..], &v[v_at..], room, &mut out[out_at..]);
                }
            });
        }
    }
}

multiversion! {
    fn attend(shape: &AttentionShape, mask: Masking<'_>, q: &[f32], k: &[f32], v: &[f32], room: &mut [f32], out: &mut [f32]) = attend_body;
}

#[inline(always)]
fn attend_body<M: MulAdd>(shape: &AttentionShape, mask: Masking<'_>, q: &[f32], k: &[f32], v: &[f32], room: &mut [f32], out: &mut [f32]) {
    let (packed, scores) = room.split_at_mut(shape.room() - BLOCK * shape.padded());
    if shape.packs() {
        pack(shape, k, packed);
    }
    let whole = shape.rows / BLOCK * BLOCK;
    for row in (0..whole).step_by(BLOCK) {
        block::<M, BLOCK>(shape, row, mask, q, k, packed, v, scores, out);
    }
    for row in whole..shape.rows {
        block::<M, 1>(shape, row, mask, q, k, packed, v, scores, out);
    }
}

/// Keys as `[panel][width][LANES]`, zeros behind them.
#[inline(always)]
fn pack(shape: &AttentionShape, k: &[f32], packed: &mut [f32]) {
    let AttentionShape { keys, width, steps: [_, _, k_step, _], .. } = *shape;
    for (panel, packed) in packed.chunks_exact_mut(width * LANES).enumerate() {
        let count = LANES.min(keys - panel * LANES);
        if count < LANES {
            packed.fill(0.0);
        }
        for lane in 0..count {
            let key = &k[(panel * LANES + lane) * k_step..][..width];
            packed[lane..].iter_mut().step_by(LANES).zip(key).for_each(|(to, &from)| *to = from);
        }
    }
}

/// `ROWS` queries from `row` on.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn block<M: MulAdd, const ROWS: usize>(
    shape: &AttentionShape,
    row: usize,
    mask: Masking<'_>,
    q: &[f32],
    k: &[f32],
    packed: &[f32],
    v: &[f32],
    scores: &mut [f32],
    out: &mut [f32],
) {
    let AttentionShape { keys, width, steps: [_, q_step, k_step, _], scale, .. } = *shape;
    let padded = shape.padded();
    let queries: [&[f32]; ROWS] = std::array::from_fn(|at| &q[(row + at) * q_step..][..width]);
    if shape.packs() {
        for (panel, packed) in packed.chunks_exact(width * LANES).enumerate() {
            let mut sums = [[0.0f32; LANES]; ROWS];
            for (element, keys) in packed.chunks_exact(LANES).enumerate() {
                for (sums, query) in sums.iter_mut().zip(&queries) {
                    let x = query[element];
                    for (sum, &key) in sums.iter_mut().zip(keys) {
                        *sum = M::mul_add(x, key, *sum);
                    }
                }
            }
            for (at, sums) in sums.iter().enumerate() {
                for (score, sum) in scores[at * padded + panel * LANES..][..LANES].iter_mut().zip(sums) {
                    *score = sum * scale;
                }
            }
        }
    } else {
        for (at, query) in queries.iter().enumerate() {
            let scores = &mut scores[at * padded..][..keys];
            for (key, score) in scores.iter_mut().enumerate() {
                *score = math::dot::<M>(query, &k[key * k_step..][..width]) * scale;
            }
        }
    }
    let mut factors = [0.0f32; ROWS];
    for (at, factor) in factors.iter_mut().enumerate() {
        let scores = &mut scores[at * padded..][..padded];
        hide(shape, row + at, mask, scores);
        *factor = weigh::<M>(shape, scores);
    }
    // Keys that do not count: hidden ones, and those whose weights are too small for f32.
    let skips = !shape.nan_without_keys && scores.chunks_exact(padded).take(ROWS).any(|weights| weights[..keys].contains(&0.0));
    let mut column = 0;
    while column < shape.values {
        let columns = column..shape.values;
        column += match columns.len() {
            32.. => mix::<M, ROWS, 32>(shape, row, columns, skips, scores, &factors, v, out),
            16.. => mix::<M, ROWS, 16>(shape, row, columns, skips, scores, &factors, v, out),
            8.. => mix::<M, ROWS, 8>(shape, row, columns, skips, scores, &factors, v, out),
            4.. => mix::<M, ROWS, 4>(shape, row, columns, skips, scores, &factors, v, out),
            _ => mix::<M, ROWS, 1>(shape, row, columns, skips, scores, &factors, v, out),
        };
    }
}

/// Masks the scores of query `row`, and what is behind the keys.
#[inline(always)]
fn hide(shape: &AttentionShape, row: usize, mask: Masking<'_>, scores: &mut [f32]) {
    let keys = shape.keys;
    match mask {
        Masking::None => {}
        Masking::Truth { mask, row_step, key_step, hides_zero, score } => {
            let mask = &mask[row * row_step..];
            for (key, to) in scores[..keys].iter_mut().enumerate() {
                *to = if (mask[key * key_step] == 0) == hides_zero { score } else { *to };
            }
        }
        Masking::Added { mask, row_step, key_step } => {
            let mask = &mask[row * row_step..];
            if key_step == 1 {
                for (score, mask) in scores[..keys].iter_mut().zip(mask) {
                    *score += mask;
                }
            } else {
                for (key, score) in scores[..keys].iter_mut().enumerate() {
                    *score += mask[key * key_step];
                }
            }
        }
    }
    let seen = if shape.causal { keys.min(row + 1) } else { keys };
    scores[seen..].fill(f32::NEG_INFINITY);
}

/// Scores to weights, to be multiplied by the factor that it gives.
#[inline(always)]
fn weigh<M: MulAdd>(shape: &AttentionShape, scores: &mut [f32]) -> f32 {
    // A NaN is no maximum, but makes the sum one.
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for scores in scores.chunks_exact(LANES) {
        for (most, &score) in lanes.iter_mut().zip(scores) {
            *most = if score > *most { score } else { *most };
        }
    }
    // In halves: a fold from lane to lane would be a chain of sixteen.
    for half in [8, 4, 2, 1] {
        let (low, high) = lanes.split_at_mut(half);
        for (low, &high) in low.iter_mut().zip(&*high) {
            *low = if high > *low { high } else { *low };
        }
    }
    let most = lanes[0];
    if most == f32::NEG_INFINITY {
        let lost = shape.nan_without_keys || scores.iter().any(|score| score.is_nan());
        scores.fill(if lost { f32::NAN } else { 0.0 });
        return 1.0;
    }
    for score in scores.iter_mut() {
        *score = elementary::exp::<M>(*score - most);
    }
    1.0 / math::sum(scores)
}

/// Columns `columns.start .. + COLUMNS` of `ROWS` results from `row` on: rows of values, weighted. Gives the number of columns. `skips`: whether some
/// weights are 0, and their keys take no part.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn mix<M: MulAdd, const ROWS: usize, const COLUMNS: usize>(
    shape: &AttentionShape,
    row: usize,
    columns: Range<usize>,
    skips: bool,
    weights: &[f32],
    factors: &[f32; ROWS],
    v: &[f32],
    out: &mut [f32],
) -> usize {
    let AttentionShape { keys, steps: [out_step, _, _, v_step], .. } = *shape;
    let padded = shape.padded();
    let weights: [&[f32]; ROWS] = std::array::from_fn(|at| &weights[at * padded..][..keys]);
    let mut sums = [[0.0f32; COLUMNS]; ROWS];
    for key in 0..keys {
        let values: &[f32; COLUMNS] = v[key * v_step + columns.start..][..COLUMNS].try_into().expect("as many columns");
        for (sums, weights) in sums.iter_mut().zip(&weights) {
            let weight = weights[key];
            if !skips || weight != 0.0 {
                for (sum, &value) in sums.iter_mut().zip(values) {
                    *sum = M::mul_add(weight, value, *sum);
                }
            }
        }
    }
    for (at, (sums, factor)) in sums.iter().zip(factors).enumerate() {
        let out = &mut out[(row + at) * out_step + columns.start..][..COLUMNS];
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum * factor;
        }
    }
    COLUMNS
}

/// Keys of a panel.
const LANES: usize = 16;
/// Queries that are taken together.
const BLOCK: usize = 4;
