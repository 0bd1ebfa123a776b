//! What a graph launches: kernels, and products of a library in their place.

use super::driver::{DriverError, Function, Grid, Matmul, Stream};
use super::job::{DevicePointer, Job};
use super::program::{RowsAt, RowsMemory};

/// One of a batch's launches, as it was chosen.
#[derive(Clone, Debug)]
pub enum Call {
    /// A kernel, which takes the job.
    Kernel {
        /// Its name.
        name: String,
        /// The kernel.
        function: Function,
        /// Its blocks.
        grid: Grid,
    },
    /// A product.
    Product {
        /// Of the kernel in whose place it is.
        instead_of: String,
        /// For as many rows as the graph is for.
        matmul: Matmul,
        /// Inputs.
        x: RowsAt,
        /// Results.
        out: RowsAt,
    },
}

impl Call {
    /// Puts it into a stream, or into the graph that it records.
    ///
    /// # Safety
    /// - the job's pointers lead to what the program needs for as many rows as the call is for, `workspace` to [`Call::workspace_bytes`] bytes,
    ///   until the stream is done with it, or the graph is launched no more.
    pub unsafe fn put(&self, stream: &Stream, job: &Job, workspace: DevicePointer) -> Result<(), DriverError> {
        match self {
            // SAFETY: generated kernels take a `Job`; the rest is the caller's promise.
            Call::Kernel { function, grid, .. } => unsafe { stream.launch(function, *grid, job) },
            // SAFETY: rows lie in the job's memory as the program says; the rest is the caller's promise.
            Call::Product { matmul, x, out, .. } => unsafe { matmul.put(stream, address(x, job), address(out, job), workspace) },
        }
    }

    /// Device memory that it wants while it runs, beside the job's.
    pub fn workspace_bytes(&self) -> usize {
        match self {
            Call::Kernel { .. } => 0,
            Call::Product { matmul, .. } => matmul.workspace_bytes(),
        }
    }
}

/// Where the first row of a value lies.
pub fn address(rows: &RowsAt, job: &Job) -> DevicePointer {
    let memory = match rows.memory {
        RowsMemory::Work { .. } => job.work,
        RowsMemory::Kept { .. } => job.kept,
    };
    memory + rows.first_byte(job.work_rows as usize) as DevicePointer
}

/// A launch of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// The kernel's name, or that of the one in whose place cuBLASLt multiplies, with `by cuBLASLt` behind it.
    pub kernel: String,
    /// Blocks, in both dimensions; 0 where the kernel is not ours.
    pub blocks: usize,
    /// Threads of each.
    pub threads: usize,
    /// Dynamic shared memory of each.
    pub shared_bytes: usize,
}

impl LaunchShape {
    /// Of a call.
    pub fn of(call: &Call) -> LaunchShape {
        match call {
            Call::Kernel { name, grid, .. } => LaunchShape {
                kernel: name.clone(),
                blocks: grid.blocks as usize * grid.columns as usize,
                threads: grid.threads as usize,
                shared_bytes: grid.shared_bytes as usize,
            },
            Call::Product { instead_of, .. } => {
                LaunchShape { kernel: format!("{instead_of} by cuBLASLt"), blocks: 0, threads: 0, shared_bytes: 0 }
            }
        }
    }
}
