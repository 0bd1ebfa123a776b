//! An answer.

use gavel_protocol::{ScoresView, status};

/// Scores of a request. Meant to be used again: [`Default`] once, then filled by each call without allocating.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// The version that answered.
    pub model_version: u64,
    /// [`status`] bits of the context.
    pub context_status: u8,
    /// Where the server spent its time.
    pub timings: Timings,
    outputs: usize,
    scores: Vec<f32>,
    status: Vec<u8>,
    winners: Vec<u32>,
    ranked: bool,
}

/// Where the server spent its time, in µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Header read to batch started.
    pub queue_us: u32,
    /// Batch started to scores ready.
    pub compute_us: u32,
    /// Header read to answer queued.
    pub total_us: u32,
}

impl Scores {
    /// Columns.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Rows: candidates, or winners.
    pub fn rows(&self) -> usize {
        self.scores.len().checked_div(self.outputs).unwrap_or(0)
    }

    /// All scores, row-major: [`Scores::rows`] × [`Scores::outputs`].
    pub fn scores(&self) -> &[f32] {
        &self.scores
    }

    /// The outputs of one row. Panics if there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.scores[row * self.outputs..(row + 1) * self.outputs]
    }

    /// Candidate indices, best first, one per row; none unless the request had a `top_k`.
    pub fn winners(&self) -> Option<&[u32]> {
        self.ranked.then_some(&self.winners)
    }

    /// [`status`] bits of a row.
    pub fn status(&self, row: usize) -> u8 {
        self.status.get(row).copied().unwrap_or(0)
    }

    /// Whether the mask excluded a row.
    pub fn is_masked(&self, row: usize) -> bool {
        self.status(row) & status::MASKED != 0
    }

    pub(crate) fn fill(&mut self, view: &ScoresView<'_>) {
        self.model_version = view.model_version;
        self.context_status = view.context_status;
        self.timings = Timings { queue_us: view.queue_us, compute_us: view.compute_us, total_us: view.total_us };
        self.outputs = view.outputs;
        self.scores.clear();
        self.scores.extend(view.scores());
        self.status.clear();
        self.status.extend_from_slice(view.status.unwrap_or_default());
        self.winners.clear();
        self.ranked = false;
        if let Some(winners) = view.winners() {
            self.winners.extend(winners);
            self.ranked = true;
        }
    }
}
