//! ONNX files become bundles that compute the same, or are refused by name. `tools/make_onnx_fixtures.py` made the files in tests/onnx; the
//! outputs beside them are onnxruntime's, or for trained models those of the trainer in float64.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gavel::engine::{EngineKind, prepare, selftest};
use gavel::import::onnx::{self, Expected, ImportError, Options, Report, Rules};
use gavel::model::{LoadOptions, Model, RowsOrigin, Tolerance, load};
use serde_json::Value;
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx").join(name)
}

fn options(name: &str, out: &Path) -> Options {
    Options {
        model: fixture(&format!("ok/{name}.onnx")),
        rules: Rules::default(),
        rows: Some(fixture(&format!("ok/{name}.safetensors"))),
        sizes: Vec::new(),
        tolerance: Tolerance { atol: 3e-6, rtol: 3e-6 },
        out: out.join("bundle"),
    }
}

fn import(options: &Options) -> Result<Report, ImportError> {
    onnx::import(options)?.publish()
}

fn imported(name: &str, rules: &str) -> (Report, Value, Model) {
    let folder = TempDir::new().expect("a folder");
    let rules = Rules::parse(Path::new("features.toml"), rules).expect("rules");
    let options = Options { rules, ..options(name, folder.path()) };
    let report = import(&options).unwrap_or_else(|error| panic!("{name}: {error}"));
    let manifest = fs::read(options.out.join("manifest.json")).expect("a manifest");
    let model = load(&options.out, &LoadOptions::default(), &mut |_| {}).expect("a bundle that loads");
    (report, serde_json::from_slice(&manifest).expect("JSON"), model)
}

fn names(manifest: &Value, key: &str) -> Vec<String> {
    let items = manifest[key].as_array().expect("a list");
    items.iter().map(|item| item["name"].as_str().expect("a name").to_owned()).collect()
}

fn steps<'a>(manifest: &'a Value, op: &str) -> Vec<&'a Value> {
    manifest["graph"].as_array().expect("a list").iter().filter(|step| step["op"] == op).collect()
}

