//! Opens libnvrtc at run time: exactly the file that was named, or the first that is found. Never panics.
//!
//! Functions are looked up in the library that was opened, not by the binding's own search: with two versions on a machine, that one could
//! find the other. NVRTC opens its second library (`libnvrtc-builtins`) by bare name, so that one is opened first, from the same folder.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::NvrtcMissing;

/// The environment variable that names the library, or the folder that holds it.
const VARIABLE: &str = "GAVEL_NVRTC";
/// Oldest major version: the first whose cubins every driver that gavel supports can load, with `sm_90a`.
const MAJOR_MIN: c_int = 12;
/// Names in a folder or on the loader's search path, best first: cubins of 12 load on more drivers than those of 13.
const NAMES: [&str; 3] = ["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"];

/// A program under compilation, of NVRTC's.
pub type Program = *mut c_void;

/// The functions that are used, of a library that is never closed.
#[derive(Clone, Copy)]
pub struct Functions {
    pub version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    pub create: unsafe extern "C" fn(
        *mut Program,
        source: *const c_char,
        name: *const c_char,
        headers: c_int,
        texts: *const *const c_char,
        names: *const *const c_char,
    ) -> c_int,
    pub compile: unsafe extern "C" fn(Program, count: c_int, options: *const *const c_char) -> c_int,
    pub destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    pub log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    pub log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    pub cubin_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    pub cubin: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
}

/// An open library.
pub struct Library {
    pub functions: Functions,
    /// Major and minor.
    pub version: (i32, i32),
    /// As it was opened.
    pub file: PathBuf,
}

/// Looks where `path` says (a library, or its folder), else where `GAVEL_NVRTC` says, else on the loader's search path, else in the usual folders.
pub fn open(path: Option<&Path>) -> Result<Library, NvrtcMissing> {
    let from_environment = || std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut tried = Vec::new();
    if let Some(path) = path.map(Path::to_path_buf).or_else(from_environment) {
        let found = if path.is_dir() { open_in(&path, &mut tried) } else { open_beside_builtins(&path, &mut tried) };
        return found.ok_or(NvrtcMissing { tried });
    }
    for name in NAMES {
        if let Some(library) = open_file(Path::new(name), &mut tried) {
            return Ok(library);
        }
    }
    usual_folders().iter().find_map(|folder| open_in(folder, &mut tried)).ok_or(NvrtcMissing { tried })
}

/// Where installers of CUDA put it.
fn usual_folders() -> Vec<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/local").into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    versions.retain(|path| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"cuda-")));
    versions.sort();
    let mut folders = vec![PathBuf::from("/usr/local/cuda/lib64")];
    folders.extend(versions.iter().rev().map(|version| version.join("lib64")));
    folders.push("/usr/local/nvidia/lib64".into());
    folders
}

fn open_in(folder: &Path, tried: &mut Vec<String>) -> Option<Library> {
    let files: Vec<PathBuf> = NAMES.iter().map(|name| folder.join(name)).filter(|file| file.exists()).collect();
    if files.is_empty() {
        tried.push(format!("no {} in {}", NAMES[0], folder.display()));
    }
    files.iter().find_map(|file| open_beside_builtins(file, tried))
}

/// Opens a library by its path, its builtins first.
fn open_beside_builtins(file: &Path, tried: &mut Vec<String>) -> Option<Library> {
    // A bare name would send the loader searching.
    let Ok(file) = fs::canonicalize(file).inspect_err(|error| tried.push(format!("{}: {error}", file.display()))) else { return None };
    let folder = file.parent().unwrap_or(Path::new("/"));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_builtins = entry.file_name().as_bytes().starts_with(b"libnvrtc-builtins.so");
        if is_builtins && let Err(error) = load(&entry.path()) {
            tried.push(error);
        }
    }
    open_file(&file, tried)
}

fn open_file(file: &Path, tried: &mut Vec<String>) -> Option<Library> {
    load(file).and_then(|handle| check(handle, file)).map_err(|reason| tried.push(reason)).ok()
}

