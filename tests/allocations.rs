//! Between a readable socket and a written reply nothing is allocated: 10,000 mixed requests through real sockets, the runtimes included, on both
//! wires. What going to sleep and waking adds is measured and printed.
//!
//! A shard's threads are known by their name, which the kernel keeps and which threads of the runtime inherit; nothing else counts, so that
//! the clients of this process may allocate as they like.
#![allow(unsafe_code, clippy::unwrap_used)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gavel::config::Address;
use gavel::engine::EngineKind;
use gavel::metrics::Registry;
use gavel::server::preflight::IoBackend;
use support::raw::Raw;
use support::traffic::{Case, Expected, Random, good, ping, refused};
use support::{BACKENDS, config, models, start, usable};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The system's allocator; counts allocations and reallocations of shards.
struct Counting;

/// Of all shards of this process.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Whether the next allocation of a shard is told with its stack.
static WATCHED: AtomicBool = AtomicBool::new(false);
static CULPRIT: Mutex<Option<Backtrace>> = Mutex::new(None);

thread_local! {
    static IS_SHARD: Cell<bool> = const { Cell::new(false) };
    static IS_TELLING: Cell<bool> = const { Cell::new(false) };
}

fn is_shard() -> bool {
    IS_SHARD
        .try_with(|known| {
            if !known.get() {
                let mut name = [0u8; 16];
                // SAFETY: the kernel writes at most 16 bytes.
                unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
                known.set(name.starts_with(b"shard-"));
            }
            known.get()
        })
        // A thread that is ending has no state any more.
        .unwrap_or(false)
}

fn count() {
    if !is_shard() || IS_TELLING.try_with(Cell::get).unwrap_or(true) {
        return;
    }
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    if WATCHED.swap(false, Ordering::Relaxed) {
        IS_TELLING.set(true);
        *CULPRIT.lock().unwrap() = Some(Backtrace::force_capture());
        IS_TELLING.set(false);
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

const REQUESTS: usize = 10_000;
const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 12;
/// A client thread that gets no CPU for longer lets the shard fall asleep; such a run is repeated.
const SPIN_US: u32 = 1_000_000;
const ATTEMPTS: usize = 5;
/// One at a time, for the price of sleep.
const SINGLE_REQUESTS: usize = 500;

/// All of it in one test: the counter is the process's.
#[test]
fn nothing_is_allocated_on_a_requests_way() {
    let models = models(|_| true);
    let mut random = Random(0x9a7e1);
    let began = Instant::now();
    let mut cases = good(&models, 18, &mut random);
    cases.extend(refused(&models, &mut random));
    cases.extend((0..cases.len() / 16).map(|_| ping()));
    println!("{} cases in {:?}", cases.len(), began.elapsed());
    // Mixed: models, sizes and faults side by side.
    for at in (1..cases.len()).rev() {
        cases.swap(at, random.below(at + 1));
    }
    for backend in BACKENDS {
        if !usable(backend) {
            continue;
        }
        busy(backend, &models, &cases);
        asleep(backend, &models, &cases);
    }
}

fn sleeps(registry: &Registry) -> u64 {
    registry.snapshot().shards.iter().map(|shard| shard.sleeps).sum()
}

/// A shard that spins on: no allocation at all.
fn busy(backend: IoBackend, models: &[std::sync::Arc<gavel::model::Model>], cases: &[Case]) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.general.spin_us = SPIN_US;
    config.general.listen.push(Address::Unix(folder.path().join("gavel.sock")));
    let server = start(backend, EngineKind::Cpu, 1, config, models);
    let addresses = server.server.addresses().to_vec();
    let mut clients: Vec<Raw> = (0..CONNECTIONS).map(|number| Raw::open(&addresses[number % 2])).collect();
    // Warm: every kind of frame has come by on every connection.
    talk(&mut clients, cases, cases.len());
    for attempt in 1.. {
        let slept = sleeps(&server.registry);
        *CULPRIT.lock().unwrap() = None;
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        WATCHED.store(true, Ordering::SeqCst);
        let began = Instant::now();
        let told = talk(&mut clients, cases, REQUESTS / CONNECTIONS);
        WATCHED.store(false, Ordering::SeqCst);
        let allocations = ALLOCATIONS.load(Ordering::SeqCst) - before;
        let slept = sleeps(&server.registry) - slept;
        println!("{backend}, busy: {told}, {allocations} allocations, {slept} sleeps, {:?}", began.elapsed());
        if slept == 0 {
            let culprit = CULPRIT.lock().unwrap().take();
            assert_eq!(allocations, 0, "the first one:\n{}", culprit.map_or(String::new(), |stack| stack.to_string()));
            assert!(told.scores > REQUESTS / 2 && told.refused > 0 && told.pongs > 0 && told.cancels > 0, "all kinds were there");
            break;
        }
        assert!(attempt < ATTEMPTS, "this machine is so busy that the shard falls asleep while clients talk to it");
    }
    drop(clients);
    assert!(server.server.drain(), "drained in time");
}

/// What a sleep between two requests costs.
fn asleep(backend: IoBackend, models: &[std::sync::Arc<gavel::model::Model>], cases: &[Case]) {
    let mut config = config();
    config.general.spin_us = 0;
    let server = start(backend, EngineKind::Cpu, 1, config, models);
    let mut client = [Raw::open(&server.server.addresses()[0])];
    let single: Vec<&Case> = cases.iter().filter(|case| case.is_good()).collect();
    let mut one_by_one = |count: usize| {
        for number in 0..count {
            let request_id = 10 + number as u64;
            client[0].send(&single[number % single.len()].frame(request_id)).unwrap();
            assert_eq!(client[0].frame().header.request_id, request_id);
            // Long enough for the shard to find nothing to do.
            std::thread::sleep(Duration::from_micros(200));
        }
    };
    one_by_one(single.len());
    let (slept, before) = (sleeps(&server.registry), ALLOCATIONS.load(Ordering::SeqCst));
    one_by_one(SINGLE_REQUESTS);
    let allocations = ALLOCATIONS.load(Ordering::SeqCst) - before;
    let slept = sleeps(&server.registry) - slept;
    println!(
        "{backend}, asleep between requests: {:.2} allocations per request, {:.2} per sleep ({SINGLE_REQUESTS} requests, {slept} sleeps)",
        allocations as f64 / SINGLE_REQUESTS as f64,
        allocations as f64 / slept as f64
    );
    assert!(slept as usize >= SINGLE_REQUESTS / 2, "the shard slept between requests");
    match backend {
        // glommio's reads and timers allocate; a bound says when that changes.
        IoBackend::Uring => assert!(allocations <= ASLEEP_MAX * slept, "sleeping has become dearer"),
        IoBackend::Epoll => assert_eq!(allocations, 0, "epoll sleeps for nothing"),
    }
    drop(client);
    assert!(server.server.drain(), "drained in time");
}

/// Allocations of the executor per sleep, at most.
const ASLEEP_MAX: u64 = 32;

/// What came back.
#[derive(Default)]
struct Told {
    scores: usize,
    refused: usize,
    pongs: usize,
    cancels: usize,
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rank answers, {} refusals, {} pongs; {} cancels sent", self.scores, self.refused, self.pongs, self.cancels)
    }
}

