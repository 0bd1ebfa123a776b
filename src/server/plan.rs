//! What a server will run on, decided and explained before anything is started: shards and CPUs, the sockets' backend, the engine.

use crate::config::{Config, EngineChoice, PrecisionChoice, Shards};
use crate::engine::cpu::PrecisionOptions;
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
        let engine = choose_engine(config.general.engine, &mut notes)?;
        let general = &config.general;
        let limits = ShiftLimits { probability: general.precision_shift, auc: general.precision_auc };
        let prepare = prepare_options(engine, general.precision, limits)?;
        let io = preflight::choose(config.general.io).map_err(|refused| Unfit(refused.0))?;
        notes.push((io.warn, io.message));
        let cpus = Cpus::detect().map_err(|error| Unfit(format!("the process's CPU affinity cannot be read: {error}")))?;
        let asked = match config.general.shards {
            Shards::Auto => None,
            Shards::Count(count) => Some(usize::from(count)),
        };
        let placement = cpus.place(asked, config.general.pin);
        notes.push((false, placement.message.clone()));
        Ok(Plan { placement, io: io.backend, engine, prepare, notes })
    }
}

/// Decides for an engine; `notes` gets what an operator should read.
pub fn choose_engine(choice: EngineChoice, notes: &mut Vec<(bool, String)>) -> Result<EngineKind, Unfit> {
    Ok(match choice {
        EngineChoice::Cpu => EngineKind::Cpu,
        EngineChoice::Auto => {
            notes.push((true, AUTO_NOTE.into()));
            EngineKind::Cpu
        }
        EngineChoice::Null => {
            notes.push((true, NULL_NOTE.into()));
            EngineKind::Null
        }
        EngineChoice::Cuda => return Err(Unfit(CUDA_REFUSED.into())),
    })
}

/// How an engine makes models ready in this precision; the null engine has none.
pub fn prepare_options(engine: EngineKind, choice: PrecisionChoice, limits: ShiftLimits) -> Result<PrepareOptions, Unfit> {
    let precision = match choice {
        PrecisionChoice::F32 => Precision::F32,
        PrecisionChoice::Int8 => Precision::Int8,
        PrecisionChoice::F16 => Precision::F16,
    };
    if engine == EngineKind::Null && precision != Precision::F32 {
        return Err(Unfit(format!(
            "precision {}: the null engine computes nothing; leave precision at f32, or take engine cpu",
            precision.name()
        )));
    }
    Ok(PrepareOptions { precision: PrecisionOptions { precision, limits, even_small: false }, device: None })
}

const AUTO_NOTE: &str = "engine auto: taking cpu (this build has no GPU engine; --engine cpu says the same without this line)";
const NULL_NOTE: &str = "engine null: every score is the same constant; this measures the server, it does not rank";
const CUDA_REFUSED: &str = "engine cuda: this build has no CUDA engine; use --engine cpu, or --engine auto to take the best one there is";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_silent_fallback() {
        let decide = |choice| {
            let mut notes = Vec::new();
            choose_engine(choice, &mut notes).map(|engine| (engine, notes.len()))
        };
        assert_eq!(decide(EngineChoice::Cpu), Ok((EngineKind::Cpu, 0)));
        assert_eq!(decide(EngineChoice::Auto), Ok((EngineKind::Cpu, 1)));
        assert_eq!(decide(EngineChoice::Null), Ok((EngineKind::Null, 1)));
        assert_eq!(decide(EngineChoice::Cuda), Err(Unfit(CUDA_REFUSED.into())));
    }
}
