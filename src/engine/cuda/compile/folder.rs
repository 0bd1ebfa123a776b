//! A folder of cubins: `kernels/` inside a bundle, or a cache.
//!
//! ```text
//! sm_90a-0123456789abcdef.cubin   what the driver loads
//! sm_90a-0123456789abcdef.json    which sources it was made of, by which compiler, its digest, what its kernels take
//! ```
//!
//! Each file appears whole (written beside, then renamed), the description last: several processes may write one folder.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::engine::cuda::Image;
use crate::model::Digest;

use super::arch::Arch;
use super::key::Key;
use super::resources::Resources;

/// What is known of a cubin, beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// SHA-256 of sources and flags, in hexadecimal: see [`Key`].
    pub sources: String,
    /// Version of NVRTC that compiled it.
    pub nvrtc: String,
    /// Size of the cubin.
    pub bytes: u64,
    /// SHA-256 of the cubin, in hexadecimal.
    pub sha256: String,
    /// What its kernels take; empty where the compiler did not tell.
    pub kernels: Vec<Resources>,
}

/// A cubin and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What the driver loads.
    pub cubin: Vec<u8>,
    /// What is known of it.
    pub description: Description,
}

/// Why a folder's entry is not used.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is there and is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// In what way.
        reason: String,
    },
}

/// A folder of cubins; it need not exist to be looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CubinFolder {
    path: PathBuf,
}

/// A description of a few hundred kernels.
const DESCRIPTION_BYTES_MAX: u64 = 1 << 20;

impl CubinFolder {
    /// In this place.
    pub fn new(path: impl Into<PathBuf>) -> CubinFolder {
        CubinFolder { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cubin's file.
    pub fn file(&self, key: Key) -> PathBuf {
        self.path.join(format!("{key}.cubin"))
    }

    /// The cubin of these sources; None if there is none. Errors: it is there and cannot be used.
    pub fn find(&self, key: Key) -> Result<Option<Stored>, EntryError> {
        let path = self.path.join(format!("{key}.json"));
        let damaged = |path: &Path, reason: String| EntryError::Damaged { path: path.into(), reason };
        let text = match read(&path, DESCRIPTION_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(|source| EntryError::Io { path: path.clone(), source })?,
        };
        let description: Description = serde_json::from_slice(&text).map_err(|error| damaged(&path, error.to_string()))?;
        if description.sources != key.digest().to_string() {
            return Err(damaged(&path, format!("it describes a cubin of sources {}, not of {}", description.sources, key.digest())));
        }
        let path = self.file(key);
        let cubin = read(&path, description.bytes).map_err(|source| EntryError::Io { path: path.clone(), source })?;
        let found = (cubin.len() as u64, Digest::of(&cubin).to_string());
        if found != (description.bytes, description.sha256.clone()) {
            let reason = format!("{} bytes of digest {}; written were {} of {}", found.0, found.1, description.bytes, description.sha256);
            return Err(damaged(&path, reason));
        }
        // Whoever writes here may write a digest, too; and a compiler may have been interrupted.
        Image::new(&cubin).map_err(|error| damaged(&path, error.to_string()))?;
        Ok(Some(Stored { cubin, description }))
    }

    /// Whether it holds a cubin for this architecture, of whatever sources.
    pub fn has(&self, arch: Arch) -> bool {
        let start = format!("{arch}-");
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .any(|name| name.starts_with(&start) && name.ends_with(".cubin"))
    }

    /// Puts a cubin in, in the place of one of the same sources. Makes the folder.
    pub fn store(&self, key: Key, cubin: &[u8], nvrtc: &str, kernels: &[Resources]) -> Result<(), EntryError> {
        let description = Description {
            sources: key.digest().to_string(),
            nvrtc: nvrtc.into(),
            bytes: cubin.len() as u64,
            sha256: Digest::of(cubin).to_string(),
            kernels: kernels.to_vec(),
        };
        let error = |path: &Path, source| EntryError::Io { path: path.into(), source };
        fs::create_dir_all(&self.path).map_err(|source| error(&self.path, source))?;
        let mut text = serde_json::to_vec_pretty(&description).map_err(|source| error(&self.path, source.into()))?;
        text.push(b'\n');
        for (path, bytes) in [(self.file(key), cubin), (self.path.join(format!("{key}.json")), &text)] {
            write_whole(&path, bytes).map_err(|source| error(&path, source))?;
        }
        Ok(())
    }
}

/// At most one byte more than `most`: enough to see that a file is too long.
fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Nobody sees a part of the file, whatever happens meanwhile.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.{}.part", process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed)));
    let part = path.with_file_name(name);
    let written = File::create(&part).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    let result = written.and_then(|()| fs::rename(&part, path));
    if result.is_err() {
        // What cannot be removed now is no file that anyone reads.
        let _ = fs::remove_file(&part);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::nvrtc::CompileOptions;
    use super::*;
    use crate::engine::cuda::image::sample;

    fn key(source: &str) -> Key {
        Key::new(source, &[], "sm_80".parse().expect("an architecture"), &CompileOptions::default())
    }

    #[test]
    fn what_is_stored_is_found() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = CubinFolder::new(place.path().join("a/b"));
        assert!(folder.find(key("one")).expect("no folder yet").is_none());
        let kernels = [Resources { function: "k".into(), registers: 40, ..Resources::default() }];
        for cubin in [sample(b"older code"), sample(b"code")] {
            folder.store(key("one"), &cubin, "12.9", &kernels).expect("stored");
        }
        let found = folder.find(key("one")).expect("readable").expect("there");
        assert_eq!(
            (found.cubin.as_slice(), found.description.nvrtc.as_str(), found.description.kernels.as_slice()),
            (sample(b"code").as_slice(), "12.9", &kernels[..])
        );
        assert!(folder.find(key("two")).expect("readable").is_none());
        assert!(folder.has("sm_80".parse().expect("an architecture")) && !folder.has("sm_89".parse().expect("an architecture")));
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2, "no parts are left");
    }

