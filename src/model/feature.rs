//! Features: what a request carries, in signature order.

use serde::{Deserialize, Serialize};

use super::graph::Pool;
use super::table::TableId;

/// Sent once per request, or once per candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// User, page, slot: one row per request.
    Context,
    /// The ad: one row per candidate.
    Candidate,
}

/// Element of the ids block as the feature declares it; a scope's block is u64 as soon as one feature of the scope is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdType {
    /// 4 bytes; missing is `u32::MAX`.
    U32,
    /// 8 bytes; missing is `u64::MAX`.
    U64,
}

/// Applied to a dense value while it is copied into the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DenseTransform {
    /// As sent.
    #[default]
    None,
    /// ln(1 + max(x, 0)), the usual treatment of Criteo's counters.
    Log1pClamp0,
}

/// NaN in a dense value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NanRule {
    /// The request is refused.
    #[default]
    Error,
    /// Replaced by this value (before the transform); the status byte says so.
    Value(f32),
    /// Handed on: the graph reads NaN, whatever the transform; the status byte says so.
    Keep,
}

/// The missing value (all ones).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingRule {
    /// The request is refused.
    #[default]
    Error,
    /// Replaced by this row; the status byte says so.
    Row(u32),
    /// Left out: contributes nothing; the status byte says so.
    Skip,
}

/// An id at or above the feature's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RangeRule {
    /// The request is refused.
    #[default]
    Error,
    /// Replaced by this row; the status byte says so.
    Row(u32),
}

/// A hash function over the 8 little-endian bytes of the id (or the id itself).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashFn {
    /// The id as sent: the client has hashed its token already.
    Identity,
    /// FNV-1a, 64 bits, over the 8 bytes.
    Fnv1a64,
    /// The finaliser of SplitMix64.
    Splitmix64,
}

/// How the server maps an id to a row: `row = add + fn(id) % modulus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hash {
    /// The function.
    #[serde(rename = "fn")]
    pub function: HashFn,
    /// Divisor, ≥ 1.
    #[serde(rename = "mod")]
    pub modulus: u64,
    /// First row used; rows below it are for rules (missing = row 0, say).
    #[serde(default)]
    pub add: u32,
}

/// What a feature is.
#[derive(Clone, Debug, PartialEq)]
pub enum FeatureKind {
    /// `width` f32 values per row.
    Dense {
        /// Applied while copying.
        transform: DenseTransform,
        /// NaN policy.
        nan: NanRule,
    },
    /// Ids of rows of `table`.
    Sparse {
        /// The table that bounds the ids; the graph's lookups may name further tables with at least as many rows.
        table: TableId,
        /// Rows of that table.
        rows: u32,
        /// How a lookup combines the rows of a bag unless it says otherwise.
        pool: Pool,
        /// Each id has a weight.
        weighted: bool,
        /// Server-side hashing; then every id is legal.
        hash: Option<Hash>,
        /// This row counts as absent (`padding_idx`): it contributes nothing and is not counted by `mean`.
        padding: Option<u32>,
        /// Policy for the missing value.
        missing: MissingRule,
        /// Policy for ids at or above `rows`.
        out_of_range: RangeRule,
    },
    /// Signed integers for the graph itself, no table.
    Integer,
}

/// One feature of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Feature {
    /// Name, unique in the model.
    pub name: String,
    /// Once per request or per candidate.
    pub scope: Scope,
    /// Values per row of a fixed feature (≥ 1); 0 = variable length (sparse only).
    pub width: u32,
    /// Most ids per row; equals `width` where that is not 0.
    pub max_len: u32,
    /// Element type of its ids (dense: ignored).
    pub id_type: IdType,
    /// The rest.
    pub kind: FeatureKind,
}

impl Feature {
    /// Whether the number of ids differs from row to row.
    pub fn is_variable(&self) -> bool {
        self.width == 0
    }
    /// Whether it travels in the ids block.
    pub fn has_ids(&self) -> bool {
        !matches!(self.kind, FeatureKind::Dense { .. })
    }
    /// Whether it has weights parallel to its ids.
    pub fn is_weighted(&self) -> bool {
        matches!(self.kind, FeatureKind::Sparse { weighted: true, .. })
    }
}
