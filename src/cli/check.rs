//! `gavel check`: is this bundle whole, and does an engine compute what it records?

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::exit::{Exit, Failure};
use super::{loading, print};
use crate::config::EngineChoice;
use crate::engine::{self, EngineKind, selftest};
use crate::model::LoadOptions;
use crate::server::plan::choose_engine;

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
}

/// Prints the report. Errors: the first fault of the bundle, or the first row that the engine computes differently.
pub fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    let choice: EngineChoice = args.engine.parse().map_err(Failure::usage)?;
    let mut notes = Vec::new();
    let engine = choose_engine(choice, &mut notes).map_err(Failure::environment)?;
    if engine == EngineKind::Null {
        return Err(Failure::usage("the null engine computes nothing that could be checked: name another one"));
    }
    notes.iter().for_each(|(_, note)| eprintln!("note: {note}"));
    let model = loading::load(&args.bundle, &LoadOptions::default()).map_err(Failure::new)?;
    let prepared = engine::prepare(engine, &model).map_err(Failure::new)?;
    let began = Instant::now();
    let report = selftest::replay(&prepared, &model).map_err(|error| Failure::new(format!("{}: {error}", args.bundle.display())))?;
    let mut text = String::new();
    let _ = writeln!(text, "{}: bundle is whole, digest {}", model.name, model.digest);
    for (output, error) in &report.outputs {
        let _ = writeln!(text, "{output}: largest error {error:.2e} over {} rows", report.rows);
    }
    let _ = writeln!(text, "a row alone and in a batch: largest difference {:.2e}", report.alone);
    let _ = writeln!(text, "passed on {} in {:.0} ms", engine.name(), began.elapsed().as_secs_f64() * 1e3);
    print(&text)
}
