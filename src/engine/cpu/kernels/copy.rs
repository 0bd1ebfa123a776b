//! Moving elements: slices, transposes, broadcasts, pieces of a concatenation, picked indices. Elements are words of 4 or 8 bytes.

use std::marker::PhantomData;

use bytemuck::Pod;

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::tile::Tile;
use crate::engine::cpu::walk::Walk;

/// Strided copy.
#[derive(Debug)]
pub struct Copy<T> {
    /// From: the place of the first element read.
    pub x: Place,
    /// To: the place of the first element written.
    pub out: Place,
    /// Loops over (out, x).
    pub walk: Walk<2>,
    /// Of the elements.
    pub element: PhantomData<T>,
}

impl<T: Pod> Copy<T> {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let (x, mut out) = (tile.source::<T>(&self.x), tile.target::<T>(&self.out));
        if self.walk.rows_merged() {
            self.loops(tile.rows, out.row_ptr(0), x.row_ptr(0));
        } else {
            for row in 0..tile.rows {
                self.loops(1, out.row_ptr(row), x.row_ptr(row));
            }
        }
    }

    fn loops(&self, rows: usize, out: *mut T, x: *const T) {
        let [out_step, x_step] = self.walk.inner();
        self.walk.run(rows, |[out_at, x_at], count| {
            // SAFETY: the walk was made for these places' shapes, so it stays within their rows; the plan keeps the output apart.
            unsafe {
                let (out, x) = (out.add(out_at), x.add(x_at));
                if (out_step, x_step) == (1, 1) {
                    out.copy_from_nonoverlapping(x, count);
                } else {
                    for turn in 0..count {
                        *out.add(turn * out_step) = *x.add(turn * x_step);
                    }
                }
            }
        });
    }
}

/// Picks elements along an axis: `x` is `[outer][axis][inner]`, `out` `[outer][indices][inner]`.
#[derive(Debug)]
pub struct Gather<T> {
    /// Operand.
    pub x: Place,
    /// Result.
    pub out: Place,
    /// Size of the operand's axis.
    pub axis: usize,
    /// Elements behind each index of the axis.
    pub inner: usize,
    /// Below `axis`.
    pub indices: Vec<usize>,
    /// Of the elements.
    pub element: PhantomData<T>,
}

impl<T: Pod> Gather<T> {
    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let (x, mut out) = (tile.source::<T>(&self.x), tile.target::<T>(&self.out));
        if self.out.len == 0 {
            return;
        }
        for row in 0..tile.rows {
            let blocks = x.row(row).chunks_exact(self.axis * self.inner);
            for (from, to) in blocks.zip(out.row(row).chunks_exact_mut(self.indices.len() * self.inner)) {
                if self.inner == 1 {
                    to.iter_mut().zip(&self.indices).for_each(|(to, &index)| *to = from[index]);
                } else {
                    for (to, &index) in to.chunks_exact_mut(self.inner).zip(&self.indices) {
                        to.copy_from_slice(&from[index * self.inner..][..self.inner]);
                    }
                }
            }
        }
    }
}
