//! Products of matrices that are both computed per row: attention, interactions. (A constant right side is a packed [`Linear`].)
//!
//! [`Linear`]: crate::engine::cpu::gemm::Linear

use crate::engine::cpu::gemm::{PANEL_MAX, small_product};
use crate::engine::cpu::math;
use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, multiversion};
use crate::engine::cpu::tile::Tile;
use crate::engine::cpu::walk::Walk;

/// `out[m][n] = a[m][k] · b[k][n]` per row and batch index.
#[derive(Debug)]
pub struct MatMul {
    /// Left operand.
    pub a: Place,
    /// Right operand.
    pub b: Place,
    /// Result.
    pub out: Place,
    /// Loops over the batch axes of (out, a, b) within a row.
    pub walk: Walk<3>,
    /// The matrices.
    pub shape: MatMulShape,
}

/// Sizes, and whether an operand lies transposed: `a` as `[k][m]`, `b` as `[n][k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatMulShape {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Inner size.
    pub k: usize,
    /// `a` lies as `[k][m]`.
    pub transpose_a: bool,
    /// `b` lies as `[n][k]`.
    pub transpose_b: bool,
}

impl MatMulShape {
    /// Whether packing the right side for the micro-kernels pays.
    pub fn packs(&self) -> bool {
        !self.transpose_a && self.m >= 4 && self.n >= 4 && self.k <= SCRATCH / PANEL_MAX
    }
}

impl MatMul {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let (a, b, mut out) = (tile.source::<f32>(&self.a), tile.source::<f32>(&self.b), tile.target::<f32>(&self.out));
        let MatMulShape { m, n, k, .. } = self.shape;
        let [out_step, a_step, b_step] = self.walk.inner();
        let packs = self.shape.packs();
        let mut scratch = [0.0; SCRATCH];
        for row in 0..tile.rows {
            let (a, b, out) = (a.row(row), b.row(row), out.row(row));
            self.walk.run(1, |[out_at, a_at, b_at], count| {
                for turn in 0..count {
                    let a = &a[a_at + turn * a_step..][..m * k];
                    let b = &b[b_at + turn * b_step..][..k * n];
                    let out = &mut out[out_at + turn * out_step..][..m * n];
                    if packs {
                        small_product(tile.simd, self.shape, a, b, &mut scratch, out);
                    } else {
                        product(tile.simd, self.shape, a, b, out);
                    }
                }
            });
        }
    }
}

multiversion! {
    fn product(shape: MatMulShape, a: &[f32], b: &[f32], out: &mut [f32]) = product_body;
}

#[inline(always)]
fn product_body<M: MulAdd>(shape: MatMulShape, a: &[f32], b: &[f32], out: &mut [f32]) {
    let MatMulShape { m, n, k, transpose_a, transpose_b } = shape;
    if out.is_empty() {
        return;
    }
    let contiguous_b = transpose_b || n == 1;
    let contiguous_a = !transpose_a || m == 1;
    if contiguous_a && contiguous_b && k > 0 {
        for (a, out) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
            for (b, out) in b.chunks_exact(k).zip(out) {
                *out = math::dot::<M>(a, b);
            }
        }
        return;
    }
    out.fill(0.0);
    for (i, out) in out.chunks_exact_mut(n).enumerate() {
        for j in 0..k {
            let a = if contiguous_a { a[i * k + j] } else { a[j * m + i] };
            if contiguous_b {
                for (column, out) in out.iter_mut().enumerate() {
                    *out = M::mul_add(a, b[column * k + j], *out);
                }
            } else {
                for (out, &b) in out.iter_mut().zip(&b[j * n..][..n]) {
                    *out = M::mul_add(a, b, *out);
                }
            }
        }
    }
}

/// f32 of room for a packed panel.
const SCRATCH: usize = 4096;
