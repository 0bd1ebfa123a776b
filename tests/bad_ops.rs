//! Graph entries that must be refused, op by op, each with its exact message.

mod bundle_writer;

use bundle_writer::{Draft, Tensor, f32s, i64s};
use serde_json::{Value, json};

/// `x` [6] f32, `m` [2, 3] f32, `i` [6] i64, `j` [2, 3] i64, then the entry: graph[5].
fn message(entry: &Value, weights: &[Tensor]) -> String {
    let graph = json!([
        {"op": "reshape", "in": "x", "shape": [2, 3], "out": "m"},
        {"op": "cast", "in": "x", "to": "i64", "out": "i"},
        {"op": "reshape", "in": "i", "shape": [2, 3], "out": "j"},
        {"op": "reduce_max", "in": "i", "out": "n"},
        entry,
    ]);
    let all = [
        f32s("w2", &[2, 2], &[1.0; 4]),
        f32s("w3", &[2, 3], &[1.0; 6]),
        f32s("w13", &[1, 3], &[1.0; 3]),
        f32s("conv", &[4, 2, 2], &[1.0; 16]),
        f32s("v2", &[2], &[1.0; 2]),
        f32s("v3", &[3], &[1.0; 3]),
        f32s("v9", &[9], &[1.0; 9]),
        f32s("w93", &[9, 3], &[1.0; 27]),
        i64s("k3", &[3], &[0; 3]),
    ];
    let mut draft = Draft::of_op(6, &[&[1.0, -2.0, 3.0, -4.0, 0.5, 6.0]], graph, [&all[..], weights].concat(), 1);
    draft.manifest["tables"] = json!([]);
    let (folder, model) = draft.load();
    match model {
        Ok(_) => "loaded".into(),
        Err(error) => error.to_string().replace(&format!("{}/manifest.json: ", folder.path().display()), ""),
    }
}

fn check(cases: &[(Value, &str)], weights: &[Tensor]) {
    let mut wrong = Vec::new();
    for (entry, expected) in cases {
        let mut entry = entry.clone();
        entry["out"] = entry.get("out").cloned().unwrap_or(json!("y"));
        let found = message(&entry, weights);
        if found != *expected {
            wrong.push(format!("{entry}\n    {found}\n"));
        }
    }
    assert!(wrong.is_empty(), "messages are now\n{}", wrong.join("\n"));
}

