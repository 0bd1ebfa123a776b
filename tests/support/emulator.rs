//! Builds the emulator of `kernels/emulator` once per target folder and loads it, so that cudarc finds it where it looks for the driver.
//!
//! For tests of the crate, too (`#[path]`). `GAVEL_CUDA` in the environment chooses: `real` is the machine's own driver, `asan` an emulator
//! under the address sanitizer (which must be preloaded, see [`sanitized`]).
#![allow(dead_code, unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::{File, create_dir_all, metadata, read_dir};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// What CUDA calls reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cuda {
    /// The emulator.
    Emulated,
    /// The machine's driver and GPU.
    Real,
}

/// Makes CUDA callable; `None`, with the reason printed, where it cannot be. Call it before anything touches cudarc.
pub fn cuda() -> Option<Cuda> {
    static ANSWER: OnceLock<Result<Cuda, String>> = OnceLock::new();
    let load = |options: &[&str]| preload(&build(options)?).map(|()| Cuda::Emulated);
    let answer = ANSWER.get_or_init(|| match std::env::var("GAVEL_CUDA").as_deref() {
        Ok("real") => Ok(Cuda::Real),
        // Who asks for it wants no test to pass without it.
        Ok("asan") => Ok(load(&["--asan"]).unwrap_or_else(|reason| panic!("no emulator under the address sanitizer: {reason}"))),
        Ok(other) if !other.is_empty() => panic!("GAVEL_CUDA is {other}: real and asan are known"),
        _ => load(&[]),
    });
    match answer {
        Ok(cuda) => Some(*cuda),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

/// What compiles kernels for the emulator that is loaded, under the sanitizer if that is; `None` where a GPU takes NVIDIA's.
pub fn compiler() -> Option<PathBuf> {
    let options: &[&str] = if is_sanitized() { &["--asan"] } else { &[] };
    (cuda()? == Cuda::Emulated).then(|| build(options).expect("the emulator was built before"))
}

/// A name for a folder of compiled kernels: those of one compiler are nothing for others.
pub fn kernels_folder() -> &'static str {
    match compiler() {
        None => "kernels-of-gpus",
        Some(_) if is_sanitized() => "kernels-sanitized",
        Some(_) => "kernels-emulated",
    }
}

fn is_sanitized() -> bool {
    std::env::var("GAVEL_CUDA").is_ok_and(|asked| asked == "asan")
}

/// The emulator's libraries, built if a source is newer. `options` are those of the build script.
pub fn build(options: &[&str]) -> Result<PathBuf, String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("the emulator is for x86-64".into());
    }
    if Command::new("g++").arg("--version").output().is_err() {
        return Err("no g++ to build the emulator with".into());
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/emulator");
    let folder = target_folder()?.join(format!("emulator{}", options.concat()));
    create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let lock = File::create(folder.join("lock")).map_err(|error| format!("the emulator's lock: {error}"))?;
    lock.lock().map_err(|error| format!("the emulator's lock: {error}"))?;
    let built = metadata(folder.join("libnvrtc.so.12")).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    if newest(&sources)? < built {
        return Ok(folder);
    }
    let output = Command::new(sources.join("build"))
        .arg(&folder)
        .args(options)
        .output()
        .map_err(|error| format!("the emulator's build: {error}"))?;
    if output.status.success() { Ok(folder) } else { panic!("the emulator does not build:\n{}", String::from_utf8_lossy(&output.stderr)) }
}

/// Names a library that is not to be found.
pub const WITHOUT: &str = "EMU_WITHOUT";

/// This executable again, for one of its tests alone, under the address sanitizer; `None`, with the reason printed, where there is none.
pub fn sanitized(test: &str) -> Option<Command> {
    match sanitizer() {
        Ok(preload) => {
            let mut command = Command::new(std::env::current_exe().expect("the test's own path"));
            command.args(["--exact", test, "--nocapture"]).env("LD_PRELOAD", preload);
            command.envs([("GAVEL_CUDA", "asan"), ("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0")]);
            Some(command)
        }
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

/// The address sanitizer's runtime, for `LD_PRELOAD`.
fn sanitizer() -> Result<PathBuf, String> {
    let output = Command::new("g++").arg("-print-file-name=libasan.so").output().map_err(|error| format!("g++: {error}"))?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    // g++ answers with the bare name where it has none.
    if path.is_absolute() { Ok(path) } else { Err("g++ has no address sanitizer".into()) }
}

/// The profile's folder: two above the test's own file.
fn target_folder() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("the test's own path: {error}"))?;
    own.parent().and_then(Path::parent).map(Path::to_path_buf).ok_or_else(|| format!("{} lies in no target folder", own.display()))
}

