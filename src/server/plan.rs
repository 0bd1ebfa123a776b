//! What a server will run on, decided and explained before anything is started: shards and CPUs, the sockets' backend, the engine.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, Cuda as CudaSettings, EngineChoice, PrecisionChoice, Shards, WideLayersChoice};
use crate::engine::cpu::PrecisionOptions;
use crate::engine::cuda::compile::{Arch, Cubins, Nvrtc, default_cache};
use crate::engine::cuda::{Device, DeviceOptions, WideLayers};
use crate::engine::precision::{Precision, ShiftLimits};
use crate::engine::{EngineKind, PrepareOptions};
use crate::server::placement::{Cpus, Placement};
use crate::server::preflight::{self, IoBackend};

/// The decisions.
#[derive(Clone, Debug)]
pub struct Plan {
    /// CPUs of the shards.
    pub placement: Placement,
    /// What the sockets run on.
    pub io: IoBackend,
    /// What computes.
    pub engine: EngineKind,
    /// How models are made ready for it.
    pub prepare: PrepareOptions,
    /// What an operator should read, most important first; true = a warning.
    pub notes: Vec<(bool, String)>,
}

/// This machine, kernel or container cannot do what was asked for: one line. The process ends with 78.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

impl Plan {
    /// Decides for this machine. Tries the kernel; starts nothing.
    pub fn for_machine(config: &Config) -> Result<Plan, Unfit> {
        let mut notes = Vec::new();
        let general = &config.general;
        let engine = choose_engine(general.engine, general.precision, &config.cuda, &mut notes)?;
        let limits = ShiftLimits { probability: general.precision_shift, auc: general.precision_auc };
        let prepare = with_settings(prepare_options(&engine, general.precision, limits)?, &config.cuda);
        let io = preflight::choose(config.general.io).map_err(|refused| Unfit(refused.0))?;
        notes.push((io.warn, io.message));
        let cpus = Cpus::detect().map_err(|error| Unfit(format!("the process's CPU affinity cannot be read: {error}")))?;
        let asked = match config.general.shards {
            Shards::Auto => None,
            Shards::Count(count) => Some(usize::from(count)),
        };
        let placement = cpus.place(asked, config.general.pin);
        notes.push((false, placement.message.clone()));
        Ok(Plan { placement, io: io.backend, engine: engine.kind, prepare, notes })
    }
}

/// The engine, and the GPU where it is for one.
#[derive(Clone, Debug)]
pub struct ChosenEngine {
    /// What computes.
    pub kind: EngineKind,
    /// On this.
    pub device: Option<Arc<Device>>,
}

impl From<EngineKind> for ChosenEngine {
    fn from(kind: EngineKind) -> ChosenEngine {
        ChosenEngine { kind, device: None }
    }
}

/// How the CUDA engine uses its device, as configured.
pub fn device_options(settings: &CudaSettings) -> DeviceOptions {
    DeviceOptions {
        ordinal: settings.device,
        in_flight_per_shard: settings.in_flight_per_shard,
        in_flight_per_device: settings.in_flight_per_device,
        copy_from_bytes: settings.copy_from_bytes,
    }
}

/// How the CUDA engine computes wide layers, as configured.
pub fn wide_layers(settings: &CudaSettings) -> WideLayers {
    match settings.wide_layers {
        WideLayersChoice::Measure => WideLayers::Measured,
        WideLayersChoice::Mma => WideLayers::ByMma,
    }
}

/// Where the CUDA engine finds and keeps compiled kernels, as configured.
pub fn cubins(settings: &CudaSettings) -> Cubins {
    let cache = settings.kernel_cache.path().map_or_else(default_cache, Path::to_path_buf);
    Cubins::new(Some(cache), settings.nvrtc.path().map(Path::to_path_buf))
}