#[test]
fn every_file_computes_what_its_outputs_say() {
    let mut names: Vec<String> = fs::read_dir(fixture("ok"))
        .expect("fixtures")
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".onnx")?.to_owned()))
        .collect();
    names.sort();
    assert!(names.len() >= 30, "{names:?}");
    let mut faults = Vec::new();
    for name in names {
        let folder = TempDir::new().expect("a folder");
        let options = options(&name, folder.path());
        match import(&options) {
            Ok(report) => {
                assert!(matches!(report.expected, Expected::Given { .. }) && report.rows > 0, "{name}");
                let model = Arc::new(load(&options.out, &LoadOptions::default(), &mut |_| {}).expect("a bundle that loads"));
                assert_eq!(model.selftest.origin, RowsOrigin::Given, "{name}");
                let prepared = prepare(EngineKind::Cpu, &model).expect("a plan");
                selftest::replay(&prepared, &model).err().iter().for_each(|error| faults.push(format!("{name}: {error}")));
            }
            Err(error) => faults.push(format!("{name}: {error}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_cannot_be_imported_is_refused_by_name() {
    let cases = [
        ("lstm", "(LSTM): this op cannot be imported. GRU is the recurrent layer"),
        ("loop", "node \"bags\" (Loop): a loop that is no nn.EmbeddingBag over the rows as torch exports it"),
        ("bags_from_one", "(Loop): a loop that is no nn.EmbeddingBag"),
        (
            "bags_longer",
            "(Slice): a loop that is no nn.EmbeddingBag over the rows as torch exports it: offsets that are not read one after",
        ),
        (
            "bags_of_all",
            "(ReduceSum): a loop that is no nn.EmbeddingBag over the rows as torch exports it: an op of values that are not those",
        ),
        ("bags_but_one", "(Loop): a loop that is no nn.EmbeddingBag over the rows as torch exports it: it does not run once for each row"),
        (
            "bags_uneven",
            "(Slice): a loop that is no nn.EmbeddingBag over the rows as torch exports it: a slice that is not the bag of one row",
        ),
        ("bags_other_mean", "(If): a loop that is no nn.EmbeddingBag"),
        ("bags_of_padding", "(Loop): a loop that is no nn.EmbeddingBag over the rows as torch exports it: an inner loop that does not"),
        ("if_of_inputs", "(If): a condition that depends on the inputs. Compute both branches and choose with Where"),
        ("mean_over_rows", "(ReduceMean): it reduces values along the axis that holds the rows"),
        ("sum_of_everything", "(ReduceSum): it reduces values along the axis that holds the rows"),
        ("softmax_over_rows", "(Softmax): it normalises along the axis that holds the rows"),
        ("first_row", "(Gather): it takes elements along the axis that holds the rows"),
        ("slice_of_rows", "(Slice): it takes elements along the axis that holds the rows"),
        ("concat_of_rows", "(Concat): it puts values side by side along the axis that holds the rows"),
        ("gram_matrix", "(MatMul): it multiplies matrices along the axis that holds the rows"),
        ("outer_of_rows", "(Mul): it combines values along the axis that holds the rows"),
        ("mixing_reshape", "(Reshape): a reshape from [N, 4] to [2, -1], which does not keep the rows apart"),
        ("batch_statistics", "(BatchNormalization): batch normalisation in training mode, which averages over the rows"),
        ("number_of_rows", "(Cast): the number of rows is used as a number"),
        ("range_over_rows", "(Cast): a range over the number of rows"),
        ("cumsum_over_rows", "(CumSum): it sums along the axis that holds the rows"),
        ("gather_of_rows", "(GatherElements): it takes elements along the axis that holds the rows"),
        ("row_by_row_gather", "(Gather): it takes elements of one row by indices of another"),
        ("dropout_in_training", "(Dropout): dropout in training mode. Export the model in evaluation mode"),
        ("random_numbers", "(RandomNormalLike): this op cannot be imported. A score must not be random"),
        ("scatter", "(ScatterElements): this op cannot be imported. Writing by index"),
        ("constant_output", "output \"y\": it does not depend on the inputs"),
        ("vector_output", "output \"y\": 65 numbers per row. At most 64"),
        ("transposed_output", "output \"y\": its shape is [4, N]: the rows are not its first axis alone"),
        ("integer_division", "(Div): a division of integers"),
        ("old_opset", "opset: version 12 of ai.onnx; 13 to 22 are read. Export with opset_version=20"),
        ("unknown_domain", "node \"fused\" (com.microsoft.FusedMatMul): the domain \"com.microsoft\". Only ai.onnx, ai.onnx.ml"),
        ("dynamic_axis", "input \"x\": axis 1 has no fixed size (length). Give it a size (--dim length=50)"),
        ("strings", "input \"x\": strings. Map strings to numbers before the model"),
        ("outside_folder", "external data in \"../../Cargo.toml\", outside the model's folder"),
    ];
    let folder = TempDir::new().expect("a folder");
    let mut faults = Vec::new();
    for (name, reason) in cases {
        let options = Options { model: fixture(&format!("refused/{name}.onnx")), rows: None, ..options("arithmetic", folder.path()) };
        match import(&options) {
            Ok(_) => faults.push(format!("{name}: imported")),
            Err(error) if error.to_string().contains(reason) => {}
            Err(error) => faults.push(format!("{name}: {error}\n    expected {reason}")),
        }
        assert!(!options.out.exists() && !folder.path().join("bundle.part").exists(), "{name}: nothing is left behind");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let files = fs::read_dir(fixture("refused")).expect("fixtures").count();
    assert_eq!(files, cases.len(), "every file has its line here");
}

#[test]
fn a_size_makes_an_axis_fixed() {
    let folder = TempDir::new().expect("a folder");
    let sizes = vec![("length".to_owned(), 3)];
    let options = Options { model: fixture("refused/dynamic_axis.onnx"), rows: None, sizes, ..options("arithmetic", folder.path()) };
    let report = import(&options).expect("a size for each axis");
    assert_eq!(report.expected, Expected::MadeUp);
    let model = load(&options.out, &LoadOptions::default(), &mut |_| {}).expect("a bundle that loads");
    assert_eq!(model.selftest.origin, RowsOrigin::MadeUp, "the bundle says so");
    assert_eq!(report.outputs.len(), 3);
}

#[test]
fn columns_of_a_matrix_become_features() {
    let (report, manifest, _) = imported("packed_columns", "");
    assert_eq!(names(&manifest, "features"), ["X.0", "X.1", "X.2-4", "X.5", "X.6"]);
    let kinds: Vec<&str> = report.features.iter().map(|line| line.kind).collect();
    assert_eq!(kinds, ["sparse", "sparse", "sparse", "dense", "dense"]);
    assert_eq!(names(&manifest, "tables"), ["t0", "lin", "t1"]);
    let pools: Vec<&str> = steps(&manifest, "lookup").iter().map(|step| step["pool"].as_str().expect("a pool")).collect();
    assert_eq!(pools, ["sum", "sum", "sum", "none"], "one bag is read twice: it is not pooled in the lookup");
    assert_eq!(report.outputs.last(), Some(&("p".to_owned(), "probability".to_owned())));
}

#[test]
fn offsets_into_one_table_become_tables() {
    let (report, manifest, model) = imported("fused_tables", "");
    assert_eq!(names(&manifest, "features"), ["ids.0", "ids.1", "ids.2"]);
    let rows: Vec<(usize, usize)> = report.tables.iter().map(|(_, rows, dim)| (*rows, *dim)).collect();
    assert_eq!(rows, [(4, 2), (7, 2), (3, 2)]);
    assert_eq!(model.weights.tables.len(), 3);
}

#[test]
fn sums_and_means_over_ids_are_pooled_lookups() {
    let (_, manifest, _) = imported("bags", "");
    assert_eq!(names(&manifest, "features"), ["history", "other", "target"]);
    let lookups: Vec<(&str, &str)> = steps(&manifest, "lookup")
        .iter()
        .map(|step| (step["feature"].as_str().unwrap_or("?"), step["pool"].as_str().unwrap_or("?")))
        .collect();
    assert_eq!(lookups, [("history", "sum"), ("target", "sum"), ("other", "mean")]);
    assert_eq!(names(&manifest, "tables"), ["items"]);
    assert!(steps(&manifest, "reduce_sum").is_empty() && steps(&manifest, "reduce_mean").is_empty());
}

#[test]
fn bags_become_pooled_features() {
    let cases = [
        ("bags_sum", vec!["sum"], "sparse"),
        ("bags_mean", vec!["mean"], "sparse"),
        ("bags_mean_legacy", vec!["mean"], "sparse"),
        ("bags_sum_padded", vec!["sum"], "sparse"),
        ("bags_max", vec!["none"], "sparse"),
        ("bags_mean_padded", vec![], "integer"),
    ];
    for (name, expected, kind) in cases {
        let (report, manifest, _) = imported(name, "");
        let pools: Vec<&str> = steps(&manifest, "lookup").iter().map(|step| step["pool"].as_str().expect("a pool")).collect();
        assert_eq!(pools, expected, "{name}");
        let kinds: Vec<&str> = report.features.iter().map(|line| line.kind).collect();
        assert_eq!(kinds, [kind], "{name}");
    }
}

#[test]
fn ids_that_are_numbers_too_stay_numbers() {
    let (report, manifest, _) = imported("masked_history", "");
    assert_eq!(report.features[0].kind, "integer");
    assert_eq!(steps(&manifest, "embedding").len(), 1);
}

#[test]
fn rules_name_features_and_outputs() {
    let rules = r#"
        name = "clicks"
        [features.X]
        scope = "context"
        [features."X.0"]
        name = "item"
        scope = "candidate"
        hash = { fn = "splitmix64", mod = 4, add = 1 }
        missing = { row = 0 }
        id_type = "u64"
        [features."X.2-4"]
        name = "history"
        padding = 0
        missing = "skip"
        [features."X.5-6"]
        names = ["price", "age"]
        nan = { value = 0.5 }
        [outputs.p]
        name = "pctr"
        [outputs.y]
        kind = "logit"
    "#;
    let folder = TempDir::new().expect("a folder");
    let rules = Rules::parse(Path::new("features.toml"), rules).expect("rules");
    // Hashing changes what ids mean: the outputs of the file are others.
    let options = Options { rules, rows: None, ..options("packed_columns", folder.path()) };
    let report = import(&options).expect("imported");
    let named: Vec<(&str, &str)> = report.features.iter().map(|line| (line.name.as_str(), line.scope.as_str())).collect();
    let expected = [("item", "candidate"), ("X.1", "context"), ("history", "context"), ("price", "context"), ("age", "context")];
    assert_eq!(named, expected);
    assert_eq!(report.outputs.last(), Some(&("pctr".to_owned(), "probability".to_owned())));
    assert_eq!(report.outputs[0], ("y.0".to_owned(), "logit".to_owned()));
    let model = load(&options.out, &LoadOptions::default(), &mut |_| {}).expect("a bundle that loads");
    assert_eq!(model.name, "clicks");
}

#[test]
fn rules_that_mean_nothing_are_refused() {
    let cases = [
        ("[features.Y]", "features.\"Y\": no input of that name with such columns; the inputs are X"),
        ("[features.\"X.7\"]", "features.\"X.7\": no input of that name with such columns"),
        ("[features.X]\nname = \"a\"", "features.\"X\".name: one name for columns of which 0 to 0 are a feature of their own"),
        ("[features.\"X.5-6\"]\nnames = [\"a\"]", "features.\"X.5-6\".names: 1 names for 2 columns"),
        ("[features.\"X.5\"]\nname = \"X.6\"", "a second feature \"X.6\""),
        ("[features.\"X.5\"]\nkind = \"sparse\"", "features.\"X.5\".kind: sparse, but the graph reads these columns as numbers too"),
        ("[features.\"X.5\"]\nscope = \"user\"", "features[3].scope"),
        ("[outputs.q]", "outputs.\"q\": no output of that name; the outputs are y, p"),
        ("[outputs.p]\nnames = [\"a\", \"b\"]", "outputs.\"p\": names that do not fit the 1 numbers of the output"),
    ];
    let folder = TempDir::new().expect("a folder");
    for (text, reason) in cases {
        let rules = Rules::parse(Path::new("features.toml"), text).expect("syntax");
        let error = import(&Options { rules, rows: None, ..options("packed_columns", folder.path()) }).expect_err(text).to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
    for text in ["[features.X]\ncolour = 1", "[feature.X]", "name = 3"] {
        assert!(Rules::parse(Path::new("features.toml"), text).is_err(), "{text}");
    }
}

#[test]
fn a_draft_that_is_not_published_leaves_nothing() {
    let folder = TempDir::new().expect("a folder");
    let draft = onnx::import(&options("arithmetic", folder.path())).expect("imported");
    let there = || fs::read_dir(folder.path()).expect("a folder").count();
    assert!(draft.folder().join("manifest.json").exists() && there() == 1);
    drop(draft);
    assert_eq!(there(), 0);
}

#[test]
fn rows_of_another_model_are_refused() {
    let folder = TempDir::new().expect("a folder");
    let rows = Some(fixture("ok/tree_average.safetensors"));
    let error = import(&Options { rows, ..options("tree_regressor", folder.path()) }).expect_err("other outputs").to_string();
    assert!(error.contains("Save the outputs of the same rows"), "{error}");
    let rows = Some(fixture("ok/golden_wdl.safetensors"));
    let error = import(&Options { rows, ..options("golden_deepfm", folder.path()) }).expect_err("other outputs").to_string();
    assert!(error.contains("the imported graph gives") && error.contains("the file records"), "{error}");
}

#[test]
fn a_damaged_file_is_refused() {
    let folder = TempDir::new().expect("a folder");
    let whole = fs::read(fixture("ok/golden_mmoe.onnx")).expect("a file");
    for length in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        let model = folder.path().join("damaged.onnx");
        fs::write(&model, &whole[..length]).expect("a file");
        let error = import(&Options { model, rows: None, ..options("golden_mmoe", folder.path()) }).expect_err("damaged").to_string();
        assert!(error.contains("damaged.onnx"), "{error}");
    }
}
