//! Builds requests from values under their features' names.

use std::sync::Arc;

use gavel_protocol::{RankBody, Scope, Trace};

use crate::build_error::{BuildError, RowName};
use crate::layout::{FeatureKey, Layout};
use crate::request::Request;
use crate::rows::Rows;

/// Builds requests of one layout, one after the other: [`RequestBuilder::clear`] keeps the memory, so that after the largest request
/// nothing is allocated.
///
/// A feature that is not set is sent as missing, NaN or (variable length) empty where the model accepts that; otherwise closing its row fails.
#[derive(Debug)]
pub struct RequestBuilder {
    layout: Arc<Layout>,
    context: Rows,
    candidates: Rows,
    /// A candidate is under way.
    open: bool,
    mask: Vec<u8>,
    masked: bool,
    bids: Vec<i64>,
    /// Candidates with a bid.
    bid_count: usize,
    /// The first candidate without a bid, if any.
    bid_missing: Option<usize>,
    has_bid: bool,
    top_k: u32,
    rank_output: u16,
    split_key: u64,
    trace: Option<Trace>,
}

/// One row under way: the context, or the candidate that was added last. Setting a feature twice keeps the second value.
#[derive(Debug)]
pub struct Row<'b> {
    layout: &'b Layout,
    rows: &'b mut Rows,
    candidate: Option<CandidateExtras<'b>>,
}

#[derive(Debug)]
struct CandidateExtras<'b> {
    mask: &'b mut Vec<u8>,
    masked: &'b mut bool,
    bids: &'b mut Vec<i64>,
    has_bid: &'b mut bool,
}

impl RequestBuilder {
    /// A builder without candidates.
    pub fn new(layout: &Arc<Layout>) -> RequestBuilder {
        RequestBuilder {
            layout: Arc::clone(layout),
            context: Rows::new(layout, Scope::Context),
            candidates: Rows::new(layout, Scope::Candidate),
            open: false,
            mask: Vec::new(),
            masked: false,
            bids: Vec::new(),
            bid_count: 0,
            bid_missing: None,
            has_bid: false,
            top_k: 0,
            rank_output: 0,
            split_key: 0,
            trace: None,
        }
    }

    /// The layout whose requests it builds.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.context.clear_closed();
        self.context.clear_staged();
        self.clear_candidates();
        self.top_k = 0;
        self.rank_output = 0;
        self.split_key = 0;
        self.trace = None;
    }

    /// Forgets the candidates with their masks and bids; keeps the context and the rest.
    pub fn clear_candidates(&mut self) {
        self.candidates.clear_closed();
        self.candidates.clear_staged();
        self.open = false;
        self.mask.clear();
        self.masked = false;
        self.bids.clear();
        self.bid_count = 0;
        self.bid_missing = None;
        self.has_bid = false;
    }

    /// The row of the context.
    pub fn context(&mut self) -> Row<'_> {
        Row { layout: &self.layout, rows: &mut self.context, candidate: None }
    }

    /// Closes the candidate before it and begins the next one. Errors: of the candidate before it.
    pub fn add_candidate(&mut self) -> Result<Row<'_>, BuildError> {
        self.close_candidate()?;
        self.candidates.clear_staged();
        self.open = true;
        self.mask.push(1);
        self.bids.push(0);
        self.has_bid = false;
        Ok(self.row())
    }

    /// The candidate under way, to set what a failed close found unset.
    pub fn last_candidate(&mut self) -> Option<Row<'_>> {
        self.open.then(|| self.row())
    }

    /// Candidates so far.
    pub fn candidates(&self) -> usize {
        self.candidates.closed + usize::from(self.open)
    }

    /// 0 = the scores of all candidates in their order; k = the best k, best first.
    pub fn top_k(&mut self, k: u32) -> &mut RequestBuilder {
        self.top_k = k;
        self
    }

    /// The output that orders, by name; the first one unless told otherwise.
    pub fn rank_output(&mut self, name: &str) -> Result<&mut RequestBuilder, BuildError> {
        let column = self.layout.output(name)?;
        self.rank_output = u16::try_from(column)
            .map_err(|_| BuildError::OutputUnknown { model: self.layout.description().model.clone(), output: name.to_owned() })?;
        Ok(self)
    }

    /// Equal keys reach the same arm of an A/B split.
    pub fn split_key(&mut self, key: u64) -> &mut RequestBuilder {
        self.split_key = key;
        self
    }

    /// The caller's trace context.
    pub fn trace(&mut self, trace: Trace) -> &mut RequestBuilder {
        self.trace = Some(trace);
        self
    }

    /// Closes the last candidate and checks the whole. The builder may go on afterwards.
    pub fn finish(&mut self) -> Result<Request<'_>, BuildError> {
        self.close_candidate()?;
        let description = self.layout.description();
        if self.candidates.closed == 0 {
            return Err(BuildError::NoCandidates);
        }
        if self.candidates.closed > description.candidates_max as usize {
            return Err(BuildError::CandidatesTooMany { candidates: self.candidates.closed, candidates_max: description.candidates_max });
        }
        self.context.clear_closed();
        self.context.close(&self.layout)?;
        let ids = self.context.ids_count + self.candidates.ids_count;
        if ids > description.ids_max as usize {
            return Err(BuildError::IdsTooMany { ids, ids_max: description.ids_max });
        }
        if let (true, Some(index)) = (self.bid_count > 0, self.bid_missing) {
            return Err(BuildError::BidMissing { row: RowName::Candidate(index) });
        }
        let body = RankBody {
            context_dense: bytemuck::cast_slice(&self.context.dense),
            context_ids: &self.context.ids,
            context_lengths: bytemuck::cast_slice(&self.context.lengths),
            context_weights: bytemuck::cast_slice(&self.context.weights),
            dense: bytemuck::cast_slice(&self.candidates.dense),
            ids: &self.candidates.ids,
            lengths: bytemuck::cast_slice(&self.candidates.lengths),
            weights: bytemuck::cast_slice(&self.candidates.weights),
            mask: self.masked.then_some(&self.mask),
            bids: (self.bid_count > 0).then_some(bytemuck::cast_slice(&self.bids)),
            top_k: self.top_k,
            rank_output: self.rank_output,
            split_key: self.split_key,
            trace: self.trace,
        };
        Ok(Request::checked(self.layout.signature(), self.candidates.closed as u32, body))
    }

    fn row(&mut self) -> Row<'_> {
        Row {
            layout: &self.layout,
            rows: &mut self.candidates,
            candidate: Some(CandidateExtras {
                mask: &mut self.mask,
                masked: &mut self.masked,
                bids: &mut self.bids,
                has_bid: &mut self.has_bid,
            }),
        }
    }

    fn close_candidate(&mut self) -> Result<(), BuildError> {
        if !self.open {
            return Ok(());
        }
        let index = self.candidates.closed;
        self.candidates.close(&self.layout)?;
        self.open = false;
        if self.has_bid {
            self.bid_count += 1;
        } else {
            self.bid_missing.get_or_insert(index);
        }
        Ok(())
    }
}

