//! Which dense layers are computed in reduced precision: decided by measuring, on the rows of the selftest, how far answers move.
//!
//! All layers that gain by it are reduced first, with inputs brought to similar size ([`balance`]). While answers move too far, the layer with the
//! largest effect of its own gets finer input scales, if that helps it, and else goes back to f32. Everything is deterministic; at most
//! one plan per layer and fineness is measured, and one per change.

mod balance;
mod parts;
mod reduce;

use std::sync::Arc;

use crate::engine::cpu::gemm::half::Widening;
use crate::engine::cpu::gemm::int8::Dot;
use crate::engine::cpu::program::{Options, Program};
use crate::engine::precision::{LayerPrecision, Precision, PrecisionReport, Shift, ShiftLimits, larger};
use crate::engine::selftest::score_rows;
use crate::engine::{EngineError, Prepared};
use crate::model::Model;

use self::balance::{Factors, Sizes};
use self::parts::PARTS_MAX;
use self::reduce::{Choice, Layer, PIECES, Reduced, layers, reduce};

/// What is asked of dense layers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PrecisionOptions {
    /// Of layers that gain by it.
    pub precision: Precision,
    /// How far answers may move.
    pub limits: ShiftLimits,
    /// Reduce layers that do not gain by it too: for tests.
    pub even_small: bool,
}

/// Plans a model in reduced precision.
pub fn plan(model: &Arc<Model>, options: &Options) -> Result<Program, EngineError> {
    if options.precision.precision == Precision::Bf16 {
        let reason = "the cpu engine has no arithmetic in bf16; take f32, int8 or f16, or engine cuda".into();
        return Err(EngineError::Precision { precision: Precision::Bf16.name(), reason });
    }
    let rows = model.selftest.rows();
    if rows == 0 {
        let reason = "the model has no selftest rows to measure it on; export the bundle with a selftest, or take f32".into();
        return Err(EngineError::Precision { precision: options.precision.precision.name(), reason });
    }
    let (dot, widening) = (Dot::of(options.simd), Widening::of(options.simd));
    let instructions = match (options.precision.precision, widening) {
        (Precision::F16, None) => {
            let reason = "this CPU has no instructions that widen 16-bit floats (F16C); take f32 or int8".into();
            return Err(EngineError::Precision { precision: Precision::F16.name(), reason });
        }
        (Precision::F16, Some(widening)) => widening.name(),
        _ => dot.name(),
    };
    let first = if options.precision.precision == Precision::F16 { Choice::F16 } else { Choice::Int8(0) };
    let mut found = Vec::new();
    super::build(model, options, &mut |lowered| {
        found = layers(lowered).into_iter().map(|layer| (name(model, &layer), layer)).collect();
        Ok(())
    })?;
    let layers: Vec<Candidate> = found
        .into_iter()
        .map(|(name, layer)| {
            let gains = options.precision.even_small || gains(&layer, first, dot);
            Candidate { name, layer, gains, choice: if gains { first } else { Choice::F32 }, own: None }
        })
        .collect();
    let mut planner = Planner { model, options, dot, layers, factors: Factors::new(), reduced: Reduced::default(), measured: 0 };
    planner.skip_all_but_the_largest();
    // A sample first: rows of a long selftest cost more than what they tell.
    let sample: Vec<usize> = (0..rows).step_by(rows.div_ceil(SAMPLE_ROWS)).collect();
    if first != Choice::F16 {
        planner.balance(&sample)?;
    }
    let (mut program, mut shift) = planner.settle(&sample)?;
    if sample.len() < rows {
        let all: Vec<usize> = (0..rows).collect();
        shift = planner.measure(&program, &all)?;
        if !options.precision.limits.accept(&shift) {
            (program, shift) = planner.settle(&all)?;
        }
    }
    let report = planner.report(shift, instructions);
    let mut program = Arc::into_inner(program).expect("a program that nobody else holds");
    program.precision = Some(report);
    Ok(program)
}

