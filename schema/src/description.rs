//! A layout as `Describe` answers it, owned.

use crate::feature::{FeatureKind, OutputKind, Scope, feature_flag};
use crate::signature::SignatureFeature;

/// The layout behind a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Public name.
    pub model: String,
    /// The version that serves the signature at present.
    pub model_version: u64,
    /// What [`crate::Header::signature`] of a rank request must hold.
    pub signature: u64,
    /// Most candidates of a request.
    pub candidates_max: u32,
    /// Most ids of a request, context and candidates together.
    pub ids_max: u32,
    /// Bytes of an element of `context_ids`: 4 or 8.
    pub context_id_bytes: u8,
    /// Bytes of an element of `ids`: 4 or 8.
    pub candidate_id_bytes: u8,
    /// In signature order.
    pub features: Vec<DescribedFeature>,
    /// Columns of the scores.
    pub outputs: Vec<DescribedOutput>,
}

/// One feature of a [`Description`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedFeature {
    /// Unique in the layout.
    pub name: String,
    /// Dense, sparse or integer.
    pub kind: FeatureKind,
    /// Context or candidate.
    pub scope: Scope,
    /// Values per row of a fixed feature; 0 = variable length.
    pub width: u32,
    /// Most values per row; equals the width of a fixed feature.
    pub length_max: u32,
    /// Bytes of an id as the feature declares it: 4 or 8; 0 for dense.
    pub id_bytes: u8,
    /// [`feature_flag`]s.
    pub flags: u8,
    /// Ids must be below; 0 = no bound.
    pub rows: u64,
}

/// One output of a [`Description`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedOutput {
    /// Name.
    pub name: String,
    /// What it means.
    pub kind: OutputKind,
}

impl DescribedFeature {
    /// Ids of 4 bytes without a bound, nothing else accepted; `width` 0 needs a `length_max` too.
    pub fn new(name: &str, kind: FeatureKind, scope: Scope, width: u32) -> DescribedFeature {
        let id_bytes = if kind == FeatureKind::Dense { 0 } else { 4 };
        DescribedFeature { name: name.to_owned(), kind, scope, width, length_max: width, id_bytes, flags: 0, rows: 0 }
    }
    /// Whether each id has a weight.
    pub const fn is_weighted(&self) -> bool {
        self.flags & feature_flag::WEIGHTED != 0
    }
    /// Whether the number of ids differs from row to row.
    pub const fn is_variable(&self) -> bool {
        self.width == 0
    }
    /// What the signature knows of it.
    pub fn for_signature(&self) -> SignatureFeature<'_> {
        SignatureFeature {
            name: &self.name,
            kind: self.kind,
            scope: self.scope,
            width: self.width,
            max_len: self.length_max,
            id_bytes: self.id_bytes,
            weighted: self.is_weighted(),
        }
    }
}
