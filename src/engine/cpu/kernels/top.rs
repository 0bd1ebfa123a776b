//! The largest or smallest elements along an axis.

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::tile::Tile;

use super::Generic;
use super::normalize::AxisView;

/// The first k elements along an axis in sorted order, or (`indices`) where they lie. NaN counts as larger than every number; of equals the
/// one of lower index comes first.
#[derive(Debug)]
pub struct Top {
    /// f32.
    pub x: Place,
    /// f32, or i64 where indices are wanted.
    pub out: Place,
    /// The operand's axis.
    pub view: AxisView,
    /// How many.
    pub k: usize,
    /// The largest first, or the smallest.
    pub largest: bool,
    /// Whether indices are wanted.
    pub indices: bool,
}

impl Generic for Top {
    fn run(&self, tile: &Tile) {
        let x = tile.source::<f32>(&self.x);
        if self.indices {
            let mut out = tile.target::<i64>(&self.out);
            for row in 0..tile.rows {
                let out = out.row(row);
                self.blocks(x.row(row), out, |x, &place| x[place as usize], |place, _| place as i64);
                // From places in a block to indices of the axis.
                out.iter_mut().for_each(|place| *place /= self.view.inner as i64);
            }
        } else {
            let mut out = tile.target::<f32>(&self.out);
            (0..tile.rows).for_each(|row| self.blocks(x.row(row), out.row(row), |_, &value| value, |_, value| value));
        }
    }
}

impl Top {
    /// Sorts into the result: an element that comes before the last one kept is moved up to its place. `value` of what is kept, `keep` of an
    /// element (its place in the block, its value).
    fn blocks<T: Copy>(&self, x: &[f32], out: &mut [T], value: impl Fn(&[f32], &T) -> f32, keep: impl Fn(usize, f32) -> T) {
        let AxisView { axis, inner } = self.view;
        for (x, out) in x.chunks_exact(axis * inner).zip(out.chunks_exact_mut(self.k * inner)) {
            for column in 0..inner {
                let mut kept = 0;
                for at in 0..axis {
                    let place = at * inner + column;
                    let mut slot = kept;
                    while slot > 0 && self.before(x[place], value(x, &out[(slot - 1) * inner + column])) {
                        slot -= 1;
                    }
                    if slot == self.k {
                        continue;
                    }
                    kept = (kept + 1).min(self.k);
                    for moved in (slot + 1..kept).rev() {
                        out[moved * inner + column] = out[(moved - 1) * inner + column];
                    }
                    out[slot * inner + column] = keep(place, x[place]);
                }
            }
        }
    }

    #[inline(always)]
    fn before(&self, a: f32, b: f32) -> bool {
        if self.largest { a > b || (a.is_nan() && !b.is_nan()) } else { a < b || (b.is_nan() && !a.is_nan()) }
    }
}
