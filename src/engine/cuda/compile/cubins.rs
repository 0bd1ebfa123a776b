//! Where a program's code comes from: its bundle, the cache, or the compiler, in this order.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::EngineError;
use crate::engine::cuda::Program;

use super::arch::Arch;
use super::error::{CompileError, NvrtcMissing};
use super::folder::CubinFolder;
use super::headers::headers;
use super::key::Key;
use super::nvrtc::{CompileOptions, Nvrtc};
use super::resources::Resources;

/// The folder of a bundle that holds its kernels.
pub const BUNDLE_FOLDER: &str = "kernels";

/// Finds or makes cubins.
#[derive(Clone, Debug, Default)]
pub struct Cubins {
    cache: Option<CubinFolder>,
    nvrtc: Option<PathBuf>,
}

/// Code for a program on one architecture.
#[derive(Clone, Debug)]
pub struct Cubin {
    /// What the driver loads.
    pub code: Vec<u8>,
    /// For which devices.
    pub arch: Arch,
    /// What its kernels take; empty where the compiler did not tell.
    pub kernels: Vec<Resources>,
    /// Where it is from.
    pub origin: CubinOrigin,
}

/// Where a cubin is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CubinOrigin {
    /// Shipped inside the bundle: this file.
    Bundle(PathBuf),
    /// Compiled earlier on this machine: this file.
    Cache(PathBuf),
    /// Compiled now.
    Compiled {
        /// The compiler's version.
        nvrtc: String,
        /// How long it took.
        took: Duration,
    },
}

impl Cubins {
    /// `cache`: where to keep what was compiled; None = nowhere ([`default_cache`] is the usual place). `nvrtc`: the compiler's library or its
    /// folder; None = found as [`Nvrtc::open`] says, once it is needed.
    pub fn new(cache: Option<PathBuf>, nvrtc: Option<PathBuf>) -> Cubins {
        Cubins { cache: cache.map(CubinFolder::new), nvrtc }
    }

    /// The program's code for `arch`. Says in the log where it is from.
    ///
    /// A file of the bundle or the cache that cannot be used is named in the log, and the next place is tried. Errors: the code must be compiled
    /// and there is no compiler, or it fails.
    pub fn find_or_compile(&self, program: &Program, arch: Arch, options: &CompileOptions) -> Result<Cubin, EngineError> {
        let model = &program.model;
        let shipped = model.folder.as_ref().map(|folder| CubinFolder::new(folder.join(BUNDLE_FOLDER)));
        self.find_or_compile_source(&model.name, &program.source, shipped.as_ref(), arch, options)
    }

    fn find_or_compile_source(
        &self,
        model: &str,
        source: &str,
        shipped: Option<&CubinFolder>,
        arch: Arch,
        options: &CompileOptions,
    ) -> Result<Cubin, EngineError> {
        let key = Key::new(source, headers(), arch, options);
        let mut damaged = Vec::new();
        let mut found = |folder: &CubinFolder| {
            let stored = folder.find(key).unwrap_or_else(|error| {
                tracing::warn!(model, %arch, %error, "compiled kernels cannot be used and are passed over; compiling writes them again");
                damaged.push(error.to_string());
                None
            })?;
            let file = folder.file(key);
            tracing::info!(model, %arch, nvrtc = stored.description.nvrtc, file = %file.display(), "kernels were compiled earlier");
            Some((stored, file))
        };
        let cubin = |(stored, origin): (super::folder::Stored, CubinOrigin)| Cubin {
            code: stored.cubin,
            arch,
            kernels: stored.description.kernels,
            origin,
        };
        if let Some((stored, file)) = shipped.and_then(&mut found) {
            return Ok(cubin((stored, CubinOrigin::Bundle(file))));
        }
        if let Some(folder) = shipped.filter(|folder| folder.has(arch)) {
            tracing::warn!(
                model, %arch, folder = %folder.path().display(),
                "the bundle's kernels were made by another version of gavel or for another precision: run `gavel compile` again"
            );
        }
        if let Some((stored, file)) = self.cache.as_ref().and_then(&mut found) {
            return Ok(cubin((stored, CubinOrigin::Cache(file))));
        }
        self.compile_source(model, source, key, arch, options).map_err(|error| with_damaged(error, &damaged))
    }

