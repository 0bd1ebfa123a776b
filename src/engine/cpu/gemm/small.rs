//! Products of small computed matrices by the same micro-kernels: the right side is packed panel by panel into scratch memory.

use crate::engine::cpu::kernels::matmul::MatMulShape;
use crate::engine::cpu::simd::Simd;

use super::{Block, Geometry, PANEL_MAX, product};

/// `out[m][n] = a[m][k] · b`, with `b` as `[k][n]` or, transposed, `[n][k]`. `scratch` holds `k` rows of [`PANEL_MAX`].
pub fn small_product(simd: Simd, shape: MatMulShape, a: &[f32], b: &[f32], scratch: &mut [f32], out: &mut [f32]) {
    let MatMulShape { m, n, k, .. } = shape;
    assert!(!shape.transpose_a && a.len() == m * k && b.len() == k * n && out.len() == m * n && scratch.len() >= k * PANEL_MAX);
    let geometry = Geometry::of(simd.level());
    for column in (0..n).step_by(geometry.panel) {
        let columns = geometry.panel.min(n - column);
        let width = columns.next_multiple_of(geometry.vector);
        pack(shape, b, column, columns, width, scratch);
        let block = Block {
            m,
            n: columns,
            k,
            a: a.as_ptr(),
            a_stride: k,
            b: scratch.as_ptr(),
            c: out[column..].as_mut_ptr(),
            c_stride: n,
            resume: false,
            finish: None,
        };
        // SAFETY: sizes were checked above: `m` rows of `k` and, `n` apart, of `columns`; `scratch` holds this panel; `out` is borrowed apart.
        unsafe { product(simd, &block) };
    }
}

/// Columns `column ..` of `b` as `[k][width]`, zeros behind them.
fn pack(shape: MatMulShape, b: &[f32], column: usize, columns: usize, width: usize, scratch: &mut [f32]) {
    let MatMulShape { n, k, transpose_b, .. } = shape;
    for (at, row) in scratch.chunks_exact_mut(width).take(k).enumerate() {
        if !transpose_b {
            row[..columns].copy_from_slice(&b[at * n + column..][..columns]);
        }
        row[columns..].fill(0.0);
    }
    if transpose_b {
        for (at, from) in b[column * k..(column + columns) * k].chunks_exact(k).enumerate() {
            scratch[at..].iter_mut().step_by(width).zip(from).for_each(|(to, &from)| *to = from);
        }
    }
}
