//! Opens the driver's library without ever panicking: it may be missing, a stub, or broken.

use std::panic::catch_unwind;
use std::sync::Arc;
use std::thread;

use cudarc::driver::sys;

use super::{Context, DriverError, check, functions};

/// A GPU that the driver shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its number among the GPUs of this process.
    pub ordinal: usize,
    /// The vendor's name for it.
    pub name: String,
    /// Device memory.
    pub memory_bytes: usize,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Blocks run on these.
    pub multiprocessors: usize,
    /// Most dynamic shared memory that a block may ask for.
    pub shared_bytes_max: usize,
}

/// Why there is no GPU to use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuUnavailable {
    /// No libcuda: no driver is installed, or the container does not have it.
    #[error("no NVIDIA driver library (libcuda.so.1) was found")]
    NoDriver,
    /// The driver is there and refuses.
    #[error("{0}")]
    Refused(DriverError),
    /// The driver's library is a stub or broken: it crashed or lacks functions.
    #[error("the NVIDIA driver library is unusable (a stub, or older than CUDA 12)")]
    Broken,
    /// The driver shows fewer GPUs.
    #[error("there is no GPU number {ordinal}: the driver shows {count}")]
    NoSuchGpu {
        /// As asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
}

impl GpuUnavailable {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            GpuUnavailable::NoDriver => {
                "install NVIDIA's driver, or give the container the GPU (docker --gpus all; in Kubernetes the limit nvidia.com/gpu: 1)"
            }
            GpuUnavailable::Refused(_) => "see what nvidia-smi says",
            GpuUnavailable::Broken => "put the libcuda.so.1 of the host's own driver, 525 or newer, on the library path",
            GpuUnavailable::NoSuchGpu { .. } => "set cuda.device to one that there is, or look what CUDA_VISIBLE_DEVICES hides",
        }
    }
}

/// The GPUs of this process.
pub fn probe() -> Result<Vec<Gpu>, GpuUnavailable> {
    guarded(|| (0..start()?).map(describe).collect())
}

/// The GPU number `ordinal`, ready for memory and kernels.
pub fn open(ordinal: usize) -> Result<(Gpu, Arc<Context>), GpuUnavailable> {
    guarded(move || {
        let count = start()?;
        if ordinal >= count {
            return Err(GpuUnavailable::NoSuchGpu { ordinal, count });
        }
        let gpu = describe(ordinal)?;
        let context = Context::new(handle(ordinal)?).map_err(GpuUnavailable::Refused)?;
        Ok((gpu, Arc::new(context)))
    })
}

/// Runs `open` on a thread of its own, whose panics are caught: a library that lacks a function makes the binding panic.
fn guarded<T: Send + 'static>(open: impl FnOnce() -> Result<T, GpuUnavailable> + Send + 'static) -> Result<T, GpuUnavailable> {
    // SAFETY: opens a library by name; its initialisers are the vendor's.
    if !unsafe { sys::is_culib_present() } {
        return Err(GpuUnavailable::NoDriver);
    }
    let opening = thread::Builder::new().name("gpu-probe".into()).spawn(|| catch_unwind(std::panic::AssertUnwindSafe(open)));
    opening.ok().and_then(|thread| thread.join().ok()).and_then(Result::ok).unwrap_or(Err(GpuUnavailable::Broken))
}

/// Initialises the driver and counts its GPUs.
fn start() -> Result<usize, GpuUnavailable> {
    if !functions::find() {
        return Err(GpuUnavailable::Broken);
    }
    let mut count = 0;
    // SAFETY: `count` is a place for an int.
    unsafe {
        refuse(functions::cuInit(0), "initialising the driver")?;
        refuse(functions::cuDeviceGetCount(&mut count), "counting GPUs")?;
    }
    Ok(usize::try_from(count).unwrap_or(0))
}

fn describe(ordinal: usize) -> Result<Gpu, GpuUnavailable> {
    use sys::CUdevice_attribute as Attribute;
    let device = handle(ordinal)?;
    let attribute = |which| {
        let mut value = 0;
        // SAFETY: `value` is a place for an int, `device` came from the driver.
        refuse(unsafe { functions::cuDeviceGetAttribute(&mut value, which, device) }, "asking a GPU for its properties").map(|()| value)
    };
    let size = |which| attribute(which).map(|value| usize::try_from(value).unwrap_or(0));
    let mut memory_bytes = 0;
    let mut name = [0u8; 128];
    // SAFETY: places of the right type and, for the name, of the length that is told.
    unsafe {
        refuse(functions::cuDeviceTotalMem_v2(&mut memory_bytes, device), "asking a GPU for its memory")?;
        refuse(functions::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32, device), "asking a GPU for its name")?;
    }
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok(Gpu {
        ordinal,
        name: String::from_utf8_lossy(&name[..length]).into(),
        memory_bytes,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: size(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes_max: size(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
    })
}

fn handle(ordinal: usize) -> Result<sys::CUdevice, GpuUnavailable> {
    let mut device = 0;
    // SAFETY: `device` is a place for a handle.
    refuse(unsafe { functions::cuDeviceGet(&mut device, ordinal as i32) }, "finding a GPU by its number").map(|()| device)
}

fn refuse(code: functions::Code, doing: &'static str) -> Result<(), GpuUnavailable> {
    check(code, doing).map_err(|error| if error.is_stub() { GpuUnavailable::Broken } else { GpuUnavailable::Refused(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_never_panics() {
        match probe() {
            Ok(gpus) => gpus.iter().for_each(|gpu| println!("{gpu:?}")),
            Err(reason) => println!("no GPU: {reason}"),
        }
    }

    #[test]
    fn a_panic_of_the_binding_is_a_broken_library() {
        match guarded(|| -> Result<(), _> { panic!("no such symbol") }) {
            Err(GpuUnavailable::NoDriver | GpuUnavailable::Broken) => {}
            other => panic!("{other:?}"),
        }
    }
}