/// Every connection sends `per_connection` of the cases, pipelined, and takes one answer for each.
fn talk(clients: &mut [Raw], cases: &[Case], per_connection: usize) -> Told {
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(number, client)| scope.spawn(move || converse(client, cases, number * 61, per_connection)))
            .collect();
        let mut told = Told::default();
        for thread in threads {
            let part = thread.join().unwrap();
            told.scores += part.scores;
            told.refused += part.refused;
            told.pongs += part.pongs;
            told.cancels += part.cancels;
        }
        told
    })
}

fn converse(client: &mut Raw, cases: &[Case], first: usize, count: usize) -> Told {
    let mut told = Told::default();
    let mut waiting: HashMap<u64, (&Case, bool)> = HashMap::new();
    let mut sent = 0;
    while sent < count || !waiting.is_empty() {
        while sent < count && waiting.len() < IN_FLIGHT {
            let case = &cases[(first + sent) % cases.len()];
            let request_id = 10 + sent as u64;
            let cancels = case.is_good() && sent % 19 == 0;
            let mut bytes = case.frame(request_id);
            if cancels {
                bytes.extend_from_slice(client.encoder.cancel(request_id));
                told.cancels += 1;
            }
            client.send(&bytes).unwrap();
            waiting.insert(request_id, (case, cancels));
            sent += 1;
        }
        let frame = client.frame();
        let (case, cancelled) = waiting.remove(&frame.header.request_id).expect("answered once");
        case.judge(&frame, cancelled);
        match case.expected {
            Expected::Scores(_) => told.scores += 1,
            Expected::Refusal(_) => told.refused += 1,
            Expected::Pong => told.pongs += 1,
        }
    }
    told
}
