//! Files of rows for `gavel rank`: whatever they hold, they are read or refused. What was read is consistent and cut into requests that hold
//! each row once, in order, within the limits.
#![no_main]

use gavel::cli::rank::columns::{Inputs, RequestLimits};
use gavel::cli::rank::{json, tensors};
use gavel_protocol::{DescribedFeature, DescribedOutput, Description, FeatureKind, OutputKind, Scope, feature_flag};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let description = description();
    if let Ok((inputs, _)) = json::read(&description, data) {
        check(&inputs, &description);
    }
    if let Ok((inputs, _)) = tensors::read(&description, data) {
        check(&inputs, &description);
    }
});

fn check(inputs: &Inputs, description: &Description) {
    for (column, feature) in inputs.columns.iter().zip(&description.features) {
        let shared = inputs.contexts.as_ref().filter(|_| feature.scope == Scope::Context);
        assert_eq!(column.rows(), shared.map_or(inputs.rows, Vec::len), "{}", feature.name);
    }
    let mut next = 0;
    for request in inputs.requests(description, RequestLimits { candidates: 3, ids: 20 }) {
        assert_eq!(request.rows.start, next);
        assert!(!request.rows.is_empty() && request.rows.len() <= 3);
        next = request.rows.end;
    }
    assert_eq!(next, inputs.rows);
}

/// One feature of every kind, with names that inputs reach easily.
fn description() -> Description {
    Description {
        model: "m".into(),
        model_version: 1,
        signature: 1,
        candidates_max: 100,
        ids_max: 1000,
        context_id_bytes: 4,
        candidate_id_bytes: 8,
        features: vec![
            DescribedFeature { rows: 100, ..DescribedFeature::new("u", FeatureKind::Sparse, Scope::Context, 1) },
            DescribedFeature { rows: 100, ..DescribedFeature::new("a", FeatureKind::Dense, Scope::Candidate, 1) },
            DescribedFeature { rows: 100, ..DescribedFeature::new("b", FeatureKind::Dense, Scope::Candidate, 2) },
            DescribedFeature { id_bytes: 8, rows: 100, ..DescribedFeature::new("c", FeatureKind::Sparse, Scope::Candidate, 1) },
            DescribedFeature { rows: 100, ..DescribedFeature::new("d", FeatureKind::Integer, Scope::Candidate, 1) },
            DescribedFeature {
                length_max: 8,
                flags: feature_flag::WEIGHTED,
                rows: 100,
                ..DescribedFeature::new("t", FeatureKind::Sparse, Scope::Candidate, 0)
            },
        ],
        outputs: vec![DescribedOutput { name: "p".into(), kind: OutputKind::Probability }],
    }
}
