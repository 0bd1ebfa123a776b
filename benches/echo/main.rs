//! What the server costs beside the model: a raw TCP echo, the two wires alone, and the whole server with the null engine, all answering the
//! same bytes, in one run.
//!
//! `cargo bench --bench echo -- [--rounds N] [--millis M] [--shape K]` (all shapes, or the K-th, from 0). Servers are started once per round and
//! take turns, so that a noisy machine treats them alike; the figures are medians over the rounds. The bytes are those of a hello (once) and of
//! rank requests of a DLRM with 13 dense values and 26 ids a candidate. The raw echo ([`raw`]) reads into one buffer and drops what it read; the
//! wires keep each frame contiguous; the null server does everything but compute. Without `--bench` (as in `cargo test`) everything runs once, briefly.
#![allow(clippy::unwrap_used, missing_docs)]

mod load;
mod null;
mod raw;
mod shard;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use gavel::model::Model;
use gavel::server::placement::{Cpus, pin_thread};
use gavel::server::preflight::{self, IoBackend};
use gavel::units::Span;
use load::{Figures, Load};

/// Candidates of a request, connections.
const SHAPES: [(usize, usize); 6] = [(1, 1), (1, 32), (64, 1), (64, 32), (512, 1), (512, 32)];

/// Long enough that a client's next request finds the shard awake.
const SPIN: Span = Span::from_us(100);

/// A server under test.
#[derive(Clone, Copy, PartialEq)]
enum Server {
    /// Plain epoll, nothing else.
    Raw,
    /// A wire and its runtime, counting bytes.
    Wire(IoBackend),
    /// The server with the null engine.
    Null(IoBackend),
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |flag: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == flag);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let measuring = arguments.iter().any(|argument| argument == "--bench");
    let rounds = if measuring { number("--rounds", 5) } else { 1 };
    let time = Duration::from_millis(if measuring { number("--millis", 300) } else { 20 });

    let mut servers = vec![Server::Raw, Server::Wire(IoBackend::Epoll), Server::Null(IoBackend::Epoll)];
    match preflight::check() {
        Ok(_) => servers.extend([Server::Wire(IoBackend::Uring), Server::Null(IoBackend::Uring)]),
        Err(reason) => println!("without io_uring: {reason}"),
    }
    let model = null::model();
    let cpus = Cpus::detect().unwrap().allowed;
    let (server_cpu, client_cpu) = (cpus[0], cpus[cpus.len() - 1]);
    pin_thread(client_cpu).unwrap();
    println!(
        "server on CPU {server_cpu}, client on CPU {client_cpu}; medians of {rounds} rounds of {time:?}; latencies in µs; CPU: of the server's thread, per request\n"
    );
    println!(
        "{:<26} {:<7} {:<11} {:>10} {:>8} {:>8} {:>7} {:>8} {:>7}",
        "candidates (bytes), conns", "idle", "server", "requests/s", "p50", "p99", "of raw", "CPU", "of raw"
    );
    let shape = number("--shape", u64::MAX);
    for (number, (candidates, connections)) in SHAPES.into_iter().enumerate() {
        if shape != u64::MAX && shape != number as u64 {
            continue;
        }
        let mut load = load(&model, candidates, connections, time);
        for spin in [Span::ZERO, SPIN] {
            load.spin = spin != Span::ZERO;
            let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); servers.len()];
            for _ in 0..rounds {
                for (server, figures) in servers.iter().zip(&mut figures) {
                    figures.push(measure(*server, server_cpu, spin, &load, &model));
                }
            }
            let raw = Figures::median(&figures[0]);
            for (server, figures) in servers.iter().zip(&figures) {
                let median = Figures::median(figures);
                println!(
                    "{:<26} {:<7} {:<11} {:>10.0} {:>8.1} {:>8.1} {:>7.2} {:>8.2} {:>7.2}",
                    format!("{candidates} ({} > {}), {connections}", load.request.len(), load.answer_bytes),
                    if spin == Span::ZERO { "sleeps" } else { "spins" },
                    match server {
                        Server::Raw => "raw",
                        Server::Wire(IoBackend::Epoll) => "epoll wire",
                        Server::Wire(IoBackend::Uring) => "uring wire",
                        Server::Null(IoBackend::Epoll) => "epoll null",
                        Server::Null(IoBackend::Uring) => "uring null",
                    },
                    median.per_second,
                    median.p50_us,
                    median.p99_us,
                    median.per_second / raw.per_second,
                    median.cpu_us,
                    median.cpu_us / raw.cpu_us
                );
            }
        }
    }
}

/// The bytes of a shape; the size of an answer is asked of a server.
fn load(model: &Arc<Model>, candidates: usize, connections: usize, time: Duration) -> Load {
    let (hello, request) = null::frames(model, candidates);
    let server = null::start(IoBackend::Epoll, 0, Span::ZERO, model);
    let (hello_bytes, answer_bytes) = server.answer_bytes(&hello, &request);
    server.stop();
    Load { request, answer_bytes, hello: (hello, hello_bytes), connections, time, spin: false }
}

fn measure(server: Server, cpu: usize, spin: Span, load: &Load, model: &Arc<Model>) -> Figures {
    if let Server::Null(backend) = server {
        let server = null::start(backend, cpu, spin, model);
        let figures = load.run(server.address, null::NAME);
        server.stop();
        return figures;
    }
    // Those that count bytes need no hello.
    let load = &Load { hello: (Vec::new(), 0), request: load.request.clone(), ..*load };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    match server {
        Server::Raw => {
            let echo = raw::start(listener, cpu, spin != Span::ZERO, load.request.len(), load.answer_bytes);
            let figures = load.run(address, raw::NAME);
            echo.stop();
            figures
        }
        Server::Wire(backend) | Server::Null(backend) => {
            let mut shard = shard::start(backend, cpu, spin, load.request.len(), load.answer_bytes);
            let figures = load.run_with(address, shard::NAME, |connections| (0..connections).for_each(|_| shard.adopt(&listener)));
            shard.stop();
            figures
        }
    }
}
