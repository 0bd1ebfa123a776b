//! Rules of features in an import: numbers that may be missing, and values that requests carry otherwise than the graph reads them.

mod bundle_writer;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bundle_writer::{f32s, safetensors};
use gavel::engine::{EngineKind, prepare, selftest};
use gavel::import::onnx::{self, Expected, ImportError, Options, Report, Rules};
use gavel::model::{Cell, FeatureKind, FeatureRows, LoadOptions, Model, NanRule, Tolerance, discover, load};
use gavel::reference;
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx/ok").join(name)
}

fn import(options: &Options) -> Result<Report, ImportError> {
    onnx::import(options)?.publish()
}

/// Imports with rules; what was imported has passed its selftest on the engine.
fn imported(name: &str, rules: &str, rows: Option<PathBuf>) -> Result<(Report, Arc<Model>), ImportError> {
    let folder = TempDir::new().expect("a folder");
    let rules = Rules::parse(Path::new("features.toml"), rules).expect("rules");
    let out = folder.path().join("bundle");
    let tolerance = Tolerance { atol: 3e-6, rtol: 3e-6 };
    let report = import(&Options { model: fixture(&format!("{name}.onnx")), rules, rows, sizes: Vec::new(), tolerance, out: out.clone() })?;
    let model = Arc::new(load(&out, &LoadOptions::default(), &mut |_| {}).expect("a bundle that loads"));
    let prepared = prepare(EngineKind::Cpu, &model).expect("prepared");
    selftest::replay(&prepared, &model).unwrap_or_else(|error| panic!("{name}: {error}"));
    Ok((report, model))
}

fn own_rows(name: &str) -> Option<PathBuf> {
    Some(fixture(&format!("{name}.safetensors")))
}

fn nan_rules(model: &Model) -> Vec<NanRule> {
    let rule = |kind: &FeatureKind| if let FeatureKind::Dense { nan, .. } = kind { Some(*nan) } else { None };
    model.features.iter().filter_map(|feature| rule(&feature.kind)).collect()
}

/// Files whose rows hold NaN, with the outputs of their trainer or of onnxruntime.
const MISSING: [&str; 5] = ["missing_imputed", "missing_lightgbm", "missing_modes", "missing_modes_modern", "missing_xgboost"];

