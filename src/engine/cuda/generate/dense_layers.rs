//! Dense layers and dot interactions.

use crate::engine::cpu::gemm::Activation;
use crate::engine::cpu::plan::origins::Piece;
use crate::engine::cpu::plan::task::ValueIndex;
use crate::engine::cpu::plan::weights::LayerMatrix;

use super::emitter::Emitter;

impl Emitter<'_, '_> {
    /// A product with weights, bias, addend, activation (`kernels/mlp.cuh`).
    pub(super) fn linear(&mut self, x: ValueIndex, matrix: &LayerMatrix, bias: &[f32], addend: Option<ValueIndex>, activation: Activation) {
        let (k, n) = (matrix.k, matrix.n);
        let padded = n.next_multiple_of(4);
        let mut weights = vec![0.0f32; k * padded];
        for row in 0..k {
            (0..n).for_each(|column| weights[row * padded + column] = matrix.at(row, column));
        }
        let mut bias = bias.to_vec();
        bias.resize(padded, 0.0);
        let (weights, bias) = (self.blob.add(&weights), self.blob.add(&bias));
        let inner = self.out().len() / n;
        let addend_inner = addend.map_or(1, |addend| self.value(addend).len() / n);
        let (x, out, addend) = (self.view(x), self.out_view(), self.view_or_none(addend));
        let activation = match activation {
            Activation::None => "IDENTITY",
            Activation::Relu => "RELU",
            Activation::Sigmoid => "SIGMOID",
        };
        self.step(format!("linear_f32<{x}, {out}, {addend}, {k}, {n}, {inner}, {addend_inner}, {activation}, {weights}, {bias}>(b);"));
    }

    /// Dot products of pairs (`kernels/dot_interaction.cuh`).
    pub(super) fn interaction(&mut self, vectors: &[Piece], dim: usize, pairs: &[[usize; 2]]) {
        let list: Vec<u32> = pairs.iter().map(|[a, b]| *a as u32 | (*b as u32) << 16).collect();
        let list = self.blob.add(&list);
        let (out, count) = (self.out_view(), pairs.len());
        let vectors = self.vectors(vectors);
        self.step(format!("interaction_f32<{vectors}, {out}, {dim}, {count}, {list}>(b);"));
    }
}
