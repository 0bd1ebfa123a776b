//! Precision of dense layers, and how far it moves a model's answers.

use std::fmt;

use serde::Serialize;

use crate::model::{Model, OutputKind, RowsOrigin};

/// In what numbers dense layers are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats: exact up to rounding.
    #[default]
    F32,
    /// 8-bit codes of weights and activations, sums in 32-bit integers.
    Int8,
    /// Weights held as 16-bit floats, arithmetic in 32 bits: half of the bytes to read.
    F16,
    /// Inputs and weights rounded to bf16, products on tensor cores, sums in 32 bits. On GPUs.
    Bf16,
}

impl Precision {
    /// As settings, flags and reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Int8 => "int8",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
        }
    }
}

/// How far a reduced precision may move answers on the selftest's rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ShiftLimits {
    /// Largest difference of a probability, or of a plain value as a share of its range.
    pub probability: f64,
    /// Difference of the AUC.
    pub auc: f64,
}

impl Default for ShiftLimits {
    fn default() -> ShiftLimits {
        ShiftLimits { probability: 5e-3, auc: 2e-3 }
    }
}

impl ShiftLimits {
    /// Whether a shift is within. What is no number is not.
    pub fn accept(&self, shift: &Shift) -> bool {
        let Shift { probability, value, auc } = self.like(shift);
        let within = |shift: Option<f64>, limit: Option<f64>| shift.zip(limit).is_none_or(|(shift, limit)| shift <= limit);
        within(shift.probability, probability) && within(shift.value, value) && within(shift.auc, auc)
    }

    /// The limits of what `shift` measures.
    pub fn like(&self, shift: &Shift) -> Shift {
        let limit = |measured: Option<f64>, limit: f64| measured.map(|_| limit);
        Shift {
            probability: limit(shift.probability, self.probability),
            value: limit(shift.value, self.probability),
            auc: limit(shift.auc, self.auc),
        }
    }
}

/// How far answers moved, against the outputs that the bundle records: the worst over all outputs that are measured so. A difference within the
/// selftest's tolerance is none: f32 moves answers as far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Shift {
    /// Largest difference of a probability; of an output that is a logit, of its sigmoid.
    pub probability: Option<f64>,
    /// Largest difference of a plain value, as a share of the range that it has over the selftest's rows.
    pub value: Option<f64>,
    /// Difference of the AUC of probabilities and logits, against the selftest's labels where it has them. Else of the AUC that is to be expected
    /// if labels are drawn as the recorded probabilities say: the probability that of two rows, one drawn with a click and one without, the one
    /// with the click is ranked higher. Rows whose probabilities are nearly equal may then change places at nearly no cost.
    pub auc: Option<f64>,
}

impl Shift {
    /// Of scores `[rows][outputs]` of these rows of the model's selftest.
    pub fn measure(model: &Model, rows: &[usize], scores: &[f32]) -> Shift {
        (0..model.graph.outputs.len()).map(|output| Shift::of_output(model, rows, scores, output)).fold(Shift::default(), Shift::worse)
    }

    /// Of one output.
    pub fn of_output(model: &Model, rows: &[usize], scores: &[f32], output: usize) -> Shift {
        let (outputs, selftest) = (model.graph.outputs.len(), &model.selftest);
        let expected: Vec<f64> = rows.iter().map(|&row| selftest.expected[output][row]).collect();
        let found = scores.iter().skip(output).step_by(outputs).map(|&score| f64::from(score));
        let counted = |(found, &expected)| if selftest.tolerance.accepts(found, expected) { expected } else { found };
        let found: Vec<f64> = found.zip(&expected).map(counted).collect();
        let labels = selftest.labels.get(output).and_then(Option::as_ref);
        let labels: Option<Vec<f64>> = labels.map(|labels| rows.iter().map(|&row| labels[row]).collect());
        match model.graph.outputs[output].kind {
            OutputKind::Value => {
                let range = range_of(&selftest.expected[output]);
                Shift { value: Some(largest_difference(&expected, &found) / range), ..Shift::default() }
            }
            OutputKind::Probability => Shift::of_probabilities(&expected, &found, labels.as_deref()),
            OutputKind::Logit => {
                let [expected, found] = [expected, found].map(|logits| logits.into_iter().map(sigmoid).collect::<Vec<f64>>());
                Shift::of_probabilities(&expected, &found, labels.as_deref())
            }
        }
    }

    fn of_probabilities(expected: &[f64], found: &[f64], labels: Option<&[f64]>) -> Shift {
        let positive = labels.unwrap_or(expected);
        Shift {
            probability: Some(largest_difference(expected, found)),
            value: None,
            auc: Some((expected_auc(positive, expected) - expected_auc(positive, found)).abs()),
        }
    }

    /// The larger of each.
    fn worse(self, other: Shift) -> Shift {
        let worse = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| larger(a, b)).or(a).or(b);
        Shift {
            probability: worse(self.probability, other.probability),
            value: worse(self.value, other.value),
            auc: worse(self.auc, other.auc),
        }
    }
}

impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measured = [(self.probability, "in probability"), (self.value, "of a value's range"), (self.auc, "in AUC")];
        let parts: Vec<String> = measured.iter().filter_map(|(shift, what)| shift.map(|shift| format!("{shift:.1e} {what}"))).collect();
        f.write_str(&parts.join(", "))
    }
}

/// The larger of two; NaN if either is.
pub(super) fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn largest_difference(expected: &[f64], found: &[f64]) -> f64 {
    expected.iter().zip(found).map(|(expected, found)| (expected - found).abs()).fold(0.0, larger)
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
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    /// Layers about which the selftest's rows decided: the others do not gain by the precision.
    pub judged: usize,
}

