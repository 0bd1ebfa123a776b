//! Where every feature of a model lies in a row, per scope.

use crate::model::{DenseTransform, Feature, FeatureKind, Hash, IdType, MissingRule, NanRule, RangeRule, Scope};

/// A dense feature: `width` consecutive values of the dense row.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseRun {
    /// Index into the model's features.
    pub feature: usize,
    /// First column of the scope's dense row.
    pub column: usize,
    /// Columns.
    pub width: usize,
    /// Applied while copying.
    pub transform: DenseTransform,
    /// NaN policy.
    pub nan: NanRule,
}

/// What becomes of the ids of a feature.
#[derive(Clone, Debug, PartialEq)]
pub enum IdTarget {
    /// Rows of a table: bag number `bag` of the row.
    Bag {
        /// Index among the scope's sparse features.
        bag: usize,
        /// Ids must be below, unless hashed.
        rows: u32,
        /// Server-side hash.
        hash: Option<Hash>,
        /// Row that counts as absent.
        padding: Option<u32>,
        /// Policy for all ones.
        missing: MissingRule,
        /// Policy for ids ≥ rows.
        out_of_range: RangeRule,
        /// Has weights.
        weighted: bool,
    },
    /// Integers for the graph: columns of the scope's integer row.
    Integer {
        /// First column.
        column: usize,
    },
}

/// A feature of the ids block, in wire order.
#[derive(Clone, Debug, PartialEq)]
pub struct IdField {
    /// Index into the model's features.
    pub feature: usize,
    /// Ids per row; 0 = variable.
    pub width: usize,
    /// Most ids per row.
    pub max_len: usize,
    /// Where they go.
    pub target: IdTarget,
}

/// One scope's row.
#[derive(Clone, Debug, PartialEq)]
pub struct ScopeLayout {
    /// Dense features in order.
    pub dense: Vec<DenseRun>,
    /// f32 per row of the dense block.
    pub dense_width: usize,
    /// Id features in order.
    pub ids: Vec<IdField>,
    /// Bytes of an element of the ids block: 4 or 8.
    pub id_bytes: usize,
    /// Number of sparse features: bags per row.
    pub bags: usize,
    /// Number of variable-length features: u16 per row of the lengths block.
    pub variable: usize,
    /// Ids per row on the wire that fixed features take.
    pub fixed_ids: usize,
    /// Most ids per row on the wire.
    pub ids_max: usize,
    /// Sparse ids per row if none is variable: then bag starts need not be stored.
    pub bag_stride: Option<usize>,
    /// Offset of each bag inside a row of `bag_stride` ids (empty when there is no stride).
    pub bag_offsets: Vec<usize>,
    /// Some sparse feature is weighted.
    pub weighted: bool,
    /// i64 per row of integer features.
    pub int_width: usize,
    /// Weights per row that fixed features take.
    pub fixed_weighted: usize,
    /// Some dense feature has a transform.
    pub dense_transformed: bool,
    /// Rows of the table of each id column, if the ids block can be copied as it is: u32, fixed, tables only, no hash, padding or weights.
    pub plain_bounds: Option<Vec<u32>>,
}

/// Both scopes.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Once per request.
    pub context: ScopeLayout,
    /// Once per candidate.
    pub candidate: ScopeLayout,
    /// Columns of the answer.
    pub outputs: usize,
}

impl Layout {
    /// The layout of a model's features, in signature order.
    pub fn new(features: &[Feature], outputs: usize) -> Layout {
        Layout { context: ScopeLayout::new(features, Scope::Context), candidate: ScopeLayout::new(features, Scope::Candidate), outputs }
    }

    /// The layout of one scope.
    pub fn scope(&self, scope: Scope) -> &ScopeLayout {
        match scope {
            Scope::Context => &self.context,
            Scope::Candidate => &self.candidate,
        }
    }
}

impl ScopeLayout {
    fn new(features: &[Feature], scope: Scope) -> ScopeLayout {
        let mut layout = ScopeLayout {
            dense: Vec::new(),
            dense_width: 0,
            ids: Vec::new(),
            id_bytes: 4,
            bags: 0,
            variable: 0,
            fixed_ids: 0,
            ids_max: 0,
            bag_stride: Some(0),
            bag_offsets: Vec::new(),
            weighted: false,
            int_width: 0,
            fixed_weighted: 0,
            dense_transformed: false,
            plain_bounds: None,
        };
        for (index, feature) in features.iter().enumerate().filter(|(_, feature)| feature.scope == scope) {
            layout.push(index, feature);
        }
        if layout.bag_stride.is_none() {
            layout.bag_offsets.clear();
        }
        layout.plain_bounds = layout.find_plain_bounds();
        layout
    }

    fn push(&mut self, index: usize, feature: &Feature) {
        let width = feature.width as usize;
        if let FeatureKind::Dense { transform, nan } = &feature.kind {
            self.dense.push(DenseRun { feature: index, column: self.dense_width, width, transform: *transform, nan: *nan });
            self.dense_width += width;
            self.dense_transformed |= *transform != DenseTransform::None;
            return;
        }
        if feature.id_type == IdType::U64 {
            self.id_bytes = 8;
        }
        let target = match &feature.kind {
            FeatureKind::Sparse { rows, hash, padding, missing, out_of_range, weighted, .. } => {
                if let Some(stride) = self.bag_stride {
                    self.bag_offsets.push(stride);
                    self.bag_stride = if feature.is_variable() { None } else { Some(stride + width) };
                }
                self.weighted |= weighted;
                self.bags += 1;
                IdTarget::Bag {
                    bag: self.bags - 1,
                    rows: *rows,
                    hash: *hash,
                    padding: *padding,
                    missing: *missing,
                    out_of_range: *out_of_range,
                    weighted: *weighted,
                }
            }
            FeatureKind::Integer | FeatureKind::Dense { .. } => {
                self.int_width += width;
                IdTarget::Integer { column: self.int_width - width }
            }
        };
        self.variable += usize::from(feature.is_variable());
        self.fixed_ids += width;
        self.fixed_weighted += if feature.is_weighted() { width } else { 0 };
        self.ids_max += feature.max_len as usize;
        self.ids.push(IdField { feature: index, width, max_len: feature.max_len as usize, target });
    }

    fn find_plain_bounds(&self) -> Option<Vec<u32>> {
        let mut bounds = Vec::with_capacity(self.fixed_ids);
        for field in &self.ids {
            match field.target {
                IdTarget::Bag { rows, hash: None, padding: None, weighted: false, .. } if field.width > 0 && self.id_bytes == 4 => {
                    bounds.extend(std::iter::repeat_n(rows, field.width));
                }
                _ => return None,
            }
        }
        Some(bounds)
    }

    /// The variable-length features, in the order of the lengths block.
    pub fn variable_fields(&self) -> impl Iterator<Item = &IdField> {
        self.ids.iter().filter(|field| field.width == 0)
    }

    /// The bag number of a model feature, if it is a sparse feature of this scope.
    pub fn bag_of(&self, feature: usize) -> Option<usize> {
        self.ids.iter().find(|field| field.feature == feature).and_then(|field| match field.target {
            IdTarget::Bag { bag, .. } => Some(bag),
            IdTarget::Integer { .. } => None,
        })
    }
}

impl IdField {
    /// Whether its ids have weights.
    pub fn is_weighted(&self) -> bool {
        matches!(self.target, IdTarget::Bag { weighted: true, .. })
    }
}
