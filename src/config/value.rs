//! Values of settings: from TOML, from text (environment, flags), back to TOML.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::address::Address;
use super::choice::{EngineChoice, IoChoice, LogFormat, LogLevel, PinChoice, Place, PrecisionChoice, Shards, WideLayersChoice};

/// A value as it was given, not yet of any type.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    /// From the environment or a flag: may become any type.
    Text(String),
    /// A TOML string.
    String(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML float.
    Float(f64),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array, or a flag given several times.
    List(Vec<Raw>),
    /// Something that no setting takes: the name of its TOML type.
    Other(&'static str),
}

impl Raw {
    fn describe(&self) -> String {
        match self {
            Raw::Text(text) | Raw::String(text) => format!("{text:?}"),
            Raw::Integer(number) => number.to_string(),
            Raw::Float(number) => number.to_string(),
            Raw::Boolean(value) => value.to_string(),
            Raw::List(_) => "an array".into(),
            Raw::Other(name) => format!("a TOML {name}"),
        }
    }
}

/// A type that a setting may have.
pub trait Value: Sized {
    /// Reads a value. Error: what was expected and what was found.
    fn read(raw: &Raw) -> Result<Self, String>;
    /// As it is written in TOML.
    fn to_toml(&self) -> String;
    /// The number that a range applies to.
    fn number(&self) -> Option<u64> {
        None
    }
}

/// Whether the value is inside its setting's range.
pub fn check_range(value: &impl Value, range: Option<&RangeInclusive<u64>>) -> Result<(), String> {
    match (value.number(), range) {
        (Some(number), Some(range)) if !range.contains(&number) => {
            Err(format!("expected a whole number from {} to {}, found {number}", range.start(), range.end()))
        }
        _ => Ok(()),
    }
}

/// Text as a TOML string.
pub fn quote(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn read(raw: &Raw) -> Result<$type, String> {
                let number = match raw {
                    Raw::Integer(number) => <$type>::try_from(*number).ok(),
                    Raw::Text(text) => text.trim().replace('_', "").parse().ok(),
                    _ => None,
                };
                number.ok_or_else(|| format!("expected a whole number, found {}", raw.describe()))
            }
            fn to_toml(&self) -> String {
                self.to_string()
            }
            fn number(&self) -> Option<u64> {
                u64::try_from(*self).ok()
            }
        }
    )*};
}
integers!(u32, usize);

/// A finite number.
impl Value for f64 {
    fn read(raw: &Raw) -> Result<f64, String> {
        let number = match raw {
            Raw::Float(number) => Some(*number),
            Raw::Integer(number) => Some(*number as f64),
            Raw::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.filter(|number| number.is_finite()).ok_or_else(|| format!("expected a number, found {}", raw.describe()))
    }
    fn to_toml(&self) -> String {
        // With a point: TOML tells floats from integers.
        format!("{self:?}")
    }
}

macro_rules! named {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn read(raw: &Raw) -> Result<$type, String> {
                match raw {
                    Raw::Text(text) | Raw::String(text) => text.trim().parse(),
                    _ => Err(format!("expected one of {}, found {}", <$type>::NAMES.join(", "), raw.describe())),
                }
            }
            fn to_toml(&self) -> String {
                quote(&self.to_string())
            }
        }
    )*};
}
named!(EngineChoice, PrecisionChoice, WideLayersChoice, IoChoice, PinChoice, LogFormat, LogLevel);

impl Value for Shards {
    fn read(raw: &Raw) -> Result<Shards, String> {
        match raw {
            Raw::Text(text) | Raw::String(text) => text.trim().parse(),
            Raw::Integer(number) => number.to_string().parse(),
            _ => Err(format!("expected \"auto\" or a whole number, found {}", raw.describe())),
        }
    }
    fn to_toml(&self) -> String {
        match self {
            Shards::Auto => quote("auto"),
            Shards::Count(count) => count.to_string(),
        }
    }
}

impl Value for PathBuf {
    fn read(raw: &Raw) -> Result<PathBuf, String> {
        match raw {
            Raw::Text(text) | Raw::String(text) if !text.is_empty() => Ok(text.into()),
            _ => Err(format!("expected a path, found {}", raw.describe())),
        }
    }
    fn to_toml(&self) -> String {
        quote(&self.to_string_lossy())
    }
}

impl Value for Place {
    fn read(raw: &Raw) -> Result<Place, String> {
        match raw {
            Raw::Text(text) | Raw::String(text) if text == "auto" => Ok(Place::Auto),
            raw => PathBuf::read(raw).map(Place::Path).map_err(|_| format!("expected \"auto\" or a path, found {}", raw.describe())),
        }
    }
    fn to_toml(&self) -> String {
        match self {
            Place::Auto => quote("auto"),
            Place::Path(path) => path.to_toml(),
        }
    }
}

