//! The protocol with the driver: a JSON object a line, an answer a line. An answer with `error` says what went wrong; the next command is taken
//! all the same.
//!
//! ```text
//!   {"do": "load", "model": NAME, "bundle": FOLDER, "precision": "f32", "hoist": true}   → what was loaded
//!   {"do": "open", "runner": NAME, "model": NAME, "batch": N, "sets": K, "inputs": FILE, "cpus": [0, null]}   a thread each
//!   {"do": "score", "runner": NAME, "sets": K, "out": FILE}                         → FILE holds f32 scores
//!   {"do": "round", "runner": NAME, "ms": T, "calls": N}                            → per thread: calls and times
//!   {"do": "close", "runner": NAME}     {"do": "drop", "model": NAME}
//!   {"do": "peak", "ms": T}                                                         → FMA GFLOP/s now
//!   {"do": "read", "bytes": N, "ms": T}                                             → GB/s of reading a buffer of that size again and again
//!   {"do": "ceilings", "ms": T, "rounds": R, "read_bytes": [..], "gather": [[table bytes, row bytes], ..]}
//! ```

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gavel::engine::cpu::{Hoist, Options, PrecisionOptions, Program, Simd};
use gavel::engine::precision::Precision;
use gavel::engine::{Prepared, selftest};
use gavel::model::{LoadOptions, load};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ceilings::{self, Buffer};
use super::inputs::Inputs;
use super::worker::Worker;

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
enum Command {
    Load { model: String, bundle: PathBuf, precision: String, hoist: bool },
    Drop { model: String },
    Open { runner: String, model: String, batch: usize, sets: usize, inputs: PathBuf, cpus: Vec<Option<usize>> },
    Score { runner: String, sets: usize, out: PathBuf },
    Round { runner: String, ms: u64, calls: usize },
    Close { runner: String },
    Peak { ms: u64 },
    Read { bytes: usize, ms: u64 },
    Ceilings { ms: u64, rounds: usize, read_bytes: Vec<usize>, gather: Vec<[usize; 2]> },
}

/// Obeys until the input ends.
pub fn serve(commands: impl BufRead, mut answers: impl Write) -> io::Result<()> {
    let mut child = Child::default();
    for line in commands.lines() {
        let answer = serde_json::from_str(&line?).map_err(|error| error.to_string()).and_then(|command| child.obey(command));
        let answer = answer.unwrap_or_else(|problem| json!({"error": problem}));
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

#[derive(Default)]
struct Child {
    models: HashMap<String, Prepared>,
    runners: HashMap<String, Vec<Worker>>,
    buffer: Option<Buffer>,
}

impl Child {
    fn obey(&mut self, command: Command) -> Result<Value, String> {
        match command {
            Command::Load { model, bundle, precision, hoist } => {
                let (prepared, about) = load_model(bundle, &precision, hoist)?;
                self.models.insert(model, prepared);
                Ok(about)
            }
            Command::Drop { model } => Ok(json!({"dropped": self.models.remove(&model).is_some()})),
            Command::Open { runner, model, batch, sets, inputs, cpus } => {
                let model = self.models.get(&model).ok_or_else(|| format!("no model {model:?}; load it first"))?;
                let inputs = Arc::new(Inputs::read(&inputs, model.layout(), batch, sets)?);
                let workers = cpus.into_iter().map(|cpu| Worker::start(model, &inputs, batch, cpu)).collect();
                self.runners.insert(runner, workers);
                Ok(json!({"opened": true}))
            }
            Command::Score { runner, sets, out } => {
                let scores = self.runner(&runner)?.first().ok_or("a runner has at least one CPU")?.score(sets)?;
                std::fs::write(&out, bytemuck::cast_slice(&scores)).map_err(|error| format!("{}: {error}", out.display()))?;
                Ok(json!({"scores": scores.len()}))
            }
            Command::Round { runner, ms, calls } => {
                let rounds = Worker::round(self.runner(&runner)?, Duration::from_millis(ms), calls)?;
                Ok(json!({"threads": rounds.iter().map(|round| round.json()).collect::<Vec<_>>()}))
            }
            Command::Close { runner } => Ok(json!({"closed": self.runners.remove(&runner).is_some()})),
            Command::Peak { ms } => Ok(ceilings::peaks(Duration::from_millis(ms))),
            Command::Read { bytes, ms } => {
                if self.buffer.as_ref().is_none_or(|buffer| buffer.len() < bytes) {
                    self.buffer = Some(Buffer::new(bytes).map_err(|error| error.to_string())?);
                }
                let rate = self.buffer.as_ref().map(|buffer| buffer.read_rate(bytes, Duration::from_millis(ms)));
                Ok(json!({"rate": rate}))
            }
            Command::Ceilings { ms, rounds, read_bytes, gather } => {
                ceilings::measure(Duration::from_millis(ms), rounds.max(1), &read_bytes, &gather).map_err(|error| error.to_string())
            }
        }
    }

    fn runner(&self, name: &str) -> Result<&[Worker], String> {
        self.runners.get(name).map(Vec::as_slice).ok_or_else(|| format!("no runner {name:?}; open it first"))
    }
}

/// Loads a bundle, plans it, and says what was made of it. In f32 it passes its selftest as a server would have it; a reduced precision has measured
/// its shift on those rows itself.
fn load_model(bundle: PathBuf, precision: &str, hoist: bool) -> Result<(Prepared, Value), String> {
    let precision = [Precision::F32, Precision::Int8, Precision::F16]
        .into_iter()
        .find(|known| known.name() == precision)
        .ok_or_else(|| format!("precision {precision:?}: no such; f32, int8 or f16"))?;
    let model = Arc::new(load(&bundle, &LoadOptions::default(), &mut |_| {}).map_err(|error| error.to_string())?);
    let options = Options {
        hoist: if hoist { Hoist::WherePaying } else { Hoist::Nothing },
        precision: PrecisionOptions { precision, ..PrecisionOptions::default() },
        ..Options::new(Simd::detect())
    };
    let program = Arc::new(Program::planned(&model, &options).map_err(|error| error.to_string())?);
    let (context, candidate) = program.steps();
    let mut about = json!({
        "model": model.name,
        "digest": model.digest.to_string(),
        "simd": program.level().name(),
        "steps": {"context": context, "candidate": candidate},
        "shared_bytes": program.shared_bytes(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    if let Some(report) = program.precision() {
        about["precision"] = json!(report.to_string());
    }
    let prepared = Prepared::Cpu(program);
    if precision == Precision::F32 {
        about["selftest_error"] = json!(selftest::replay(&prepared, &model).map_err(|error| error.to_string())?.worst());
    }
    Ok((prepared, about))
}
