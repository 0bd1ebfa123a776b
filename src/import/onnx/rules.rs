//! `features.toml`: what an ONNX file cannot say of its inputs. `docs/import.md` describes the keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value as Json;

use super::error::{ImportError, Problem, problem};
use super::lower::Input;
use crate::limits::RULES_BYTES_MAX;

/// The file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// What the model calls itself.
    pub name: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// By input, column (`INPUT.3`) or columns (`INPUT.5-8`).
    #[serde(default)]
    features: BTreeMap<String, FeatureRule>,
    /// By output.
    #[serde(default)]
    outputs: BTreeMap<String, OutputRule>,
    #[serde(skip)]
    file: PathBuf,
}

/// What is said of an input or of columns of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureRule {
    /// Of the feature.
    pub name: Option<String>,
    /// Of the columns: each becomes a feature.
    pub names: Option<Vec<String>>,
    /// `context` or `candidate`.
    pub scope: Option<Json>,
    /// `dense`, `sparse` or `integer`.
    pub kind: Option<KindRule>,
    /// As in a manifest.
    pub hash: Option<Json>,
    /// As in a manifest.
    pub padding: Option<Json>,
    /// As in a manifest.
    pub missing: Option<Json>,
    /// As in a manifest.
    pub out_of_range: Option<Json>,
    /// As in a manifest.
    pub id_type: Option<Json>,
    /// As in a manifest.
    pub transform: Option<Json>,
    /// As in a manifest.
    pub nan: Option<Json>,
}

impl FeatureRule {
    /// The rules that may change values of the feature `name`, as `hash of name`.
    pub(super) fn given(&self, name: &str) -> Vec<String> {
        let rules = [
            ("hash", &self.hash),
            ("padding", &self.padding),
            ("missing", &self.missing),
            ("out_of_range", &self.out_of_range),
            ("transform", &self.transform),
            ("nan", &self.nan),
        ];
        let changes = |rule: &Json| !matches!(rule.as_str(), Some("keep" | "error" | "none"));
        let kind = self.kind.map(|_| "kind");
        let rules = rules.into_iter().filter(|(_, rule)| rule.as_ref().is_some_and(changes)).map(|(key, _)| key);
        kind.into_iter().chain(rules).map(|key| format!("{key} of {name}")).collect()
    }
}

/// The kind that a person wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KindRule {
    /// f32 values.
    Dense,
    /// Ids of a table.
    Sparse,
    /// Integers.
    Integer,
}

/// What is said of an output.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputRule {
    /// Of an output of one number.
    pub name: Option<String>,
    /// Of its columns.
    pub names: Option<Vec<String>>,
    /// `probability`, `logit` or `value`.
    pub kind: Option<Json>,
}

/// A rule with the columns that it speaks of.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Its key in the file.
    pub key: String,
    /// Which input.
    pub input: usize,
    /// First column.
    pub start: usize,
    /// Behind the last one.
    pub end: usize,
    /// It speaks of the input as a whole.
    pub whole: bool,
    /// What it says.
    pub rule: FeatureRule,
}

impl Rules {
    /// Reads `text`, the content of `file`.
    pub fn parse(file: &Path, text: &str) -> Result<Rules, ImportError> {
        let fault = |place: &str, problem| ImportError::File { file: file.to_owned(), place: place.into(), problem };
        if text.len() as u64 > RULES_BYTES_MAX {
            return Err(fault("file", problem(format!("{} bytes", text.len()), format!("At most {RULES_BYTES_MAX}"))));
        }
        let mut rules: Rules = toml::from_str(text)
            .map_err(|error| fault("file", problem(error.to_string().trim_end().to_owned(), "docs/import.md lists the keys")))?;
        rules.file = file.to_owned();
        Ok(rules)
    }

    /// A complaint about a key.
    pub fn fault(&self, key: &str, problem: Problem) -> ImportError {
        ImportError::File { file: self.file.clone(), place: key.into(), problem }
    }

    /// The rules of features, the widest first. Error: a key that names no input, or columns that it does not have.
    pub(super) fn placed(&self, inputs: &[Input]) -> Result<Vec<Placed>, ImportError> {
        let mut placed = Vec::new();
        for (key, rule) in &self.features {
            let (input, start, end, whole) = place(key, inputs).ok_or_else(|| {
                let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
                let what = format!("no input of that name with such columns; the inputs are {}", names.join(", "));
                self.fault(&format!("features.{key:?}"), problem(what, "Name an input, a column (INPUT.3) or columns (INPUT.5-8)"))
            })?;
            if rule.names.as_ref().is_some_and(|names| names.len() != end - start) {
                let what = format!("{} names for {} columns", rule.names.as_ref().map_or(0, Vec::len), end - start);
                return Err(self.fault(&format!("features.{key:?}.names"), problem(what, "Give one name per column")));
            }
            if rule.name.is_some() && rule.names.is_some() {
                let remedy = "name is for one feature, names for one feature per column";
                return Err(self.fault(&format!("features.{key:?}"), problem("both name and names", remedy)));
            }
            placed.push(Placed { key: key.clone(), input, start, end, whole, rule: rule.clone() });
        }
        placed.sort_by_key(|placed| std::cmp::Reverse((placed.whole, placed.end - placed.start)));
        Ok(placed)
    }

    /// The rule of an output.
    pub(super) fn output(&self, name: &str) -> Option<&OutputRule> {
        self.outputs.get(name)
    }

    /// Error: a rule of an output that the graph does not have.
    pub(super) fn check_outputs(&self, outputs: &[String]) -> Result<(), ImportError> {
        match self.outputs.keys().find(|key| !outputs.contains(key)) {
            None => Ok(()),
            Some(key) => {
                let what = format!("no output of that name; the outputs are {}", outputs.join(", "));
                Err(self.fault(&format!("outputs.{key:?}"), problem(what, "Name an output of the graph")))
            }
        }
    }
}

/// Input and columns that a key names.
fn place(key: &str, inputs: &[Input]) -> Option<(usize, usize, usize, bool)> {
    if let Some(input) = inputs.iter().position(|input| input.name == key) {
        return Some((input, 0, inputs[input].len(), true));
    }
    let (name, columns) = key.rsplit_once('.')?;
    let input = inputs.iter().position(|input| input.name == name)?;
    let (start, last) = match columns.split_once('-') {
        Some((start, last)) => (start.parse().ok()?, last.parse().ok()?),
        None => {
            let column: usize = columns.parse().ok()?;
            (column, column)
        }
    };
    (start <= last && last < inputs[input].len()).then_some((input, start, last + 1, false))
}
