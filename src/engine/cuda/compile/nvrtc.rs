//! The compiler: a source and headers in memory to a cubin.

use std::ffi::{CString, c_char, c_int};
use std::path::Path;
use std::ptr;
use std::time::{Duration, Instant};

use super::arch::Arch;
use super::error::{CompileError, NvrtcMissing, with_lines};
use super::headers::Header;
use super::library::{self, Library};
use super::resources::Resources;
use crate::engine::cuda::Image;

/// NVRTC, found and open. It may compile on several threads at once.
pub struct Nvrtc {
    library: Library,
}

/// How to compile; part of what a cubin is looked up by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CompileOptions {
    /// Registers of a thread at most; None = as the kernels' blocks allow.
    pub registers_max: Option<u32>,
    /// Keep lines of the sources in the cubin, for profilers.
    pub line_info: bool,
}

/// Code for one architecture.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// What the driver loads.
    pub cubin: Vec<u8>,
    /// What the compiler said: warnings, the assembler's report.
    pub log: String,
    /// What its kernels take; empty where the compiler does not tell.
    pub kernels: Vec<Resources>,
    /// How long it took.
    pub took: Duration,
}

impl Compiled {
    /// What the assembler remarks on products of warpgroups that it could not leave under way: they are right, and as slow as one behind the other.
    pub fn losses(&self) -> Vec<&str> {
        self.log.lines().filter(|line| line.contains("Potential Performance Loss")).collect()
    }
}

impl CompileOptions {
    /// As NVRTC takes them. No fast mathematics, and no product and sum become one rounding unless a kernel says so: f32 computes as the CPU
    /// engine does.
    pub fn flags(&self, arch: Arch) -> Vec<String> {
        let mut flags: Vec<String> = vec![format!("--gpu-architecture={arch}")];
        flags.extend(
            ["--std=c++17", "--device-as-default-execution-space", "--fmad=false", "--ptxas-options=-v", "-DNDEBUG"].map(String::from),
        );
        flags.extend(self.registers_max.map(|count| format!("--maxrregcount={count}")));
        flags.extend(self.line_info.then(|| "--generate-line-info".into()));
        flags
    }
}

impl Nvrtc {
    /// Finds it: `path` (the library or its folder), else the environment's `GAVEL_NVRTC`, else the loader's search path, else where CUDA's
    /// installers put it. Never panics.
    pub fn open(path: Option<&Path>) -> Result<Nvrtc, NvrtcMissing> {
        library::open(path).map(|library| Nvrtc { library })
    }

    /// Major and minor, as `12.9`.
    pub fn version(&self) -> String {
        format!("{}.{}", self.library.version.0, self.library.version.1)
    }

    /// The library, as it was opened.
    pub fn file(&self) -> &Path {
        &self.library.file
    }

    /// Compiles `source` for one architecture; it may include `headers` by their names and nothing else.
    pub fn compile(&self, source: &str, headers: &[Header<'_>], arch: Arch, options: &CompileOptions) -> Result<Compiled, CompileError> {
        const NAME: &str = "model.cu";
        let began = Instant::now();
        let failed = |what: String, log: String| CompileError::Compiler { version: self.version(), arch, what, log };
        let mut running = Compilation::new(&self.library, NAME, source, headers).map_err(|what| failed(what, String::new()))?;
        let code = running.compile(&options.flags(arch)).map_err(|what| failed(what, String::new()))?;
        let log = running.log();
        match code {
            OK => {}
            REFUSED => {
                let log = with_lines(&log, Header { name: NAME, text: source }, headers);
                return Err(CompileError::Source { version: self.version(), arch, log });
            }
            code => return Err(failed(words(code), log)),
        }
        let cubin = running.cubin().map_err(|what| failed(what, log.clone()))?;
        Ok(Compiled { kernels: Resources::parse(&log), cubin, log, took: began.elapsed() })
    }
}

const OK: c_int = 0;
/// NVRTC_ERROR_COMPILATION.
const REFUSED: c_int = 6;

/// A result of NVRTC's that is not about the source.
fn words(code: c_int) -> String {
    let what = match code {
        1 => "out of memory",
        2 => "it could not take the program in",
        3 => "wrong input",
        5 => "it does not know an option; a newer NVRTC knows newer architectures",
        7 => "it could not load libnvrtc-builtins, which belongs beside it in the same folder",
        11 => "an error of its own",
        _ => "a result that this gavel does not know",
    };
    format!("{what} (result {code})")
}

/// One compilation; strings that NVRTC may point to live as long as it.
struct Compilation<'l> {
    library: &'l Library,
    program: library::Program,
    _texts: Vec<CString>,
}