impl PrecisionReport {
    /// Layers that are reduced.
    pub fn reduced(&self) -> usize {
        self.layers.iter().filter(|layer| layer.precision != Precision::F32).count()
    }

    /// Why what was measured says little of real answers, and what to do: where the rows of the model's selftest are not those of real traffic.
    pub fn caution(&self, model: &Model) -> Option<String> {
        let (rows, remedy) = match model.selftest.origin {
            RowsOrigin::MadeUp if self.judged > 0 => (
                "the selftest's rows are made up",
                "import or export the bundle again with rows of real traffic (--rows of gavel import, selftest_inputs of gavel.export)",
            ),
            RowsOrigin::Mixed if self.judged > 0 => (
                "some of the selftest's rows were mixed from others or drawn at random",
                "export the bundle again with as many rows of real traffic as the selftest has (selftest_inputs of gavel.export)",
            ),
            RowsOrigin::MadeUp | RowsOrigin::Mixed | RowsOrigin::Given => return None,
        };
        Some(format!(
            "{rows}, and they decided about {} layers: on real requests answers may move further than was measured. Before you serve it so, {remedy}",
            self.judged
        ))
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
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    use crate::model::{Graph, Output, Tolerance, ValueId, Weights};

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
        let shift = |probability, value, auc| Shift { probability: Some(probability), value: Some(value), auc: Some(auc) };
        assert!(limits.accept(&shift(5e-3, 5e-3, 2e-3)) && limits.accept(&Shift::default()));
        for (probability, value, auc) in
            [(6e-3, 0.0, 0.0), (0.0, 6e-3, 0.0), (0.0, 0.0, 3e-3), (f64::NAN, 0.0, 0.0), (0.0, f64::NAN, 0.0), (0.0, 0.0, f64::NAN)]
        {
            assert!(!limits.accept(&shift(probability, value, auc)));
        }
        assert!(larger(f64::NAN, 1.0).is_nan() && larger(1.0, f64::NAN).is_nan());
    }

    /// A model with outputs of these kinds, whose selftest records these outputs with a tolerance of 1e-6.
    fn model(outputs: &[(OutputKind, &[f64])]) -> Model {
        let declared = outputs.iter().map(|(kind, _)| Output { name: format!("{kind:?}"), kind: *kind, value: ValueId(0) });
        let graph = Graph { outputs: declared.collect(), ..Graph::default() };
        let mut model = Model::new("test", vec![], graph, Weights::default());
        model.selftest.expected = outputs.iter().map(|(_, expected)| expected.to_vec()).collect();
        model.selftest.tolerance = Tolerance { atol: 1e-6, rtol: 0.0 };
        model
    }

    #[test]
    fn outputs_are_measured_by_their_kind() {
        use OutputKind::{Logit, Probability, Value};
        // Kind, recorded, found, shift, its text without the AUC.
        type Case = (OutputKind, [f64; 2], [f32; 2], f64, &'static str);
        let cases: [Case; 6] = [
            (Probability, [0.2, 0.6], [0.2, 0.75], 0.15, "1.5e-1 in probability"),
            (Logit, [0.0, 1.0], [1.0, 1.0], 0.231, "2.3e-1 in probability"),
            (Value, [10.0, 30.0], [10.0, 31.0], 0.05, "5.0e-2 of a value's range"),
            (Value, [2.0, 2.0], [2.5, 2.0], 0.5, "5.0e-1 of a value's range"),
            // What the selftest tolerates is no shift, however small the range is.
            (Value, [1.0, 1.0 + 1e-7], [1.0 + 5e-7, 1.0], 0.0, "0.0e0 of a value's range"),
            (Probability, [0.2, 0.2], [0.2 + 5e-7, 0.2], 0.0, "0.0e0 in probability"),
        ];
        for (kind, expected, found, size, text) in cases {
            let model = model(&[(kind, &expected)]);
            let shift = Shift::of_output(&model, &[0, 1], &found, 0);
            let (measured, other) = if kind == Value { (shift.value, shift.probability) } else { (shift.probability, shift.value) };
            assert!(measured.is_some_and(|measured| (measured - size).abs() < 1e-4) && other.is_none(), "{kind:?} {shift:?}");
            assert_eq!(shift.auc.is_some(), kind != Value);
            assert_eq!(shift.to_string().split(", ").next(), Some(text));
        }
        let both = model(&[(Probability, &[0.5]), (Value, &[3.0])]);
        let shift = Shift::measure(&both, &[0], &[0.5, 3.25]);
        assert_eq!(shift.to_string(), "0.0e0 in probability, 2.5e-1 of a value's range, 0.0e0 in AUC");
        assert_eq!(ShiftLimits::default().like(&Shift::of_output(&both, &[0], &[0.5, 3.0], 1)).to_string(), "5.0e-3 of a value's range");
    }

    #[test]
    fn rows_of_no_traffic_are_named_with_the_way_out() {
        let mut model = model(&[(OutputKind::Value, &[1.0])]);
        let report = |judged| PrecisionReport {
            precision: Precision::Int8,
            limits: ShiftLimits::default(),
            layers: vec![],
            shift: Shift::default(),
            instructions: "none",
            measured: 2,
            judged,
        };
        for (origin, parts) in [
            (RowsOrigin::Given, None),
            (RowsOrigin::Mixed, Some(["mixed", "selftest_inputs"])),
            (RowsOrigin::MadeUp, Some(["made up", "--rows"])),
        ] {
            model.selftest.origin = origin;
            assert_eq!(report(0).caution(&model), None, "nothing hangs on the rows");
            let caution = report(3).caution(&model);
            assert_eq!(caution.is_some(), parts.is_some());
            assert!(parts.iter().flatten().all(|part| caution.as_ref().is_some_and(|text| text.contains(part))), "{caution:?}");
        }
    }
}
