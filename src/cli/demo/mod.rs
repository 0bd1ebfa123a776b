//! `gavel demo`: the main job in one process. A server on a free loopback port, a client over TCP, real impressions.

mod impressions;
mod report;
mod traffic;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use gavel_client::blocking::Connection;
use gavel_client::{Address, Options};

use super::exit::{Exit, Failure};
use super::progress::{Progress, Unit};
use super::table::TextTable;
use crate::config::{Config, EngineChoice, IoChoice, PrecisionChoice};
use crate::engine::selftest::Report;
use crate::metrics::Registry;
use crate::model::{LoadOptions, Model, load};
use crate::server::plan::Plan;
use crate::server::running::Server;
use crate::units::Clock;
use impressions::Log;
use report::Summary;
use traffic::{Outcome, Ranked};

/// Ranks real impressions with a trained model, in this process, over TCP
///
/// Starts a server on a free loopback port, connects to it, and sends every impression of a log of real traffic (Open Bandit Dataset) as one
/// request: its user as the context, every item of its campaign as a candidate. Needs nothing but this program.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// What the sockets run on: auto, uring or epoll
    #[arg(long, default_value = "auto")]
    io: IoChoice,
    /// In what numbers dense layers are computed: f32, int8 or f16
    #[arg(long, default_value = "f32")]
    precision: PrecisionChoice,
    /// How many impressions; all 12,000 if not given
    #[arg(long, value_name = "N")]
    impressions: Option<usize>,
}

/// A trained DeepFM; its context features are the user, the page and the campaign.
const MODEL: &str = "deepfm_scoped";
const MANIFEST: &[u8] = include_bytes!("../../../tests/bundles/deepfm_scoped/manifest.json");
const WEIGHTS: &[u8] = include_bytes!("../../../tests/bundles/deepfm_scoped/weights.safetensors");
const SELFTEST: &[u8] = include_bytes!("../../../tests/bundles/deepfm_scoped/selftest.safetensors");
const ITEMS: &[u8] = include_bytes!("open_bandit/items.csv.gz");
const IMPRESSIONS: &[u8] = include_bytes!("open_bandit/impressions.csv.gz");

/// Runs the demo.
pub fn run(args: &DemoArgs) -> Result<Exit, Failure> {
    let mut config = Config::default();
    config.general.listen = vec!["127.0.0.1:0".parse().map_err(Failure::new)?];
    config.general.io = args.io;
    config.general.engine = EngineChoice::Cpu;
    config.general.precision = args.precision;
    config.timeouts.drain_ms = 2_000;
    let plan = Plan::for_machine(&config).map_err(Failure::environment)?;
    println!("gavel demo: a server and a client in this process, over TCP on loopback\n");
    for (warning, note) in &plan.notes {
        println!("  {}{note}", if *warning { "warning: " } else { "" });
    }

    let mut log = Log::read(IMPRESSIONS, ITEMS).map_err(Failure::new)?;
    if let Some(limit) = args.impressions {
        log.impressions.truncate(limit.max(1));
    }
    let (model, folder) = unpack()?;
    let clock = Clock::start();
    let mut server = Server::start(&config, &plan, Registry::new(clock, config.limits.models), clock).map_err(Failure::new)?;
    let result = server.publish(&model).map_err(Failure::new).and_then(|published| {
        server.accept().map_err(Failure::new)?;
        let address = server.addresses()[0].to_string();
        println!("  model {MODEL}: selftest passed, {}", published.selftest.as_ref().map_or("not replayed".into(), Report::to_string));
        println!("  listening on {address}\n");
        rank(&address, &log, &model, plan.placement.shards.len())
    });
    let drained = server.drain();
    // The temporary bundle; the process is done with it either way.
    let _ = fs::remove_dir_all(&folder);
    let told = result?;
    print!("{told}");
    if drained { Ok(Exit::Ok) } else { Err(Failure::new("the server did not drain in time")) }
}

/// The demo's bundle is part of the program; it takes the same way in as any other: a folder, digests, a selftest. The folder is new and nobody
/// else's: one that exists already is an error, whoever made it.
fn unpack() -> Result<(Arc<Model>, PathBuf), Failure> {
    let moment = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let folder = std::env::temp_dir().join(format!("gavel-demo-{}-{moment:x}", std::process::id()));
    let fault = |error: std::io::Error| Failure::new(format!("cannot unpack the demo's bundle into {}: {error}", folder.display()));
    DirBuilder::new().mode(0o700).create(&folder).map_err(fault)?;
    for (name, bytes) in [("manifest.json", MANIFEST), ("weights.safetensors", WEIGHTS), ("selftest.safetensors", SELFTEST)] {
        fs::write(folder.join(name), bytes).map_err(fault)?;
    }
    let options = LoadOptions { name: Some(MODEL.into()), version: 1 };
    let model = load(&folder, &options, &mut |_| {}).map_err(Failure::new)?;
    Ok((Arc::new(model), folder))
}

