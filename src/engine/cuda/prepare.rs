//! From a model to what shards launch: generated for the device at hand, compiled, loaded.

use std::sync::Arc;

use super::compile::{Arch, CompileOptions, Cubins};
use super::device::Device;
use super::generate::{Numbers, Target};
use super::loaded::Loaded;
use super::program::Program;
use crate::engine::EngineError;
use crate::model::Model;

/// Generates a model's kernels for `device`, finds or makes their code and uploads weights. Start-up and reload only; once per process.
pub fn prepare(model: &Arc<Model>, device: &Arc<Device>, numbers: Numbers, cubins: &Cubins) -> Result<Loaded, EngineError> {
    load(device, Program::new(model, &Target::new(arch(device)?.shared_bytes_max(), numbers))?, cubins)
}

/// Finds or makes a program's code for `device`, and loads it there.
pub fn load(device: &Arc<Device>, program: Program, cubins: &Cubins) -> Result<Loaded, EngineError> {
    let cubin = cubins.find_or_compile(&program, arch(device)?, &CompileOptions::default())?;
    Loaded::new(device, Arc::new(program), &cubin.code)
}

fn arch(device: &Device) -> Result<Arch, EngineError> {
    let (major, minor) = device.gpu().capability;
    Arch::of_device(major, minor).map_err(|error| EngineError::Unavailable {
        engine: "cuda",
        reason: error.to_string(),
        remedy: "take --engine cpu".into(),
    })
}