/// Decides for an engine that computes in this precision, and opens its device; `notes` gets what an operator should read.
pub fn choose_engine(
    choice: EngineChoice,
    precision: PrecisionChoice,
    settings: &CudaSettings,
    notes: &mut Vec<(bool, String)>,
) -> Result<ChosenEngine, Unfit> {
    let (options, nvrtc) = (device_options(settings), settings.nvrtc.path());
    Ok(match choice {
        EngineChoice::Cpu => EngineKind::Cpu.into(),
        EngineChoice::Auto => match usable_device(precision, options, nvrtc) {
            Ok(device) => {
                notes.push((
                    true,
                    format!("engine auto: taking cuda on {}; name it (--engine cuda) so that a missing GPU is an error", told(&device)),
                ));
                ChosenEngine { kind: EngineKind::Cuda, device: Some(device) }
            }
            Err(reason) if precision == PrecisionChoice::Bf16 => {
                let remedy = "take precision f32, int8 or f16 to serve from the CPU";
                return Err(Unfit(format!("precision bf16 is the cuda engine's, which engine auto cannot take ({reason}); {remedy}")));
            }
            Err(reason) => {
                notes.push((true, format!("engine auto: taking cpu ({reason}); --engine cpu says the same without this line")));
                EngineKind::Cpu.into()
            }
        },
        EngineChoice::Null => {
            notes.push((true, NULL_NOTE.into()));
            EngineKind::Null.into()
        }
        EngineChoice::Cuda => {
            let device = Device::open(options)
                .map_err(|reason| Unfit(format!("engine cuda: {reason}; {}, or take --engine cpu or --engine auto", reason.remedy())))?;
            if let Some(reason) = too_old(&device) {
                return Err(Unfit(format!("engine cuda: {reason}; take a newer GPU, or take --engine cpu or --engine auto")));
            }
            notes.push((false, format!("engine cuda on {}", told(&device))));
            ChosenEngine { kind: EngineKind::Cuda, device: Some(device) }
        }
    })
}

/// The device, if there is one that `auto` may take; else why not.
fn usable_device(precision: PrecisionChoice, options: DeviceOptions, nvrtc: Option<&Path>) -> Result<Arc<Device>, String> {
    if matches!(precision, PrecisionChoice::Int8 | PrecisionChoice::F16) {
        return Err(format!("precision {precision} is the cpu engine's"));
    }
    let device = Device::open(options).map_err(|reason| reason.to_string())?;
    if let Some(reason) = too_old(&device) {
        return Err(reason);
    }
    // A model that brings no kernels would not be served.
    match Nvrtc::open(nvrtc) {
        Ok(_) => Ok(device),
        Err(missing) => Err(format!("{}: {missing}; where all bundles bring their kernels take --engine cuda", told(&device))),
    }
}

fn too_old(device: &Device) -> Option<String> {
    let (major, minor) = device.gpu().capability;
    Arch::of_device(major, minor).err().map(|reason| format!("{}: {reason}", told(device)))
}

fn told(device: &Device) -> String {
    let gpu = device.gpu();
    format!("GPU {} ({}, {} MiB)", gpu.ordinal, gpu.name, gpu.memory_bytes >> 20)
}

/// The same with what is configured for GPUs.
pub fn with_settings(options: PrepareOptions, settings: &CudaSettings) -> PrepareOptions {
    PrepareOptions { cubins: cubins(settings), wide_layers: wide_layers(settings), ..options }
}

