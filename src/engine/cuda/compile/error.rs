//! Why there is no compiled code.

use std::fmt::{self, Write as _};

use super::arch::Arch;
use super::headers::Header;

/// The compiler's library was not found, with everything that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvrtcMissing {
    /// What was tried, and how it ended.
    pub tried: Vec<String>,
}

impl fmt::Display for NvrtcMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the CUDA compiler library NVRTC (libnvrtc.so.12 or newer) cannot be used; tried: {}", self.tried.join("; "))
    }
}

impl std::error::Error for NvrtcMissing {}

impl NvrtcMissing {
    /// What to do about it.
    pub const REMEDY: &str = "install it (pip install --no-deps nvidia-cuda-nvrtc-cu12==12.9.86) and name the folder nvidia/cuda_nvrtc/lib of its \
         site-packages with --nvrtc or GAVEL_NVRTC, or compile the kernels elsewhere with `gavel compile` and ship them inside the bundle";
}

/// Why a source did not become a cubin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The compiler found faults in the source: a defect of gavel's generator or of its kernels.
    #[error("NVRTC {version} refuses the kernels for {arch}:\n{log}")]
    Source {
        /// The compiler's.
        version: String,
        /// For what.
        arch: Arch,
        /// What it says, with the lines that it speaks of.
        log: String,
    },
    /// Anything else that the compiler ends with.
    #[error("NVRTC {version} fails for {arch}: {what}; it says: {log}")]
    Compiler {
        /// The compiler's.
        version: String,
        /// For what.
        arch: Arch,
        /// Its result, in words.
        what: String,
        /// What it says.
        log: String,
    },
}

/// Faults that are shown with the lines around them; the rest of the log stands as it is.
const FAULTS_SHOWN: usize = 5;
/// Lines before and after the faulty one.
const AROUND: usize = 2;

/// `log`, and behind it the source around the first faults that it names as `file(line): error`.
pub fn with_lines(log: &str, source: Header<'_>, headers: &[Header<'_>]) -> String {
    let mut text = log.trim_end().to_string();
    let mut shown = Vec::new();
    for (name, line) in log.lines().filter_map(fault) {
        let Some(file) = headers.iter().chain([&source]).find(|file| file.name == name) else { continue };
        if shown.len() == FAULTS_SHOWN || shown.contains(&(name, line)) {
            continue;
        }
        shown.push((name, line));
        let _ = write!(text, "\n--- {name}, around line {line}");
        let from = line.saturating_sub(AROUND).max(1);
        for (number, content) in file.text.lines().enumerate().skip(from - 1).take(line + AROUND + 1 - from) {
            let mark = if number + 1 == line { '>' } else { ' ' };
            let _ = write!(text, "\n{mark}{:5}  {content}", number + 1);
        }
    }
    text
}

/// File and line of `file(line): error: ...`; lines count from 1.
fn fault(line: &str) -> Option<(&str, usize)> {
    let (place, what) = line.split_once("): ")?;
    let (name, number) = place.rsplit_once('(')?;
    let is_error = what.starts_with("error") || what.starts_with("catastrophic error");
    number.parse().ok().filter(|number| is_error && *number > 0).map(|number| (name, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_shown_in_their_source() {
        let source = Header { name: "model.cu", text: "one\ntwo\nthree\nfour\nfive\n" };
        let header = Header { name: "a.cuh", text: "first\nsecond\n" };
        let log = "model.cu(4): error: no\n  four\n\nmodel.cu(4): error: again\na.cuh(1): error: x\nb.cuh(9): error: y\nmodel.cu(2): warning: z\n\n";
        let expected = "\
model.cu(4): error: no
  four

model.cu(4): error: again
a.cuh(1): error: x
b.cuh(9): error: y
model.cu(2): warning: z
--- model.cu, around line 4
     2  two
     3  three
>    4  four
     5  five
--- a.cuh, around line 1
>    1  first
     2  second";
        assert_eq!(with_lines(log, source, &[header]), expected);
        for odd in [
            "",
            "model.cu(0): error: x",
            "model.cu(99999999999999999999): error: x",
            "model.cu(99): error: x",
            "): error",
            "é(1): error: x",
        ] {
            assert!(with_lines(odd, source, &[header]).starts_with(odd));
        }
    }
}
