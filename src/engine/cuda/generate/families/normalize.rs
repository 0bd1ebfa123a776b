//! Normalisations along an axis (`kernels/normalize.cuh`).

use crate::engine::cpu::plan::task::ValueIndex;

use crate::engine::cuda::generate::emitter::Emitter;

use super::lines::Lines;

impl Emitter<'_, '_> {
    pub(in super::super) fn softmax(&mut self, x: ValueIndex, axis: usize) {
        let lines = Lines::new(&self.value(x).shape, &[axis], self.places.tile);
        let (x, out, lines) = (self.view(x), self.out_view(), self.define_lines(&lines));
        self.step(format!("softmax<{x}, {out}, {lines}>(b);"));
    }

    pub(in super::super) fn l2_norm(&mut self, x: ValueIndex, axis: usize, eps: f32) {
        let lines = Lines::new(&self.value(x).shape, &[axis], self.places.tile);
        let (x, out, lines) = (self.view(x), self.out_view(), self.define_lines(&lines));
        self.step(format!("l2_norm<{x}, {out}, {lines}, 0x{:08x}u>(b);", eps.to_bits()));
    }

    /// Of groups of `size` neighbours.
    pub(super) fn layer_norm(&mut self, x: ValueIndex, size: usize, weight: Option<&[f32]>, bias: Option<&[f32]>, eps: f32) {
        let lines = Lines::new(&[self.out().len() / size, size], &[1], self.places.tile);
        let (x, out, lines) = (self.view(x), self.out_view(), self.define_lines(&lines));
        let [weight, bias] = [weight, bias]
            .map(|numbers| numbers.map_or("None".to_owned(), |numbers| format!("Constant<float, {}>", self.blob.add(numbers))));
        self.step(format!("layer_norm<{x}, {out}, {lines}, {weight}, {bias}, 0x{:08x}u>(b);", eps.to_bits()));
    }
}
