//! A bundle with a fault is not served: `gavel serve` and `gavel check` name file, place and remedy, and a folder with several faulty bundles hears
//! of all of them at once. (What the loader finds in a bundle is tests/bad_bundles.rs' matter.)
#![allow(clippy::unwrap_used)]

mod bundle_writer;
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bundle_writer::committed;
use gavel::model::Digest;
use serde_json::{Value, json};
use support::process::{Serving, gavel, run, serve};

/// A fault, how to bring it about in a good bundle, and what must be said of it: the file, the place, what to do.
struct Fault {
    name: &'static str,
    damage: fn(&Path),
    told: [&'static str; 3],
}

const FAULTS: [Fault; 9] = [
    Fault {
        name: "truncated",
        damage: |bundle| {
            let bytes = fs::read(bundle.join(WEIGHTS)).unwrap();
            fs::write(bundle.join(WEIGHTS), &bytes[..bytes.len() / 2]).unwrap();
        },
        told: ["truncated/weights.safetensors: 107442 bytes", "weights[0].bytes", "copy the bundle again"],
    },
    Fault {
        name: "swapped",
        damage: |bundle| {
            let mut bytes = fs::read(bundle.join(WEIGHTS)).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(bundle.join(WEIGHTS), bytes).unwrap();
        },
        told: ["swapped/weights.safetensors: SHA-256", "weights[0].sha256", "copy the bundle again"],
    },
    Fault {
        name: "misshapen",
        damage: |bundle| edit(bundle, |manifest| manifest["tables"][0]["dim"] = json!(3)),
        told: ["misshapen/manifest.json: tables[0].tensor", "is F32 [200, 8]; expected F32 [200, 3]", "Correct rows and dim"],
    },
    Fault {
        name: "not_a_number",
        damage: |bundle| reweigh(bundle, |_| f32::NAN),
        told: ["not_a_number/weights.safetensors", "element 0 (of [1, 253]) is NaN", "export a good checkpoint"],
    },
    Fault {
        name: "unknown_op",
        damage: |bundle| edit(bundle, |manifest| manifest["graph"][0]["op"] = json!("denze")),
        told: ["unknown_op/manifest.json: graph[0].op", "unknown op \"denze\"", "Did you mean \"dense\"?"],
    },
    Fault {
        name: "miscomputes",
        damage: |bundle| reweigh(bundle, |weight| weight + 0.5),
        told: ["/miscomputes: ", "selftest: output prob, row 0: the engine computes", "export the bundle again"],
    },
    Fault {
        name: "from_the_future",
        damage: |bundle| edit(bundle, |manifest| manifest["format"] = json!("gavel/2")),
        told: ["from_the_future/manifest.json: format", "the format \"gavel/2\"", "upgrade this server"],
    },
    Fault {
        name: "incomplete",
        damage: |bundle| fs::remove_file(bundle.join(SELFTEST)).unwrap(),
        told: ["incomplete/selftest.safetensors", "No such file", "the whole bundle was copied"],
    },
    Fault {
        name: "no_json",
        damage: |bundle| fs::write(bundle.join("manifest.json"), "{\"format\": ").unwrap(),
        told: ["no_json/manifest.json", "line 1 column 11", "Correct the file"],
    },
];

const WEIGHTS: &str = "weights.safetensors";
const SELFTEST: &str = "selftest.safetensors";

/// A bundle of the repository under another name.
fn copy(folder: &Path, name: &str) {
    let bundle = folder.join(name);
    fs::create_dir_all(&bundle).unwrap();
    for file in ["manifest.json", WEIGHTS, SELFTEST] {
        fs::copy(committed("dcn").join(file), bundle.join(file)).unwrap();
    }
}

fn edit(bundle: &Path, change: impl FnOnce(&mut Value)) {
    let path = bundle.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(path, manifest.to_string()).unwrap();
}

/// Changes one weight of a linear layer, and the digest with it: only arithmetic can find this.
fn reweigh(bundle: &Path, change: fn(f32) -> f32) {
    let path = bundle.join(WEIGHTS);
    let mut bytes = fs::read(&path).unwrap();
    let manifest: Value = serde_json::from_slice(&fs::read(bundle.join("manifest.json")).unwrap()).unwrap();
    let linear = manifest["graph"].as_array().unwrap().iter().rfind(|node| node["op"] == "linear").unwrap();
    let start = {
        let header_bytes = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + header_bytes]).unwrap();
        8 + header_bytes + header[linear["weight"].as_str().unwrap()]["data_offsets"][0].as_u64().unwrap() as usize
    };
    let weight = f32::from_le_bytes(*bytes[start..].first_chunk().unwrap());
    bytes[start..start + 4].copy_from_slice(&change(weight).to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    edit(bundle, |manifest| manifest["weights"][0]["sha256"] = json!(Digest::of(&bytes).to_string()));
}

#[test]
fn check_refuses_each_fault() {
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path(), "good");
    let good = run(gavel(["check", "--engine", "cpu"]).arg(folder.path().join("good")));
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stderr));
    for fault in &FAULTS {
        copy(folder.path(), fault.name);
        (fault.damage)(&folder.path().join(fault.name));
        let output = run(gavel(["check", "--engine", "cpu"]).arg(folder.path().join(fault.name)));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{}: {text}", fault.name);
        assert_eq!(text.lines().count(), 1, "one line: {text}");
        for part in fault.told {
            assert!(text.contains(part), "{}: {part:?} is not in {text}", fault.name);
        }
    }
}

#[test]
fn serve_names_every_faulty_bundle_and_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path(), "good");
    for fault in &FAULTS {
        copy(folder.path(), fault.name);
        (fault.damage)(&folder.path().join(fault.name));
    }
    let output = run(serve(folder.path()).args(["--io", "epoll"]));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with(&format!("error: {} of the bundles cannot be served:\n", FAULTS.len())), "{text}");
    assert_eq!(text.lines().count(), 1 + FAULTS.len(), "a line each: {text}");
    for fault in &FAULTS {
        let line = text.lines().find(|line| line.contains(fault.name)).unwrap_or_else(|| panic!("{} is not named: {text}", fault.name));
        for part in fault.told {
            assert!(line.contains(part), "{}: {part:?} is not in {line}", fault.name);
        }
    }
    let log: Vec<Value> = String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(log.iter().filter(|line| line["severity"] == "ERROR").count(), FAULTS.len(), "the log names each too");
    assert!(log.iter().any(|line| line["message"] == "model is served" && line["model"] == "good"), "the good one was looked at");
    assert!(log.iter().all(|line| line["message"] != "ready"), "a server with a faulty bundle is never ready");
}

#[test]
fn a_stop_does_not_wait_for_loading() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h", "slow"] {
        copy(folder.path(), name);
    }
    // Reading it takes until somebody writes: for ever. It takes the manifest's place once the folder was looked at.
    let pipe = folder.path().join(".pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut serving = Serving::launch(serve(folder.path()).args(["--io", "epoll"]));
    serving.await_log("model is served");
    fs::rename(pipe, folder.path().join("slow/manifest.json")).unwrap();
    std::thread::sleep(Duration::from_millis(1_000));
    assert_eq!(serving.page("/readyz").0, 503, "it waits for the last bundle");
    serving.signal(rustix::process::Signal::TERM);
    let (status, stderr) = serving.end();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
    assert!(serving.log().iter().all(|line| line["message"] != "listening"), "nobody was let in");
}
