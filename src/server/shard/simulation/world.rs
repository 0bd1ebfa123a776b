//! The model that clients ask, and what it says.

use std::path::Path;
use std::sync::Arc;

use crate::engine::{EngineKind, prepare, selftest};
use crate::model::{FeatureRows, LoadOptions, Model, load};

/// A trained model, one row of whose inputs is as good as another.
pub struct World {
    pub model: Arc<Model>,
    pub rows: FeatureRows,
    /// [context][row][output], computed outside the shard.
    pub truth: Vec<Vec<[f32; 2]>>,
}

pub fn world() -> World {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles/wire_vectors");
    let model = Arc::new(load(&path, &LoadOptions::default(), &mut |_| {}).expect("the bundle of the vectors"));
    let prepared = prepare(EngineKind::Cpu, &model).expect("prepared");
    let rows = model.selftest.inputs.clone();
    let truth = (0..rows.rows())
        .map(|context| {
            let mut pairs = FeatureRows::new(model.fields());
            for row in 0..rows.rows() {
                let cells: Vec<_> = model
                    .features
                    .iter()
                    .enumerate()
                    .map(|(feature, spec)| rows.cell(feature, if spec.scope == crate::model::Scope::Context { context } else { row }))
                    .collect();
                pairs.push_row(&cells).expect("a legal row");
            }
            let scores = selftest::score_rows(&prepared, &model, &pairs).expect("scores");
            scores.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect()
        })
        .collect();
    World { model, rows, truth }
}
