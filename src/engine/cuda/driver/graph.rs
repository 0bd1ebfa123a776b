//! Recorded work that is launched in one call.

use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use super::{Context, DriverError, Stream, check, functions};

/// A graph that is ready to be launched. What its kernels read must live as long as it is launched.
#[derive(Debug)]
pub struct Graph {
    context: Arc<Context>,
    raw: sys::CUgraphExec,
}

/// What a stream recorded.
pub(super) struct Template(sys::CUgraph);

impl Graph {
    pub(super) fn template(raw: sys::CUgraph) -> Template {
        Template(raw)
    }

    /// Launches it: one call, however many kernels. The stream is one of the same device.
    pub fn launch(&self, stream: &Stream) -> Result<(), DriverError> {
        // SAFETY: both handles live until they are dropped.
        check(unsafe { functions::cuGraphLaunch(self.raw, stream.raw()) }, "launching a graph")
    }
}

impl Template {
    /// Makes it launchable and has the device prepare it.
    pub(super) fn instantiate(&self, context: &Arc<Context>, stream: &Stream) -> Result<Graph, DriverError> {
        let mut raw = ptr::null_mut();
        // SAFETY: the template lives; `raw` is a place for a handle.
        check(unsafe { functions::cuGraphInstantiateWithFlags(&mut raw, self.0, 0) }, "preparing a graph")?;
        let graph = Graph { context: Arc::clone(context), raw };
        // SAFETY: both handles live.
        check(unsafe { functions::cuGraphUpload(graph.raw, stream.raw()) }, "uploading a graph")?;
        Ok(graph)
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: recorded once, destroyed once; what was made of it does not need it.
            let _ = unsafe { functions::cuGraphDestroy(self.0) };
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made once, destroyed once; the stream that ran it was waited for.
            let _ = unsafe { functions::cuGraphExecDestroy(self.raw) };
        }
    }
}
