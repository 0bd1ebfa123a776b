//! The whole shard against hostile clients, on a wire of plain memory and a clock that the seed moves.
//!
//! What must hold whatever happens: every request on a connection that stays gets exactly one answer; scores are bit for bit those of the model
//! (its weights are chosen so that f32 is exact); no answer after its budget says "ok"; connections, tickets and slots are all given back.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gavel_protocol::{Code, Encoder, ErrorView, HEADER_BYTES, Header, Kind, RankBody, ScoresView};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::{News, Published, Rollout, Shard, ShardLimits, ShardParts};
use crate::batch::SlotLimits;
use crate::connection::{Frame, Timeouts, next_frame};
use crate::engine::{EngineKind, new_engine, prepare, selftest};
use crate::metrics::Registry;
use crate::model::{FeatureRows, LoadOptions, Model, load};
use crate::server::mailbox::{MailSender, mailbox};
use crate::server::publish::publish;
use crate::server::runtime::{Reactor, Turn};
use crate::units::{Clock, Instant, Span};
use crate::wire::{Cause, Close, ConnectionId, Event, SendFull, Waker, Wire};

/// Both ends of every connection, in memory.
struct MemoryWire {
    lines: Vec<Line>,
    events: VecDeque<Event>,
    send_bytes_max: usize,
}

#[derive(Default)]
struct Line {
    generation: u32,
    open: bool,
    /// Written by the client, not yet seen by the shard.
    on_the_way: VecDeque<u8>,
    client_finished: bool,
    told_finished: bool,
    /// Seen by the shard, not consumed.
    inbound: Vec<u8>,
    reading: bool,
    /// Queued by the shard.
    outbound: VecDeque<u8>,
    /// The client reads.
    drains: bool,
    /// What the client has read.
    read: Vec<u8>,
    closing: Option<Close>,
    /// The client vanished.
    aborted: bool,
}

impl MemoryWire {
    fn connect(&mut self) -> ConnectionId {
        let index = self.lines.iter().position(|line| !line.open && line.closing.is_none()).unwrap_or_else(|| {
            self.lines.push(Line::default());
            self.lines.len() - 1
        });
        let generation = self.lines[index].generation + 1;
        self.lines[index] = Line { generation, open: true, reading: true, drains: true, ..Line::default() };
        ConnectionId { index: index as u32, generation }
    }

    fn line(&mut self, id: ConnectionId) -> Option<&mut Line> {
        self.lines.get_mut(id.index as usize).filter(|line| line.open && line.generation == id.generation)
    }

    /// Moves some bytes on every line, in pieces that `pick` chooses.
    fn move_bytes(&mut self, mut pick: impl FnMut(usize) -> usize) {
        for (index, line) in self.lines.iter_mut().enumerate().filter(|(_, line)| line.open) {
            let id = ConnectionId { index: index as u32, generation: line.generation };
            if line.aborted {
                line.open = false;
                self.events.push_back(Event::Closed(id, Cause::Error(104)));
                continue;
            }
            if line.drains && !line.outbound.is_empty() {
                let count = pick(line.outbound.len()).max(1);
                line.read.extend(line.outbound.drain(..count));
                if line.outbound.is_empty() {
                    self.events.push_back(Event::Sent(id));
                }
            }
            match line.closing {
                Some(Close::Now) => {
                    line.open = false;
                    line.closing = None;
                    self.events.push_back(Event::Closed(id, Cause::Local));
                    continue;
                }
                Some(Close::AfterSends) => {
                    if line.outbound.is_empty() {
                        line.open = false;
                        line.closing = None;
                        self.events.push_back(Event::Closed(id, Cause::Local));
                    }
                    continue;
                }
                None => {}
            }
            if line.reading && !line.on_the_way.is_empty() {
                let count = pick(line.on_the_way.len());
                if count > 0 {
                    line.inbound.extend(line.on_the_way.drain(..count));
                    self.events.push_back(Event::Received(id));
                }
            }
            if line.reading && line.client_finished && line.on_the_way.is_empty() && !line.told_finished {
                line.told_finished = true;
                self.events.push_back(Event::Finished(id));
            }
        }
    }
}

