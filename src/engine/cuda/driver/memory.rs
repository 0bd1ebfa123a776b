//! Memory on the device, and memory of ours that the device reads and writes.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use super::{Context, DriverError, check, functions};
use crate::engine::cuda::DevicePointer;

/// Device memory, aligned to 256 bytes. None at all where 0 bytes were asked for: its address is then null.
#[derive(Debug)]
pub struct DeviceMemory {
    context: Arc<Context>,
    address: DevicePointer,
    bytes: usize,
}

impl DeviceMemory {
    /// Takes so many bytes, with whatever was in them.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<DeviceMemory, DriverError> {
        context.bind()?;
        let mut address = 0;
        if bytes > 0 {
            // SAFETY: `address` is a place for an address.
            check(unsafe { functions::cuMemAlloc_v2(&mut address, bytes) }, "taking device memory")?;
        }
        Ok(DeviceMemory { context: Arc::clone(context), address, bytes })
    }

    /// So many bytes of 0.
    pub fn zeroed(context: &Arc<Context>, bytes: usize) -> Result<DeviceMemory, DriverError> {
        let memory = DeviceMemory::new(context, bytes)?;
        if bytes > 0 {
            // SAFETY: the whole of memory that was just taken.
            check(unsafe { functions::cuMemsetD8_v2(memory.address, 0, bytes) }, "clearing device memory")?;
            settle("clearing device memory")?;
        }
        Ok(memory)
    }

    /// A copy of `bytes`; returns when they are there.
    pub fn copy_of(context: &Arc<Context>, bytes: &[u8]) -> Result<DeviceMemory, DriverError> {
        let mut memory = DeviceMemory::new(context, bytes.len())?;
        memory.write(0, bytes)?;
        Ok(memory)
    }

    /// Writes `bytes` from byte `at` on, which is within the memory; returns when they are there.
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), DriverError> {
        assert!(at + bytes.len() <= self.bytes, "within the memory");
        if bytes.is_empty() {
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: source and target have this length, and the call returns when the source was read.
        let code = unsafe { functions::cuMemcpyHtoD_v2(self.address + at as u64, bytes.as_ptr().cast(), bytes.len()) };
        check(code, "copying to the device")?;
        settle("copying to the device")
    }

    /// Reads the bytes from byte `at` on, which are within the memory. What writes them was waited for.
    pub fn read(&self, at: usize, to: &mut [u8]) -> Result<(), DriverError> {
        assert!(at + to.len() <= self.bytes, "within the memory");
        if to.is_empty() {
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: source and target have this length; the call returns when the target was written.
        check(unsafe { functions::cuMemcpyDtoH_v2(to.as_mut_ptr().cast(), self.address + at as u64, to.len()) }, "copying from the device")
    }

    /// Where it lies; null if it is empty.
    pub fn address(&self) -> DevicePointer {
        self.address
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Waits for what calls without a stream began: they may return before the device is through, and our streams do not wait for them. Source: CUDA
/// Driver API, "API synchronization behavior".
fn settle(doing: &'static str) -> Result<(), DriverError> {
    // SAFETY: null is the default stream.
    check(unsafe { functions::cuStreamSynchronize(ptr::null_mut()) }, doing)
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.bytes > 0 && self.context.bind().is_ok() {
            // SAFETY: taken in `new`, freed once; whoever launched work on it waited for that first.
            let _ = unsafe { functions::cuMemFree_v2(self.address) };
        }
    }
}

/// Host memory of the driver's own, locked and known to the device. The server registers memory of ours instead; benches compare.
#[derive(Debug)]
pub struct HostMemory {
    context: Arc<Context>,
    host: *mut u8,
    address: DevicePointer,
    bytes: usize,
}

impl HostMemory {
    /// Takes so many bytes, more than 0, with whatever was in them. `write_combined`: the CPU's caches pass them by; slow to read.
    pub fn new(context: &Arc<Context>, bytes: usize, write_combined: bool) -> Result<HostMemory, DriverError> {
        context.bind()?;
        let caching = if write_combined { sys::CU_MEMHOSTALLOC_WRITECOMBINED } else { 0 };
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP | caching;
        let mut host = ptr::null_mut::<c_void>();
        // SAFETY: `host` is a place for an address.
        check(unsafe { functions::cuMemHostAlloc(&mut host, bytes, flags) }, "taking locked host memory")?;
        let mut memory = HostMemory { context: Arc::clone(context), host: host.cast(), address: 0, bytes };
        // SAFETY: the memory was just taken as mapped; `address` is a place for an address.
        let code = unsafe { functions::cuMemHostGetDevicePointer_v2(&mut memory.address, host, 0) };
        check(code, "asking where the GPU sees host memory")?;
        Ok(memory)
    }

    /// Where the device sees it.
    pub fn address(&self) -> DevicePointer {
        self.address
    }

    /// Where it lies; valid as long as this lives, for as many bytes as were asked for.
    pub fn as_ptr(&self) -> *mut u8 {
        self.host
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: taken in `new`, freed once; whoever launched work on it waited for that first.
            let _ = unsafe { functions::cuMemFreeHost(self.host.cast()) };
        }
    }
}

/// Host memory that is locked and known to the device. Does not own it.
#[derive(Debug)]
pub struct RegisteredMemory {
    context: Arc<Context>,
    host: *mut u8,
    address: DevicePointer,
}

impl RegisteredMemory {
    /// Locks and maps `bytes` at `host`.
    ///
    /// # Safety
    /// - the range is mapped, writable, and stays so until this is dropped;
    /// - while the device works on it, nobody else writes what it reads or reads what it writes.
    pub unsafe fn new(context: &Arc<Context>, host: *mut u8, bytes: usize) -> Result<RegisteredMemory, DriverError> {
        // SAFETY: the caller's promise.
        unsafe { RegisteredMemory::with(context, host, bytes, 0) }
    }

    /// The same for memory that may not be written, neither by the device nor by us. Some systems refuse it: the driver then says so.
    ///
    /// # Safety
    /// - the range is mapped, and stays so until this is dropped;
    /// - nobody writes it while the device reads it.
    pub unsafe fn read_only(context: &Arc<Context>, host: *mut u8, bytes: usize) -> Result<RegisteredMemory, DriverError> {
        // SAFETY: the caller's promise; the device is told not to write.
        unsafe { RegisteredMemory::with(context, host, bytes, sys::CU_MEMHOSTREGISTER_READ_ONLY) }
    }

    /// # Safety
    /// As `new`, or as `read_only` with its flag.
    unsafe fn with(context: &Arc<Context>, host: *mut u8, bytes: usize, access: u32) -> Result<RegisteredMemory, DriverError> {
        context.bind()?;
        let at = host.cast::<c_void>();
        let flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP | access;
        // SAFETY: the caller's promise: the range is mapped.
        check(unsafe { functions::cuMemHostRegister_v2(at, bytes, flags) }, "registering host memory with the GPU")?;
        let mut memory = RegisteredMemory { context: Arc::clone(context), host, address: 0 };
        // SAFETY: the range was just registered as mapped; `address` is a place for an address.
        let code = unsafe { functions::cuMemHostGetDevicePointer_v2(&mut memory.address, at, 0) };
        check(code, "asking where the GPU sees host memory")?;
        Ok(memory)
    }

    /// Where the device sees it.
    pub fn address(&self) -> DevicePointer {
        self.address
    }
}

impl Drop for RegisteredMemory {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: registered in `new`, and the memory is still mapped: the caller of `new` promised.
            let _ = unsafe { functions::cuMemHostUnregister(self.host.cast()) };
        }
    }
}
