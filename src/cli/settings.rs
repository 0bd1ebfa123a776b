//! Flags that set the configuration, shared by `serve` and `config show`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::exit::Failure;
use crate::config::{EngineChoice, IoChoice, Loaded, LogFormat, LogLevel, PinChoice, PrecisionChoice, Raw, Sources};

/// Flags over environment (`GAVEL_*`) over file over defaults.
#[derive(Args, Clone, Debug, Default)]
pub struct SettingArgs {
    /// Configuration file (TOML)
    ///
    /// Everything that the flags below set, and all limits and timeouts, can be set there; see `gavel config reference`.
    #[arg(long, value_name = "FILE", env = "GAVEL_CONFIG")]
    pub config: Option<PathBuf>,

    /// Folder of bundles: NAME/VERSION/, or NAME/ for version 1 [default: models]
    #[arg(long, value_name = "DIR")]
    pub models: Option<String>,

    /// Address that answers rank requests, host:port or unix:/path; may be given several times [default: 127.0.0.1:7400]
    ///
    /// Use a Unix socket where the caller runs on the same machine: it costs less per request than TCP on loopback. Use 0.0.0.0:7400 for
    /// callers elsewhere, on a network that you trust: the protocol carries no encryption.
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<String>,

    /// Address of /metrics, /livez and /readyz [default: 127.0.0.1:7401]
    ///
    /// In a pod use 0.0.0.0:7401: the kubelet's probes come from outside.
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,

    /// Serving threads, a number or auto [default: auto]
    ///
    /// auto takes the CPUs that this process may use (affinity and cgroup quota) and leaves one to the control thread from four on. Take fewer
    /// where other programs share the machine; more than there are CPUs never helps.
    #[arg(long, value_name = "N")]
    pub shards: Option<String>,

    /// What computes the scores [default: auto]
    ///
    /// cpu runs anywhere. cuda needs an NVIDIA GPU (A100 or newer) and its driver, and fails with 78 otherwise. auto takes the best there is and
    /// says which.
    /// null answers a constant: it measures everything around the engine.
    #[arg(long, value_name = "ENGINE", value_parser = PossibleValuesParser::new(EngineChoice::NAMES))]
    pub engine: Option<String>,

    /// In what numbers dense layers are computed [default: f32]
    ///
    /// bf16 is for GPUs: products on tensor cores. The others are for CPUs: int8 is several times as fast where the CPU has VNNI, f16 halves the
    /// bytes of weights (for small batches of large models). How far answers move is measured on the selftest. Where that is more than
    /// precision_shift and precision_auc allow, layers stay in f32 on CPUs (`gavel check --precision int8` shows which), and GPUs refuse the
    /// model.
    #[arg(long, value_name = "PRECISION", value_parser = PossibleValuesParser::new(PrecisionChoice::NAMES))]
    pub precision: Option<String>,

    /// What the sockets run on [default: auto]
    ///
    /// uring is faster and is refused by many container runtimes (see `gavel doctor`): name it in production, so that a refusal is an error
    /// with its reason. auto falls back to epoll and says so.
    #[arg(long, value_name = "IO", value_parser = PossibleValuesParser::new(IoChoice::NAMES))]
    pub io: Option<String>,

    /// Whether each shard is bound to one CPU [default: auto]
    ///
    /// on for machines (or pods with whole CPUs) that serve nothing else; off under a CPU quota or beside other programs.
    #[arg(long, value_name = "WHEN", value_parser = PossibleValuesParser::new(PinChoice::NAMES))]
    pub pin: Option<String>,

    /// How long an idle shard looks for work before it sleeps, in µs [default: 0]
    ///
    /// 0 on shared machines. 50 to 1000 saves the tens of µs that waking takes, at the price of a busy CPU.
    #[arg(long, value_name = "US")]
    pub spin_us: Option<String>,

    /// How log lines look [default: auto]
    #[arg(long, value_name = "FORMAT", value_parser = PossibleValuesParser::new(LogFormat::NAMES))]
    pub log_format: Option<String>,

    /// The least important line that is written [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = PossibleValuesParser::new(LogLevel::NAMES))]
    pub log_level: Option<String>,

    /// Any setting of the configuration file, for example limits.batch_rows=4096; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
}

impl SettingArgs {
    /// Loads the configuration. Error: all faults, exit code 2.
    pub fn load(&self) -> Result<Loaded, Failure> {
        self.sources(environment()).load().map_err(Failure::usage)
    }

    fn sources(&self, environment: Vec<(String, String)>) -> Sources {
        let single = [
            ("models", "--models", &self.models),
            ("admin", "--admin", &self.admin),
            ("shards", "--shards", &self.shards),
            ("engine", "--engine", &self.engine),
            ("precision", "--precision", &self.precision),
            ("io", "--io", &self.io),
            ("pin", "--pin", &self.pin),
            ("spin_us", "--spin-us", &self.spin_us),
            ("log.format", "--log-format", &self.log_format),
            ("log.level", "--log-level", &self.log_level),
        ];
        // What has a flag of its own comes after --set, and so wins.
        let mut flags: Vec<_> = self.set.iter().map(|(key, value)| (key.clone(), "--set".into(), Raw::Text(value.clone()))).collect();
        for (key, flag, value) in single {
            flags.extend(value.clone().map(|value| (key.into(), flag.into(), Raw::Text(value))));
        }
        if !self.listen.is_empty() {
            let list = self.listen.iter().cloned().map(Raw::Text).collect();
            flags.push(("listen".into(), "--listen".into(), Raw::List(list)));
        }
        Sources { file: self.config.clone(), environment, flags }
    }
}

/// A setting as `--set` takes it.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, for example limits.batch_rows=4096")?;
    Ok((key.trim().into(), value.into()))
}

/// The process's environment; bytes that are no UTF-8 are replaced, and then refused by whatever setting they are for.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Shards;

    #[test]
    fn every_flag_arrives() {
        let args = SettingArgs {
            models: Some("m".into()),
            listen: vec!["127.0.0.1:1".into(), "unix:/a".into()],
            admin: Some("127.0.0.1:2".into()),
            shards: Some("3".into()),
            engine: Some("null".into()),
            precision: Some("int8".into()),
            io: Some("epoll".into()),
            pin: Some("off".into()),
            spin_us: Some("9".into()),
            log_format: Some("json".into()),
            log_level: Some("warn".into()),
            set: vec![("limits.models".into(), "7".into()), ("shards".into(), "9".into())],
            config: None,
        };
        let loaded = args.sources(Vec::new()).load().expect("valid");
        let general = &loaded.config.general;
        assert_eq!((general.models.to_str(), general.listen.len(), general.admin.to_string()), (Some("m"), 2, "127.0.0.1:2".into()));
        assert_eq!((general.shards, general.engine, general.io), (Shards::Count(3), EngineChoice::Null, IoChoice::Epoll));
        assert_eq!(general.precision, PrecisionChoice::Int8);
        assert_eq!((general.pin, general.spin_us), (PinChoice::Off, 9));
        assert_eq!((loaded.config.log.format, loaded.config.log.level), (LogFormat::Json, LogLevel::Warn));
        assert_eq!(loaded.config.limits.models, 7);
    }

    #[test]
    fn sets_are_pairs() {
        assert_eq!(key_value("a.b = 1=2"), Ok(("a.b".into(), " 1=2".into())));
        assert!(key_value("a").is_err());
    }
}
