//! The measured side of `compare.py`: gavel's engine through the library, and what this machine can do at most. See `README.md` here.
//!
//! `--child` reads commands from stdin, one JSON object a line, and answers each with one line (`child.rs`), so that the driver can interleave
//! rounds of several engines in one run. Without a driver (`cargo test --benches`) everything runs once, tiny.

#![allow(unsafe_code)] // ceilings: SIMD loops; the clock of a thread's CPU time

mod ceilings;
mod child;
mod clock;
mod inputs;
mod worker;

use std::io::{self, BufReader};
use std::process::ExitCode;

use gavel::synth::{ContextShare, Family, Recipe, Shape, TableFormat, write_bundle};
use serde_json::json;

fn main() -> ExitCode {
    let has = |name: &str| std::env::args().any(|argument| argument == name);
    if has("--child") {
        return match child::serve(BufReader::new(io::stdin()), io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("compare: the driver went away: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if has("--bench") {
        println!("compare: measured by its driver, `python benches/compare/compare.py`; benches/compare/README.md says how");
        return ExitCode::SUCCESS;
    }
    tiny();
    ExitCode::SUCCESS
}

/// Every command once, on small models.
fn tiny() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    for (family, context) in [(Family::DlrmKaggle, ContextShare::Half), (Family::DlrmKaggle, ContextShare::None)] {
        let recipe = Recipe { shape: Shape::new(family, 30), seed: 1, context, tables: TableFormat::F32, selftest_rows: 4 };
        let bundle = path(&format!("{context:?}"));
        write_bundle(&recipe, &bundle, &mut |_, _| {}).expect("a bundle");
        let (rows, sets) = (3, 2);
        let per_set = match context {
            ContextShare::None => rows * (13 + 26),
            ContextShare::Half => 13 + 13 + rows * 13,
        };
        // Zeros are legal values and ids.
        std::fs::write(path("inputs"), vec![0; sets * per_set * 4]).expect("inputs");
        let model = json!({"do": "load", "model": "m", "bundle": bundle, "precision": "f32", "hoist": true});
        let open =
            json!({"do": "open", "runner": "r", "model": "m", "batch": rows, "sets": sets, "inputs": path("inputs"), "cpus": [null]});
        let score = json!({"do": "score", "runner": "r", "sets": sets, "out": path("scores")});
        let round = json!({"do": "round", "runner": "r", "ms": 1, "calls": 2});
        let close = json!({"do": "close", "runner": "r"});
        let commands = [model, open, score, round, close, json!({"do": "peak", "ms": 0}), json!({"do": "read", "bytes": 4096, "ms": 0})];
        let answers = exchange(&commands.map(|command| command.to_string()).join("\n"));
        assert!(answers.iter().all(|answer| answer.get("error").is_none()), "{answers:?}");
        assert!(answers[3]["threads"][0]["calls"].as_u64() >= Some(2), "{answers:?}");
        let scores = std::fs::read(path("scores")).expect("scores");
        let scores: Vec<f32> = scores.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
        assert_eq!(scores.len(), sets * rows);
        assert!(scores.iter().all(|score| *score == scores[0] && *score > 0.0 && *score < 1.0), "{scores:?}");
    }
    let tiny = json!({"do": "ceilings", "ms": 0, "rounds": 1, "read_bytes": [65536], "gather": [[65536, 64], [65536, 512]]});
    let answers = exchange(&format!("{tiny}\nnonsense\n{}", json!({"do": "dance"})));
    assert!(answers[0].get("error").is_none() && answers[0]["read"][0]["bytes"] == 65536, "{answers:?}");
    assert!(answers[1..].iter().all(|answer| answer.get("error").is_some()), "{answers:?}");
}

fn exchange(commands: &str) -> Vec<serde_json::Value> {
    let mut answers = Vec::new();
    child::serve(commands.as_bytes(), &mut answers).expect("memory does not go away");
    answers.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| serde_json::from_slice(line).expect("JSON")).collect()
}
