//! All results of a run of the pack as one file, and what a reader wants to see first.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// Reads what steps wrote into `folder`: `steps.tsv`, and a JSON file each. Errors: the folder; or steps failed, once everything is written.
pub fn run(folder: &Path, to: Option<&Path>) -> Result<(), String> {
    let fault = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let steps = folder.join("steps.tsv");
    let steps = fs::read_to_string(&steps).map_err(|error| fault(&steps, &error))?;
    let steps: Vec<[&str; 3]> = steps.lines().filter_map(|line| line.split('\t').collect::<Vec<_>>().try_into().ok()).collect();
    let mut results = Map::new();
    let mut files: Vec<_> = fs::read_dir(folder).map_err(|error| fault(folder, &error))?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "json") && Some(file.as_path()) != to) {
        let text = fs::read(file).map_err(|error| fault(file, &error))?;
        // A step that was ended in the middle of writing leaves half a file: the rest counts all the same.
        let value = serde_json::from_slice(&text).unwrap_or_else(|error| json!({ "unreadable": error.to_string() }));
        results.insert(file.file_stem().unwrap_or_default().to_string_lossy().into_owned(), value);
    }
    let listed = |[name, outcome, seconds]: &[&str; 3]| json!({ "step": name, "outcome": outcome, "seconds": seconds });
    results.insert("steps".into(), steps.iter().map(listed).collect());
    summarise(&results);
    if let Some(to) = to {
        fs::write(to, format!("{:#}\n", Value::Object(results))).map_err(|error| fault(to, &error))?;
    }
    let failed: Vec<&str> =
        steps.iter().filter(|[_, outcome, _]| *outcome != "ok" && !outcome.starts_with("skipped")).map(|step| step[0]).collect();
    println!("\n{} steps, not well: {}", steps.len(), if failed.is_empty() { "none".into() } else { failed.join(", ") });
    if failed.is_empty() { Ok(()) } else { Err(format!("{} of {} steps failed: their logs say why", failed.len(), steps.len())) }
}

fn summarise(results: &Map<String, Value>) {
    let figures = |name: &str| results.get(name).and_then(|part| part["figures"].as_array()).cloned().unwrap_or_default();
    if let Some(contents) = results.get("contents") {
        println!("pack of commit {} for {}", contents["commit"], contents["arch"]);
    }
    if let Some(facts) = results.get("facts") {
        println!("{}", facts["device"]);
    }
    for figure in figures("facts") {
        let name = figure["name"].as_str().unwrap_or_default();
        if HEADLINES.iter().any(|wanted| name.starts_with(wanted)) {
            match figure["value"].as_f64() {
                Some(value) => println!("  {name:60} {value:>12.2} {}", figure["unit"].as_str().unwrap_or_default()),
                None => println!("  {name:60} {}", figure["note"].as_str().unwrap_or_default()),
            }
        }
    }
    for row in figures("kernels") {
        // Of what decides nothing by itself only the largest batch.
        let told = row["published"] == true || row["rows"].as_u64() >= Some(65_536);
        if let Some(microseconds) = row["whole batch, µs"].as_f64().filter(|_| told) {
            let rate = row["candidates per second"].as_f64().unwrap_or(0.0) / 1e6;
            let case = row["case"].as_str().unwrap_or_default();
            println!("  {case:50} {:>6} candidates {microseconds:>10.1} µs {rate:>9.2} million/s", row["rows"]);
        }
        if let Some(read) = row["table bytes/s"].as_f64().filter(|_| told && row["lookups alone"] == true) {
            let percent = |name: &str| row[name].as_f64().map_or("?".into(), |share| format!("{:.0} %", share * 100.0));
            let (reading, random) = (percent("share of reading"), percent("share of random rows"));
            println!("      {:.0} GB/s of tables: {reading} of reading in order, {random} of reading random rows", read / 1e9);
        }
    }
    for (name, part) in results.iter().filter(|(name, _)| name.starts_with("serve-")) {
        let rows = part["figures"].as_array().cloned().unwrap_or_default();
        if let Some(first) = rows.first() {
            println!(
                "  {name:24} p50 {:>7.0} µs, p99 {:>7.0} µs with one in flight; at most {:.0} candidates/s",
                first["p50 µs"].as_f64().unwrap_or(0.0),
                first["p99 µs"].as_f64().unwrap_or(0.0),
                part["most candidates/s"].as_f64().unwrap_or(0.0)
            );
        }
    }
}

/// Figures that decide something.
const HEADLINES: [&str; 14] = [
    "launch, ",
    "launch and",
    "graph of 2",
    "a resident kernel",
    "plain: copying wins",
    "write-combined: copying wins",
    "reading ",
    "random rows of 64 bytes",
    "random rows of 256 bytes",
    "products in bf16",
    "multiply-adds in f32",
    "registering anonymous",
    "registering a file",
    "a ring's buffers in anonymous",
];