#[test]
fn elementwise() {
    check(
        &[
            (
                json!({"op": "exp", "in": "i"}),
                "graph[5].in: value \"i\" is i64; expected an f32 value. Put {\"op\": \"cast\", \"to\": \"f32\"} before it",
            ),
            (json!({"op": "tanh", "in": "x", "axis": 0}), "graph[5]: unknown key \"axis\"; expected only op, out, in. Remove the key"),
            (
                json!({"op": "add", "a": "x", "b": "i"}),
                "graph[5]: f32 and i64; expected two values of one type. Put {\"op\": \"cast\"} before one of them",
            ),
            (
                json!({"op": "add", "a": "i", "b": 0.5}),
                "graph[5].b: 0.5; expected an integer within 2^53, where values are i64. Correct the value",
            ),
            (
                json!({"op": "mul", "a": "i", "b": "inf"}),
                "graph[5].b: \"inf\"; expected an integer within 2^53, where values are i64. Correct the value",
            ),
            (
                json!({"op": "div", "a": "i", "b": 2}),
                "graph[5].a: value \"i\" is i64; expected an f32 value. Put {\"op\": \"cast\", \"to\": \"f32\"} before it",
            ),
            (json!({"op": "min", "a": 1, "b": 2}), "graph[5]: two numbers; expected at least one value. Compute it yourself, or use fill"),
            (
                json!({"op": "max", "a": "x", "b": "m"}),
                "graph[5]: shapes [6] and [2, 3]; expected shapes that broadcast: from the last axis on, equal sizes or 1. Reshape one \
                 of the two",
            ),
            (json!({"op": "mod", "a": "x", "b": true}), "graph[5].b: true; expected the name of a value, or a number. Correct the value"),
            (json!({"op": "compare", "a": "x", "b": 0}), "graph[5]: no key \"cmp\"; expected one. docs/bundle.md lists the keys"),
            (
                json!({"op": "compare", "a": "x", "b": 0, "cmp": "<"}),
                "graph[5].cmp: \"<\"; expected one of \"lt\", \"le\", \"gt\", \"ge\", \"eq\", \"ne\". Choose one of them",
            ),
            (
                json!({"op": "compare", "a": "x", "b": "i", "cmp": "lt"}),
                "graph[5]: f32 and i64; expected two values of one type. Put {\"op\": \"cast\"} before one of them",
            ),
            (
                json!({"op": "compare", "a": "x", "b": 1e300, "cmp": "lt"}),
                "graph[5].b: 1e300; expected a number that f32 holds. Correct the value",
            ),
            (
                json!({"op": "and", "a": "x", "b": "i"}),
                "graph[5].a: value \"x\" is f32; expected an i64 value. Put {\"op\": \"cast\", \"to\": \"i64\"} before it, or compare \
                 it",
            ),
            (json!({"op": "or", "a": "i", "b": 1}), "graph[5].b: 1; expected a string. Correct the value"),
            (
                json!({"op": "xor", "a": "i", "b": "j"}),
                "graph[5]: shapes [6] and [2, 3]; expected shapes that broadcast: from the last axis on, equal sizes or 1. Reshape one \
                 of the two",
            ),
            (
                json!({"op": "not", "in": "x"}),
                "graph[5].in: value \"x\" is f32; expected an i64 value. Put {\"op\": \"cast\", \"to\": \"i64\"} before it, or compare \
                 it",
            ),
            (
                json!({"op": "where", "cond": "x", "a": 1, "b": 0}),
                "graph[5].cond: value \"x\" is f32; expected an i64 value. Put {\"op\": \"cast\", \"to\": \"i64\"} before it, or \
                 compare it",
            ),
            (
                json!({"op": "where", "cond": "i", "a": "x", "b": "i"}),
                "graph[5]: f32 and i64; expected two values of one type. Put {\"op\": \"cast\"} before one of them",
            ),
            (
                json!({"op": "where", "cond": "i", "a": "m", "b": 0}),
                "graph[5]: shapes [6], [2, 3] and []; expected shapes that broadcast: from the last axis on, equal sizes or 1. Reshape \
                 them",
            ),
            (
                json!({"op": "clamp", "in": "x", "min": "-infinity"}),
                "graph[5].min: \"-infinity\"; expected a number, \"inf\" or \"-inf\". Correct the value",
            ),
            (
                json!({"op": "fill", "value": "inf", "dtype": "i64"}),
                "graph[5].value: \"inf\"; expected an integer within 2^53, where values are i64. Correct the value",
            ),
            (
                json!({"op": "relu", "in": "x", "out": "-inf"}),
                "graph[5].out: a value \"-inf\"; expected a name that is no number. Choose another name",
            ),
        ],
        &[],
    );
}

