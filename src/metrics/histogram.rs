//! A histogram that one thread writes: log-linear bins of fixed number, no allocation, no search.
//!
//! ```text
//!   steps      0 1 2 .. 15 | 16 17 .. 31 | 32 34 .. 62 | 64 68 .. 124 | ..      16 bins an octave: at most 6 % wide
//!   bin        0 1 2 .. 15 | 16 17 .. 31 | 32 33 .. 47 | 48 49 ..  63 | ..
//! ```
//! A bin holds the values in (low, high], because Prometheus' `le` is "less or equal". What a step is ([`Scale`]) is chosen so that the
//! edges that are exported fall on edges of bins: exported buckets are exact, not interpolated.

use std::marker::PhantomData;

use super::cell::Counter;

/// What a histogram measures, in whole raw units (ns, candidates), and which edges are exported.
pub trait Scale {
    /// A step is `RAW / STEPS` raw units.
    const RAW: u64;
    /// See [`Scale::RAW`].
    const STEPS: u64;
    /// Exported upper edges in raw units, ascending. Each is an edge of a bin.
    const EDGES: &'static [u64];
    /// Raw units per exported unit.
    const RAW_PER_UNIT: f64;
}

/// Nanoseconds, exported in seconds: 50 µs to 0.8 s, two edges an octave where budgets lie. A step is 3125/16 ns: 50 µs is 256 of them.
#[derive(Debug)]
pub struct Nanoseconds;

impl Scale for Nanoseconds {
    const RAW: u64 = 3125;
    const STEPS: u64 = 16;
    const EDGES: &'static [u64] = &[
        50_000,
        75_000,
        100_000,
        150_000,
        200_000,
        300_000,
        400_000,
        600_000,
        800_000,
        1_200_000,
        1_600_000,
        2_400_000,
        3_200_000,
        4_800_000,
        6_400_000,
        9_600_000,
        12_800_000,
        25_600_000,
        51_200_000,
        102_400_000,
        204_800_000,
        409_600_000,
        819_200_000,
    ];
    const RAW_PER_UNIT: f64 = 1e9;
}

/// Candidates in a batch: powers of two.
#[derive(Debug)]
pub struct Candidates;

impl Scale for Candidates {
    const RAW: u64 = 1;
    const STEPS: u64 = 1;
    const EDGES: &'static [u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768];
    const RAW_PER_UNIT: f64 = 1.0;
}

/// Counts of values by size.
#[derive(Debug)]
pub struct Histogram<S> {
    bins: Box<[Counter; BINS]>,
    sum: Counter,
    scale: PhantomData<S>,
}

impl<S: Scale> Default for Histogram<S> {
    fn default() -> Self {
        Histogram { bins: Box::new([const { Counter::new() }; BINS]), sum: Counter::new(), scale: PhantomData }
    }
}

impl<S: Scale> Histogram<S> {
    /// Counts one value, in raw units.
    #[inline]
    pub fn observe(&self, raw: u64) {
        self.bins[bin::<S>(raw)].inc();
        self.sum.add(raw);
    }

    /// Adds what was counted so far to `total`.
    pub fn add_to(&self, total: &mut Counts) {
        for (into, bin) in total.bins.iter_mut().zip(self.bins.iter()) {
            *into += bin.get();
        }
        total.sum += self.sum.get();
    }
}

/// A copy of one histogram, or the sum of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    bins: Vec<u64>,
    sum: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Counts { bins: vec![0; BINS], sum: 0 }
    }
}

impl Counts {
    /// Without what `earlier` had counted.
    pub fn since(mut self, earlier: &Counts) -> Counts {
        for (bin, before) in self.bins.iter_mut().zip(&earlier.bins) {
            *bin = bin.saturating_sub(*before);
        }
        self.sum = self.sum.saturating_sub(earlier.sum);
        self
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.bins.iter().sum()
    }

    /// Their sum in exported units.
    pub fn sum<S: Scale>(&self) -> f64 {
        self.sum as f64 / S::RAW_PER_UNIT
    }

    /// (upper edge in exported units, number of values up to it), for each exported edge.
    pub fn buckets<S: Scale>(&self) -> Vec<(f64, u64)> {
        let mut taken = 0;
        let mut cumulative = 0;
        S::EDGES
            .iter()
            .map(|&edge| {
                let end = bin::<S>(edge) + 1;
                cumulative += self.bins[taken..end].iter().sum::<u64>();
                taken = end;
                (edge as f64 / S::RAW_PER_UNIT, cumulative)
            })
            .collect()
    }

