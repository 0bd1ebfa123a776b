//! Compiled kernels on the device.

use std::ffi::{CString, c_int};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use super::{Context, DriverError, check, functions};
use crate::engine::cuda::Image;

/// A loaded cubin.
#[derive(Debug)]
pub struct Module {
    context: Arc<Context>,
    raw: sys::CUmodule,
}

/// A kernel of a module; lives as long as that is held.
#[derive(Clone, Debug)]
pub struct Function {
    module: Arc<Module>,
    raw: sys::CUfunction,
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks, first dimension.
    pub blocks: u32,
    /// Blocks, second dimension.
    pub columns: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

// SAFETY: the driver's calls on modules and functions may come from any thread.
unsafe impl Send for Module {}
// SAFETY: as above; nothing here is written after `load`.
unsafe impl Sync for Module {}
// SAFETY: as for the module that it holds.
unsafe impl Send for Function {}
// SAFETY: as for the module that it holds.
unsafe impl Sync for Function {}

impl Module {
    /// Loads a cubin for this device.
    pub fn load(context: &Arc<Context>, image: Image<'_>) -> Result<Arc<Module>, DriverError> {
        context.bind()?;
        let mut raw = ptr::null_mut();
        // SAFETY: an ELF image tells its own length, and all of it is there; `raw` is a place for a handle.
        check(unsafe { functions::cuModuleLoadData(&mut raw, image.bytes().as_ptr().cast()) }, "loading compiled kernels")?;
        Ok(Arc::new(Module { context: Arc::clone(context), raw }))
    }

    /// A kernel by its name.
    pub fn function(self: &Arc<Module>, name: &str) -> Result<Function, DriverError> {
        self.context.bind()?;
        let doing = "finding a kernel by its name";
        // A name with a zero in it is no name that a compiler gave.
        let text = CString::new(name).unwrap_or_default();
        let mut raw = ptr::null_mut();
        // SAFETY: `text` ends with zero; `raw` is a place for a handle.
        check(unsafe { functions::cuModuleGetFunction(&mut raw, self.raw, text.as_ptr()) }, doing)?;
        Ok(Function { module: Arc::clone(self), raw })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: loaded once, unloaded once; functions hold the module.
            let _ = unsafe { functions::cuModuleUnload(self.raw) };
        }
    }
}

impl Function {
    pub(super) fn raw(&self) -> sys::CUfunction {
        self.raw
    }

    /// Lets its blocks ask for so much dynamic shared memory.
    pub fn allow_shared(&self, bytes: u32) -> Result<(), DriverError> {
        let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        self.module.context.bind()?;
        // SAFETY: the function lives as long as its module.
        check(unsafe { functions::cuFuncSetAttribute(self.raw, which, bytes as c_int) }, "raising a kernel's shared memory")
    }

    /// Registers of a thread.
    pub fn registers(&self) -> Result<usize, DriverError> {
        self.attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)
    }

    /// Local memory of a thread in bytes: what did not fit into registers.
    pub fn local_bytes(&self) -> Result<usize, DriverError> {
        self.attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)
    }

    /// Blocks that a multiprocessor runs at once.
    pub fn resident_blocks(&self, threads: u32, shared_bytes: u32) -> Result<usize, DriverError> {
        self.module.context.bind()?;
        let mut blocks = 0;
        // SAFETY: `blocks` is a place for an int; the function lives as long as its module.
        let code = unsafe {
            functions::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, self.raw, threads as c_int, shared_bytes as usize)
        };
        check(code, "asking how many blocks of a kernel run at once")?;
        Ok(usize::try_from(blocks).unwrap_or(0))
    }

    fn attribute(&self, which: sys::CUfunction_attribute) -> Result<usize, DriverError> {
        self.module.context.bind()?;
        let mut value = 0;
        // SAFETY: `value` is a place for an int; the function lives as long as its module.
        check(unsafe { functions::cuFuncGetAttribute(&mut value, which, self.raw) }, "asking a kernel for its properties")?;
        Ok(usize::try_from(value).unwrap_or(0))
    }
}
