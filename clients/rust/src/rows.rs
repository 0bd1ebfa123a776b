//! The rows of one scope while a request is built. The row under way is staged, because its features may be set in any order; closing it
//! appends its values in signature order. Buffers are kept from request to request.

use gavel_protocol::{DescribedFeature, FeatureKind, Scope, feature_flag};

use crate::MISSING;
use crate::build_error::{BuildError, RowName};
use crate::layout::{FeatureKey, Layout, Place};

/// A feature of the ids block in the row under way.
#[derive(Clone, Copy, Debug, Default)]
struct Staged {
    set: bool,
    /// Range of `staged_ids`.
    start: usize,
    length: usize,
    /// Start in `staged_weights`, `length` long too where the feature is weighted.
    weights: usize,
}

#[derive(Debug)]
pub(crate) struct Rows {
    scope: Scope,
    pub dense: Vec<f32>,
    pub ids: Vec<u8>,
    pub lengths: Vec<u16>,
    pub weights: Vec<f32>,
    /// Ids of the closed rows.
    pub ids_count: usize,
    /// Closed rows.
    pub closed: usize,
    dense_row: Vec<f32>,
    dense_set: Vec<bool>,
    staged: Vec<Staged>,
    staged_ids: Vec<u64>,
    staged_weights: Vec<f32>,
}

impl Rows {
    pub fn new(layout: &Layout, scope: Scope) -> Rows {
        let shape = layout.shape(scope);
        Rows {
            scope,
            dense: Vec::new(),
            ids: Vec::new(),
            lengths: Vec::new(),
            weights: Vec::new(),
            ids_count: 0,
            closed: 0,
            dense_row: vec![f32::NAN; shape.dense_width],
            dense_set: vec![false; shape.dense.len()],
            staged: vec![Staged::default(); shape.ids.len()],
            staged_ids: Vec::new(),
            staged_weights: Vec::new(),
        }
    }

    /// Forgets the closed rows.
    pub fn clear_closed(&mut self) {
        self.dense.clear();
        self.ids.clear();
        self.lengths.clear();
        self.weights.clear();
        self.ids_count = 0;
        self.closed = 0;
    }

    /// Forgets the row under way.
    pub fn clear_staged(&mut self) {
        self.dense_row.fill(f32::NAN);
        self.dense_set.fill(false);
        self.staged.fill(Staged::default());
        self.staged_ids.clear();
        self.staged_weights.clear();
    }

    pub fn name(&self) -> RowName {
        match self.scope {
            Scope::Context => RowName::Context,
            Scope::Candidate => RowName::Candidate(self.closed),
        }
    }

