//! Forests of decision trees (`kernels/trees.cuh`).

use crate::engine::cpu::plan::generic::Generic;

use crate::engine::cuda::generate::emitter::Emitter;

impl Emitter<'_, '_> {
    pub(super) fn trees(&mut self, _trees: &Generic) {
        unimplemented!()
    }
}
