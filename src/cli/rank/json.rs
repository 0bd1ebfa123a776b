//! Inputs as JSON lines: one row per line, or one request per line.
//!
//! ```text
//! {"I1": 0.3, "C1": 5, "tags": [1, 2], "tags.weights": [0.5, 1]}
//! {"context": {"user": 7}, "candidates": [{"ad": 1}, {"ad": 2}]}
//! ```
//! `null` is a missing id, or NaN in a dense feature. A key that the model does not take is ignored with a note; a feature without a value is
//! an error.

use std::collections::BTreeMap;
use std::io::BufRead;

use gavel_protocol::{DescribedFeature, Description, FeatureKind, Scope};
use serde_json::{Map, Value};

use super::columns::{Column, InputError, Inputs, MISSING, Notes};

/// Reads all lines. Empty lines are skipped.
pub fn read(description: &Description, lines: impl BufRead) -> Result<(Inputs, Notes), InputError> {
    let mut reader = Reader {
        description,
        inputs: Inputs { columns: description.features.iter().map(Column::new).collect(), rows: 0, contexts: None },
        ignored: BTreeMap::new(),
    };
    let mut whole_requests = None;
    for (index, line) in lines.lines().enumerate() {
        let at = |message: String| InputError(format!("line {}: {message}", index + 1));
        let line = line.map_err(|error| at(error.to_string()))?;
        if line.trim().is_empty() {
            continue;
        }
        let object: Map<String, Value> = serde_json::from_str(&line).map_err(|error| at(format!("no JSON object: {error}")))?;
        let candidates = request(description, &object);
        if *whole_requests.get_or_insert(candidates.is_some()) != candidates.is_some() {
            return Err(at("the file mixes rows and requests (\"candidates\"): use one form".into()));
        }
        match candidates {
            None => reader.row(&object).map_err(at)?,
            Some(candidates) => reader.request(&object, candidates).map_err(at)?,
        }
    }
    let notes = reader.ignored.into_iter().map(|(key, times)| format!("{key}: not taken by the model, ignored ({times} times)")).collect();
    Ok((reader.inputs, notes))
}

/// The candidates of a line that is a whole request: `candidates` is a list of objects, and no feature bears that name.
fn request<'a>(description: &Description, object: &'a Map<String, Value>) -> Option<&'a [Value]> {
    let candidates = object.get("candidates")?.as_array()?;
    let objects = candidates.iter().all(Value::is_object);
    (objects && description.features.iter().all(|feature| feature.name != "candidates")).then_some(candidates)
}

struct Reader<'a> {
    description: &'a Description,
    inputs: Inputs,
    ignored: BTreeMap<String, usize>,
}

