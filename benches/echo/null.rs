//! The whole server with the engine that computes nothing: frames, verification, admission, copies, scheduling, answers, metrics.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use gavel::config::{Address, Config};
use gavel::engine::{EngineKind, PrepareOptions};
use gavel::metrics::Registry;
use gavel::model::{LoadOptions, Model, load};
use gavel::server::placement::Placement;
use gavel::server::plan::Plan;
use gavel::server::preflight::IoBackend;
use gavel::server::publish::describe;
use gavel::server::running::Server;
use gavel::units::{Clock, Span};
use gavel_protocol::{Encoder, HEADER_BYTES, Header, Kind, RankBody};

/// Of its thread.
pub const NAME: &str = "shard-0";

/// A golden DLRM: 13 dense values and 26 ids a candidate.
pub fn model() -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles/dlrm");
    Arc::new(load(&path, &LoadOptions::default(), &mut |_| {}).unwrap())
}

/// A hello, and a rank request of `candidates`: what a client sends.
pub fn frames(model: &Model, candidates: usize) -> (Vec<u8>, Vec<u8>) {
    let rows: Vec<usize> = (0..candidates).map(|row| row % model.selftest.rows()).collect();
    let blocks = model.selftest.inputs.encode_candidates(&rows);
    let body = RankBody { dense: &blocks.dense, ids: &blocks.ids, ..RankBody::default() };
    let signature = describe(model, &Config::default().limits).signature;
    let header = Header { signature, candidates: candidates as u32, ..Header::new(Kind::Rank, 1) };
    let mut encoder = Encoder::new();
    (encoder.hello(0, "bench", None).to_vec(), encoder.rank(&header, &body).to_vec())
}

pub struct NullServer {
    server: Server,
    pub address: SocketAddr,
}

pub fn start(backend: IoBackend, cpu: usize, spin: Span, model: &Arc<Model>) -> NullServer {
    let mut config = Config::default();
    config.general.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.general.spin_us = spin.as_us();
    config.timeouts.drain_ms = 200;
    let placement = Placement { shards: vec![Some(cpu)], control: Vec::new(), message: String::new() };
    let plan = Plan { placement, io: backend, engine: EngineKind::Null, prepare: PrepareOptions::default(), notes: Vec::new() };
    let clock = Clock::start();
    let mut server = Server::start(&config, &plan, Registry::new(clock, 4), clock).unwrap();
    server.publish(model).unwrap();
    server.accept().unwrap();
    let Address::Tcp { host, port } = &server.addresses()[0] else { panic!("a TCP address") };
    let address = format!("{host}:{port}").parse().unwrap();
    NullServer { server, address }
}

impl NullServer {
    pub fn stop(self) {
        assert!(self.server.drain(), "drained in time");
    }

    /// Bytes that a hello and this request are answered with.
    pub fn answer_bytes(&self, hello: &[u8], request: &[u8]) -> (usize, usize) {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(self.address).unwrap();
        let mut exchange = |frame: &[u8], kind: Kind| {
            stream.write_all(frame).unwrap();
            let mut header = [0; HEADER_BYTES];
            stream.read_exact(&mut header).unwrap();
            let header = Header::parse(&header).unwrap();
            assert_eq!(header.kind, kind);
            stream.read_exact(&mut vec![0; header.body_len as usize]).unwrap();
            HEADER_BYTES + header.body_len as usize
        };
        (exchange(hello, Kind::HelloAnswer), exchange(request, Kind::Scores))
    }
}