#[test]
fn axes() {
    check(
        &[
            (
                json!({"op": "reduce_mean", "in": "i"}),
                "graph[5].in: value \"i\" is i64; expected an f32 value. Put {\"op\": \"cast\", \"to\": \"f32\"} before it",
            ),
            (
                json!({"op": "reduce_max", "in": "m", "axes": [2]}),
                "graph[5].axes[0]: axis 2; expected an axis of shape [2, 3]. Shapes are per row, without the batch",
            ),
            (json!({"op": "reduce_min", "in": "m", "axes": [0, -2]}), "graph[5]: an axis twice; expected each axis once. Remove one"),
            (json!({"op": "reduce_prod", "in": "m", "keep": 1}), "graph[5].keep: 1; expected true or false. Correct the value"),
            (json!({"op": "cumsum", "in": "m"}), "graph[5]: no key \"axis\"; expected one. docs/bundle.md lists the keys"),
            (
                json!({"op": "cumsum", "in": "m", "axis": 2}),
                "graph[5].axis: axis 2; expected an axis of shape [2, 3]. Shapes are per row, without the batch",
            ),
            (
                json!({"op": "cumsum", "in": "m", "axis": 0, "reverse": "yes"}),
                "graph[5].reverse: \"yes\"; expected true or false. Correct the value",
            ),
            (
                json!({"op": "pad", "in": "m", "pads": [1, 1]}),
                "graph[5].pads: a list of 2; expected 4 numbers: the begins, then the ends. Give all axes",
            ),
            (
                json!({"op": "pad", "in": "m", "pads": [0, -1, 0, 0]}),
                "graph[5].pads[1]: -1; expected an integer from 0 to 1048576. Correct the value",
            ),
            (
                json!({"op": "pad", "in": "j", "pads": [0, 1, 0, 0], "value": 0.5}),
                "graph[5].value: 0.5; expected an integer within 2^53, where values are i64. Correct the value",
            ),
            (
                json!({"op": "pad", "in": "m", "pads": [1048576, 0, 0, 0]}),
                "graph[5]: value \"y\" of shape [1048578, 3]; expected 1 to 1048576 elements per row. Shapes are per row, without the \
                 batch",
            ),
            (
                json!({"op": "gather", "in": "m", "index": "x", "axis": 0}),
                "graph[5].index: value \"x\" is f32; expected an i64 value. Put {\"op\": \"cast\", \"to\": \"i64\"} before it, or \
                 compare it",
            ),
            (
                json!({"op": "gather", "in": "m", "index": "i", "axis": 2}),
                "graph[5].axis: axis 2; expected an axis of shape [2, 3]. Shapes are per row, without the batch",
            ),
            (
                json!({"op": "take_along", "in": "m", "index": "i", "axis": 0}),
                "graph[5].index: value \"i\" of shape [6]; expected the shape [2, 3] but for axis 0, as the value \"m\". Broadcast or \
                 slice one of the two",
            ),
            (
                json!({"op": "take_along", "in": "x", "index": "j", "axis": 0}),
                "graph[5].index: value \"j\" of shape [2, 3]; expected the shape [6] but for axis 0, as the value \"x\". Broadcast or \
                 slice one of the two",
            ),
            (
                json!({"op": "embedding", "in": "i", "table": "t"}),
                "graph[5].table: no table \"t\"; expected the name of an entry of tables. Check the spelling",
            ),
            (
                json!({"op": "embedding", "in": "x", "table": "t"}),
                "graph[5].in: value \"x\" is f32; expected an i64 value. Put {\"op\": \"cast\", \"to\": \"i64\"} before it, or compare \
                 it",
            ),
            (json!({"op": "one_hot", "in": "i"}), "graph[5]: no key \"depth\"; expected one. docs/bundle.md lists the keys"),
            (
                json!({"op": "one_hot", "in": "x", "depth": 3}),
                "graph[5].in: value \"x\" is f32; expected an i64 value. Put {\"op\": \"cast\", \"to\": \"i64\"} before it, or compare \
                 it",
            ),
            (
                json!({"op": "one_hot", "in": "i", "depth": 0}),
                "graph[5].depth: 0; expected an integer from 1 to 1048576. Correct the value",
            ),
            (json!({"op": "topk", "in": "m", "axis": 0, "k": 3}), "graph[5].k: 3; expected an integer from 1 to 2. Correct the value"),
            (
                json!({"op": "topk", "in": "i", "axis": 0, "k": 1}),
                "graph[5].in: value \"i\" is i64; expected an f32 value. Put {\"op\": \"cast\", \"to\": \"f32\"} before it",
            ),
            (json!({"op": "argtopk", "in": "m", "axis": 1, "k": 0}), "graph[5].k: 0; expected an integer from 1 to 3. Correct the value"),
            (json!({"op": "layer_norm", "in": "m", "axes": 3}), "graph[5].axes: 3; expected an integer from 1 to 2. Correct the value"),
            (
                json!({"op": "layer_norm", "in": "m", "weight": "v2"}),
                "graph[5].weight: tensor \"v2\" has shape [2]; expected [3]. Check the layer that it belongs to",
            ),
            (
                json!({"op": "layer_norm", "in": "m", "axes": 2, "bias": "v3"}),
                "graph[5].bias: tensor \"v3\" has shape [3]; expected [2, 3]. Check the layer that it belongs to",
            ),
            (json!({"op": "layer_norm", "in": "m", "eps": -1}), "graph[5].eps: -1; expected a number from 0 to 1. Correct the value"),
        ],
        &[],
    );
}

