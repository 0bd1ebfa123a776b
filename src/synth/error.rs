//! What can go wrong while files are written.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::{LoadError, RowError};
use crate::reference::Refused;

/// Why a synthetic model was not written.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// Where it should go, something is.
    #[error("{}: exists already; name another place, or remove it", .0.display())]
    Exists(PathBuf),
    /// A path that names no file or folder.
    #[error("{}: ends in no name; name the folder or file that is to be made", .0.display())]
    Unnamed(PathBuf),
    /// The system.
    #[error("{}: cannot be written: {source}", file.display())]
    Io {
        /// What was being written.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Our own draft is no bundle.
    #[error("the draft of the bundle does not load, which is a bug: {0}")]
    Draft(#[from] LoadError),
    /// Our own rows do not fit the model.
    #[error("the selftest does not fit the draft, which is a bug: {0}")]
    Row(#[from] RowError),
    /// Our own rows are no legal requests.
    #[error("the selftest's rows are refused, which is a bug: {0}")]
    Refused(#[from] Refused),
}

impl SynthError {
    /// While writing `file`.
    pub fn io(file: &Path) -> impl Fn(io::Error) -> SynthError {
        move |source| SynthError::Io { file: file.to_owned(), source }
    }
}
