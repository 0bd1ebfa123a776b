//! JSON as a tree whose cursor knows where it is, so that every complaint names its place. Repeated keys are refused.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::error::{Fault, did_you_mean};

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Unsigned(u64),
    /// Below zero.
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Parses a document. Syntax errors name line and column.
    pub(crate) fn parse(file: &Path, bytes: &[u8]) -> Result<Json, Box<Fault>> {
        serde_json::from_slice(bytes).map_err(|error| {
            Fault::new(file, "", format!("not valid JSON: {error}"), "one JSON object", "Correct the file, or export it again")
        })
    }

    fn describe(&self) -> String {
        match self {
            Json::Null => "null".into(),
            Json::Bool(value) => value.to_string(),
            Json::Unsigned(value) => value.to_string(),
            Json::Signed(value) => value.to_string(),
            Json::Float(value) => format!("{value:?}"),
            Json::Text(text) => quote(text),
            Json::List(items) => format!("a list of {}", items.len()),
            Json::Object(_) => "an object".into(),
        }
    }
}

/// The text in quotes, shortened if it is long.
pub(crate) fn quote(text: &str) -> String {
    const SHOWN: usize = 96;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        struct Tree;
        impl<'de> Visitor<'de> for Tree {
            type Value = Json;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Unsigned(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(u64::try_from(value).map_or(Json::Signed(value), Json::Unsigned))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Float(value))
            }
            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Text(value.into()))
            }
            fn visit_string<E>(self, value: String) -> Result<Json, E> {
                Ok(Json::Text(value))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(Json::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
                let mut entries: Vec<(String, Json)> = Vec::new();
                while let Some(entry) = access.next_entry()? {
                    entries.push(entry);
                }
                let mut keys: Vec<&str> = entries.iter().map(|(key, _)| key.as_str()).collect();
                keys.sort_unstable();
                match keys.windows(2).find(|pair| pair[0] == pair[1]) {
                    Some(pair) => Err(A::Error::custom(format_args!("the key {} is given twice", quote(pair[0])))),
                    None => Ok(Json::Object(entries)),
                }
            }
        }
        deserializer.deserialize_any(Tree)
    }
}

/// The number behind "inf" and "-inf", for which JSON has no number.
pub(crate) fn infinity(text: &str) -> Option<f64> {
    match text {
        "inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// A place in a document.
#[derive(Clone, Debug)]
pub(crate) struct At<'a> {
    pub file: &'a Path,
    /// `graph[3].axis`; empty for the document.
    pub path: String,
    pub json: &'a Json,
}

impl<'a> At<'a> {
    /// The document itself.
    pub fn root(file: &'a Path, json: &'a Json) -> At<'a> {
        At { file, path: String::new(), json }
    }

    /// A complaint about this place.
    pub fn fault(&self, found: impl Into<String>, expected: impl Into<String>, remedy: impl Into<String>) -> Box<Fault> {
        Fault::new(self.file, self.path.clone(), found, expected, remedy)
    }

    /// A complaint about the value here.
    pub fn wrong(&self, expected: impl Into<String>) -> Box<Fault> {
        self.fault(self.json.describe(), expected, "Correct the value")
    }

    pub fn text(&self) -> Result<&'a str, Box<Fault>> {
        match self.json {
            Json::Text(text) => Ok(text),
            _ => Err(self.wrong("a string")),
        }
    }

    pub fn boolean(&self) -> Result<bool, Box<Fault>> {
        match self.json {
            Json::Bool(value) => Ok(*value),
            _ => Err(self.wrong("true or false")),
        }
    }

    /// A finite number.
    pub fn number(&self) -> Result<f64, Box<Fault>> {
        match self.json {
            Json::Unsigned(value) => Ok(*value as f64),
            Json::Signed(value) => Ok(*value as f64),
            Json::Float(value) if value.is_finite() => Ok(*value),
            _ => Err(self.wrong("a number")),
        }
    }

    /// A finite number, or one of the strings "inf" and "-inf".
    pub fn number_or_infinity(&self) -> Result<f64, Box<Fault>> {
        match self.json {
            Json::Text(text) => infinity(text).ok_or_else(|| self.wrong("a number, \"inf\" or \"-inf\"")),
            _ => self.number(),
        }
    }

    /// An integer within `low..=high`.
    pub fn integer(&self, low: i64, high: i64) -> Result<i64, Box<Fault>> {
        let value = match self.json {
            Json::Unsigned(value) => i64::try_from(*value).ok(),
            Json::Signed(value) => Some(*value),
            _ => None,
        };
        let expected = || if high == i64::MAX { format!("an integer from {low}") } else { format!("an integer from {low} to {high}") };
        value.filter(|value| (low..=high).contains(value)).ok_or_else(|| self.wrong(expected()))
    }

    /// A count within `low..=high`.
    pub fn count(&self, low: usize, high: usize) -> Result<usize, Box<Fault>> {
        let high = i64::try_from(high).unwrap_or(i64::MAX);
        Ok(self.integer(low as i64, high)? as usize)
    }

    /// The items of a list of at most `most`.
    pub fn list(&self, most: usize) -> Result<Vec<At<'a>>, Box<Fault>> {
        match self.json {
            Json::List(items) if items.len() > most => Err(self.wrong(format!("at most {most} items"))),
            Json::List(items) => {
                Ok(items.iter().enumerate().map(|(i, json)| At { file: self.file, path: format!("{}[{i}]", self.path), json }).collect())
            }
            _ => Err(self.wrong("a list")),
        }
    }

    /// The object here, whose keys are then taken one by one.
    pub fn object(&self) -> Result<Object<'a>, Box<Fault>> {
        match self.json {
            Json::Object(entries) => {
                let entries = entries.iter().map(|(key, json)| (key.as_str(), json, Cell::new(false))).collect();
                Ok(Object { at: self.clone(), entries, known: RefCell::default() })
            }
            _ => Err(self.wrong("an object")),
        }
    }
}

