//! `gavel import`: models of other formats as bundles.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::exit::{Exit, Failure};
use super::print;
use crate::import::onnx::{self, Options, Rules};
use crate::model::Tolerance;

/// Makes a bundle of a model in another format
#[derive(Subcommand, Clone, Debug)]
pub enum ImportCommand {
    /// Imports an ONNX file (opsets 13 to 22, tree ensembles too)
    ///
    /// Axis 0 of every input is the batch; a graph in which an op mixes rows is refused. Without --features every input becomes a feature of
    /// the candidate under its own name; columns whose values select rows of a table become features INPUT.J. docs/import.md lists the ops that
    /// are taken, and the keys of features.toml.
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

/// Imports and prints the report. Errors: what the file holds that cannot be imported, with the place and the way out.
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
    let report = onnx::import(&options).map_err(Failure::new)?;
    print(&format!("{report}bundle       {}\n", args.out.display()))
}
