//! The vectors as files: `index.json` and two binary files for each.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use crate::vector::Vector;
use crate::world::{CANDIDATES_MAX, FRAME_BYTES_MAX, IDLE_TIMEOUT_MS, IDS_MAX, IN_FLIGHT_MAX, World};

pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schema/vectors")
}

/// Every file by its name.
pub fn files(world: &World, vectors: &[Vector]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    files.insert("index.json".to_owned(), index(world, vectors).into_bytes());
    for vector in vectors {
        let send = vector.send_file().map(|(name, bytes)| (name, bytes.to_vec()));
        for (name, bytes) in [send, vector.answer_file()].into_iter().flatten() {
            assert!(files.insert(name.clone(), bytes).is_none(), "{name} twice");
        }
    }
    files
}

/// One line per vector and one per rendered request, so that a difference can be read.
fn index(world: &World, vectors: &[Vector]) -> String {
    let head = [
        ("protocol", json!(1)),
        (
            "model",
            json!({
                "name": world.description.model,
                "version": world.description.model_version,
                "signature": format!("{:#018x}", world.signature()),
            }),
        ),
        (
            "server",
            json!({
                "frame_bytes_max": FRAME_BYTES_MAX,
                "candidates_max": CANDIDATES_MAX,
                "ids_max": IDS_MAX,
                "in_flight_max": IN_FLIGHT_MAX,
                "idle_timeout_ms": IDLE_TIMEOUT_MS,
            }),
        ),
    ];
    let mut text = String::from("{\n");
    for (key, value) in head {
        text += &format!("\"{key}\": {value},\n");
    }
    let entries: Vec<String> = vectors
        .iter()
        .map(|vector| {
            let mut entry = json!(vector.entry()).to_string();
            if !vector.requests.is_empty() {
                entry.truncate(entry.len() - 1);
                let requests: Vec<String> = vector.requests.iter().map(|request| format!("  {request}")).collect();
                entry += &format!(",\"requests\":[\n{}]}}", requests.join(",\n"));
            }
            entry
        })
        .collect();
    text + "\"vectors\": [\n" + &entries.join(",\n") + "\n]}\n"
}
