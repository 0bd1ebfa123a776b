//! Hostile clients beside healthy ones: they reset, half-close, stall, drip, flood, ask for too much, talk nonsense and vanish, at random, while
//! healthy connections go on. Every healthy request is answered exactly once and right, and at the end no descriptor and no memory is missing.
//!
//! `GAVEL_CHAOS_SECONDS`: how long per wire (default 5). `GAVEL_CHAOS_SEED`: the seed of a run that is to be repeated.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gavel::config::Address;
use gavel::server::preflight::IoBackend;
use gavel_protocol::Kind;
use support::process::{Serving, serve};
use support::raw::{PATIENCE, Raw};
use support::traffic::{Case, Random, good, ping, refused};
use support::{BACKENDS, bundles, models, usable};

const MODELS: [&str; 5] = ["dlrm", "dlrm_multihot_scoped", "deepfm_scoped", "mmoe", "wire_vectors"];
const HEALTHY: usize = 4;
const HOSTILE: usize = 8;
const IN_FLIGHT: usize = 8;
/// Of a hostile connection; the hello has 1.
const FIRST_ID: u64 = 10;
/// Growth of the server's resident memory between a quarter and the whole of a run, at rest both times. A leak per hostile connection or request
/// makes more of it; what stays touched once (slots, buffers of connections) has been touched by then, but for a few pages.
const GROWTH_KIB_MAX: u64 = 4 << 10;