/// An object of which each key is taken at most once; [`Object::finish`] refuses what was not asked for.
pub(crate) struct Object<'a> {
    pub at: At<'a>,
    entries: Vec<(&'a str, &'a Json, Cell<bool>)>,
    /// The keys asked for so far.
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Object<'a> {
    fn child(&self, key: &str, json: &'a Json) -> At<'a> {
        let path = if self.at.path.is_empty() { key.into() } else { format!("{}.{key}", self.at.path) };
        At { file: self.at.file, path, json }
    }

    /// The value of a key that may be absent.
    pub fn optional(&self, key: &'static str) -> Option<At<'a>> {
        self.known.borrow_mut().push(key);
        let (_, json, taken) = self.entries.iter().find(|(name, ..)| *name == key)?;
        taken.set(true);
        Some(self.child(key, json))
    }

    /// The value of a key.
    pub fn required(&self, key: &'static str) -> Result<At<'a>, Box<Fault>> {
        self.optional(key).ok_or_else(|| self.at.fault(format!("no key {key:?}"), "one", "docs/bundle.md lists the keys"))
    }

    /// Refuses keys that were not asked for.
    pub fn finish(&self) -> Result<(), Box<Fault>> {
        let Some((key, ..)) = self.entries.iter().find(|(_, _, taken)| !taken.get()) else { return Ok(()) };
        let known = self.known.borrow();
        let remedy = did_you_mean(key, known.iter().copied()).unwrap_or_else(|| "Remove the key".into());
        Err(self.at.fault(format!("unknown key {}", quote(key)), format!("only {}", known.join(", ")), remedy))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Json, Box<Fault>> {
        Json::parse(Path::new("m.json"), text.as_bytes())
    }

    /// The largest f32, as programs print it: an attention mask's usual number must not become one that f32 cannot hold.
    #[test]
    fn numbers_are_read_exactly() {
        let json = parse(r#"{"a": -3.4028234663852886e38, "b": 0.1}"#).unwrap();
        let root = At::root(Path::new("m.json"), &json).object().unwrap();
        assert_eq!(root.required("a").unwrap().number().unwrap(), f64::from(f32::MIN));
        assert_eq!(root.required("b").unwrap().number().unwrap(), 0.1);
    }

    #[test]
    fn names_the_place() {
        let json = parse(r#"{"a": [{"b": -1}], "c": 1.5}"#).unwrap();
        let root = At::root(Path::new("m.json"), &json).object().unwrap();
        let b = root.required("a").unwrap().list(9).unwrap()[0].object().unwrap().required("b").unwrap();
        assert_eq!(b.count(0, 7).unwrap_err().to_string(), "m.json: a[0].b: -1; expected an integer from 0 to 7. Correct the value");
        assert_eq!(root.finish().unwrap_err().to_string(), "m.json: unknown key \"c\"; expected only a. Remove the key");
    }

    #[test]
    fn refuses_repeated_keys_and_deep_nesting() {
        assert!(parse(r#"{"a": 1, "a": 2}"#).unwrap_err().to_string().contains("the key \"a\" is given twice"));
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse("1e999").is_err());
    }
}
