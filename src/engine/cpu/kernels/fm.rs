//! The pairwise term of a factorisation machine.

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, multiversion};
use crate::engine::cpu::tile::Tile;

/// `x` [fields, inner] → `out` [inner]: (Σ x)² − Σ x² over the fields, which is twice the sum of all pairs' products; one walk over `x`.
/// Source: Rendle 2010, doi:10.1109/ICDM.2010.127, lemma 3.1.
#[derive(Debug)]
pub struct Fm {
    /// Vectors of the fields.
    pub x: Place,
    /// Σ x and Σ x² of further fields, computed before: [2, inner].
    pub sums: Option<Place>,
    /// Result.
    pub out: Place,
}

impl Fm {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let (x, mut out) = (tile.source::<f32>(&self.x), tile.target::<f32>(&self.out));
        let sums = self.sums.as_ref().map(|sums| tile.source::<f32>(sums));
        for row in 0..tile.rows {
            fm(tile.simd, x.row(row), sums.map_or(&[], |sums| sums.row(row)), out.row(row));
        }
    }
}

multiversion! {
    fn fm(x: &[f32], before: &[f32], out: &mut [f32]) = body;
}

#[inline(always)]
fn body<M: MulAdd>(x: &[f32], before: &[f32], out: &mut [f32]) {
    let inner = out.len();
    let mut first = 0;
    while first < inner {
        first += match inner - first {
            16.. => strip::<M, 16>(x, before, first, out),
            8.. => strip::<M, 8>(x, before, first, out),
            4.. => strip::<M, 4>(x, before, first, out),
            _ => strip::<M, 1>(x, before, first, out),
        };
    }
}

/// Columns `first .. first + WIDTH`. Returns `WIDTH`.
#[inline(always)]
fn strip<M: MulAdd, const WIDTH: usize>(x: &[f32], before: &[f32], first: usize, out: &mut [f32]) -> usize {
    let (mut sums, mut squares) = ([0.0f32; WIDTH], [0.0f32; WIDTH]);
    if !before.is_empty() {
        sums.copy_from_slice(&before[first..first + WIDTH]);
        squares.copy_from_slice(&before[out.len() + first..][..WIDTH]);
    }
    for field in x.chunks_exact(out.len()) {
        for (lane, &x) in field[first..first + WIDTH].iter().enumerate() {
            sums[lane] += x;
            squares[lane] = M::mul_add(x, x, squares[lane]);
        }
    }
    for lane in 0..WIDTH {
        out[first + lane] = sums[lane] * sums[lane] - squares[lane];
    }
    WIDTH
}
