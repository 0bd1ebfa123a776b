//! Sums, folds and running sums (`kernels/reduce.cuh`), factorisation machines (`kernels/fm.cuh`).

use crate::engine::cpu::kernels::fold::FoldFn;
use crate::engine::cpu::plan::origins::Piece;
use crate::engine::cpu::plan::task::ValueIndex;

use crate::engine::cuda::generate::emitter::Emitter;

impl Emitter<'_, '_> {
    pub(in super::super) fn sum(&mut self, _x: ValueIndex, _axes: &[usize]) {
        unimplemented!()
    }
    pub(super) fn fold(&mut self, _function: FoldFn, _x: ValueIndex, _axes: &[usize]) {
        unimplemented!()
    }
    pub(super) fn cum_sum(&mut self, _x: ValueIndex, _axis: usize, _exclusive: bool, _reverse: bool) {
        unimplemented!()
    }
    pub(in super::super) fn fm(&mut self, _x: ValueIndex, _sums: Option<ValueIndex>) {
        unimplemented!()
    }
    pub(in super::super) fn mix(&mut self, _weights: &Piece, _softmax: bool, _vectors: &[Piece]) {
        unimplemented!()
    }
}
