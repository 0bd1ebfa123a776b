//! The binary as a script sees it: exit codes, what goes to stdout and what to stderr.

use std::process::{Command, Output, Stdio};

fn gavel(args: &[&str]) -> Output {
    gavel_with(args, &[])
}

fn gavel_with(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    let ours = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("GAVEL_"));
    ours.for_each(|name| {
        command.env_remove(name);
    });
    command.args(args).envs(environment.iter().copied()).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn exit_codes() {
    for (args, code, stderr) in [
        (&["--help"][..], 0, ""),
        (&["--version"], 0, ""),
        (&[], 2, "Usage: gavel"),
        (&["no-such-command"], 2, "unrecognized subcommand"),
        (&["rank", "--model", "m"], 2, "--server <ADDR>"),
        (&["rank", "--server", "nonsense", "--model", "m", "--inputs", "x.jsonl"], 2, "nonsense"),
        (&["rank", "--server", "127.0.0.1:1", "--model", "m", "--inputs", "x.csv"], 2, "must end in .safetensors or .jsonl"),
        (&["rank", "--server", "127.0.0.1:1", "--model", "m", "--inputs", "x.jsonl", "--outputs", "y.csv"], 2, "must end in"),
        (&["rank", "--server", "127.0.0.1:1", "--model", "m", "--inputs", "x.jsonl", "--candidates-per-request", "0"], 2, "0"),
        (&["rank", "--server", "127.0.0.1:1", "--model", "m", "--inputs", "x.jsonl"], 1, "127.0.0.1:1"),
        (&["inspect", "no/such/bundle"], 1, "no/such/bundle"),
        (&["import", "onnx", "no/such.onnx", "--out", "no/such/bundle"], 1, "no/such.onnx"),
        (&["import", "onnx", "tests/onnx/refused/lstm.onnx", "--out", "tests"], 1, "exists already"),
        (&["import", "onnx", "tests/onnx/refused/lstm.onnx", "--out", "no/such/bundle"], 1, "(LSTM)"),
        (&["import", "onnx", "x.onnx", "--out", "y", "--dim", "length"], 2, "NAME=SIZE"),
        (&["inspect", "tests/bundles/dlrm", "--precision", "int8"], 2, "say --plan too"),
        (&["check", "no/such/bundle"], 1, "no/such/bundle"),
        (&["compile", "tests/bundles/dlrm", "--arch", "sm_75"], 2, "compute capability 7.5 is older than 8.0"),
        (&["compile", "tests/bundles/dlrm", "--arch", "sm_80,hopper"], 2, "architecture \"hopper\" is not of the form sm_90a"),
        (&["compile", "tests/bundles/dlrm", "--precision", "int8"], 2, "possible values: f32, bf16"),
        (&["compile", "tests/bundles/dlrm", "--nvrtc", "no/such"], 78, "no/such: No such file"),
        (&["compile", "tests/bundles/dlrm", "--nvrtc", "tests/bundles"], 78, "no libnvrtc.so.12 in tests/bundles; install it (pip install"),
        (&["check", "tests/bundles/dlrm", "--engine", "cpu", "--precision", "bf16"], 78, "no arithmetic in bf16"),
        (&["check", "tests/bundles/dlrm", "--engine", "null"], 2, "null engine"),
        (&["check", "tests/bundles/dlrm", "--set", "cuda.nonsense=1"], 2, "cuda.nonsense: no such setting"),
        (&["synth", "dlrm-kaggle", "--rows-cap", "5", "--out", "tests"], 1, "exists already"),
        (&["synth", "dlrm-kaggle", "--rows-cap", "0", "--out", "x"], 2, "0 is not in"),
        (&["synth", "dlrm-dcnv2", "--out", "x", "--onnx-fused", "y"], 2, "bags of several ids"),
        (&["config", "show", "--config", "no/such/file.toml"], 2, "no/such/file.toml"),
    ] {
        let output = gavel(args);
        let found = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {found}");
        assert!(found.contains(stderr), "{args:?}: {found}");
        assert_eq!(found.is_empty(), code == 0, "{args:?}: {found}");
    }
}

