//! Convolutions and pools (`kernels/window.cuh`).

use crate::engine::cpu::kernels::window::{PoolFn, Shape};
use crate::engine::cpu::plan::generic::Generic;
use crate::engine::cpu::plan::task::ValueIndex;

use crate::engine::cuda::generate::emitter::Emitter;

impl Emitter<'_, '_> {
    pub(super) fn conv(&mut self, _conv: &Generic) {
        unimplemented!()
    }
    pub(super) fn pool(&mut self, _function: PoolFn, _x: ValueIndex, _shape: &Shape) {
        unimplemented!()
    }
}