#[test]
fn windows() {
    check(
        &[
            (
                json!({"op": "conv", "in": "m", "weight": "w2"}),
                "graph[5].weight: tensor \"w2\" has shape [2, 2]; expected [O, C / groups, k..] with 1 to 3 axes of the window. Reshape \
                 the tensor before saving it",
            ),
            (
                json!({"op": "conv", "in": "x", "weight": "conv"}),
                "graph[5].weight: tensor \"conv\" has shape [4, 2, 2], groups 1; expected [O, C / groups, ..] with O a multiple of \
                 groups, since the input \"x\" has shape [6]. Shapes are per row, without the batch: [.., C, s..]",
            ),
            (
                json!({"op": "conv", "in": "m", "weight": "conv", "groups": 2}),
                "graph[5].weight: tensor \"conv\" has shape [4, 2, 2], groups 2; expected [O, C / groups, ..] with O a multiple of \
                 groups, since the input \"m\" has shape [2, 3]. Shapes are per row, without the batch: [.., C, s..]",
            ),
            (
                json!({"op": "conv", "in": "m", "weight": "conv", "bias": "v2"}),
                "graph[5].bias: tensor \"v2\" has shape [2]; expected [4]. Check the layer that it belongs to",
            ),
            (
                json!({"op": "conv", "in": "m", "weight": "conv", "strides": [1, 1]}),
                "graph[5].strides: a list of 2; expected a list of 1, one per axis of the window. Correct the value",
            ),
            (
                json!({"op": "conv", "in": "m", "weight": "conv", "strides": [0]}),
                "graph[5].strides[0]: 0; expected an integer from 1 to 1048576. Correct the value",
            ),
            (
                json!({"op": "conv", "in": "m", "weight": "conv", "pads": [1]}),
                "graph[5].pads: a list of 1; expected 2 numbers: the begins, then the ends. Give all axes",
            ),
            (
                json!({"op": "conv", "in": "m", "weight": "conv", "dilations": [3]}),
                "graph[5].in: value \"m\" of shape [2, 3]; expected last axes that a window of [2] fits in, padding and dilation \
                 counted. Shapes are per row, without the batch: [.., C, s..]",
            ),
            (
                json!({"op": "conv", "in": "j", "weight": "conv"}),
                "graph[5].in: value \"j\" is i64; expected an f32 value. Put {\"op\": \"cast\", \"to\": \"f32\"} before it",
            ),
            (
                json!({"op": "max_pool", "in": "m", "kernel": []}),
                "graph[5].kernel: a window of 0 axes over shape [2, 3]; expected 1 to 3 axes, behind an axis of channels. Reshape the \
                 input: [.., C, s..]",
            ),
            (
                json!({"op": "max_pool", "in": "m", "kernel": [2, 2]}),
                "graph[5].kernel: a window of 2 axes over shape [2, 3]; expected 1 to 3 axes, behind an axis of channels. Reshape the \
                 input: [.., C, s..]",
            ),
            (
                json!({"op": "max_pool", "in": "m", "kernel": [4]}),
                "graph[5].in: value \"m\" of shape [2, 3]; expected last axes that a window of [4] fits in, padding and dilation \
                 counted. Shapes are per row, without the batch: [.., C, s..]",
            ),
            (
                json!({"op": "max_pool", "in": "m", "kernel": [2], "pads": [2, 0]}),
                "graph[5]: position 0 of the window lies in the padding of axis 1; expected an element under each position of the \
                 window. Pad less than the window's size",
            ),
            (
                json!({"op": "avg_pool", "in": "m", "kernel": [2], "dilations": [1]}),
                "graph[5]: unknown key \"dilations\"; expected only op, out, count_include_pad, in, kernel, strides, pads. Remove the \
                 key",
            ),
            (
                json!({"op": "avg_pool", "in": "m", "kernel": [1, 1, 1, 1]}),
                "graph[5].kernel: a list of 4; expected at most 3 items. Correct the value",
            ),
        ],
        &[],
    );
}

