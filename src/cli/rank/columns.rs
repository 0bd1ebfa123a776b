//! Rows of inputs, column by column, as the described layout wants them; and how they are cut into requests.

use std::ops::Range;

use gavel_protocol::{DescribedFeature, Description, FeatureKind, Scope};

/// An id that is absent. The wire has it as all ones of the feature's size.
pub const MISSING: u64 = u64::MAX;

/// Values of one feature.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// `width` values per row.
    Dense {
        /// Values per row.
        width: usize,
        /// Row-major.
        values: Vec<f32>,
    },
    /// Ids, with weights where the feature is weighted.
    Ids {
        /// Where each row's ids end.
        ends: Vec<usize>,
        /// Row after row; [`MISSING`] for absent ones.
        ids: Vec<u64>,
        /// Parallel to `ids`, or empty.
        weights: Vec<f32>,
    },
}

impl Column {
    /// No rows yet.
    pub fn new(feature: &DescribedFeature) -> Column {
        match feature.kind {
            FeatureKind::Dense => Column::Dense { width: feature.width as usize, values: Vec::new() },
            FeatureKind::Sparse | FeatureKind::Integer => Column::Ids { ends: Vec::new(), ids: Vec::new(), weights: Vec::new() },
        }
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        match self {
            Column::Dense { width, values } => values.len() / width.max(&1),
            Column::Ids { ends, .. } => ends.len(),
        }
    }

    /// Positions in `ids` (and `weights`) of one row; empty for dense columns and beyond the end.
    pub fn range(&self, row: usize) -> Range<usize> {
        match self {
            Column::Dense { .. } => 0..0,
            Column::Ids { ends, .. } => {
                let end = ends.get(row).copied().unwrap_or_default();
                let start = row.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or_default();
                start.min(end)..end
            }
        }
    }

    /// Whether two rows hold the same bits.
    fn same(&self, a: usize, b: usize) -> bool {
        let bits = |values: &[f32], range: Range<usize>| -> Vec<u32> {
            values.get(range).unwrap_or_default().iter().map(|value| value.to_bits()).collect()
        };
        match self {
            Column::Dense { width, values } => bits(values, a * width..(a + 1) * width) == bits(values, b * width..(b + 1) * width),
            Column::Ids { ids, weights, .. } => {
                let (a, b) = (self.range(a), self.range(b));
                ids.get(a.clone()) == ids.get(b.clone()) && bits(weights, a) == bits(weights, b)
            }
        }
    }
}

/// Everything to be ranked.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// One per feature of the description, in its order. Columns of the context hold one row per entry of `contexts`.
    pub columns: Vec<Column>,
    /// Candidates.
    pub rows: usize,
    /// Rows of the context and the candidates that share it: `None` = one context row per candidate row, to be grouped.
    pub contexts: Option<Vec<Range<usize>>>,
}

/// One request to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Row in the columns of the context.
    pub context: usize,
    /// Rows in the columns of the candidates.
    pub rows: Range<usize>,
}

/// How much goes into a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Candidates, at least 1.
    pub candidates: usize,
    /// Ids, context and candidates together.
    pub ids: usize,
}

impl Inputs {
    /// Cuts the rows into requests, in order: a new one starts where the context changes or a limit is reached. A single row over the limit
    /// of ids is a request of its own: the server says what it thinks of it.
    pub fn requests(&self, description: &Description, limits: RequestLimits) -> Vec<Request> {
        let mut requests: Vec<Request> = Vec::new();
        match &self.contexts {
            Some(contexts) => {
                for (context, rows) in contexts.iter().enumerate() {
                    let first = requests.len();
                    for row in rows.clone() {
                        self.push(description, limits, &mut requests, first, context, row);
                    }
                }
            }
            None => {
                let mut first = 0;
                for row in 0..self.rows {
                    if row > 0 && !self.same_context(description, row - 1, row) {
                        first = requests.len();
                    }
                    let context = requests.get(first).map_or(row, |request| request.context);
                    self.push(description, limits, &mut requests, first, context, row);
                }
            }
        }
        requests
    }

    /// Adds a row to the last request, or to a new one. Requests from `first` on have this context.
    fn push(
        &self,
        description: &Description,
        limits: RequestLimits,
        requests: &mut Vec<Request>,
        first: usize,
        context: usize,
        row: usize,
    ) {
        let open = requests.len() > first;
        if let Some(last) = requests.last_mut().filter(|_| open) {
            let ids = self.ids(description, Scope::Context, context, context + 1)
                + self.ids(description, Scope::Candidate, last.rows.start, row + 1);
            if last.rows.len() < limits.candidates.max(1) && ids <= limits.ids {
                last.rows.end = row + 1;
                return;
            }
        }
        requests.push(Request { context, rows: row..row + 1 });
    }

    fn same_context(&self, description: &Description, a: usize, b: usize) -> bool {
        self.of_scope(description, Scope::Context).all(|column| column.same(a, b))
    }

    /// Ids in rows `start..end` of a scope.
    fn ids(&self, description: &Description, scope: Scope, start: usize, end: usize) -> usize {
        let upto = |column: &Column, row: usize| row.checked_sub(1).map_or(0, |last| column.range(last).end);
        self.of_scope(description, scope).map(|column| upto(column, end).saturating_sub(upto(column, start))).sum()
    }

    fn of_scope(&self, description: &Description, scope: Scope) -> impl Iterator<Item = &Column> {
        description.features.iter().zip(&self.columns).filter(move |(feature, _)| feature.scope == scope).map(|(_, column)| column)
    }
}

/// Inputs that cannot be sent: where, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InputError(pub String);

/// What was left out, in words.
pub type Notes = Vec<String>;
