//! Bundles from disk, with progress.

use std::path::Path;
use std::sync::Arc;

use super::progress::{Progress, Unit};
use crate::model::{self, LoadError, LoadOptions, Model};

/// Loads the bundle in `path` under a public name and version.
pub fn load(path: &Path, name: &str, version: u64) -> Result<Arc<Model>, LoadError> {
    let options = LoadOptions { name: Some(name.into()), version };
    let mut shown: Option<Progress> = None;
    let model = model::load(path, &options, &mut |progress| {
        let bar = shown.get_or_insert_with(|| Progress::new(format!("loading {name}/{version}"), progress.total, Unit::Bytes));
        bar.set(progress.bytes);
    });
    if let Some(bar) = shown {
        bar.clear();
    }
    model.map(Arc::new)
}
