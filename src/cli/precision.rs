//! Reduced precision on the command line: the flags that ask for it, and what a plan decided.

use std::fmt::Write;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::exit::Failure;
use super::table::TextTable;
use crate::config::PrecisionChoice;
use crate::engine::PrepareOptions;
use crate::engine::precision::{Precision, PrecisionReport, ShiftLimits};
use crate::model::Model;
use crate::server::plan::{ChosenEngine, prepare_options};

/// How a model is planned.
#[derive(Args, Clone, Debug)]
pub struct PrecisionArgs {
    /// In what numbers dense layers are computed
    ///
    /// bf16 is for GPUs. int8 and f16 are for CPUs and say which layers they take, and how far that moves answers and the AUC on the selftest's rows.
    #[arg(long, value_name = "PRECISION", default_value = "f32", value_parser = PossibleValuesParser::new(PrecisionChoice::NAMES))]
    pub precision: String,

    /// How far reduced precision may move a probability, or a plain value as a share of its range
    #[arg(long, value_name = "SHIFT", default_value_t = ShiftLimits::default().probability)]
    pub precision_shift: f64,

    /// How far reduced precision may move the AUC
    #[arg(long, value_name = "SHIFT", default_value_t = ShiftLimits::default().auc)]
    pub precision_auc: f64,
}

impl PrecisionArgs {
    /// What was asked for.
    pub fn choice(&self) -> Result<PrecisionChoice, Failure> {
        self.precision.parse().map_err(Failure::usage)
    }

    /// As an engine takes them.
    pub fn options(&self, engine: &ChosenEngine) -> Result<PrepareOptions, Failure> {
        let limits = ShiftLimits { probability: self.precision_shift, auc: self.precision_auc };
        prepare_options(engine, self.choice()?, limits).map_err(Failure::environment)
    }
}

/// Warns on stderr if what was measured on this model's selftest says little.
pub fn warn(model: &Model, decided: &PrecisionReport) {
    if let Some(caution) = decided.caution(model) {
        eprintln!("warning: precision {}: {caution}", decided.precision.name());
    }
}

/// Each dense layer with its format and why.
pub fn layers(decided: &PrecisionReport) -> String {
    let (reduced, layers, precision) = (decided.reduced(), decided.layers.len(), decided.precision.name());
    if layers == 0 {
        return format!("the plan has no dense layers: nothing is in {precision}\n");
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{reduced} of {layers} dense layers in {precision} ({}), {} plans measured:",
        decided.instructions, decided.measured
    );
    let mut table = TextTable::new(["layer", "inputs", "outputs", "in", "why"]);
    for layer in &decided.layers {
        table.row(vec![layer.name.clone(), layer.k.to_string(), layer.n.to_string(), layer.precision.name().into(), layer.reason.clone()]);
    }
    let _ = write!(text, "{table}");
    text
}

/// What became of dense layers in a plan: of all outputs together, then layer by layer.
pub fn text(decided: Option<&PrecisionReport>) -> String {
    let Some(decided) = decided else { return format!("\nall dense layers in {}\n", Precision::F32.name()) };
    let limits = decided.limits.like(&decided.shift);
    format!("\nanswers move by {}; allowed {limits}\n{}", decided.shift, layers(decided))
}
