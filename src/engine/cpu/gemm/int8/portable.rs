//! Micro-kernel of integer products for every CPU.

use super::block::{Codes, Dot, Scale};
use crate::engine::cpu::gemm::layer::Block;
use crate::engine::cpu::simd::SimdLevel;

const COLUMNS: usize = Dot::geometry(SimdLevel::Portable).panel;

/// # Safety
/// As [`super::block::product`].
pub unsafe fn product(block: &Block<Codes>) {
    let weights = &block.weights;
    for column in (0..block.n).step_by(COLUMNS) {
        for row in 0..block.m {
            // SAFETY: the caller's promise: the row's scales, codes and addends, the panel, its factors, the row's columns of `c`.
            unsafe {
                let a = block.a.add(row * block.a_stride).cast::<u8>();
                let codes = a.add(weights.ranges.len() * size_of::<Scale>());
                let panel = weights.codes.as_ptr().add(column * weights.quads * 4);
                let mut values = [0.0f32; COLUMNS];
                for (at, range) in weights.ranges.iter().enumerate() {
                    let mut sums = [0i32; COLUMNS];
                    for quad in range.quad..range.quad + range.quads {
                        let x = codes.add(quad * 4).cast::<[u8; 4]>().read();
                        let columns = panel.add(quad * 4 * COLUMNS).cast::<[[i8; 4]; COLUMNS]>().read();
                        for (sum, codes) in sums.iter_mut().zip(columns) {
                            *sum += x.iter().zip(codes).map(|(&x, weight)| i32::from(x) * i32::from(weight)).sum::<i32>();
                        }
                    }
                    let Scale { scale, low } = a.cast::<Scale>().add(at).read();
                    for (lane, value) in values.iter_mut().enumerate() {
                        let factor = at * weights.padded + column + lane;
                        *value += sums[lane] as f32 * scale * *weights.scales.add(factor) + low * *weights.lows.add(factor);
                    }
                }
                for (lane, value) in values.iter().enumerate().take(block.n - column) {
                    let mut value = value + *block.bias.add(column + lane);
                    if !block.addends.is_null() {
                        value += *(*block.addends.add(row)).add(column + lane);
                    }
                    *block.c.add(row * block.c_stride + column + lane) = if block.relu && value < 0.0 { 0.0 } else { value };
                }
            }
        }
    }
}