    /// Compiles the program whatever is there already, and keeps the result instead: where the driver refuses what was found.
    pub fn compile(&self, program: &Program, arch: Arch, options: &CompileOptions) -> Result<Cubin, EngineError> {
        let key = Key::new(&program.source, headers(), arch, options);
        self.compile_source(&program.model.name, &program.source, key, arch, options)
    }

    fn compile_source(&self, model: &str, source: &str, key: Key, arch: Arch, options: &CompileOptions) -> Result<Cubin, EngineError> {
        let nvrtc = Nvrtc::open(self.nvrtc.as_deref()).map_err(no_compiler)?;
        let compiled = nvrtc.compile(source, headers(), arch, options).map_err(not_compiled)?;
        tracing::warn!(
            model, %arch, nvrtc = nvrtc.version(), library = %nvrtc.file().display(), seconds = compiled.took.as_secs_f64(),
            "kernels were compiled while loading; `gavel compile` does it ahead of time"
        );
        for kernel in compiled.kernels.iter().filter(|kernel| kernel.spills()) {
            tracing::warn!(model, %arch, kernel = kernel.function, bytes = kernel.spill_store_bytes, "a kernel runs out of registers: it is slower than it should be");
        }
        for remark in compiled.losses() {
            tracing::warn!(model, %arch, remark, "a kernel's products wait for each other: it is slower than it should be");
        }
        if let Some(cache) = &self.cache
            && let Err(error) = cache.store(key, &compiled.cubin, &nvrtc.version(), &compiled.kernels)
        {
            tracing::warn!(model, %arch, %error, "compiled kernels cannot be kept: the next start compiles them again");
        }
        let origin = CubinOrigin::Compiled { nvrtc: nvrtc.version(), took: compiled.took };
        Ok(Cubin { code: compiled.cubin, arch, kernels: compiled.kernels, origin })
    }
}

/// Where compiled kernels are kept unless told otherwise: `$XDG_CACHE_HOME/gavel/kernels`, else `$HOME/.cache/gavel/kernels`, else
/// `/var/cache/gavel/kernels`.
pub fn default_cache() -> PathBuf {
    default_cache_of(|name| env::var_os(name).filter(|value| Path::new(value).is_absolute()).map(PathBuf::from))
}

fn default_cache_of(folder: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let home = || folder("HOME").map(|home| home.join(".cache"));
    folder("XDG_CACHE_HOME").or_else(home).unwrap_or_else(|| "/var/cache".into()).join("gavel/kernels")
}

fn no_compiler(missing: NvrtcMissing) -> EngineError {
    EngineError::Unavailable { engine: "cuda", reason: missing.to_string(), remedy: NvrtcMissing::REMEDY.into() }
}

/// Names files that are there and cannot be used: without a compiler, they are what is to be mended.
fn with_damaged(error: EngineError, damaged: &[String]) -> EngineError {
    match error {
        EngineError::Unavailable { engine, reason, remedy } if !damaged.is_empty() => {
            let reason = format!("compiled kernels cannot be used ({}), and they cannot be compiled again: {reason}", damaged.join("; "));
            EngineError::Unavailable { engine, reason, remedy }
        }
        error => error,
    }
}

