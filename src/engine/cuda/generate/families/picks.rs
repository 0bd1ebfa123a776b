//! Elements at computed places (`kernels/picks.cuh`).

use crate::engine::cpu::plan::task::ValueIndex;

use crate::engine::cuda::generate::emitter::Emitter;

use super::lines::Lines;

impl Emitter<'_, '_> {
    pub(super) fn pick(&mut self, x: ValueIndex, index: ValueIndex, axis: usize) {
        let picked = self.value(index).len();
        self.at_indices("pick", x, index, axis, picked);
    }

    pub(super) fn take_along(&mut self, x: ValueIndex, index: ValueIndex, axis: usize) {
        let picked = self.value(index).shape[axis];
        self.at_indices("take_along", x, index, axis, picked);
    }

    fn at_indices(&mut self, function: &str, x: ValueIndex, index: ValueIndex, axis: usize, picked: usize) {
        let [outer, size, inner] = around(&self.value(x).shape, axis);
        let (x, index, out) = (self.view(x), self.view(index), self.out_view());
        self.step(format!("{function}<{x}, {index}, {out}, {outer}, {size}, {picked}, {inner}>(b);"));
    }

    pub(super) fn top(&mut self, x: ValueIndex, axis: usize, largest: bool, _indices: bool) {
        let (k, [_, size, inner]) = (self.out().shape[axis], around(&self.value(x).shape, axis));
        let lines = Lines::new(&self.value(x).shape, &[axis], self.places.tile);
        // Instructions of a warp per line: comparisons of all with all, or rounds over the line, each with its exchange.
        let lanes = lines.parts;
        let (by_rank, by_rounds) = (size * size * 6 / 32, k * (size.div_ceil(lanes) * 8 + 6 * lanes.ilog2() as usize + 8) * lanes / 32);
        let function = if by_rank <= by_rounds { "top_by_rank" } else { "top_by_rounds" };
        let (x, out, lines) = (self.view(x), self.out_view(), self.define_lines(&lines));
        self.step(format!("{function}<{x}, {out}, {lines}, {k}, {inner}, {largest}>(b);"));
    }
}

/// Elements before an axis, on it, behind it.
fn around(shape: &[usize], axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}
