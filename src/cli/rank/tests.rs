use std::collections::HashMap;
use std::ops::Range;

use gavel_protocol::{DescribedFeature, DescribedOutput, Description, FeatureKind, OutputKind, Scope, feature_flag};
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};

use super::columns::{Column, Inputs, MISSING, RequestLimits};
use super::outputs::{Outputs, Refused};
use super::{json, tensors};

fn feature(name: &str, kind: FeatureKind, scope: Scope, width: u32) -> DescribedFeature {
    let length_max = if width == 0 { 8 } else { width };
    DescribedFeature { length_max, rows: 100, ..DescribedFeature::new(name, kind, scope, width) }
}

/// Every kind of feature: user (context), I1, I2 (width 2), C1, raw (integer), big (8 bytes), tags (variable, weighted).
pub(super) fn description() -> Description {
    let features = vec![
        feature("user", FeatureKind::Sparse, Scope::Context, 1),
        feature("I1", FeatureKind::Dense, Scope::Candidate, 1),
        feature("I2", FeatureKind::Dense, Scope::Candidate, 2),
        feature("C1", FeatureKind::Sparse, Scope::Candidate, 1),
        feature("raw", FeatureKind::Integer, Scope::Candidate, 1),
        DescribedFeature { id_bytes: 8, ..feature("big", FeatureKind::Sparse, Scope::Candidate, 1) },
        DescribedFeature { flags: feature_flag::WEIGHTED, ..feature("tags", FeatureKind::Sparse, Scope::Candidate, 0) },
    ];
    Description {
        model: "m".into(),
        model_version: 1,
        signature: 1,
        candidates_max: 100,
        ids_max: 1000,
        context_id_bytes: 4,
        candidate_id_bytes: 8,
        features,
        outputs: vec![DescribedOutput { name: "prob".into(), kind: OutputKind::Probability }],
    }
}

/// DLRM in small: two dense, one fixed, one variable feature.
fn jagged_description() -> Description {
    let features = vec![
        feature("I1", FeatureKind::Dense, Scope::Candidate, 1),
        feature("I2", FeatureKind::Dense, Scope::Candidate, 1),
        feature("C1", FeatureKind::Sparse, Scope::Candidate, 1),
        feature("C2", FeatureKind::Sparse, Scope::Candidate, 0),
    ];
    Description { features, ..description() }
}

const ROW: &str = r#"{"user":7,"I1":0.5,"I2":[1,2],"C1":3,"raw":-4,"big":18446744073709551614,"tags":[1,2],"tags.weights":[0.5,1]}"#;
const CANDIDATE: &str = r#"{"I1":0.5,"I2":[1,2],"C1":3,"raw":-4,"big":9,"tags":[],"tags.weights":[]}"#;

fn read_json(text: &str) -> Result<(Inputs, Vec<String>), String> {
    json::read(&description(), text.as_bytes()).map_err(|error| error.0)
}

fn cut(inputs: &Inputs, description: &Description, candidates: usize, ids: usize) -> Vec<(usize, Range<usize>)> {
    let requests = inputs.requests(description, RequestLimits { candidates, ids });
    requests.into_iter().map(|request| (request.context, request.rows)).collect()
}

#[test]
fn a_row_per_line() {
    let (inputs, notes) = read_json(&format!("{ROW}\n\n{}\n", ROW.replace("\"C1\":3", "\"C1\":null,\"label\":1"))).expect("valid");
    assert_eq!(inputs.rows, 2);
    assert_eq!(notes, ["label: not taken by the model, ignored (1 times)"]);
    assert_eq!(inputs.columns[2], Column::Dense { width: 2, values: vec![1.0, 2.0, 1.0, 2.0] });
    assert_eq!(inputs.columns[3], Column::Ids { ends: vec![1, 2], ids: vec![3, MISSING], weights: vec![] });
    assert_eq!(inputs.columns[4], Column::Ids { ends: vec![1, 2], ids: vec![-4i64 as u64; 2], weights: vec![] });
    assert_eq!(inputs.columns[5], Column::Ids { ends: vec![1, 2], ids: vec![u64::MAX - 1; 2], weights: vec![] });
    assert_eq!(inputs.columns[6], Column::Ids { ends: vec![2, 4], ids: vec![1, 2, 1, 2], weights: vec![0.5, 1.0, 0.5, 1.0] });
}