#[test]
fn sequences() {
    check(
        &[
            (
                json!({"op": "sdpa", "q": "x", "k": "m", "v": "m"}),
                "graph[5]: q [6], k [2, 3], v [2, 3]; expected q [.., L, E], k [.., S, E], v [.., S, V], leading axes that broadcast. \
                 Give each at least two axes",
            ),
            (json!({"op": "sdpa", "q": "m", "k": "m"}), "graph[5]: no key \"v\"; expected one. docs/bundle.md lists the keys"),
            (
                json!({"op": "sdpa", "q": "j", "k": "m", "v": "m"}),
                "graph[5].q: value \"j\" is i64; expected an f32 value. Put {\"op\": \"cast\", \"to\": \"f32\"} before it",
            ),
            (
                json!({"op": "sdpa", "q": "m", "k": "m", "v": "m", "mask": "i"}),
                "graph[5].mask: value \"i\" of shape [6]; expected one that broadcasts to [.., L, S] = [2, 2]. Reshape it",
            ),
            (
                json!({"op": "sdpa", "q": "m", "k": "m", "v": "m", "scale": "inf"}),
                "graph[5].scale: \"inf\"; expected a number. Correct the value",
            ),
            (
                json!({"op": "gru", "in": "x", "w_ih": "w93", "w_hh": "w93"}),
                "graph[5].in: value \"x\" of shape [6]; expected a sequence [T, I]. Shapes are per row, without the batch",
            ),
            (
                json!({"op": "gru", "in": "m", "w_ih": "w93", "w_hh": "w13"}),
                "graph[5].w_hh: tensor \"w13\" has shape [1, 3]; expected [3 * H, H]. Three gates, one below the other: r, z, n",
            ),
            (
                json!({"op": "gru", "in": "m", "w_ih": "w3", "w_hh": "w93"}),
                "graph[5].w_ih: tensor \"w3\" has shape [2, 3]; expected [9, 3]. Check the layer that it belongs to",
            ),
            (
                json!({"op": "gru", "in": "m", "w_ih": "w93", "w_hh": "w93", "b_ih": "v3"}),
                "graph[5].b_ih: tensor \"v3\" has shape [3]; expected [9]. Check the layer that it belongs to",
            ),
            (
                json!({"op": "gru", "in": "m", "w_ih": "w93", "w_hh": "w93", "h0": "x"}),
                "graph[5].h0: value \"x\" of shape [6]; expected shape [3]. Reshape it",
            ),
            (
                json!({"op": "gru", "in": "m", "w_ih": "w93", "w_hh": "w93", "length": "i"}),
                "graph[5].length: value \"i\" of shape [6]; expected shape []. Reshape it",
            ),
            (
                json!({"op": "gru", "in": "m", "w_ih": "w93", "w_hh": "w93", "length": "x"}),
                "graph[5].length: value \"x\" is f32; expected an i64 value. Put {\"op\": \"cast\", \"to\": \"i64\"} before it, or \
                 compare it",
            ),
            (
                json!({"op": "gru", "in": "m", "w_ih": "w93", "w_hh": "w93", "kind": "lstm"}),
                "graph[5].kind: \"lstm\"; expected one of \"gru\", \"agru\", \"augru\". Choose one of them",
            ),
            (
                json!({"op": "gru", "in": "m", "w_ih": "w93", "w_hh": "w93", "kind": "augru"}),
                "graph[5]: no attention; expected attention with the kinds \"agru\" and \"augru\", and with no other. Correct kind, or \
                 attention",
            ),
            (
                json!({"op": "gru", "in": "m", "w_ih": "w93", "w_hh": "w93", "attention": "x"}),
                "graph[5].attention: value \"x\" of shape [6]; expected shape [2]. Reshape it",
            ),
        ],
        &[],
    );
}

