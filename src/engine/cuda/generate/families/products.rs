//! Products of two computed matrices, attention (`kernels/attention.cuh`).

use crate::engine::cpu::plan::generic::attention::Attention;
use crate::engine::cpu::plan::task::ValueIndex;

use crate::engine::cuda::generate::emitter::Emitter;

impl Emitter<'_, '_> {
    pub(in super::super) fn matmul(&mut self, _a: ValueIndex, _b: ValueIndex, _transpose_a: bool, _transpose_b: bool) {
        unimplemented!()
    }
    pub(super) fn attention(&mut self, _attention: &Attention) {
        unimplemented!()
    }
}
