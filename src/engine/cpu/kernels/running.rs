//! Running sums along an axis.

use std::fmt::Debug;
use std::marker::PhantomData;

use bytemuck::Pod;

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::tile::Tile;

use super::Generic;
use super::normalize::AxisView;

/// Sum of the elements up to each one along an axis, itself included unless `exclusive`; from the end in `reverse`.
#[derive(Debug)]
pub struct CumSum<T> {
    /// Operand.
    pub x: Place,
    /// Result.
    pub out: Place,
    /// The axis.
    pub view: AxisView,
    /// Without the element itself.
    pub exclusive: bool,
    /// From the end.
    pub reverse: bool,
    /// Of the elements.
    pub element: PhantomData<T>,
}

/// An element type with sums.
pub trait Element: Pod + Debug + Send + Sync {
    /// a + b.
    fn add(self, other: Self) -> Self;
}

impl Element for f32 {
    fn add(self, other: f32) -> f32 {
        self + other
    }
}

impl Element for i64 {
    fn add(self, other: i64) -> i64 {
        self.wrapping_add(other)
    }
}

impl<T: Element> Generic for CumSum<T> {
    fn run(&self, tile: &Tile) {
        let (x, mut out) = (tile.source::<T>(&self.x), tile.target::<T>(&self.out));
        let AxisView { axis, inner } = self.view;
        let block = axis * inner;
        for row in 0..tile.rows {
            for (x, out) in x.row(row).chunks_exact(block).zip(out.row(row).chunks_exact_mut(block)) {
                // Each sum is the one before it and one more element.
                for turn in 0..axis {
                    let place = |turn: usize| if self.reverse { axis - 1 - turn } else { turn } * inner;
                    let (here, before) = (place(turn), if turn == 0 { 0 } else { place(turn - 1) });
                    for i in 0..inner {
                        out[here + i] = match (turn, self.exclusive) {
                            (0, true) => T::zeroed(),
                            (0, false) => x[here + i],
                            (_, true) => out[before + i].add(x[before + i]),
                            (_, false) => out[before + i].add(x[here + i]),
                        };
                    }
                }
            }
        }
    }
}
