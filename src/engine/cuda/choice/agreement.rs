//! Whether two ways to compute a layer agree.
//!
//! Both multiply the same bf16 numbers and add in f32, so that they differ by the order and the rounding of sums alone. Inputs are drawn evenly
//! from -1 to 1, with a variance of 1/3: a sum of k inputs times a column w, and every part of it, stays below 4 |w| (seven standard deviations).
//! A tensor core cuts each term and each sum at the last bit of an f32 of that size, so that each way is off by (k + 16) · 2^-24 · 4 |w| at most,
//! and both together by twice that. One wrong input among a few thousand is about |w| / sqrt(k), several times as much.
//! Elementwise tasks behind the layer pass a difference on, most of them not enlarged: other operands are below 1, too; 16 times as much is allowed.
//! Then the result is rounded: by 2^-21 for what is added to it and computed of it in f32, to a neighbour where it is bf16 (2^-7).

/// What rounding explains of a layer's differences.
#[derive(Clone, Copy, Debug)]
pub struct Rounding {
    /// Inputs of the layer.
    pub k: usize,
    /// Whether results are bf16.
    pub is_bf16: bool,
    /// Whether more is computed than the layer.
    pub has_tail: bool,
}

impl Rounding {
    /// The most that two results may differ by: of a column of this length, one of them `result`, `bias` being what one way rounds of the bias.
    pub fn allowed(&self, length: f32, result: f32, bias: f32) -> f32 {
        let passed_on = if self.has_tail { 16.0 } else { 1.0 };
        let sums = (self.k + 16) as f32 * length * passed_on * 2.0_f32.powi(-21);
        let last = if self.is_bf16 { 2.0_f32.powi(-7) } else { 2.0_f32.powi(-21) };
        sums + bias + last * result.abs() + f32::MIN_POSITIVE
    }
}

/// The largest difference, as a share of what is allowed; where it is (row, column), and both numbers there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// 0: the same in every bit; above 1: not to be explained.
    pub share: f64,
    /// Row and column.
    pub at: (usize, usize),
    /// The judge's number, and the other.
    pub numbers: (f32, f32),
}

impl Difference {
    /// Compares rows of `lengths.len()` columns each. `biases`: what one way rounds of each column's bias, or nothing.
    pub fn largest(rounding: Rounding, lengths: &[f32], biases: &[f32], judge: &[f32], other: &[f32]) -> Difference {
        let mut largest = Difference { share: 0.0, at: (0, 0), numbers: (0.0, 0.0) };
        let columns = lengths.len().max(1);
        for (row, (expected, found)) in judge.chunks_exact(columns).zip(other.chunks_exact(columns)).enumerate() {
            for (column, (&expected, &found)) in expected.iter().zip(found).enumerate() {
                if expected.to_bits() == found.to_bits() {
                    continue;
                }
                let allowed = rounding.allowed(lengths[column], expected, biases.get(column).copied().unwrap_or(0.0));
                let share = f64::from((expected - found).abs() / allowed);
                // Of what is no number nothing is explained.
                let share = if share.is_nan() { f64::INFINITY } else { share };
                if share > largest.share {
                    largest = Difference { share, at: (row, column), numbers: (expected, found) };
                }
            }
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// Numbers from -1 to 1.
    fn draw(state: &mut u64) -> f32 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        bf16::from_f32((*state >> 40) as f32 / (1 << 23) as f32 - 1.0).to_f32()
    }

    /// Sums in opposite orders, cut instead of rounded, agree; a layer with one wrong input does not, nor one without its last.
    #[test]
    fn orders_agree_and_faults_do_not() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for k in [64, 512, 3456] {
            let w: Vec<f32> = (0..k).map(|_| bf16::from_f32(draw(&mut state) / (k as f32).sqrt()).to_f32()).collect();
            let length = w.iter().map(|w| w * w).sum::<f32>().sqrt();
            let cut = |sum: f64| f32::from_bits((sum as f32).to_bits() & !1);
            let compare = |judge: f32, other: f32, is_bf16| {
                Difference::largest(Rounding { k, is_bf16, has_tail: false }, &[length], &[], &[judge], &[other]).share
            };
            for _ in 0..200 {
                let x: Vec<f32> = (0..k).map(|_| draw(&mut state)).collect();
                let terms = || x.iter().zip(&w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let forth = terms().fold(0.0_f32, |sum, term| cut(f64::from(sum) + term));
                let back = terms().rev().fold(0.0_f32, |sum, term| cut(f64::from(sum) + term));
                assert!(compare(forth, back, false) < 0.5, "{k}: {forth}, {back}");
                let rounded = |sum: f32| bf16::from_f32(sum).to_f32();
                assert!(compare(rounded(forth), rounded(back), true) <= 1.0, "{k}: {forth}, {back}");
                // The term of an ordinary input.
                let wrong = forth + 0.3 * length / (k as f32).sqrt();
                assert!(compare(forth, wrong, false) > 1.0, "{k}: {forth}, {wrong}");
            }
        }
    }

    #[test]
    fn the_worst_place_is_named() {
        let rounding = Rounding { k: 8, is_bf16: false, has_tail: false };
        let judge = [1.0, 2.0, 3.0, 4.0, 5.0, f32::NAN];
        assert_eq!(Difference::largest(rounding, &[1.0, 1.0], &[], &judge, &judge).share, 0.0, "equal bits are equal");
        let mut other = judge;
        other[3] = 4.5;
        other[0] = 1.0001;
        let found = Difference::largest(rounding, &[1.0, 1.0], &[], &judge, &other);
        assert_eq!((found.at, found.numbers), ((1, 1), (4.0, 4.5)));
        other[2] = f32::NAN;
        let found = Difference::largest(rounding, &[1.0, 1.0], &[], &judge, &other);
        assert_eq!((found.share, found.at), (f64::INFINITY, (1, 0)));
        assert!(Difference::largest(rounding, &[1.0, 1.0], &[0.0, 1.0], &judge[..4], &[1.0, 2.0, 3.0, 4.9]).share < 1.0);
    }
}
