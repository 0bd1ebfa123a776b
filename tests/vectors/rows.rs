//! Requests to `wire_vectors` as values under their features' names: packed as section 5 of PROTOCOL.md says, rendered as JSON, and judged by
//! the float64 interpreter. Shares no code with the clients' builder or the command line's packing.

use gavel::model::{Cell, FeatureRows};
use gavel::reference::score_rows;
use gavel_protocol::{Encoder, Header, Kind, ScoresBody, status, wire};
use serde_json::{Map, Value, json};

use crate::world::World;

/// A missing id of the candidates.
pub const MISSING: u32 = u32::MAX;

/// Rows of `advertiser`, the feature with a rule for ids out of range.
const ADVERTISER_ROWS: u32 = 8;

/// Values of the context.
#[derive(Clone, Debug)]
pub struct Context {
    pub age: [f32; 2],
    pub segments: Vec<u64>,
    pub slot: i64,
}

/// Values of a candidate.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub ctr: f32,
    pub ad: u32,
    pub advertiser: u32,
    /// Id and weight.
    pub words: Vec<(u32, f32)>,
    pub seq: Vec<u32>,
    pub eligible: bool,
    pub bid: Option<i64>,
}

impl Candidate {
    pub fn new(ctr: f32, ad: u32, advertiser: u32, words: &[(u32, f32)], seq: &[u32]) -> Candidate {
        Candidate { ctr, ad, advertiser, words: words.to_vec(), seq: seq.to_vec(), eligible: true, bid: None }
    }
    pub fn masked(self) -> Candidate {
        Candidate { eligible: false, ..self }
    }
    pub fn bid(self, micros: i64) -> Candidate {
        Candidate { bid: Some(micros), ..self }
    }
}

/// A rank request.
#[derive(Clone, Debug)]
pub struct Rank {
    pub request_id: u64,
    pub budget_us: u32,
    pub priority: u8,
    pub context: Context,
    pub candidates: Vec<Candidate>,
    pub top_k: u32,
    pub rank_output: u16,
    pub split_key: u64,
    pub trace: Option<[u8; 25]>,
}

/// The request's blocks, free to be damaged.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pub context_dense: Vec<u8>,
    pub context_ids: Vec<u8>,
    pub context_lengths: Vec<u8>,
    pub context_weights: Vec<u8>,
    pub dense: Vec<u8>,
    pub ids: Vec<u8>,
    pub lengths: Vec<u8>,
    pub weights: Vec<u8>,
    pub mask: Option<Vec<u8>>,
    pub bids: Option<Vec<u8>>,
    pub top_k: u32,
    pub rank_output: u16,
    pub split_key: u64,
    pub trace: Option<Vec<u8>>,
    /// Write blocks of size 0 as empty vectors instead of leaving them out.
    pub empty_blocks: bool,
}

/// A frame whose header fits its body.
pub fn frame(header: Header, body: &[u8]) -> Vec<u8> {
    [&Header { body_len: body.len() as u32, ..header }.to_bytes()[..], body].concat()
}

impl Body {
    /// The FlatBuffers table.
    pub fn table(&self) -> Vec<u8> {
        let mut builder = flatbuffers::FlatBufferBuilder::new();
        let mut block = |bytes: &[u8]| (self.empty_blocks || !bytes.is_empty()).then(|| builder.create_vector(bytes));
        let blocks = [
            &self.weights,
            &self.lengths,
            &self.ids,
            &self.dense,
            &self.context_weights,
            &self.context_lengths,
            &self.context_ids,
            &self.context_dense,
        ];
        let [weights, lengths, ids, dense, context_weights, context_lengths, context_ids, context_dense] = blocks.map(|bytes| block(bytes));
        let args = wire::RankArgs {
            context_dense,
            context_ids,
            context_lengths,
            context_weights,
            dense,
            ids,
            lengths,
            weights,
            mask: self.mask.as_ref().map(|bytes| builder.create_vector(bytes)),
            bids: self.bids.as_ref().map(|bytes| builder.create_vector(bytes)),
            top_k: self.top_k,
            rank_output: self.rank_output,
            split_key: self.split_key,
            trace: self.trace.as_ref().map(|bytes| builder.create_vector(bytes)),
        };
        let table = wire::Rank::create(&mut builder, &args);
        builder.finish_minimal(table);
        builder.finished_data().to_vec()
    }
}

impl Rank {
    /// A request without wishes.
    pub fn new(request_id: u64, context: Context, candidates: Vec<Candidate>) -> Rank {
        Rank { request_id, budget_us: 0, priority: 0, context, candidates, top_k: 0, rank_output: 0, split_key: 0, trace: None }
    }

