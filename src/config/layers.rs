//! Where values come from: flags over environment over file over defaults.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::value::Raw;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the configuration file.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Something that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// The setting, or empty where it concerns the whole.
    pub key: String,
    /// What, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, self.key.as_str()) {
            (Origin::Default, "") => write!(f, "{}", self.message),
            (Origin::Default, key) => write!(f, "{key}: {}", self.message),
            (origin, "") => write!(f, "{origin}: {}", self.message),
            (origin, key) => write!(f, "{origin}: {key}: {}", self.message),
        }
    }
}

/// Values by dotted key. Later layers replace earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    values: BTreeMap<String, (Origin, Raw)>,
}

impl Layers {
    /// Sets a value, over what was there.
    pub fn set(&mut self, key: &str, origin: Origin, raw: Raw) {
        self.values.insert(key.into(), (origin, raw));
    }

    /// Takes a value out.
    pub fn take(&mut self, key: &str) -> Option<(Origin, Raw)> {
        self.values.remove(key)
    }

    /// What nobody took: unknown keys.
    pub fn rest(self) -> impl Iterator<Item = (String, Origin)> {
        self.values.into_iter().map(|(key, (origin, _))| (key, origin))
    }

    /// The values of a TOML text. Faults of syntax are added to `problems`.
    pub fn read_toml(&mut self, path: &Path, text: &str, problems: &mut Vec<Problem>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            problems.push(Problem { origin: Origin::File(path.into(), line), key: String::new(), message: error.message().into() });
        }
        self.flatten(path, text, "", table.get_ref());
    }

    fn flatten(&mut self, path: &Path, text: &str, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
            match value.get_ref() {
                DeValue::Table(inner) => self.flatten(path, text, &name, inner),
                other => self.set(&name, Origin::File(path.into(), line_of(text, key.span().start)), raw(other)),
            }
        }
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::String(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Raw::Other("integer beyond 64 bits"), Raw::Integer)
        }
        DeValue::Float(number) => number.as_str().replace('_', "").parse().map_or(Raw::Other("float"), Raw::Float),
        DeValue::Boolean(value) => Raw::Boolean(*value),
        DeValue::Array(array) => Raw::List(array.iter().map(|value| raw(value.get_ref())).collect()),
        other => Raw::Other(other.type_str()),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}
