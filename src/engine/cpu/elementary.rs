//! Elementary functions over their whole range, written so that the compiler vectorises loops over them: no branch, no call, no table.
//!
//! Relative errors are a few units in the last place (the tests hold the numbers); zeros, infinities and NaN come out as IEEE 754 says.
//! Coefficients are minimax fits made for these intervals in double precision, unless a series is named.

use super::math::{ROUND, exp_parts};
use super::simd::MulAdd;

/// eˣ, with ∞ above 88.7 and what f32 holds of it below −87.3. [`super::math::exp`] is faster and stays finite.
#[inline(always)]
pub fn exp<M: MulAdd>(x: f32) -> f32 {
    // Comparisons written so that NaN passes both. Beyond these ends the result is ∞ or rounds to 0.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let (sum, shifted) = exp_parts::<M>(x);
    // 2ⁿ in two factors: n reaches beyond the exponents of f32.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    sum * power(half) * power(n.wrapping_sub(half))
}

/// 2ⁿ for n in −126 ..= 127.
#[inline(always)]
fn power(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// ln x: −∞ at 0, NaN below.
///
/// x = 2ᵉ·m with m in √½ .. √2; ln m = 2·artanh(s) with s = (m − 1) / (m + 1), by its series in s²: truncation below 2e-9 of the value.
#[inline(always)]
pub fn log<M: MulAdd>(x: f32) -> f32 {
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * TWO_23 } else { x };
    let bits = scaled.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let e = ((bits as i32) >> 23) as f32 - if tiny { 23.0 } else { 0.0 };
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(SQRT_HALF_BITS));
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let mut tail = 2.0 / 9.0;
    for coefficient in [2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0] {
        tail = M::mul_add(tail, z, coefficient);
    }
    // ln(1 + f) = f − f²/2 + s·(f²/2 + R(s²)): the largest term stays exact.
    let half = 0.5 * f * f;
    let rest = M::mul_add(s, M::mul_add(tail, z, half), e * LN2_LOW);
    let value = M::mul_add(e, LN2_HIGH, f - (half - rest));
    let value = if x < f32::INFINITY { value } else { x };
    let value = if x < 0.0 { f32::NAN } else { value };
    if x == 0.0 { f32::NEG_INFINITY } else { value }
}

/// ln(1 + t) for t in 0 ..= 1.
#[inline(always)]
fn log1p<M: MulAdd>(t: f32) -> f32 {
    let u = 1.0 + t;
    // What rounding took off u, to first order.
    log::<M>(u) + (t - (u - 1.0)) / u
}

/// ln(1 + eˣ).
#[inline(always)]
pub fn softplus<M: MulAdd>(x: f32) -> f32 {
    let positive = if x > 0.0 { x } else { 0.0 };
    let value = positive + log1p::<M>(exp::<M>(-x.abs()));
    if x.is_nan() { x } else { value }
}

/// Hyperbolic tangent: an odd polynomial near 0, 1 − 2 / (e²ˣ + 1) elsewhere.
#[inline(always)]
pub fn tanh<M: MulAdd>(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let mut sum = 0.002_147_533;
    for coefficient in [-0.008_182_669, 0.021_702_966, -0.053_947_204, 0.133_332_1, -0.333_333_3] {
        sum = M::mul_add(sum, z, coefficient);
    }
    let near = M::mul_add(sum * z, x, x);
    let far = 1.0 - 2.0 / (exp::<M>(2.0 * a) + 1.0);
    // Of x's sign in both, but for a zero of `near`.
    (if a < 0.625 { near } else { far }).copysign(x)
}

/// Error function: an odd polynomial near 0; elsewhere 1 − eᴾ, where P is ln erfc as a polynomial.
#[inline(always)]
pub fn erf<M: MulAdd>(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let mut sum = 8.185_087e-5;
    for coefficient in [-8.097_702e-4, 0.005_196_952, -0.026_857_704, 0.112_836_64, -0.376_126_3, 0.128_379_17] {
        sum = M::mul_add(sum, z, coefficient);
    }
    // 2/√π = 1 + 0.128..: x itself is added exactly.
    let near = M::mul_add(sum, x, x);
    let end = if a > 3.95 { 3.95 } else { a };
    let mut tail = -2.144_568_5e-5;
    for coefficient in [4.385_312_4e-4, -0.004_190_862, 0.025_171_824, -0.108_361_57, -0.633_272_4, -1.129_552, 1.824_619_6e-4] {
        tail = M::mul_add(tail, end, coefficient);
    }
    let far = 1.0 - exp::<M>(tail);
    let value = if a < 0.95 { near } else { far.copysign(x) };
    if x.is_nan() { x } else { value }
}

/// Sine for |x| up to [`CIRCLE_MAX`].
#[inline(always)]
pub fn sin(x: f32) -> f32 {
    let value = circular(x, 0);
    // A zero keeps its sign.
    if x == 0.0 { x } else { value }
}

/// Cosine for |x| up to [`CIRCLE_MAX`].
#[inline(always)]
pub fn cos(x: f32) -> f32 {
    circular(x, 1)
}

