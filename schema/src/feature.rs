//! Numbers that describe a layout: kinds, scopes, flags, and the status bits of an answer. Fixed, never reused.

/// What a feature carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FeatureKind {
    /// f32 values in the dense block.
    Dense = 0,
    /// Ids in the ids block: rows of a table, or hashed by the server.
    Sparse = 1,
    /// Signed integers in the ids block, for the model itself.
    Integer = 2,
}

impl FeatureKind {
    /// The kind with this number.
    pub const fn from_u8(number: u8) -> Option<FeatureKind> {
        Some(match number {
            0 => FeatureKind::Dense,
            1 => FeatureKind::Sparse,
            2 => FeatureKind::Integer,
            _ => return None,
        })
    }
    /// Its word in the signature's text.
    pub const fn name(self) -> &'static str {
        match self {
            FeatureKind::Dense => "dense",
            FeatureKind::Sparse => "sparse",
            FeatureKind::Integer => "integer",
        }
    }
}

/// Sent once per request, or once per candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Scope {
    /// One row per request.
    Context = 0,
    /// One row per candidate.
    Candidate = 1,
}

impl Scope {
    /// The scope with this number.
    pub const fn from_u8(number: u8) -> Option<Scope> {
        Some(match number {
            0 => Scope::Context,
            1 => Scope::Candidate,
            _ => return None,
        })
    }
    /// Its word in the signature's text.
    pub const fn name(self) -> &'static str {
        match self {
            Scope::Context => "context",
            Scope::Candidate => "candidate",
        }
    }
}

/// What an output means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OutputKind {
    /// Between 0 and 1.
    Probability = 0,
    /// Log odds.
    Logit = 1,
    /// Any number.
    Value = 2,
}

impl OutputKind {
    /// The kind with this number.
    pub const fn from_u8(number: u8) -> Option<OutputKind> {
        Some(match number {
            0 => OutputKind::Probability,
            1 => OutputKind::Logit,
            2 => OutputKind::Value,
            _ => return None,
        })
    }
    /// Its name in tables for people.
    pub const fn name(self) -> &'static str {
        match self {
            OutputKind::Probability => "probability",
            OutputKind::Logit => "logit",
            OutputKind::Value => "value",
        }
    }
}

/// Bits of `Description.feature_flags`. Bits that are not named here are ignored by readers.
pub mod feature_flag {
    /// Each id has an f32 in the weights block.
    pub const WEIGHTED: u8 = 1;
    /// The server hashes the id: every id is legal.
    pub const HASHED: u8 = 2;
    /// The missing value (all ones) is accepted.
    pub const MISSING_ACCEPTED: u8 = 4;
    /// Ids at or above the rows are accepted.
    pub const OUT_OF_RANGE_ACCEPTED: u8 = 8;
    /// NaN is accepted.
    pub const NAN_ACCEPTED: u8 = 16;
}

/// Bits of `Scores.status` and `Scores.context_status`.
pub mod status {
    /// The mask excluded the row; its scores are NaN.
    pub const MASKED: u8 = 1;
    /// An id at or above its table's rows was replaced by the feature's rule.
    pub const OUT_OF_RANGE: u8 = 2;
    /// A missing id was replaced or left out by the feature's rule.
    pub const MISSING: u8 = 4;
    /// A NaN was replaced, or handed on to the graph, by the feature's rule.
    pub const NAN: u8 = 8;
    /// A score of the row is NaN or infinite.
    pub const NOT_FINITE: u8 = 16;
}
