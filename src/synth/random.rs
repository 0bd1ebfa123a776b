//! Numbers by place: any number of a stream can be had without those before it, so that a table is written in pieces, and its rows are found
//! again without the table.
//!
//! SplitMix64 (Steele et al. 2014) is such a generator: its n-th word is a finaliser over key + n · γ. Uniform and normal numbers are made of
//! whole words by exact arithmetic, so tables and weights have the same bits on every machine.

/// A stream of words.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    key: u64,
}

impl Stream {
    /// The stream of what is called `name`, under `seed`.
    pub fn new(seed: u64, name: &str) -> Stream {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Stream { key: finalise(finalise(seed) ^ hash) }
    }

    /// Word `n`.
    pub fn word(self, n: u64) -> u64 {
        finalise(self.key.wrapping_add(n.wrapping_add(1).wrapping_mul(GAMMA)))
    }

    /// Number `n`, uniform in (0, 1].
    pub fn unit(self, n: u64) -> f64 {
        ((self.word(n) >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Number `n`, uniform in 0 .. `bound`; `bound` is at least 1.
    pub fn below(self, n: u64, bound: u32) -> u32 {
        (((self.word(n) >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// Numbers `first ..`, uniform in [-scale, scale): steps of 2^-23 · scale.
    pub fn fill_uniform(self, first: u64, scale: f32, out: &mut [f32]) {
        for (n, value) in (first..).zip(out) {
            let half = (self.word(n / 2) >> (32 * (n % 2))) as u32;
            *value = ((half >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale;
        }
    }

    /// Numbers from 0, normal with deviation `scale`: sums of twelve uniform ones, so none lies beyond six deviations.
    pub fn fill_normal(self, scale: f64, out: &mut [f32]) {
        for (n, value) in (0_u64..).zip(out) {
            let sum: u64 = (6 * n..6 * n + 6).map(|n| self.word(n)).map(|word| (word >> 32) + (word & 0xffff_ffff)).sum();
            *value = ((sum as f64 / (1_u64 << 32) as f64 - 6.0) * scale) as f32;
        }
    }
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

const fn finalise(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f32]) -> (f64, f64) {
        let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn pieces_are_the_whole() {
        let stream = Stream::new(3, "C1");
        let mut whole = [0.0; 101];
        stream.fill_uniform(0, 0.5, &mut whole);
        for (first, len) in [(0, 1), (1, 1), (7, 30), (100, 1)] {
            let mut piece = vec![0.0; len];
            stream.fill_uniform(first as u64, 0.5, &mut piece);
            assert_eq!(piece, whole[first..][..len], "{first}");
        }
        let mut other = [0.0; 101];
        Stream::new(3, "C2").fill_uniform(0, 0.5, &mut other);
        assert_ne!(whole, other);
    }

    #[test]
    fn numbers_are_spread_as_named() {
        let stream = Stream::new(1, "x");
        let mut values = vec![0.0; 100_000];
        stream.fill_uniform(0, 2.0, &mut values);
        let (mean, deviation) = moments(&values);
        assert!(mean.abs() < 0.02 && (deviation - 2.0 / 3f64.sqrt()).abs() < 0.02, "{mean} {deviation}");
        assert!(values.iter().all(|value| (-2.0..2.0).contains(value)));
        stream.fill_normal(2.0, &mut values);
        let (mean, deviation) = moments(&values);
        assert!(mean.abs() < 0.03 && (deviation - 2.0).abs() < 0.03, "{mean} {deviation}");
        let seen: std::collections::BTreeSet<u32> = (0..100).map(|n| stream.below(n, 7)).collect();
        assert_eq!(seen.len(), 7);
        assert!((0..1000).all(|n| stream.unit(n) > 0.0 && stream.unit(n) <= 1.0 && stream.below(n, 1) == 0));
    }
}
