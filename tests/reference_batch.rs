//! The two ways into the reference interpreter agree: rows of a batch, with contexts shared by requests, and rows spelled out one by one.

use std::path::Path;
use std::sync::Arc;

use gavel::batch::{Counts, Layout, NO_ROW, Need, RowsMut, ScopeLayout, Slot, SlotLimits};
use gavel::model::{LoadOptions, Model, load};
use gavel::reference::{RowInputs, admit, score_batch, score_rows};
use proptest::prelude::*;

fn open(name: &str) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(name);
    load(&path, &LoadOptions::default(), &mut |_| {}).unwrap_or_else(|error| panic!("{error}"))
}

/// Writes rows where an engine reads them. Gives the number of ids.
fn fill(room: RowsMut<'_>, layout: &ScopeLayout, rows: &[RowInputs]) -> usize {
    let mut ids = 0;
    for (r, row) in rows.iter().enumerate() {
        let mut bag = 0;
        for run in &layout.dense {
            for (i, value) in row.dense[run.feature].iter().enumerate() {
                room.dense[r * layout.dense_width + run.column + i] = *value as f32;
            }
        }
        let mut column = 0;
        for field in &layout.ids {
            for integer in &row.integers[field.feature] {
                room.ints[r * layout.int_width + column] = *integer;
                column += 1;
            }
            if layout.bag_of(field.feature).is_none() {
                continue;
            }
            if layout.bag_stride.is_none() {
                room.starts[r * layout.bags + bag] = room.ids_base + ids as u32;
            }
            bag += 1;
            for entry in &row.bags[field.feature] {
                room.ids[ids] = entry.row.unwrap_or(NO_ROW);
                if layout.weighted {
                    room.weights[ids] = entry.weight as f32;
                }
                ids += 1;
            }
        }
    }
    ids
}

/// Scores the requests (context row, candidate rows) as one batch, and row by row.
fn both_ways(model: &Model, requests: &[(usize, Vec<usize>)]) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let layout = Arc::new(Layout::new(&model.features, model.graph.outputs.len()));
    let mut slot = Slot::new(layout.clone(), SlotLimits { contexts: 64, rows: 1024, ids: 1 << 16 }).expect("memory");
    let mut one_by_one = Vec::new();
    for (ticket, (context, candidates)) in requests.iter().enumerate() {
        let rows = model.selftest.inputs.expanded(*context, candidates);
        one_by_one.extend(score_rows(model, &rows).expect("rows keep the rules"));
        let admitted: Vec<RowInputs> = (0..rows.rows()).map(|row| admit(model, &rows, row).expect("rows keep the rules")).collect();
        let most = |layout: &ScopeLayout| if layout.bags == 0 { 0 } else { layout.ids_max };
        let need = Need { rows: rows.rows(), context_ids: most(&layout.context), candidate_ids: rows.rows() * most(&layout.candidate) };
        let draft = slot.reserve(need).expect("room");
        let context_ids = fill(draft.context, &layout.context, &admitted[..1]);
        let candidate_ids = fill(draft.candidates, &layout.candidate, &admitted);
        slot.commit(ticket as u32, Counts { rows: rows.rows(), context_ids, candidate_ids });
    }
    let (inputs, _) = slot.run();
    (score_batch(model, &inputs), one_by_one)
}

#[test]
fn batches_of_trained_models_equal_their_rows() {
    for name in ["dlrm_multihot_scoped", "deepfm_scoped", "mmoe_scoped", "mmoe", "wire_vectors"] {
        let model = open(name);
        let requests = [(3, vec![3]), (5, vec![5, 6, 7]), (0, vec![]), (9, vec![1, 1, 0, 9, 15])];
        let requests: Vec<_> = requests.into_iter().filter(|(_, candidates)| !candidates.is_empty()).collect();
        let (batch, rows) = both_ways(&model, &requests);
        assert_eq!(batch, rows, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_batch_equals_its_rows(requests in prop::collection::vec((0_usize..16, prop::collection::vec(0_usize..16, 1..9)), 1..9)) {
        let (batch, rows) = both_ways(&open("wire_vectors"), &requests);
        prop_assert_eq!(batch, rows);
    }
}
