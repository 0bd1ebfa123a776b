//! `gavel serve` and `gavel rank` as processes: files of rows in, files of scores out, judged by the outputs that the bundles record.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

/// A server of the golden bundles on a Unix socket; killed when dropped.
struct Serve {
    child: Child,
    address: String,
    /// Kept open, so that the server can log to the end.
    _log: BufReader<std::process::ChildStdout>,
    folder: tempfile::TempDir,
}

impl Serve {
    fn start(io: &str) -> Serve {
        let folder = tempfile::tempdir().expect("a folder");
        let address = format!("unix:{}", folder.path().join("gavel.sock").display());
        let mut child = gavel(&["serve", "--models", "tests/bundles", "--listen", &address, "--admin", "127.0.0.1:0"])
            .args(["--io", io, "--engine", "cpu", "--shards", "2", "--log-format", "json"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut log = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("\"message\":\"ready\"") {
            line.clear();
            assert_ne!(log.read_line(&mut line).expect("UTF-8"), 0, "the server ended before it was ready: {:?}", child.wait());
        }
        Serve { child, address, _log: log, folder }
    }

    fn rank(&self, model: &str, inputs: &Path, outputs: &str, more: &[&str]) -> Output {
        let inputs = inputs.to_str().expect("UTF-8");
        gavel(&["rank", "--server", &self.address, "--model", model, "--inputs", inputs, "--outputs", outputs])
            .args(more)
            .output()
            .expect("the binary runs")
    }

    /// SIGTERM; the exit code.
    fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a live process");
        self.child.wait().expect("waited").code()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gavel(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

fn selftest(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(model).join("selftest.safetensors")
}

/// Columns by name: floats and integers as f64.
fn columns(bytes: &[u8]) -> BTreeMap<String, Vec<f64>> {
    let file = SafeTensors::deserialize(bytes).expect("a safetensors file");
    file.iter()
        .map(|(name, tensor)| {
            let data = tensor.data();
            let values = match tensor.dtype() {
                Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect(),
                Dtype::F64 => data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect(),
                Dtype::I64 => data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as f64).collect(),
                other => panic!("{name}: {other:?}"),
            };
            (name.to_owned(), values)
        })
        .collect()
}

/// Largest difference between recorded outputs and found ones.
fn distance(recorded: &BTreeMap<String, Vec<f64>>, found: &BTreeMap<String, Vec<f64>>) -> f64 {
    let outputs = recorded.iter().filter_map(|(name, values)| name.strip_prefix("out.").map(|name| (name, values)));
    let mut worst = 0.0;
    for (name, recorded) in outputs {
        let found = &found[name];
        assert_eq!(recorded.len(), found.len(), "{name}");
        worst = recorded.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(worst, f64::max);
    }
    worst
}

/// The rows of a selftest as JSON objects, one per row.
fn rows(recorded: &BTreeMap<String, Vec<f64>>, dense: &[&str]) -> Vec<Map<String, Value>> {
    let count = recorded.iter().find(|(name, _)| name.starts_with("out.")).map_or(0, |(_, values)| values.len());
    let mut rows = vec![Map::new(); count];
    for (name, values) in recorded.iter().filter_map(|(name, values)| name.strip_prefix("in.").map(|name| (name, values))) {
        let number = |value: f64| if dense.contains(&name) { json!(value) } else { json!(value as i64) };
        let lengths = recorded.get(&format!("in.{name}.lengths"));
        let mut start = 0;
        for (row, object) in rows.iter_mut().enumerate().filter(|_| !name.ends_with(".lengths")) {
            let value = match lengths {
                None => number(values[row]),
                Some(lengths) => {
                    let bag = &values[start..start + lengths[row] as usize];
                    start += bag.len();
                    Value::Array(bag.iter().map(|id| number(*id)).collect())
                }
            };
            object.insert(name.into(), value);
        }
    }
    rows
}

const TOLERANCE: f64 = 2e-6;
const BUNDLES: [&str; 8] =
    ["dlrm", "dlrm_torchrec", "dlrm_multihot", "dlrm_multihot_scoped", "deepfm_scoped", "dcn_scoped", "wdl", "mmoe_scoped"];

fn files_of_rows_become_files_of_scores(io: &str) {
    let server = Serve::start(io);
    for model in BUNDLES {
        let recorded = columns(&std::fs::read(selftest(model)).expect("a selftest"));
        for candidates in ["1", "7", "64", "128"] {
            let path = server.folder.path().join("scores.safetensors");
            let output = server.rank(model, &selftest(model), path.to_str().expect("UTF-8"), &["--candidates-per-request", candidates]);
            assert!(output.status.success(), "{model}: {}", String::from_utf8_lossy(&output.stderr));
            let worst = distance(&recorded, &columns(&std::fs::read(&path).expect("scores")));
            assert!(worst <= TOLERANCE, "{model}, {candidates} candidates: {worst:e}");
        }
    }
    json_lines_score_like_tensors(&server);
    one_bad_row_costs_one_row(&server);
    assert_eq!(server.stop(), Some(0), "a drained server ends with 0");
}

fn json_lines_score_like_tensors(server: &Serve) {
    let model = "dlrm_multihot_scoped";
    let recorded = columns(&std::fs::read(selftest(model)).expect("a selftest"));
    let dense: Vec<String> = (1..=13).map(|n| format!("I{n}")).collect();
    let dense: Vec<&str> = dense.iter().map(String::as_str).collect();
    let rows = rows(&recorded, &dense);
    let in_context = |name: &str| name[1..].parse::<u32>().is_ok_and(|n| n <= 13);
    let requests = rows.iter().map(|row| {
        let (context, candidate): (Map<_, _>, Map<_, _>) = row.clone().into_iter().partition(|(name, _)| in_context(name));
        json!({"context": context, "candidates": [candidate]})
    });
    let as_rows: String = rows.iter().map(|row| format!("{}\n", Value::Object(row.clone()))).collect();
    let as_requests: String = requests.map(|request| format!("{request}\n")).collect();
    for text in [as_rows, as_requests] {
        let path = server.folder.path().join("rows.jsonl");
        std::fs::write(&path, text).expect("written");
        let output = server.rank(model, &path, "-", &["-q"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found: Vec<f64> = output.stdout.lines().map(|line| score(&line.expect("UTF-8"), "prob")).collect();
        let worst = distance(&recorded, &BTreeMap::from([("prob".to_owned(), found)]));
        assert!(worst <= TOLERANCE, "{worst:e}");
    }
}

fn score(line: &str, output: &str) -> f64 {
    let object: Value = serde_json::from_str(line).expect("JSON");
    object[output].as_f64().unwrap_or_else(|| panic!("{line}"))
}

fn one_bad_row_costs_one_row(server: &Serve) {
    let model = "dlrm";
    let recorded = columns(&std::fs::read(selftest(model)).expect("a selftest"));
    let dense: Vec<String> = (1..=13).map(|n| format!("I{n}")).collect();
    let mut rows = rows(&recorded, &dense.iter().map(String::as_str).collect::<Vec<_>>());
    rows[5].insert("C3".into(), json!(1_000_000));
    rows[77].insert("C9".into(), json!(-1));
    let path = server.folder.path().join("bad.jsonl");
    std::fs::write(&path, rows.iter().map(|row| format!("{}\n", Value::Object(row.clone()))).collect::<String>()).expect("written");
    let output = server.rank(model, &path, "-", &["--candidates-per-request", "64"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("row 5: id_out_of_range") && stderr.contains("C3"), "{stderr}");
    assert!(stderr.contains("row 77: id_missing") && stderr.contains("C9"), "{stderr}");
    for (row, line) in output.stdout.lines().enumerate() {
        let line = line.expect("UTF-8");
        if row == 5 || row == 77 {
            assert!(line.contains("\"error\":\"id_"), "{line}");
        } else {
            let difference = (score(&line, "prob") - recorded["out.prob"][row]).abs();
            assert!(difference <= TOLERANCE, "row {row}: {difference:e}");
        }
    }
    let unknown = server.rank("no_such_model", &path, "-", &[]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("model_unknown"), "{}", String::from_utf8_lossy(&unknown.stderr));
}

#[test]
fn on_epoll() {
    files_of_rows_become_files_of_scores("epoll");
}

#[test]
fn on_uring() {
    match gavel::server::preflight::check() {
        Ok(_) => files_of_rows_become_files_of_scores("uring"),
        Err(reason) => println!("skipped: {reason}"),
    }
}

#[test]
fn a_server_that_cannot_serve_says_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = folder.path().join("models");
    for (name, manifest) in [("broken", "{"), ("empty", "{}")] {
        std::fs::create_dir_all(models.join(name)).expect("a folder");
        std::fs::write(models.join(name).join("manifest.json"), manifest).expect("written");
    }
    let address = format!("unix:{}", folder.path().join("gavel.sock").display());
    let models = models.to_str().expect("UTF-8");
    let serve =
        |more: &[&str]| gavel(&["serve", "--listen", &address, "--admin", "127.0.0.1:0"]).args(more).output().expect("the binary runs");
    for (more, code, expected) in [
        (&["--models", models, "--io", "epoll"][..], 1, &["broken", "empty", "2 of the bundles"][..]),
        (&["--models", "no/such/folder", "--io", "epoll"], 1, &["no/such/folder"]),
        (&["--models", models, "--engine", "cuda", "--set", "cuda.device=999"], 78, &["error: engine cuda: ", "--engine auto"]),
        (&["--models", models, "--set", "limits.batch_rows=1"], 2, &["limits.batch_rows"]),
    ] {
        let output = serve(more);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{more:?}: {stderr}");
        for part in expected {
            assert!(stderr.contains(part), "{more:?}: {part} not in {stderr}");
        }
    }
}