fn newest(folder: &Path) -> Result<SystemTime, String> {
    let files = read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let times = files.flatten().filter_map(|file| file.metadata().ok()?.modified().ok());
    Ok(times.max().unwrap_or(SystemTime::UNIX_EPOCH))
}

/// Loads the libraries by path; later loads by name find them, since they bear the names that cudarc tries first.
fn preload(folder: &Path) -> Result<(), String> {
    let libraries = ["libcuda.so.1", "libnvrtc.so.12", "libcublasLt.so.12"];
    let without = std::env::var(WITHOUT).unwrap_or_default();
    for library in libraries.into_iter().filter(|library| *library != without) {
        let path = CString::new(folder.join(library).into_os_string().into_encoded_bytes()).map_err(|error| error.to_string())?;
        // SAFETY: a library that this project builds; its initialisers only fill tables.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if handle.is_null() {
            // SAFETY: after a failed dlopen there is a text, valid until the next call.
            let reason = unsafe { CStr::from_ptr(libc::dlerror()) };
            return Err(format!("{library}: {}", reason.to_string_lossy()));
        }
    }
    Ok(())
}

/// A function that only the emulator has.
fn own<F: Copy>(name: &CStr) -> F {
    assert_eq!(cuda(), Some(Cuda::Emulated), "{name:?} is the emulator's");
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: the library is loaded with RTLD_GLOBAL; F is the type of the function of that name (the callers below).
    unsafe {
        let address = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        assert!(!address.is_null(), "{name:?}");
        std::mem::transmute_copy(&address)
    }
}

/// Plans errors: `function:nth call:code`, or `kernel:name:nth:code` for executions, with commas between them; nothing forgets all plans.
pub fn fail(plan: &str) {
    let plan = CString::new(plan).expect("no zero byte");
    let emu_fail: extern "C" fn(*const c_char) -> c_int = own(c"emu_fail");
    emu_fail(plan.as_ptr());
}

/// Memory, registrations, streams, modules and graphs that nobody gave back.
pub fn held() -> i32 {
    let emu_held: extern "C" fn() -> c_int = own(c"emu_held");
    emu_held()
}

/// Forgets an error that stays, as a new process would.
pub fn reset() {
    let emu_reset: extern "C" fn() -> c_int = own(c"emu_reset");
    emu_reset();
}

/// What the last kernel that failed did wrong; a device does not say.
pub fn fault() -> String {
    if cuda() == Some(Cuda::Real) {
        return String::new();
    }
    let emu_fault: extern "C" fn(*mut c_char, c_int) -> c_int = own(c"emu_fault");
    let mut text = [0_u8; 1024];
    emu_fault(text.as_mut_ptr().cast(), 1024);
    CStr::from_bytes_until_nul(&text).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Compiles with NVRTC, or its stand-in, for an architecture (`sm_80`). The error is the compiler's log.
pub fn compile(source: &str, headers: &[(&str, &str)], architecture: &str) -> Result<Vec<u8>, String> {
    use cudarc::nvrtc::{result, sys};
    let text = |text: &str| CString::new(text).expect("no zero byte");
    let (source, name) = (text(source), text("kernels.cu"));
    let names: Vec<CString> = headers.iter().map(|header| text(header.0)).collect();
    let texts: Vec<CString> = headers.iter().map(|header| text(header.1)).collect();
    let names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let texts: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
    let options = [format!("--gpu-architecture={architecture}"), "--std=c++17".into(), "--device-as-default-execution-space".into()];
    let mut program = std::ptr::null_mut();
    // SAFETY: all strings end with a zero and live to the end of the block; the image is as long as the library says.
    unsafe {
        let count = c_int::try_from(headers.len()).expect("few headers");
        let created = sys::nvrtcCreateProgram(
            &mut program,
            source.as_ptr(),
            name.as_ptr(),
            count,
            texts.as_ptr().cast_mut(),
            names.as_ptr().cast_mut(),
        );
        assert_eq!(created, sys::nvrtcResult::NVRTC_SUCCESS);
        let compiled = result::compile_program(program, &options);
        let log = result::get_program_log(program).expect("a log");
        let mut bytes = 0;
        let mut image = Vec::new();
        if compiled.is_ok() {
            assert_eq!(sys::nvrtcGetCUBINSize(program, &mut bytes), sys::nvrtcResult::NVRTC_SUCCESS);
            image = vec![0_u8; bytes];
            assert_eq!(sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()), sys::nvrtcResult::NVRTC_SUCCESS);
        }
        result::destroy_program(program).expect("a program");
        compiled.map(|()| image).map_err(|_| CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned())
    }
}
