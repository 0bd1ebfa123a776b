//! `gavel serve`: check, bind, load, serve, drain.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use clap::Args;

use super::exit::{Exit, Failure};
use super::loading;
use super::settings::SettingArgs;
use crate::config::{Config, Loaded};
use crate::engine::EngineError;
use crate::metrics::Registry;
use crate::model::{BundleRef, LoadOptions, discover};
use crate::server::control::{Control, Latch, Readiness, SignalWatch, Stop, StopReceiver, stop_channel};
use crate::server::log;
use crate::server::plan::Plan;
use crate::server::publish::PublishError;
use crate::server::running::{Preparation, Server};
use crate::server::shard::Published;
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

    let stop = match publish_all(&mut server, config, &stops)? {
        Some(stop) => stop,
        None => {
            readiness.set(Latch::Models, true);
            server.accept().map_err(Failure::new)?;
            readiness.set(Latch::Listeners, true);
            let addresses: Vec<String> = server.addresses().iter().map(ToString::to_string).collect();
            tracing::info!(
                addresses = addresses.join(", "),
                shards = server.shards(),
                engine = plan.engine.name(),
                io = plan.io.name(),
                "listening"
            );
            tracing::info!("ready");
            wait(&server, &stops)
        }
    };
    readiness.set(Latch::NotDraining, false);
    let reason = match &stop {
        Stop::Signal(_) => stop.to_string(),
        Stop::Fault(_) => "the server cannot go on".to_owned(),
    };
    tracing::info!(reason, limit_ms = config.timeouts.drain_ms, "draining");
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

/// Loads every bundle, then publishes; faults of all bundles are told together. `Some` if a stop was asked for, or a shard died, meanwhile: loading is
/// then left where it is, on a thread that ends with the process.
fn publish_all(server: &mut Server, config: &Config, stops: &StopReceiver) -> Result<Option<Stop>, Failure> {
    let folder = &config.general.models;
    let bundles = discover(folder).map_err(Failure::new)?;
    if bundles.is_empty() {
        return Err(Failure::new(no_bundles(folder)));
    }
    let mut faults = Vec::new();
    for bundle in bundles {
        let began = Instant::now();
        let preparing = spawn_preparing(server.preparation(), bundle.clone()).map_err(Failure::new)?;
        while !preparing.is_finished() {
            if let Some(stop) = look(server, stops, LOAD_LOOK_EVERY) {
                return Ok(Some(stop));
            }
        }
        let prepared = preparing
            .join()
            .unwrap_or_else(|_| Err(Failure::new(format!("{}: a fault of gavel's while loading; see stderr", bundle.path.display()))));
        let mut stop = None;
        let mut stopped = || {
            stop = stop.take().or_else(|| stops.wait_timeout(Duration::ZERO));
            stop.is_some()
        };
        let published =
            prepared.and_then(|prepared| server.distribute(prepared, &mut stopped).map_err(|error| not_served(&bundle.path, &error)));
        if stop.is_some() {
            return Ok(stop);
        }
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
        return Ok(None);
    }
    let lines: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
    let message = format!("{} of the bundles cannot be served:\n  {}", faults.len(), lines.join("\n  "));
    let is_unfit = faults.iter().all(|fault| fault.exit == Exit::Environment);
    Err(Failure { exit: if is_unfit { Exit::Environment } else { Exit::Failure }, message })
}

/// A bundle that is not served. Where this machine lacks what its engine needs, the bundle is not to blame.
fn not_served(bundle: &Path, error: &PublishError) -> Failure {
    let message = format!("{}: {error}", bundle.display());
    match error {
        PublishError::Engine { source, .. } if matches!(**source, EngineError::Unavailable { .. } | EngineError::DeviceTooSmall { .. }) => {
            Failure::environment(message)
        }
        _ => Failure::new(message),
    }
}

/// Loads and prepares one bundle on a thread of its own, so that a stop need not wait for a disk.
fn spawn_preparing(preparation: Preparation, bundle: BundleRef) -> io::Result<JoinHandle<Result<Published, Failure>>> {
    Builder::new().name("loading".into()).spawn(move || {
        let options = LoadOptions { name: Some(bundle.name), version: bundle.version };
        let model = loading::load(&bundle.path, &options).map_err(Failure::new)?;
        preparation.run(&model).map_err(|error| not_served(&bundle.path, &error))
    })
}

/// Until a stop is asked for, or a shard dies.
fn wait(server: &Server, stops: &StopReceiver) -> Stop {
    loop {
        if let Some(stop) = look(server, stops, LOOK_EVERY) {
            return stop;
        }
    }
}

/// Waits a little for a stop; a dead shard is one, and a lost GPU.
fn look(server: &Server, stops: &StopReceiver, timeout: Duration) -> Option<Stop> {
    stops.wait_timeout(timeout).or_else(|| {
        let reason = server.failure()?;
        // A lost device was logged when it was lost.
        if server.device_fault() != Some(&reason) {
            tracing::error!(reason, "the server cannot go on");
        }
        Some(Stop::Fault(reason))
    })
}

fn no_bundles(folder: &Path) -> String {
    format!("no bundle in the models folder {}: a bundle is NAME/manifest.json or NAME/VERSION/manifest.json", folder.display())
}

/// How long a loaded bundle may wait.
const LOAD_LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long a dead shard may stay unnoticed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
