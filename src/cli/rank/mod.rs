//! `gavel rank`: a file of rows becomes pipelined requests, the scores a file.

pub mod columns;
pub mod json;
pub mod outputs;
mod send;
pub mod tensors;

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{BufReader, IsTerminal, stdin, stdout};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use gavel_client::{Client, Description, Layout, Options};

use super::exit::{Exit, Failure};
use super::progress::{Progress, Unit};
use columns::{Inputs, Notes, RequestLimits};
use outputs::{Format, Outputs};
use send::Sender;

/// Ranks a file of rows with a running server
///
/// Inputs are columns that bear the features' names; what they are, the server tells. Consecutive rows with equal context features become one
/// request, up to the given number of candidates. Rows that the server refuses are named and left without scores; all others are answered.
///
/// Forms of inputs:
///   .safetensors  a tensor per feature; or all dense features packed as `dense`, all id features of fixed length as `sparse` (columns in
///                 the model's order), jagged ones as `values` and `lengths`. A feature of variable length has NAME and NAME.lengths, a
///                 weighted one NAME.weights. The selftest of a bundle is such a file.
///   .jsonl        one row per line: {"I1": 0.3, "C1": 5, "tags": [1, 2]}, or one request per line: {"context": {..}, "candidates": [{..}, ..]}
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct RankArgs {
    /// The server: host:port or unix:/path
    #[arg(long, value_name = "ADDR")]
    pub server: String,

    /// Public name of the model
    #[arg(long, value_name = "NAME")]
    pub model: String,

    /// File of rows, .safetensors or .jsonl; - reads JSON lines from stdin
    #[arg(long, value_name = "FILE")]
    pub inputs: PathBuf,

    /// File of scores, .safetensors or .jsonl; - writes JSON lines to stdout [default: a table on a terminal, else -]
    #[arg(long, value_name = "FILE")]
    pub outputs: Option<PathBuf>,

    /// Most candidates of one request
    ///
    /// What your callers send is the honest choice for a measurement. Larger requests are cheaper per row, and take longer each.
    #[arg(long, value_name = "N", default_value = "128")]
    pub candidates_per_request: NonZeroUsize,

    /// Connections to the server
    ///
    /// A connection is served by one shard: with fewer connections than shards some of them idle.
    #[arg(long, value_name = "N", default_value = "4")]
    pub connections: NonZeroUsize,

    /// Unanswered requests per connection
    #[arg(long, value_name = "N", default_value = "8")]
    pub in_flight: NonZeroUsize,

    /// Budget of each request: an answer that comes later counts as refused [default: none]
    #[arg(long, value_name = "MS")]
    pub deadline_ms: Option<u32>,

    /// No progress, no notes: errors only
    #[arg(long, short)]
    pub quiet: bool,
}

/// Ranks. Exit 3 if rows were refused; an error if nothing could be done.
pub fn run(args: &RankArgs) -> Result<Exit, Failure> {
    let address = args.server.parse().map_err(Failure::usage)?;
    let destination = destination(args.outputs.as_deref())?;
    input_format(&args.inputs)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let options = Options {
        connections: args.connections.get(),
        client: concat!("gavel rank ", env!("CARGO_PKG_VERSION")).into(),
        ..Options::default()
    };
    let client = runtime.block_on(Client::connect(&[address], options)).map_err(Failure::new)?;
    let layout = runtime.block_on(client.describe(&args.model)).map_err(|error| Failure::new(format!("model {}: {error}", args.model)))?;
    let (inputs, notes) = read(&args.inputs, layout.description())?;
    if !args.quiet {
        notes.iter().for_each(|note| eprintln!("note: {note}"));
    }
    let names = layout.description().outputs.iter().map(|output| output.name.clone()).collect();
    let mut outputs = Outputs::new(names, inputs.rows);
    let started = Instant::now();
    let requests = rank(args, &runtime, client, &layout, inputs, &mut outputs)?;
    if !args.quiet {
        report(&outputs, requests, started.elapsed());
    }
    match destination {
        None => print!("{}", outputs.table(TABLE_ROWS)),
        Some(path) => outputs.write(path).map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?,
    }
    for refused in outputs.refused().iter().take(ERRORS_SHOWN) {
        eprintln!("{}", refused.line());
    }
    if outputs.refused().len() > ERRORS_SHOWN {
        eprintln!("error: and {} more", outputs.refused().len() - ERRORS_SHOWN);
    }
    Ok(if outputs.refused().is_empty() { Exit::Ok } else { Exit::Partial })
}

/// Sends everything; returns the number of requests.
fn rank(
    args: &RankArgs,
    runtime: &tokio::runtime::Runtime,
    client: Client,
    layout: &Arc<Layout>,
    inputs: Inputs,
    outputs: &mut Outputs,
) -> Result<usize, Failure> {
    let description = layout.description();
    let limits = RequestLimits {
        candidates: args.candidates_per_request.get().min(description.candidates_max as usize),
        ids: description.ids_max as usize,
    };
    let requests = inputs.requests(description, limits);
    let count = requests.len();
    let mut progress = if args.quiet { Progress::hidden() } else { Progress::new("ranking", inputs.rows as u64, Unit::Count("rows")) };
    let workers = (args.connections.get() * args.in_flight.get()).min(count);
    let budget = args.deadline_ms.map(|ms| Duration::from_millis(ms.into()));
    let sender = Sender::new(client, Arc::clone(layout), inputs, budget);
    runtime.block_on(sender.send_all(requests, workers, outputs, &mut |rows| progress.advance(rows as u64)))?;
    progress.finish();
    Ok(count)
}

fn read(path: &Path, description: &Description) -> Result<(Inputs, Notes), Failure> {
    let name = path.display();
    let result = match input_format(path)? {
        Format::Safetensors => {
            let bytes = fs::read(path).map_err(|error| Failure::new(format!("cannot read {name}: {error}")))?;
            tensors::read(description, &bytes)
        }
        Format::Json if path.as_os_str() == "-" => json::read(description, stdin().lock()),
        Format::Json => {
            let file = File::open(path).map_err(|error| Failure::new(format!("cannot read {name}: {error}")))?;
            json::read(description, BufReader::new(file))
        }
    };
    result.map_err(|error| Failure::new(format!("{name}: {error}")))
}

fn input_format(path: &Path) -> Result<Format, Failure> {
    if path.as_os_str() == "-" {
        return Ok(Format::Json);
    }
    Format::of(path).ok_or_else(|| Failure::usage(format!("{}: the name must end in .safetensors or .jsonl", path.display())))
}

/// Where scores go; `None` = a table for eyes.
fn destination(outputs: Option<&Path>) -> Result<Option<&Path>, Failure> {
    match outputs {
        Some(path) => input_format(path).map(|_| Some(path)),
        None if stdout().is_terminal() => Ok(None),
        None => Ok(Some(Path::new("-"))),
    }
}

fn report(outputs: &Outputs, requests: usize, elapsed: Duration) {
    let rows = outputs.rows();
    let seconds = elapsed.as_secs_f64().max(1e-9);
    eprintln!("{rows} rows in {requests} requests, {:.0} rows/s", rows as f64 / seconds);
    let ruled = outputs.ruled_rows();
    if ruled > 0 {
        eprintln!("note: in {ruled} rows a rule of the model decided about a missing, unknown or NaN value (see status)");
    }
    if outputs.refused_rows() > 0 {
        eprintln!("note: {} rows have no scores", outputs.refused_rows());
    }
}

/// A table is for a look; files are for all of it.
const TABLE_ROWS: usize = 20;
/// More errors say the same.
const ERRORS_SHOWN: usize = 10;
