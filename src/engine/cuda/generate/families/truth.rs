//! Comparisons, logic and choice, all elementwise.

use crate::engine::cpu::plan::task::ValueIndex;
use crate::model::{Comparison, LogicFn};

use crate::engine::cuda::generate::emitter::Emitter;

impl Emitter<'_, '_> {
    pub(super) fn compare(&mut self, _cmp: Comparison, _a: ValueIndex, _b: ValueIndex) {
        unimplemented!()
    }
    pub(super) fn logic(&mut self, _function: LogicFn, _a: ValueIndex, _b: ValueIndex) {
        unimplemented!()
    }
    pub(super) fn not(&mut self, _x: ValueIndex) {
        unimplemented!()
    }
    pub(super) fn choose(&mut self, _cond: ValueIndex, _a: ValueIndex, _b: ValueIndex) {
        unimplemented!()
    }
    pub(super) fn pad(&mut self, _x: ValueIndex, _pads: &[(usize, usize)], _fill: f64) {
        unimplemented!()
    }
    pub(super) fn one_hot(&mut self, _x: ValueIndex, _on: f32, _off: f32) {
        unimplemented!()
    }
}
