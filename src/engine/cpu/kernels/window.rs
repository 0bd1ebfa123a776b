//! Windows over up to three axes: convolutions and pools. For each element of the window, a run over the positions that it has inside the
//! operand; padding is never read.

use std::ops::Range;

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, multiversion};
use crate::engine::cpu::tile::Tile;
use crate::model::Window;

use super::Generic;

/// One axis of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Size of the operand's axis.
    pub size: usize,
    /// Positions of the window.
    pub positions: usize,
    /// Elements of the window.
    pub kernel: usize,
    /// Elements from position to position.
    pub stride: usize,
    /// Elements from one element of the window to the next.
    pub dilation: usize,
    /// Padding before the axis.
    pub pad: usize,
}

impl Axis {
    const POINT: Axis = Axis { size: 1, positions: 1, kernel: 1, stride: 1, dilation: 1, pad: 0 };

    /// The positions at which element `tap` of the window lies inside the operand.
    #[inline(always)]
    fn inside(&self, tap: usize) -> Range<usize> {
        let offset = tap * self.dilation;
        let first = self.pad.saturating_sub(offset).div_ceil(self.stride);
        let end = (self.size + self.pad).checked_sub(offset + 1).map_or(0, |last| last / self.stride + 1);
        first..end.min(self.positions).max(first)
    }

    /// Where element `tap` lies at a position that is inside.
    #[inline(always)]
    fn source(&self, tap: usize, position: usize) -> usize {
        position * self.stride + tap * self.dilation - self.pad
    }
}

/// A window in three axes; those that it does not have are of size 1, in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    axes: [Axis; 3],
}

impl Shape {
    /// A window over axes of these sizes.
    pub fn new(window: &Window, sizes: &[usize]) -> Shape {
        let positions = window.positions(sizes).expect("the shape pass checked that the window fits");
        let mut axes = [Axis::POINT; 3];
        let first = 3 - sizes.len();
        for axis in 0..sizes.len() {
            axes[first + axis] = Axis {
                size: sizes[axis],
                positions: positions[axis],
                kernel: window.kernel[axis],
                stride: window.strides[axis],
                dilation: window.dilations[axis],
                pad: window.pads[axis].0,
            };
        }
        Shape { axes }
    }

    /// Its axes, outermost first.
    pub fn axes(&self) -> &[Axis; 3] {
        &self.axes
    }

    /// Elements of one channel of the operand.
    fn elements(&self) -> usize {
        self.axes.iter().map(|axis| axis.size).product()
    }
    /// Positions of the window: elements of one channel of the result.
    pub fn positions(&self) -> usize {
        self.axes.iter().map(|axis| axis.positions).product()
    }
    /// Elements of the window.
    pub fn taps(&self) -> usize {
        self.axes.iter().map(|axis| axis.kernel).product()
    }

    /// Elements of the window over all positions, but for those that are padding.
    pub fn products(&self) -> usize {
        self.axes.iter().map(|axis| (0..axis.kernel).map(|tap| axis.inside(tap).len()).sum::<usize>()).product()
    }

    /// Calls `run(tap, out, x, step)` for every run: which element of the window, the positions (as a range of the result's elements), the
    /// operand's element at the first of them and how far it is to the next.
    #[inline(always)]
    fn runs(&self, mut run: impl FnMut(usize, Range<usize>, usize, usize)) {
        let [a, b, c] = &self.axes;
        let mut tap = 0;
        for i in 0..a.kernel {
            for j in 0..b.kernel {
                for k in 0..c.kernel {
                    let inside = c.inside(k);
                    if !inside.is_empty() {
                        for p in a.inside(i) {
                            for q in b.inside(j) {
                                let out = (p * b.positions + q) * c.positions;
                                let x = (a.source(i, p) * b.size + b.source(j, q)) * c.size + c.source(k, inside.start);
                                run(tap, out + inside.start..out + inside.end, x, c.stride);
                            }
                        }
                    }
                    tap += 1;
                }
            }
        }
    }
}

/// Convolution: x `[outer][groups · inputs][elements]` → `[outer][outputs][positions]`.
#[derive(Debug)]
pub struct Conv {
    /// Operand.
    pub x: Place,
    /// Result.
    pub out: Place,
    /// The window.
    pub shape: Shape,
    /// Channels that are seen together.
    pub groups: usize,
    /// Channels of the operand in a group.
    pub inputs: usize,
    /// Channels of the result.
    pub outputs: usize,
    /// `[outputs][inputs][taps]`.
    pub weight: Vec<f32>,
    /// `[outputs]`.
    pub bias: Vec<f32>,
}

impl Generic for Conv {
    fn run(&self, tile: &Tile) {
        let (x, mut out) = (tile.source::<f32>(&self.x), tile.target::<f32>(&self.out));
        for row in 0..tile.rows {
            conv(tile.simd, self, x.row(row), out.row(row));
        }
    }
}

/// What a pool makes of the elements under its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolFn {
    /// The largest; NaN if there is one.
    Max,
    /// Their sum divided by the number of elements of the window.
    MeanOfAll,
    /// Their sum divided by their number.
    MeanOfInside,
}