/// sin(x + quarters·π/2), in f64: what is left of x after whole quarters of the circle keeps 30 digits behind the point.
#[inline(always)]
fn circular(x: f32, quarters: u64) -> f32 {
    let x = f64::from(x);
    let shifted = x * std::f64::consts::FRAC_2_PI + ROUND_F64;
    let n = shifted - ROUND_F64;
    let quadrant = shifted.to_bits().wrapping_add(quarters);
    let r = (x - n * HALF_PI_HIGH) - n * HALF_PI_LOW;
    let z = r * r;
    let sine = r + r
        * z
        * (-0.166_666_666_416_257_94 + z * (0.008_333_329_385_844_506 + z * (-1.983_933_482_875_809e-4 + z * 2.718_311_467_871_742_7e-6)));
    let cosine = 1.0
        + z * (-0.499_999_997_250_950_96
            + z * (0.041_666_623_323_225_49 + z * (-0.001_388_676_376_574_569_6 + z * 2.439_044_842_942_193_4e-5)));
    let value = if quadrant & 1 == 0 { sine } else { cosine };
    (if quadrant & 2 == 0 { value } else { -value }) as f32
}

/// Largest |x| that [`sin`] and [`cos`] take: n·[`HALF_PI_HIGH`] is exact so far.
pub const CIRCLE_MAX: f32 = 1_000_000.0;

const TWO_23: f32 = 8_388_608.0;
const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
/// ln 2 in two parts; the high one times an exponent is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// 1.5 · 2⁵².
const ROUND_F64: f64 = 6_755_399_441_055_744.0;
/// π/2 in two parts; the high one has 33 bits.
const HALF_PI_HIGH: f64 = f64::from_bits(0x3ff9_21fb_5440_0000);
const HALF_PI_LOW: f64 = 6.077_100_506_506_192e-11;

#[cfg(test)]
mod tests {
    use super::super::simd::{Fused, Separate};
    use super::*;

    /// By its series without cancellation: Abramowitz and Stegun 7.1.6.
    fn exact_erf(x: f64) -> f64 {
        if x.abs() > 6.5 {
            return x.signum();
        }
        let terms = (1..200).scan(x, |term, n| {
            *term *= 2.0 * x * x / f64::from(2 * n + 1);
            Some(*term)
        });
        std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * (x + terms.sum::<f64>())
    }

    /// Every f32 exponent, and mantissas between.
    fn arguments() -> impl Iterator<Item = f32> {
        (0..=0xff_u32).flat_map(|exponent| (0..61_u32).map(move |step| f32::from_bits((exponent << 23) | (step * 137_517))))
    }

    /// Largest error in units of the last place of the exact value.
    fn worst(function: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, limit: f32) -> f64 {
        let mut worst = 0.0_f64;
        let dense = (0..=40_000).map(|step| step as f32 * 5e-4);
        for x in arguments().chain(dense).flat_map(|x| [x, -x]).filter(|x| x.abs() <= limit) {
            let (found, expected) = (function(x), exact(f64::from(x)));
            if !(expected as f32).is_finite() || expected.abs() < 1e-37 {
                let close = (f64::from(found) - expected).abs() < 1e-37;
                assert!(close || found == expected as f32 || (found.is_nan() && expected.is_nan()), "{x}: {found} for {expected}");
                continue;
            }
            let unit = f64::from(f32::from_bits((expected as f32).abs().to_bits() + 1)) - f64::from((expected as f32).abs());
            let error = (f64::from(found) - expected).abs() / unit;
            assert!(error < 9.0, "{x}: {found} for {expected}");
            worst = worst.max(error);
        }
        worst
    }

    #[test]
    fn errors_are_a_few_units_in_the_last_place() {
        type Case = (&'static str, [fn(f32) -> f32; 2], fn(f64) -> f64, f32, f64);
        let cases: [Case; 7] = [
            ("exp", [exp::<Separate>, exp::<Fused>], f64::exp, f32::MAX, 1.6),
            ("log", [log::<Separate>, log::<Fused>], f64::ln, f32::MAX, 1.0),
            ("softplus", [softplus::<Separate>, softplus::<Fused>], |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), f32::MAX, 2.6),
            ("tanh", [tanh::<Separate>, tanh::<Fused>], f64::tanh, f32::MAX, 2.0),
            ("erf", [erf::<Separate>, erf::<Fused>], exact_erf, f32::MAX, 2.0),
            ("sin", [sin, sin], f64::sin, CIRCLE_MAX, 0.51),
            ("cos", [cos, cos], f64::cos, CIRCLE_MAX, 0.51),
        ];
        for (name, functions, exact, limit, bound) in cases {
            for function in functions {
                let worst = worst(function, exact, limit);
                println!("{name}: {worst:.2}");
                assert!(worst <= bound, "{name}: {worst}");
            }
        }
    }

    #[test]
    fn ends_are_those_of_ieee() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for (found, expected) in [
            (exp::<Fused>(inf), inf),
            (exp::<Fused>(-inf), 0.0),
            (exp::<Separate>(200.0), inf),
            (exp::<Separate>(-200.0), 0.0),
            (log::<Fused>(0.0), -inf),
            (log::<Fused>(-0.0), -inf),
            (log::<Separate>(inf), inf),
            (log::<Separate>(1.0), 0.0),
            (softplus::<Fused>(inf), inf),
            (softplus::<Fused>(-inf), 0.0),
            (tanh::<Fused>(inf), 1.0),
            (tanh::<Separate>(-inf), -1.0),
            (erf::<Fused>(inf), 1.0),
            (erf::<Separate>(-inf), -1.0),
        ] {
            assert_eq!(found.to_bits(), expected.to_bits());
        }
        for found in
            [exp::<Fused>(nan), log::<Fused>(nan), log::<Fused>(-1.0), softplus::<Fused>(nan), tanh::<Fused>(nan), erf::<Fused>(nan)]
        {
            assert!(found.is_nan());
        }
    }
}