    pub fn header(&self, signature: u64) -> Header {
        Header {
            signature,
            candidates: self.candidates.len() as u32,
            budget_us: self.budget_us,
            priority: self.priority,
            ..Header::new(Kind::Rank, self.request_id)
        }
    }

    /// Packed as PROTOCOL.md says, feature by feature.
    pub fn body(&self) -> Body {
        let mut body = Body {
            top_k: self.top_k,
            rank_output: self.rank_output,
            split_key: self.split_key,
            trace: self.trace.map(|trace| trace.to_vec()),
            ..Body::default()
        };
        body.context_dense.extend(self.context.age.iter().flat_map(|value| value.to_le_bytes()));
        body.context_ids.extend(self.context.segments.iter().flat_map(|id| id.to_le_bytes()));
        body.context_ids.extend(self.context.slot.to_le_bytes());
        body.context_lengths.extend((self.context.segments.len() as u16).to_le_bytes());
        for candidate in &self.candidates {
            body.dense.extend(candidate.ctr.to_le_bytes());
            body.ids.extend(candidate.ad.to_le_bytes());
            body.ids.extend(candidate.advertiser.to_le_bytes());
            for (word, weight) in &candidate.words {
                body.ids.extend(word.to_le_bytes());
                body.weights.extend(weight.to_le_bytes());
            }
            body.ids.extend(candidate.seq.iter().flat_map(|id| id.to_le_bytes()));
            body.lengths.extend((candidate.words.len() as u16).to_le_bytes());
            body.lengths.extend((candidate.seq.len() as u16).to_le_bytes());
        }
        if self.candidates.iter().any(|candidate| !candidate.eligible) {
            body.mask = Some(self.candidates.iter().map(|candidate| u8::from(candidate.eligible)).collect());
        }
        let bids: Vec<i64> = self.candidates.iter().filter_map(|candidate| candidate.bid).collect();
        if !bids.is_empty() {
            assert_eq!(bids.len(), self.candidates.len(), "all bid or none");
            body.bids = Some(bids.iter().flat_map(|bid| bid.to_le_bytes()).collect());
        }
        body
    }

    pub fn frame(&self, world: &World) -> Vec<u8> {
        frame(self.header(world.signature()), &self.body().table())
    }

    /// The scores that the float64 interpreter gives, per eligible candidate. Fails where they are not exact in f32.
    fn judged(&self, world: &World) -> Vec<(usize, Vec<f32>)> {
        let signed = |ids: &[u32]| ids.iter().map(|id| if *id == MISSING { -1 } else { i64::from(*id) }).collect::<Vec<i64>>();
        let segments: Vec<i64> = self.context.segments.iter().map(|id| *id as i64).collect();
        let mut rows = FeatureRows::new(world.model.fields());
        let eligible: Vec<usize> = (0..self.candidates.len()).filter(|index| self.candidates[*index].eligible).collect();
        for index in &eligible {
            let candidate = &self.candidates[*index];
            let (words, weights): (Vec<u32>, Vec<f32>) = candidate.words.iter().copied().unzip();
            let ids = |ids, weights| Cell::Ids { ids, weights };
            rows.push_row(&[
                Cell::Dense(&self.context.age),
                ids(&segments, &[]),
                ids(&[self.context.slot], &[]),
                Cell::Dense(&[candidate.ctr]),
                ids(&signed(&[candidate.ad]), &[]),
                ids(&signed(&[candidate.advertiser]), &[]),
                ids(&signed(&words), &weights),
                ids(&signed(&candidate.seq), &[]),
            ])
            .unwrap();
        }
        let exact = |score: f64| {
            assert!(score.is_nan() || f64::from(score as f32) == score, "request {}: {score} is not exact in f32", self.request_id);
            score as f32
        };
        let scores = score_rows(&world.model, &rows).unwrap();
        eligible.into_iter().zip(scores.into_iter().map(|row| row.into_iter().map(exact).collect())).collect()
    }