#[test]
fn what_deals_with_nan_is_sent_nan() {
    for name in MISSING {
        let (report, model) = imported(name, "", own_rows(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(nan_rules(&model), [NanRule::Keep], "{name}");
        assert!(report.to_string().contains("NaN is kept (input X)"), "{name}: {report}");
        let rows = &model.selftest.inputs;
        let missing = (0..rows.rows()).filter(|row| matches!(rows.cell(0, *row), Cell::Dense(values) if values.iter().any(|x| x.is_nan())));
        assert!(missing.count() > 5, "{name}: rows with NaN are compared");
        let (report, _) = imported(name, "", None).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(report.expected, Expected::MadeUp, "{name}: made-up rows have missing values too");
    }
}

#[test]
fn what_does_not_is_sent_none() {
    let mut keeping = Vec::new();
    for entry in fs::read_dir(fixture("")).expect("fixtures").flatten() {
        let file = entry.file_name().into_string().expect("a name");
        let Some(name) = file.strip_suffix(".onnx") else { continue };
        let (report, _) = imported(name, "", own_rows(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        if report.features.iter().any(|line| line.keeps_nan) {
            keeping.push(name.to_owned());
        }
    }
    keeping.sort();
    let trees = ["tree_average", "tree_binary", "tree_classes", "tree_ensemble", "tree_regressor"];
    assert_eq!(keeping, [&MISSING[..], &trees[..]].concat());
}

/// A score that kept NaN reaches is the interpreter's on the engine too: NaN is not lost in a sum, a maximum or an activation.
#[test]
fn kept_nan_means_the_same_to_the_engine() {
    let bundles = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles");
    let named = discover(&bundles).expect("bundles").into_iter().map(|bundle| (bundle.path.display().to_string(), bundle.path, None));
    let files = fs::read_dir(fixture("")).expect("fixtures").flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?.strip_suffix(".onnx")?.to_owned();
        let folder = TempDir::new().ok()?;
        let (model, out) = (fixture(&format!("{name}.onnx")), folder.path().join("bundle"));
        let tolerance = Tolerance { atol: 3e-6, rtol: 3e-6 };
        import(&Options { model, rules: Rules::default(), rows: own_rows(&name), sizes: Vec::new(), tolerance, out: out.clone() }).ok()?;
        Some((name, out, Some(folder)))
    });
    let (mut compared, mut lost, mut faults) = (0, 0, Vec::new());
    for (name, path, _folder) in named.chain(files) {
        let mut model = load(&path, &LoadOptions::default(), &mut |_| {}).expect("a bundle that loads");
        for feature in &mut model.features {
            if let FeatureKind::Dense { nan, .. } = &mut feature.kind {
                *nan = NanRule::Keep;
            }
        }
        let rows = with_nan(&model.selftest.inputs);
        let model = Arc::new(model);
        let prepared = prepare(EngineKind::Cpu, &model).expect("prepared");
        let found = selftest::score_rows(&prepared, &model, &rows).expect("scores");
        let judged = reference::score_rows(&model, &rows).expect("scores");
        for (row, (found, judged)) in found.chunks_exact(model.graph.outputs.len()).zip(&judged).enumerate() {
            for (output, (found, judged)) in found.iter().zip(judged).enumerate() {
                let close = (f64::from(*found) - judged).abs() <= 1e-5 * (1.0 + judged.abs());
                let at = format!("{name}, row {row}, output {output}");
                if !(close || f64::from(*found) == *judged || (found.is_nan() && judged.is_nan())) {
                    faults.push(format!("{at}: {found}, expected {judged}"));
                }
                compared += 1;
                lost += usize::from(judged.is_nan());
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(lost > 500 && compared > 2 * lost, "{lost} of {compared} scores are NaN");
}

/// Up to 24 of the rows, where one dense value is NaN: another one in each row.
fn with_nan(rows: &FeatureRows) -> FeatureRows {
    let mut changed = FeatureRows::new(rows.fields().to_vec());
    for row in 0..rows.rows().min(24) {
        let dense: Vec<usize> = (0..rows.fields().len()).filter(|feature| matches!(rows.cell(*feature, row), Cell::Dense(_))).collect();
        let odd = dense.get(row % dense.len().max(1));
        let values = odd.map(|feature| match rows.cell(*feature, row) {
            Cell::Dense(values) => {
                let mut values = values.to_vec();
                let at = (row / dense.len()) % values.len();
                values[at] = f32::NAN;
                values
            }
            Cell::Ids { .. } => Vec::new(),
        });
        let cells: Vec<Cell<'_>> = (0..rows.fields().len())
            .map(|feature| match &values {
                Some(values) if Some(&feature) == odd => Cell::Dense(values),
                _ => rows.cell(feature, row),
            })
            .collect();
        changed.push_row(&cells).expect("the rows were checked");
    }
    changed
}

#[test]
fn a_rule_of_the_file_comes_first() {
    let refused = |rules: &str| imported("missing_lightgbm", rules, own_rows("missing_lightgbm")).expect_err(rules).to_string();
    let error = refused("[features.X]\nnan = \"error\"");
    assert!(error.contains("row 0, feature \"X\": NaN. Correct the rows, or give the feature a rule"), "{error}");
    let error = refused("[features.X]\nnan = { value = 0.0 }");
    assert!(error.contains("a rule of features.toml gives the graph other values than it was run on (nan of X)"), "{error}");
    let (_, model) =
        imported("arithmetic", "[features.x]\nnan = \"keep\"", own_rows("arithmetic")).expect("any dense feature may keep NaN");
    assert_eq!(nan_rules(&model).iter().filter(|rule| **rule == NanRule::Keep).count(), 1);
}

/// Ids of requests are hashed, the graph was run on rows: the selftest holds ids that hash to these rows, and outputs that others computed.
#[test]
fn rows_of_the_graph_pass_a_hash_backwards() {
    let rules = r#"
        [features."X.0"]
        hash = { fn = "splitmix64", mod = 4, add = 1 }
        missing = { row = 0 }
        id_type = "u64"
        [features."X.1"]
        name = "city"
        hash = { fn = "fnv1a64", mod = 6 }
        [features."X.2-4"]
        hash = { fn = "identity", mod = 5 }
    "#;
    let (report, model) = imported("packed_columns", rules, own_rows("packed_columns")).expect("imported");
    assert!(matches!(report.expected, Expected::Given { .. }), "{report}");
    assert!(
        report.to_string().contains("values of X.0, city, X.2-4 that the features' rules map onto those of the rows' file"),
        "{report}"
    );
    // Row 2 has 0 in its first column, which no hash gives: the missing id does.
    assert_eq!(model.selftest.inputs.cell(0, 2), Cell::Ids { ids: &[-1], weights: &[] });
    assert_eq!(model.selftest.inputs.cell(2, 0), Cell::Ids { ids: &[0, 1, 2], weights: &[] }, "identity");

    let short = "[features.\"X.0\"]\nhash = { fn = \"fnv1a64\", mod = 4 }";
    let error = imported("packed_columns", short, own_rows("packed_columns")).expect_err("4 is no row of the hash").to_string();
    assert!(error.contains("tensor \"X\", feature \"X.0\": 4, where the hash gives rows 0 to 3."), "{error}");
}

#[test]
fn rows_of_the_graph_pass_a_transform_backwards() {
    let (report, model) = imported("arithmetic", "[features.pos]\ntransform = \"log1p_clamp0\"", own_rows("arithmetic")).expect("imported");
    assert!(matches!(report.expected, Expected::Given { .. }), "{report}");
    let pos = model.features.iter().position(|feature| feature.name == "pos").expect("a feature");
    let Cell::Dense(values) = model.selftest.inputs.cell(pos, 0) else { panic!("numbers") };
    assert!(values.iter().all(|x| *x > 0.5_f32.exp_m1()), "{values:?}: the graph was run on 0.5 and more");

    let rules = "[features.x]\ntransform = \"log1p_clamp0\"";
    let error = imported("arithmetic", rules, own_rows("arithmetic")).expect_err("negative numbers").to_string();
    assert!(error.contains("which the transform log1p_clamp0 makes of no number. Under the name of a graph's input stands"), "{error}");
}

/// Values under a feature's own name are those of requests: the rules apply.
#[test]
fn rows_of_features_pass_their_rules() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("rows.safetensors");
    let row = [0.25_f32, 0.5, 0.75, 1.0, 1.25];
    let raw: Vec<f32> = row.iter().map(|x| x.exp_m1()).collect();
    let rules = "[features.X]\nname = \"counts\"\ntransform = \"log1p_clamp0\"";
    let selftest = |tensor: &str, values: &[f32]| {
        fs::write(&file, safetensors(&[f32s(tensor, &[1, 5], values)])).expect("written");
        let (report, model) = imported("tree_regressor", rules, Some(file.clone())).expect("imported");
        assert_eq!(report.expected, Expected::Computed);
        let Cell::Dense(values) = model.selftest.inputs.cell(0, 0) else { panic!("numbers") };
        values.to_vec()
    };
    assert_eq!(selftest("counts", &raw), raw, "as they are");
    for (found, raw) in selftest("X", &row).iter().zip(&raw) {
        assert!((found - raw).abs() <= 1e-6 * raw, "{found} {raw}");
    }
}
