//! `gavel check`: is this bundle whole, and does an engine compute what it records?

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::exit::{Exit, Failure};
use super::precision::{self, PrecisionArgs};
use super::settings::{SettingArgs, key_value};
use super::{loading, print};
use crate::config::EngineChoice;
use crate::engine::precision::{PrecisionReport, Shift};
use crate::engine::selftest::Report;
use crate::engine::{self, EngineKind, selftest};
use crate::model::LoadOptions;
use crate::server::plan::{choose_engine, with_settings};
use crate::server::publish::slot_limits;

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

    /// Of dense layers
    #[command(flatten)]
    pub precision: PrecisionArgs,

    /// Configuration file of the server that will serve: its settings for GPUs and its limits hold here, too
    #[arg(long, value_name = "FILE", env = "GAVEL_CONFIG")]
    pub config: Option<PathBuf>,

    /// One of those settings, over GAVEL_* in the environment over the file, for example cuda.device=1
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
}

/// Prints the report. Errors: the first fault of the bundle, or the first row that the engine computes differently.
pub fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    let choice: EngineChoice = args.engine.parse().map_err(Failure::usage)?;
    let settings = SettingArgs { config: args.config.clone(), set: args.set.clone(), ..SettingArgs::default() }.load()?.config;
    let mut notes = Vec::new();
    let engine = choose_engine(choice, args.precision.choice()?, &settings.cuda, &mut notes).map_err(Failure::environment)?;
    if engine.kind == EngineKind::Null {
        return Err(Failure::usage("the null engine computes nothing that could be checked: name another one"));
    }
    let options = with_settings(args.precision.options(&engine)?, &settings.cuda);
    notes.iter().for_each(|(_, note)| eprintln!("note: {note}"));
    let model = loading::load(&args.bundle, &LoadOptions::default()).map_err(Failure::new)?;
    let began = Instant::now();
    let prepared = engine::prepare_with(engine.kind, &model, &options).map_err(Failure::new)?;
    let failed = |error| Failure::new(format!("{}: {error}", args.bundle.display()));
    let report = selftest::replay(&prepared, &model).map_err(failed)?;
    let large = selftest::replay_large(&prepared, &model, slot_limits(&settings.limits)).map_err(failed)?;
    let mut text = String::new();
    let _ = writeln!(text, "{}: bundle is whole, digest {}", model.name, model.digest);
    for (output, error) in &report.outputs {
        let _ = writeln!(text, "{output}: largest error {error:.2e} over {} rows", report.rows);
    }
    if let (Some(decided), Some(shifts)) = (prepared.precision(), &report.shifts) {
        precision::warn(&model, decided);
        describe(&mut text, decided, &report, shifts);
    }
    if !large.is_empty() {
        let sizes: Vec<String> = large.iter().map(usize::to_string).collect();
        let _ = writeln!(text, "the same rows in batches of {} candidates, computed by other means: passed", sizes.join(" and "));
    }
    let _ = writeln!(text, "a row alone and in a batch: largest difference {:.2e}", report.alone);
    let _ = writeln!(text, "passed on {} in {:.0} ms", engine.kind.name(), began.elapsed().as_secs_f64() * 1e3);
    print(&text)
}

/// What reduced precision does to each output, and where it is used.
fn describe(text: &mut String, decided: &PrecisionReport, report: &Report, shifts: &[Shift]) {
    let precision = decided.precision.name();
    for ((output, _), shift) in report.outputs.iter().zip(shifts) {
        let _ = writeln!(text, "{output}: {precision} moves it by {shift}; allowed {}", decided.limits.like(shift));
    }
    text.push_str(&precision::layers(decided));
}