    /// The one right answer, times zero.
    pub fn answer(&self, world: &World) -> Vec<u8> {
        let outputs = world.description.outputs.len();
        let mut rows = self.judged(world);
        let winners: Option<Vec<u32>> = (self.top_k > 0).then(|| {
            let key = |(index, scores): &(usize, Vec<f32>)| {
                let score = f64::from(scores[usize::from(self.rank_output)]);
                self.candidates[*index].bid.map_or(score, |bid| score * bid as f64)
            };
            // Selection, one winner after the other: the best key, and among equals the lowest index.
            let mut ranked: Vec<(usize, Vec<f32>)> = Vec::new();
            while !rows.is_empty() && ranked.len() < self.top_k as usize {
                let mut best = 0;
                for other in 1..rows.len() {
                    if key(&rows[other]) > key(&rows[best]) || (key(&rows[best]).is_nan() && !key(&rows[other]).is_nan()) {
                        best = other;
                    }
                }
                ranked.push(rows.remove(best));
            }
            rows = ranked;
            rows.iter().map(|(index, _)| *index as u32).collect()
        });
        if winners.is_none() {
            for (index, candidate) in self.candidates.iter().enumerate() {
                if !candidate.eligible {
                    rows.insert(index, (index, vec![f32::NAN; outputs]));
                }
            }
        }
        let status: Vec<u8> = rows.iter().map(|(index, scores)| self.candidates[*index].status(scores)).collect();
        let scores: Vec<f32> = rows.iter().flat_map(|(_, scores)| scores.iter().copied()).collect();
        let body = ScoresBody {
            model_version: world.description.model_version,
            outputs: outputs as u16,
            scores: &scores,
            status: status.iter().any(|status| *status != 0).then_some(&status),
            winners: winners.as_deref(),
            context_status: if self.context.age.iter().any(|age| age.is_nan()) { status::NAN } else { 0 },
            queue_us: 0,
            compute_us: 0,
            total_us: 0,
        };
        Encoder::new().scores(self.request_id, world.signature(), &body).to_vec()
    }

    /// For clients: what to build this request from. A feature's value is a list; a missing id is null, a weighted id a pair.
    pub fn rendered(&self, world: &World) -> Value {
        let mut request = Map::new();
        let mut put = |key: &str, value: Value| request.insert(key.to_owned(), value);
        put("request_id", number(self.request_id));
        put("budget_us", json!(self.budget_us));
        put("priority", json!(self.priority));
        put("top_k", json!(self.top_k));
        put("rank_output", json!(world.description.outputs[usize::from(self.rank_output)].name));
        put("split_key", number(self.split_key));
        if let Some(trace) = self.trace {
            put("trace", json!(trace.iter().map(|byte| format!("{byte:02x}")).collect::<String>()));
        }
        let segments: Vec<Value> = self.context.segments.iter().map(|id| number(*id)).collect();
        put("context", json!({"age": self.context.age.map(float), "segments": segments, "slot": [self.context.slot]}));
        put("candidates", self.candidates.iter().map(Candidate::rendered).collect());
        Value::Object(request)
    }
}

impl Candidate {
    /// What the rules did to it, told by hand.
    fn status(&self, scores: &[f32]) -> u8 {
        if !self.eligible {
            return status::MASKED;
        }
        let bits = [
            (status::OUT_OF_RANGE, self.advertiser != MISSING && self.advertiser >= ADVERTISER_ROWS),
            (status::MISSING, self.advertiser == MISSING),
            (status::NOT_FINITE, scores.iter().any(|score| !score.is_finite())),
        ];
        bits.iter().map(|(bit, holds)| if *holds { *bit } else { 0 }).sum()
    }

    fn rendered(&self) -> Value {
        let id = |id: u32| if id == MISSING { Value::Null } else { json!(id) };
        let mut candidate = Map::new();
        let mut put = |key: &str, value: Value| candidate.insert(key.to_owned(), value);
        put("ctr", json!([float(self.ctr)]));
        put("ad", json!([id(self.ad)]));
        put("advertiser", json!([id(self.advertiser)]));
        put("words", self.words.iter().map(|(word, weight)| json!([id(*word), float(*weight)])).collect());
        put("seq", self.seq.iter().map(|one| id(*one)).collect());
        if !self.eligible {
            put("eligible", json!(false));
        }
        if let Some(bid) = self.bid {
            put("bid", if bid.unsigned_abs() < EXACT_IN_F64 { json!(bid) } else { json!(bid.to_string()) });
        }
        Value::Object(candidate)
    }
}

/// Integers from here on are strings in JSON: many readers keep numbers as f64.
const EXACT_IN_F64: u64 = 1 << 53;

pub fn number(value: u64) -> Value {
    if value < EXACT_IN_F64 { json!(value) } else { json!(value.to_string()) }
}

fn float(value: f32) -> Value {
    match value {
        _ if value.is_nan() => json!("NaN"),
        f32::INFINITY => json!("Infinity"),
        f32::NEG_INFINITY => json!("-Infinity"),
        _ => json!(value),
    }
}