#[test]
fn check_prints_how_far_an_engine_is() {
    let output = gavel(&["check", "tests/bundles/dlrm_multihot_scoped", "--engine", "cpu"]);
    let stdout = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(stdout.contains("largest error") && stdout.contains("passed on cpu"), "{stdout}");
}

#[test]
fn inspect_shows_what_is_in_a_bundle() {
    let output = gavel(&["inspect", "tests/bundles/wdl_scoped", "--plan"]);
    let stdout = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for part in ["user_feature_0", "dnn.0.norm", "probability", "plan of the cpu engine", "per tile of candidates"] {
        assert!(stdout.contains(part), "{part}\n{stdout}");
    }
    assert!(!text(&gavel(&["inspect", "tests/bundles/wdl_scoped"]).stdout).contains("plan of"), "only when asked");
}

#[test]
fn inspect_shows_the_precision_of_a_plan() {
    let plan = |more: &[&str]| {
        let output = gavel(&[&["inspect", "tests/bundles/dlrm", "--plan"], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    assert!(plan(&[]).0.contains("all dense layers in f32"));
    let (stdout, stderr) = plan(&["--precision", "int8"]);
    for part in ["answers move by", "allowed 5.0e-3 in probability, 2.0e-3 in AUC", "dense layers in int8", "too small to gain"] {
        assert!(stdout.contains(part), "{part}\n{stdout}");
    }
    assert_eq!(stderr, "", "the selftest's rows are real");
    let json: serde_json::Value = serde_json::from_str(&plan(&["--json", "--precision", "int8"]).0).expect("JSON");
    let layers = json["precision"]["layers"].as_array().expect("layers");
    assert!(layers.iter().any(|layer| layer["precision"] == "f32" && layer["reason"] == "too small to gain"), "{json:#}");
    assert_eq!(json["precision"]["limits"]["probability"], 5e-3);
    let json: serde_json::Value = serde_json::from_str(&plan(&["--json"]).0).expect("JSON");
    assert!(json["precision"].is_null());
}

/// Neither a GPU nor its driver is needed, only the compiler's library.
#[test]
fn kernels_are_compiled_ahead_of_time() {
    let Some(nvrtc) = std::env::var("GAVEL_NVRTC").ok().filter(|path| !path.is_empty()) else {
        return println!("skipped: GAVEL_NVRTC does not name the CUDA compiler");
    };
    let place = tempfile::tempdir().expect("a folder");
    let out = place.path().join("kernels");
    let out = out.to_str().expect("UTF-8");
    let compile = |more: &[&str]| {
        let output = gavel(&[&["compile", "tests/bundles/dlrm_scoped", "--nvrtc", &nvrtc, "--out", out, "--deny-spills"], more].concat());
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    };
    let files = || {
        let entries = std::fs::read_dir(out).expect("a folder").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let stdout = compile(&["--arch", "sm_90a,sm_80,sm_90a"]);
    for part in ["registers", "contexts_", "candidates_", "sm_80", "sm_90a", "f32", "made 2 cubins", out] {
        assert!(stdout.contains(part), "{part}\n{stdout}");
    }
    let names = files();
    let parts: Vec<&str> = names.iter().map(|name| name.rsplit_once('.').map_or("", |(_, ending)| ending)).collect();
    assert_eq!(parts, ["cubin", "json", "cubin", "json"], "{names:?}");
    assert!(names[0].starts_with("sm_80-") && names[2].starts_with("sm_90a-"), "{names:?}");
    let described = std::fs::read(format!("{out}/{}", names[1])).expect("a description");
    let described: serde_json::Value = serde_json::from_slice(&described).expect("JSON");
    let cubin = std::fs::read(format!("{out}/{}", names[0])).expect("a cubin");
    assert!(cubin.starts_with(b"\x7fELF") && described["bytes"] == cubin.len());
    assert!(described["kernels"].as_array().is_some_and(|kernels| {
        kernels.iter().any(|kernel| kernel["function"].as_str().is_some_and(|name| name.starts_with("candidates")))
    }));

    compile(&["--arch", "sm_80"]);
    assert_eq!(files(), names, "the same sources are the same files");
    compile(&["--arch", "sm_80", "--precision", "bf16"]);
    assert_eq!(files().len(), 6, "another precision is another program");
}

#[test]
fn imports_are_checked_on_the_engine_before_they_appear() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let output = gavel(&["import", "onnx", "tests/onnx/engine/overflow.onnx", "--out", &path("overflow")]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for part in ["overflow.onnx: output y, made-up row", "the engine computes inf in f32", "No bundle was written", "--rows"] {
        assert!(stderr.contains(part), "{part}\n{stderr}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left behind");

    let bundle = path("deepfm");
    let output = gavel(&["import", "onnx", "tests/onnx/ok/golden_deepfm.onnx", "--out", &bundle]);
    let stdout = text(&output.stdout);
    assert!(output.status.success() && stdout.contains("cpu passes the selftest"), "{stdout}{}", text(&output.stderr));
    assert!(text(&gavel(&["inspect", &bundle]).stdout).contains("rows, made up"));
}

/// The rows of a synthetic bundle are random, and 8 bits are judged by them.
#[test]
fn reduced_precision_warns_of_rows_that_nobody_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("synthetic");
    let path = bundle.to_str().expect("UTF-8");
    assert!(gavel(&["synth", "dlrm-kaggle", "--rows-cap", "20", "--selftest-rows", "8", "--out", path]).status.success());
    let warning = |args: &[&str]| {
        let output = gavel(args);
        let stderr = text(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        stderr.contains("warning: precision int8: the selftest's rows are made up") && stderr.contains("--rows")
    };
    let (check, inspect) = (["check", path, "--precision", "int8"], ["inspect", path, "--plan", "--precision", "int8", "--json"]);
    let plan: serde_json::Value = serde_json::from_slice(&gavel(&inspect).stdout).expect("JSON");
    if plan["precision"]["judged"] == 0 {
        println!("skipped: no layer gains by 8 bits on this CPU");
        return;
    }
    assert!(warning(&check) && warning(&inspect));
    assert!(!warning(&["check", path]) && !warning(&["inspect", path, "--plan"]), "f32 does not hang on the rows");
    let manifest = bundle.join("manifest.json");
    let made_up = std::fs::read_to_string(&manifest).expect("a manifest");
    std::fs::write(&manifest, made_up.replace("\"made_up\"", "\"given\"")).expect("written");
    assert!(!warning(&check), "real rows");
}

#[test]
fn all_faults_of_the_configuration_are_listed() {
    let output = gavel_with(&["config", "show", "--shards", "many", "--set", "limits.nonsense=1"], &[("GAVEL_IO", "kqueue")]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    for fault in ["has 3 faults", "flag --shards: shards", "flag --set: limits.nonsense: no such setting", "environment GAVEL_IO: io"] {
        assert!(stderr.contains(fault), "{fault}\n{stderr}");
    }
}

#[test]
fn what_is_shown_is_a_configuration_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gavel.toml");
    let first = gavel(&["config", "show", "--listen", "127.0.0.1:1", "--listen", "unix:/run/a b.sock", "--set", "limits.models=3"]);
    std::fs::write(&path, &first.stdout).expect("written");
    let second = gavel_with(&["config", "show"], &[("GAVEL_CONFIG", path.to_str().expect("UTF-8"))]);
    assert!(second.status.success(), "{}", text(&second.stderr));
    let values = |output: &Output| -> Vec<String> {
        text(&output.stdout).lines().map(|line| line.split("  #").next().unwrap_or_default().trim().to_owned()).collect()
    };
    assert_eq!(values(&first), values(&second));
    assert!(text(&second.stdout).contains("gavel.toml:"), "values name their line");
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = gavel(&["completions", shell]);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("candidates-per-request"), "{shell}");
    }
}

/// The README's figures and links are of this tree.
#[test]
fn documents_link_to_files_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/operations.md", "docs/configuration.md", "docs/architecture.md"] {
        let page = root.join(page);
        let text = std::fs::read_to_string(&page).expect("a page");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") {
                assert!(page.parent().expect("a folder").join(file).exists(), "{}: {link}", page.display());
            }
        }
    }
}
