//! Weights and selftests that do not fit the manifest, with right sizes and digests.

use std::fs;

use gavel::model::Digest;
use serde_json::json;

use crate::bundle_writer::{Draft, f32s, f64s, i64s, safetensors, u8s};
use crate::{check, good, message};

#[test]
fn wrong_tensors() {
    type Change = fn(&mut Draft);
    let cases: Vec<(&str, Change, &str)> = vec![
        (
            "NaN weight",
            |draft| draft.weights[1] = f32s("w", &[1, 3], &[1.0, f32::NAN, 1.0]),
            "DIR/weights.safetensors: tensor \"w\": element 1 (of [1, 3]) is NaN; expected finite weights. Training diverged \
             or the export is broken: export a good checkpoint",
        ),
        (
            "infinite row",
            |draft| draft.weights[0] = f32s("ad.weight", &[3, 2], &[0.0, 0.0, 0.0, f32::INFINITY, 0.0, 0.0]),
            "DIR/weights.safetensors: tensor \"ad.weight\": element 1 of row 1 is inf; expected finite weights. Training \
             diverged or the export is broken: export a good checkpoint",
        ),
        (
            "table shape",
            |draft| draft.weights[0] = f32s("ad.weight", &[2, 3], &[0.0; 6]),
            "DIR/manifest.json: tables[0].tensor: tensor \"ad.weight\" is F32 [2, 3]; expected F32 [3, 2], the table's rows \
             and dim. Correct rows and dim, or export the weights again",
        ),
        (
            "table of doubles",
            |draft| draft.weights[0] = f64s("ad.weight", &[3, 2], &[0.0; 6]),
            "DIR/manifest.json: tables[0].tensor: tensor \"ad.weight\" is F64 [3, 2]; expected F32, which holds a table \
             of dtype \"f32\". Export the weights again",
        ),
        (
            "coded rows that are short",
            |draft| {
                draft.manifest["tables"][0]["dtype"] = json!("int8_rowwise");
                draft.weights[0] = u8s("ad.weight", &[3, 9], &[0; 27]);
            },
            "DIR/manifest.json: tables[0].tensor: tensor \"ad.weight\" is U8 [3, 9]; expected U8 [3, 10 or more]: the table's \
             rows, and the bytes of 2 codes with scale and bias. Correct rows and dim, or export the weights again",
        ),
        (
            "coded rows without a scale",
            |draft| {
                draft.manifest["tables"][0]["dtype"] = json!("int2_tbe");
                draft.weights[0] = u8s("ad.weight", &[3, 5], &[0, 0, 0, 0, 9, 0, 0, 0, 0, 9, 0, 0x7c, 0, 0, 9]);
            },
            "DIR/weights.safetensors: tensor \"ad.weight\": the scale of row 2 is inf; expected finite weights. Training \
             diverged or the export is broken: export a good checkpoint",
        ),
        (
            "layer beyond f32",
            |draft| draft.weights[1] = f64s("w", &[1, 3], &[0.0, 1e39, 0.0]),
            "DIR/weights.safetensors: tensor \"w\": element 1 (of [1, 3]) is inf as f32; expected finite weights. Training \
             diverged or the export is broken: export a good checkpoint",
        ),
        (
            "layer shape",
            |draft| draft.weights[1] = f32s("w", &[3, 1], &[0.0; 3]),
            "DIR/manifest.json: graph[3].weight: tensor \"w\" has shape [3, 1]; expected [.., 3], since the input \"x\" has \
             shape [3]. Check the layer that it belongs to, and that it is not transposed",
        ),
        (
            "layer of bytes",
            |draft| draft.weights[1] = u8s("w", &[1, 3], &[0; 3]),
            "DIR/manifest.json: graph[3].weight: tensor \"w\" is U8; expected F32, F16, BF16 or F64. Convert the tensor \
             before saving it",
        ),
        (
            "integer layer",
            |draft| draft.weights[1] = i64s("w", &[1, 3], &[0; 3]),
            "DIR/manifest.json: graph[3].weight: tensor \"w\" is I64; expected F32, F16, BF16 or F64. Convert the tensor \
             before saving it",
        ),
        (
            "missing tensor",
            |draft| drop(draft.weights.pop()),
            "DIR/manifest.json: graph[3].bias: no tensor \"b\"; expected the name of a tensor in a weights file. Check the \
             spelling",
        ),
        (
            "selftest without an input",
            |draft| drop(draft.selftest.remove(0)),
            "DIR/selftest.safetensors: no tensor \"in.ctr\"; expected F32 [rows, 1]. Every feature of the model needs its \
             values",
        ),
        (
            "selftest without an output",
            |draft| drop(draft.selftest.pop()),
            "DIR/selftest.safetensors: no tensor \"out.prob\"; expected F64 [2]. The selftest says what each output should be",
        ),
        (
            "selftest with an unknown tensor",
            |draft| draft.selftest.push(f32s("in.price", &[2], &[0.0; 2])),
            "DIR/selftest.safetensors: tensor \"in.price\": neither an input nor an output of the model; expected in.FEATURE, \
             in.FEATURE.lengths, in.FEATURE.weights, out.OUTPUT or label.OUTPUT. Check its name",
        ),
        (
            "selftest label",
            |draft| draft.selftest.push(f64s("label.prob", &[2], &[0.0, 0.5])),
            "DIR/selftest.safetensors: tensor \"label.prob\": element 1 is 0.5; expected 0 or 1. Leave labels of other kinds out",
        ),
        (
            "selftest label rows",
            |draft| draft.selftest.push(f64s("label.prob", &[3], &[0.0; 3])),
            "DIR/selftest.safetensors: tensor \"label.prob\": shape [3]; expected [2], the rows of the inputs. Export the \
             bundle again",
        ),
        (
            "selftest rows",
            |draft| draft.selftest[2] = f64s("out.prob", &[3], &[0.5; 3]),
            "DIR/selftest.safetensors: tensor \"out.prob\": shape [3]; expected [2], the rows of the inputs. Export the \
             bundle again",
        ),
        (
            "selftest input rows",
            |draft| draft.selftest[0] = f32s("in.ctr", &[3], &[0.5; 3]),
            "DIR/selftest.safetensors: tensor \"in.ad\": 2 rows; expected 3, as tensor \"in.ctr\". Every tensor holds the \
             same rows",
        ),
        (
            "selftest output NaN",
            |draft| draft.selftest[2] = f64s("out.prob", &[2], &[0.5, f64::NAN]),
            "DIR/selftest.safetensors: tensor \"out.prob\": element 1 is NaN; expected a finite number. Export the bundle \
             again",
        ),
        (
            "selftest id",
            |draft| draft.selftest[1] = i64s("in.ad", &[2], &[0, 1 << 32]),
            "DIR/selftest.safetensors: tensor \"in.ad\", row 1: the id 4294967296, expected 0 to 4294967294, or -1 for \
             missing; expected values that the feature can carry. Correct the inputs",
        ),
        (
            "selftest without rows",
            |draft| {
                draft.selftest = vec![f32s("in.ctr", &[0], &[]), i64s("in.ad", &[0], &[]), f64s("out.prob", &[0], &[])];
            },
            "DIR/selftest.safetensors: 0 rows; expected 1 to 65536. Export the bundle again",
        ),
        (
            "negative variance",
            |draft| {
                draft.weights.push(f32s("var", &[1], &[-1.0]));
                draft.manifest["graph"][4] = json!({"op": "batch_norm", "in": "logit", "mean": "b", "var": "var", "out": "prob"});
            },
            "DIR/manifest.json: graph[4].var: element 0 of tensor \"var\" is -1; expected elements above -0.00001 (var + eps \
             > 0). A variance cannot be negative: export a good checkpoint",
        ),
        (
            "integer arithmetic",
            |draft| {
                draft.weights.push(i64s("n", &[1], &[1]));
                draft.manifest["graph"] = json!([{"op": "const", "tensor": "n", "out": "n"}, {"op": "relu", "in": "n", "out": "prob"}]);
            },
            "DIR/manifest.json: graph[1].in: value \"n\" is i64; expected an f32 value. Put {\"op\": \"cast\", \"to\": \
             \"f32\"} before it",
        ),
        (
            "shapes that do not broadcast",
            |draft| draft.manifest["graph"][3] = json!({"op": "add", "a": "x", "b": "ad", "out": "logit"}),
            "DIR/manifest.json: graph[3]: shapes [3] and [2]; expected shapes that broadcast: from the last axis on, equal \
             sizes or 1. Reshape one of the two",
        ),
        (
            "too many elements",
            |draft| {
                draft.manifest["graph"][3] = json!({"op": "fill", "value": 0, "shape": [1048576, 1048576], "out": "logit"});
            },
            "DIR/manifest.json: graph[3]: value \"logit\" of shape [1048576, 1048576]; expected 1 to 1048576 elements per \
             row. Shapes are per row, without the batch",
        ),
        (
            "reshape",
            |draft| draft.manifest["graph"][3] = json!({"op": "reshape", "in": "x", "shape": [2, -1], "out": "logit"}),
            "DIR/manifest.json: graph[3].shape: [2, -1]; expected the 3 elements of [3]. Shapes are per row, without the \
             batch; one size may be -1",
        ),
        (
            "empty slice",
            |draft| draft.manifest["graph"][3] = json!({"op": "slice", "in": "x", "axis": 0, "start": 3, "out": "logit"}),
            "DIR/manifest.json: graph[3]: value \"logit\" of shape [0]; expected 1 to 1048576 elements per row. Shapes are \
             per row, without the batch",
        ),
    ];
    check(cases, |change| {
        let mut draft = good();
        change(&mut draft);
        let (folder, _) = draft.load();
        message(folder.path())
    });
}

#[test]
fn a_tensor_in_two_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut draft = good();
    let second = safetensors(&[f32s("b", &[1], &[0.0])]);
    let first = safetensors(&draft.weights);
    let entry = |file: &str, bytes: &[u8]| json!({"file": file, "bytes": bytes.len(), "sha256": Digest::of(bytes).to_string()});
    draft.manifest["weights"] = json!([entry("weights.safetensors", &first), entry("weights-2.safetensors", &second)]);
    draft.write(folder.path());
    fs::write(folder.path().join("weights-2.safetensors"), second).expect("written");
    assert_eq!(
        message(folder.path()),
        "DIR/weights-2.safetensors: tensor \"b\": a second tensor of that name; the first is in weights.safetensors; expected each name in one file. Rename one of the two"
    );
}