#[test]
fn a_request_per_line() {
    let line = format!(r#"{{"context":{{"user":7}},"candidates":[{CANDIDATE},{CANDIDATE},{CANDIDATE}]}}"#);
    let (inputs, _) = read_json(&format!("{line}\n{line}")).expect("valid");
    assert_eq!(inputs.rows, 6);
    // Equal contexts of two lines stay two requests: the file says so.
    assert_eq!(cut(&inputs, &description(), 2, 1000), [(0, 0..2), (0, 2..3), (1, 3..5), (1, 5..6)]);
    assert_eq!(cut(&inputs, &description(), 100, 1000), [(0, 0..3), (1, 3..6)]);
    assert_eq!(inputs.columns[0].rows(), 2, "one context row per request");
}

#[test]
fn faults_name_line_and_feature() {
    let with = |from: &str, to: &str| ROW.replace(from, to);
    for (text, expected) in [
        ("nonsense".to_owned(), "line 1: no JSON object"),
        ("[1]".to_owned(), "line 1: no JSON object"),
        (format!("{ROW}\n{{}}"), "line 2: user: no value"),
        (with("\"C1\":3", "\"C1\":3.5"), "line 1: C1: expected a whole number"),
        (with("\"C1\":3", "\"C1\":4294967296"), "line 1: C1: 4294967296 does not fit into the 4 bytes"),
        (with("\"C1\":3", "\"C1\":-2147483649"), "line 1: C1: -2147483649 does not fit"),
        (with("\"C1\":3", "\"C1\":[3,4]"), "line 1: C1: expected 1 values, found 2"),
        (with("\"raw\":-4", "\"raw\":2147483648"), "line 1: raw: 2147483648 does not fit"),
        (with("\"raw\":-4", "\"raw\":null"), "line 1: raw: expected a whole number, found null"),
        (with("\"I1\":0.5", "\"I1\":\"0.5\""), "line 1: I1: expected a number, found a string"),
        (with("\"I1\":0.5", "\"I1\":1e39"), "line 1: I1: 1000000000000000000000000000000000000000 does not fit"),
        (with("[0.5,1]", "[0.5]"), "line 1: tags: 2 ids and 1 weights"),
        (with(",\"tags.weights\":[0.5,1]", ""), "line 1: tags: no value for tags.weights"),
        (r#"{"context":{"user":1},"candidates":[]}"#.to_owned(), "line 1: a request needs at least one candidate"),
        (format!(r#"{{"context":3,"candidates":[{CANDIDATE}]}}"#), "line 1: \"context\" is no object"),
        (format!(r#"{{"candidates":[{CANDIDATE}]}}"#), "line 1: context: user: no value"),
        (r#"{"context":{"user":1},"candidates":[{}]}"#.to_owned(), "line 1: candidate 0: I1: no value"),
        (format!("{ROW}\n{{\"context\":{{\"user\":1}},\"candidates\":[{CANDIDATE}]}}"), "line 2: the file mixes"),
    ] {
        let error = read_json(&text).expect_err(&text);
        assert!(error.contains(expected), "{text}\n{error}");
    }
}

#[test]
fn consecutive_rows_with_equal_context_are_one_request() {
    let text: Vec<String> = [7, 7, 7, 8, 7].iter().map(|user| ROW.replace("\"user\":7", &format!("\"user\":{user}"))).collect();
    let (inputs, _) = read_json(&text.join("\n")).expect("valid");
    let description = description();
    assert_eq!(cut(&inputs, &description, 100, 1000), [(0, 0..3), (3, 3..4), (4, 4..5)]);
    assert_eq!(cut(&inputs, &description, 2, 1000), [(0, 0..2), (0, 2..3), (3, 3..4), (4, 4..5)]);
    assert_eq!(cut(&inputs, &description, 1, 1000).len(), 5);
    // Each row has 5 ids, and the context one.
    assert_eq!(cut(&inputs, &description, 100, 11), [(0, 0..2), (0, 2..3), (3, 3..4), (4, 4..5)]);
    assert_eq!(cut(&inputs, &description, 100, 0).len(), 5, "a row that is over the limit alone is still sent");
    let none = Inputs { columns: inputs.columns.clone(), rows: 0, contexts: None };
    assert!(cut(&none, &description, 4, 4).is_empty());
}

type Tensors = HashMap<&'static str, (Dtype, Vec<usize>, Vec<u8>)>;

fn f32s(shape: &[usize], values: &[f32]) -> (Dtype, Vec<usize>, Vec<u8>) {
    (Dtype::F32, shape.to_vec(), bytemuck::cast_slice(values).to_vec())
}

fn i64s(shape: &[usize], values: &[i64]) -> (Dtype, Vec<usize>, Vec<u8>) {
    (Dtype::I64, shape.to_vec(), bytemuck::cast_slice(values).to_vec())
}

fn file(tensors: &Tensors) -> Vec<u8> {
    let views =
        tensors.iter().map(|(name, (dtype, shape, bytes))| (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("consistent")));
    serialize(views, None).expect("serialised")
}

fn jagged_tensors() -> Tensors {
    HashMap::from([
        ("dense", f32s(&[3, 2], &[1., 2., 3., 4., 5., 6.])),
        // C1: 10, 11, 12; C2: [], [1, 2], [3]
        ("values", i64s(&[6], &[10, 11, 12, 1, 2, 3])),
        ("lengths", (Dtype::I32, vec![6], bytemuck::cast_slice(&[1i32, 1, 1, 0, 2, 1]).to_vec())),
        ("label", f32s(&[3, 1], &[0.; 3])),
    ])
}

#[test]
fn packed_and_jagged_tensors() {
    let (inputs, notes) = tensors::read(&jagged_description(), &file(&jagged_tensors())).expect("valid");
    assert_eq!(notes, ["tensor label: not taken by the model, ignored"]);
    let expected = [
        Column::Dense { width: 1, values: vec![1., 3., 5.] },
        Column::Dense { width: 1, values: vec![2., 4., 6.] },
        Column::Ids { ends: vec![1, 2, 3], ids: vec![10, 11, 12], weights: vec![] },
        Column::Ids { ends: vec![0, 2, 3], ids: vec![1, 2, 3], weights: vec![] },
    ];
    assert_eq!(inputs.columns, expected);
    assert_eq!(inputs.rows, 3);

    // The fixed feature packed in `sparse`, the variable one jagged; and each under its own name.
    let mut split = jagged_tensors();
    split.insert("sparse", i64s(&[3, 1], &[10, 11, 12]));
    split.insert("values", i64s(&[3], &[1, 2, 3]));
    split.insert("lengths", i64s(&[3], &[0, 2, 1]));
    assert_eq!(tensors::read(&jagged_description(), &file(&split)).expect("valid").0.columns, expected);
    let own = HashMap::from([
        ("I1", f32s(&[3], &[1., 3., 5.])),
        ("I2", f32s(&[3, 1], &[2., 4., 6.])),
        ("C1", i64s(&[3], &[10, 11, 12])),
        ("C2", i64s(&[3], &[1, 2, 3])),
        ("C2.lengths", i64s(&[3], &[0, 2, 1])),
    ]);
    assert_eq!(tensors::read(&jagged_description(), &file(&own)).expect("valid").0.columns, expected);
    let selftest = HashMap::from([
        ("in.I1", f32s(&[3], &[1., 3., 5.])),
        ("in.I2", f32s(&[3], &[2., 4., 6.])),
        ("in.C1", i64s(&[3], &[10, 11, 12])),
        ("in.C2", i64s(&[3], &[1, 2, 3])),
        ("in.C2.lengths", i64s(&[3], &[0, 2, 1])),
        ("out.prob", f32s(&[3], &[0.; 3])),
    ]);
    let (inputs, notes) = tensors::read(&jagged_description(), &file(&selftest)).expect("valid");
    assert_eq!((inputs.columns.as_slice(), notes.len()), (&expected[..], 1));
}

#[test]
fn columns_of_a_matrix_are_features() {
    let features = vec![
        feature("X.0", FeatureKind::Sparse, Scope::Candidate, 1),
        feature("X.1-2", FeatureKind::Dense, Scope::Candidate, 2),
        feature("X.3", FeatureKind::Integer, Scope::Candidate, 1),
    ];
    let description = Description { features, ..description() };
    let read = |tensors: &Tensors| tensors::read(&description, &file(tensors)).map(|(inputs, _)| inputs.columns).map_err(|error| error.0);
    let floats = HashMap::from([("X", f32s(&[2, 5], &[7., 0.5, -1., 3., 9., 8., 1.5, 2., 4., 9.]))]);
    let ids = |ids: &[u64]| Column::Ids { ends: vec![1, 2], ids: ids.to_vec(), weights: vec![] };
    let expected = [ids(&[7, 8]), Column::Dense { width: 2, values: vec![0.5, -1., 1.5, 2.] }, ids(&[3, 4])];
    assert_eq!(read(&floats).expect("valid"), expected);
    // A tensor of the feature's own comes first.
    let mut own = floats.clone();
    own.insert("X.0", i64s(&[2], &[1, 2]));
    assert_eq!(read(&own).expect("valid")[0], ids(&[1, 2]));
    for (tensor, wanted) in [
        (f32s(&[2, 5], &[7.5, 0., 0., 3., 9., 8., 0., 0., 4., 9.]), "tensor X, row 0: 7.5 is no id"),
        (f32s(&[1, 5], &[16_777_216., 0., 0., 3., 9.]), "below 2^24"),
        (f32s(&[2, 3], &[7., 0., 0., 8., 0., 0.]), "tensor X: 3 columns, X.3 is none or some of them"),
        (f32s(&[2], &[7., 8.]), "expected the shape [rows, width], found [2]"),
    ] {
        let error = read(&HashMap::from([("X", tensor)])).expect_err(wanted);
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn faulty_tensors_are_named() {
    let description = jagged_description();
    let change = |name: &'static str, tensor| {
        let mut tensors = jagged_tensors();
        tensors.insert(name, tensor);
        tensors
    };
    let without = |name| {
        let mut tensors = jagged_tensors();
        tensors.remove(name);
        tensors
    };
    for (tensors, expected) in [
        (without("dense"), "no tensor for 2 of the model's 4 features: I1, I2"),
        (without("lengths"), "no tensor for 2 of the model's 4 features: C1, C2"),
        (change("dense", f32s(&[3, 1], &[1.; 3])), "tensor dense: expected 2 per row, found 1"),
        (change("dense", f32s(&[2, 2], &[1.; 4])), "rows, tensor"),
        (change("dense", i64s(&[3, 2], &[1; 6])), "tensor dense: expected floats, found I64"),
        (change("dense", f32s(&[3, 2, 1], &[1.; 6])), "expected the shape [rows] or [rows, width]"),
        (change("values", f32s(&[6], &[1.; 6])), "expected integers, found F32"),
        (change("values", i64s(&[5], &[1; 5])), "tensor lengths: the sum exceeds the 5 ids"),
        (change("values", i64s(&[7], &[1; 7])), "tensor lengths: the sum is 6, there are 7 ids"),
        (change("values", i64s(&[6], &[10, 1 << 32, 12, 1, 2, 3])), "row 1: C1: 4294967296 does not fit"),
        (change("lengths", i64s(&[5], &[1; 5])), "no multiple of the 2 id features"),
        (change("lengths", i64s(&[6], &[-1, 1, 1, 1, 2, 2])), "-1 is no length"),
        (change("lengths", i64s(&[6], &[0, 1, 1, 1, 2, 1])), "row 0: C1: expected 1 ids"),
        (change("C2", i64s(&[3], &[1; 3])), "no tensor C2.lengths"),
    ] {
        let error = tensors::read(&description, &file(&tensors)).expect_err(expected).0;
        assert!(error.contains(expected), "{expected}\n{error}");
    }
    assert!(tensors::read(&description, b"short").expect_err("no file").0.contains("no safetensors file"));
}

#[test]
fn outputs_keep_rows_in_order() {
    let mut outputs = Outputs::new(vec!["a".into(), "b".into()], 4);
    outputs.fill(2, &[0.5, f32::NAN], [4]);
    outputs.fill(0, &[0.1, 2.0], [0]);
    outputs.refuse(Refused { row: 3, rows: 1, code: None, message: "no".into() });
    outputs.refuse(Refused { row: 1, rows: 1, code: Some("id_out_of_range"), message: "C1".into() });
    let mut text = Vec::new();
    outputs.write_json(&mut text).expect("written");
    assert_eq!(
        String::from_utf8(text).expect("UTF-8"),
        "{\"a\":0.1,\"b\":2.0}\n{\"error\":\"id_out_of_range\",\"message\":\"C1\"}\n{\"a\":0.5,\"b\":null,\"status\":4}\n{\"error\":\"not_sent\",\"message\":\"no\"}\n"
    );
    assert_eq!((outputs.refused_rows(), outputs.ruled_rows()), (2, 1));
    let table = outputs.table(3).to_string();
    assert_eq!(table.lines().count(), 5, "{table}");

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.safetensors");
    outputs.write(&path).expect("written");
    let bytes = std::fs::read(&path).expect("a file");
    let file = SafeTensors::deserialize(&bytes).expect("valid");
    let a = file.tensor("a").expect("a tensor");
    assert_eq!(a.shape(), [4]);
    let a: Vec<f32> = a.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert_eq!((a[0], a[2], a[1].is_nan()), (0.1, 0.5, true));
}

proptest! {
    #[test]
    fn json_never_panics(lines in proptest::collection::vec(prop_oneof![
        ".{0,60}", Just(ROW.to_owned()), "\\{\"(user|I1|I2|C1|tags|candidates|context)\":(-?[0-9]{1,22}|null|\\[\\]|\\[\\{\\}\\]|\\[1,null\\])\\}",
    ], 0..4)) {
        if let Ok((inputs, _)) = read_json(&lines.join("\n")) {
            check(&inputs, &description());
        }
    }

    #[test]
    fn tensors_never_panic(
        values in proptest::collection::vec(-3i64..200, 0..12),
        lengths in proptest::collection::vec(-1i64..4, 0..8),
        rows in 0usize..4,
        flip in (0usize..400, any::<u8>()),
    ) {
        let tensors = HashMap::from([
            ("dense", f32s(&[rows, 2], &vec![0.5; rows * 2])),
            ("values", i64s(&[values.len()], &values)),
            ("lengths", i64s(&[lengths.len()], &lengths)),
        ]);
        let mut bytes = file(&tensors);
        for description in [jagged_description(), description()] {
            if let Ok((inputs, _)) = tensors::read(&description, &bytes) {
                check(&inputs, &description);
            }
            let at = flip.0 % bytes.len();
            bytes[at] ^= flip.1;
        }
    }
}

/// What holds of all inputs that were read: the columns agree, and the requests hold each row once, in order, within the limits.
fn check(inputs: &Inputs, description: &Description) {
    for (column, feature) in inputs.columns.iter().zip(&description.features) {
        let shared = feature.scope == Scope::Context;
        let rows = inputs.contexts.as_ref().filter(|_| shared).map_or(inputs.rows, Vec::len);
        assert_eq!(column.rows(), rows, "{}", feature.name);
    }
    let mut next = 0;
    for (context, rows) in cut(inputs, description, 3, 20) {
        assert_eq!(rows.start, next);
        assert!(!rows.is_empty() && rows.len() <= 3 && context <= rows.start);
        next = rows.end;
    }
    assert_eq!(next, inputs.rows);
}
