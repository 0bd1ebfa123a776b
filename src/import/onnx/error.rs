//! Why an ONNX file is not imported: the place, what is there, the way out.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What is wrong, and what to do about it; the place is added by whoever knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is there.
    pub what: String,
    /// The way out.
    pub remedy: String,
}

/// A problem.
pub fn problem(what: impl Into<String>, remedy: impl Into<String>) -> Problem {
    Problem { what: what.into(), remedy: remedy.into() }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {}", Short(&self.what), Short(&self.remedy))
    }
}

/// Text of a file as a person can read it: names may have any length there. What is long is cut in the middle.
struct Short<'a>(&'a str);

/// Characters that are shown of a word, and of a text.
const WORD: usize = 160;
const TEXT: usize = 2000;

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for word in self.0.split_inclusive(char::is_whitespace) {
            text.push_str(&cut(word, WORD));
        }
        f.write_str(&cut(&text, TEXT))
    }
}

/// At most `most` characters, those left out in the middle marked by an ellipsis.
fn cut(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let end = most / 3;
    let start = most - end - 1;
    text.chars().take(start).chain(['…']).chain(text.chars().skip(count - end)).collect()
}

/// Of an op.
pub type Checked<T> = Result<T, Problem>;

/// Why an import failed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The system refuses a file.
    #[error("{}: {doing}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A file says something that cannot be imported: the model, its inputs and outputs, the features' rules, the rows.
    #[error("{}: {}: {problem}", file.display(), Short(place))]
    File {
        /// The file.
        file: PathBuf,
        /// Where in it.
        place: String,
        /// What is wrong.
        problem: Problem,
    },
    /// A node of the graph.
    #[error("{}: node {} ({}): {problem}", file.display(), Short(&format!("{node:?}")), Short(op))]
    Node {
        /// The file.
        file: PathBuf,
        /// Its name, or its first output.
        node: String,
        /// Its op, with the domain if that is not the default.
        op: String,
        /// What is wrong.
        problem: Problem,
    },
    /// The bundle that was made does not load: a fault of the importer or a limit of bundles.
    #[error("the imported bundle is refused: {0}")]
    Bundle(#[from] crate::model::LoadError),
    /// The graph computes something else than the rows record.
    #[error(
        "{}: output {output}, row {row}: the imported graph gives {found}, the file records {expected} \
         (allowed difference {allowed:.1e}). {remedy}",
        file.display()
    )]
    Mismatch {
        /// The rows' file.
        file: PathBuf,
        /// Which output.
        output: String,
        /// Which row.
        row: usize,
        /// By the reference interpreter.
        found: f64,
        /// Of the file.
        expected: f64,
        /// By the tolerance.
        allowed: f64,
        /// The way out.
        remedy: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut() {
        let long = "n".repeat(5000);
        let cases = [
            ("a short one".to_owned(), 11),
            (format!("the name {long} is long"), 9 + WORD + 7),
            (format!("{} end", "é ".repeat(5000)), TEXT),
        ];
        for (text, expected) in cases {
            let shown = Short(&text).to_string();
            assert_eq!(shown.chars().count(), expected, "{shown}");
            assert_eq!(shown.contains('…'), shown != text);
        }
        let error = ImportError::Node { file: "m".into(), node: long.clone(), op: long, problem: problem("a", "b") };
        assert!(error.to_string().len() < 400, "{error}");
    }
}
