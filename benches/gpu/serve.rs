//! Requests over TCP to a server that runs already: latency with few in flight, rate with many.
//!
//! A closed loop: a connection's next request leaves when an answer came. Threads of the client share the machine with the server.

use std::time::{Duration, Instant};

use gavel::batch::Layout;
use gavel::model::{LoadOptions, Model, load};
use gavel_client::blocking::Connection;
use gavel_client::{Address, Call, Options, Request, Scores};
use gavel_protocol::RankBody;
use serde_json::json;

use crate::arguments::Arguments;
use crate::kernels::Random;
use crate::report::{Report, Spread};

/// Connections, requests in flight on each.
const LOADS: [(usize, usize); 6] = [(1, 1), (4, 1), (8, 4), (8, 16), (16, 16), (16, 64)];
/// Candidates of a request.
const CANDIDATES: usize = 64;
/// Requests that a connection has ready, so that ids are fresh.
const REQUESTS: usize = 64;
/// A load is kept up for so long, a quarter of it to warm up.
const TIME: Duration = Duration::from_millis(2000);
/// A server that answers nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Each load, one after the other.
pub fn run(arguments: &Arguments) -> Result<Report, String> {
    let (Some(bundle), Some(address)) = (&arguments.bundle, &arguments.address) else {
        return Err("serve needs --bundle DIR and --address HOST:PORT of a server that has it".into());
    };
    let mut report = Report::new("serve");
    report.say("engine", arguments.name.as_deref().unwrap_or("not told"));
    let model = load(bundle, &LoadOptions::default(), &mut |_| {}).map_err(|error| error.to_string())?;
    report.say("model", model.name.as_str());
    report.say("candidates of a request", CANDIDATES);
    let address: Address = address.parse().map_err(|error| format!("--address: {error}"))?;
    let mut best = 0.0_f64;
    let (loads, time) = if arguments.measuring { (&LOADS[..], TIME) } else { (&LOADS[..2], Duration::from_millis(50)) };
    for &(connections, in_flight) in loads {
        let (model, address) = (&model, &address);
        let parts: Vec<Result<Vec<f64>, String>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (1..=connections as u64).map(|seed| scope.spawn(move || one(model, address, in_flight, time, seed))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a client's thread panicked".into()))).collect()
        });
        let latencies: Vec<f64> = parts.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        if latencies.is_empty() {
            return Err(format!("no answer with {connections} connections within {time:?}"));
        }
        let per_second = latencies.len() as f64 / (time.as_secs_f64() * 0.75);
        let Spread { p50, p99, count, .. } = Spread::of(latencies);
        best = best.max(per_second * CANDIDATES as f64);
        println!("{connections:>3} connections x {in_flight:>3}: {per_second:>10.0} requests/s, p50 {p50:.0} µs, p99 {p99:.0} µs");
        report.row(json!({
            "connections": connections, "in flight on each": in_flight, "requests/s": per_second,
            "candidates/s": per_second * CANDIDATES as f64, "p50 µs": p50, "p99 µs": p99, "answers": count,
        }));
    }
    report.say("most candidates/s", best);
    Ok(report)
}

/// One connection; latencies in µs of what was answered behind the warm-up.
fn one(model: &Model, address: &Address, in_flight: usize, time: Duration, seed: u64) -> Result<Vec<f64>, String> {
    let began = Instant::now();
    let mut connection = loop {
        match Connection::connect(address, &Options::default()) {
            Ok(connection) => break connection,
            Err(error) if began.elapsed() > PATIENCE => return Err(error.to_string()),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let described = connection.describe(&model.name, Some(Instant::now() + PATIENCE)).map_err(|error| error.to_string())?;
    let mut random = Random(seed);
    let bodies: Vec<(Vec<u8>, Vec<u8>)> = (0..REQUESTS).map(|_| body(model, &mut random)).collect();
    let requests = bodies
        .iter()
        .map(|(dense, ids)| Request::from_blocks(&described, CANDIDATES as u32, RankBody { dense, ids, ..RankBody::default() }));
    let requests = requests.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    let (start, end) = (Instant::now() + time / 4, Instant::now() + time);
    let mut scores = Scores::default();
    let mut sent = std::collections::HashMap::with_capacity(in_flight);
    let mut latencies = Vec::new();
    let mut next = 0;
    loop {
        while sent.len() < in_flight && Instant::now() < end {
            let now = Instant::now();
            let id = connection.send(&requests[next % REQUESTS], &Call::default()).map_err(|error| error.to_string())?;
            sent.insert(id, now);
            next += 1;
        }
        if sent.is_empty() {
            return Ok(latencies);
        }
        let (id, answer) = connection.recv(&mut scores, Some(Instant::now() + PATIENCE)).map_err(|error| error.to_string())?;
        answer.map_err(|error| error.to_string())?;
        let since = sent.remove(&id).ok_or_else(|| format!("an answer to request {id}, which was not sent"))?;
        let now = Instant::now();
        if now >= start && now < end {
            latencies.push((now - since).as_secs_f64() * 1e6);
        }
    }
}

/// Blocks of random candidates, for models whose features are plain and all the candidates'.
fn body(model: &Model, random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let Layout { candidate: layout, .. } = Layout::new(&model.features, model.graph.outputs.len());
    let bounds = layout.plain_bounds.as_deref().unwrap_or_default();
    let dense = (0..CANDIDATES * layout.dense_width).flat_map(|_| random.unit().to_le_bytes()).collect();
    let mut ids = Vec::with_capacity(CANDIDATES * bounds.len() * layout.id_bytes);
    for bound in (0..CANDIDATES).flat_map(|_| bounds) {
        let id = u64::from(random.below(*bound));
        ids.extend_from_slice(&id.to_le_bytes()[..layout.id_bytes]);
    }
    (dense, ids)
}
