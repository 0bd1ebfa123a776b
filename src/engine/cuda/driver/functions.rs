//! The driver's functions as they are: what they answer is a number.
//!
//! The binding's own functions answer with an enum of the codes that were known when it was made. A newer driver answers with newer ones, and such
//! an enum with another value is undefined behaviour; so the binding gives types and constants here, and opens the library.
#![allow(non_snake_case, clippy::too_many_arguments, reason = "as the driver has them")]

use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void};
use std::ptr;

use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUfunction_attribute};
use cudarc::driver::sys::{CUgraph, CUgraphExec, CUhostFn, CUmodule, CUstream, CUstreamCaptureMode};

use super::foreign::foreign_functions;

/// What a function answers: 0, or why not.
pub(super) type Code = c_int;

pub(super) const SUCCESS: Code = 0;
pub(super) const OUT_OF_MEMORY: Code = 2;
pub(super) const NOT_INITIALIZED: Code = 3;
pub(super) const STUB_LIBRARY: Code = 34;
pub(super) const INVALID_IMAGE: Code = 200;
pub(super) const NO_BINARY_FOR_GPU: Code = 209;
pub(super) const UNSUPPORTED_PTX_VERSION: Code = 222;
pub(super) const NOT_READY: Code = 600;

foreign_functions! {
    answer Code, bound sys::CUresult, without NOT_INITIALIZED;
    other cuGetErrorName: unsafe extern "C" fn(Code, *mut *const c_char) -> Code;
    cuInit(flags: c_uint);
    cuDriverGetVersion(version: *mut c_int);
    cuDeviceGetCount(count: *mut c_int);
    cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    cuDeviceGetName(name: *mut c_char, bytes: c_int, device: CUdevice);
    cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
    cuDeviceGetAttribute(value: *mut c_int, which: CUdevice_attribute, device: CUdevice);
    cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    cuCtxSetCurrent(context: CUcontext);
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
    cuMemFree_v2(address: CUdeviceptr);
    cuMemHostAlloc(memory: *mut *mut c_void, bytes: usize, flags: c_uint);
    cuMemFreeHost(memory: *mut c_void);
    cuMemHostRegister_v2(memory: *mut c_void, bytes: usize, flags: c_uint);
    cuMemHostUnregister(memory: *mut c_void);
    cuMemHostGetDevicePointer_v2(address: *mut CUdeviceptr, memory: *mut c_void, flags: c_uint);
    cuMemcpyHtoD_v2(to: CUdeviceptr, from: *const c_void, bytes: usize);
    cuMemcpyDtoH_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize);
    cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
    cuMemsetD8_v2(to: CUdeviceptr, value: c_uchar, bytes: usize);
    cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
    cuModuleUnload(module: CUmodule);
    cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    cuFuncSetAttribute(function: CUfunction, which: CUfunction_attribute, value: c_int);
    cuFuncGetAttribute(value: *mut c_int, which: CUfunction_attribute, function: CUfunction);
    cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut c_int, function: CUfunction, threads: c_int, shared_bytes: usize);
    cuLaunchKernel(function: CUfunction, blocks_x: c_uint, blocks_y: c_uint, blocks_z: c_uint, threads_x: c_uint, threads_y: c_uint,
        threads_z: c_uint, shared_bytes: c_uint, stream: CUstream, arguments: *mut *mut c_void, extra: *mut *mut c_void);
    cuLaunchHostFunc(stream: CUstream, function: CUhostFn, argument: *mut c_void);
    cuStreamCreate(stream: *mut CUstream, flags: c_uint);
    cuStreamDestroy_v2(stream: CUstream);
    cuStreamQuery(stream: CUstream);
    cuStreamSynchronize(stream: CUstream);
    cuStreamBeginCapture_v2(stream: CUstream, mode: CUstreamCaptureMode);
    cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
    cuGraphInstantiateWithFlags(launchable: *mut CUgraphExec, graph: CUgraph, flags: c_ulonglong);
    cuGraphDestroy(graph: CUgraph);
    cuGraphExecDestroy(launchable: CUgraphExec);
    cuGraphUpload(launchable: CUgraphExec, stream: CUstream);
    cuGraphLaunch(launchable: CUgraphExec, stream: CUstream);
    cuEventCreate(event: *mut CUevent, flags: c_uint);
    cuEventDestroy_v2(event: CUevent);
    cuEventRecord(event: CUevent, stream: CUstream);
    cuEventQuery(event: CUevent);
    cuEventSynchronize(event: CUevent);
    cuEventElapsedTime(milliseconds: *mut f32, from: CUevent, to: CUevent);
}

/// What the driver calls a code of its own; `None` for one that it does not know.
pub(super) fn name(code: Code) -> Option<&'static str> {
    let functions = FUNCTIONS.get()?;
    let mut text = ptr::null();
    // SAFETY: `text` is a place for an address.
    let found = unsafe { (functions.cuGetErrorName)(code, &mut text) };
    if found != SUCCESS || text.is_null() {
        return None;
    }
    // SAFETY: a text of the library's, which is never closed.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}
