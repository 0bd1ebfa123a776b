//! `gavel import`: models of other formats as bundles.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::exit::{Exit, Failure};
use super::{loading, print};
use crate::engine::selftest::{self, SelftestError};
use crate::engine::{self, EngineKind};
use crate::import::onnx::{self, Draft, Expected, Options, Rules};
use crate::model::{LoadOptions, Tolerance};

/// Makes a bundle of a model in another format
#[derive(Subcommand, Clone, Debug)]
pub enum ImportCommand {
    /// Imports an ONNX file (opsets 7 to 25, tree ensembles too)
    ///
    /// Axis 0 of every input is the batch; a graph in which an op mixes rows is refused. Without --features every input becomes a
    /// feature of the candidate under its own name; columns whose values select rows of a table become features INPUT.J. docs/import.md
    /// lists the ops that are taken, and the keys of features.toml. The bundle's selftest is replayed on the engine before the folder appears.
    Onnx(OnnxArgs),
}

/// Flags of `gavel import onnx`.
#[derive(Args, Clone, Debug)]
pub struct OnnxArgs {
    /// The ONNX file; data files that it names must lie beside it
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,

    /// Names, scopes, kinds, hashing and other rules of inputs and outputs
    #[arg(long, value_name = "FILE.toml")]
    pub features: Option<PathBuf>,

    /// Rows for the selftest: the graph's inputs by name and, if you have them, its outputs; without it, rows are made up
    #[arg(long, value_name = "FILE.safetensors")]
    pub rows: Option<PathBuf>,

    /// The bundle's folder, which must not exist
    #[arg(long, value_name = "BUNDLE")]
    pub out: PathBuf,

    /// Size of a named axis other than the batch
    #[arg(long = "dim", value_name = "NAME=SIZE", value_parser = size)]
    pub sizes: Vec<(String, usize)>,

    /// Allowed absolute difference to the recorded outputs, now and at every load
    #[arg(long, value_name = "X", default_value_t = 1e-5, value_parser = bound)]
    pub atol: f64,

    /// Allowed difference relative to the recorded output, added to --atol
    #[arg(long, value_name = "X", default_value_t = 1e-5, value_parser = bound)]
    pub rtol: f64,
}

fn size(text: &str) -> Result<(String, usize), String> {
    let (name, size) = text.split_once('=').ok_or("expected NAME=SIZE")?;
    let size = size.parse().map_err(|_| format!("{size:?} is no size"))?;
    Ok((name.to_owned(), size))
}

fn bound(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0).ok_or_else(|| "expected a number from 0".to_owned())
}

/// Imports, and prints the report. Errors: what the file holds that cannot be imported, with the place and the way out; a bundle that no server
/// would serve.
pub fn run(command: &ImportCommand) -> Result<Exit, Failure> {
    let ImportCommand::Onnx(args) = command;
    let rules = match &args.features {
        None => Rules::default(),
        Some(file) => {
            let text = fs::read_to_string(file).map_err(|error| Failure::usage(format!("{}: cannot be read: {error}", file.display())))?;
            Rules::parse(file, &text).map_err(Failure::usage)?
        }
    };
    let options = Options {
        model: args.model.clone(),
        rules,
        rows: args.rows.clone(),
        sizes: args.sizes.clone(),
        tolerance: Tolerance { atol: args.atol, rtol: args.rtol },
        out: args.out.clone(),
    };
    let draft = onnx::import(&options).map_err(Failure::new)?;
    let computed = compute(&draft).map_err(|fault| Failure::new(format!("{}: {fault}", args.model.display())))?;
    let report = draft.publish().map_err(Failure::new)?;
    let engine = EngineKind::Cpu.name();
    print(&format!("{report}engine       {engine} passes the selftest: {computed}\nbundle       {}\n", args.out.display()))
}

/// What a server does before it serves a bundle: loads it, and replays its selftest on the engine.
fn compute(draft: &Draft) -> Result<selftest::Report, String> {
    let model =
        loading::load(draft.folder(), &LoadOptions::default()).map_err(|error| format!("the imported bundle is refused: {error}"))?;
    let prepared = engine::prepare(EngineKind::Cpu, &model).map_err(|error| error.to_string())?;
    selftest::replay(&prepared, &model).map_err(|error| match error {
        SelftestError::Mismatch { output, row, found, expected, allowed } => {
            let (rows, remedy) = match draft.report().expected {
                Expected::MadeUp => (
                    "made-up row",
                    "If real inputs are not like that, give some (--rows FILE.safetensors); else keep intermediate values smaller in the model",
                ),
                Expected::Given { .. } | Expected::Computed => ("row", "Keep intermediate values smaller in the model"),
            };
            format!(
                "output {output}, {rows} {row}: the engine computes {found} in f32, expected is {expected} (allowed difference {allowed:.1e}): \
                 something on the way overflows in f32, or is rounded too far (masks of -1e9 that are added to scores are: -1e4 hides as well). \
                 No bundle was written. {remedy}, or allow more with --atol and --rtol"
            )
        }
        other => format!("{other}. No bundle was written"),
    })
}
