//! The bundles of trained models: what the reference interpreter makes of them is what the training framework made of them.

use std::path::{Path, PathBuf};

use gavel::model::{LoadOptions, Model, Scope, discover, load};
use gavel::reference::score_rows;

fn bundles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles")
}

fn open(name: &str) -> Model {
    load(&bundles().join(name), &LoadOptions::default(), &mut |_| {}).unwrap_or_else(|error| panic!("{error}"))
}

/// Largest difference of the reference interpreter to the selftest, per output.
fn differences(model: &Model) -> Vec<f64> {
    let scores = score_rows(model, &model.selftest.inputs).expect("selftest rows keep the rules");
    let expected = &model.selftest.expected;
    let output = |i: usize| scores.iter().zip(&expected[i]).map(|(row, expected)| (row[i] - expected).abs()).fold(0.0, f64::max);
    (0..expected.len()).map(output).collect()
}

#[test]
fn reference_reproduces_the_training_framework() {
    // Name, outputs, context-scoped features of NAME_scoped, largest difference. torchrec rounds pooled vectors of several ids to f32.
    let cases = [
        ("dlrm", 1, 26, 1e-9),
        ("dlrm_torchrec", 1, 26, 1e-9),
        ("dlrm_multihot", 1, 26, 1e-7),
        ("dcn", 1, 26, 1e-9),
        ("dcn_matrix", 1, 9, 1e-9),
        ("deepfm", 1, 9, 1e-9),
        ("wdl", 1, 9, 1e-9),
        ("mmoe", 2, 4, 1e-9),
    ];
    for (name, outputs, context, bound) in cases {
        let (plain, scoped) = (open(name), open(&format!("{name}_scoped")));
        for (model, expected) in [(&plain, 0), (&scoped, context)] {
            assert_eq!(model.selftest.rows(), 128);
            assert_eq!(model.graph.outputs.len(), outputs, "{}", model.name);
            let found = model.features.iter().filter(|feature| feature.scope == Scope::Context).count();
            assert_eq!(found, expected, "context features of {}", model.name);
        }
        let worst = differences(&plain).into_iter().fold(0.0, f64::max);
        assert!(worst <= bound, "{name}: {worst}");
        // The same arithmetic on the same rows: bit by bit.
        let scores = |model: &Model| score_rows(model, &model.selftest.inputs).expect("selftest rows keep the rules");
        assert_eq!(scores(&plain), scores(&scoped), "{name}");
    }
}

/// Tables in other formats: what counts are the numbers that the rows hold, as `tools/make_table_bundles.py` evaluates them in float64.
#[test]
fn reference_reads_every_table_format() {
    for (name, formats) in [("dlrm_int8", 1), ("dlrm_multihot_formats", 9)] {
        let model = open(name);
        let found: std::collections::HashSet<_> = model.weights.tables.iter().map(|table| table.dtype).collect();
        assert_eq!(found.len(), formats, "{name}");
        let worst = differences(&model).into_iter().fold(0.0, f64::max);
        assert!(worst <= 1e-9, "{name}: {worst}");
    }
}

#[test]
fn wire_vectors_are_exact() {
    let model = open("wire_vectors");
    assert_eq!(differences(&model), [0.0, 0.0]);
    assert!(model.selftest.expected.iter().flatten().all(|x| f64::from(*x as f32) == *x));
    let widths: Vec<_> = model.signature_features().map(|f| (f.name.to_owned(), f.width, f.max_len, f.id_bytes)).collect();
    let expected = [
        ("age", 2, 2, 0),
        ("segments", 0, 4, 8),
        ("slot", 1, 1, 4),
        ("ctr", 1, 1, 0),
        ("ad", 1, 1, 4),
        ("advertiser", 1, 1, 4),
        ("words", 0, 3, 4),
        ("seq", 0, 2, 4),
    ];
    assert_eq!(widths, expected.map(|(name, width, max_len, bytes)| (name.to_owned(), width, max_len, bytes)));
}

#[test]
fn every_folder_is_discovered_and_loads_with_progress() {
    let found = discover(&bundles()).expect("a models folder");
    assert_eq!(found.len(), 19);
    for bundle in found {
        let options = LoadOptions { name: Some("other".into()), version: 7 };
        let mut seen = Vec::new();
        let model = load(&bundle.path, &options, &mut |p| seen.push((p.bytes, p.total))).expect("loads");
        assert_eq!((model.name.as_str(), model.version), ("other", 7));
        assert!(seen.is_sorted());
        assert!(seen.last().is_some_and(|(bytes, total)| bytes == total && *bytes > 0));
    }
}
