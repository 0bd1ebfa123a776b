//! Recurrent layers (`kernels/recurrent.cuh`).

use crate::engine::cpu::plan::generic::Generic;

use crate::engine::cuda::generate::emitter::Emitter;

impl Emitter<'_, '_> {
    pub(super) fn gru(&mut self, _gru: &Generic) {
        unimplemented!()
    }
}
