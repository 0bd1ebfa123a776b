//! A described signature, prepared for building requests: where each feature goes.

use std::collections::HashMap;
use std::sync::Arc;

use gavel_protocol::{DescribedFeature, Description, FeatureKind, Scope};

use crate::build_error::BuildError;

/// The layout behind a signature. Immutable; shared by all builders.
#[derive(Debug)]
pub struct Layout {
    description: Description,
    by_name: HashMap<String, usize>,
    places: Vec<Place>,
    context: ScopeShape,
    candidate: ScopeShape,
}

/// Where a feature's values go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Columns of the dense row; `ordinal` counts the dense features of the scope.
    Dense { ordinal: usize, column: usize },
    /// The feature with this number among those of the ids block.
    Ids { ordinal: usize },
}

/// One scope's row.
#[derive(Debug, Default)]
pub(crate) struct ScopeShape {
    /// Feature indices of the dense features, in order.
    pub dense: Vec<usize>,
    /// f32 per row.
    pub dense_width: usize,
    /// Feature indices of the id features, in order.
    pub ids: Vec<usize>,
    /// Bytes of an element of the ids block.
    pub id_bytes: usize,
    /// u16 per row of the lengths block.
    pub variable: usize,
}

/// A feature that was looked up once: the fast way to name it. Valid for builders of the layout that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FeatureHandle {
    index: usize,
    signature: u64,
}

/// Names a feature: by its name, or by a handle that [`Layout::feature`] gave.
pub trait FeatureKey {
    /// Its index in the description.
    fn resolve(&self, layout: &Layout) -> Result<usize, BuildError>;
}

impl FeatureKey for &str {
    fn resolve(&self, layout: &Layout) -> Result<usize, BuildError> {
        layout
            .by_name
            .get(*self)
            .copied()
            .ok_or_else(|| BuildError::FeatureUnknown { model: layout.description.model.clone(), feature: (*self).to_owned() })
    }
}

impl FeatureKey for FeatureHandle {
    fn resolve(&self, layout: &Layout) -> Result<usize, BuildError> {
        if self.signature == layout.signature() && self.index < layout.places.len() {
            Ok(self.index)
        } else {
            Err(BuildError::ForeignHandle)
        }
    }
}

impl Layout {
    /// Prepares a description.
    pub fn new(description: Description) -> Arc<Layout> {
        let mut context = ScopeShape { id_bytes: usize::from(description.context_id_bytes), ..ScopeShape::default() };
        let mut candidate = ScopeShape { id_bytes: usize::from(description.candidate_id_bytes), ..ScopeShape::default() };
        let places = description
            .features
            .iter()
            .enumerate()
            .map(|(index, feature)| match feature.scope {
                Scope::Context => context.push(index, feature),
                Scope::Candidate => candidate.push(index, feature),
            })
            .collect();
        let by_name = description.features.iter().enumerate().map(|(index, feature)| (feature.name.clone(), index)).collect();
        Arc::new(Layout { description, by_name, places, context, candidate })
    }

    /// What the server said.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// What the header of a request bears.
    pub fn signature(&self) -> u64 {
        self.description.signature
    }

    /// Looks a feature up, for the fast path.
    pub fn feature(&self, name: &str) -> Result<FeatureHandle, BuildError> {
        Ok(FeatureHandle { index: name.resolve(self)?, signature: self.signature() })
    }

    /// The column of an output.
    pub fn output(&self, name: &str) -> Result<usize, BuildError> {
        self.description
            .outputs
            .iter()
            .position(|output| output.name == name)
            .ok_or_else(|| BuildError::OutputUnknown { model: self.description.model.clone(), output: name.to_owned() })
    }

    pub(crate) fn described(&self, index: usize) -> (&DescribedFeature, Place) {
        (&self.description.features[index], self.places[index])
    }

    pub(crate) fn shape(&self, scope: Scope) -> &ScopeShape {
        match scope {
            Scope::Context => &self.context,
            Scope::Candidate => &self.candidate,
        }
    }
}

impl ScopeShape {
    fn push(&mut self, index: usize, feature: &DescribedFeature) -> Place {
        if feature.kind == FeatureKind::Dense {
            let place = Place::Dense { ordinal: self.dense.len(), column: self.dense_width };
            self.dense.push(index);
            self.dense_width += feature.width as usize;
            return place;
        }
        self.ids.push(index);
        self.variable += usize::from(feature.is_variable());
        Place::Ids { ordinal: self.ids.len() - 1 }
    }
}