#[test]
fn healthy_connections_notice_nothing() {
    let seconds = number("GAVEL_CHAOS_SECONDS").unwrap_or(5);
    let seed = number("GAVEL_CHAOS_SEED").unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    println!("GAVEL_CHAOS_SEED={seed} GAVEL_CHAOS_SECONDS={seconds}");
    let models = models(|name| MODELS.contains(&name));
    let mut random = Random(seed);
    let traffic = Traffic { good: good(&models, 40, &mut random), refused: refused(&models, &mut random), ping: ping() };
    let folder = tempfile::tempdir().unwrap();
    for name in MODELS {
        std::os::unix::fs::symlink(bundles().join(name), folder.path().join(name)).unwrap();
    }
    for backend in BACKENDS {
        if usable(backend) {
            run(backend, Duration::from_secs(seconds), seed, folder.path(), &traffic);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

struct Traffic {
    good: Vec<Case>,
    refused: Vec<Case>,
    ping: Case,
}

fn run(backend: IoBackend, length: Duration, seed: u64, models: &Path, traffic: &Traffic) {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", folder.path().join("gavel.sock").display());
    let mut command = serve(models);
    command.args(["--io", backend.name(), "--listen", &socket]);
    for setting in SETTINGS {
        command.args(["--set", setting]);
    }
    let mut server = Serving::start(&mut command);
    let at_rest = descriptors(&server);
    let addresses = server.addresses.clone();
    let arena = Arena { addresses, traffic, deeds: Default::default(), answered: AtomicU64::new(0), over: AtomicBool::new(false) };

    std::thread::scope(|scope| {
        let arena = &arena;
        for number in 0..HEALTHY {
            scope.spawn(move || arena.stay_healthy(number, Random(seed ^ number as u64)));
        }
        let end = ReleaseAtEnd(&arena.over);
        let mut random = Random(seed ^ 0xc4a05);
        arena.harass(length / 4, &mut random);
        let (quarter_kib, quarter) = (rest(&server, HEALTHY, at_rest), arena.hostile_connections());
        arena.harass(length - length / 4, &mut random);
        let (whole_kib, whole) = (rest(&server, HEALTHY, at_rest), arena.hostile_connections());
        drop(end);
        println!("{backend}: resident {quarter_kib} KiB after {quarter}, {whole_kib} KiB after {whole} hostile connections");
        assert!(whole_kib <= quarter_kib + GROWTH_KIB_MAX, "memory grows");
    });
    println!("{backend}: {} healthy requests answered once and right beside {}", arena.answered.load(Ordering::Relaxed), arena.told());
    assert!(arena.deeds.iter().all(|deed| deed.load(Ordering::Relaxed) > 0), "every deed was done");
    rest(&server, 0, at_rest);
    assert_eq!((sum(&server, "gavel_in_flight_requests"), sum(&server, "gavel_queued_candidates")), (0, 0), "nothing is left behind");

    // Clients that stay do not keep the drain for ever.
    let staying: Vec<Raw> = DEEDS.iter().flat_map(|deed| arena.begin(*deed, &mut Random(seed))).collect();
    let began = Instant::now();
    server.signal(rustix::process::Signal::TERM);
    let (status, stderr) = server.end();
    println!("{backend}: drained in {:?} beside {} clients that stay", began.elapsed(), staying.len());
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
    assert!(began.elapsed() < DRAIN + Duration::from_secs(10), "in bounded time");
}

/// Lets the healthy clients go, also where the test fails.
struct ReleaseAtEnd<'a>(&'a AtomicBool);

impl Drop for ReleaseAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Timeouts are short enough to throw hostile clients out, and long enough for healthy ones on a busy machine.
const SETTINGS: [&str; 7] = [
    "limits.in_flight_per_connection=24",
    "limits.frame_bytes=262144",
    "limits.send_bytes=262144",
    "timeouts.hello_ms=2000",
    "timeouts.receive_ms=1500",
    "timeouts.send_ms=1500",
    "timeouts.drain_ms=5000",
];
/// `in_flight_per_connection`, as above.
const IN_FLIGHT_MAX: usize = 24;
/// `drain_ms`, as above.
const DRAIN: Duration = Duration::from_secs(5);

/// Open descriptors of the server.
fn descriptors(server: &Serving) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

fn resident_kib(server: &Serving) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The sum of a metric over its labels.
fn sum(server: &Serving, metric: &str) -> u64 {
    let text = server.page("/metrics").1;
    let lines = text.lines().filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with([' ', '{'])));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Waits until the server has no other connections than the healthy ones, by its own count and by its descriptors. Gives its resident memory then.
fn rest(server: &Serving, healthy: usize, at_rest: usize) -> u64 {
    let began = Instant::now();
    loop {
        let (connections, open) = (sum(server, "gavel_connections"), descriptors(server));
        if connections <= healthy as u64 && open <= at_rest + healthy {
            return resident_kib(server);
        }
        assert!(began.elapsed() < PATIENCE, "{connections} connections and {open} descriptors instead of {healthy} and {at_rest}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a hostile client does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    /// Sends requests, then resets the connection.
    Kill,
    /// Sends requests and its end, and takes the answers.
    HalfClose,
    /// Sends requests and its end, and vanishes.
    HalfCloseAndVanish,
    /// Asks for much and takes nothing.
    Stall,
    /// Sends a frame in drops, whole or not.
    Drip,
    /// Sends bytes that are no frames.
    Garbage,
    /// Damages good frames, one byte at a time.
    Damage,
    /// Sends what is refused, thousands of times.
    BadRequests,
    /// Has more requests in flight than it may.
    OverLimit,
    /// Uses an id twice.
    SameId,
    /// Asks and cancels, what is in flight and what is not.
    Cancel,
    /// Connects and says nothing.
    Silence,
    /// Asks and leaves without waiting.
    Leave,
}

const DEEDS: [Deed; 13] = [
    Deed::Kill,
    Deed::HalfClose,
    Deed::HalfCloseAndVanish,
    Deed::Stall,
    Deed::Drip,
    Deed::Garbage,
    Deed::Damage,
    Deed::BadRequests,
    Deed::OverLimit,
    Deed::SameId,
    Deed::Cancel,
    Deed::Silence,
    Deed::Leave,
];

struct Arena<'a> {
    addresses: Vec<Address>,
    traffic: &'a Traffic,
    deeds: [AtomicU64; DEEDS.len()],
    /// Healthy requests.
    answered: AtomicU64,
    over: AtomicBool,
}

impl Arena<'_> {
    fn hostile_connections(&self) -> u64 {
        self.deeds.iter().map(|deed| deed.load(Ordering::Relaxed)).sum()
    }

    fn told(&self) -> String {
        let told: Vec<String> =
            DEEDS.iter().zip(&self.deeds).map(|(deed, count)| format!("{deed:?} {}", count.load(Ordering::Relaxed))).collect();
        told.join(", ")
    }

    /// A healthy client: pipelined requests, pings, some that are refused; each answered once. Every few hundred requests it takes its leave properly
    /// and comes back.
    fn stay_healthy(&self, number: usize, mut random: Random) {
        let addresses = &self.addresses;
        while !self.over.load(Ordering::Relaxed) {
            let mut client = Raw::open(&addresses[number % addresses.len()]);
            let mut waiting: HashMap<u64, (&Case, bool)> = HashMap::new();
            let mut next = 100;
            let last = next + 200 + random.below(2000) as u64;
            loop {
                let leaves = next >= last || self.over.load(Ordering::Relaxed);
                while waiting.len() < IN_FLIGHT && !leaves {
                    let case = match random.below(20) {
                        0 => &self.traffic.ping,
                        1 => random.pick(&self.traffic.refused),
                        _ => random.pick(&self.traffic.good),
                    };
                    let cancels = case.is_good() && random.below(50) == 0;
                    let mut bytes = case.frame(next);
                    if cancels {
                        bytes.extend_from_slice(client.encoder.cancel(next));
                    }
                    client.send(&bytes).unwrap();
                    waiting.insert(next, (case, cancels));
                    next += 1;
                }
                if waiting.is_empty() {
                    break;
                }
                let frame = client.frame();
                let (case, cancelled) = waiting.remove(&frame.header.request_id).expect("an answer that nobody waits for");
                case.judge(&frame, cancelled);
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            client.finish();
            assert!(client.recv().unwrap().is_none(), "no answer beyond those that were due");
        }
    }

    /// Hostile clients, several at once, for so long.
    fn harass(&self, length: Duration, random: &mut Random) {
        let until = Instant::now() + length;
        let mut held: Vec<(Instant, Vec<Raw>)> = Vec::new();
        std::thread::scope(|scope| {
            for _ in 0..HOSTILE {
                let mut random = Random(random.next());
                scope.spawn(move || {
                    while Instant::now() < until {
                        let deed = *random.pick(&DEEDS);
                        self.commit(deed, &mut random);
                    }
                });
            }
            // And some that stay until they are thrown out or the stretch is over.
            let mut random = Random(random.next());
            while Instant::now() < until {
                let deed = *random.pick(&[Deed::Stall, Deed::Silence, Deed::Drip]);
                held.push((Instant::now(), self.begin(deed, &mut random).into_iter().collect()));
                held.retain(|(since, _)| since.elapsed() < Duration::from_secs(2));
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    }

    /// One hostile connection, from its beginning to its end.
    fn commit(&self, deed: Deed, random: &mut Random) {
        if let Some(mut client) = self.begin(deed, random) {
            match deed {
                Deed::OverLimit | Deed::BadRequests | Deed::Cancel => self.converse(deed, client, random),
                Deed::HalfClose => {
                    client.finish();
                    let _ = client.until_closed();
                }
                Deed::Kill | Deed::Garbage | Deed::Damage | Deed::Stall if random.below(2) == 0 => client.reset(),
                Deed::SameId | Deed::Damage => drop(client.try_recv(Duration::from_millis(20))),
                _ => std::thread::sleep(Duration::from_millis(random.below(20) as u64)),
            }
        }
        self.deeds[deed as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Hostile by number, not by manners: whatever it sends, it takes an answer for each.
    fn converse(&self, deed: Deed, mut client: Raw, random: &mut Random) {
        let count = match deed {
            Deed::BadRequests => 200 + random.below(800),
            Deed::OverLimit => IN_FLIGHT_MAX * 4,
            _ => IN_FLIGHT_MAX,
        };
        let mut bytes = Vec::new();
        for number in 0..count {
            let cases = if deed == Deed::BadRequests { &self.traffic.refused } else { &self.traffic.good };
            bytes.extend(random.pick(cases).frame(FIRST_ID + number as u64));
            if deed == Deed::Cancel {
                let cancelled = FIRST_ID + random.below(2 * count) as u64;
                bytes.extend_from_slice(client.encoder.cancel(cancelled));
            }
        }
        let mut writer = client.socket.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = writer.write_all(&bytes);
            });
            let mut waiting: HashSet<u64> = (0..count as u64).map(|number| FIRST_ID + number).collect();
            while !waiting.is_empty() {
                match client.recv() {
                    Ok(Some(frame)) if frame.header.kind == Kind::HelloAnswer => {}
                    Ok(Some(frame)) => assert!(waiting.remove(&frame.header.request_id), "{deed:?}: answered twice, or never asked"),
                    end => panic!("{deed:?}: the server left {} requests unanswered: {end:?}", waiting.len()),
                }
            }
        });
    }

    /// Connects and does the deed up to where it waits. `None`: the server has closed already, which it may.
    fn begin(&self, deed: Deed, random: &mut Random) -> Option<Raw> {
        let mut client = Raw::connect(random.pick(&self.addresses)).ok()?;
        if matches!(deed, Deed::Silence) {
            return Some(client);
        }
        if !matches!(deed, Deed::Garbage) || random.below(2) == 0 {
            let hello = client.encoder.hello(1, "hostile", None).to_vec();
            client.send(&hello).ok()?;
            // Half of them wait for the answer.
            if random.below(2) == 0 {
                client.recv().ok()??;
            }
        }
        client.socket.set_write_timeout(Some(Duration::from_millis(300))).ok()?;
        // A server that has had enough resets, and whoever stalls is not read to the end: what could not be sent is no matter.
        let _ = match deed {
            Deed::Kill | Deed::Leave | Deed::HalfClose => client.send(&self.some(12, random)),
            Deed::HalfCloseAndVanish => {
                let sent = client.send(&self.some(12, random));
                client.finish();
                sent
            }
            Deed::Stall => {
                let describes = client.encoder.describe(7, "dlrm").to_vec().repeat(1 + random.below(30_000));
                client.send(&describes)
            }
            Deed::Drip => {
                let frame = self.some(1, random);
                let end = if random.below(2) == 0 { frame.len() } else { random.below(frame.len()) };
                frame[..end].chunks(1 + frame.len() / 16).try_for_each(|drop| {
                    std::thread::sleep(Duration::from_millis(1));
                    client.send(drop)
                })
            }
            Deed::Garbage => {
                let garbage: Vec<u8> = (0..1 + random.below(20_000)).map(|_| random.next() as u8).collect();
                client.send(&garbage)
            }
            Deed::Damage => {
                let mut frames = self.some(3, random);
                let at = random.below(frames.len());
                frames[at] ^= 1 << random.below(8);
                client.send(&frames)
            }
            Deed::SameId => {
                let case = random.pick(&self.traffic.good);
                client.send(&[case.frame(FIRST_ID), case.frame(FIRST_ID)].concat())
            }
            Deed::Silence | Deed::OverLimit | Deed::BadRequests | Deed::Cancel => Ok(()),
        };
        client.socket.set_write_timeout(Some(PATIENCE)).ok()?;
        Some(client)
    }

    /// So many good requests.
    fn some(&self, count: usize, random: &mut Random) -> Vec<u8> {
        (0..count).flat_map(|number| random.pick(&self.traffic.good).frame(FIRST_ID + number as u64)).collect()
    }
}
