//! Elements at computed places (`kernels/picks.cuh`).

use crate::engine::cpu::plan::task::ValueIndex;

use crate::engine::cuda::generate::emitter::Emitter;

impl Emitter<'_, '_> {
    pub(super) fn pick(&mut self, _x: ValueIndex, _index: ValueIndex, _axis: usize) {
        unimplemented!()
    }
    pub(super) fn take_along(&mut self, _x: ValueIndex, _index: ValueIndex, _axis: usize) {
        unimplemented!()
    }
    pub(super) fn top(&mut self, _x: ValueIndex, _axis: usize, _largest: bool, _indices: bool) {
        unimplemented!()
    }
}
