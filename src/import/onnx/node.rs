//! A node as its op sees it: attributes by name, with the defaults of the op.

use std::collections::HashMap;

use super::constant::Const;
use super::error::{Checked, problem};
use super::proto;
use super::tensor::{External, constant};

/// A node of the graph or of a function's body.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    /// The node of the file.
    pub proto: &'a proto::Node,
    /// Attributes of the call, if the node stands in a function's body.
    pub caller: &'a HashMap<String, proto::Attribute>,
}

impl<'a> Node<'a> {
    /// The attribute of that name, if it is given.
    pub fn attribute(&self, name: &str) -> Option<&'a proto::Attribute> {
        let found = self.proto.attribute.iter().find(|attribute| attribute.name == name)?;
        if found.ref_attr_name.is_empty() { Some(found) } else { self.caller.get(&found.ref_attr_name) }
    }

    /// Whether the attribute is given.
    pub fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    /// An integer.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.i)
    }

    /// A truth value.
    pub fn flag(&self, name: &str) -> bool {
        self.int(name, 0) != 0
    }

    /// A number.
    pub fn float(&self, name: &str, default: f64) -> f64 {
        self.attribute(name).map_or(default, |attribute| f64::from(attribute.f))
    }

    /// Integers, if they are given.
    pub fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.attribute(name).map(|attribute| attribute.ints.as_slice())
    }

    /// Numbers; empty if they are not given.
    pub fn floats(&self, name: &str) -> &'a [f32] {
        self.attribute(name).map_or(&[], |attribute| attribute.floats.as_slice())
    }

    /// A word.
    pub fn text(&self, name: &str, default: &'a str) -> &'a str {
        self.attribute(name).map_or(default, |attribute| std::str::from_utf8(&attribute.s).unwrap_or("?"))
    }

    /// Words; empty if they are not given.
    pub fn texts(&self, name: &str) -> Vec<&'a str> {
        let texts: &[Vec<u8>] = self.attribute(name).map_or(&[], |attribute| attribute.strings.as_slice());
        texts.iter().map(|text| std::str::from_utf8(text).unwrap_or("?")).collect()
    }

    /// A tensor.
    pub fn tensor(&self, name: &str, external: &mut External) -> Checked<Option<Const>> {
        let Some(tensor) = self.attribute(name).and_then(|attribute| attribute.t.as_ref()) else { return Ok(None) };
        constant(tensor.clone(), self.output(), external).map(Some)
    }

    /// Its first output's name.
    pub fn output(&self) -> &'a str {
        self.proto.output.first().map_or("", String::as_str)
    }

    /// Whether the output of that number is wanted.
    pub fn wants(&self, output: usize) -> bool {
        self.proto.output.get(output).is_some_and(|name| !name.is_empty())
    }

    /// Refuses an attribute that has a value other than its default.
    pub fn only(&self, name: &str, default: i64) -> Checked<()> {
        match self.int(name, default) {
            value if value == default => Ok(()),
            value => Err(problem(format!("{name} = {value}"), format!("Only {name} = {default} can be imported"))),
        }
    }
}