/// Sends everything, and says what came back.
fn rank(address: &str, log: &Log, model: &Model, shards: usize) -> Result<String, Failure> {
    let address: Address = address.parse().map_err(Failure::new)?;
    let mut connection = Connection::connect(&address, &Options::default()).map_err(Failure::new)?;
    let layout = connection.describe(MODEL, None).map_err(Failure::new)?;
    let golden = traffic::golden(&mut connection, &layout, model)?;

    let mut progress = Progress::new("ranking impressions", log.impressions.len() as u64, Unit::Count("requests"));
    let outcome = traffic::run(&address, &layout, log, shards, &mut |done| progress.set(done))?;
    progress.finish();
    Ok(describe(log, &outcome, golden))
}

/// The whole report.
fn describe(log: &Log, outcome: &Outcome, golden: f64) -> String {
    let mut text = String::new();
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    say("A few rankings (best three of all items of the campaign; the clicked item's place):\n".into());
    let mut table = TextTable::new(["user and page", "candidates", "1st", "2nd", "3rd", "clicked item", "its place"]);
    for ranked in outcome.clicked.iter().take(EXAMPLES) {
        table.row(example(log, ranked));
    }
    say(table.to_string());
    match Summary::of(&outcome.clicked.iter().map(|ranked| ranked.place).collect::<Vec<_>>()) {
        Some(summary) => say(format!(
            "{} clicks: the clicked item ranked above {:.1} % of its campaign's other items (95 % interval {:.1} to {:.1} %; chance is 50 %).\n\
             So few clicks say little about the model; the demo is about speed and exactness.\n\
             Affinities: the log names the user's affinity to the item that was shown; for all other items it is read from the user's history,\n\
             which lists every item with an affinity other than zero.\n",
            summary.count,
            100.0 * summary.mean,
            100.0 * (summary.mean - summary.margin),
            100.0 * (summary.mean + summary.margin),
        )),
        None => say("Too few clicks among these impressions for a statement about their places.\n".into()),
    }
    let seconds = outcome.elapsed.as_secs_f64();
    say(format!("exactness   {} golden rows through the socket: largest difference from float64 {golden:.1e}", GOLDEN_ROWS));
    say(format!(
        "requests    {:>9} in {seconds:.2} s = {:.0} requests/s over {} connections, {} in flight on each",
        outcome.requests,
        outcome.requests as f64 / seconds,
        outcome.connections,
        traffic::IN_FLIGHT
    ));
    say(format!("candidates  {:>9} = {:.0} candidates/s", outcome.candidates, outcome.candidates as f64 / seconds));
    let quantile = |q: f64| outcome.latency_ns.value_at_quantile(q) as f64 / 1e3;
    say(format!(
        "latency     p50 {:.0} µs, p99 {:.0} µs (client and server share these CPUs, and {} requests wait for each other)",
        quantile(0.50),
        quantile(0.99),
        outcome.connections * traffic::IN_FLIGHT
    ));
    say("\nHow to go on:\n  gavel serve --models tests/bundles                       a server for every bundle in a folder\n  gavel rank --server 127.0.0.1:7400 --model deepfm_scoped --inputs tests/bundles/deepfm_scoped/selftest.safetensors --outputs -\n  gavel inspect tests/bundles/deepfm_scoped                what is in a bundle\n  gavel doctor                                             what this machine can do".into());
    text
}

fn example(log: &Log, ranked: &Ranked) -> Vec<String> {
    let impression = &log.impressions[ranked.impression];
    let mut row = vec![impression.label.clone(), ranked.place.of.to_string()];
    row.extend(ranked.best.iter().map(|(item, score)| format!("{item} ({score:.3})")));
    row.push(format!("{} ({:.3})", impression.shown, ranked.score));
    row.push(format!("{}", ranked.place.above + 1));
    row
}

/// Rows of the bundle's selftest.
const GOLDEN_ROWS: usize = 128;
/// Rankings shown.
const EXAMPLES: usize = 6;
