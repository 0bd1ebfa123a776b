//! Nothing in a manifest can make its reader panic: arbitrary bytes, and a good manifest with parts exchanged.

use std::fs;
use std::path::Path;

use gavel::model::{Manifest, TensorDType, TensorFile};
use proptest::prelude::*;
use serde_json::{Value, json};

fn good() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles/wire_vectors/manifest.json");
    serde_json::from_slice(&fs::read(path).expect("a manifest")).expect("JSON")
}

fn read(bytes: &[u8]) -> bool {
    let tensors: [(&str, TensorDType, &[usize]); 3] = [
        ("hidden.weight", TensorDType::F32, &[4, 25]),
        ("hidden.bias", TensorDType::F32, &[4]),
        ("head.weight", TensorDType::F32, &[2, 4]),
    ];
    match Manifest::parse(Path::new("manifest.json"), bytes).and_then(|manifest| manifest.graph(&tensors)) {
        Ok(graph) => {
            for node in &graph.nodes {
                assert!(node.op.inputs().iter().all(|input| *input < node.out));
            }
            assert!(graph.outputs.iter().all(|output| graph.value(output.value).len() == 1));
            true
        }
        Err(error) => {
            assert!(error.to_string().starts_with("manifest.json: "), "{error}");
            false
        }
    }
}

/// Every place of a document, as a path of steps.
fn places(value: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.into());
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| places(item, &format!("{here}/{i}"), found)),
        Value::Object(items) => items.iter().for_each(|(key, item)| places(item, &format!("{here}/{key}"), found)),
        _ => {}
    }
}

/// Values that parsers dislike.
fn odd() -> impl Strategy<Value = Value> {
    let numbers = prop::sample::select(vec![0_i64, -1, 1, 2, 3, 255, 65_535, 65_536, 1 << 20, 1 << 31, 1 << 40, i64::MAX, i64::MIN]);
    let words = prop::sample::select(
        gavel::model::OPS
            .into_iter()
            .chain(["", "x", "score", "seq", "age", "slot", "sum", "none", "~", "f32", "i64", "context"])
            .collect::<Vec<_>>(),
    );
    prop_oneof![
        numbers.prop_map(|number| json!(number)),
        words.prop_map(|word| json!(word)),
        any::<f64>().prop_map(|number| json!(number)),
        Just(json!(null)),
        Just(json!([])),
        Just(json!({})),
        Just(json!([-1, 0, 1])),
        Just(json!([[1], {"row": 0}])),
        Just(json!({"row": 7})),
        ".{0,200}".prop_map(|text| json!(text)),
    ]
}

#[test]
fn the_unchanged_manifest_is_good() {
    assert!(read(good().to_string().as_bytes()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        read(&bytes);
        let _ = TensorFile::parse(Path::new("t"), bytes);
    }

    #[test]
    fn exchanged_parts(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), odd()), 1..4)) {
        let mut document = good();
        for (index, move_part, value) in changes {
            let mut found = Vec::new();
            places(&document, "", &mut found);
            let place = index.get(&found).clone();
            let half: &[String] = &found[found.len() / 2..];
            let other = document.pointer(index.get::<String>(half)).cloned().unwrap_or_default();
            if let Some(target) = document.pointer_mut(&place) {
                *target = if move_part { other } else { value };
            }
        }
        read(document.to_string().as_bytes());
    }

    #[test]
    fn removed_and_added_keys(index in any::<prop::sample::Index>(), key in "[a-z]{1,9}", value in odd()) {
        let mut document = good();
        let mut found = Vec::new();
        places(&document, "", &mut found);
        if let Some(Value::Object(object)) = document.pointer_mut(&index.get(&found).clone()) {
            if object.contains_key(&key) { object.remove(&key); } else { object.insert(key, value); }
        }
        read(document.to_string().as_bytes());
    }

    #[test]
    fn damaged_text(index in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = good().to_string().into_bytes();
        let at = index.index(bytes.len());
        bytes[at] = byte;
        if cut { bytes.truncate(at); }
        read(&bytes);
    }
}
