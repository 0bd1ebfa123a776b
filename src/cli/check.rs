//! `gavel check`: is this bundle whole, and does an engine compute what it records?

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::exit::{Exit, Failure};
use super::table::TextTable;
use super::{loading, print};
use crate::config::{EngineChoice, PrecisionChoice};
use crate::engine::precision::{PrecisionReport, Shift, ShiftLimits};
use crate::engine::selftest::Report;
use crate::engine::{self, EngineKind, selftest};
use crate::model::LoadOptions;
use crate::server::plan::{choose_engine, prepare_options};

/// Checks a bundle: digests, shapes, and its selftest on an engine
///
/// Does what a server does before it serves a bundle, and prints how far the engine is from the recorded outputs. Run it where the bundle is
/// made, before it is shipped.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Folder of the bundle
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,

    /// Which engine computes; take the one that will serve
    #[arg(long, value_name = "ENGINE", default_value = "auto", value_parser = PossibleValuesParser::new(EngineChoice::NAMES))]
    pub engine: String,

    /// In what numbers dense layers are computed
    ///
    /// int8 and f16 say which layers they take, and how far that moves probabilities and the AUC on the selftest's rows.
    #[arg(long, value_name = "PRECISION", default_value = "f32", value_parser = PossibleValuesParser::new(PrecisionChoice::NAMES))]
    pub precision: String,

    /// How far reduced precision may move a probability
    #[arg(long, value_name = "SHIFT", default_value_t = ShiftLimits::default().probability)]
    pub precision_shift: f64,

    /// How far reduced precision may move the AUC
    #[arg(long, value_name = "SHIFT", default_value_t = ShiftLimits::default().auc)]
    pub precision_auc: f64,
}

/// Prints the report. Errors: the first fault of the bundle, or the first row that the engine computes differently.
pub fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    let choice: EngineChoice = args.engine.parse().map_err(Failure::usage)?;
    let mut notes = Vec::new();
    let engine = choose_engine(choice, &mut notes).map_err(Failure::environment)?;
    if engine == EngineKind::Null {
        return Err(Failure::usage("the null engine computes nothing that could be checked: name another one"));
    }
    let limits = ShiftLimits { probability: args.precision_shift, auc: args.precision_auc };
    let precision: PrecisionChoice = args.precision.parse().map_err(Failure::usage)?;
    let options = prepare_options(engine, precision, limits).map_err(Failure::environment)?;
    notes.iter().for_each(|(_, note)| eprintln!("note: {note}"));
    let model = loading::load(&args.bundle, &LoadOptions::default()).map_err(Failure::new)?;
    let began = Instant::now();
    let prepared = engine::prepare_with(engine, &model, &options).map_err(Failure::new)?;
    let report = selftest::replay(&prepared, &model).map_err(|error| Failure::new(format!("{}: {error}", args.bundle.display())))?;
    let mut text = String::new();
    let _ = writeln!(text, "{}: bundle is whole, digest {}", model.name, model.digest);
    for (output, error) in &report.outputs {
        let _ = writeln!(text, "{output}: largest error {error:.2e} over {} rows", report.rows);
    }
    if let (Some(decided), Some(shifts)) = (prepared.precision(), &report.shifts) {
        describe(&mut text, decided, &report, shifts);
    }
    let _ = writeln!(text, "a row alone and in a batch: largest difference {:.2e}", report.alone);
    let _ = writeln!(text, "passed on {} in {:.0} ms", engine.name(), began.elapsed().as_secs_f64() * 1e3);
    print(&text)
}

/// What reduced precision does to each output, and where it is used.
fn describe(text: &mut String, decided: &PrecisionReport, report: &Report, shifts: &[Shift]) {
    let precision = decided.precision.name();
    for ((output, _), shift) in report.outputs.iter().zip(shifts) {
        let _ = writeln!(text, "{output}: {precision} moves it by {shift}; allowed {}", decided.limits);
    }
    let (reduced, layers) = (decided.reduced(), decided.layers.len());
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
}
