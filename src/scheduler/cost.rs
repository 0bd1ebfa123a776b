//! What a row of a model costs, as measured.

use crate::units::Span;

/// A running estimate of the time per row, deliberately low: a wrong guess must not refuse a request that could have been served, while a request
/// that is let in and comes late is answered `deadline_exceeded` anyway.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowCost {
    /// Nanoseconds per row, 0 until measured.
    row_ns: f64,
}

impl RowCost {
    /// A batch of `rows` took `span`.
    pub fn observe(&mut self, rows: u32, span: Span) {
        if rows < ROWS_TO_LEARN_FROM {
            return;
        }
        let row_ns = span.0 as f64 / f64::from(rows);
        // A slower batch (descheduled, cold) moves the estimate little, a faster one much: the estimate hugs the floor.
        let weight = if row_ns < self.row_ns { 0.5 } else { 0.05 };
        self.row_ns = if self.row_ns == 0.0 { row_ns } else { self.row_ns + (row_ns - self.row_ns) * weight };
    }

    /// Predicted time of `rows`.
    pub fn of(self, rows: u32) -> Span {
        Span((self.row_ns * f64::from(rows)) as u64)
    }
}

/// Smaller batches are dominated by their fixed cost.
const ROWS_TO_LEARN_FROM: u32 = 32;