    #[test]
    fn what_is_damaged_is_not_used() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = CubinFolder::new(place.path());
        let (cubin, description) = (folder.file(key("one")), place.path().join(format!("{}.json", key("one"))));
        let fault = || folder.find(key("one")).expect_err("damaged").to_string();
        let code = sample(b"code");
        let renew = || folder.store(key("one"), &code, "12.9", &[]).expect("stored");
        let longer = [&code[..], b"s"].concat();
        let mut other = code.clone();
        other[64..68].copy_from_slice(b"cope");
        for (file, bytes, reason) in [
            (&cubin, &b"cod"[..], "3 bytes of digest"),
            (&cubin, &longer, "381 bytes of digest"),
            (&cubin, &other, "380 bytes of digest"),
            (&description, b"", "EOF"),
            (&description, b"{\"sources\": \"\"}", "missing field"),
            (&description, b"\xff\xff", "line 1"),
        ] {
            renew();
            fs::write(file, bytes).expect("written");
            let fault = fault();
            assert!(fault.starts_with(&file.display().to_string()) && fault.contains(reason), "{fault}");
        }
        renew();
        fs::remove_file(&cubin).expect("removed");
        assert!(fault().contains("No such file"));
        folder.store(key("two"), &code, "12.9", &[]).expect("stored");
        fs::copy(place.path().join(format!("{}.json", key("two"))), &description).expect("copied");
        assert!(fault().contains("it describes a cubin of sources"));
    }

    /// With digests that fit: what is no whole image never reaches the driver, which would read behind its end.
    #[test]
    fn what_is_no_image_is_not_used() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = CubinFolder::new(place.path());
        let whole = sample(b"code");
        let mut for_another_machine = whole.clone();
        for_another_machine[18] = 62;
        for (bytes, reason) in [
            (&b""[..], "0 bytes that are no 64-bit ELF image"),
            (b"// PTX", "6 bytes that are no 64-bit ELF image"),
            (&for_another_machine, "an ELF image for machine 62, not for NVIDIA GPUs (machine 190)"),
            (&whole[..200], "an ELF image that is cut off: its segments' entries end at byte 380 of 200"),
        ] {
            folder.store(key("one"), bytes, "12.9", &[]).expect("stored");
            let fault = folder.find(key("one")).expect_err("refused").to_string();
            assert_eq!(fault, format!("{}: {reason}", folder.file(key("one")).display()));
        }
        folder.store(key("one"), &whole, "12.9", &[]).expect("stored");
        assert!(folder.find(key("one")).is_ok_and(|stored| stored.is_some()));
    }
}
