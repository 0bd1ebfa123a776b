//! Normalisations along an axis (`kernels/reduce.cuh`).

use crate::engine::cpu::plan::task::ValueIndex;

use crate::engine::cuda::generate::emitter::Emitter;

impl Emitter<'_, '_> {
    pub(in super::super) fn softmax(&mut self, _x: ValueIndex, _axis: usize) {
        unimplemented!()
    }
    pub(in super::super) fn l2_norm(&mut self, _x: ValueIndex, _axis: usize, _eps: f32) {
        unimplemented!()
    }
    pub(super) fn layer_norm(&mut self, _x: ValueIndex, _size: usize, _weight: Option<&[f32]>, _bias: Option<&[f32]>, _eps: f32) {
        unimplemented!()
    }
}
