//! What a GPU does: the facts that the engine's design rests on, each launch of a model's kernels against what the device can do at best, the
//! whole server. `tools/gpu-pack` carries it to a machine with a GPU, which needs nothing but its driver; `docs/performance.md` has the results.
//!
//! `cargo bench --bench gpu -- facts|kernels|work|serve [--json FILE] ..` measures on device 0; without `--bench` (as in `cargo test`), or with
//! `--brief`, everything runs once on tiny sizes, on the emulator of `kernels/emulator` unless `GAVEL_CUDA=real`.
#![allow(unsafe_code, missing_docs)]

mod arguments;
#[path = "../../tests/bundle_writer/mod.rs"]
mod bundle_writer;
mod collect;
#[path = "../../tests/support/emulator.rs"]
mod emulator;
mod facts;
mod floors;
mod kernels;
#[path = "../support/patterns.rs"]
mod patterns;
#[path = "../support/random.rs"]
mod random;
mod report;
mod rig;
mod serve;
mod shapes;

use std::process::ExitCode;

use arguments::{Arguments, USAGE};
use gavel::engine::cuda::compile::{Arch, Cubins};
use random::Random;

fn main() -> ExitCode {
    let done = Arguments::read().and_then(|arguments| run(&arguments));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    match arguments.mode.as_str() {
        "compile" => return compile(arguments),
        "work" => return floors::run(arguments.folder.as_deref()),
        "collect" => {
            let folder = arguments.folder.as_deref().ok_or("collect needs --folder DIR")?;
            return collect::run(folder, arguments.json.as_deref());
        }
        "serve" => return serve::run(arguments)?.write(arguments.json.as_deref()),
        _ if arguments.measuring => {}
        _ => match emulator::cuda() {
            Some(_) => {}
            None => return Ok(()),
        },
    }
    let mut arguments = arguments.clone();
    if !arguments.measuring && arguments.nvrtc.is_none() {
        arguments.nvrtc = emulator::compiler();
    }
    let file = arguments.json.clone();
    match arguments.mode.as_str() {
        "facts" => facts::run(&arguments)?.write(file.as_deref()),
        "kernels" => kernels::run(&arguments)?.write(file.as_deref()),
        // As `cargo test` has it: everything, briefly.
        "" if !arguments.measuring => {
            facts::run(&arguments)?.write(None)?;
            kernels::run(&arguments)?.write(None)?;
            floors::run(None)
        }
        _ => Err(USAGE.into()),
    }
}

/// Everything that runs on a device, for an architecture, without one.
fn compile(arguments: &Arguments) -> Result<(), String> {
    let arch: Arch = arguments.arch.parse().map_err(|error| format!("--arch: {error}"))?;
    if arguments.cubins.is_none() {
        return Err("compile needs --cubins DIR".into());
    }
    let code = rig::cubin(rig::SOURCE, arch, &arguments.cubins, arguments.nvrtc.as_deref())?;
    println!("facts for {arch}: {} bytes", code.len());
    let cubins = Cubins::new(arguments.cubins.clone(), arguments.nvrtc.clone());
    let rows_cap = if arguments.measuring { u32::MAX } else { shapes::BRIEF_ROWS };
    let mut spilled = Vec::new();
    for case in shapes::wanted(arguments) {
        let model = case.model(rows_cap)?;
        let program = case.program(&model, arch)?;
        let cubin = cubins.find_or_compile(&program, arch, &Default::default()).map_err(|error| error.to_string())?;
        println!("{} for {arch}: {} bytes", case.name(), cubin.code.len());
        let spills = cubin.kernels.iter().filter(|kernel| kernel.spills());
        spilled.extend(spills.map(|kernel| format!("{} of {}", kernel.function, case.name())));
    }
    if spilled.is_empty() { Ok(()) } else { Err(format!("kernels without enough registers: {}", spilled.join(", "))) }
}
