//! From a model to what shards launch: generated for the device at hand, compiled, loaded.

use std::sync::Arc;

use super::compile::{Arch, CompileOptions, Nvrtc, headers};
use super::device::Device;
use super::generate::{Numbers, Target};
use super::loaded::Loaded;
use super::program::Program;
use crate::engine::EngineError;
use crate::model::Model;

/// Generates a model's kernels for `device`, compiles them and uploads weights. Start-up and reload only; once per process.
pub fn prepare(model: &Arc<Model>, device: &Arc<Device>, numbers: Numbers) -> Result<Loaded, EngineError> {
    let program = Program::new(model, &Target::new(device.gpu().shared_bytes_max, numbers))?;
    load(device, program)
}

/// Compiles a program for `device` and loads it there.
pub fn load(device: &Arc<Device>, program: Program) -> Result<Loaded, EngineError> {
    let unavailable = |reason: String, remedy: &str| EngineError::Unavailable { engine: "cuda", reason, remedy: remedy.into() };
    let (major, minor) = device.gpu().capability;
    let arch = Arch::of_device(major, minor).map_err(|error| unavailable(error.to_string(), "take --engine cpu"))?;
    let nvrtc = Nvrtc::open(None).map_err(|error| unavailable(error.to_string(), "install it"))?;
    let compiled = nvrtc
        .compile(&program.source, headers(), arch, &CompileOptions::default())
        .map_err(|error| unavailable(error.to_string(), "take --engine cpu"))?;
    Loaded::new(device, Arc::new(program), &compiled.cubin)
}
