//! The patterns that ranking models are made of, each alone: a graph of the ops that exporters write, from dense inputs to one value a row. What the
//! planner recognises it fuses; what it does not shows here.
//!
//! `cargo bench --bench ops` measures; `cargo test --benches` runs everything once, tiny.

#[path = "../tests/bundle_writer/mod.rs"]
mod bundle_writer;
mod support;

use std::sync::Arc;

use criterion::Criterion;
use gavel::model::Model;
use serde_json::{Value, json};

use bundle_writer::{Draft, Tensor, f32s};
use support::{Random, bench_model};

fn main() {
    let mut criterion = Criterion::default().configure_from_args().without_plots();
    let mut group = criterion.benchmark_group("ops");
    for pattern in patterns() {
        bench_model(&mut group, pattern.name, &pattern.model());
    }
    group.finish();
    criterion.final_summary();
}

/// A graph over one dense feature `x` of `width`; its last value `y` has `elements` elements, which are added up to be the output.
struct Pattern {
    name: &'static str,
    width: usize,
    /// Steps from `x` to `y`.
    graph: Value,
    /// Weights: name and shape.
    tensors: Vec<(&'static str, Vec<usize>)>,
    elements: usize,
}

impl Pattern {
    fn model(&self) -> Arc<Model> {
        let mut random = Random(7);
        let tensors: Vec<Tensor> = self
            .tensors
            .iter()
            .map(|(name, shape)| {
                let scale = 1.0 / (shape[shape.len() - 1] as f32).sqrt();
                // Variances are positive; for the others the offset does not matter.
                let offset = if name.ends_with("var") { 2.0 } else { 0.0 };
                let values: Vec<f32> = (0..shape.iter().product()).map(|_| offset + random.unit() * scale).collect();
                f32s(name, shape, &values)
            })
            .collect();
        let mut graph = self.graph.as_array().cloned().unwrap_or_default();
        if self.elements > 1 {
            graph.push(json!({"op": "reshape", "in": "y", "shape": [self.elements], "out": "y.all"}));
            graph.push(json!({"op": "reduce_sum", "in": "y.all", "keep": true, "out": "y.sum"}));
            graph.push(json!({"op": "reshape", "in": "y.sum", "shape": [1], "out": "y.one"}));
        } else {
            graph.push(json!({"op": "reshape", "in": "y", "shape": [1], "out": "y.one"}));
        }
        let zeros = vec![0.0; self.width];
        let mut draft = Draft::of_op(self.width, &[&zeros], json!([]), tensors, 0);
        let steps = draft.manifest["graph"].as_array_mut().expect("a list");
        steps.truncate(1);
        steps.extend(graph);
        draft.manifest["outputs"] = json!([{"name": "y", "value": "y.one", "kind": "value"}]);
        draft.selftest.push(bundle_writer::f64s("out.y", &[1], &[0.0]));
        let (_folder, model) = draft.load();
        Arc::new(model.unwrap_or_else(|error| panic!("{}: {error}", self.name)))
    }
}

/// Fields and columns of the embeddings.
const FIELDS: usize = 27;
const DIM: usize = 16;
/// Width of what cross layers work on.
const CROSS: usize = 416;

fn patterns() -> Vec<Pattern> {
    let pattern = |name, width, graph, tensors: &[(&'static str, &[usize])], elements| Pattern {
        name,
        width,
        graph,
        tensors: tensors.iter().map(|(name, shape)| (*name, shape.to_vec())).collect(),
        elements,
    };
    let lower: Vec<usize> = (0..FIELDS).flat_map(|i| (0..i).map(move |j| i * FIELDS + j)).collect();
    let upper: Vec<usize> = (0..FIELDS).flat_map(|i| (i + 1..FIELDS).map(move |j| i * FIELDS + j)).collect();
    let dots = |indices: &[usize]| {
        json!([
            {"op": "reshape", "in": "x", "shape": [FIELDS, DIM], "out": "v"},
            {"op": "matmul", "a": "v", "b": "v", "transpose_b": true, "out": "d"},
            {"op": "reshape", "in": "d", "shape": [FIELDS * FIELDS], "out": "f"},
            {"op": "gather_const", "in": "f", "axis": 0, "indices": indices, "out": "y"},
        ])
    };
    vec![
        pattern(
            "mlp 367-512-256-1",
            367,
            json!([
                {"op": "linear", "in": "x", "weight": "a", "bias": "a0", "out": "1"}, {"op": "relu", "in": "1", "out": "2"},
                {"op": "linear", "in": "2", "weight": "b", "bias": "b0", "out": "3"}, {"op": "relu", "in": "3", "out": "4"},
                {"op": "linear", "in": "4", "weight": "c", "bias": "c0", "out": "5"}, {"op": "sigmoid", "in": "5", "out": "y"},
            ]),
            &[("a", &[512, 367]), ("a0", &[512]), ("b", &[256, 512]), ("b0", &[256]), ("c", &[1, 256]), ("c0", &[1])],
            1,
        ),
        pattern(
            "mlp with batch norm 256-256-128",
            256,
            json!([
                {"op": "linear", "in": "x", "weight": "a", "bias": "a0", "out": "1"},
                {"op": "batch_norm", "in": "1", "mean": "am", "var": "a.var", "weight": "aw", "bias": "ab", "out": "2"}, {"op": "relu", "in": "2", "out": "3"},
                {"op": "linear", "in": "3", "weight": "b", "bias": "b0", "out": "4"},
                {"op": "batch_norm", "in": "4", "mean": "bm", "var": "b.var", "weight": "bw", "bias": "bb", "out": "5"}, {"op": "relu", "in": "5", "out": "y"},
            ]),
            &[
                ("a", &[256, 256]),
                ("a0", &[256]),
                ("am", &[256]),
                ("a.var", &[256]),
                ("aw", &[256]),
                ("ab", &[256]),
                ("b", &[128, 256]),
                ("b0", &[128]),
                ("bm", &[128]),
                ("b.var", &[128]),
                ("bw", &[128]),
                ("bb", &[128]),
            ],
            128,
        ),
        pattern("dot interaction, below the diagonal", FIELDS * DIM, dots(&lower), &[], lower.len()),
        pattern("dot interaction, above the diagonal", FIELDS * DIM, dots(&upper), &[], upper.len()),
        pattern(
            "factorisation machine",
            FIELDS * DIM,
            json!([
                {"op": "reshape", "in": "x", "shape": [FIELDS, DIM], "out": "v"},
                {"op": "reduce_sum", "in": "v", "axes": [0], "out": "s"}, {"op": "mul", "a": "s", "b": "s", "out": "s2"},
                {"op": "mul", "a": "v", "b": "v", "out": "v2"}, {"op": "reduce_sum", "in": "v2", "axes": [0], "out": "q"},
                {"op": "sub", "a": "s2", "b": "q", "out": "e"}, {"op": "reduce_sum", "in": "e", "axes": [0], "out": "f"},
                {"op": "mul", "a": "f", "b": 0.5, "out": "y"},
            ]),
            &[],
            1,
        ),
        pattern(
            "cross, vector",
            CROSS,
            json!([
                {"op": "linear", "in": "x", "weight": "w", "out": "d"}, {"op": "mul", "a": "x", "b": "d", "out": "p"},
                {"op": "const", "tensor": "b", "out": "bias"}, {"op": "add", "a": "p", "b": "bias", "out": "q"},
                {"op": "add", "a": "q", "b": "x", "out": "y"},
            ]),
            &[("w", &[1, CROSS]), ("b", &[CROSS])],
            CROSS,
        ),
        pattern(
            "cross, matrix",
            CROSS,
            json!([
                {"op": "linear", "in": "x", "weight": "w", "bias": "b", "out": "d"}, {"op": "mul", "a": "x", "b": "d", "out": "p"},
                {"op": "add", "a": "p", "b": "x", "out": "y"},
            ]),
            &[("w", &[CROSS, CROSS]), ("b", &[CROSS])],
            CROSS,
        ),
        pattern(
            "cross, low rank",
            CROSS,
            json!([
                {"op": "linear", "in": "x", "weight": "v", "out": "l"}, {"op": "linear", "in": "l", "weight": "w", "bias": "b", "out": "d"},
                {"op": "mul", "a": "x", "b": "d", "out": "p"}, {"op": "add", "a": "p", "b": "x", "out": "y"},
            ]),
            &[("v", &[64, CROSS]), ("w", &[CROSS, 64]), ("b", &[CROSS])],
            CROSS,
        ),
        pattern(
            "gated experts, 4 of 64",
            256,
            experts(),
            &[("e0", &[64, 256]), ("e1", &[64, 256]), ("e2", &[64, 256]), ("e3", &[64, 256]), ("g", &[4, 256])],
            64,
        ),
        pattern(
            "attention over 20 of 32",
            21 * 32,
            json!([
                {"op": "slice", "in": "x", "axis": 0, "start": 0, "end": 32, "out": "q.flat"}, {"op": "reshape", "in": "q.flat", "shape": [1, 32], "out": "q"},
                {"op": "slice", "in": "x", "axis": 0, "start": 32, "out": "k.flat"}, {"op": "reshape", "in": "k.flat", "shape": [20, 32], "out": "k"},
                {"op": "matmul", "a": "q", "b": "k", "transpose_b": true, "out": "s"}, {"op": "mul", "a": "s", "b": 0.176, "out": "t"},
                {"op": "softmax", "in": "t", "axis": -1, "out": "a"}, {"op": "matmul", "a": "a", "b": "k", "out": "y"},
            ]),
            &[],
            32,
        ),
        pattern(
            "gru of 64 over 20 of 32",
            20 * 32,
            json!([
                {"op": "reshape", "in": "x", "shape": [20, 32], "out": "s"},
                {"op": "gru", "in": "s", "w_ih": "wi", "w_hh": "wh", "b_ih": "bi", "b_hh": "bh", "last": true, "out": "y"},
            ]),
            &[("wi", &[192, 32]), ("wh", &[192, 64]), ("bi", &[192]), ("bh", &[192])],
            64,
        ),
        pattern(
            "layer and dice over 20 of 64",
            20 * 32,
            json!([
                {"op": "reshape", "in": "x", "shape": [20, 32], "out": "s"}, {"op": "linear", "in": "s", "weight": "w", "bias": "b", "out": "l"},
                {"op": "transpose", "in": "l", "perm": [1, 0], "out": "t"},
                {"op": "batch_norm", "in": "t", "axis": 0, "mean": "m", "var": "m.var", "out": "n"}, {"op": "sigmoid", "in": "n", "out": "p"},
                {"op": "mul", "a": "p", "b": "t", "out": "kept"}, {"op": "sub", "a": 1.0, "b": "p", "out": "q"},
                {"op": "mul", "a": "q", "b": "t", "out": "rest"}, {"op": "mul", "a": "rest", "b": 0.25, "out": "less"},
                {"op": "add", "a": "kept", "b": "less", "out": "d"}, {"op": "transpose", "in": "d", "perm": [1, 0], "out": "y"},
            ]),
            &[("w", &[64, 32]), ("b", &[64]), ("m", &[64]), ("m.var", &[64])],
            20 * 64,
        ),
    ]
}

/// Four experts of 64 under a softmax gate, as MMoE has them.
fn experts() -> Value {
    let mut steps = Vec::new();
    let mut rows = Vec::new();
    for i in 0..4 {
        steps.push(json!({"op": "linear", "in": "x", "weight": format!("e{i}"), "out": format!("h{i}")}));
        steps.push(json!({"op": "relu", "in": format!("h{i}"), "out": format!("r{i}")}));
        steps.push(json!({"op": "reshape", "in": format!("r{i}"), "shape": [1, 64], "out": format!("m{i}")}));
        rows.push(format!("m{i}"));
    }
    steps.push(json!({"op": "concat", "in": rows, "axis": 0, "out": "m"}));
    steps.push(json!({"op": "linear", "in": "x", "weight": "g", "out": "gate"}));
    steps.push(json!({"op": "softmax", "in": "gate", "axis": -1, "out": "p"}));
    steps.push(json!({"op": "reshape", "in": "p", "shape": [1, 4], "out": "p.row"}));
    steps.push(json!({"op": "matmul", "a": "p.row", "b": "m", "out": "y"}));
    Value::Array(steps)
}