#[test]
fn trees() {
    // A root that looks at feature 0, and its two leaves.
    let good = |changed: &str, values: &[i64]| -> Vec<Tensor> {
        [("f", [0, 0, 1]), ("m", [1, 0, 0]), ("a", [1, 0, 0]), ("b", [2, 0, 0]), ("my", [1, 0, 0])]
            .into_iter()
            .map(|(name, usual)| i64s(name, &[3], if name == changed { values } else { &usual }))
            .chain([
                i64s("r", &[1], if changed == "r" { values } else { &[0] }),
                f32s("t", &[3], &[0.5, 0.0, 0.0]),
                f32s("l", &[2, 1], &[1.0, 2.0]),
            ])
            .collect()
    };
    let entry = |key: &str, tensor: &str| {
        let mut entry = json!({"op": "trees", "in": "x", "feature": "f", "threshold": "t", "mode": "m", "yes": "a", "no": "b",
                               "missing_yes": "my", "roots": "r", "leaves": "l"});
        entry[key] = json!(tensor);
        entry
    };
    check(&[(entry("op", "trees"), "loaded")], &good("", &[]));
    check(
        &[
            (entry("in", "m"), "graph[5].in: value \"m\" of shape [2, 3]; expected features side by side: [F]. Concat or reshape them"),
            (entry("in", "i"), "graph[5].in: value \"i\" is i64; expected an f32 value. Put {\"op\": \"cast\", \"to\": \"f32\"} before it"),
            (entry("mode", "t"), "graph[5].mode: tensor \"t\" is F32; expected I64. Convert the tensor before saving it"),
            (entry("mode", "k33"), "graph[5].mode: tensor \"k33\" has shape [3, 3]; expected [nodes]. Export the trees again"),
            (entry("threshold", "v2"), "graph[5].threshold: tensor \"v2\" has shape [2]; expected [3]. Check the layer that it belongs to"),
            (entry("yes", "r"), "graph[5].yes: tensor \"r\" has shape [1]; expected [3], one per node as in mode. Export the trees again"),
            (
                entry("missing_yes", "r"),
                "graph[5].missing_yes: tensor \"r\" has shape [1]; expected [3], one per node as in mode. Export the trees again",
            ),
            (entry("roots", "k33"), "graph[5].roots: tensor \"k33\" has shape [3, 3]; expected [trees]. Export the trees again"),
            (entry("leaves", "t"), "graph[5].leaves: tensor \"t\" has shape [3]; expected [leaves, targets]. Export the trees again"),
        ],
        &[&good("", &[])[..], &[i64s("k33", &[3, 3], &[0; 9])]].concat(),
    );
    for (changed, values, expected) in [
        ("m", [1, 0, 7], "graph[5].mode: element 2 of tensor \"m\" is 7; expected a number from 0 to 6. Export the trees again"),
        ("f", [6, 0, 1], "graph[5].feature: element 0 of tensor \"f\" is 6; expected one of the 6 features. Export the trees again"),
        (
            "f",
            [0, 0, 2],
            "graph[5].feature: element 2 of tensor \"f\" is 2; expected a row of the 2 of leaves, at a leaf. Export the trees again",
        ),
        (
            "a",
            [0, 0, 0],
            "graph[5].yes: element 0 of tensor \"a\" is 0; expected a node behind its parent, below 3. Export the trees again",
        ),
        (
            "a",
            [-1, 0, 0],
            "graph[5].yes: element 0 of tensor \"a\" is -1; expected a node behind its parent, below 3. Export the trees again",
        ),
        ("b", [3, 0, 0], "graph[5].no: element 0 of tensor \"b\" is 3; expected a node behind its parent, below 3. Export the trees again"),
        ("my", [2, 0, 0], "graph[5].missing_yes: element 0 of tensor \"my\" is 2; expected 0 or 1. Export the trees again"),
    ] {
        check(&[(entry("op", "trees"), expected)], &good(changed, &values));
    }
    check(
        &[(entry("op", "trees"), "graph[5].roots: element 0 of tensor \"r\" is 3; expected one of the 3 nodes. Export the trees again")],
        &good("r", &[3]),
    );
}
