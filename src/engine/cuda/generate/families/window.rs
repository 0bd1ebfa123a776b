//! Convolutions and pools (`kernels/window.cuh`).

use crate::engine::cpu::kernels::window::{PoolFn, Shape};
use crate::engine::cpu::plan::generic::Generic;
use crate::engine::cpu::plan::task::ValueIndex;

use crate::engine::cuda::generate::emitter::Emitter;
use crate::engine::cuda::generate::families::BLOCK_THREADS;

impl Emitter<'_, '_> {
    pub(super) fn conv(&mut self, conv: &Generic) {
        let Generic::Conv { x, shape, groups, inputs, outputs, weight, bias } = conv else { unreachable!("called for convolutions alone") };
        let (taps, positions) = (shape.taps(), shape.positions());
        // Of a group.
        let (groups, inputs, outputs) = (*groups, *inputs, *outputs / *groups);
        let padded = outputs.next_multiple_of(STRIP);
        let mut weights = vec![0.0f32; groups * inputs * taps * padded];
        let mut biases = vec![0.0f32; groups * padded];
        for channel in 0..groups * outputs {
            let (group, output) = (channel / outputs, channel % outputs);
            biases[group * padded + output] = bias[channel];
            for (at, &weight) in weight[channel * inputs * taps..][..inputs * taps].iter().enumerate() {
                let (input, tap) = (at / taps, at % taps);
                weights[((group * taps + tap) * inputs + input) * padded + output] = weight;
            }
        }
        let (weights, biases) = (self.blob.add(&weights), self.blob.add(&biases));
        let outer = self.out().len() / (groups * outputs * positions);
        let items = self.places.tile * outer * groups * padded / STRIP * positions;
        let points = if items >= POINTS * BLOCK_THREADS && positions >= POINTS { POINTS } else { 1 };
        let (x, out, window) = (self.view(*x), self.out_view(), window(shape));
        self.step(format!("conv<{x}, {out}, {window}, {outer}, {groups}, {inputs}, {outputs}, {points}, {weights}, {biases}>(b);"));
    }

    pub(super) fn pool(&mut self, function: PoolFn, x: ValueIndex, shape: &Shape) {
        let outer = self.out().len() / shape.positions();
        let (x, out, window) = (self.view(x), self.out_view(), window(shape));
        let function = match function {
            PoolFn::Max => "MAX_POOL",
            PoolFn::MeanOfAll => "MEAN_OF_ALL",
            PoolFn::MeanOfInside => "MEAN_OF_INSIDE",
        };
        self.step(format!("pool<{x}, {out}, {window}, {outer}, {function}>(b);"));
    }
}

/// The C++ type of a window.
fn window(shape: &Shape) -> String {
    let axes = shape
        .axes()
        .each_ref()
        .map(|axis| format!("Axis<{}, {}, {}, {}, {}, {}>", axis.size, axis.positions, axis.kernel, axis.stride, axis.dilation, axis.pad));
    format!("Window<{}>", axes.join(", "))
}

/// Outputs of a thread.
const STRIP: usize = 4;
/// Positions of a thread, where there are enough of them.
const POINTS: usize = 4;
