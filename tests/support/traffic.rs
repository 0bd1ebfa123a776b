//! Requests over golden rows with everything that a request may have, broken ones too, and the judge of their answers.

use std::sync::Arc;

use gavel::model::{Model, Scope};
use gavel::reference;
use gavel_protocol::{Code, Encoder, Header, Kind, RankBody, ScoresView, status};

use super::raw::Frame;
use super::{Packed, expand};

/// SplitMix64: seeded, so that a failure can be run again.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A frame to send (request id zero: see [`Case::frame`]) and what must come back.
pub struct Case {
    bytes: Vec<u8>,
    pub expected: Expected,
}

/// What must come back.
pub enum Expected {
    Scores(Truth),
    Refusal(Code),
    Pong,
}

/// What the judge computes for a request.
pub struct Truth {
    model: Arc<Model>,
    /// Per candidate, per output.
    scores: Vec<Vec<f64>>,
    mask: Option<Vec<u8>>,
    bids: Option<Vec<i64>>,
    top_k: usize,
}

impl Case {
    /// The frame with this request id.
    pub fn frame(&self, request_id: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[16..24].copy_from_slice(&request_id.to_le_bytes());
        bytes
    }

    /// Whether it is a rank request that would be answered with scores.
    pub fn is_good(&self) -> bool {
        matches!(self.expected, Expected::Scores(_))
    }

    /// Panics unless `frame` is the right answer. `cancelled`: a cancel was sent behind it.
    pub fn judge(&self, frame: &Frame, cancelled: bool) {
        match (&self.expected, frame.code()) {
            (Expected::Scores(_), Some(Code::Cancelled)) if cancelled => {}
            (Expected::Scores(truth), None) => truth.judge(&ScoresView::parse(&frame.body).expect("good scores")),
            (Expected::Refusal(code), Some(found)) => assert_eq!(found, *code),
            (Expected::Pong, None) => assert_eq!((frame.header.kind, &frame.body[..]), (Kind::Pong, PING)),
            (Expected::Refusal(code), None) => panic!("{:?} instead of {code}", frame.header.kind),
            (Expected::Scores(_) | Expected::Pong, Some(code)) => panic!("{code} instead of an answer"),
        }
    }
}

impl Truth {
    fn key(&self, candidate: usize) -> f64 {
        self.scores[candidate][0] * self.bids.as_ref().map_or(1.0, |bids| bids[candidate] as f64)
    }

    fn is_eligible(&self, candidate: usize) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask[candidate] == 1)
    }

    fn judge(&self, answer: &ScoresView<'_>) {
        let scores: Vec<f32> = answer.scores().collect();
        let rows: Vec<&[f32]> = scores.chunks_exact(answer.outputs).collect();
        let tolerance = self.model.selftest.tolerance;
        let right = |row: &[f32], candidate: usize| {
            for (found, expected) in row.iter().zip(&self.scores[candidate]) {
                assert!(
                    tolerance.accepts(f64::from(*found), *expected),
                    "{}: candidate {candidate}: {found} instead of {expected}",
                    self.model.name
                );
            }
        };
        if self.top_k == 0 {
            assert_eq!(rows.len(), self.scores.len());
            for (candidate, row) in rows.iter().enumerate() {
                if self.is_eligible(candidate) {
                    right(row, candidate);
                } else {
                    assert!(row.iter().all(|score| score.is_nan()), "masked rows are NaN");
                    assert!(answer.status.is_some_and(|bytes| bytes[candidate] & status::MASKED != 0), "masked rows say so");
                }
            }
            return;
        }
        let winners: Vec<usize> = answer.winners().expect("winners").map(|winner| winner as usize).collect();
        let eligible = (0..self.scores.len()).filter(|candidate| self.is_eligible(*candidate));
        assert_eq!(winners.len(), self.top_k.min(eligible.clone().count()));
        for (row, winner) in rows.iter().zip(&winners) {
            assert!(self.is_eligible(*winner), "a masked candidate won");
            right(row, *winner);
        }
        // Keys of scores within the tolerance may change places.
        let slack = |candidate: usize| {
            let bid = self.bids.as_ref().map_or(1.0, |bids| bids[candidate].unsigned_abs() as f64);
            1e-4 * bid.max(1.0)
        };
        for pair in winners.windows(2) {
            assert!(self.key(pair[0]) + slack(pair[0]) + slack(pair[1]) >= self.key(pair[1]), "best first");
            assert!(pair[0] != pair[1], "nobody wins twice");
        }
        if let Some(last) = winners.last() {
            for candidate in eligible.filter(|candidate| !winners.contains(candidate)) {
                assert!(self.key(candidate) <= self.key(*last) + slack(candidate) + slack(*last), "the best win");
            }
        }
    }
}

/// `per_model` good requests of each model, of all sizes up to its golden rows, with mask, bids and top_k.
pub fn good(models: &[Arc<Model>], per_model: usize, random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for model in models {
        let oracle = Oracle::new(model, random);
        let rows = model.selftest.rows();
        let sizes = [1, 2, 7, rows.min(33), rows.min(64), rows];
        for number in 0..per_model {
            cases.push(oracle.rank(sizes[number % sizes.len()], random));
        }
    }
    cases
}

/// What the judge says of a model: for each context, candidates with their scores. Computed once, since the interpreter is slow.
struct Oracle {
    model: Arc<Model>,
    /// Context row, then (candidate row, outputs).
    contexts: Vec<(usize, Vec<Known>)>,
}

type Known = (usize, Vec<f64>);

