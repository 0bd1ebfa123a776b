//! Weights of a layer as signed codes, in the order in which micro-kernels read them.
//!
//! Inputs come in ranges with a scale of their own; a column of a range has a scale too. Four inputs of a column lie side by side:
//! `[panel][quad][column][4]`. Inputs behind a range's end and columns behind `n` have code 0.

use std::fmt;

use super::block::{Codes, Dot, Geometry, Range, Scale};
use crate::engine::EngineError;
use crate::engine::cpu::memory::Block;
use crate::engine::cpu::simd::SimdLevel;

/// A quantised matrix.
pub struct Int8Matrix {
    /// Inner size.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Columns of a whole panel.
    pub panel: usize,
    /// Columns with the padding of the last panel.
    pub padded: usize,
    /// Of the inputs.
    pub ranges: Vec<Range>,
    /// Groups of four codes in all ranges.
    pub quads: usize,
    /// Per range and padded column: what a code counts.
    pub scales: Vec<f32>,
    /// Per range and padded column: the sum of the column's codes times its scale.
    pub lows: Vec<f32>,
    codes: Block,
}

impl fmt::Debug for Int8Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Int8Matrix").field("k", &self.k).field("n", &self.n).field("ranges", &self.ranges).finish_non_exhaustive()
    }
}

/// Inputs of one range: sums of more products than these could leave 32 bits.
pub const RANGE_MAX: usize = 1 << 15;

/// Ranges of these sizes, one behind the other; those that are too long are cut.
pub fn ranges(sizes: impl IntoIterator<Item = usize>) -> Vec<Range> {
    let (mut ranges, mut first, mut quad) = (Vec::new(), 0, 0);
    for size in sizes {
        let mut left = size;
        while left > 0 {
            let len = left.min(RANGE_MAX);
            let quads = len.div_ceil(4);
            ranges.push(Range { first, len, quad, quads });
            (first, quad, left) = (first + len, quad + quads, left - len);
        }
    }
    ranges
}

impl Int8Matrix {
    /// Quantises `weight(k, n)` for the panels of a level: per range and column, the largest weight gets code ±127.
    pub fn new(level: SimdLevel, ranges: Vec<Range>, n: usize, weight: impl Fn(usize, usize) -> f32) -> Result<Int8Matrix, EngineError> {
        let Geometry { panel, vector } = Dot::geometry(level);
        let padded = n.next_multiple_of(vector);
        let (k, quads) = ranges.last().map_or((0, 0), |last| (last.first + last.len, last.quad + last.quads));
        let mut matrix = Int8Matrix {
            k,
            n,
            panel,
            padded,
            quads,
            scales: vec![0.0; ranges.len() * padded],
            lows: vec![0.0; ranges.len() * padded],
            codes: Block::zeroed("packed weights", quads * padded * 4)?,
            ranges,
        };
        let packed = matrix.codes.as_mut_slice::<i8>();
        let mut column_weights = Vec::new();
        for column in 0..n {
            let first = column / panel * panel;
            let width = panel.min(padded - first);
            let codes = &mut packed[first * quads * 4..][..width * quads * 4];
            for (at, range) in matrix.ranges.iter().enumerate() {
                column_weights.clear();
                column_weights.extend((range.first..range.first + range.len).map(|k| weight(k, column)));
                let largest = column_weights.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
                let factor = if largest > WEIGHT_MIN { 127.0 / largest } else { 0.0 };
                let mut sum = 0i64;
                for (at, weight) in column_weights.iter().enumerate() {
                    let code = (weight * factor).round_ties_even() as i8;
                    codes[((range.quad + at / 4) * width + column - first) * 4 + at % 4] = code;
                    sum += i64::from(code);
                }
                let scale = largest / 127.0;
                matrix.scales[at * padded + column] = scale;
                matrix.lows[at * padded + column] = (sum as f64 * f64::from(scale)) as f32;
            }
        }
        Ok(matrix)
    }

    /// Bytes of the packed codes and their factors.
    pub fn bytes(&self) -> usize {
        self.quads * self.padded * 4 + (self.scales.len() + self.lows.len()) * size_of::<f32>()
    }

    /// What micro-kernels see from this panel on.
    pub fn codes_from(&self, panel: usize) -> Codes<'_> {
        let column = (panel * self.panel).min(self.padded);
        Codes {
            ranges: &self.ranges,
            quads: self.quads,
            codes: &self.codes.as_slice()[column * self.quads * 4..],
            scales: self.scales[column.min(self.scales.len())..].as_ptr(),
            lows: self.lows[column.min(self.lows.len())..].as_ptr(),
            padded: self.padded,
        }
    }

    /// Bytes of a quantised row.
    pub fn row_bytes(&self) -> usize {
        row_bytes(&self.ranges)
    }

    /// Code of input `k` in this column.
    #[cfg(test)]
    pub fn code(&self, k: usize, column: usize) -> i8 {
        let range = self.ranges.iter().find(|range| (range.first..range.first + range.len).contains(&k)).unwrap();
        let first = column / self.panel * self.panel;
        let width = self.panel.min(self.padded - first);
        let at = k - range.first;
        self.codes.as_slice::<i8>()[first * self.quads * 4 + ((range.quad + at / 4) * width + column - first) * 4 + at % 4]
    }
}

/// Bytes of a quantised row of these ranges.
pub fn row_bytes(ranges: &[Range]) -> usize {
    ranges.len() * size_of::<Scale>() + ranges.iter().map(|range| range.quads * 4).sum::<usize>()
}

/// Columns whose weights are all smaller than this count as zero: the inverse of a smaller number may not be one.
const WEIGHT_MIN: f32 = 1e-30;
