//! The inputs of one row, feature by feature, after all rules.

use crate::batch::{IdTarget, Inputs, Layout, NO_ROW};
use crate::model::{FeatureKind, Model, Scope};

/// One id of a bag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Row of the table; None = absent: contributes nothing, is not counted by `mean`.
    pub row: Option<u32>,
    /// Weight; 1 where the feature has none.
    pub weight: f64,
}

/// The ids of a feature.
pub type Bag = Vec<Entry>;

/// What one row holds of each feature, indexed as the model's features; empty where the feature is of another kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowInputs {
    /// Dense values, transformed.
    pub dense: Vec<Vec<f64>>,
    /// Ids as table rows.
    pub bags: Vec<Bag>,
    /// Integers.
    pub integers: Vec<Vec<i64>>,
}

impl RowInputs {
    /// All empty.
    pub fn empty(features: usize) -> RowInputs {
        RowInputs { dense: vec![vec![]; features], bags: vec![vec![]; features], integers: vec![vec![]; features] }
    }

    /// Candidate row `row` of a batch, with its context.
    pub fn of_batch(model: &Model, layout: &Layout, inputs: &Inputs<'_>, row: usize) -> RowInputs {
        let mut of = RowInputs::empty(model.features.len());
        for (scope, rows, row) in
            [(Scope::Context, &inputs.contexts, inputs.row_context[row] as usize), (Scope::Candidate, &inputs.candidates, row)]
        {
            let layout = layout.scope(scope);
            for run in &layout.dense {
                let values = &rows.dense[row * rows.dense_width + run.column..][..run.width];
                of.dense[run.feature] = values.iter().map(|value| f64::from(*value)).collect();
            }
            for field in &layout.ids {
                match field.target {
                    IdTarget::Integer { column } => {
                        of.integers[field.feature] = rows.ints[row * rows.int_width + column..][..field.width].to_vec();
                    }
                    IdTarget::Bag { bag, .. } => {
                        let weighted = matches!(model.features[field.feature].kind, FeatureKind::Sparse { weighted: true, .. });
                        of.bags[field.feature] = rows
                            .bag(row, bag)
                            .map(|at| Entry {
                                row: Some(rows.ids[at]).filter(|row| *row != NO_ROW),
                                weight: if weighted { f64::from(rows.weights[at]) } else { 1.0 },
                            })
                            .collect();
                    }
                }
            }
        }
        of
    }
}