    /// The smallest bin edge that at least the share `q` (0..=1) of the values do not exceed, in raw units; `None` if there are none.
    pub fn quantile<S: Scale>(&self, q: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((count as f64 * q).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let bin = self.bins.iter().position(|&n| {
            seen += n;
            seen >= rank
        })?;
        Some(high_edge::<S>(bin))
    }
}

/// The bin of a value.
#[inline]
fn bin<S: Scale>(raw: u64) -> usize {
    let step = (raw.saturating_sub(1).min(RAW_MAX) * S::STEPS / S::RAW).min(STEP_MAX);
    if step < SUB {
        return step as usize;
    }
    let octave = step.ilog2() - SUB_BITS;
    ((u64::from(octave) << SUB_BITS) + (step >> octave)) as usize
}

/// The largest raw value of a bin (rounded down where a step is no whole number of raw units).
fn high_edge<S: Scale>(bin: usize) -> u64 {
    let bin = bin as u64;
    let octave = (bin >> SUB_BITS).saturating_sub(1);
    let steps = (bin - (octave << SUB_BITS) + 1) << octave;
    steps * S::RAW / S::STEPS
}

/// Bins an octave, as bits: 16.
const SUB_BITS: u32 = 4;
const SUB: u64 = 1 << SUB_BITS;
/// Largest step told apart: 2²⁶ steps are 13 s of latency, or 67 million candidates.
const STEP_MAX: u64 = (1 << 26) - 1;
const BINS: usize = ((26 - SUB_BITS as usize) << SUB_BITS) + SUB as usize;
/// Keeps the product with `STEPS` inside 64 bits.
const RAW_MAX: u64 = u64::MAX >> 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts<S: Scale>(values: &[u64]) -> Counts {
        let histogram = Histogram::<S>::default();
        values.iter().for_each(|&value| histogram.observe(value));
        let mut counts = Counts::default();
        histogram.add_to(&mut counts);
        counts
    }

    #[test]
    fn exported_edges_are_exact() {
        fn check<S: Scale>() {
            for &edge in S::EDGES {
                assert_ne!(bin::<S>(edge), bin::<S>(edge + 1), "edge {edge} lies inside a bin");
                assert_eq!(high_edge::<S>(bin::<S>(edge)), edge);
            }
            let values: Vec<u64> = S::EDGES.iter().flat_map(|&edge| [edge - 1, edge, edge + 1]).collect();
            let counts = counts::<S>(&values);
            for ((_, cumulative), edge) in counts.buckets::<S>().into_iter().zip(S::EDGES) {
                assert_eq!(cumulative, values.iter().filter(|&value| value <= edge).count() as u64, "le {edge}");
            }
        }
        check::<Nanoseconds>();
        check::<Candidates>();
    }

    #[test]
    fn bins_are_in_order_and_complete() {
        let mut last = 0;
        for raw in 0..200_000u64 {
            let bin = bin::<Candidates>(raw);
            assert!(bin == last || bin == last + 1, "{raw}");
            last = bin;
        }
        for raw in [u64::MAX, u64::MAX / 2, 1 << 40] {
            assert_eq!(bin::<Nanoseconds>(raw), BINS - 1);
            assert_eq!(bin::<Candidates>(raw), BINS - 1);
        }
    }

    #[test]
    fn sums_subtracts_and_ranks() {
        let a = counts::<Nanoseconds>(&[50_000, 51_000, 2_000_000]);
        assert_eq!((a.count(), a.sum::<Nanoseconds>()), (3, 0.002_101));
        assert_eq!(a.clone().since(&counts::<Nanoseconds>(&[51_000])), counts::<Nanoseconds>(&[50_000, 2_000_000]));
        let cases = [(&[][..], 0.5, None), (&[1, 2, 3, 4], 0.5, Some(2)), (&[1, 2, 3, 4], 1.0, Some(4)), (&[1, 2, 3, 4], 0.0, Some(1))];
        for (values, q, expected) in cases {
            assert_eq!(counts::<Candidates>(values).quantile::<Candidates>(q), expected, "{values:?} {q}");
        }
    }

    proptest! {
        #[test]
        fn a_bin_is_at_most_a_sixteenth_wide(raw in 1u64..10_000_000_000) {
            let high = high_edge::<Nanoseconds>(bin::<Nanoseconds>(raw));
            prop_assert!(high + 1 >= raw && high as f64 <= raw as f64 * (1.0 + 1.0 / 16.0) + 400.0, "{raw} {high}");
        }
    }
}