/// A pool: x `[outer][elements]` → `[outer][positions]`.
#[derive(Debug)]
pub struct Pool {
    /// How.
    pub function: PoolFn,
    /// Operand.
    pub x: Place,
    /// Result.
    pub out: Place,
    /// The window.
    pub shape: Shape,
    /// Elements under each position that are no padding.
    counts: Vec<f32>,
}

impl Pool {
    /// Every position has an element that is no padding.
    pub fn new(function: PoolFn, x: Place, out: Place, shape: Shape) -> Pool {
        let mut counts = vec![0.0; shape.positions()];
        match function {
            PoolFn::MeanOfAll => counts.fill(shape.taps() as f32),
            PoolFn::Max | PoolFn::MeanOfInside => shape.runs(|_, out, _, _| counts[out].iter_mut().for_each(|count| *count += 1.0)),
        }
        Pool { function, x, out, shape, counts }
    }

    /// Elements of the window.
    pub fn taps(&self) -> usize {
        self.shape.taps()
    }
}

impl Generic for Pool {
    fn run(&self, tile: &Tile) {
        let (x, mut out) = (tile.source::<f32>(&self.x), tile.target::<f32>(&self.out));
        for row in 0..tile.rows {
            pool(tile.simd, self, x.row(row), out.row(row));
        }
    }
}

multiversion! {
    fn conv(conv: &Conv, x: &[f32], out: &mut [f32]) = conv_body;
    fn pool(pool: &Pool, x: &[f32], out: &mut [f32]) = pool_body;
}

#[inline(always)]
fn conv_body<M: MulAdd>(conv: &Conv, x: &[f32], out: &mut [f32]) {
    let (elements, positions, taps) = (conv.shape.elements(), conv.shape.positions(), conv.shape.taps());
    let per_group = conv.outputs / conv.groups;
    let blocks = x.chunks_exact(conv.groups * conv.inputs * elements).zip(out.chunks_exact_mut(conv.outputs * positions));
    for (x, out) in blocks {
        for (output, out) in out.chunks_exact_mut(positions).enumerate() {
            out.fill(conv.bias[output]);
            let group = &x[output / per_group * conv.inputs * elements..][..conv.inputs * elements];
            let weights = &conv.weight[output * conv.inputs * taps..][..conv.inputs * taps];
            for (x, weights) in group.chunks_exact(elements).zip(weights.chunks_exact(taps)) {
                conv.shape.runs(|tap, run, from, step| {
                    let (weight, out) = (weights[tap], &mut out[run]);
                    if step == 1 {
                        for (out, &x) in out.iter_mut().zip(&x[from..]) {
                            *out = M::mul_add(weight, x, *out);
                        }
                    } else {
                        for (out, &x) in out.iter_mut().zip(x[from..].iter().step_by(step)) {
                            *out = M::mul_add(weight, x, *out);
                        }
                    }
                });
            }
        }
    }
}

#[inline(always)]
fn pool_body<M: MulAdd>(pool: &Pool, x: &[f32], out: &mut [f32]) {
    let blocks = x.chunks_exact(pool.shape.elements()).zip(out.chunks_exact_mut(pool.shape.positions()));
    for (x, out) in blocks {
        if pool.function == PoolFn::Max {
            out.fill(f32::NEG_INFINITY);
            pool.shape.runs(|_, run, from, step| {
                let pairs = out[run].iter_mut().zip(x[from..].iter().step_by(step));
                pairs.for_each(|(out, &x)| *out = if *out > x || out.is_nan() { *out } else { x });
            });
            continue;
        }
        out.fill(0.0);
        pool.shape.runs(|_, run, from, step| out[run].iter_mut().zip(x[from..].iter().step_by(step)).for_each(|(out, &x)| *out += x));
        out.iter_mut().zip(&pool.counts).for_each(|(out, &count)| *out /= count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_positions_that_the_window_has() {
        for (size, kernel, stride, dilation, pads) in
            [(5, 3, 1, 1, (0, 0)), (7, 3, 2, 2, (3, 1)), (4, 4, 3, 1, (2, 5)), (1, 2, 1, 3, (3, 3)), (6, 1, 4, 1, (0, 0))]
        {
            let window = Window { kernel: vec![kernel], strides: vec![stride], dilations: vec![dilation], pads: vec![pads] };
            let shape = Shape::new(&window, &[size]);
            let positions = window.positions(&[size]).expect("it fits")[0];
            let mut found = vec![];
            shape.runs(|tap, run, from, step| found.extend(run.enumerate().map(|(turn, position)| (tap, position, from + turn * step))));
            let expected: Vec<_> = (0..kernel)
                .flat_map(|tap| (0..positions).map(move |position| (tap, position)))
                .filter_map(|(tap, position)| window.source(0, size, position, tap).map(|at| (tap, position, at)))
                .collect();
            assert_eq!(found, expected, "{window:?} over {size}");
        }
    }
}
