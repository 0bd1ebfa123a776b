//! From a program's source to code for a device: NVRTC, found at run time, makes a cubin per architecture.
//!
//! [`Nvrtc`] needs neither a GPU nor its driver. [`headers`] are the files of `kernels/`, which every source may include by name.
//! Absent on purpose: files of the compiler's own, `nvcc`, PTX (what runs is what was compiled and looked at).

mod arch;
mod error;
mod headers;
mod library;
mod nvrtc;
mod resources;

pub use arch::{Arch, UnknownArch};
pub use error::{CompileError, NvrtcMissing};
pub use headers::{Header, headers};
pub use nvrtc::{CompileOptions, Compiled, Nvrtc};
pub use resources::Resources;
