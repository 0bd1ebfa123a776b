//! The server as a process of its own, on the emulator.

use std::fs::{copy, create_dir, read_dir};
use std::path::Path;
use std::process::Command;

use crate::emulator;

/// `gavel serve` on the CUDA engine, with these libraries on its path; gives its exit code and what it said.
fn serve(libraries: &Path, models: &Path, devices: &str) -> (Option<i32>, String) {
    let nothing = format!("{}/nothing", models.display());
    let output = Command::new(env!("CARGO_BIN_EXE_gavel"))
        .args(["serve", "--engine", "cuda", "--shards", "1", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--models"])
        .arg(models)
        .args(["--set", &format!("cuda.kernel_cache={nothing}"), "--set", &format!("cuda.nvrtc={nothing}")])
        .envs([("LD_LIBRARY_PATH", libraries.as_os_str()), ("EMU_DEVICES", devices.as_ref())])
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_this_machine_lacks_ends_it_with_78() {
    let built = match emulator::build(&[]) {
        Ok(built) => built,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let [models, libraries] = ["models", "libraries"].map(|name| folder.path().join(name));
    let bundle = models.join("small");
    [&models, &libraries, &bundle].into_iter().for_each(|folder| create_dir(folder).unwrap());
    for file in read_dir("tests/bundles/wire_vectors").unwrap().flatten() {
        copy(file.path(), bundle.join(file.file_name())).unwrap();
    }
    // A driver, and nothing to compile kernels with.
    copy(built.join("libcuda.so.1"), libraries.join("libcuda.so.1")).unwrap();

    let (code, said) = serve(&libraries, &models, "0");
    assert_eq!(code, Some(78), "{said}");
    assert!(said.lines().count() == 1 && said.contains("engine cuda: ") && said.contains("--engine cpu"), "{said}");

    let (code, said) = serve(&libraries, &models, "1");
    assert_eq!(code, Some(78), "{said}");
    for part in ["1 of the bundles cannot be served", "NVRTC (libnvrtc.so.12 or newer) cannot be used", "gavel compile"] {
        assert!(said.contains(part), "{part}\n{said}");
    }
}
