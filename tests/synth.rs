//! Synthetic bundles load, an engine computes what they record, and the same recipe gives the same bytes.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use gavel::engine::cpu::{Hoist, Options, Program, Simd};
use gavel::engine::{self, EngineKind, Prepared, selftest};
use gavel::model::{LoadOptions, Scope, load};
use gavel::synth::{ContextShare, Family, Interaction, Recipe, Shape, SynthError, TableFormat, Tables, write_bundle, write_onnx};

fn recipe(family: Family, rows_cap: u32, context: ContextShare) -> Recipe {
    let mut shape = Shape::new(family, rows_cap);
    if let Interaction::Cross { layers, .. } = shape.interaction {
        // The published layers would take this test's time.
        shape.interaction = Interaction::Cross { layers, rank: 16 };
        shape.top = vec![32, 16, 1];
    }
    Recipe { shape, seed: 7, context, tables: TableFormat::F32, selftest_rows: 9 }
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry"))
        .map(|entry| (entry.file_name().into_string().expect("UTF-8"), fs::read(entry.path()).expect("a file")))
        .collect();
    files.sort();
    files
}

#[test]
fn bundles_are_computed_as_they_record() {
    let folder = tempfile::tempdir().expect("a folder");
    for (family, context, context_features) in [
        (Family::DlrmKaggle, ContextShare::None, 0),
        (Family::DlrmKaggle, ContextShare::Half, 26),
        (Family::DlrmDcnv2, ContextShare::None, 0),
        (Family::DlrmDcnv2, ContextShare::Half, 26),
    ] {
        let out = folder.path().join(format!("{}-{context:?}", family.name()));
        let mut last = (0, 1);
        write_bundle(&recipe(family, 40, context), &out, &mut |done, total| last = (done, total)).expect("a bundle");
        assert_eq!(last.0, last.1, "progress reaches its end");
        let model = Arc::new(load(&out, &LoadOptions::default(), &mut |_| {}).expect("it loads"));
        assert_eq!(model.features.iter().filter(|feature| feature.scope == Scope::Context).count(), context_features);
        let probabilities = &model.selftest.expected[0];
        assert!(probabilities.iter().any(|p| (p - probabilities[0]).abs() > 1e-3), "rows differ: {probabilities:?}");
        for hoist in [Hoist::WherePaying, Hoist::Nothing] {
            let options = Options { hoist, ..Options::new(Simd::detect()) };
            let prepared = Prepared::Cpu(Arc::new(Program::planned(&model, &options).expect("memory")));
            let report = selftest::replay(&prepared, &model).expect("it passes");
            assert!(report.worst() < 2e-6, "{family:?} {context:?} {hoist:?}: {report}");
        }
    }
    assert_eq!(files(folder.path().join("dlrm-kaggle-None").as_path()).len(), 4, "no leftovers");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 4, "no leftovers beside the bundles");
}

#[test]
fn a_recipe_gives_the_same_bytes_and_caps_keep_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, cap| {
        let out = folder.path().join(name);
        write_bundle(&recipe(Family::DlrmKaggle, cap, ContextShare::None), &out, &mut |_, _| {}).expect("a bundle");
        out
    };
    let (a, b, larger) = (write("a", 30), write("b", 30), write("c", 31));
    assert_eq!(files(&a), files(&b));
    let table = |folder: &Path| {
        let model = load(folder, &LoadOptions::default(), &mut |_| {}).expect("it loads");
        model.weights.tables[0].clone()
    };
    let (small, large) = (table(&a), table(&larger));
    assert_eq!((small.rows, large.rows), (30, 31));
    assert_eq!(small.data.as_slice(), &large.data.as_slice()[..30 * 16 * 4]);
}

#[test]
fn table_formats_are_computed_as_recorded() {
    let folder = tempfile::tempdir().expect("a folder");
    for tables in [TableFormat::F16, TableFormat::Bf16, TableFormat::Int8Rowwise] {
        let out = folder.path().join(tables.name());
        let recipe = Recipe { tables, ..recipe(Family::DlrmDcnv2, 60, ContextShare::None) };
        write_bundle(&recipe, &out, &mut |_, _| {}).expect("a bundle");
        let model = Arc::new(load(&out, &LoadOptions::default(), &mut |_| {}).expect("it loads"));
        let prepared = engine::prepare(EngineKind::Cpu, &model).expect("memory");
        let report = selftest::replay(&prepared, &model).expect("it passes");
        assert!(report.worst() < 2e-6, "{tables:?}: {report}");
    }
}

#[test]
fn nothing_is_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = recipe(Family::DlrmKaggle, 5, ContextShare::None);
    let (out, onnx) = (folder.path().join("m"), folder.path().join("m.onnx"));
    fs::create_dir(&out).expect("a folder");
    fs::write(&onnx, "mine").expect("a file");
    let mut silent = |_, _| {};
    assert!(matches!(write_bundle(&recipe, &out, &mut silent), Err(SynthError::Exists(_))));
    assert!(matches!(write_onnx(&recipe, Tables::Apart, &onnx, &mut silent), Err(SynthError::Exists(_))));
    assert_eq!(fs::read(&onnx).expect("a file"), b"mine");
}
