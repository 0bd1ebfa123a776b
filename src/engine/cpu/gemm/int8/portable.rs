//! Micro-kernel of integer products for every CPU.

use super::block::{Block, Dot, Scale};
use crate::engine::cpu::simd::SimdLevel;

const COLUMNS: usize = Dot::geometry(SimdLevel::Portable).panel;

/// # Safety
/// As [`super::block::product`].
pub unsafe fn product(block: &Block) {
    for column in (0..block.n).step_by(COLUMNS) {
        for row in 0..block.m {
            // SAFETY: the caller's promise: the row's scales, codes and addends, the panel, its factors, the row's columns of `c`.
            unsafe {
                let a = block.a.add(row * block.a_stride);
                let codes = a.add(block.ranges.len() * size_of::<Scale>());
                let panel = block.b.add(column * block.quads * 4);
                let mut values = [0.0f32; COLUMNS];
                for (at, range) in block.ranges.iter().enumerate() {
                    let mut sums = [0i32; COLUMNS];
                    for quad in range.quad..range.quad + range.quads {
                        let x = codes.add(quad * 4).cast::<[u8; 4]>().read();
                        let weights = panel.add(quad * 4 * COLUMNS).cast::<[[i8; 4]; COLUMNS]>().read();
                        for (sum, weights) in sums.iter_mut().zip(weights) {
                            *sum += x.iter().zip(weights).map(|(&x, weight)| i32::from(x) * i32::from(weight)).sum::<i32>();
                        }
                    }
                    let Scale { scale, low } = a.cast::<Scale>().add(at).read();
                    for (lane, value) in values.iter_mut().enumerate() {
                        let factor = at * block.padded + column + lane;
                        *value += sums[lane] as f32 * scale * *block.scales.add(factor) + low * *block.lows.add(factor);
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
