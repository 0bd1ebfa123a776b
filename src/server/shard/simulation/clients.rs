//! What clients do: good requests and bad ones, cancels, half-closes, resets, silence.

use std::collections::BTreeMap;

use gavel_protocol::{Code, Encoder, Header, Kind, RankBody};

use super::{LIMITS, Simulation};
use crate::units::{Instant, Span};
use crate::wire::{ConnectionId, Wire};

/// What a client expects for a request.
#[derive(Clone)]
pub enum Expected {
    /// Scores of these candidate rows in this context, or an answer that the state of the server justifies.
    Scores { context: usize, rows: Vec<usize>, mask: Option<Vec<u8>>, top_k: u32, bids: Option<Vec<i64>>, sent: Instant, budget_us: u32 },
    /// This refusal.
    Refusal(Code),
    /// A pong, a description, a hello.
    Kind(Kind),
}

pub struct Client {
    pub id: ConnectionId,
    pub encoder: Encoder,
    pub next_request: u64,
    pub expected: BTreeMap<u64, Expected>,
    /// Ids whose answer may also be `cancelled`.
    pub cancelled: Vec<u64>,
    /// The client broke off or was broken off: answers may be missing.
    pub lost: bool,
    pub answered: usize,
    pub read: usize,
}

impl Simulation<'_> {
    pub fn connect(&mut self) {
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

    pub fn write(&mut self, client: usize, bytes: &[u8]) {
        if let Some(line) = self.wire.line(self.clients[client].id) {
            line.on_the_way.extend(bytes);
        } else {
            self.clients[client].lost = true;
        }
    }

    pub fn request_id(&mut self, client: usize) -> u64 {
        self.clients[client].next_request += 1;
        self.clients[client].next_request
    }

    /// A rank request; `spoil` breaks it in one way.
    pub fn rank(&mut self, client: usize, spoil: Option<Code>) {
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

    pub fn step(&mut self) {
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
}