fn not_compiled(error: CompileError) -> EngineError {
    let remedy = match error {
        CompileError::Source { .. } => {
            "this is a defect of gavel: report it with this text, and serve the model with --engine cpu meanwhile"
        }
        CompileError::Compiler { .. } => "try the version of NVRTC that docs/operations.md names",
    };
    EngineError::Unavailable { engine: "cuda", reason: error.to_string(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::engine::cuda::image::sample;

    const SOURCE: &str = "extern \"C\" __global__ void k(float* values) {\n    values[threadIdx.x] *= 2;\n}\n";

    fn arch() -> Arch {
        "sm_80".parse().expect("an architecture")
    }

    fn find(cubins: &Cubins, shipped: &CubinFolder) -> Result<Cubin, EngineError> {
        cubins.find_or_compile_source("m", SOURCE, Some(shipped), arch(), &CompileOptions::default())
    }

    #[test]
    fn the_bundle_comes_first_then_the_cache() {
        let place = tempfile::tempdir().expect("a folder");
        let path = |name: &str| place.path().join(name);
        let (shipped, kept) = (CubinFolder::new(path("bundle")), CubinFolder::new(path("cache")));
        // No compiler in this place: what is found was found.
        let cubins = Cubins::new(Some(path("cache")), Some(path("no-compiler")));
        let key = Key::new(SOURCE, headers(), arch(), &CompileOptions::default());
        let text = find(&cubins, &shipped).expect_err("nothing anywhere").to_string();
        for part in [
            "cuda engine: the CUDA compiler library NVRTC",
            "no-compiler: No such file",
            "nvidia-cuda-nvrtc-cu12==12.9.86",
            "gavel compile",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }

        kept.store(key, &sample(b"from the cache"), "12.9", &[]).expect("stored");
        let cubin = find(&cubins, &shipped).expect("in the cache");
        assert_eq!((cubin.code.as_slice(), cubin.origin), (sample(b"from the cache").as_slice(), CubinOrigin::Cache(kept.file(key))));

        shipped.store(key, &sample(b"from the bundle"), "13.0", &[]).expect("stored");
        let cubin = find(&cubins, &shipped).expect("in the bundle");
        assert_eq!((cubin.code.as_slice(), cubin.origin), (sample(b"from the bundle").as_slice(), CubinOrigin::Bundle(shipped.file(key))));

        fs::write(shipped.file(key), "damaged").expect("written");
        assert_eq!(find(&cubins, &shipped).expect("in the cache").code, sample(b"from the cache"));
        fs::write(kept.file(key), "damaged").expect("written");
        let text = find(&cubins, &shipped).expect_err("nothing that can be used").to_string();
        for part in [
            format!("cuda engine: compiled kernels cannot be used ({}: 7 bytes of digest ", shipped.file(key).display()),
            format!("; {}: 7 bytes of digest ", kept.file(key).display()),
            "), and they cannot be compiled again: the CUDA compiler library NVRTC".into(),
            "`gavel compile`".into(),
        ] {
            assert!(text.contains(&part), "{part}\n{text}");
        }
    }

    #[test]
    fn what_was_compiled_is_kept_and_what_is_damaged_is_made_again() {
        if let Err(missing) = Nvrtc::open(None) {
            return println!("skipped: {missing}");
        }
        let place = tempfile::tempdir().expect("a folder");
        let shipped = CubinFolder::new(place.path().join("bundle"));
        let cubins = Cubins::new(Some(place.path().join("cache")), None);
        let first = find(&cubins, &shipped).expect("compiled");
        assert!(matches!(first.origin, CubinOrigin::Compiled { .. }) && first.code.starts_with(b"\x7fELF"));
        let again = find(&cubins, &shipped).expect("kept");
        let CubinOrigin::Cache(file) = again.origin else { panic!("{:?}", again.origin) };
        assert_eq!((again.code, again.kernels), (first.code.clone(), first.kernels));
        fs::write(file, "damaged").expect("written");
        assert!(matches!(find(&cubins, &shipped).expect("made again").origin, CubinOrigin::Compiled { .. }));
        assert!(matches!(find(&cubins, &shipped).expect("kept").origin, CubinOrigin::Cache(_)));

        // A cache that cannot be written costs a compilation, not the start.
        let unwritable = Cubins::new(Some(place.path().join("bundle-file/cache")), None);
        fs::write(place.path().join("bundle-file"), "").expect("written");
        assert!(matches!(find(&unwritable, &shipped).expect("compiled").origin, CubinOrigin::Compiled { .. }));
    }

    #[test]
    fn the_cache_lies_where_caches_lie() {
        let place = |set: &[(&str, &str)]| {
            default_cache_of(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))).display().to_string()
        };
        assert_eq!(place(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), "/x/gavel/kernels");
        assert_eq!(place(&[("HOME", "/h")]), "/h/.cache/gavel/kernels");
        assert_eq!(place(&[]), "/var/cache/gavel/kernels");
    }
}
