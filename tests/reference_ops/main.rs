//! Every op of the manifest against values computed by hand: the judge is judged.

// Expected values are written out as numpy and torch print them, well-known constants among them.
#![allow(clippy::approx_constant, clippy::excessive_precision)]

mod axes;
#[path = "../bundle_writer/mod.rs"]
mod bundle_writer;
mod elementwise;
mod sequences;
mod windows;

use bundle_writer::{Draft, Tensor, f32s, f64s, i64s};
use gavel::model::{Cell, FeatureRows, Model, OPS, ValueScope};
use gavel::reference::score_rows;
use serde_json::{Value, json};

struct Case {
    op: &'static str,
    graph: Value,
    weights: Vec<Tensor>,
    shape: Vec<usize>,
    expected: Vec<f64>,
}

fn case(op: &'static str, graph: Value, weights: Vec<Tensor>, shape: &[usize], expected: &[f64]) -> Case {
    Case { op, graph, weights, shape: shape.into(), expected: expected.into() }
}

const X: [f32; 6] = [1.0, -2.0, 3.0, -4.0, 0.5, 6.0];

fn basic() -> Vec<Case> {
    let matrix = json!({"op": "reshape", "in": "x", "shape": [2, 3], "out": "m"});
    let one = |node: Value| json!([matrix, node]);
    let e = std::f64::consts::E;
    vec![
        case("dense", json!([{"op": "dense", "features": ["x"], "out": "y"}]), vec![], &[6], &[1., -2., 3., -4., 0.5, 6.]),
        case("const", json!([{"op": "const", "tensor": "w", "out": "y"}]), vec![f32s("w", &[2], &[7., 8.])], &[2], &[7., 8.]),
        case(
            "const",
            json!([{"op": "const", "tensor": "w", "out": "i"}, {"op": "cast", "in": "i", "to": "f32", "out": "y"}]),
            vec![i64s("w", &[], &[-3])],
            &[],
            &[-3.],
        ),
        case("fill", json!([{"op": "fill", "value": 1.5, "shape": [2, 1], "out": "y"}]), vec![], &[2, 1], &[1.5, 1.5]),
        case("fill", json!([{"op": "fill", "value": 1.5, "out": "y"}]), vec![], &[], &[1.5]),
        case("iota", json!([{"op": "iota", "size": 3, "start": 1, "step": -2, "out": "y"}]), vec![], &[3], &[1., -1., -3.]),
        case(
            "iota",
            json!([{"op": "iota", "size": 2, "dtype": "i64", "out": "i"}, {"op": "cast", "in": "i", "to": "f32", "out": "y"}]),
            vec![],
            &[2],
            &[0., 1.],
        ),
        case(
            "linear",
            one(json!({"op": "linear", "in": "m", "weight": "w", "bias": "b", "out": "y"})),
            vec![f32s("w", &[2, 3], &[1., 0., 2., 0., 1., 0.]), f32s("b", &[2], &[10., 20.])],
            &[2, 2],
            &[17., 18., 18., 20.5],
        ),
        case("linear", json!([{"op": "linear", "in": "x", "weight": "w", "out": "y"}]), vec![f32s("w", &[1, 6], &[1.; 6])], &[1], &[4.5]),
        case(
            "matmul",
            one(json!({"op": "matmul", "a": "m", "b": "m", "transpose_b": true, "out": "y"})),
            vec![],
            &[2, 2],
            &[14., 13., 13., 52.25],
        ),
        case(
            "matmul",
            one(json!({"op": "matmul", "a": "m", "b": "m", "transpose_a": true, "out": "y"})),
            vec![],
            &[3, 3],
            &[17., -4., -21., -4., 4.25, -3., -21., -3., 45.],
        ),
        case(
            "matmul",
            json!([matrix, {"op": "slice", "in": "x", "axis": 0, "end": 2, "out": "v"}, {"op": "matmul", "a": "v", "b": "m", "out": "y"}]),
            vec![],
            &[3],
            &[9., -3., -9.],
        ),
        case(
            "matmul",
            json!([matrix, {"op": "slice", "in": "x", "axis": 0, "end": 3, "out": "v"}, {"op": "matmul", "a": "m", "b": "v", "out": "y"}]),
            vec![],
            &[2],
            &[14., 13.],
        ),
        case("matmul", json!([{"op": "matmul", "a": "x", "b": "x", "out": "y"}]), vec![], &[], &[66.25]),
        case(
            "matmul",
            json!([
                {"op": "reshape", "in": "x", "shape": [3, 1, 2], "out": "a"},
                {"op": "reshape", "in": "x", "shape": [2, 3], "out": "b"},
                {"op": "matmul", "a": "a", "b": "b", "out": "y"},
            ]),
            vec![],
            &[3, 1, 3],
            &[9., -3., -9., 19., -8., -15., -23.5, 2., 37.5],
        ),
        case("add", json!([{"op": "add", "a": "x", "b": 1, "out": "y"}]), vec![], &[6], &[2., -1., 4., -3., 1.5, 7.]),
        case("sub", one(json!({"op": "sub", "a": 1, "b": "m", "out": "y"})), vec![], &[2, 3], &[0., 3., -2., 5., 0.5, -5.]),
        case(
            "mul",
            json!([
                {"op": "reshape", "in": "x", "shape": [6, 1], "out": "column"},
                {"op": "slice", "in": "x", "axis": 0, "start": 1, "end": 3, "out": "row"},
                {"op": "mul", "a": "column", "b": "row", "out": "y"},
            ]),
            vec![],
            &[6, 2],
            &[-2., 3., 4., -6., -6., 9., 8., -12., -1., 1.5, -12., 18.],
        ),
        case("div", json!([{"op": "div", "a": "x", "b": 2, "out": "y"}]), vec![], &[6], &[0.5, -1., 1.5, -2., 0.25, 3.]),
        case("pow", json!([{"op": "pow", "a": "x", "b": 2, "out": "y"}]), vec![], &[6], &[1., 4., 9., 16., 0.25, 36.]),
        case("clamp", json!([{"op": "clamp", "in": "x", "min": -1, "max": 2.5, "out": "y"}]), vec![], &[6], &[1., -1., 2.5, -1., 0.5, 2.5]),
        case("clamp", json!([{"op": "clamp", "in": "x", "max": 0, "out": "y"}]), vec![], &[6], &[0., -2., 0., -4., 0., 0.]),
        case("relu", json!([{"op": "relu", "in": "x", "out": "y"}]), vec![], &[6], &[1., 0., 3., 0., 0.5, 6.]),
        case(
            "sigmoid",
            json!([{"op": "slice", "in": "x", "axis": 0, "end": 2, "out": "v"}, {"op": "sigmoid", "in": "v", "out": "y"}]),
            vec![],
            &[2],
            &[e / (e + 1.), 1. / (1. + e * e)],
        ),
        case(
            "prelu",
            one(json!({"op": "prelu", "in": "m", "slope": "s", "out": "y"})),
            vec![f32s("s", &[3], &[0.5, 0.25, 2.])],
            &[2, 3],
            &[1., -0.5, 3., -2., 0.5, 6.],
        ),
        case(
            "softmax",
            json!([{"op": "iota", "size": 4, "out": "i"}, {"op": "reshape", "in": "i", "shape": [2, 2], "out": "m"},
                   {"op": "softmax", "in": "m", "axis": -2, "out": "y"}]),
            vec![],
            &[2, 2],
            &[1. / (1. + e * e), 1. / (1. + e * e), e * e / (1. + e * e), e * e / (1. + e * e)],
        ),
        case(
            "batch_norm",
            one(
                json!({"op": "batch_norm", "in": "m", "axis": 0, "mean": "mean", "var": "var", "weight": "w", "bias": "b", "eps": 0.5, "out": "y"}),
            ),
            vec![f32s("mean", &[2], &[1., 0.]), f32s("var", &[2], &[3.5, 0.5]), f32s("w", &[2], &[2., 3.]), f32s("b", &[2], &[0., -1.])],
            &[2, 3],
            &[0., -3., 2., -13., 0.5, 17.],
        ),
        case(
            "batch_norm",
            one(json!({"op": "batch_norm", "in": "m", "mean": "mean", "var": "var", "eps": 0, "out": "y"})),
            vec![f32s("mean", &[3], &[0., 0., 1.]), f32s("var", &[3], &[1., 4., 0.25])],
            &[2, 3],
            &[1., -1., 4., -4., 0.25, 10.],
        ),
        case(
            "l2_norm",
            json!([{"op": "const", "tensor": "w", "out": "m"}, {"op": "l2_norm", "in": "m", "axis": 1, "out": "y"}]),
            vec![f32s("w", &[2, 2], &[3., -4., 0., 0.])],
            &[2, 2],
            &[0.6, -0.8, 0., 0.],
        ),
        case("reduce_sum", one(json!({"op": "reduce_sum", "in": "m", "axes": [0], "out": "y"})), vec![], &[3], &[-3., -1.5, 9.]),
        case(
            "reduce_sum",
            one(json!({"op": "reduce_sum", "in": "m", "axes": [-1], "keep": true, "out": "y"})),
            vec![],
            &[2, 1],
            &[2., 2.5],
        ),
        case("reduce_sum", one(json!({"op": "reduce_sum", "in": "m", "out": "y"})), vec![], &[], &[4.5]),
        case(
            "concat",
            one(json!({"op": "concat", "in": ["m", "m"], "axis": 1, "out": "y"})),
            vec![],
            &[2, 6],
            &[1., -2., 3., 1., -2., 3., -4., 0.5, 6., -4., 0.5, 6.],
        ),
        case("slice", json!([{"op": "slice", "in": "x", "axis": 0, "start": 1, "step": 2, "out": "y"}]), vec![], &[3], &[-2., -4., 6.]),
        case(
            "slice",
            one(json!({"op": "slice", "in": "m", "axis": -1, "start": -2, "end": 99, "out": "y"})),
            vec![],
            &[2, 2],
            &[-2., 3., 0.5, 6.],
        ),
        case("reshape", json!([{"op": "reshape", "in": "x", "shape": [3, -1], "out": "y"}]), vec![], &[3, 2], &[1., -2., 3., -4., 0.5, 6.]),
        case(
            "transpose",
            one(json!({"op": "transpose", "in": "m", "perm": [1, 0], "out": "y"})),
            vec![],
            &[3, 2],
            &[1., -4., -2., 0.5, 3., 6.],
        ),
        case(
            "transpose",
            json!([{"op": "iota", "size": 12, "out": "i"}, {"op": "reshape", "in": "i", "shape": [2, 3, 2], "out": "t"},
                   {"op": "transpose", "in": "t", "perm": [2, 0, 1], "out": "y"}]),
            vec![],
            &[2, 2, 3],
            &[0., 2., 4., 6., 8., 10., 1., 3., 5., 7., 9., 11.],
        ),
        case(
            "broadcast",
            json!([{"op": "slice", "in": "x", "axis": 0, "end": 2, "out": "v"}, {"op": "broadcast", "in": "v", "shape": [2, 2], "out": "y"}]),
            vec![],
            &[2, 2],
            &[1., -2., 1., -2.],
        ),
        case(
            "gather_const",
            one(json!({"op": "gather_const", "in": "m", "axis": 1, "indices": [2, 0, 0, -1], "out": "y"})),
            vec![],
            &[2, 4],
            &[3., 1., 1., 3., 6., -4., -4., 6.],
        ),
        case(
            "cast",
            json!([{"op": "mul", "a": "x", "b": 0.75, "out": "v"}, {"op": "cast", "in": "v", "to": "i64", "out": "i"},
                   {"op": "cast", "in": "i", "to": "f32", "out": "y"}]),
            vec![],
            &[6],
            &[0., -1., 2., -3., 0., 4.],
        ),
    ]
}

