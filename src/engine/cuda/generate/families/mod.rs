//! The other families, a file each, as in `kernels/`.

mod lines;
mod normalize;
mod picks;
mod products;
mod recurrent;
mod reduce;
mod trees;
mod truth;
mod window;

use crate::engine::cpu::plan::generic::Generic;

use super::emitter::Emitter;

impl Emitter<'_, '_> {
    /// An op that no pass looks into.
    pub(super) fn generic(&mut self, generic: &Generic) {
        match generic {
            Generic::Compare { cmp, a, b } => self.compare(*cmp, *a, *b),
            Generic::Logic { function, a, b } => self.logic(*function, *a, *b),
            Generic::Not { x } => self.not(*x),
            Generic::Where { cond, a, b } => self.choose(*cond, *a, *b),
            Generic::Pad { x, pads, fill } => self.pad(*x, pads, *fill),
            Generic::OneHot { x, on, off } => self.one_hot(*x, *on, *off),
            Generic::Fold { function, x, axes } => self.fold(*function, *x, axes),
            Generic::CumSum { x, axis, exclusive, reverse } => self.cum_sum(*x, *axis, *exclusive, *reverse),
            Generic::LayerNorm { x, size, weight, bias, eps } => self.layer_norm(*x, *size, weight.as_deref(), bias.as_deref(), *eps),
            Generic::Pick { x, index, axis } => self.pick(*x, *index, *axis),
            Generic::TakeAlong { x, index, axis } => self.take_along(*x, *index, *axis),
            Generic::Top { x, axis, largest, indices } => self.top(*x, *axis, *largest, *indices),
            Generic::Embedding { index, table } => self.embedding(*index, *table),
            Generic::Conv { .. } => self.conv(generic),
            Generic::Pool { function, x, shape } => self.pool(*function, *x, shape),
            Generic::Attention(attention) => self.attention(attention),
            Generic::Gru { .. } => self.gru(generic),
            Generic::Trees { .. } => self.trees(generic),
        }
    }
}

/// Threads of a block, whom steps should keep busy.
const BLOCK_THREADS: usize = super::THREADS as usize;
