//! Looks for GPUs without ever panicking: the driver's library may be missing, a stub, or broken.

use std::panic::catch_unwind;
use std::thread;

use cudarc::driver::{DriverError, result, sys};

/// A GPU that the driver shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// The vendor's name for it.
    pub name: String,
    /// Device memory.
    pub memory_bytes: usize,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
}

/// Why there is no GPU to use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuUnavailable {
    /// No libcuda: no driver is installed, or the container does not have it.
    #[error("no NVIDIA driver library (libcuda.so.1) was found")]
    NoDriver,
    /// The driver is there and refuses.
    #[error("the NVIDIA driver refuses: {0}")]
    Refused(String),
    /// The driver's library is a stub or broken: it crashed or lacks functions.
    #[error("the NVIDIA driver library is unusable (a stub, or older than CUDA 12)")]
    Broken,
}

/// The GPUs of this process.
pub fn probe() -> Result<Vec<Gpu>, GpuUnavailable> {
    // SAFETY: opens a library by name; its initialisers are the vendor's.
    if !unsafe { sys::is_culib_present() } {
        return Err(GpuUnavailable::NoDriver);
    }
    // A thread of its own, whose panics are caught: a library that lacks a function makes the binding panic.
    let probing = thread::Builder::new().name("gpu-probe".into()).spawn(|| catch_unwind(devices));
    probing.ok().and_then(|thread| thread.join().ok()).and_then(Result::ok).unwrap_or(Err(GpuUnavailable::Broken))
}

fn devices() -> Result<Vec<Gpu>, GpuUnavailable> {
    result::init().map_err(refused)?;
    let count = result::device::get_count().map_err(refused)?;
    let attribute = |device, which| {
        // SAFETY: `device` came from `get`.
        unsafe { result::device::get_attribute(device, which) }.map_err(refused)
    };
    let major = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
    let minor = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR;
    (0..count)
        .map(|ordinal| {
            let device = result::device::get(ordinal).map_err(refused)?;
            // SAFETY: `device` came from `get`.
            let memory_bytes = unsafe { result::device::total_mem(device) }.map_err(refused)?;
            let name = result::device::get_name(device).map_err(refused)?;
            Ok(Gpu { name, memory_bytes, capability: (attribute(device, major)?, attribute(device, minor)?) })
        })
        .collect()
}

/// The code alone: formatting the error itself would call the driver.
fn refused(error: DriverError) -> GpuUnavailable {
    GpuUnavailable::Refused(format!("{:?}", error.0))
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
}