fn value_y(model: &Model) -> (Vec<usize>, ValueScope) {
    let value = model.graph.values.iter().find(|value| value.name == "y").expect("the value y");
    (value.shape.clone(), value.scope)
}

#[test]
fn ops_compute_what_their_definition_says() {
    let groups = [basic(), elementwise::cases(), axes::cases(), windows::cases(), sequences::cases()];
    let cases: Vec<Case> = groups.into_iter().flatten().collect();
    for case in &cases {
        let draft = Draft::of_op(6, &[&X], case.graph.clone(), case.weights.clone(), case.expected.len());
        let (_folder, model) = draft.load();
        let model = model.unwrap_or_else(|error| panic!("{}: {error}", case.graph));
        assert_eq!(value_y(&model).0, case.shape, "{}", case.graph);
        let scores = score_rows(&model, &model.selftest.inputs).expect("no rule refuses");
        for (found, expected) in scores[0].iter().zip(&case.expected) {
            assert!((found - expected).abs() < 1e-12, "{}: {:?}, expected {:?}", case.graph, scores[0], case.expected);
        }
    }
    let inputs = ["integer", "length", "lookup", "embedding"]; // below
    let missing: Vec<_> = OPS.iter().filter(|op| !inputs.contains(op) && !cases.iter().any(|case| case.op == **op)).collect();
    assert!(missing.is_empty(), "ops without a case: {missing:?}");
}

