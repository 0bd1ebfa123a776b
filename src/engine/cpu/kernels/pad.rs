//! More elements around a value.

use std::fmt::Debug;

use bytemuck::Pod;

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::tile::Tile;
use crate::engine::cpu::walk::Walk;

use super::Generic;

/// The operand, with `fill` around it.
#[derive(Debug)]
pub struct Pad<T> {
    /// Operand.
    pub x: Place,
    /// Result.
    pub out: Place,
    /// First element of the result that comes from the operand.
    pub first: usize,
    /// Loops over (out from `first` on, x) of one row.
    pub walk: Walk<2>,
    /// All other elements.
    pub fill: T,
}

impl<T: Pod + Debug + Send + Sync> Generic for Pad<T> {
    fn run(&self, tile: &Tile) {
        debug_assert!(!self.walk.rows_merged());
        let (x, mut out) = (tile.source::<T>(&self.x), tile.target::<T>(&self.out));
        let [out_step, x_step] = self.walk.inner();
        for row in 0..tile.rows {
            let (x, out) = (x.row(row), out.row(row));
            out.fill(self.fill);
            let out = &mut out[self.first..];
            self.walk.run(1, |[out_at, x_at], count| match (out_step, x_step) {
                (1, 1) => out[out_at..out_at + count].copy_from_slice(&x[x_at..x_at + count]),
                _ => (0..count).for_each(|turn| out[out_at + turn * out_step] = x[x_at + turn * x_step]),
            });
        }
    }
}