impl Oracle {
    /// Without a context the recorded outputs of all rows, else two contexts with some candidates, by the interpreter.
    fn new(model: &Arc<Model>, random: &mut Random) -> Oracle {
        let rows = model.selftest.rows();
        let recorded = |row: usize| model.selftest.expected.iter().map(|output| output[row]).collect();
        let contexts = if model.features.iter().any(|feature| feature.scope == Scope::Context) {
            let by_interpreter = |context: usize| {
                let candidates: Vec<usize> = (0..SCOPED_CANDIDATES.min(rows)).map(|number| (context + 7 * number) % rows).collect();
                let scores = reference::score_rows(model, &expand(model, &model.selftest.inputs, context, &candidates)).unwrap();
                (context, candidates.into_iter().zip(scores).collect())
            };
            [random.below(rows), random.below(rows)].map(by_interpreter).into()
        } else {
            vec![(0, (0..rows).map(|row| (row, recorded(row))).collect())]
        };
        Oracle { model: Arc::clone(model), contexts }
    }

    /// A request for so many candidates, drawn from the known ones.
    fn rank(&self, count: usize, random: &mut Random) -> Case {
        let (context, known) = random.pick(&self.contexts);
        let drawn: Vec<&Known> = (0..count).map(|_| random.pick(known)).collect();
        let mask = (random.below(3) == 0).then(|| (0..count).map(|_| u8::from(random.below(4) > 0)).collect::<Vec<u8>>());
        let bids = (random.below(3) == 0).then(|| (0..count).map(|_| random.below(2_000_000) as i64 - 1_000).collect::<Vec<i64>>());
        let top_k = if random.below(2) == 0 { 0 } else { 1 + random.below(count + 2) };
        let bytes: Option<Vec<u8>> = bids.as_ref().map(|bids| bids.iter().flat_map(|bid| bid.to_le_bytes()).collect());
        let candidates: Vec<usize> = drawn.iter().map(|(row, _)| *row).collect();
        let packed = Packed::new(&self.model.selftest.inputs, *context, &candidates);
        let body = RankBody { mask: mask.as_deref(), bids: bytes.as_deref(), top_k: top_k as u32, ..packed.body() };
        let bytes = Encoder::new().rank(&header(&self.model, count), &body).to_vec();
        let scores = drawn.into_iter().map(|(_, scores)| scores.clone()).collect();
        Case { bytes, expected: Expected::Scores(Truth { model: Arc::clone(&self.model), scores, mask, bids, top_k }) }
    }
}

/// Candidates that the interpreter scores per context.
const SCOPED_CANDIDATES: usize = 12;

/// Requests that are refused while the connection goes on, one per fault that suits the model, and pings.
pub fn refused(models: &[Arc<Model>], random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for model in models {
        let rows = model.selftest.rows();
        let candidates: Vec<usize> = (0..1 + random.below(rows)).map(|_| random.below(rows)).collect();
        let packed = Packed::new(&model.selftest.inputs, random.below(rows), &candidates);
        let good = header(model, candidates.len());
        let mut add = |code, header: Header, body: &RankBody<'_>| {
            cases.push(Case { bytes: Encoder::new().rank(&header, body).to_vec(), expected: Expected::Refusal(code) });
        };
        add(Code::SignatureUnknown, Header { signature: good.signature ^ 1, ..good }, &packed.body());
        add(Code::CandidatesInvalid, Header { candidates: 0, ..good }, &packed.body());
        add(Code::CandidatesInvalid, Header { candidates: u32::MAX, ..good }, &packed.body());
        add(Code::BlockSize, Header { candidates: good.candidates + 1, ..good }, &packed.body());
        add(Code::OutputUnknown, good, &RankBody { rank_output: 99, ..packed.body() });
        add(Code::MaskInvalid, good, &RankBody { mask: Some(&[7]), ..packed.body() });
        add(Code::BidsInvalid, good, &RankBody { bids: Some(&[1, 2, 3]), ..packed.body() });
        let wrong = |block: &[u8], value: u32| value.to_le_bytes().into_iter().chain(block[4..].iter().copied()).collect::<Vec<u8>>();
        // The one model with rules answers these with scores.
        if packed.body().ids.len() >= 4 && model.name != "wire_vectors" {
            add(Code::IdOutOfRange, good, &RankBody { ids: &wrong(packed.body().ids, 0x7fff_ffff), ..packed.body() });
            add(Code::IdMissing, good, &RankBody { ids: &wrong(packed.body().ids, u32::MAX), ..packed.body() });
        }
        if packed.body().dense.len() >= 4 {
            let nan = wrong(packed.body().dense, f32::NAN.to_bits());
            add(Code::ValueNan, good, &RankBody { dense: &nan, ..packed.body() });
        }
        let garbage: Vec<u8> = (0..64).map(|_| random.next() as u8 | 0x80).collect();
        let header = Header { body_len: garbage.len() as u32, ..good };
        cases.push(Case { bytes: [&header.to_bytes()[..], &garbage].concat(), expected: Expected::Refusal(Code::BodyMalformed) });
    }
    cases
}

/// A ping.
pub fn ping() -> Case {
    Case { bytes: Encoder::new().ping(0, PING).to_vec(), expected: Expected::Pong }
}

const PING: &[u8] = b"still there?";

/// The header of a rank request, with the signature that a server computes.
pub fn header(model: &Model, candidates: usize) -> Header {
    let description = gavel::server::publish::describe(model, &gavel::config::Config::default().limits);
    Header { signature: description.signature, candidates: candidates as u32, ..Header::new(Kind::Rank, 0) }
}
