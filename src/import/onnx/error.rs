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
        write!(f, "{}. {}", self.what, self.remedy)
    }
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
    #[error("{}: {place}: {problem}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Where in it.
        place: String,
        /// What is wrong.
        problem: Problem,
    },
    /// A node of the graph.
    #[error("{}: node {node:?} ({op}): {problem}", file.display())]
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
    #[error("{}: output {output}, row {row}: the imported graph gives {found}, the file records {expected} (allowed difference {allowed:.1e}). {remedy}", file.display())]
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