/// Table of 4 rows: row r is [r + 1, -(r + 1)].
fn bag_model(feature: Value, node: Value, elements: usize) -> Model {
    let mut draft = Draft::of_op(1, &[], json!([node]), vec![], elements);
    draft.weights = vec![f32s("t", &[4, 2], &[1., -1., 2., -2., 3., -3., 4., -4.]), f32s("u", &[5, 1], &[10., 20., 30., 40., 50.])];
    let mut base = json!({"name": "f", "scope": "context"});
    for (key, value) in feature.as_object().expect("an object") {
        base[key.as_str()] = value.clone();
    }
    draft.manifest["tables"] = json!([{"name": "t", "rows": 4, "dim": 2}, {"name": "u", "rows": 5, "dim": 1}]);
    draft.manifest["features"] = json!([{"name": "x", "kind": "dense", "scope": "candidate"}, base]);
    draft.selftest = vec![f32s("in.x", &[1], &[0.0]), i64s("in.f", &[0], &[]), i64s("in.f.lengths", &[1], &[0])];
    let weighted = draft.manifest["features"][1]["weighted"] == json!(true);
    draft.selftest.extend(weighted.then(|| f32s("in.f.weights", &[0], &[])));
    draft.selftest.extend((0..elements).map(|i| f64s(&format!("out.y{i}"), &[1], &[0.0])));
    if draft.manifest["features"][1].get("max_len").is_none() {
        draft.selftest[1] = i64s("in.f", &[1], &[0]);
        draft.selftest.remove(2);
    }
    let (_folder, model) = draft.load();
    model.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn lookups_pool_bags() {
    let bag = |more: Value| {
        let mut feature = json!({"kind": "sparse", "table": "t", "max_len": 3, "padding": 3, "missing": "skip"});
        for (key, value) in more.as_object().expect("an object") {
            feature[key.as_str()] = value.clone();
        }
        feature
    };
    let lookup = json!({"op": "lookup", "feature": "f", "out": "y"});
    // Feature, node, ids, weights, expected. -1 is missing (skipped), row 3 is padding.
    type Case = (Value, Value, &'static [i64], &'static [f32], &'static [f64]);
    let cases: Vec<Case> = vec![
        (bag(json!({})), lookup.clone(), &[], &[], &[0., 0.]),
        (bag(json!({})), lookup.clone(), &[0, 2], &[], &[4., -4.]),
        (bag(json!({})), lookup.clone(), &[0, 3, -1], &[], &[1., -1.]),
        (bag(json!({"pool": "mean"})), lookup.clone(), &[0, 2], &[], &[2., -2.]),
        (bag(json!({"pool": "mean"})), lookup.clone(), &[0, 3, 1], &[], &[1.5, -1.5]),
        (bag(json!({"pool": "mean"})), lookup.clone(), &[3], &[], &[0., 0.]),
        (bag(json!({"pool": "max"})), lookup.clone(), &[0, 2, -1], &[], &[3., -1.]),
        (bag(json!({"pool": "max"})), lookup.clone(), &[], &[], &[0., 0.]),
        (bag(json!({"weighted": true})), lookup.clone(), &[0, 2], &[0.5, -1.], &[-2.5, 2.5]),
        (bag(json!({"weighted": true, "pool": "mean"})), lookup.clone(), &[0, 3, 2], &[0.5, 9., -1.], &[-1.25, 1.25]),
        (bag(json!({"weighted": true, "pool": "none"})), lookup.clone(), &[2, 3, 1], &[0.5, 9., -1.], &[1.5, -1.5, 0., 0., -2., 2.]),
        (bag(json!({"pool": "none"})), lookup.clone(), &[2, 3], &[], &[3., -3., 0., 0., 0., 0.]),
        (bag(json!({})), json!({"op": "lookup", "feature": "f", "pool": "none", "out": "y"}), &[-1, 1], &[], &[0., 0., 2., -2., 0., 0.]),
        (bag(json!({})), json!({"op": "lookup", "feature": "f", "table": "u", "pool": "max", "out": "y"}), &[0, 1], &[], &[20.]),
        (
            bag(json!({})),
            json!({"op": "lookup", "features": ["f", "f"], "tables": ["t", "t"], "out": "y"}),
            &[0, 1],
            &[],
            &[3., -3., 3., -3.],
        ),
        (json!({"kind": "sparse", "table": "t", "width": 1, "out_of_range": {"row": 2}}), lookup.clone(), &[77], &[], &[3., -3.]),
    ];
    for (feature, node, ids, weights, expected) in cases {
        let model = bag_model(feature.clone(), node.clone(), expected.len());
        assert_eq!(value_y(&model).1, ValueScope::Context);
        let mut rows = FeatureRows::new(model.fields());
        rows.push_row(&[Cell::Dense(&[0.0]), Cell::Ids { ids, weights }]).expect("a row");
        let scores = score_rows(&model, &rows).expect("no rule refuses");
        assert_eq!(scores[0], expected, "{feature} {node} {ids:?}");
    }
}

#[test]
fn computed_indices_find_rows() {
    let graph = json!([
        {"op": "cast", "in": "x", "to": "i64", "out": "i"},
        {"op": "embedding", "in": "i", "table": "t", "out": "rows"},
        {"op": "compare", "cmp": "ne", "a": "rows", "b": "rows", "out": "lost"},
        {"op": "where", "cond": "lost", "a": -9, "b": "rows", "out": "y"},
    ]);
    let mut draft = Draft::of_op(3, &[&[2.5, -1.0, 4.0]], graph, vec![f32s("t", &[4, 2], &[1., -1., 2., -2., 3., -3., 4., -4.])], 6);
    draft.manifest["tables"] = json!([{"name": "t", "rows": 4, "dim": 2}]);
    let (_folder, model) = draft.load();
    let model = model.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(score_rows(&model, &model.selftest.inputs).expect("no rule refuses")[0], [3., -3., -9., -9., -9., -9.]);
}

#[test]
fn lengths_and_integers_reach_the_graph() {
    let node = json!({"op": "length", "feature": "f", "out": "i"});
    let cast = json!({"op": "cast", "in": "i", "to": "f32", "out": "y"});
    let cases: [(Value, Value, &[i64], &[f64]); 3] = [
        (json!({"kind": "sparse", "table": "t", "max_len": 3}), node.clone(), &[1, 1], &[2.]),
        (json!({"kind": "sparse", "table": "t", "width": 1}), node, &[1], &[1.]),
        (json!({"kind": "integer", "width": 1, "id_type": "u64"}), json!({"op": "integer", "feature": "f", "out": "i"}), &[-7], &[-7.]),
    ];
    for (feature, node, ids, expected) in cases {
        // `bag_model` takes one node: cast where the other is read.
        let mut draft = Draft::of_op(1, &[&[0.0]], json!([node, cast]), vec![f32s("t", &[4, 2], &[0.; 8])], 1);
        let mut entry = feature.clone();
        entry["name"] = json!("f");
        entry["scope"] = json!("candidate");
        draft.manifest["tables"] = json!([{"name": "t", "rows": 4, "dim": 2}]);
        draft.manifest["features"] = json!([{"name": "x", "kind": "dense", "scope": "candidate"}, entry]);
        draft.selftest.push(i64s("in.f", &[ids.len()], ids));
        if feature.get("max_len").is_some() {
            draft.selftest.push(i64s("in.f.lengths", &[1], &[ids.len() as i64]));
        }
        let (_folder, model) = draft.load();
        let model = model.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(score_rows(&model, &model.selftest.inputs).expect("no rule refuses")[0], expected, "{feature}");
    }
}
