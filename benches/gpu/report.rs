//! Figures, on the way to a terminal and to a file.

use std::path::Path;

use serde_json::{Map, Value, json};

/// What a mode found out, in order.
#[derive(Debug)]
pub struct Report {
    fields: Map<String, Value>,
    figures: Vec<Value>,
    /// What could not be measured.
    failed: Vec<String>,
}

/// Of several repetitions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half were faster.
    pub p50: f64,
    /// One of a hundred was slower.
    pub p99: f64,
    /// The fastest.
    pub least: f64,
    /// How many there were.
    pub count: usize,
}

impl Spread {
    /// Of at least one value.
    pub fn of(mut values: Vec<f64>) -> Spread {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() as f64 * share) as usize).min(values.len() - 1)];
        Spread { p50: at(0.5), p99: at(0.99), least: values[0], count: values.len() }
    }
}

impl Report {
    /// Of one mode.
    pub fn new(what: &str) -> Report {
        Report { fields: Map::from_iter([("what".to_string(), json!(what))]), figures: Vec::new(), failed: Vec::new() }
    }

    /// Something about the whole run.
    pub fn say(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        println!("{name:52} {}", value.as_str().map_or_else(|| value.to_string(), str::to_string));
        self.fields.insert(name.into(), value);
    }

    /// One number.
    pub fn figure(&mut self, name: &str, value: f64, unit: &str) {
        println!("{name:52} {value:>12.2} {unit}");
        self.figures.push(json!({ "name": name, "value": value, "unit": unit }));
    }

    /// Times of repetitions, in µs.
    pub fn times(&mut self, name: &str, microseconds: Vec<f64>) -> Spread {
        let spread = Spread::of(microseconds);
        println!("{name:52} {:>12.2} µs (p99 {:.2}, least {:.2}, of {})", spread.p50, spread.p99, spread.least, spread.count);
        let Spread { p50, p99, least, count } = spread;
        self.figures.push(json!({ "name": name, "value": p50, "unit": "µs", "p99": p99, "least": least, "count": count }));
        spread
    }

    /// Something that is so, or is not, and why.
    pub fn note(&mut self, name: &str, text: &str) {
        println!("{name:52} {text}");
        self.figures.push(json!({ "name": name, "note": text }));
    }

    /// Something that was to be measured and could not be: the rest goes on, and the run fails at its end.
    pub fn fail(&mut self, name: &str, error: &str) {
        self.note(&format!("{name} failed"), error);
        self.failed.push(name.into());
    }

    /// A row of a table; prints nothing.
    pub fn row(&mut self, row: Value) {
        self.figures.push(row);
    }

    /// All of it.
    pub fn into_json(self) -> Value {
        let mut fields = self.fields;
        fields.insert("figures".into(), Value::Array(self.figures));
        Value::Object(fields)
    }

    /// Into a file, if one was asked for. Error: the file's, or the names of what failed.
    pub fn write(self, file: Option<&Path>) -> Result<(), String> {
        let failed = self.failed.join(", ");
        if let Some(file) = file {
            std::fs::write(file, format!("{:#}\n", self.into_json())).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        if failed.is_empty() { Ok(()) } else { Err(format!("not measured: {failed}")) }
    }
}