    fn find<'l>(&self, layout: &'l Layout, key: impl FeatureKey) -> Result<(&'l DescribedFeature, Place), BuildError> {
        let (feature, place) = layout.described(key.resolve(layout)?);
        if feature.scope != self.scope {
            return Err(BuildError::WrongScope { feature: feature.name.clone(), row: self.name() });
        }
        Ok((feature, place))
    }

    fn check_length(&self, feature: &DescribedFeature, given: usize) -> Result<(), BuildError> {
        let exact = !feature.is_variable();
        let allowed = feature.length_max as usize;
        if given == allowed || (!exact && given < allowed) {
            return Ok(());
        }
        Err(BuildError::Length { feature: feature.name.clone(), row: self.name(), given, allowed, exact })
    }

    pub fn set_dense(&mut self, layout: &Layout, key: impl FeatureKey, values: &[f32]) -> Result<(), BuildError> {
        let (feature, place) = self.find(layout, key)?;
        let Place::Dense { ordinal, column } = place else {
            return Err(BuildError::WrongKind { feature: feature.name.clone(), kind: feature.kind, given: "dense values" });
        };
        self.check_length(feature, values.len())?;
        if feature.flags & feature_flag::NAN_ACCEPTED == 0 && values.iter().any(|value| value.is_nan()) {
            return Err(BuildError::NanRefused { feature: feature.name.clone(), row: self.name() });
        }
        self.dense_row[column..column + values.len()].copy_from_slice(values);
        self.dense_set[ordinal] = true;
        Ok(())
    }

    pub fn set_ids(&mut self, layout: &Layout, key: impl FeatureKey, ids: &[u64], weights: &[f32]) -> Result<(), BuildError> {
        let (feature, place) = self.find(layout, key)?;
        let ordinal = match place {
            Place::Ids { ordinal } if feature.kind == FeatureKind::Sparse => ordinal,
            _ => return Err(BuildError::WrongKind { feature: feature.name.clone(), kind: feature.kind, given: "ids" }),
        };
        self.check_length(feature, ids.len())?;
        let weighted = feature.is_weighted();
        if weights.len() != if weighted { ids.len() } else { 0 } {
            return Err(BuildError::Weights {
                feature: feature.name.clone(),
                row: self.name(),
                ids: ids.len(),
                weights: weights.len(),
                weighted,
            });
        }
        if weights.iter().any(|weight| weight.is_nan()) {
            return Err(BuildError::NanRefused { feature: feature.name.clone(), row: self.name() });
        }
        let bytes = layout.shape(self.scope).id_bytes as u8;
        for id in ids {
            self.check_id(feature, *id, bytes)?;
        }
        self.staged[ordinal] = Staged { set: true, start: self.staged_ids.len(), length: ids.len(), weights: self.staged_weights.len() };
        self.staged_ids.extend_from_slice(ids);
        self.staged_weights.extend_from_slice(weights);
        Ok(())
    }

    fn check_id(&self, feature: &DescribedFeature, id: u64, bytes: u8) -> Result<(), BuildError> {
        let accepts = |flag| feature.flags & flag != 0;
        if id == MISSING {
            return if accepts(feature_flag::MISSING_ACCEPTED) {
                Ok(())
            } else {
                Err(BuildError::MissingRefused { feature: feature.name.clone(), row: self.name() })
            };
        }
        // All ones of 4 bytes would be read as missing.
        if bytes == 4 && id >= u64::from(u32::MAX) {
            return Err(BuildError::TooWide { feature: feature.name.clone(), row: self.name(), value: i128::from(id), bytes });
        }
        let bounded = feature.rows != 0 && !accepts(feature_flag::HASHED | feature_flag::OUT_OF_RANGE_ACCEPTED);
        if bounded && id >= feature.rows {
            return Err(BuildError::IdOutOfRange { feature: feature.name.clone(), row: self.name(), id, rows: feature.rows });
        }
        Ok(())
    }

    pub fn set_integers(&mut self, layout: &Layout, key: impl FeatureKey, values: &[i64]) -> Result<(), BuildError> {
        let (feature, place) = self.find(layout, key)?;
        let ordinal = match place {
            Place::Ids { ordinal } if feature.kind == FeatureKind::Integer => ordinal,
            _ => return Err(BuildError::WrongKind { feature: feature.name.clone(), kind: feature.kind, given: "integers" }),
        };
        self.check_length(feature, values.len())?;
        let bytes = layout.shape(self.scope).id_bytes as u8;
        if let Some(value) = values.iter().find(|value| bytes == 4 && i32::try_from(**value).is_err()) {
            return Err(BuildError::TooWide { feature: feature.name.clone(), row: self.name(), value: i128::from(*value), bytes });
        }
        self.staged[ordinal] = Staged { set: true, start: self.staged_ids.len(), length: values.len(), weights: 0 };
        self.staged_ids.extend(values.iter().map(|value| *value as u64));
        Ok(())
    }

    /// Every id of a fixed feature missing.
    pub fn set_missing(&mut self, layout: &Layout, key: impl FeatureKey) -> Result<(), BuildError> {
        let (feature, place) = self.find(layout, key)?;
        let ordinal = match place {
            Place::Ids { ordinal } if feature.kind == FeatureKind::Sparse => ordinal,
            _ => return Err(BuildError::WrongKind { feature: feature.name.clone(), kind: feature.kind, given: "a missing id" }),
        };
        self.stage_missing(feature, ordinal)
    }

    fn stage_missing(&mut self, feature: &DescribedFeature, ordinal: usize) -> Result<(), BuildError> {
        if !feature.is_variable() && feature.flags & feature_flag::MISSING_ACCEPTED == 0 {
            return Err(BuildError::MissingRefused { feature: feature.name.clone(), row: self.name() });
        }
        let length = feature.width as usize;
        self.staged[ordinal] = Staged { set: true, start: self.staged_ids.len(), length, weights: self.staged_weights.len() };
        self.staged_ids.resize(self.staged_ids.len() + length, MISSING);
        if feature.is_weighted() {
            self.staged_weights.resize(self.staged_weights.len() + length, 1.0);
        }
        Ok(())
    }

    /// What was not set becomes NaN, missing or empty where the model accepts that.
    fn complete(&mut self, layout: &Layout) -> Result<(), BuildError> {
        let shape = layout.shape(self.scope);
        for (ordinal, index) in shape.dense.iter().enumerate() {
            let (feature, _) = layout.described(*index);
            if !self.dense_set[ordinal] && feature.flags & feature_flag::NAN_ACCEPTED == 0 {
                return Err(BuildError::NotSet { feature: feature.name.clone(), row: self.name() });
            }
        }
        for (ordinal, index) in shape.ids.iter().enumerate() {
            let (feature, _) = layout.described(*index);
            if self.staged[ordinal].set || feature.is_variable() {
                continue;
            }
            if feature.kind == FeatureKind::Integer || feature.flags & feature_flag::MISSING_ACCEPTED == 0 {
                return Err(BuildError::NotSet { feature: feature.name.clone(), row: self.name() });
            }
            self.stage_missing(feature, ordinal)?;
        }
        Ok(())
    }

    /// Appends the row under way to the blocks. It stays staged (the context is appended anew by each `finish`).
    pub fn close(&mut self, layout: &Layout) -> Result<(), BuildError> {
        self.complete(layout)?;
        let shape = layout.shape(self.scope);
        self.dense.extend_from_slice(&self.dense_row);
        for (ordinal, index) in shape.ids.iter().enumerate() {
            let (feature, _) = layout.described(*index);
            let staged = self.staged[ordinal];
            let ids = &self.staged_ids[staged.start..staged.start + staged.length];
            if shape.id_bytes == 8 {
                self.ids.extend_from_slice(bytemuck::cast_slice(ids));
            } else {
                // The low half: missing stays all ones, integers keep their sign.
                self.ids.extend(ids.iter().flat_map(|id| (*id as u32).to_le_bytes()));
            }
            self.ids_count += staged.length;
            if feature.is_variable() {
                self.lengths.push(staged.length as u16);
            }
            if feature.is_weighted() {
                self.weights.extend_from_slice(&self.staged_weights[staged.weights..staged.weights + staged.length]);
            }
        }
        self.closed += 1;
        Ok(())
    }
}
