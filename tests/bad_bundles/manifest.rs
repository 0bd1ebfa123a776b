//! Manifests whose own keys are wrong: format, names, files, digests.

use serde_json::{Value, json};

use crate::{check, with_manifest};

#[test]
fn wrong_manifests() {
    let cases: Vec<(&str, (&str, Value), &str)> = vec![
        (
            "version from the future",
            ("/format", json!("gavel/2")),
            "DIR/manifest.json: format: the format \"gavel/2\"; expected \"gavel/1\". The bundle was made for a newer gavel: \
             upgrade this server, or export the bundle again in an older format",
        ),
        (
            "another format",
            ("/format", json!("onnx")),
            "DIR/manifest.json: format: the format \"onnx\"; expected \"gavel/1\". This is not a bundle that gavel wrote: \
             docs/bundle.md is the specification",
        ),
        ("no format", ("/format", json!(null)), "DIR/manifest.json: no key \"format\"; expected one. docs/bundle.md lists the keys"),
        (
            "unknown key",
            ("/fetures", json!([])),
            "DIR/manifest.json: unknown key \"fetures\"; expected only format, name, description, weights, tables, features, \
             graph, outputs, selftest. Did you mean \"features\"?",
        ),
        (
            "path of weights",
            ("/weights/0/file", json!("../weights.safetensors")),
            "DIR/manifest.json: weights[0].file: \"../weights.safetensors\"; expected the plain name of a .safetensors file \
             in the bundle's folder. Put the file beside manifest.json",
        ),
        (
            "digest",
            ("/weights/0/sha256", json!("abc")),
            "DIR/manifest.json: weights[0].sha256: \"abc\"; expected 64 hexadecimal digits. Correct the value",
        ),
        (
            "wrong digest",
            ("/weights/0/sha256", json!("0".repeat(64))),
            "DIR/weights.safetensors: SHA-256 #; expected # (weights[0].sha256 in DIR/manifest.json). The file is damaged or \
             was replaced: copy the bundle again, or export it again",
        ),
        (
            "wrong size",
            ("/weights/0/bytes", json!(17)),
            "DIR/weights.safetensors: 225 bytes; expected 17 (weights[0].bytes in DIR/manifest.json). It is not the file that \
             the manifest was written for: copy the bundle again, or export it again",
        ),
        (
            "origin of the rows",
            ("/selftest/rows", json!("madeup")),
            "DIR/manifest.json: selftest.rows: \"madeup\"; expected one of \"given\", \"mixed\", \"made_up\". Did you mean \"made_up\"?",
        ),
        ("tolerance", ("/selftest/atol", json!(-1)), "DIR/manifest.json: selftest.atol: -1; expected a number from 0. Correct the value"),
        (
            "model name",
            ("/name", json!("../../etc")),
            "DIR/manifest.json: name: the name \"../../etc\"; expected 1 to 64 ASCII letters, digits and _-., not starting \
             with a dot. Choose another name",
        ),
    ];
    check(cases, with_manifest);
}