impl<'l> Compilation<'l> {
    fn new(library: &'l Library, name: &str, source: &str, headers: &[Header<'_>]) -> Result<Compilation<'l>, String> {
        let texts = [name, source].into_iter().chain(headers.iter().flat_map(|header| [header.name, header.text]));
        let texts = texts.map(CString::new).collect::<Result<Vec<CString>, _>>().map_err(|_| "a source with a zero byte".to_string())?;
        let every_second = |from: usize| texts[from..].iter().step_by(2).map(|text| text.as_ptr()).collect::<Vec<*const c_char>>();
        let (names, contents) = (every_second(0), every_second(1));
        let count = c_int::try_from(headers.len()).map_err(|_| "too many headers".to_string())?;
        let mut program = ptr::null_mut();
        // SAFETY: all strings end in a zero byte and live in `texts` until the program is destroyed; behind the first name and text (the source's)
        // both arrays hold one pointer per header.
        let code =
            unsafe { (library.functions.create)(&mut program, contents[0], names[0], count, contents[1..].as_ptr(), names[1..].as_ptr()) };
        if code == OK { Ok(Compilation { library, program, _texts: texts }) } else { Err(words(code)) }
    }

    fn compile(&mut self, flags: &[String]) -> Result<c_int, String> {
        let flags = flags.iter().map(|flag| CString::new(flag.as_str())).collect::<Result<Vec<CString>, _>>();
        let flags = flags.map_err(|_| "a flag with a zero byte".to_string())?;
        let pointers: Vec<*const c_char> = flags.iter().map(|flag| flag.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|_| "too many flags".to_string())?;
        // SAFETY: the program exists; `count` strings that live through the call.
        Ok(unsafe { (self.library.functions.compile)(self.program, count, pointers.as_ptr()) })
    }

    /// What the compiler said; nothing if it cannot tell.
    fn log(&self) -> String {
        let functions = &self.library.functions;
        // SAFETY: the program exists; the buffer is as long as the library says.
        let bytes = unsafe { self.fetch(functions.log_size, functions.log) }.unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_string()
    }

    fn cubin(&self) -> Result<Vec<u8>, String> {
        let functions = &self.library.functions;
        // SAFETY: as in `log`.
        let bytes = unsafe { self.fetch(functions.cubin_size, functions.cubin) }.map_err(words)?;
        Image::new(&bytes).map(|_| ()).map_err(|error| format!("it made {error}"))?;
        Ok(bytes)
    }

    /// # Safety
    /// - `size` and `bytes` are a pair of NVRTC's functions that tell and hand over one result of a program.
    unsafe fn fetch(
        &self,
        size: unsafe extern "C" fn(library::Program, *mut usize) -> c_int,
        bytes: unsafe extern "C" fn(library::Program, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, c_int> {
        let mut length = 0;
        // SAFETY: the program exists; writes one number.
        let code = unsafe { size(self.program, &mut length) };
        if code != OK {
            return Err(code);
        }
        let mut buffer = vec![0_u8; length];
        // SAFETY: the program exists; the caller's pair of functions writes `length` bytes.
        let code = unsafe { bytes(self.program, buffer.as_mut_ptr().cast()) };
        if code == OK { Ok(buffer) } else { Err(code) }
    }
}

impl Drop for Compilation<'_> {
    fn drop(&mut self) {
        // SAFETY: created by this library, destroyed once.
        unsafe { (self.library.functions.destroy)(&mut self.program) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT: &str = "#include \"twice.cuh\"\nextern \"C\" __global__ void __launch_bounds__(256) k(float* values) {\n    __shared__ float row[256];\n    \
         row[threadIdx.x] = values[threadIdx.x];\n    __syncthreads();\n    values[threadIdx.x] = twice(row[255 - threadIdx.x]);\n}\n";
    const TWICE: Header<'_> = Header { name: "twice.cuh", text: "__device__ float twice(float value) {\n    return value * 2;\n}\n" };

    /// None, with the reason printed, where the compiler is not installed.
    fn nvrtc() -> Option<Nvrtc> {
        Nvrtc::open(None).map_err(|missing| println!("skipped: {missing}")).ok()
    }

    fn compile(source: &str, arch: &str) -> Option<Result<Compiled, CompileError>> {
        let arch = arch.parse().expect("an architecture");
        Some(nvrtc()?.compile(source, &[TWICE], arch, &CompileOptions::default()))
    }

    #[test]
    fn a_source_becomes_a_cubin_for_each_architecture() {
        for arch in Arch::COMMON {
            let Some(compiled) = compile(FLAT, &arch.to_string()) else { return };
            let compiled = compiled.expect("compiled");
            assert!(compiled.cubin.starts_with(b"\x7fELF"), "{arch}");
            // A stand-in tells nothing of resources.
            for kernel in &compiled.kernels {
                assert_eq!((kernel.function.as_str(), kernel.shared_bytes, kernel.spills()), ("k", 1024, false), "{arch}");
                assert!(kernel.registers > 0);
            }
        }
    }

    #[test]
    fn faults_come_with_their_lines() {
        let Some(refused) = compile(&FLAT.replace("row[255", "column[255"), "sm_80") else { return };
        let text = refused.expect_err("refused").to_string();
        assert!(text.starts_with("NVRTC ") && text.contains(" refuses the kernels for sm_80:\nmodel.cu(6): error"), "{text}");
        assert!(
            text.contains("--- model.cu, around line 6") && text.contains("\n>    6      values[threadIdx.x] = twice(column"),
            "{text}"
        );
    }

    #[test]
    fn an_architecture_that_it_does_not_know_is_named() {
        let Some(refused) = compile(FLAT, "sm_999") else { return };
        let text = refused.expect_err("refused").to_string();
        assert!(text.contains(" fails for sm_999: it does not know an option; a newer NVRTC"), "{text}");
    }

    #[test]
    fn products_one_behind_the_other_are_remarked() {
        // As NVRTC 12.9 says it; the numbers and the reason vary.
        let log = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to the presence of Extern \
                   calls in the function 'wide'\nptxas info    : Used 90 registers\n";
        let compiled = |log: &str| Compiled { cubin: vec![], log: log.into(), kernels: vec![], took: Duration::ZERO };
        assert_eq!(compiled(log).losses().len(), 1);
        assert!(compiled("ptxas info    : Used 90 registers\n").losses().is_empty());
    }

    #[test]
    fn flags_say_everything_that_matters() {
        let common = "--std=c++17 --device-as-default-execution-space --fmad=false --ptxas-options=-v -DNDEBUG";
        let arch = "sm_90a".parse().expect("an architecture");
        let flags = |options: CompileOptions| options.flags(arch).join(" ");
        assert_eq!(flags(CompileOptions::default()), format!("--gpu-architecture=sm_90a {common}"));
        let all = CompileOptions { registers_max: Some(128), line_info: true };
        assert_eq!(flags(all), format!("--gpu-architecture=sm_90a {common} --maxrregcount=128 --generate-line-info"));
    }
}
