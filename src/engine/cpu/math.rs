//! Scalar functions written so that the compiler vectorises loops over them, and sums whose order does not depend on the instruction set's width.

use super::simd::MulAdd;

/// eˣ for x in −87.3 .. 88.3, within 1.5 units in the last place; outside it stays at the value of the nearer end. NaN stays NaN.
///
/// x = n·ln 2 + r with |r| ≤ 0.347; eʳ by its Taylor polynomial of degree 7 (truncation below 6e-9 of the value), 2ⁿ by its exponent bits.
#[inline(always)]
pub fn exp<M: MulAdd>(x: f32) -> f32 {
    // Comparisons written so that NaN passes both.
    let x = if x > EXP_MAX { EXP_MAX } else { x };
    let x = if x < EXP_MIN { EXP_MIN } else { x };
    let (sum, shifted) = exp_parts::<M>(x);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(ONE_BITS));
    sum * power
}

/// eˣ = sum · 2ⁿ for |x| below 2²¹: gives the sum, and a number whose lowest bits are those of n.
#[inline(always)]
pub fn exp_parts<M: MulAdd>(x: f32) -> (f32, f32) {
    // Adding 1.5·2²³ rounds to an integer that then stands in the low bits.
    let shifted = M::mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = M::mul_add(n, -LN2_HIGH, x);
    let r = M::mul_add(n, -LN2_LOW, r);
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = M::mul_add(sum, r, coefficient);
    }
    (sum, shifted)
}

/// 1 / (1 + e⁻ˣ), relative error below 3e-7 for x > −87.
#[inline(always)]
pub fn sigmoid<M: MulAdd>(x: f32) -> f32 {
    // The exponential of a negative number never overflows and keeps small results exact in their own scale.
    let e = exp::<M>(-x.abs());
    let s = 1.0 / (1.0 + e);
    if x < 0.0 { e * s } else { s }
}

/// Sum in sixteen lanes, joined pairwise: the same order at every level.
#[inline(always)]
pub fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    for (lane, value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += value;
    }
    join(lanes)
}

/// Scalar product in sixteen lanes, joined pairwise.
#[inline(always)]
pub fn dot<M: MulAdd>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (mut a_chunks, mut b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in (&mut a_chunks).zip(&mut b_chunks) {
        for lane in 0..LANES {
            lanes[lane] = M::mul_add(a[lane], b[lane], lanes[lane]);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_chunks.remainder()).zip(b_chunks.remainder()) {
        *lane = M::mul_add(a, b, *lane);
    }
    join(lanes)
}

#[inline(always)]
fn join(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

const LANES: usize = 16;
const EXP_MIN: f32 = -87.33;
const EXP_MAX: f32 = 88.37;
/// 1.5 · 2²³.
pub const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the high one has so few bits that n times it is exact.
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;
const ONE_BITS: u32 = 0x3f80_0000;

#[cfg(test)]
mod tests {
    use super::super::simd::{Fused, Separate};
    use super::*;

    #[test]
    fn exp_and_sigmoid_are_close_everywhere() {
        let (mut exp_worst, mut sigmoid_worst) = (0.0f64, 0.0f64);
        for step in -870_000..=870_000 {
            let x = step as f32 * 1e-4;
            for (e, s) in [(exp::<Separate>(x), sigmoid::<Separate>(x)), (exp::<Fused>(x), sigmoid::<Fused>(x))] {
                exp_worst = exp_worst.max((f64::from(e) / f64::from(x).exp() - 1.0).abs());
                sigmoid_worst = sigmoid_worst.max((f64::from(s) * (1.0 + (-f64::from(x)).exp()) - 1.0).abs());
            }
        }
        assert!(exp_worst < 1.8e-7, "{exp_worst}");
        assert!(sigmoid_worst < 3e-7, "{sigmoid_worst}");
    }

    #[test]
    fn ends_of_the_range() {
        assert!(exp::<Separate>(f32::NAN).is_nan() && sigmoid::<Separate>(f32::NAN).is_nan());
        assert_eq!((sigmoid::<Separate>(f32::INFINITY), sigmoid::<Separate>(40.0), sigmoid::<Separate>(0.0)), (1.0, 1.0, 0.5));
        assert!(sigmoid::<Separate>(f32::NEG_INFINITY) < 2e-38);
        assert!(exp::<Separate>(1e9).is_finite());
    }

    #[test]
    fn sums_at_awkward_sizes() {
        for count in [0usize, 1, 15, 16, 17, 31, 100] {
            let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
            assert_eq!(sum(&values), (count * count.saturating_sub(1) / 2) as f32);
            let squares: usize = (0..count).map(|i| i * i).sum();
            assert_eq!(dot::<Separate>(&values, &values), squares as f32);
        }
    }
}
