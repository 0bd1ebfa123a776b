//! Sums, folds and running sums (`kernels/reduce.cuh`), factorisation machines (`kernels/fm.cuh`), mixtures (`kernels/experts.cuh`).

use crate::engine::cpu::kernels::fold::FoldFn;
use crate::engine::cpu::plan::origins::Piece;
use crate::engine::cpu::plan::task::ValueIndex;

use crate::engine::cuda::generate::emitter::Emitter;

use super::lines::Lines;

impl Emitter<'_, '_> {
    pub(in super::super) fn sum(&mut self, x: ValueIndex, axes: &[usize]) {
        self.reduce("Sum", x, axes);
    }

    pub(super) fn fold(&mut self, function: FoldFn, x: ValueIndex, axes: &[usize]) {
        let name = match function {
            FoldFn::Max => "Max",
            FoldFn::Min => "Min",
            FoldFn::Prod => "Prod",
        };
        self.reduce(name, x, axes);
    }

    fn reduce(&mut self, function: &str, x: ValueIndex, axes: &[usize]) {
        let lines = Lines::new(&self.value(x).shape, axes, self.places.tile);
        let (x, out, lines) = (self.view(x), self.out_view(), self.define_lines(&lines));
        self.step(format!("reduce<{function}, {x}, {out}, {lines}>(b);"));
    }

    pub(super) fn cum_sum(&mut self, x: ValueIndex, axis: usize, exclusive: bool, reverse: bool) {
        let lines = Lines::new(&self.value(x).shape, &[axis], self.places.tile);
        // Short lines, and lines side by side, are summed up one element after the other.
        let divided = lines.together && lines.count >= 16 && lines.lines * self.places.tile < 512;
        let lines = if divided { lines } else { lines.undivided() };
        let (x, out, lines) = (self.view(x), self.out_view(), self.define_lines(&lines));
        self.step(format!("cum_sum<{x}, {out}, {lines}, {exclusive}, {reverse}>(b);"));
    }

    pub(in super::super) fn fm(&mut self, x: ValueIndex, sums: Option<ValueIndex>) {
        let inner = self.out().len();
        let lines = Lines::new(&[self.value(x).len() / inner, inner], &[0], self.places.tile);
        let (x, sums, out, lines) = (self.view(x), self.view_or_none(sums), self.out_view(), self.define_lines(&lines));
        self.step(format!("fm<{x}, {sums}, {out}, {lines}>(b);"));
    }

    pub(in super::super) fn mix(&mut self, weights: &Piece, softmax: bool, vectors: &[Piece]) {
        let (count, dim) = (vectors.len(), self.out().len());
        let lanes = dim.next_power_of_two().clamp(8, 32);
        let columns = dim.div_ceil(lanes).min(4);
        let (gate, out, vectors) = (self.piece(weights), self.out_view(), self.vectors(vectors));
        self.step(format!("mix<{gate}, {vectors}, {out}, {count}, {dim}, {softmax}, {lanes}, {columns}>(b);"));
    }
}