/// Opens a library for good.
fn load(file: &Path) -> Result<*mut c_void, String> {
    let name = CString::new(file.as_os_str().as_bytes()).map_err(|_| format!("{}: a name with a zero byte", file.display()))?;
    // SAFETY: `name` ends in a zero byte and lives through the call; initialisers that run are the vendor's, or of whoever configured the path.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(handle);
    }
    // SAFETY: returns null or a string of the loader's, of this thread, that lives until the next call of the loader.
    let reason = unsafe { libc::dlerror().as_ref().map(|text| CStr::from_ptr(text).to_string_lossy().into_owned()) };
    Err(reason.unwrap_or_else(|| format!("{}: the loader gives no reason", file.display())))
}

/// Finds the functions and asks for the version.
fn check(handle: *mut c_void, file: &Path) -> Result<Library, String> {
    let find = |name: &CStr| {
        // SAFETY: `handle` is open and stays so; `name` ends in a zero byte.
        let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
        if address.is_null() { Err(format!("{}: has no {}", file.display(), name.to_string_lossy())) } else { Ok(address) }
    };
    // SAFETY: these are NVRTC's functions of these names, whose signatures its header has declared so since CUDA 11.1 (its enum of results is an
    // int, its program a pointer); the library is never closed.
    let functions = unsafe {
        use std::mem::transmute;
        Functions {
            version: transmute::<*mut c_void, unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(find(c"nvrtcVersion")?),
            create: transmute::<
                *mut c_void,
                unsafe extern "C" fn(
                    *mut Program,
                    *const c_char,
                    *const c_char,
                    c_int,
                    *const *const c_char,
                    *const *const c_char,
                ) -> c_int,
            >(find(c"nvrtcCreateProgram")?),
            compile: transmute::<*mut c_void, unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int>(find(
                c"nvrtcCompileProgram",
            )?),
            destroy: transmute::<*mut c_void, unsafe extern "C" fn(*mut Program) -> c_int>(find(c"nvrtcDestroyProgram")?),
            log_size: transmute::<*mut c_void, SizeOf>(find(c"nvrtcGetProgramLogSize")?),
            log: transmute::<*mut c_void, BytesOf>(find(c"nvrtcGetProgramLog")?),
            cubin_size: transmute::<*mut c_void, SizeOf>(find(c"nvrtcGetCUBINSize")?),
            cubin: transmute::<*mut c_void, BytesOf>(find(c"nvrtcGetCUBIN")?),
        }
    };
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two integers.
    let code = unsafe { (functions.version)(&mut major, &mut minor) };
    if code != 0 || major < MAJOR_MIN {
        return Err(format!("{}: version {major}.{minor}, older than {MAJOR_MIN}.0", file.display()));
    }
    Ok(Library { functions, version: (major, minor), file: file.to_path_buf() })
}

/// How NVRTC tells the length of a result.
type SizeOf = unsafe extern "C" fn(Program, *mut usize) -> c_int;
/// How NVRTC hands over a result.
type BytesOf = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_at_its_word() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let tried = |path: &Path| open(Some(path)).err().expect("no library").tried.join("; ");

        assert!(tried(folder.path()).starts_with("no libnvrtc.so.12 in "));
        assert!(tried(&path("libnvrtc.so.12")).contains("No such file"));
        fs::write(path("libnvrtc.so.12"), "no library").expect("written");
        fs::write(path("libnvrtc-builtins.so.12.9"), "none either").expect("written");
        for named in [path("libnvrtc.so.12"), folder.path().to_path_buf()] {
            let text = tried(&named);
            assert!(text.contains("libnvrtc-builtins.so.12.9: ") && text.contains("libnvrtc.so.12: "), "{text}");
        }
    }

    #[test]
    fn another_library_is_not_taken_for_it() {
        let libc = ["libm.so.6", "libc.so.6"].into_iter().find_map(|name| load(Path::new(name)).ok()).expect("a C library");
        let reason = check(libc, Path::new("libm")).err();
        assert_eq!(reason.as_deref(), Some("libm: has no nvrtcVersion"));
    }
}