/// How an engine makes models ready in this precision; [`with_settings`] adds what is configured. Error: the engine has no such arithmetic.
pub fn prepare_options(engine: &ChosenEngine, choice: PrecisionChoice, limits: ShiftLimits) -> Result<PrepareOptions, Unfit> {
    let precision = match choice {
        PrecisionChoice::F32 => Precision::F32,
        PrecisionChoice::Int8 => Precision::Int8,
        PrecisionChoice::F16 => Precision::F16,
        PrecisionChoice::Bf16 => Precision::Bf16,
    };
    let refused = match (engine.kind, precision) {
        (_, Precision::F32) | (EngineKind::Cpu, Precision::Int8 | Precision::F16) | (EngineKind::Cuda, Precision::Bf16) => None,
        (EngineKind::Null, _) => Some("the null engine computes nothing; leave precision at f32, or take engine cpu"),
        (EngineKind::Cpu, Precision::Bf16) => Some("the cpu engine has no arithmetic in bf16; take f32, int8 or f16, or engine cuda"),
        (EngineKind::Cuda, Precision::Int8 | Precision::F16) => {
            Some("the cuda engine computes in f32 or bf16; take one of them, or engine cpu")
        }
    };
    if let Some(reason) = refused {
        return Err(Unfit(format!("precision {}: {reason}", precision.name())));
    }
    Ok(PrepareOptions {
        precision: PrecisionOptions { precision, limits, even_small: false },
        device: engine.device.clone(),
        cubins: Cubins::default(),
        wide_layers: WideLayers::default(),
    })
}

const NULL_NOTE: &str = "engine null: every score is the same constant; this measures the server, it does not rank";

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(choice: EngineChoice, precision: PrecisionChoice, ordinal: usize) -> Result<(EngineKind, Vec<(bool, String)>), Unfit> {
        let mut notes = Vec::new();
        let settings = CudaSettings { device: ordinal, ..CudaSettings::default() };
        choose_engine(choice, precision, &settings, &mut notes).map(|engine| (engine.kind, notes))
    }

    #[test]
    fn no_silent_fallback() {
        let f32 = PrecisionChoice::F32;
        assert_eq!(decide(EngineChoice::Cpu, f32, 0), Ok((EngineKind::Cpu, vec![])));
        assert_eq!(decide(EngineChoice::Null, f32, 0), Ok((EngineKind::Null, vec![(true, NULL_NOTE.into())])));
        // No machine has so many GPUs, with a driver or without.
        let (engine, notes) = decide(EngineChoice::Auto, f32, 999).expect("the cpu at least");
        assert_eq!(engine, EngineKind::Cpu);
        assert!(notes[0].0 && notes[0].1.starts_with("engine auto: taking cpu ("), "{notes:?}");
        let Unfit(line) = decide(EngineChoice::Cuda, f32, 999).expect_err("no such GPU");
        assert!(
            line.starts_with("engine cuda: ") && line.ends_with(", or take --engine cpu or --engine auto") && !line.contains('\n'),
            "{line}"
        );
        let (engine, notes) = decide(EngineChoice::Auto, PrecisionChoice::Int8, 0).expect("the cpu");
        let expected = "engine auto: taking cpu (precision int8 is the cpu engine's); --engine cpu says the same without this line";
        assert_eq!((engine, notes), (EngineKind::Cpu, vec![(true, expected.into())]));
        let Unfit(line) = decide(EngineChoice::Auto, PrecisionChoice::Bf16, 999).expect_err("no such GPU");
        assert!(line.starts_with("precision bf16 is the cuda engine's, which engine auto cannot take ("), "{line}");
    }

    #[test]
    fn each_engine_has_its_precisions() {
        use EngineKind::{Cpu, Cuda, Null};
        use PrecisionChoice::{Bf16, F16, F32, Int8};
        let taken = [(Cpu, F32), (Cpu, Int8), (Cpu, F16), (Cuda, F32), (Cuda, Bf16), (Null, F32)];
        for engine in [Cpu, Cuda, Null] {
            for choice in [F32, Int8, F16, Bf16] {
                let options = prepare_options(&engine.into(), choice, ShiftLimits::default());
                assert_eq!(options.is_ok(), taken.contains(&(engine, choice)), "{engine:?} {choice}");
                if let Err(Unfit(line)) = options {
                    assert!(line.starts_with(&format!("precision {choice}: ")) && line.contains("engine c"), "{line}");
                }
            }
        }
    }
}