impl Row<'_> {
    /// The value of a dense feature of width 1.
    pub fn dense(&mut self, key: impl FeatureKey, value: f32) -> Result<&mut Self, BuildError> {
        self.dense_values(key, &[value])
    }

    /// The values of a dense feature.
    pub fn dense_values(&mut self, key: impl FeatureKey, values: &[f32]) -> Result<&mut Self, BuildError> {
        self.rows.set_dense(self.layout, key, values)?;
        Ok(self)
    }

    /// One id ([`crate::MISSING`] = missing).
    pub fn id(&mut self, key: impl FeatureKey, id: u64) -> Result<&mut Self, BuildError> {
        self.ids(key, &[id])
    }

    /// The ids of a feature without weights.
    pub fn ids(&mut self, key: impl FeatureKey, ids: &[u64]) -> Result<&mut Self, BuildError> {
        self.rows.set_ids(self.layout, key, ids, &[])?;
        Ok(self)
    }

    /// The ids of a weighted feature, with their weights.
    pub fn weighted_ids(&mut self, key: impl FeatureKey, ids: &[u64], weights: &[f32]) -> Result<&mut Self, BuildError> {
        self.rows.set_ids(self.layout, key, ids, weights)?;
        Ok(self)
    }

    /// One integer.
    pub fn integer(&mut self, key: impl FeatureKey, value: i64) -> Result<&mut Self, BuildError> {
        self.integers(key, &[value])
    }

    /// The values of an integer feature.
    pub fn integers(&mut self, key: impl FeatureKey, values: &[i64]) -> Result<&mut Self, BuildError> {
        self.rows.set_integers(self.layout, key, values)?;
        Ok(self)
    }

    /// No id: missing in a fixed feature, none in a variable one.
    pub fn missing(&mut self, key: impl FeatureKey) -> Result<&mut Self, BuildError> {
        self.rows.set_missing(self.layout, key)?;
        Ok(self)
    }

    /// Whether the candidate may be ranked; unless told otherwise it may.
    pub fn eligible(&mut self, eligible: bool) -> Result<&mut Self, BuildError> {
        let extras = self.candidate.as_mut().ok_or(BuildError::NotACandidate)?;
        if let Some(byte) = extras.mask.last_mut() {
            *byte = u8::from(eligible);
        }
        *extras.masked |= !eligible;
        Ok(self)
    }

    /// The bid, in micros: all candidates have one, or none has.
    pub fn bid(&mut self, micros: i64) -> Result<&mut Self, BuildError> {
        let extras = self.candidate.as_mut().ok_or(BuildError::NotACandidate)?;
        if let Some(bid) = extras.bids.last_mut() {
            *bid = micros;
        }
        *extras.has_bid = true;
        Ok(self)
    }
}