impl Reader<'_> {
    fn row(&mut self, object: &Map<String, Value>) -> Result<(), String> {
        self.push(object, None)?;
        self.inputs.rows += 1;
        Ok(())
    }

    fn request(&mut self, object: &Map<String, Value>, candidates: &[Value]) -> Result<(), String> {
        if candidates.is_empty() {
            return Err("a request needs at least one candidate".into());
        }
        let empty = Map::new();
        let context = match object.get("context") {
            None => &empty,
            Some(context) => context.as_object().ok_or("\"context\" is no object")?,
        };
        for key in object.keys().filter(|key| !["context", "candidates"].contains(&key.as_str())) {
            self.ignore(key);
        }
        self.push(context, Some(Scope::Context)).map_err(|message| format!("context: {message}"))?;
        let start = self.inputs.rows;
        for (index, candidate) in candidates.iter().enumerate() {
            let candidate = candidate.as_object().unwrap_or(&empty);
            self.push(candidate, Some(Scope::Candidate)).map_err(|message| format!("candidate {index}: {message}"))?;
            self.inputs.rows += 1;
        }
        self.inputs.contexts.get_or_insert_default().push(start..self.inputs.rows);
        Ok(())
    }

    /// Adds the features of a scope (`None` = both) from one object.
    fn push(&mut self, object: &Map<String, Value>, scope: Option<Scope>) -> Result<(), String> {
        let mut taken = 0;
        for (feature, column) in self.description.features.iter().zip(&mut self.inputs.columns) {
            if scope.is_some_and(|scope| scope != feature.scope) {
                continue;
            }
            let value = object.get(&feature.name).ok_or_else(|| format!("{}: no value", feature.name))?;
            let weights = if feature.is_weighted() { object.get(&format!("{}.weights", feature.name)) } else { None };
            taken += 1 + usize::from(weights.is_some());
            put(feature, column, value, weights).map_err(|message| format!("{}: {message}", feature.name))?;
        }
        if taken < object.len() {
            for key in object.keys() {
                let of_scope = |feature: &&DescribedFeature| scope.is_none_or(|scope| scope == feature.scope);
                let known = self.description.features.iter().filter(of_scope).any(|feature| {
                    feature.name == *key || (feature.is_weighted() && key.strip_suffix(".weights") == Some(feature.name.as_str()))
                });
                if !known {
                    self.ignore(key);
                }
            }
        }
        Ok(())
    }

    fn ignore(&mut self, key: &str) {
        if self.ignored.len() < NOTES_MAX || self.ignored.contains_key(key) {
            *self.ignored.entry(key.into()).or_default() += 1;
        }
    }
}

fn put(feature: &DescribedFeature, column: &mut Column, value: &Value, weights: Option<&Value>) -> Result<(), String> {
    let values = list(value);
    let width = feature.width as usize;
    if width != 0 && values.len() != width {
        return Err(format!("expected {width} values, found {}", values.len()));
    }
    match column {
        Column::Dense { values: into, .. } => {
            for value in values {
                into.push(number(value)?);
            }
        }
        Column::Ids { ends, ids, weights: into } => {
            for value in values {
                ids.push(id(feature, value)?);
            }
            ends.push(ids.len());
            if feature.is_weighted() {
                let weights = weights.ok_or_else(|| format!("no value for {}.weights", feature.name))?;
                for weight in list(weights) {
                    into.push(number(weight)?);
                }
                if into.len() != ids.len() {
                    return Err(format!("{} ids and {} weights", values.len(), list(weights).len()));
                }
            }
        }
    }
    Ok(())
}

/// A list, or a single value as a list of one.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice)
}

fn number(value: &Value) -> Result<f32, String> {
    if value.is_null() {
        return Ok(f32::NAN);
    }
    let wide = value.as_f64().ok_or_else(|| format!("expected a number, found {}", kind(value)))?;
    let narrow = wide as f32;
    if narrow.is_infinite() { Err(format!("{wide} does not fit into 32 bits")) } else { Ok(narrow) }
}

fn id(feature: &DescribedFeature, value: &Value) -> Result<u64, String> {
    if value.is_null() && feature.kind == FeatureKind::Sparse {
        return Ok(MISSING);
    }
    let id = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
    let id = id.ok_or_else(|| format!("expected a whole number, found {}", kind(value)))?;
    check_id(feature, id, value.as_i64().is_some_and(|signed| signed < 0))
}

/// Ids are kept in 64 bits, negative ones in two's complement; they must fit into the feature's bytes.
pub(super) fn check_id(feature: &DescribedFeature, id: u64, negative: bool) -> Result<u64, String> {
    let fits = match (feature.id_bytes, negative, feature.kind) {
        (8, ..) => true,
        (_, true, _) => id as i64 >= i64::from(i32::MIN),
        (_, false, FeatureKind::Integer) => id <= i32::MAX as u64,
        (_, false, _) => id <= u64::from(u32::MAX),
    };
    if !fits {
        let shown = if negative { (id as i64).to_string() } else { id.to_string() };
        return Err(format!("{shown} does not fit into the {} bytes of its ids", feature.id_bytes));
    }
    Ok(id)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number that is none",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Notes about so many different keys.
const NOTES_MAX: usize = 20;
