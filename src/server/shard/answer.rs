//! Answers: from a finished segment to the bytes of a frame.

use gavel_protocol::{Encoder, ScoresBody};

use super::models::Published;
use super::tickets::Ticket;
use crate::batch::{Slot, status};
use crate::units::Instant;

/// Scratch memory for answers, taken at start.
pub struct Answers {
    /// Frames of this shard.
    pub encoder: Encoder,
    scores: Vec<f32>,
    status: Vec<u8>,
    winners: Vec<u32>,
    order: Vec<Ranked>,
    frame_bytes: usize,
}

/// A row while the best are picked.
#[derive(Clone, Copy)]
struct Ranked {
    key: f64,
    row: u32,
}

impl Answers {
    /// Room for answers of `candidates_max` rows with `outputs_max` scores each.
    pub fn new(candidates_max: usize, outputs_max: usize) -> Answers {
        let mut answers = Answers {
            encoder: Encoder::new(),
            scores: Vec::new(),
            status: Vec::new(),
            winners: Vec::new(),
            order: Vec::new(),
            frame_bytes: 0,
        };
        answers.reserve(candidates_max, outputs_max);
        answers
    }

    /// More room, when a model is published.
    pub fn reserve(&mut self, candidates_max: usize, outputs_max: usize) {
        let grow = |have: usize, want: usize| want.saturating_sub(have);
        self.scores.reserve(grow(self.scores.len(), candidates_max * outputs_max));
        // `pick` appends the winners' bytes behind those of all rows.
        self.status.reserve(grow(self.status.len(), candidates_max * 2));
        self.winners.reserve(grow(self.winners.len(), candidates_max));
        self.order.reserve(grow(self.order.len(), candidates_max));
        let frame_bytes = gavel_protocol::scores_frame_bytes_max(candidates_max, outputs_max);
        if frame_bytes > self.frame_bytes {
            self.encoder = Encoder::with_capacity(frame_bytes);
            self.frame_bytes = frame_bytes;
        }
    }

    /// The scores of a segment as a frame: all candidates in request order, or the best `top_k`.
    pub fn scores(&mut self, ticket: &Ticket, model: &Published, slot: &Slot, started: Instant, done: Instant, now: Instant) -> &[u8] {
        let segment = ticket.segment as usize;
        let outputs = model.layout.outputs;
        let scores = slot.scores(segment);
        let origin = slot.origin(segment);
        self.status.clear();
        self.status.extend_from_slice(slot.status(segment));
        for (row_status, row) in self.status.iter_mut().zip(scores.chunks_exact(outputs)) {
            if row.iter().any(|score| !score.is_finite()) {
                *row_status |= status::NOT_FINITE;
            }
        }
        let body = ScoresBody {
            model_version: model.version,
            outputs: outputs as u16,
            scores: &[],
            status: None,
            winners: None,
            context_status: slot.context_status(segment),
            queue_us: started.since(ticket.arrived).as_us(),
            compute_us: done.since(started).as_us(),
            total_us: now.since(ticket.arrived).as_us(),
        };
        if ticket.top_k > 0 {
            self.pick(ticket, slot, outputs);
            let body = ScoresBody { scores: &self.scores, status: marked(&self.status), winners: Some(&self.winners), ..body };
            return self.encoder.scores(ticket.request_id, model.signature, &body);
        }
        if origin.len() == ticket.candidates as usize {
            let body = ScoresBody { scores, status: marked(&self.status), ..body };
            return self.encoder.scores(ticket.request_id, model.signature, &body);
        }
        self.scatter(ticket.candidates as usize, scores, origin, outputs);
        let body = ScoresBody { scores: &self.scores, status: marked(&self.status), ..body };
        self.encoder.scores(ticket.request_id, model.signature, &body)
    }

    /// Computed rows back to their places; the others are NaN and masked.
    fn scatter(&mut self, candidates: usize, scores: &[f32], origin: &[u32], outputs: usize) {
        let rows = self.status.len();
        self.scores.clear();
        self.scores.resize(candidates * outputs, f32::NAN);
        self.status.resize(candidates, status::MASKED);
        // Rows are in ascending order of origin and origin ≥ row, so moving from the back overwrites nothing that is still needed.
        for row in (0..rows).rev() {
            let to = origin[row] as usize;
            let row_status = self.status[row];
            self.status[row] = status::MASKED;
            self.status[to] = row_status;
            self.scores[to * outputs..][..outputs].copy_from_slice(&scores[row * outputs..][..outputs]);
        }
    }

    /// The best rows: scores, status and candidate indices in order.
    fn pick(&mut self, ticket: &Ticket, slot: &Slot, outputs: usize) {
        let segment = ticket.segment as usize;
        let (scores, origin, bids) = (slot.scores(segment), slot.origin(segment), slot.bids(segment));
        self.order.clear();
        for (row, scores) in scores.chunks_exact(outputs).enumerate() {
            let score = f64::from(scores[usize::from(ticket.rank_output)]);
            let key = if ticket.has_bids { score * bids[row] as f64 } else { score };
            self.order.push(Ranked { key, row: row as u32 });
        }
        let count = self.order.len().min(ticket.top_k as usize);
        if count < self.order.len() && count > 0 {
            self.order.select_nth_unstable_by(count - 1, best_first);
        }
        self.order.truncate(count);
        self.order.sort_unstable_by(best_first);
        self.scores.clear();
        self.winners.clear();
        let rows = self.status.len();
        for ranked in &self.order {
            let row = ranked.row as usize;
            self.scores.extend_from_slice(&scores[row * outputs..][..outputs]);
            self.winners.push(origin[row]);
            self.status.push(self.status[row]);
        }
        self.status.drain(..rows);
    }
}

/// Bytes of the answer to a request at most: scores and status of every candidate, or of the `top_k` best with their indices; an error is no
/// longer than `ERROR_FRAME_BYTES`.
pub fn answer_bytes_max(candidates: usize, top_k: u32, outputs: usize) -> usize {
    let frame = gavel_protocol::scores_frame_bytes_max(0, 0);
    let scores = match top_k {
        0 => frame + candidates * (outputs * 4 + 1),
        k => frame + candidates.min(k as usize) * (outputs * 4 + 1 + 4),
    };
    scores.max(ERROR_FRAME_BYTES)
}

/// Room for an error's longest message.
const ERROR_FRAME_BYTES: usize = 512;

/// Descending, NaN last, ties by row (rows ascend with the candidate index).
fn best_first(a: &Ranked, b: &Ranked) -> std::cmp::Ordering {
    let by_key = match (a.key.is_nan(), b.key.is_nan()) {
        (false, false) => b.key.partial_cmp(&a.key).unwrap_or(std::cmp::Ordering::Equal),
        (a_nan, b_nan) => a_nan.cmp(&b_nan),
    };
    by_key.then(a.row.cmp(&b.row))
}

/// A slot's status bytes go on the wire as they are.
const _: () = {
    assert!(status::MASKED == gavel_protocol::status::MASKED);
    assert!(status::OUT_OF_RANGE == gavel_protocol::status::OUT_OF_RANGE);
    assert!(status::MISSING == gavel_protocol::status::MISSING);
    assert!(status::NAN == gavel_protocol::status::NAN);
    assert!(status::NOT_FINITE == gavel_protocol::status::NOT_FINITE);
};

/// The status block is left out when it says nothing.
fn marked(status: &[u8]) -> Option<&[u8]> {
    status.iter().any(|byte| *byte != 0).then_some(status)
}
