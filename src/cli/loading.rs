//! Bundles from disk, with progress.

use std::path::Path;
use std::sync::Arc;

use super::progress::{Progress, Unit};
use crate::model::{self, LoadError, LoadOptions, Model};

/// Loads the bundle in `path`.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Arc<Model>, LoadError> {
    let mut shown: Option<Progress> = None;
    let model = model::load(path, options, &mut |progress| {
        let bar = shown.get_or_insert_with(|| Progress::new(format!("loading {}", path.display()), progress.total, Unit::Bytes));
        bar.set(progress.bytes);
    });
    if let Some(bar) = shown {
        bar.clear();
    }
    model.map(Arc::new)
}
