//! Graphs and outputs that cannot be.

use serde_json::{Value, json};

use crate::{check, with_manifest};

#[test]
fn wrong_graphs_and_outputs() {
    let cases: Vec<(&str, (&str, Value), &str)> = vec![
        (
            "unknown op",
            ("/graph/4/op", json!("sigmod")),
            "DIR/manifest.json: graph[4].op: unknown op \"sigmod\"; expected one of OPS. Did you mean \"sigmoid\"?",
        ),
        (
            "op of the future",
            ("/graph/4/op", json!("attention")),
            "DIR/manifest.json: graph[4].op: unknown op \"attention\"; expected one of OPS. Express it with these ops, or \
             upgrade the server",
        ),
        (
            "argument of no op",
            ("/graph/4/axis", json!(0)),
            "DIR/manifest.json: graph[4]: unknown key \"axis\"; expected only op, out, in. Remove the key",
        ),
        (
            "unknown feature",
            ("/graph/1/feature", json!("add")),
            "DIR/manifest.json: graph[1].feature: no feature \"add\"; expected the name of an entry of features. Did you mean \
             \"ad\"?",
        ),
        (
            "dense of a sparse feature",
            ("/graph/0/features", json!(["ad"])),
            "DIR/manifest.json: graph[0].features[0]: feature \"ad\" is sparse; expected a dense feature. Ops by kind: dense \
             reads dense features, lookup and length sparse ones, integer integer ones",
        ),
        (
            "unknown value",
            ("/graph/4/in", json!("logits")),
            "DIR/manifest.json: graph[4].in: no value \"logits\"; expected the \"out\" of an earlier entry. Did you mean \
             \"logit\"?",
        ),
        (
            "value used before it is made",
            ("/graph/2/in/0", json!("logit")),
            "DIR/manifest.json: graph[2].in[0]: value \"logit\" is made by graph[3], which is not before this entry; expected \
             a value made by an earlier entry. Put the entries in the order of execution; a value cannot depend on itself",
        ),
        (
            "value of itself",
            ("/graph/4/in", json!("prob")),
            "DIR/manifest.json: graph[4].in: value \"prob\" is made by graph[4], which is not before this entry; expected a \
             value made by an earlier entry. Put the entries in the order of execution; a value cannot depend on itself",
        ),
        (
            "second value",
            ("/graph/4/out", json!("logit")),
            "DIR/manifest.json: graph[4]: a second value \"logit\"; graph[3] makes one; expected a new name in \"out\". Each \
             value is made once: choose another name",
        ),
        (
            "unknown tensor",
            ("/graph/3/weight", json!("v")),
            "DIR/manifest.json: graph[3].weight: no tensor \"v\"; expected the name of a tensor in a weights file. Check the \
             spelling",
        ),
        (
            "shape of a layer",
            ("/graph/3/weight", json!("ad.weight")),
            "DIR/manifest.json: graph[3].weight: tensor \"ad.weight\" has shape [3, 2]; expected [.., 3], since the input \
             \"x\" has shape [3]. Check the layer that it belongs to, and that it is not transposed",
        ),
        (
            "shape of a bias",
            ("/graph/3/bias", json!("w")),
            "DIR/manifest.json: graph[3].bias: tensor \"w\" has shape [1, 3]; expected [1]. Check the layer that it belongs \
             to",
        ),
        (
            "axis",
            ("/graph/2/axis", json!(1)),
            "DIR/manifest.json: graph[2].axis: axis 1; expected an axis of shape [2]. Shapes are per row, without the batch",
        ),
        (
            "pool",
            ("/graph/1/pool", json!("avg")),
            "DIR/manifest.json: graph[1].pool: \"avg\"; expected one of \"sum\", \"mean\", \"max\", \"none\". Choose one of \
             them",
        ),
        (
            "output of several elements",
            ("/outputs/0/value", json!("x")),
            "DIR/manifest.json: outputs[0].value: value of shape [3]; expected [] or [1]. Slice or reduce it: an output is \
             one score per candidate",
        ),
        (
            "unknown output value",
            ("/outputs/0/value", json!("probe")),
            "DIR/manifest.json: outputs[0].value: no value \"probe\"; expected the \"out\" of an earlier entry. Did you mean \
             \"prob\"?",
        ),
        (
            "output kind",
            ("/outputs/0/kind", json!("score")),
            "DIR/manifest.json: outputs[0].kind: \"score\"; expected one of \"probability\", \"logit\", \"value\". Choose one \
             of them",
        ),
        ("no outputs", ("/outputs", json!([])), "DIR/manifest.json: outputs: no output; expected at least one. Name the value that ranks"),
    ];
    check(cases, with_manifest);
}
