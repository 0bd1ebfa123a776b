//! How a server treats its connections: balance, order, limits, patience, cancels, and the drain; in this process and as a process of its own.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod balance;
mod limits;
mod order;
mod patience;
mod process;

use std::sync::Arc;
use std::time::{Duration, Instant};

use gavel::config::Config;
use gavel::engine::EngineKind;
use gavel::model::Model;
use gavel::server::preflight::IoBackend;
use support::raw::{PATIENCE, Raw};
use support::{BACKENDS, TestServer, models, start, usable};

/// Runs a case on each wire that this machine has.
fn each_backend(case: impl Fn(IoBackend)) {
    BACKENDS.into_iter().filter(|backend| usable(*backend)).for_each(case);
}

/// A server of two small models.
fn serve(backend: IoBackend, shards: usize, config: Config) -> (TestServer, Vec<Arc<Model>>) {
    let models = models(|name| ["dlrm", "mmoe_scoped"].contains(&name));
    (start(backend, EngineKind::Cpu, shards, config, &models), models)
}

impl TestServer {
    /// Greeted.
    fn connect(&self) -> Raw {
        Raw::open(&self.server.addresses()[0])
    }

    /// Lets the clients go, then drains: with nobody to wait for.
    fn end<T>(self, clients: T) {
        drop(clients);
        assert!(self.server.drain(), "drained in time");
    }
}

/// Waits for something that is bound to come.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
