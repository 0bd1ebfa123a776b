//! Work in order: launches, copies and calls back.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::sys;

use super::error::check_ready;
use super::{Context, DriverError, Function, Graph, Grid, check, functions};
use crate::engine::cuda::DevicePointer;

/// A queue of work on the device. Waits for its work before it goes.
#[derive(Debug)]
pub struct Stream {
    context: Arc<Context>,
    raw: sys::CUstream,
}

impl Stream {
    /// A queue that waits for no other.
    pub fn new(context: &Arc<Context>) -> Result<Stream, DriverError> {
        context.bind()?;
        let mut raw = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: `raw` is a place for a handle.
        check(unsafe { functions::cuStreamCreate(&mut raw, flags) }, "making a stream")?;
        Ok(Stream { context: Arc::clone(context), raw })
    }

    pub(super) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Whether everything in it is done. Error: so is everything, because something failed. Does not block.
    pub fn is_done(&self) -> Result<bool, DriverError> {
        // SAFETY: the handle lives until `drop`.
        check_ready(unsafe { functions::cuStreamQuery(self.raw) }, "running kernels")
    }

    /// Waits until everything in it is done.
    pub fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the handle lives until `drop`.
        check(unsafe { functions::cuStreamSynchronize(self.raw) }, "running kernels")
    }

    /// Records what `work` puts into this stream, instead of doing it.
    pub fn capture<E: From<DriverError>>(&self, work: impl FnOnce(&Stream) -> Result<(), E>) -> Result<Graph, E> {
        self.context.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the handle lives until `drop`.
        check(unsafe { functions::cuStreamBeginCapture_v2(self.raw, mode) }, "beginning to record a graph")?;
        let recorded = work(self);
        let mut graph = ptr::null_mut();
        // SAFETY: `graph` is a place for a handle. A stream must be brought out of recording also when `work` failed.
        let ended = check(unsafe { functions::cuStreamEndCapture(self.raw, &mut graph) }, "recording a graph");
        let graph = Graph::template(graph);
        recorded?;
        ended?;
        Ok(graph.instantiate(&self.context, self)?)
    }

    /// Launches a kernel whose one argument is `argument`.
    ///
    /// # Safety
    /// - the kernel takes exactly this argument, and what its pointers lead to lives until the launch is done.
    pub unsafe fn launch<A: Pod>(&self, function: &Function, grid: Grid, argument: &A) -> Result<(), DriverError> {
        let mut arguments = [ptr::from_ref(argument).cast_mut().cast::<c_void>()];
        let Grid { blocks, columns, threads, shared_bytes } = grid;
        // SAFETY: the driver copies the argument before it returns; the rest is the caller's promise.
        let code = unsafe {
            functions::cuLaunchKernel(
                function.raw(),
                blocks,
                columns,
                1,
                threads,
                1,
                1,
                shared_bytes,
                self.raw,
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check(code, "launching a kernel")
    }

    /// Copies from host memory by the copy engine.
    ///
    /// # Safety
    /// - both ranges live until the copy is done, and nobody writes the source before.
    pub unsafe fn copy(&self, from: *const u8, to: DevicePointer, bytes: usize) -> Result<(), DriverError> {
        // SAFETY: the caller's promise.
        check(unsafe { functions::cuMemcpyHtoDAsync_v2(to, from.cast(), bytes, self.raw) }, "copying a batch to the device")
    }

    /// Calls `function(argument)` on a thread of the driver's once everything before is done well. After a fault it is not called.
    ///
    /// # Safety
    /// - `argument` is what the function takes, and lives until the stream is done;
    /// - the function calls nothing of the driver's and does not unwind.
    pub unsafe fn call(&self, function: unsafe extern "C" fn(*mut c_void), argument: *const c_void) -> Result<(), DriverError> {
        // SAFETY: the caller's promise.
        check(
            unsafe { functions::cuLaunchHostFunc(self.raw, Some(function), argument.cast_mut()) },
            "asking for a call when kernels are done",
        )
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            let _ = self.wait();
            // SAFETY: made in `new`, destroyed once.
            let _ = unsafe { functions::cuStreamDestroy_v2(self.raw) };
        }
    }
}
