//! From a program's source to code for a device: NVRTC, found at run time, makes a cubin per architecture.
//!
//! [`Nvrtc`] needs neither a GPU nor its driver; [`Cubins`] asks it only for what is neither in the bundle nor in the cache. [`headers`] are the files of `kernels/`, which every source may include by name.
//! Absent on purpose: files of the compiler's own, `nvcc`, PTX (what runs is what was compiled and looked at).

mod arch;
mod cubins;
mod error;
mod folder;
mod headers;
mod key;
mod library;
mod nvrtc;
mod resources;

pub use arch::{Arch, UnknownArch};
pub use cubins::{BUNDLE_FOLDER, Cubin, CubinOrigin, Cubins, default_cache};
pub use error::{CompileError, NvrtcMissing};
pub use folder::{CubinFolder, Description, EntryError, Stored};
pub use headers::{Header, headers};
pub use key::Key;
pub use nvrtc::{CompileOptions, Compiled, Nvrtc};
pub use resources::Resources;
