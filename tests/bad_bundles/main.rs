//! Bundles that must be refused, each with its exact message: file, field, what was found, what was expected, what to do.

#[path = "../bundle_writer/mod.rs"]
mod bundle_writer;
mod features;
mod files;
mod graph;
mod manifest;
mod tensors;

use std::fs;
use std::path::Path;

use bundle_writer::{Draft, copy_of, f32s, f64s, i64s, load_from};
use gavel::model::{Bundle, LoadError, OPS};
use serde_json::{Value, json};

/// The message, with the bundle's folder as `DIR`, digests as `#` and the list of ops as `OPS`.
fn message(folder: &Path) -> String {
    let Err(error) = load_from(folder) else { return "loaded".into() };
    let text = error.to_string().replace(&folder.display().to_string(), "DIR").replace(&OPS.join(", "), "OPS");
    let is_digest = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words: Vec<&str> = text.split_inclusive([' ', ';']).collect();
    words
        .iter()
        .map(|word| if is_digest(&word.trim_end_matches([' ', ';'])) { word.replace(&word[..64], "#") } else { (*word).into() })
        .collect()
}

/// A bundle with a sparse and a dense feature, a table and a layer.
fn good() -> Draft {
    Draft {
        manifest: json!({
            "format": "gavel/1",
            "name": "small",
            "tables": [{"name": "ad", "tensor": "ad.weight", "rows": 3, "dim": 2}],
            "features": [
                {"name": "ctr", "kind": "dense", "scope": "candidate"},
                {"name": "ad", "kind": "sparse", "scope": "candidate", "table": "ad"},
            ],
            "graph": [
                {"op": "dense", "features": ["ctr"], "out": "ctr"},
                {"op": "lookup", "feature": "ad", "out": "ad"},
                {"op": "concat", "in": ["ad", "ctr"], "axis": 0, "out": "x"},
                {"op": "linear", "in": "x", "weight": "w", "bias": "b", "out": "logit"},
                {"op": "sigmoid", "in": "logit", "out": "prob"},
            ],
            "outputs": [{"name": "prob", "value": "prob", "kind": "probability"}],
        }),
        weights: vec![f32s("ad.weight", &[3, 2], &[0.5; 6]), f32s("w", &[1, 3], &[1.0; 3]), f32s("b", &[1], &[0.0])],
        selftest: vec![f32s("in.ctr", &[2], &[0.0, 1.0]), i64s("in.ad", &[2], &[0, 2]), f64s("out.prob", &[2], &[0.5, 0.5])],
    }
}

/// Collects what differs from the message expected of each case.
fn check<T>(cases: Vec<(&str, T, &str)>, refused: impl Fn(T) -> String) {
    let mut wrong = String::new();
    for (name, case, expected) in cases {
        let found = refused(case);
        if found != expected {
            wrong += &format!("{name}\n  found    {found}\n  expected {expected}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// The message for a good bundle with a part of its manifest exchanged: JSON pointer, new value (null removes).
fn with_manifest((pointer, value): (&str, Value)) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    good().write(folder.path());
    let file = folder.path().join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&file).expect("a manifest")).expect("JSON");
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    match manifest.pointer_mut(parent).expect("the parent") {
        Value::Array(items) => items[key.parse::<usize>().expect("an index")] = value,
        Value::Object(object) if value.is_null() => drop(object.remove(key)),
        Value::Object(object) => drop(object.insert(key.into(), value)),
        _ => panic!("{pointer}"),
    }
    fs::write(&file, manifest.to_string()).expect("written");
    message(folder.path())
}

#[test]
fn the_unchanged_bundle_is_good() {
    let (_folder, model) = good().load();
    assert!(model.is_ok(), "{model:?}");
}

/// The example in `docs/bundle.md` is a bundle.
#[test]
fn the_documented_example_loads() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bundle.md")).expect("docs/bundle.md");
    let (_, rest) = page.split_once("```json\n").expect("the example");
    let (example, _) = rest.split_once("```").expect("its end");
    let mut draft = good();
    draft.manifest = serde_json::from_str(example).expect("JSON");
    // Digests are elided there; sizes and tolerance go with them.
    let object = draft.manifest.as_object_mut().expect("an object");
    assert!(object.remove("weights").is_some() && object.remove("selftest").is_some());
    let (_folder, model) = draft.load();
    assert_eq!(model.unwrap_or_else(|error| panic!("{error}")).name, "clicks");
}

/// What a caller can tell apart without reading messages.
#[test]
fn errors_have_kinds() {
    let folder = copy_of("wire_vectors");
    assert_eq!(Bundle::open(folder.path()).expect("opens").manifest.name, "wire_vectors");
    assert!(matches!(load_from(&folder.path().join("nowhere")), Err(LoadError::Io { .. })));
    fs::write(folder.path().join("selftest.safetensors"), "").expect("written");
    assert!(matches!(load_from(folder.path()), Err(LoadError::Integrity(_))));
    fs::write(folder.path().join("manifest.json"), "{}").expect("written");
    assert!(matches!(load_from(folder.path()), Err(LoadError::Format(_))));
    fs::write(folder.path().join("manifest.json"), r#"{"format": "gavel/1"}"#).expect("written");
    assert!(matches!(load_from(folder.path()), Err(LoadError::Manifest(_))));
}
