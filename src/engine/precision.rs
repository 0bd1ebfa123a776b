//! Precision of dense layers, and how far it moves a model's answers.

use std::fmt;

use crate::model::{Model, OutputKind};

/// In what numbers dense layers are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floats: exact up to rounding.
    #[default]
    F32,
    /// 8-bit codes of weights and activations, sums in 32-bit integers.
    Int8,
    /// Weights held as 16-bit floats, arithmetic in 32 bits: half of the bytes to read.
    F16,
}

impl Precision {
    /// As settings, flags and reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Int8 => "int8",
            Precision::F16 => "f16",
        }
    }
}

/// How far a reduced precision may move answers on the selftest's rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShiftLimits {
    /// Largest difference of a probability.
    pub probability: f64,
    /// Difference of the AUC.
    pub auc: f64,
}

impl Default for ShiftLimits {
    fn default() -> ShiftLimits {
        ShiftLimits { probability: 5e-3, auc: 2e-3 }
    }
}

impl fmt::Display for ShiftLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1e} in probability, {:.1e} in AUC", self.probability, self.auc)
    }
}

impl ShiftLimits {
    /// Whether a shift is within. What is no number is not.
    pub fn accept(&self, shift: &Shift) -> bool {
        shift.probability <= self.probability && shift.auc <= self.auc
    }
}

/// How far answers moved, against the outputs that the bundle records: the worst over all outputs.
///
/// - `probability`: largest difference of a probability; of an output that is a logit, of its sigmoid; of a plain value, of the value as a share
///   of the range that it has over the rows.
/// - `auc`: difference of the AUC, against the selftest's labels where it has them. Else of the AUC that is to be expected if labels are drawn as the
///   recorded probabilities say: the probability that of two rows, one drawn with a click and one without, the one with the click is ranked
///   higher. Rows whose probabilities are nearly equal may then change places at nearly no cost. Plain values have none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shift {
    /// See above.
    pub probability: f64,
    /// See above.
    pub auc: f64,
}

impl Shift {
    /// Of scores `[rows][outputs]` of these rows of the model's selftest.
    pub fn measure(model: &Model, rows: &[usize], scores: &[f32]) -> Shift {
        (0..model.graph.outputs.len()).map(|output| Shift::of_output(model, rows, scores, output)).fold(Shift::default(), Shift::worse)
    }

    /// Of one output.
    pub fn of_output(model: &Model, rows: &[usize], scores: &[f32], output: usize) -> Shift {
        let outputs = model.graph.outputs.len();
        let kind = model.graph.outputs[output].kind;
        let expected: Vec<f64> = rows.iter().map(|&row| model.selftest.expected[output][row]).collect();
        let found: Vec<f64> = scores.iter().skip(output).step_by(outputs).map(|&score| f64::from(score)).collect();
        let (expected, found) = match kind {
            OutputKind::Logit => (expected.into_iter().map(sigmoid).collect(), found.into_iter().map(sigmoid).collect()),
            _ => (expected, found),
        };
        let unit = if kind == OutputKind::Value { range_of(&model.selftest.expected[output]) } else { 1.0 };
        let probability = expected.iter().zip(&found).map(|(expected, found)| (expected - found).abs() / unit).fold(0.0, larger);
        let labels = model.selftest.labels.get(output).and_then(Option::as_ref);
        let auc = match (kind, labels) {
            (OutputKind::Value, _) => 0.0,
            (_, Some(labels)) => {
                let labels: Vec<f64> = rows.iter().map(|&row| labels[row]).collect();
                (expected_auc(&labels, &expected) - expected_auc(&labels, &found)).abs()
            }
            (_, None) => (expected_auc(&expected, &expected) - expected_auc(&expected, &found)).abs(),
        };
        Shift { probability, auc }
    }

    /// The larger of each.
    fn worse(self, other: Shift) -> Shift {
        Shift { probability: larger(self.probability, other.probability), auc: larger(self.auc, other.auc) }
    }
}

impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1e} in probability, {:.1e} in AUC", self.probability, self.auc)
    }
}

/// The larger of two; NaN if either is.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Greatest minus least, or 1 where all are equal.
fn range_of(values: &[f64]) -> f64 {
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &value| (low.min(value), high.max(value)));
    if high > low { high - low } else { 1.0 }
}

