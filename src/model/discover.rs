//! A models folder: `NAME/VERSION/` with one bundle per version, or `NAME/` (= version 1).

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::{Fault, LoadError};
use super::load::MANIFEST;
use super::name::{is_model_name, model_name_rule};

/// A bundle in a models folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BundleRef {
    /// Public name: the folder's.
    pub name: String,
    /// Version: the inner folder's number, else 1.
    pub version: u64,
    /// The folder that holds the manifest.
    pub path: PathBuf,
}

/// All bundles of a models folder, by name, then version. Plain files and names that start with a dot are skipped.
///
/// Errors: the folder cannot be read; a folder in it holds no bundle, or is named so that no request could ask for it.
pub fn discover(models: &Path) -> Result<Vec<BundleRef>, LoadError> {
    let mut bundles = Vec::new();
    for (name, path) in folders(models)? {
        if !is_model_name(&name) {
            let fault = Fault::new(&path, "", format!("the folder name {name:?}"), model_name_rule(), "Rename the folder");
            return Err(LoadError::Folder(fault));
        }
        let versions = folders(&path)?;
        if path.join(MANIFEST).is_file() {
            bundles.push(BundleRef { name, version: 1, path });
            continue;
        }
        if versions.is_empty() {
            let expected = format!("{MANIFEST}, or folders named by version numbers");
            return Err(LoadError::Folder(Fault::new(&path, "", "no bundle", expected, "Copy the bundle here, or remove the folder")));
        }
        for (version, path) in versions {
            let Some(version) = version.parse().ok().filter(|number: &u64| number.to_string() == version) else {
                let remedy = "Rename or remove the folder";
                return Err(LoadError::Folder(Fault::new(&path, "", format!("the folder name {version:?}"), "a version number", remedy)));
            };
            bundles.push(BundleRef { name: name.clone(), version, path });
        }
    }
    bundles.sort();
    Ok(bundles)
}

/// Names and paths of the folders in `path`, without hidden ones.
fn folders(path: &Path) -> Result<Vec<(String, PathBuf)>, LoadError> {
    let error = |source| LoadError::io(path, "cannot list the folder", source);
    let mut folders = Vec::new();
    for entry in fs::read_dir(path).map_err(error)? {
        let path = entry.map_err(error)?.path();
        let name = path.file_name().unwrap_or(OsStr::new("")).to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "lost+found" {
            folders.push((name, path));
        }
    }
    Ok(folders)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions() {
        let models = tempfile::tempdir().unwrap();
        let path = |name: &str| models.path().join(name);
        for bundle in ["a", "b/2", "b/10", ".hidden"] {
            fs::create_dir_all(path(bundle)).unwrap();
            fs::write(path(bundle).join(MANIFEST), "{}").unwrap();
        }
        fs::write(path("README.md"), "").unwrap();
        let found = discover(models.path()).unwrap();
        let found: Vec<_> = found.iter().map(|bundle| (bundle.name.as_str(), bundle.version)).collect();
        assert_eq!(found, [("a", 1), ("b", 2), ("b", 10)]);

        fs::create_dir(path("c")).unwrap();
        let error = discover(models.path()).unwrap_err().to_string();
        assert!(error.ends_with(
            "/c: no bundle; expected manifest.json, or folders named by version numbers. Copy the bundle here, or remove the folder"
        ));
        fs::create_dir(path("c/02")).unwrap();
        assert!(discover(models.path()).unwrap_err().to_string().contains("/c/02: the folder name \"02\"; expected a version number"));
        fs::remove_dir_all(path("c")).unwrap();
        fs::create_dir(path("d d")).unwrap();
        assert!(discover(models.path()).unwrap_err().to_string().contains("/d d: the folder name \"d d\"; expected 1 to 64"));
    }
}
