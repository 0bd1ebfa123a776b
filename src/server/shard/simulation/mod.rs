//! The whole shard against hostile clients, on a wire of plain memory and a clock that the seed moves.
//!
//! What must hold whatever happens: every request on a connection that stays gets exactly one answer; scores are bit for bit those of the model
//! (its weights are chosen so that f32 is exact); no answer after its budget says "ok"; connections, tickets and slots are all given back.

mod answers;
mod clients;
mod endings;
mod memory_wire;
mod remote;
mod world;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gavel_protocol::{Code, Kind};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::{News, Published, Rollout, Shard, ShardLimits, ShardParts};
use crate::batch::SlotLimits;
use crate::connection::Timeouts;
use crate::engine::{EngineKind, new_engine, prepare};
use crate::metrics::Registry;
use crate::server::mailbox::{MailSender, mailbox};
use crate::server::publish::publish;
use crate::server::runtime::{Reactor, Turn};
use crate::units::{Clock, Span};
use crate::wire::{Event, Waker};

use self::clients::{Client, Expected};
use self::memory_wire::MemoryWire;
use self::remote::{Remote, RemoteEngine};
use self::world::{World, world};

const SEND_BYTES_MAX: usize = 64 << 10;
const LIMITS: ShardLimits = ShardLimits {
    connections_max: 8,
    connection_in_flight_max: 6,
    in_flight_max: 16,
    frame_bytes_max: 16 << 10,
    send_bytes_max: SEND_BYTES_MAX,
    timeouts: Timeouts {
        hello: Span::from_ms(500),
        idle: Span::from_ms(60_000),
        receive: Span::from_ms(2_000),
        send: Span::from_ms(3_000),
    },
};

struct Simulation<'w> {
    world: &'w World,
    published: Arc<Published>,
    shard: Shard,
    wire: MemoryWire,
    clients: Vec<Client>,
    clock: Clock,
    nanoseconds: &'static AtomicU64,
    news: MailSender<News>,
    remote: Arc<Remote>,
    rng: TestRng,
    ok: usize,
    refused: BTreeMap<Code, usize>,
}

impl<'w> Simulation<'w> {
    fn new(world: &'w World, seed: u64) -> Simulation<'w> {
        let nanoseconds: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(1_000_000)));
        let clock = Clock::manual(nanoseconds);
        let registry = Registry::new(clock, 4);
        let (news, news_end) = mailbox(8, Waker::new().expect("eventfd"));
        let (_, sockets) = mailbox(8, Waker::new().expect("eventfd"));
        let cells = registry.add_shard();
        let remote = Arc::new(Remote::default());
        let mut engine = new_engine(EngineKind::Cpu).expect("an engine");
        if seed % 2 == 1 {
            engine = Box::new(RemoteEngine::new(engine, Arc::clone(&remote), seed));
        }
        engine.wake_with(remote.wake());
        let parts = ShardParts { engine, sockets, news: news_end, cells, clock, limits: LIMITS, server_name: "simulation".into() };
        let mut limits = crate::config::Config::default().limits;
        limits.candidates_per_request = 40;
        limits.slots_per_model = 2;
        let prepared = prepare(EngineKind::Cpu, &world.model).expect("prepared");
        let mut published = publish(&world.model, prepared, None, &limits, &registry).expect("a place in the metrics");
        published.slot_limits = SlotLimits { contexts: 5, rows: 60, ids: 400 };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut simulation = Simulation {
            world,
            published: Arc::new(published),
            shard: Shard::new(parts),
            wire: MemoryWire { lines: Vec::new(), events: VecDeque::new(), send_bytes_max: SEND_BYTES_MAX },
            clients: Vec::new(),
            clock,
            nanoseconds,
            news,
            remote,
            rng: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
            ok: 0,
            refused: BTreeMap::new(),
        };
        let rollout = Arc::new(Rollout::default());
        assert!(simulation.news.send(News::Publish(Arc::clone(&simulation.published), Arc::clone(&rollout))).is_ok());
        simulation.turn();
        assert_eq!(rollout.done(), 1);
        simulation
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.rng.next_u32() as usize) % limit.max(1)
    }

    fn pass(&mut self, span: Span) {
        self.nanoseconds.fetch_add(span.0, Ordering::Relaxed);
    }

    fn turn(&mut self) -> Turn {
        let rng = &mut self.rng;
        self.wire.move_bytes(|len| {
            let most = if rng.next_u32().is_multiple_of(4) { len } else { len.min(1 + rng.next_u32() as usize % 700) };
            rng.next_u32() as usize % (most + 1)
        });
        let turn = self.shard.turn(&mut self.wire, self.clock.now());
        if matches!(turn, Turn::IdleUntil(_)) && Reactor::<MemoryWire>::may_sleep(&mut self.shard) {
            self.remote.sleep(self.shard.engine.in_flight());
        }
        self.read();
        turn
    }
}

#[test]
fn hostile_clients() {
    let world = world();
    let (mut ok, mut refused, mut slept) = (0, BTreeMap::new(), 0);
    let seeds = std::env::var("GAVEL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(150);
    for seed in 0..seeds {
        let mut simulation = Simulation::new(&world, seed);
        simulation.connect();
        for _ in 0..600 {
            simulation.step();
        }
        simulation.finish();
        ok += simulation.ok;
        slept += simulation.remote.slept();
        for (code, count) in simulation.refused {
            *refused.entry(code).or_insert(0) += count;
        }
    }
    println!("{ok} answers with scores, refused: {refused:?}, {slept} sleeps over batches");
    assert!(slept > seeds as usize, "shards sleep while a device computes");
    assert!(ok > seeds as usize * 20, "most seeds rank something");
    for code in [Code::Cancelled, Code::DeadlineExceeded, Code::Overloaded, Code::InFlightLimit, Code::BadMagic, Code::IdOutOfRange] {
        assert!(refused.contains_key(&code), "the schedules reach {code}");
    }
}

/// More frames than a round handles, then a half-close: every answer, then the end.
#[test]
fn a_long_burst_and_a_half_close() {
    let world = world();
    for frames in [63, 64, 65, 127, 128, 255, 256, 300] {
        let mut simulation = Simulation::new(&world, frames);
        simulation.connect();
        for _ in 1..frames {
            let id = simulation.request_id(0);
            let frame = simulation.clients[0].encoder.ping(id, b"burst").to_vec();
            simulation.clients[0].expected.insert(id, Expected::Kind(Kind::Pong));
            simulation.write(0, &frame);
        }
        let id = simulation.clients[0].id;
        let line = simulation.wire.line(id).expect("connected");
        let all: Vec<u8> = line.on_the_way.drain(..).collect();
        line.inbound.extend(all);
        line.client_finished = true;
        line.told_finished = true;
        simulation.wire.events.extend([Event::Received(id), Event::Finished(id)]);
        let client = simulation.clients.remove(0);
        simulation.settle_half_closed(client);
    }
}