/// The AUC of `scores` that is to be expected if row i is a positive with probability `positive[i]`, independent of the others: over pairs of
/// different rows. Equal scores count half. 0.5 where no pair can be of both kinds; NaN if a score is.
pub fn expected_auc(positive: &[f64], scores: &[f64]) -> f64 {
    if scores.iter().any(|score| score.is_nan()) {
        return f64::NAN;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let (mut won, mut pairs, mut below) = (0.0, 0.0, 0.0);
    let negatives: f64 = positive.iter().map(|p| 1.0 - p).sum();
    for equal in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let within: f64 = equal.iter().map(|&at| 1.0 - positive[at]).sum();
        for &at in equal {
            let own = 1.0 - positive[at];
            won += positive[at] * (below + 0.5 * (within - own));
            pairs += positive[at] * (negatives - own);
        }
        below += within;
    }
    if pairs > 0.0 { won / pairs } else { 0.5 }
}

/// What a plan with reduced precision does with each dense layer.
#[derive(Clone, Debug, PartialEq)]
pub struct PrecisionReport {
    /// As asked for.
    pub precision: Precision,
    /// Within these.
    pub limits: ShiftLimits,
    /// In the order in which they are computed.
    pub layers: Vec<LayerPrecision>,
    /// Of this plan, over all rows of the selftest.
    pub shift: Shift,
    /// Instructions that multiply codes.
    pub instructions: &'static str,
    /// Plans that were measured to get here.
    pub measured: usize,
}

impl PrecisionReport {
    /// Layers that are reduced.
    pub fn reduced(&self) -> usize {
        self.layers.iter().filter(|layer| layer.precision != Precision::F32).count()
    }
}

impl fmt::Display for PrecisionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.precision.name();
        let (reduced, layers) = (self.reduced(), self.layers.len());
        write!(f, "{reduced} of {layers} dense layers in {name} ({}), shift {}", self.instructions, self.shift)
    }
}

/// A dense layer's precision.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerPrecision {
    /// The value it computes.
    pub name: String,
    /// Inputs.
    pub k: usize,
    /// Outputs.
    pub n: usize,
    /// Of its arithmetic.
    pub precision: Precision,
    /// Why.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_auc_is_the_mean_over_all_labels() {
        let positive = [0.1, 0.8, 0.35, 0.6];
        for scores in [[0.1, 0.8, 0.35, 0.6], [0.4, 0.3, 0.2, 0.1], [0.5, 0.5, 0.2, 0.5], [1.0; 4]] {
            // Weights of pairs (positive, negative), by enumerating labels.
            let (mut won, mut pairs) = (0.0, 0.0);
            for labels in 0..16u32 {
                let label = |at: usize| labels >> at & 1 == 1;
                let chance: f64 = (0..4).map(|at| if label(at) { positive[at] } else { 1.0 - positive[at] }).product();
                for (a, b) in (0..4).flat_map(|a| (0..4).map(move |b| (a, b))).filter(|&(a, b)| label(a) && !label(b)) {
                    pairs += chance;
                    won += chance * if scores[a] > scores[b] { 1.0 } else { 0.5 * f64::from(u8::from(scores[a] == scores[b])) };
                }
            }
            assert!((expected_auc(&positive, &scores) - won / pairs).abs() < 1e-12, "{scores:?}");
        }
        assert_eq!(expected_auc(&[1.0, 1.0], &[0.1, 0.2]), 0.5);
        assert!(expected_auc(&[0.5, 0.5], &[0.1, f64::NAN]).is_nan());
    }

    #[test]
    fn certain_labels_give_the_plain_auc() {
        assert_eq!(expected_auc(&[0.0, 1.0, 0.0, 1.0], &[0.1, 0.3, 0.2, 0.15]), 0.75);
    }

    #[test]
    fn what_is_no_number_is_not_accepted() {
        let limits = ShiftLimits::default();
        assert!(limits.accept(&Shift { probability: 5e-3, auc: 2e-3 }));
        for (probability, auc) in [(6e-3, 0.0), (0.0, 3e-3), (f64::NAN, 0.0), (0.0, f64::NAN)] {
            assert!(!limits.accept(&Shift { probability, auc }));
        }
        assert!(larger(f64::NAN, 1.0).is_nan() && larger(1.0, f64::NAN).is_nan());
    }
}
