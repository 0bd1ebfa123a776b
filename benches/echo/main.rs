//! What the wires cost: a raw TCP echo of the same bytes, and the two wires under the runtimes that shards run on, in one run.
//!
//! `cargo bench --bench echo -- [--rounds N] [--millis M] [--shape K]` (all shapes, or the K-th, from 0). Servers are started once per round and take turns, so that a noisy machine treats
//! them alike; the figures are medians over the rounds. The raw echo ([`raw`]) reads into one buffer and drops what it read; the wires keep each
//! frame contiguous. Without `--bench` (as in `cargo test`) everything runs once, briefly.
#![allow(clippy::unwrap_used, missing_docs)]

mod load;
mod raw;
mod shard;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use gavel::server::placement::{Cpus, pin_thread};
use gavel::server::preflight::{self, IoBackend};
use gavel::units::Span;
use load::{Figures, Load};

/// Bytes of a request, bytes of an answer, connections.
const SHAPES: [(usize, usize, usize); 4] = [(384, 32, 1), (384, 32, 32), (66_560, 1024, 1), (66_560, 1024, 32)];

/// Long enough that a client's next request finds the shard awake.
const SPIN: Span = Span::from_us(100);

/// A server under test.
#[derive(Clone, Copy, PartialEq)]
enum Server {
    /// Plain epoll, nothing else.
    Raw,
    Wire(IoBackend),
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

    let mut servers = vec![Server::Raw, Server::Wire(IoBackend::Epoll)];
    match preflight::check() {
        Ok(_) => servers.push(Server::Wire(IoBackend::Uring)),
        Err(reason) => println!("without io_uring: {reason}"),
    }
    let cpus = Cpus::detect().unwrap().allowed;
    let (server_cpu, client_cpu) = (cpus[0], cpus[cpus.len() - 1]);
    pin_thread(client_cpu).unwrap();
    println!(
        "server on CPU {server_cpu}, client on CPU {client_cpu}; medians of {rounds} rounds of {time:?}; latencies in µs; CPU: of the server's thread, per request\n"
    );
    println!(
        "{:<24} {:<10} {:<7} {:>10} {:>8} {:>8} {:>8}",
        "request > answer, conns", "idle", "server", "requests/s", "p50", "p99", "of raw"
    );
    let shape = number("--shape", u64::MAX);
    for (number, (request_bytes, answer_bytes, connections)) in SHAPES.into_iter().enumerate() {
        if shape != u64::MAX && shape != number as u64 {
            continue;
        }
        for spin in [Span::ZERO, SPIN] {
            let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); servers.len()];
            for _ in 0..rounds {
                for (server, figures) in servers.iter().zip(&mut figures) {
                    let load = Load { request_bytes, answer_bytes, connections, time };
                    figures.push(measure(*server, server_cpu, spin, &load));
                }
            }
            let raw = Figures::median(&figures[0]);
            for (server, figures) in servers.iter().zip(&figures) {
                let median = Figures::median(figures);
                println!(
                    "{:<24} {:<7} {:<7} {:>10.0} {:>8.1} {:>8.1} {:>7.2} {:>8.2} {:>7.2}",
                    format!("{request_bytes} > {answer_bytes}, {connections}"),
                    if spin == Span::ZERO { "sleeps" } else { "spins" },
                    match server {
                        Server::Raw => "raw",
                        Server::Wire(backend) => backend.name(),
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

fn measure(server: Server, cpu: usize, spin: Span, load: &Load) -> Figures {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    match server {
        Server::Raw => {
            let echo = raw::start(listener, cpu, spin != Span::ZERO, load.request_bytes, load.answer_bytes);
            let figures = load.run(address, raw::NAME);
            echo.stop();
            figures
        }
        Server::Wire(backend) => {
            let mut shard = shard::start(backend, cpu, spin, load.request_bytes, load.answer_bytes);
            let figures = load.run_with(address, shard::NAME, |connections| (0..connections).for_each(|_| shard.adopt(&listener)));
            shard.stop();
            figures
        }
    }
}