/// The value's name in the graph; parts of layers that the planner made are numbered.
fn name(model: &Model, layer: &Layer) -> String {
    model.graph.values.get(layer.out).map_or_else(|| format!("part {}", layer.out), |value| value.name.clone())
}

/// Whether a layer is computed faster, by measured speeds: in 8 bits quantising rows costs time too; with weights of 16 bits large matrices gain,
/// that no near cache holds.
fn gains(layer: &Layer, choice: Choice, dot: Dot) -> bool {
    let step = match choice {
        Choice::F32 => return true,
        Choice::F16 => return layer.k * layer.n >= F16_LEAST,
        Choice::Int8(step) => step,
    };
    let (k, n, scales) = (layer.k as f32, layer.n as f32, layer.pieces(step).len() as f32);
    let (f32_macs, int8_macs) = dot.speeds();
    let int8 = k * n / int8_macs + 0.06 * n * scales + 10.0 + 6.0 * scales + 0.08 * k;
    k * n / f32_macs > 1.2 * int8
}

struct Candidate {
    name: String,
    layer: Layer,
    gains: bool,
    choice: Choice,
    /// What reducing this layer alone does.
    own: Option<Shift>,
}

struct Planner<'m> {
    model: &'m Arc<Model>,
    options: &'m Options,
    dot: Dot,
    layers: Vec<Candidate>,
    factors: Factors,
    reduced: Reduced,
    measured: usize,
}

