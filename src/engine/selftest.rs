//! The selftest of a bundle through an engine: a model that does not compute what its trainer recorded is not served.

use std::fmt;

use crate::batch::{Blocks, Need, Request, ScopeLayout, Slot, SlotLimits, admit, measure};
use crate::model::{FeatureRows, Model, Output};

use super::precision::{PrecisionReport, Shift};
use super::replay::{BatchFailed, Replay};
use super::{EngineError, Prepared, SizeApart};

/// How far an engine is from the recorded outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Rows compared.
    pub rows: usize,
    /// Per output: its name and the largest absolute difference.
    pub outputs: Vec<(String, f64)>,
    /// Per output: how far answers moved, where reduced precision was asked for.
    pub shifts: Option<Vec<Shift>>,
    /// Largest absolute difference between a row in the batch and the same row alone, over all outputs.
    pub alone: f64,
}

impl Report {
    /// The largest difference of all.
    pub fn worst(&self) -> f64 {
        self.outputs.iter().map(|(_, error)| *error).fold(0.0, f64::max)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows, largest error {:.1e}", self.rows, self.worst())
    }
}

/// Why a selftest does not pass.
#[derive(Debug, thiserror::Error)]
pub enum SelftestError {
    /// An output is wrong.
    #[error(
        "selftest: output {output}, row {row}: the engine computes {found}, the bundle records {expected} (allowed difference {allowed:.1e}); \
         the weights or the graph are not those that the selftest was recorded with: export the bundle again"
    )]
    Mismatch {
        /// Which output.
        output: String,
        /// Row of the selftest.
        row: usize,
        /// From the engine.
        found: f32,
        /// From the bundle.
        expected: f64,
        /// By the bundle's tolerance, at this value.
        allowed: f64,
    },
    /// Reduced precision moves answers further than was allowed.
    #[error(
        "selftest: output {output} moves by {shift} in {precision}, allowed are {allowed}; raise precision_shift or precision_auc if that is \
         acceptable, or take precision f32"
    )]
    Shift {
        /// Which output.
        output: String,
        /// As configured.
        precision: &'static str,
        /// Measured.
        shift: Box<Shift>,
        /// The limits of what is measured of this output.
        allowed: Box<Shift>,
    },
    /// A row's score depends on the rows that it was computed with.
    #[error("selftest: row {row}: {found} in a batch, {alone} alone; an op of the graph mixes rows, and such a model cannot be batched")]
    Mixed {
        /// Row of the selftest.
        row: usize,
        /// In the batch.
        found: f32,
        /// Alone.
        alone: f32,
    },
    /// Wrong in a batch that the engine computes by other means than small ones.
    #[error("in a batch of {size} candidates, all of them rows of the selftest: {source}")]
    Large {
        /// Candidates.
        size: usize,
        /// What is wrong.
        source: Box<SelftestError>,
    },
    /// A row of the selftest is not a legal request.
    #[error("selftest: row {row} is refused: {reason}")]
    Illegal {
        /// Row of the selftest.
        row: usize,
        /// Why.
        reason: String,
    },
    /// The engine.
    #[error("selftest: {0}")]
    Engine(#[from] EngineError),
    /// A batch failed.
    #[error("selftest: {0}")]
    Batch(#[from] BatchFailed),
}

/// Rows per batch.
const ROWS: usize = 256;
/// Of the rows, so many are also computed alone.
const ROWS_ALONE: usize = 16;

/// Replays the selftest of `model` and compares with what it records: within the bundle's tolerance, or, if any dense layer is computed in
/// reduced precision, within the limits of their shift.
pub fn replay(prepared: &Prepared, model: &Model) -> Result<Report, SelftestError> {
    let selftest = &model.selftest;
    let scores = score_rows(prepared, model, &selftest.inputs)?;
    let rows: Vec<usize> = (0..selftest.rows()).collect();
    let (outputs, shifts) = judge(prepared, model, &rows, &scores)?;
    let mut alone = 0f64;
    for row in (0..selftest.rows()).step_by(selftest.rows().div_ceil(ROWS_ALONE)) {
        let single = score_rows(prepared, model, &selftest.inputs.subset(&[row]))?;
        for (output, single) in single.iter().enumerate() {
            let found = scores[row * outputs.len() + output];
            let difference = (f64::from(found) - f64::from(*single)).abs();
            // Two roundings of the same number may differ by what the bundle allows each of them.
            if difference > 2.0 * selftest.tolerance.allowed(f64::from(found)) {
                return Err(SelftestError::Mixed { row, found, alone: *single });
            }
            alone = alone.max(difference);
        }
    }
    Ok(Report { rows: selftest.rows(), outputs, shifts, alone })
}

/// The same rows, over and over, in batches of every size that the engine computes by other means than those of [`replay`], as slots of `limits`
/// hold them. Gives those sizes, in candidates.
pub fn replay_large(prepared: &Prepared, model: &Model, limits: SlotLimits) -> Result<Vec<usize>, SelftestError> {
    let mut sizes = Vec::new();
    for SizeApart { rows: size, slot_rows } in prepared.sizes_apart(limits) {
        let replayed = || -> Result<(), SelftestError> {
            let whole = slot_limits(prepared, slot_rows);
            let within = SlotLimits { contexts: limits.contexts.min(slot_rows), rows: slot_rows, ids: whole.ids.min(limits.ids) };
            // Where a slot has fewer requests than candidates, each brings its candidate several times.
            let copies = size.div_ceil(within.contexts);
            let mut replay = Replay::new(prepared, within)?;
            let mut rows: Vec<usize> = Vec::with_capacity(size);
            let mut next = (0..model.selftest.rows()).cycle();
            let scores = replay.collect(|slot| {
                while rows.len() < size {
                    let (row, count) = (next.next().unwrap_or(0), copies.min(size - rows.len()));
                    if !put(slot, model, &model.selftest.inputs, row, count)? {
                        // Ids fill the slot, as they would while serving.
                        if slot.rows() == 0 {
                            return Err(no_room(row));
                        }
                        next = (row..model.selftest.rows()).cycle();
                        break;
                    }
                    rows.extend(std::iter::repeat_n(row, count));
                }
                Ok::<(), SelftestError>(())
            })?;
            judge(prepared, model, &rows, &scores).map(drop)
        };
        replayed().map_err(|source| SelftestError::Large { size, source: Box::new(source) })?;
        sizes.push(size);
    }
    Ok(sizes)
}

/// Compares scores of rows of the selftest, `[rows][outputs]`, with what it records: the largest error of each output, and how far it moved where
/// precision is reduced.
#[expect(clippy::type_complexity, reason = "two columns of one report")]
fn judge(
    prepared: &Prepared,
    model: &Model,
    rows: &[usize],
    scores: &[f32],
) -> Result<(Vec<(String, f64)>, Option<Vec<Shift>>), SelftestError> {
    let selftest = &model.selftest;
    let exact = prepared.precision().is_none_or(|report| report.reduced() == 0);
    let mut outputs: Vec<(String, f64)> = model.graph.outputs.iter().map(|output| (output.name.clone(), 0.0)).collect();
    for (&row, found) in rows.iter().zip(scores.chunks_exact(outputs.len())) {
        for (output, (found, (name, worst))) in found.iter().zip(&mut outputs).enumerate() {
            let expected = selftest.expected[output][row];
            if exact && !selftest.tolerance.accepts(f64::from(*found), expected) {
                let allowed = selftest.tolerance.allowed(expected);
                return Err(SelftestError::Mismatch { output: name.clone(), row, found: *found, expected, allowed });
            }
            *worst = worst.max((f64::from(*found) - expected).abs());
        }
    }
    let shifts = prepared.precision().map(|report| check_shifts(model, report, rows, scores)).transpose()?;
    Ok((outputs, shifts))
}

/// How far each output moved, if that is allowed.
fn check_shifts(model: &Model, report: &PrecisionReport, rows: &[usize], scores: &[f32]) -> Result<Vec<Shift>, SelftestError> {
    let check = |(output, declared): (usize, &Output)| {
        let (shift, limits) = (Shift::of_output(model, rows, scores, output), report.limits);
        // Where nothing is reduced the tolerance has judged, and what it accepts is no shift.
        if report.reduced() == 0 || limits.accept(&shift) {
            return Ok(shift);
        }
        let (allowed, shift) = (Box::new(limits.like(&shift)), Box::new(shift));
        Err(SelftestError::Shift { output: declared.name.clone(), precision: report.precision.name(), shift, allowed })
    };
    model.graph.outputs.iter().enumerate().map(check).collect()
}

/// Scores of rows that have a context each, `[rows][outputs]`.
pub fn score_rows(prepared: &Prepared, model: &Model, rows: &FeatureRows) -> Result<Vec<f32>, SelftestError> {
    let mut replay = Replay::new(prepared, slot_limits(prepared, ROWS))?;
    let mut row = 0;
    replay.collect(|slot| {
        let end = rows.rows().min(row + ROWS);
        while row < end {
            if !put(slot, model, rows, row, 1)? {
                return Err(no_room(row));
            }
            row += 1;
        }
        Ok::<(), SelftestError>(())
    })
}

/// Of a slot for so many rows with a context each.
fn slot_limits(prepared: &Prepared, rows: usize) -> SlotLimits {
    let ids = |scope: &ScopeLayout| scope.ids_max * rows;
    SlotLimits { contexts: rows, rows, ids: ids(&prepared.layout().context).max(ids(&prepared.layout().candidate)).max(1) }
}

fn no_room(row: usize) -> SelftestError {
    SelftestError::Illegal { row, reason: "more ids than a slot holds".into() }
}

/// Writes a request into a slot: a row's context, and its candidate so many times. False: it is full.
fn put(slot: &mut Slot, model: &Model, rows: &FeatureRows, row: usize, candidates: usize) -> Result<bool, SelftestError> {
    let (context, candidate) = (rows.encode_context(row), rows.encode_candidates(&vec![row; candidates]));
    let request = Request {
        context: Blocks { dense: &context.dense, ids: &context.ids, lengths: &context.lengths, weights: &context.weights },
        candidate: Blocks { dense: &candidate.dense, ids: &candidate.ids, lengths: &candidate.lengths, weights: &candidate.weights },
        candidates,
        mask: None,
        bids: None,
    };
    let illegal = |fault: crate::batch::Fault| {
        let feature = fault.feature.and_then(|feature| model.features.get(usize::from(feature)));
        let at = feature.map_or(String::new(), |feature| format!(" in feature {}", feature.name));
        SelftestError::Illegal { row, reason: format!("{:?}{at}", fault.kind) }
    };
    let layout = slot.layout().clone();
    let need: Need = measure(&layout, &request).map_err(illegal)?;
    let Ok(draft) = slot.reserve(need) else { return Ok(false) };
    let counts = admit(&layout, &request, draft).map_err(illegal)?;
    slot.commit(0, counts);
    Ok(true)
}
