//! The argument of every kernel, as `kernels/job.cuh` declares it. Pointers are device addresses.

use bytemuck::{Pod, Zeroable};

/// Address in device memory, or of mapped host memory as the device sees it. 0 is null.
pub type DevicePointer = u64;

/// Counts of a batch, in mapped memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// Candidates.
    pub rows: u32,
    /// Requests.
    pub contexts: u32,
    /// What the last block writes to [`Job::done`].
    pub sequence: u32,
    /// Zero.
    pub reserved: u32,
}

/// Rows of one scope; null where the layout has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct InputRows {
    /// f32 `[rows][dense width]`.
    pub dense: DevicePointer,
    /// u32 table rows or `NO_ROW`.
    pub ids: DevicePointer,
    /// u32 `[rows * bags + 1]`; null where every row has the same number of ids.
    pub starts: DevicePointer,
    /// f32, parallel to `ids`.
    pub weights: DevicePointer,
    /// i64 `[rows][integer width]`.
    pub ints: DevicePointer,
}

/// What every kernel is given, by value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Job {
    /// [`Header`], mapped.
    pub header: DevicePointer,
    /// One row per request.
    pub contexts: InputRows,
    /// One row per candidate.
    pub candidates: InputRows,
    /// u32 `[rows]`.
    pub row_context: DevicePointer,
    /// [`super::Program::weights`] on the device.
    pub weights: DevicePointer,
    /// Device array of the addresses of [`super::Program::tables`].
    pub tables: DevicePointer,
    /// `[contexts][kept bytes]`.
    pub kept: DevicePointer,
    /// Values between kernels, each `[work_rows][its bytes]`.
    pub work: DevicePointer,
    /// Rows that `work` has room for.
    pub work_rows: u64,
    /// `[blocks][scratch bytes]`.
    pub scratch: DevicePointer,
    /// f32 `[rows][outputs]`.
    pub scores: DevicePointer,
    /// u32 in device memory, zero at first.
    pub blocks_done: DevicePointer,
    /// Two u32 in mapped memory.
    pub done: DevicePointer,
}

/// `work_rows` is a multiple of this, so that each value between kernels begins on a boundary of 256 bytes, and whole tiles fit.
pub const WORK_ROWS_ALIGN: usize = 256;