impl Planner<'_> {
    fn limits(&self) -> ShiftLimits {
        self.options.precision.limits
    }

    /// A bound on the time of planning.
    fn skip_all_but_the_largest(&mut self) {
        let mut order: Vec<usize> = (0..self.layers.len()).filter(|&at| self.layers[at].gains).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(self.layers[at].layer.k * self.layers[at].layer.n));
        order.into_iter().skip(LAYERS_MAX).for_each(|at| self.layers[at].choice = Choice::F32);
    }

    /// Looks at the inputs of layers on these rows, and brings them to similar size.
    fn balance(&mut self, rows: &[usize]) -> Result<(), EngineError> {
        let mut sizes = Sizes::default();
        let program = super::build(self.model, self.options, &mut |lowered| {
            sizes.observe(lowered);
            Ok(())
        })?;
        self.measure(&Arc::new(program), rows)?;
        self.factors = sizes.factors();
        Ok(())
    }

    /// Takes layers back until the plan is within the limits on these rows.
    fn settle(&mut self, rows: &[usize]) -> Result<(Arc<Program>, Shift), EngineError> {
        loop {
            let choices: Vec<Choice> = self.layers.iter().map(|candidate| candidate.choice).collect();
            let program = self.program(&choices)?;
            let shift = self.measure(&program, rows)?;
            if self.limits().accept(&shift) || choices.iter().all(|choice| *choice == Choice::F32) {
                return Ok((program, shift));
            }
            drop(program);
            let Some(worst) = self.worst(rows)? else { continue };
            self.take_back(worst, rows)?;
        }
    }

    /// The reduced layer with the largest effect of its own.
    fn worst(&mut self, rows: &[usize]) -> Result<Option<usize>, EngineError> {
        let mut worst: Option<(f64, usize)> = None;
        for at in 0..self.layers.len() {
            let choice = self.layers[at].choice;
            if choice == Choice::F32 {
                continue;
            }
            let own = match self.layers[at].own {
                Some(own) => own,
                None => self.own(at, choice, rows)?,
            };
            self.layers[at].own = Some(own);
            let size = self.size(own);
            if worst.is_none_or(|(most, _)| size > most || size.is_nan()) {
                worst = Some((size, at));
            }
        }
        Ok(worst.map(|(_, at)| at))
    }

    /// Finer scales for a layer if they make its effect clearly smaller and it still gains, else f32.
    fn take_back(&mut self, at: usize, rows: &[usize]) -> Result<(), EngineError> {
        let Choice::Int8(step) = self.layers[at].choice else {
            self.layers[at].choice = Choice::F32;
            return Ok(());
        };
        let mut before = self.layers[at].layer.pieces(step).len();
        for finer in step + 1..PIECES.len() {
            let layer = &self.layers[at].layer;
            let scales = layer.pieces(finer).len();
            if scales == before || scales > PARTS_MAX || !(self.options.precision.even_small || gains(layer, Choice::Int8(finer), self.dot))
            {
                continue;
            }
            before = scales;
            let own = self.own(at, Choice::Int8(finer), rows)?;
            if self.layers[at].own.is_none_or(|coarse| self.size(own) <= WORTH * self.size(coarse)) {
                (self.layers[at].choice, self.layers[at].own) = (Choice::Int8(finer), Some(own));
                return Ok(());
            }
        }
        self.layers[at].choice = Choice::F32;
        Ok(())
    }

    /// A shift as a share of what is allowed.
    fn size(&self, shift: Shift) -> f64 {
        let limits = self.limits().like(&shift);
        let share = |(shift, limit): (f64, f64)| if shift == 0.0 { 0.0 } else { shift / limit };
        let shares = [(shift.probability, limits.probability), (shift.value, limits.value), (shift.auc, limits.auc)];
        shares.into_iter().filter_map(|(shift, limit)| shift.zip(limit).map(share)).fold(0.0, larger)
    }

    /// The effect of one layer alone.
    fn own(&mut self, at: usize, choice: Choice, rows: &[usize]) -> Result<Shift, EngineError> {
        let choices: Vec<Choice> = (0..self.layers.len()).map(|layer| if layer == at { choice } else { Choice::F32 }).collect();
        let program = self.program(&choices)?;
        self.measure(&program, rows)
    }

    fn program(&mut self, choices: &[Choice]) -> Result<Arc<Program>, EngineError> {
        let (simd, reduced) = (self.options.simd, &mut self.reduced);
        let factors = &self.factors;
        super::build(self.model, self.options, &mut |lowered| reduce(lowered, choices, factors, simd, reduced)).map(Arc::new)
    }

    fn measure(&mut self, program: &Arc<Program>, rows: &[usize]) -> Result<Shift, EngineError> {
        self.measured += 1;
        let inputs = self.model.selftest.inputs.subset(rows);
        let scores = score_rows(&Prepared::Cpu(Arc::clone(program)), self.model, &inputs);
        let scores = scores
            .map_err(|error| EngineError::Precision { precision: self.options.precision.precision.name(), reason: error.to_string() })?;
        Ok(Shift::measure(self.model, rows, &scores))
    }

    fn report(&self, shift: Shift, instructions: &'static str) -> PrecisionReport {
        let layers = self.layers.iter().map(|candidate| {
            let reason = match (candidate.choice, candidate.own) {
                (Choice::F32, Some(own)) => format!("alone it moves answers by {own}"),
                (Choice::F32, None) if candidate.gains => format!("only the {LAYERS_MAX} largest layers are tried"),
                (Choice::F32, None) => "too small to gain".into(),
                (Choice::F16, _) => "half of the bytes".into(),
                (Choice::Int8(step), _) => scales(candidate.layer.pieces(step).len()),
            };
            let precision = if candidate.choice == Choice::F32 { Precision::F32 } else { self.options.precision.precision };
            LayerPrecision { name: candidate.name.clone(), k: candidate.layer.k, n: candidate.layer.n, precision, reason }
        });
        PrecisionReport {
            precision: self.options.precision.precision,
            limits: self.limits(),
            layers: layers.collect(),
            shift,
            instructions,
            measured: self.measured,
            judged: self.layers.iter().filter(|candidate| candidate.gains).count(),
        }
    }
}

fn scales(count: usize) -> String {
    if count == 1 { "one input scale".into() } else { format!("{count} input scales") }
}

/// Weights from which on reading fewer bytes is worth something: a quarter of a MiB in f32.
const F16_LEAST: usize = 1 << 16;
/// Rows that plans are compared on; the last one is measured on all.
const SAMPLE_ROWS: usize = 512;
/// A finer scale must bring the effect of a layer down to this share.
const WORTH: f64 = 0.8;
/// Layers that are tried, the largest first: each may cost a plan per fineness, and one more.
const LAYERS_MAX: usize = 64;
