//! The patterns that ranking models are made of: graphs of the ops that exporters write, of one value `x` to one output a row.

use gavel::model::Model;
use serde_json::{Value, json};

use crate::Random;
use crate::bundle_writer::{Draft, Tensor, f32s, f64s, i64s};

/// A graph over a value `x` of `width`; its last value `y` has `elements` elements, which are added up to be the output.
#[derive(Clone, Debug)]
pub struct Pattern {
    pub name: &'static str,
    pub width: usize,
    /// Steps from `x` to `y`.
    graph: Value,
    /// Weights: name and shape.
    tensors: Vec<(&'static str, Vec<usize>)>,
    elements: usize,
}

/// Where `x` comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code)] // each bench has its own
pub enum Given {
    /// The request: a dense feature.
    Dense,
    /// A table of `rows` rows of `dim` elements: `x` is a sequence of as many as fill it.
    Rows { dim: usize, rows: usize },
}

impl Pattern {
    /// The model with random weights.
    pub fn model(&self, given: Given) -> Model {
        let mut random = Random(7);
        let mut tensors: Vec<Tensor> = self
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
        if self.graph.as_array().is_some_and(|steps| steps.iter().any(|step| step["op"] == "trees")) {
            tensors.extend(forest(self.width, &mut random));
        }
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
        if let Given::Rows { dim, .. } = given {
            let lookup = json!({"op": "lookup", "feature": "x", "pool": "none", "out": "x.rows"});
            *steps = vec![lookup, json!({"op": "reshape", "in": "x.rows", "shape": [self.width], "out": "x"})];
            assert_eq!(self.width % dim, 0, "{}: whole rows", self.name);
        }
        steps.extend(graph);
        draft.manifest["outputs"] = json!([{"name": "y", "value": "y.one", "kind": "value"}]);
        draft.selftest.push(f64s("out.y", &[1], &[0.0]));
        if let Given::Rows { dim, rows } = given {
            let ids = self.width / dim;
            draft.manifest["tables"] = json!([{"name": "rows", "rows": rows, "dim": dim}]);
            draft.manifest["features"] =
                json!([{"name": "x", "kind": "sparse", "scope": "candidate", "width": ids, "table": "rows", "pool": "none"}]);
            let values: Vec<f32> = (0..rows * dim).map(|_| random.unit()).collect();
            draft.weights.push(f32s("rows", &[rows, dim], &values));
            draft.selftest[0] = i64s("in.x", &[1, ids], &vec![0; ids]);
        }
        let (_folder, model) = draft.load();
        model.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// Trees of the boosted ensemble, and how deep each is.
const TREES: usize = 200;
const DEPTH: u32 = 8;

/// Complete trees over `features` features, as an exporter writes them: children behind their parents, a number a leaf.
fn forest(features: usize, random: &mut Random) -> Vec<Tensor> {
    let (inner, leaves) = ((1_usize << DEPTH) - 1, 1_usize << DEPTH);
    let nodes = inner + leaves;
    let (mut feature, mut mode, mut yes, mut no, mut threshold) = (vec![], vec![], vec![], vec![], vec![]);
    for tree in 0..TREES {
        let at = |node: usize| (tree * nodes + node) as i64;
        for node in 0..nodes {
            let is_leaf = node >= inner;
            feature.push(if is_leaf { (tree * leaves + node - inner) as i64 } else { i64::from(random.next()) % features as i64 });
            mode.push(if is_leaf { 0 } else { 2 });
            yes.push(if is_leaf { 0 } else { at(2 * node + 1) });
            no.push(if is_leaf { 0 } else { at(2 * node + 2) });
            threshold.push(random.unit());
        }
    }
    let roots: Vec<i64> = (0..TREES).map(|tree| (tree * nodes) as i64).collect();
    let numbers: Vec<f32> = (0..TREES * leaves).map(|_| random.unit()).collect();
    let whole = |name: &str, values: &[i64]| i64s(name, &[values.len()], values);
    vec![
        whole("feature", &feature),
        whole("mode", &mode),
        whole("yes", &yes),
        whole("no", &no),
        f32s("threshold", &[threshold.len()], &threshold),
        whole("roots", &roots),
        f32s("leaves", &[numbers.len(), 1], &numbers),
    ]
}

/// Fields and columns of the embeddings.
const FIELDS: usize = 27;
const DIM: usize = 16;
/// Width of what cross layers work on.
const CROSS: usize = 416;

/// All of them.
pub fn patterns() -> Vec<Pattern> {
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
        pattern(
            "self-attention, 4 heads of 16 over 21",
            21 * 64,
            json!([
                {"op": "reshape", "in": "x", "shape": [21, 64], "out": "s"}, {"op": "linear", "in": "s", "weight": "w", "bias": "b", "out": "qkv"},
                {"op": "reshape", "in": "qkv", "shape": [21, 3, 4, 16], "out": "parts"}, {"op": "transpose", "in": "parts", "perm": [1, 2, 0, 3], "out": "heads"},
                {"op": "slice", "in": "heads", "axis": 0, "start": 0, "end": 1, "out": "q1"}, {"op": "reshape", "in": "q1", "shape": [4, 21, 16], "out": "q"},
                {"op": "slice", "in": "heads", "axis": 0, "start": 1, "end": 2, "out": "k1"}, {"op": "reshape", "in": "k1", "shape": [4, 21, 16], "out": "k"},
                {"op": "slice", "in": "heads", "axis": 0, "start": 2, "end": 3, "out": "v1"}, {"op": "reshape", "in": "v1", "shape": [4, 21, 16], "out": "v"},
                {"op": "sdpa", "q": "q", "k": "k", "v": "v", "out": "y"},
            ]),
            &[("w", &[192, 64]), ("b", &[192])],
            21 * 64,
        ),
        pattern(
            "boosted trees, 200 of depth 8",
            100,
            json!([{"op": "trees", "in": "x", "feature": "feature", "mode": "mode", "yes": "yes", "no": "no", "threshold": "threshold",
                    "roots": "roots", "leaves": "leaves", "out": "y"}]),
            &[],
            1,
        ),
        pattern(
            "compressed interaction, 20 fields of 16, 64 maps",
            20 * 16,
            json!([
                {"op": "reshape", "in": "x", "shape": [20, 1, 16], "out": "a"}, {"op": "reshape", "in": "x", "shape": [1, 20, 16], "out": "b"},
                {"op": "mul", "a": "a", "b": "b", "out": "p"}, {"op": "reshape", "in": "p", "shape": [400, 16], "out": "q"},
                {"op": "conv", "in": "q", "weight": "w", "bias": "w0", "out": "c"}, {"op": "relu", "in": "c", "out": "y"},
            ]),
            &[("w", &[64, 400, 1]), ("w0", &[64])],
            64 * 16,
        ),
        pattern(
            "co-action, 20 of 16 through 8 and 4",
            20 * 16 + 16 * 8 + 8 * 4,
            json!([
                {"op": "slice", "in": "x", "axis": 0, "start": 0, "end": 320, "out": "h.flat"}, {"op": "reshape", "in": "h.flat", "shape": [20, 16], "out": "h"},
                {"op": "slice", "in": "x", "axis": 0, "start": 320, "end": 448, "out": "a.flat"}, {"op": "reshape", "in": "a.flat", "shape": [16, 8], "out": "a"},
                {"op": "slice", "in": "x", "axis": 0, "start": 448, "out": "b.flat"}, {"op": "reshape", "in": "b.flat", "shape": [8, 4], "out": "b"},
                {"op": "matmul", "a": "h", "b": "a", "out": "1"}, {"op": "tanh", "in": "1", "out": "2"},
                {"op": "matmul", "a": "2", "b": "b", "out": "3"}, {"op": "tanh", "in": "3", "out": "y"},
            ]),
            &[],
            20 * 4,
        ),
        pattern(
            "convolution of 3 over 50 of 32",
            50 * 32,
            json!([
                {"op": "reshape", "in": "x", "shape": [50, 32], "out": "s"}, {"op": "transpose", "in": "s", "perm": [1, 0], "out": "t"},
                {"op": "conv", "in": "t", "weight": "w", "bias": "w0", "pads": [1, 1], "out": "c"}, {"op": "relu", "in": "c", "out": "r"},
                {"op": "max_pool", "in": "r", "kernel": [2], "strides": [2], "out": "y"},
            ]),
            &[("w", &[32, 32, 3]), ("w0", &[32])],
            25 * 32,
        ),
        pattern(
            "layer norm and softmax over 20 of 64",
            20 * 64,
            json!([
                {"op": "reshape", "in": "x", "shape": [20, 64], "out": "s"}, {"op": "layer_norm", "in": "s", "weight": "g", "bias": "b", "out": "n"},
                {"op": "softmax", "in": "n", "axis": -1, "out": "y"},
            ]),
            &[("g", &[64]), ("b", &[64])],
            20 * 64,
        ),
        pattern(
            "running sums and the largest of 50 of 32",
            50 * 32,
            json!([
                {"op": "reshape", "in": "x", "shape": [50, 32], "out": "s"}, {"op": "cumsum", "in": "s", "axis": 0, "out": "c"},
                {"op": "reduce_max", "in": "c", "axes": [0], "out": "y"},
            ]),
            &[],
            32,
        ),
        pattern(
            "the best 5 of 50 of 32",
            51 * 32,
            json!([
                {"op": "slice", "in": "x", "axis": 0, "start": 0, "end": 32, "out": "q.flat"}, {"op": "reshape", "in": "q.flat", "shape": [32, 1], "out": "q"},
                {"op": "slice", "in": "x", "axis": 0, "start": 32, "out": "k.flat"}, {"op": "reshape", "in": "k.flat", "shape": [50, 32], "out": "k"},
                {"op": "matmul", "a": "k", "b": "q", "out": "s"}, {"op": "reshape", "in": "s", "shape": [50], "out": "scores"},
                {"op": "argtopk", "in": "scores", "axis": 0, "k": 5, "out": "best"}, {"op": "gather", "in": "k", "index": "best", "axis": 0, "out": "y"},
            ]),
            &[],
            5 * 32,
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
