//! A product of matrices, as it is described to a library.

use crate::engine::cuda::DevicePointer;

/// What is to be multiplied.
#[derive(Clone, Copy, Debug, Default)]
pub struct MatmulShape {
    /// Rows of X and of the result.
    pub rows: usize,
    /// Inputs.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Elements from row to row of X (bf16, on boundaries of 16 bytes).
    pub x_stride: usize,
    /// Elements from column to column of the weights (bf16, on boundaries of 16 bytes).
    pub weights_stride: usize,
    /// Elements from row to row of the result (on boundaries of 16 bytes).
    pub out_stride: usize,
    /// Whether the result and the bias are bf16, else f32.
    pub out_is_bf16: bool,
    /// Whether results below 0 become 0.
    pub relu: bool,
    /// Where the weights are.
    pub weights: DevicePointer,
    /// Where the bias is.
    pub bias: DevicePointer,
}
