//! `gavel serve`: check, bind, load, serve, drain.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use super::exit::{Exit, Failure};
use super::loading;
use super::settings::SettingArgs;
use crate::config::{Config, Loaded};
use crate::metrics::Registry;
use crate::model::{LoadOptions, discover};
use crate::server::control::{Control, Latch, Readiness, SignalWatch, Stop, StopReceiver, stop_channel};
use crate::server::log;
use crate::server::plan::Plan;
use crate::server::running::Server;
use crate::units::{Clock, Span};

/// Serves the bundles of a folder
///
/// Starts only if everything is right: configuration, kernel, addresses, and every bundle with its selftest. SIGTERM or SIGINT drains: clients
/// are told, what is in flight is answered, then the process ends with 0. A second signal ends it at once.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    settings: SettingArgs,
}

/// Serves until it is told to stop.
pub fn run(args: &ServeArgs) -> Result<Exit, Failure> {
    serve(&args.settings.load()?)
}

fn serve(loaded: &Loaded) -> Result<Exit, Failure> {
    let config = &loaded.config;
    // What this machine cannot do is said before anything is opened.
    let plan = Plan::for_machine(config).map_err(Failure::environment)?;
    let log = log::init(config.log.format, config.log.level).map_err(Failure::new)?;
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    for (warn, note) in &plan.notes {
        if *warn {
            tracing::warn!("{note}");
        } else {
            tracing::info!("{note}");
        }
    }

    let clock = Clock::start();
    let registry = Registry::new(clock, config.limits.models);
    registry.add_source("log_lines_dropped_total", "Log lines dropped because the writer could not keep up.", log.dropped());
    let readiness = Arc::new(Readiness::default());
    let (stop_sender, stops) = stop_channel();
    let _signals = SignalWatch::start(stop_sender).map_err(|error| Failure::new(format!("cannot watch for signals: {error}")))?;
    let heartbeat = Span::from_ms(config.timeouts.heartbeat_ms.into());
    let control = Control::start(&config.general.admin, Arc::clone(&registry), Arc::clone(&readiness), heartbeat, &plan.placement.control)
        .map_err(Failure::new)?;
    tracing::info!(address = %control.addr(), "admin address answers /livez, /readyz, /metrics");

    let mut server = Server::start(config, &plan, registry, clock).map_err(Failure::new)?;
    readiness.set(Latch::Shards, true);
    readiness.set(Latch::Listeners, true);
    let addresses: Vec<String> = server.addresses().iter().map(ToString::to_string).collect();
    tracing::info!(
        addresses = addresses.join(", "),
        shards = server.shards(),
        engine = plan.engine.name(),
        io = plan.io.name(),
        "listening"
    );

    let stop = match publish_all(&mut server, config, &stops)? {
        Some(stop) => stop,
        None => {
            readiness.set(Latch::Models, true);
            tracing::info!("ready");
            wait(&server, &stops)
        }
    };
    readiness.set(Latch::NotDraining, false);
    tracing::info!(reason = %stop, limit_ms = config.timeouts.drain_ms, "draining");
    let began = Instant::now();
    let well = server.drain();
    tracing::info!(ms = began.elapsed().as_millis() as u64, well, "drained");
    control.stop();
    match stop {
        Stop::Signal(_) if well => Ok(Exit::Ok),
        Stop::Signal(_) => Err(Failure::new("a shard did not end well; see the log")),
        Stop::Fault(reason) => Err(Failure::new(reason)),
    }
}

/// Loads every bundle, then publishes; faults of all bundles are told together. `Some` if a stop was asked for meanwhile.
fn publish_all(server: &mut Server, config: &Config, stops: &StopReceiver) -> Result<Option<Stop>, Failure> {
    let folder = &config.general.models;
    let bundles = discover(folder).map_err(Failure::new)?;
    if bundles.is_empty() {
        return Err(Failure::new(no_bundles(folder)));
    }
    let mut faults = Vec::new();
    for bundle in bundles {
        if let Some(stop) = stops.wait_timeout(Duration::ZERO) {
            return Ok(Some(stop));
        }
        let began = Instant::now();
        let published = loading::load(&bundle.path, &LoadOptions { name: Some(bundle.name.clone()), version: bundle.version })
            .map_err(|error| error.to_string())
            .and_then(|model| server.publish(&model).map_err(|error| format!("{}: {error}", bundle.path.display())));
        match published {
            Ok(model) => tracing::info!(
                model = model.name,
                version = model.version,
                signature = format!("{:016x}", model.signature),
                ms = began.elapsed().as_millis() as u64,
                "model is served"
            ),
            Err(fault) => {
                tracing::error!(model = bundle.name, version = bundle.version, "{fault}");
                faults.push(fault);
            }
        }
    }
    if faults.is_empty() {
        Ok(None)
    } else {
        Err(Failure::new(format!("{} of the bundles cannot be served:\n  {}", faults.len(), faults.join("\n  "))))
    }
}

/// Until a stop is asked for, or a shard dies.
fn wait(server: &Server, stops: &StopReceiver) -> Stop {
    loop {
        if let Some(stop) = stops.wait_timeout(LOOK_EVERY) {
            return stop;
        }
        if let Some(reason) = server.failure() {
            tracing::error!(reason, "a shard failed");
            return Stop::Fault(reason);
        }
    }
}

fn no_bundles(folder: &Path) -> String {
    format!("no bundle in the models folder {}: a bundle is NAME/manifest.json or NAME/VERSION/manifest.json", folder.display())
}

/// How long a dead shard may stay unnoticed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