impl Value for Address {
    fn read(raw: &Raw) -> Result<Address, String> {
        match raw {
            Raw::Text(text) | Raw::String(text) => text.trim().parse(),
            _ => Err(format!("expected \"host:port\" or \"unix:/path\", found {}", raw.describe())),
        }
    }
    fn to_toml(&self) -> String {
        quote(&self.to_string())
    }
}

/// One or several: an array, one string, or text with commas.
impl Value for Vec<Address> {
    fn read(raw: &Raw) -> Result<Vec<Address>, String> {
        match raw {
            Raw::Text(text) => text.split(',').map(|part| Address::read(&Raw::Text(part.into()))).collect(),
            Raw::List(list) => Ok(list.iter().map(one_or_more).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect()),
            other => Ok(vec![Address::read(other)?]),
        }
    }
    fn to_toml(&self) -> String {
        format!("[{}]", self.iter().map(Value::to_toml).collect::<Vec<_>>().join(", "))
    }
}

/// An element of a list; lists in lists are refused.
fn one_or_more(raw: &Raw) -> Result<Vec<Address>, String> {
    match raw {
        Raw::List(_) => Err("expected \"host:port\" or \"unix:/path\", found an array".into()),
        other => Vec::<Address>::read(other),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn text(text: &str) -> Raw {
        Raw::Text(text.into())
    }

    #[test]
    fn numbers() {
        for (raw, expected) in [
            (Raw::Integer(7), Some(7)),
            (text("1_000"), Some(1000)),
            (text(" 12 "), Some(12)),
            (Raw::Integer(-1), None),
            (Raw::Integer(i64::MAX), None),
            (Raw::String("7".into()), None),
            (text("4294967296"), None),
            (text(""), None),
            (Raw::Boolean(true), None),
        ] {
            assert_eq!(u32::read(&raw).ok(), expected, "{raw:?}");
        }
        assert_eq!(check_range(&5u32, Some(&(1..=4))), Err("expected a whole number from 1 to 4, found 5".into()));
        assert_eq!(check_range(&5u32, Some(&(1..=5))), Ok(()));
        assert_eq!(check_range(&5u32, None), Ok(()));
    }

    #[test]
    fn places() {
        for (raw, expected) in [
            (text("auto"), Some(Place::Auto)),
            (Raw::String("/a b".into()), Some(Place::Path("/a b".into()))),
            (text("./auto"), Some(Place::Path("./auto".into()))),
            (text(""), None),
            (Raw::Integer(1), None),
        ] {
            assert_eq!(Place::read(&raw).ok(), expected, "{raw:?}");
        }
        assert_eq!(Place::read(&text("")), Err("expected \"auto\" or a path, found \"\"".into()));
        assert_eq!((Place::Auto.path(), Place::Path("/a".into()).path()), (None, Some(Path::new("/a"))));
    }

    #[test]
    fn numbers_with_a_fraction() {
        for (raw, expected) in [
            (Raw::Float(0.005), Some(0.005)),
            (Raw::Integer(1), Some(1.0)),
            (text(" 5e-3 "), Some(0.005)),
            (text("inf"), None),
            (Raw::Float(f64::NAN), None),
            (Raw::String("0.1".into()), None),
            (text(""), None),
        ] {
            assert_eq!(f64::read(&raw).ok(), expected, "{raw:?}");
        }
        assert_eq!((0.005f64.to_toml(), 1.0f64.to_toml()), ("0.005".into(), "1.0".into()));
    }

    #[test]
    fn lists_of_addresses() {
        let two = ["127.0.0.1:1", "unix:/a"].map(|address| address.parse::<Address>().expect("valid"));
        for raw in [
            text("127.0.0.1:1,unix:/a"),
            Raw::List(vec![text("127.0.0.1:1"), text("unix:/a")]),
            Raw::List(vec![Raw::String("127.0.0.1:1".into()), Raw::String("unix:/a".into())]),
        ] {
            assert_eq!(Vec::<Address>::read(&raw).expect("valid"), two, "{raw:?}");
        }
        for raw in [Raw::Integer(80), Raw::List(vec![Raw::List(vec![])]), text("127.0.0.1:1,"), Raw::Other("datetime")] {
            assert!(Vec::<Address>::read(&raw).is_err(), "{raw:?}");
        }
        assert_eq!(two.to_vec().to_toml(), r#"["127.0.0.1:1", "unix:/a"]"#);
    }
}
