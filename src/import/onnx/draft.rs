//! A bundle that is written and not yet in its place.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::ImportError;
use super::report::Report;

/// What an import made, beside the place where it will stand: whoever serves bundles may look at it first. Dropped, it is removed.
#[derive(Debug)]
pub struct Draft {
    folder: Partial,
    out: PathBuf,
    report: Report,
}

impl Draft {
    /// A whole bundle in `folder`, meant for `out`.
    pub(super) fn new(folder: Partial, out: PathBuf, report: Report) -> Draft {
        Draft { folder, out, report }
    }

    /// The bundle's folder for now.
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// What the import did.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Moves the bundle to its place.
    pub fn publish(self) -> Result<Report, ImportError> {
        let error = |source| ImportError::Io { file: self.out.clone(), doing: "cannot be written", source };
        fs::rename(self.folder(), &self.out).map_err(error)?;
        Ok(self.report)
    }
}

/// A folder that is removed if it is still there at the end.
#[derive(Debug)]
pub(super) struct Partial(pub PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone after the move; else the error that led here is the one to report.
        let _ = fs::remove_dir_all(&self.0);
    }
}
