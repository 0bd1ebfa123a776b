//! Why a bundle is refused: which file, which field, what was found, what was expected, what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong in one place of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// The place in it: a JSON path such as `features[3].width`, a tensor; empty = the file as a whole.
    pub at: String,
    /// What is there.
    pub found: String,
    /// What should be there.
    pub expected: String,
    /// What to do about it.
    pub remedy: String,
}

impl Fault {
    /// A fault of a file.
    pub fn new(
        file: &Path,
        at: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Box<Fault> {
        Box::new(Fault { file: file.to_owned(), at: at.into(), found: found.into(), expected: expected.into(), remedy: remedy.into() })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if !self.at.is_empty() {
            write!(f, "{}: ", self.at)?;
        }
        write!(f, "{}; expected {}", self.found, self.expected)?;
        if !self.remedy.is_empty() {
            write!(f, ". {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Why a bundle cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The system refuses to give the file.
    #[error("{}: {doing}: {source}. {remedy}", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's reason.
        source: io::Error,
        /// What to do about it.
        remedy: String,
    },
    /// A folder that is no bundle, or whose place in the models folder means nothing.
    #[error("{0}")]
    Folder(Box<Fault>),
    /// A format version that this build does not read.
    #[error("{0}")]
    Format(Box<Fault>),
    /// The manifest: syntax, keys, names, limits, shapes.
    #[error("{0}")]
    Manifest(Box<Fault>),
    /// Size or digest of a file is not what the manifest says.
    #[error("{0}")]
    Integrity(Box<Fault>),
    /// A weights file: header, missing tensor, shape, type.
    #[error("{0}")]
    Weights(Box<Fault>),
    /// A weight that is NaN or infinite.
    #[error("{0}")]
    NotFinite(Box<Fault>),
    /// The selftest file: missing or misshapen tensors, illegal inputs.
    #[error("{0}")]
    Selftest(Box<Fault>),
}

impl LoadError {
    /// An error of the system while `doing` something with `file`.
    pub(crate) fn io(file: &Path, doing: &'static str, source: io::Error) -> LoadError {
        let remedy = match source.kind() {
            io::ErrorKind::NotFound => "Check the path, and that the whole bundle was copied",
            io::ErrorKind::PermissionDenied => "Give the server's user permission to read it",
            io::ErrorKind::UnexpectedEof => "The file changed while it was read: copy the bundle again, then start again",
            io::ErrorKind::OutOfMemory => "Give the server more memory, or serve fewer models",
            _ => "Check the disk, then copy the bundle again",
        };
        LoadError::Io { file: file.to_owned(), doing, source, remedy: remedy.into() }
    }
}

/// `" Did you mean \"x\"?"`-style hint: the known name that is closest to `name`, if any is close.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    // Hostile files may hold many long names: look at a bounded number.
    known
        .take(2000)
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(name.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| format!("Did you mean {candidate:?}?"))
}

/// What to do about an unknown name that resembles none.
pub(crate) fn unknown_name() -> String {
    "Check the spelling".into()
}

/// Levenshtein distance of the first 64 bytes.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (&a.as_bytes()[..a.len().min(64)], &b.as_bytes()[..b.len().min(64)]);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_close() {
        let known = ["relu", "linear", "sigmoid"];
        assert_eq!(did_you_mean("liner", known.into_iter()), Some("Did you mean \"linear\"?".into()));
        assert_eq!(did_you_mean("convolution", known.into_iter()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
