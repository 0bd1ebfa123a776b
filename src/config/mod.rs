//! File, environment and flags become checked settings.
//!
//! Everything is parsed, then everything is checked, then all that is wrong is reported at once; nothing is bound, opened or loaded before.
//! Invariant: unknown keys are errors. A [`Config`] that came out of [`Sources::load`] fits together.

mod address;
mod check;
mod choice;
mod layers;
mod reference;
mod settings;
mod value;

use std::fmt;
use std::path::{Path, PathBuf};

pub use address::Address;
pub use choice::{EngineChoice, IoChoice, LogFormat, LogLevel, PinChoice, Place, PrecisionChoice, Shards, WideLayersChoice};
pub use layers::{Origin, Problem};
pub use reference::{reference, show};
pub use settings::{Config, Cuda, Effective, General, Limits, Log, Setting, Timeouts, settings};
pub use value::Raw;

use layers::Layers;
use settings::ENVIRONMENT_PREFIX;

/// Where settings are looked for.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Configuration file.
    pub file: Option<PathBuf>,
    /// Environment: (name, value). Names without our prefix are ignored.
    pub environment: Vec<(String, String)>,
    /// Flags: (setting, name of the flag, value).
    pub flags: Vec<(String, String, Raw)>,
}

/// Settings, and what to tell about them.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Each with its origin.
    pub effective: Vec<Effective>,
    /// What looks like a mistake without being an error.
    pub warnings: Vec<String>,
}

/// All that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub Vec<Problem>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Invalid(problems) = self;
        write!(f, "the configuration has {} fault{}:", problems.len(), if problems.len() == 1 { "" } else { "s" })?;
        problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Invalid {}

impl Sources {
    /// Reads all sources. Errors: all faults of all of them.
    pub fn load(&self) -> Result<Loaded, Invalid> {
        let text = match &self.file {
            None => None,
            Some(path) => match std::fs::read_to_string(path) {
                Ok(text) => Some((path.as_path(), text)),
                Err(error) => {
                    let message = format!("cannot read the configuration file {}: {error}", path.display());
                    return Err(Invalid(vec![Problem { origin: Origin::Default, key: String::new(), message }]));
                }
            },
        };
        load(text.as_ref().map(|(path, text)| (*path, text.as_str())), &self.environment, &self.flags)
    }
}

/// [`Sources::load`] with the file's text at hand.
fn load(file: Option<(&Path, &str)>, environment: &[(String, String)], flags: &[(String, String, Raw)]) -> Result<Loaded, Invalid> {
    let mut layers = Layers::default();
    let mut problems = Vec::new();
    let settings = settings();
    if let Some((path, text)) = file {
        layers.read_toml(path, text, &mut problems);
    }
    let mut warnings = Vec::new();
    for (name, value) in environment.iter().filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)) {
        match settings.iter().find(|setting| setting.variable() == *name) {
            Some(setting) => layers.set(setting.key, Origin::Environment(name.clone()), Raw::Text(value.clone())),
            None if is_not_ours(name) => {}
            None => {
                let hint = nearest(name, settings.iter().map(Setting::variable));
                warnings.push(format!("environment {name}: no such setting, ignored{hint}"));
            }
        }
    }
    for (key, flag, raw) in flags {
        layers.set(key, Origin::Flag(flag.clone()), raw.clone());
    }
    let (config, effective) = Config::take(&mut layers, &mut problems);
    for (key, origin) in layers.rest() {
        let hint = nearest(&key, settings.iter().map(|setting| setting.key.to_owned()));
        problems.push(Problem { origin, key, message: format!("no such setting{hint}") });
    }
    for (key, message) in check::check(&config) {
        // Where a value of its own is wrong, what follows from the default that stands in for it says nothing.
        if problems.iter().all(|problem| problem.key != key) {
            let origin = effective.iter().find(|value| value.key == key).map_or(Origin::Default, |value| value.origin.clone());
            problems.push(Problem { origin, key: key.into(), message });
        }
    }
    if problems.is_empty() { Ok(Loaded { config, effective, warnings }) } else { Err(Invalid(problems)) }
}

/// Kubernetes puts `GAVEL_SERVICE_HOST`, `GAVEL_PORT_7400_TCP` and the like into every pod beside a service named gavel; `GAVEL_CONFIG` names
/// the file, `GAVEL_NVRTC` the CUDA compiler.
fn is_not_ours(name: &str) -> bool {
    ["GAVEL_CONFIG", "GAVEL_NVRTC"].contains(&name)
        || ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"].iter().any(|part| name.ends_with(part) || name.contains(&format!("{part}_")))
}

/// `; did you mean X?` where a name is near or has the same last part.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> String {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    known
        .map(|candidate| {
            let whole = distance(name, &candidate);
            let part = distance(&last(name), &last(&candidate));
            (whole.min(part), whole, candidate)
        })
        .min()
        .filter(|(near, _, candidate)| *near <= 3.min(candidate.len() / 3))
        .map_or(String::new(), |(_, _, candidate)| format!("; did you mean {candidate}?"))
}

/// Edit distance: insertions, deletions and replacements.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
