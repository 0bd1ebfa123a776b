//! From a model to what shards launch: generated for the device at hand, compiled, loaded.

use std::sync::Arc;

use super::compile::{Arch, CompileOptions, CubinOrigin, Cubins};
use super::device::Device;
use super::generate::{Numbers, Target};
use super::loaded::Loaded;
use super::program::Program;
use crate::engine::EngineError;
use crate::model::Model;

/// Generates a model's kernels for `device`, finds or makes their code and uploads weights. Start-up and reload only; once per process.
pub fn prepare(model: &Arc<Model>, device: &Arc<Device>, numbers: Numbers, cubins: &Cubins) -> Result<Loaded, EngineError> {
    load(device, Program::new(model, &Target::of(arch(device)?, numbers))?, cubins)
}

/// Finds or makes a program's code for `device`, and loads it there.
pub fn load(device: &Arc<Device>, program: Program, cubins: &Cubins) -> Result<Loaded, EngineError> {
    let (program, arch, options) = (Arc::new(program), arch(device)?, CompileOptions::default());
    let cubin = cubins.find_or_compile(&program, arch, &options)?;
    let loaded = Loaded::new(device, Arc::clone(&program), &cubin.code);
    let (CubinOrigin::Bundle(file) | CubinOrigin::Cache(file)) = &cubin.origin else { return loaded };
    match loaded {
        Err(EngineError::Device { source, .. }) if source.is_refused_code() => {
            // Made by a compiler that is newer than the driver, or by something else than NVRTC.
            tracing::warn!(model = program.model.name, %arch, file = %file.display(), error = %source, "compiled kernels are refused: they are compiled again");
            let cubin = cubins.compile(&program, arch, &options)?;
            Loaded::new(device, program, &cubin.code)
        }
        loaded => loaded,
    }
}

fn arch(device: &Device) -> Result<Arch, EngineError> {
    let (major, minor) = device.gpu().capability;
    Arch::of_device(major, minor).map_err(|error| EngineError::Unavailable {
        engine: "cuda",
        reason: error.to_string(),
        remedy: "take --engine cpu".into(),
    })
}
