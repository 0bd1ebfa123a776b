//! A server in the test's process, and rows of golden bundles as requests.
#![allow(dead_code, clippy::unwrap_used)]

pub mod process;
pub mod raw;
pub mod traffic;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gavel::config::{Config, IoChoice};
use gavel::engine::{EngineKind, PrepareOptions};
use gavel::metrics::Registry;
use gavel::model::{Cell, FeatureRows, LoadOptions, Model, Scope, discover, load};
use gavel::server::placement::Placement;
use gavel::server::plan::Plan;
use gavel::server::preflight::IoBackend;
use gavel::server::running::Server;
use gavel::units::Clock;
use gavel_client::{Address, Layout, RankBody, Request};

pub const BACKENDS: [IoBackend; 2] = [IoBackend::Uring, IoBackend::Epoll];

pub fn bundles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles")
}

/// Golden models by name, as a server loads them.
pub fn models(wanted: impl Fn(&str) -> bool) -> Vec<Arc<Model>> {
    let mut models = Vec::new();
    for bundle in discover(&bundles()).unwrap().into_iter().filter(|bundle| wanted(&bundle.name)) {
        let options = LoadOptions { name: Some(bundle.name.clone()), version: bundle.version };
        models.push(Arc::new(load(&bundle.path, &options, &mut |_| {}).unwrap()));
    }
    models
}

/// Whether a backend can be used here; says so if not.
pub fn usable(backend: IoBackend) -> bool {
    let choice = if backend == IoBackend::Uring { IoChoice::Uring } else { IoChoice::Epoll };
    match gavel::server::preflight::choose(choice) {
        Ok(_) => true,
        Err(refused) => {
            println!("skipped: {refused}");
            false
        }
    }
}

/// A running server and what it counts.
pub struct TestServer {
    pub server: Server,
    pub registry: Arc<Registry>,
    pub address: Address,
    pub config: Config,
}

/// Defaults for tests: a free loopback port.
pub fn config() -> Config {
    let mut config = Config::default();
    config.general.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.timeouts.drain_ms = 3_000;
    config
}

/// Starts unpinned shards on a free port and publishes the models.
pub fn start(backend: IoBackend, engine: EngineKind, shards: usize, config: Config, models: &[Arc<Model>]) -> TestServer {
    start_with(backend, engine, PrepareOptions::default(), shards, config, models)
}

/// The same, with models made ready in another way.
pub fn start_with(
    backend: IoBackend,
    engine: EngineKind,
    prepare: PrepareOptions,
    shards: usize,
    config: Config,
    models: &[Arc<Model>],
) -> TestServer {
    let clock = Clock::start();
    let registry = Registry::new(clock, config.limits.models);
    let placement = Placement { shards: vec![None; shards], control: Vec::new(), message: String::new() };
    let plan = Plan { placement, io: backend, engine, prepare, notes: Vec::new() };
    let mut server = Server::start(&config, &plan, Arc::clone(&registry), clock).unwrap();
    for model in models {
        server.publish(model).unwrap();
    }
    server.accept().unwrap();
    let address = server.addresses()[0].to_string().parse().unwrap();
    TestServer { server, registry, address, config }
}

/// Owned blocks of one request: the context of one row, the candidates of others.
pub struct Packed {
    context: gavel::model::PackedRows,
    candidates: gavel::model::PackedRows,
    count: u32,
}

impl Packed {
    pub fn new(rows: &FeatureRows, context: usize, candidates: &[usize]) -> Packed {
        Packed { context: rows.encode_context(context), candidates: rows.encode_candidates(candidates), count: candidates.len() as u32 }
    }

    pub fn body(&self) -> RankBody<'_> {
        RankBody {
            context_dense: &self.context.dense,
            context_ids: &self.context.ids,
            context_lengths: &self.context.lengths,
            context_weights: &self.context.weights,
            dense: &self.candidates.dense,
            ids: &self.candidates.ids,
            lengths: &self.candidates.lengths,
            weights: &self.candidates.weights,
            ..RankBody::default()
        }
    }

    pub fn request(&self, layout: &Layout) -> Request<'_> {
        Request::from_blocks(layout, self.count, self.body()).unwrap()
    }
}

/// Rows with the context of one row and the candidate features of others: what a request expands to.
pub fn expand(model: &Model, rows: &FeatureRows, context: usize, candidates: &[usize]) -> FeatureRows {
    let mut expanded = FeatureRows::new(model.fields());
    for candidate in candidates {
        let cells: Vec<Cell<'_>> = model
            .features
            .iter()
            .enumerate()
            .map(|(index, feature)| rows.cell(index, if feature.scope == Scope::Context { context } else { *candidate }))
            .collect();
        expanded.push_row(&cells).unwrap();
    }
    expanded
}