impl Wire for MemoryWire {
    fn adopt(&mut self, _: OwnedFd) -> std::io::Result<ConnectionId> {
        unreachable!("the simulation hands connections over itself")
    }
    fn turn(&mut self) -> std::io::Result<()> {
        Ok(())
    }
    fn next(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
    fn received(&self, id: ConnectionId) -> &[u8] {
        match self.lines.get(id.index as usize) {
            Some(line) if line.open && line.generation == id.generation => &line.inbound,
            _ => &[],
        }
    }
    fn consume(&mut self, id: ConnectionId, bytes: usize) {
        if let Some(line) = self.line(id) {
            line.inbound.drain(..bytes);
        }
    }
    fn need(&mut self, _: ConnectionId, _: usize) {}
    fn set_reading(&mut self, id: ConnectionId, reading: bool) {
        if let Some(line) = self.line(id) {
            line.reading = reading;
        }
    }
    fn send(&mut self, id: ConnectionId, bytes: &[u8]) -> Result<(), SendFull> {
        let max = self.send_bytes_max;
        match self.line(id) {
            Some(line) if line.closing.is_none() => {
                if line.outbound.len() + bytes.len() > max {
                    return Err(SendFull);
                }
                line.outbound.extend(bytes);
                Ok(())
            }
            _ => Ok(()),
        }
    }
    fn unsent(&self, id: ConnectionId) -> usize {
        self.lines.get(id.index as usize).map_or(0, |line| line.outbound.len())
    }
    fn close(&mut self, id: ConnectionId, how: Close) {
        if let Some(line) = self.line(id) {
            line.closing = Some(how);
        }
    }
    fn is_busy(&self) -> bool {
        !self.events.is_empty()
    }
    fn wait(&mut self, _: Option<Span>) -> std::io::Result<()> {
        unreachable!("the simulation never sleeps")
    }
    fn connections(&self) -> usize {
        self.lines.iter().filter(|line| line.open).count()
    }
}

/// What a client expects for a request.
#[derive(Clone)]
enum Expected {
    /// Scores of these candidate rows in this context, or an answer that the state of the server justifies.
    Scores { context: usize, rows: Vec<usize>, mask: Option<Vec<u8>>, top_k: u32, bids: Option<Vec<i64>>, sent: Instant, budget_us: u32 },
    /// This refusal.
    Refusal(Code),
    /// A pong, a description, a hello.
    Kind(Kind),
}

struct Client {
    id: ConnectionId,
    encoder: Encoder,
    next_request: u64,
    expected: BTreeMap<u64, Expected>,
    /// Ids whose answer may also be `cancelled`.
    cancelled: Vec<u64>,
    /// The client broke off or was broken off: answers may be missing.
    lost: bool,
    answered: usize,
    read: usize,
}

/// A trained model, one row of whose inputs is as good as another.
struct World {
    model: Arc<Model>,
    rows: FeatureRows,
    /// [context][row][output], computed outside the shard.
    truth: Vec<Vec<[f32; 2]>>,
}

fn world() -> World {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles/wire_vectors");
    let model = Arc::new(load(&path, &LoadOptions::default(), &mut |_| {}).expect("the bundle of the vectors"));
    let prepared = prepare(EngineKind::Cpu, &model).expect("prepared");
    let rows = model.selftest.inputs.clone();
    let truth = (0..rows.rows())
        .map(|context| {
            let mut pairs = FeatureRows::new(model.fields());
            for row in 0..rows.rows() {
                let cells: Vec<_> = model
                    .features
                    .iter()
                    .enumerate()
                    .map(|(feature, spec)| rows.cell(feature, if spec.scope == crate::model::Scope::Context { context } else { row }))
                    .collect();
                pairs.push_row(&cells).expect("a legal row");
            }
            let scores = selftest::score_rows(&prepared, &model, &pairs).expect("scores");
            scores.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect()
        })
        .collect();
    World { model, rows, truth }
}

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
        let engine = new_engine(EngineKind::Cpu).expect("an engine");
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
        self.read();
        turn
    }

    fn connect(&mut self) {
        if self.wire.connections() == LIMITS.connections_max {
            return;
        }
        let id = self.wire.connect();
        self.shard.welcome(id, self.clock.now());
        let mut client = Client {
            id,
            encoder: Encoder::new(),
            next_request: 1,
            expected: BTreeMap::new(),
            cancelled: Vec::new(),
            lost: false,
            answered: 0,
            read: 0,
        };
        client.expected.insert(1, Expected::Kind(Kind::HelloAnswer));
        let hello = client.encoder.hello(1, "simulated", None).to_vec();
        self.clients.push(client);
        let last = self.clients.len() - 1;
        self.write(last, &hello);
    }

    fn write(&mut self, client: usize, bytes: &[u8]) {
        if let Some(line) = self.wire.line(self.clients[client].id) {
            line.on_the_way.extend(bytes);
        } else {
            self.clients[client].lost = true;
        }
    }

    fn request_id(&mut self, client: usize) -> u64 {
        self.clients[client].next_request += 1;
        self.clients[client].next_request
    }

    /// A rank request; `spoil` breaks it in one way.
    fn rank(&mut self, client: usize, spoil: Option<Code>) {
        let count = 1 + self.below(12);
        let context = self.below(self.world.rows.rows());
        let rows: Vec<usize> = (0..count).map(|_| self.below(self.world.rows.rows())).collect();
        let (blocks, candidates) = (self.world.rows.encode_context(context), self.world.rows.encode_candidates(&rows));
        let mask: Option<Vec<u8>> = (self.below(3) == 0).then(|| (0..count).map(|_| u8::from(self.below(3) > 0)).collect());
        let bids: Option<Vec<i64>> = (self.below(3) == 0).then(|| (0..count).map(|_| self.below(1_000) as i64 - 100).collect());
        let bid_bytes: Option<Vec<u8>> = bids.as_ref().map(|bids| bids.iter().flat_map(|bid| bid.to_le_bytes()).collect());
        let top_k = if self.below(2) == 0 { 0 } else { 1 + self.below(8) as u32 };
        let budget_us = if self.below(3) == 0 { self.below(3_000) as u32 } else { 0 };
        let id = self.request_id(client);
        let mut ids = candidates.ids.clone();
        let mut header = Header { signature: self.published.signature, candidates: count as u32, budget_us, ..Header::new(Kind::Rank, id) };
        let mut body = RankBody {
            context_dense: &blocks.dense,
            context_ids: &blocks.ids,
            context_lengths: &blocks.lengths,
            context_weights: &blocks.weights,
            dense: &candidates.dense,
            ids: &candidates.ids,
            lengths: &candidates.lengths,
            weights: &candidates.weights,
            mask: mask.as_deref(),
            bids: bid_bytes.as_deref(),
            top_k,
            rank_output: 0,
            ..RankBody::default()
        };
        let sent = self.clock.now();
        let mut expected = Expected::Scores { context, rows, mask: mask.clone(), top_k, bids, sent, budget_us };
        if let Some(code) = spoil {
            header.budget_us = 0;
            match code {
                Code::SignatureUnknown => header.signature ^= 1,
                Code::CandidatesInvalid => header.candidates = 41,
                Code::BlockSize => body.dense = &[],
                Code::OutputUnknown => body.rank_output = 2,
                Code::MaskInvalid => body.mask = Some(&[2]),
                Code::BidsInvalid => body.bids = Some(&[0; 3]),
                Code::IdOutOfRange => {
                    body.mask = None;
                    ids[..4].copy_from_slice(&77u32.to_le_bytes());
                    body.ids = &ids;
                }
                other => unreachable!("{other} is not spoiled here"),
            }
            expected = Expected::Refusal(code);
        }
        let client_state = &mut self.clients[client];
        let frame = client_state.encoder.rank(&header, &body).to_vec();
        client_state.expected.insert(id, expected);
        self.write(client, &frame);
    }

    fn step(&mut self) {
        let live: Vec<usize> = (0..self.clients.len()).filter(|client| !self.clients[*client].lost).collect();
        if live.is_empty() || self.below(40) == 0 {
            self.connect();
            return;
        }
        let client = live[self.below(live.len())];
        match self.below(100) {
            0..40 => self.rank(client, None),
            40..48 => {
                let codes = [
                    Code::SignatureUnknown,
                    Code::CandidatesInvalid,
                    Code::BlockSize,
                    Code::OutputUnknown,
                    Code::MaskInvalid,
                    Code::BidsInvalid,
                    Code::IdOutOfRange,
                ];
                let code = codes[self.below(codes.len())];
                self.rank(client, Some(code));
            }
            48..52 => {
                let id = self.request_id(client);
                let frame = self.clients[client].encoder.ping(id, b"beat").to_vec();
                self.clients[client].expected.insert(id, Expected::Kind(Kind::Pong));
                self.write(client, &frame);
            }
            52..54 => {
                let id = self.request_id(client);
                let frame = self.clients[client].encoder.describe(id, "wire_vectors").to_vec();
                self.clients[client].expected.insert(id, Expected::Kind(Kind::Description));
                self.write(client, &frame);
            }
            54..60 => {
                let id = self.clients[client].next_request;
                let frame = self.clients[client].encoder.cancel(id).to_vec();
                self.clients[client].cancelled.push(id);
                self.write(client, &frame);
            }
            60 => {
                let id = self.clients[client].id;
                if let Some(line) = self.wire.line(id) {
                    line.aborted = true;
                }
                self.clients[client].lost = true;
            }
            61 => {
                // Half-closed: what was asked is still answered.
                let id = self.clients[client].id;
                if let Some(line) = self.wire.line(id) {
                    line.client_finished = true;
                }
                let finished = self.clients.remove(client);
                self.settle_half_closed(finished);
            }
            62 => {
                let drains = self.below(2) == 0;
                let id = self.clients[client].id;
                if let Some(line) = self.wire.line(id) {
                    line.drains = drains;
                }
            }
            63 => {
                // Not a frame of ours: told so and closed.
                self.write(client, b"GET / HTTP/1.1\r\n");
                self.clients[client].lost = true;
            }
            64..75 => {
                let span = Span::from_us(self.below(4_000) as u64);
                self.pass(span);
            }
            _ => {
                self.turn();
            }
        }
    }

    /// Runs until a half-closed client has every answer and the connection is gone.
    fn settle_half_closed(&mut self, client: Client) {
        if let Some(line) = self.wire.line(client.id) {
            line.drains = true;
        }
        let index = self.clients.len();
        let id = client.id;
        self.clients.push(client);
        for _ in 0..20_000 {
            if self.wire.line(id).is_none() {
                break;
            }
            self.pass(Span::from_us(20));
            self.turn();
        }
        assert!(self.wire.line(id).is_none(), "a half-closed connection ends once all is answered");
        self.read();
        let client = self.clients.remove(index);
        assert!(client.lost || client.expected.is_empty(), "a half-closed client gets every answer");
    }

    /// Takes the answers that clients have received.
    fn read(&mut self) {
        for index in 0..self.clients.len() {
            let id = self.clients[index].id;
            let Some(line) = self.wire.lines.get(id.index as usize).filter(|line| line.generation == id.generation) else {
                continue;
            };
            let bytes = line.read.clone();
            while let Frame::Whole { header, body } = next_frame(&bytes[self.clients[index].read..], 1 << 20) {
                self.clients[index].read += HEADER_BYTES + body.len();
                self.answer(index, &header, body);
            }
        }
    }

    fn answer(&mut self, client: usize, header: &Header, body: &[u8]) {
        if header.kind == Kind::Drain {
            return;
        }
        let code = (header.kind == Kind::Error).then(|| ErrorView::parse(body).expect("a good error").known().expect("a known code"));
        if let Some(code) = code {
            *self.refused.entry(code).or_default() += 1;
            if code.closes() {
                self.clients[client].lost = true;
                return;
            }
        }
        let state = &mut self.clients[client];
        let expected =
            state.expected.remove(&header.request_id).unwrap_or_else(|| panic!("answered twice or never asked: {header:?} {code:?}"));
        state.answered += 1;
        let was_cancelled = state.cancelled.contains(&header.request_id);
        match (expected, code) {
            (Expected::Kind(kind), None) => assert_eq!(header.kind, kind),
            (Expected::Refusal(expected), Some(code)) => {
                let busy = matches!(code, Code::InFlightLimit | Code::Overloaded | Code::Draining);
                assert!(code == expected || busy, "{code} instead of {expected}");
            }
            (Expected::Scores { .. }, Some(Code::Overloaded | Code::InFlightLimit | Code::Draining)) => {}
            (Expected::Scores { .. }, Some(Code::Cancelled)) => assert!(was_cancelled, "cancelled only if asked"),
            (Expected::Scores { budget_us, .. }, Some(Code::DeadlineExceeded)) => assert!(budget_us > 0, "late only with a budget"),
            (Expected::Scores { context, rows, mask, top_k, bids, sent, budget_us }, None) => {
                assert_eq!(header.kind, Kind::Scores);
                let answer = ScoresView::parse(body).expect("good scores");
                let truth = &self.world.truth[context];
                let scores: Vec<f32> = answer.scores().collect();
                let eligible = |row: usize| mask.as_ref().is_none_or(|mask| mask[row] == 1);
                if top_k == 0 {
                    assert_eq!(scores.len(), rows.len() * 2);
                    for (row, found) in scores.chunks_exact(2).enumerate() {
                        if eligible(row) {
                            assert_eq!(found, truth[rows[row]], "bit for bit");
                        } else {
                            assert!(found.iter().all(|score| score.is_nan()), "masked rows are NaN");
                        }
                    }
                } else {
                    let mut order: Vec<usize> = (0..rows.len()).filter(|row| eligible(*row)).collect();
                    let key = |row: usize| {
                        let score = f64::from(truth[rows[row]][0]);
                        bids.as_ref().map_or(score, |bids| score * bids[row] as f64)
                    };
                    order.sort_by(|a, b| key(*b).total_cmp(&(key(*a) + 0.0)).then(a.cmp(b)));
                    // −0 and +0 tie on the wire: compare keys, and indices where keys differ.
                    let winners: Vec<usize> = answer.winners().expect("winners").map(|winner| winner as usize).collect();
                    assert_eq!(winners.len(), order.len().min(top_k as usize));
                    for (place, winner) in winners.iter().enumerate() {
                        assert_eq!(key(*winner), key(order[place]), "the best in order");
                        assert_eq!(&scores[place * 2..place * 2 + 2], truth[rows[*winner]]);
                    }
                    assert!(winners.windows(2).all(|pair| key(pair[0]) > key(pair[1]) || pair[0] < pair[1]), "ties by index");
                }
                if budget_us > 0 {
                    let _ = sent;
                    assert!(answer.total_us <= budget_us, "in time or not at all: {} of {budget_us} µs", answer.total_us);
                }
                self.ok += 1;
            }
            (Expected::Scores { .. }, Some(code)) => panic!("{code} instead of scores"),
            (Expected::Kind(kind), Some(code)) => panic!("{code} instead of {kind:?}"),
            (Expected::Refusal(expected), None) => panic!("{:?} instead of {expected}", header.kind),
        }
    }

    /// After all that, a request with a fair budget is served on a new connection.
    fn still_serves(&mut self) {
        let room = (0..8_000).find(|_| {
            self.pass(Span::from_us(500));
            self.turn();
            self.wire.connections() < LIMITS.connections_max
        });
        if room.is_none() {
            return;
        }
        self.connect();
        let client = self.clients.len() - 1;
        let ok = self.ok;
        for _ in 0..5 {
            self.rank(client, None);
            for _ in 0..2_000 {
                self.turn();
            }
        }
        assert!(self.ok > ok, "the server still ranks");
    }

    /// Everybody reads again; the drain ends it all.
    fn finish(&mut self) {
        for line in &mut self.wire.lines {
            line.drains = true;
        }
        for _ in 0..400 {
            self.pass(Span::from_us(50));
            self.turn();
        }
        self.still_serves();
        assert!(self.news.send(News::Drain(Span::from_ms(3_000))).is_ok());
        let mut stopped = false;
        for _ in 0..20_000 {
            self.pass(Span::from_us(500));
            if self.turn() == Turn::Stop {
                stopped = true;
                break;
            }
        }
        assert!(stopped, "a drain ends in bounded time");
        self.read();
        for client in &self.clients {
            assert!(client.lost || client.expected.is_empty(), "unanswered: {:?}", client.expected.keys());
        }
        assert!(self.shard.is_empty(), "tickets, slots and connections are given back");
    }
}

#[test]
fn hostile_clients() {
    let world = world();
    let (mut ok, mut refused) = (0, BTreeMap::new());
    let seeds = std::env::var("GAVEL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(150);
    for seed in 0..seeds {
        let mut simulation = Simulation::new(&world, seed);
        simulation.connect();
        for _ in 0..600 {
            simulation.step();
        }
        simulation.finish();
        ok += simulation.ok;
        for (code, count) in simulation.refused {
            *refused.entry(code).or_insert(0) += count;
        }
    }
    println!("{ok} answers with scores, refused: {refused:?}");
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
