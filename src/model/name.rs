//! Names: short, printable, safe in a log line, a metric label and the signature's text.

use std::path::Path;

use crate::limits::{MODEL_NAME_BYTES_MAX, NAME_BYTES_MAX};

use super::error::Fault;
use super::json::{At, quote};

/// Of a feature, table, value or output: 1 to 128 letters, digits and `_ - . : / @ + # =`.
pub(crate) fn name(at: &At<'_>) -> Result<String, Box<Fault>> {
    let text = at.text()?;
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(is_name_byte) {
        let expected = format!("1 to {NAME_BYTES_MAX} ASCII letters, digits and _-.:/@+#=");
        return Err(at.fault(format!("the name {}", quote(text)), expected, "Choose another name"));
    }
    Ok(text.into())
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.:/@+#=".contains(&byte)
}

/// Whether `text` can be a model's public name: 1 to 64 letters, digits and `_ - .`, not starting with a dot.
pub fn is_model_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MODEL_NAME_BYTES_MAX
        && !text.starts_with('.')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// What [`is_model_name`] asks for, in words.
pub(crate) fn model_name_rule() -> String {
    format!("1 to {MODEL_NAME_BYTES_MAX} ASCII letters, digits and _-., not starting with a dot")
}

/// A model's name in the manifest.
pub(crate) fn model_name(at: &At<'_>) -> Result<String, Box<Fault>> {
    let text = at.text()?;
    if !is_model_name(text) {
        return Err(at.fault(format!("the name {}", quote(text)), model_name_rule(), "Choose another name"));
    }
    Ok(text.into())
}

/// A safetensors file of the bundle: a plain file name.
pub(crate) fn file_name(at: &At<'_>) -> Result<String, Box<Fault>> {
    let text = at.text()?;
    let plain = Path::new(text).file_name().is_some_and(|name| name == text) && !text.starts_with('.') && !text.contains(['/', '\\', '\0']);
    if !plain || text.len() > 255 || !text.ends_with(".safetensors") {
        return Err(at.fault(
            quote(text),
            "the plain name of a .safetensors file in the bundle's folder",
            "Put the file beside manifest.json",
        ));
    }
    Ok(text.into())
}
