//! A device's context: where memory, modules and streams of this process live.

use std::ptr;

use cudarc::driver::sys;

use super::{DriverError, check, functions};

/// The primary context of a device, held until the last handle goes.
#[derive(Debug)]
pub struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
}

// SAFETY: the driver's calls on a context may come from any thread; the handle is a name for it.
unsafe impl Send for Context {}
// SAFETY: as above; nothing here is written after `new`.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn new(device: sys::CUdevice) -> Result<Context, DriverError> {
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` is a place for a handle; `device` came from the driver.
        check(unsafe { functions::cuDevicePrimaryCtxRetain(&mut raw, device) }, "making a context on the GPU")?;
        Ok(Context { device, raw })
    }

    /// Makes it the calling thread's: calls that name no stream go to the thread's context.
    pub fn bind(&self) -> Result<(), DriverError> {
        // SAFETY: the handle is retained until `drop`.
        check(unsafe { functions::cuCtxSetCurrent(self.raw) }, "making the GPU's context the thread's")
    }

    pub(super) fn device(&self) -> sys::CUdevice {
        self.device
    }

    /// Device memory that nobody uses.
    pub fn free_bytes(&self) -> Result<usize, DriverError> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are places for sizes.
        check(unsafe { functions::cuMemGetInfo_v2(&mut free, &mut total) }, "asking a GPU for its free memory")?;
        Ok(free)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained in `new`, released once. What it refuses at the end nobody can mend.
        let _ = unsafe { functions::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}
