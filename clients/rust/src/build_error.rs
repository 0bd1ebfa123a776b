//! What a request builder refuses, before anything is sent.

use gavel_protocol::FeatureKind;

/// Where a row stands in its request, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowName {
    /// The one row of the context.
    Context,
    /// The candidate with this index.
    Candidate(usize),
}

impl std::fmt::Display for RowName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RowName::Context => f.write_str("the context"),
            RowName::Candidate(index) => write!(f, "candidate {index}"),
        }
    }
}

/// Why a request could not be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The layout has no such feature.
    #[error("model {model} has no feature {feature:?}")]
    FeatureUnknown {
        /// Public name.
        model: String,
        /// As given.
        feature: String,
    },
    /// The layout has no such output.
    #[error("model {model} has no output {output:?}")]
    OutputUnknown {
        /// Public name.
        model: String,
        /// As given.
        output: String,
    },
    /// A handle that another layout gave.
    #[error("the feature handle belongs to another layout; resolve it anew after describing")]
    ForeignHandle,
    /// A context feature was set on a candidate or the other way round.
    #[error("feature {feature} does not belong to {row}")]
    WrongScope {
        /// Its name.
        feature: String,
        /// Where it was set.
        row: RowName,
    },
    /// For example ids for a dense feature.
    #[error("feature {feature} is {}, it cannot hold {given}", kind.name())]
    WrongKind {
        /// Its name.
        feature: String,
        /// What it is.
        kind: FeatureKind,
        /// What was given.
        given: &'static str,
    },
    /// A fixed feature got another number of values than its width, or a variable one more than its limit.
    #[error("feature {feature} of {row}: {given} values, it takes {}{allowed}", if *exact { "" } else { "at most " })]
    Length {
        /// Its name.
        feature: String,
        /// Which row.
        row: RowName,
        /// How many were given.
        given: usize,
        /// Its width, or its limit.
        allowed: usize,
        /// Whether exactly so many are needed.
        exact: bool,
    },
    /// A weighted feature needs as many weights as ids, another none.
    #[error("feature {feature} of {row}: {ids} ids and {weights} weights; {}", if *weighted { "each id needs one" } else { "it takes none" })]
    Weights {
        /// Its name.
        feature: String,
        /// Which row.
        row: RowName,
        /// Ids given.
        ids: usize,
        /// Weights given.
        weights: usize,
        /// Whether it is weighted.
        weighted: bool,
    },
    /// An id that the model would refuse.
    #[error("feature {feature} of {row}: id {id} is not below its {rows} rows")]
    IdOutOfRange {
        /// Its name.
        feature: String,
        /// Which row.
        row: RowName,
        /// The id.
        id: u64,
        /// Ids must be below.
        rows: u64,
    },
    /// A number that its element on the wire cannot hold.
    #[error("feature {feature} of {row}: {value} does not fit an element of {bytes} bytes")]
    TooWide {
        /// Its name.
        feature: String,
        /// Which row.
        row: RowName,
        /// The number.
        value: i128,
        /// Of an element.
        bytes: u8,
    },
    /// A missing id in a feature without a rule for it.
    #[error("feature {feature} of {row}: the model accepts no missing id here")]
    MissingRefused {
        /// Its name.
        feature: String,
        /// Which row.
        row: RowName,
    },
    /// NaN in a feature without a rule for it, or in a weight.
    #[error("feature {feature} of {row}: the model accepts no NaN here")]
    NanRefused {
        /// Its name.
        feature: String,
        /// Which row.
        row: RowName,
    },
    /// A feature without a value, and the model accepts none missing.
    #[error("feature {feature} of {row} was not set, and the model accepts no missing value there")]
    NotSet {
        /// Its name.
        feature: String,
        /// Which row.
        row: RowName,
    },
    /// Bids were given for some candidates only.
    #[error("{row} has no bid, others have; bid for all or for none")]
    BidMissing {
        /// Which row.
        row: RowName,
    },
    /// A mask or a bid for the context.
    #[error("only candidates can be masked or bid for")]
    NotACandidate,
    /// A request needs at least one candidate.
    #[error("the request has no candidates")]
    NoCandidates,
    /// More candidates than the model takes.
    #[error("{candidates} candidates, the model takes at most {candidates_max} per request")]
    CandidatesTooMany {
        /// Given.
        candidates: usize,
        /// Allowed.
        candidates_max: u32,
    },
    /// More ids than a request may have.
    #[error("{ids} ids in all rows together, the model takes at most {ids_max} per request; send fewer candidates per request")]
    IdsTooMany {
        /// Given.
        ids: usize,
        /// Allowed.
        ids_max: u32,
    },
    /// A ready-made block of another size than layout, rows and lengths demand.
    #[error("block {block} has {given} bytes, layout, rows and lengths demand {expected}")]
    BlockSize {
        /// Its name in the schema.
        block: &'static str,
        /// Bytes given.
        given: usize,
        /// Bytes due.
        expected: usize,
    },
}
