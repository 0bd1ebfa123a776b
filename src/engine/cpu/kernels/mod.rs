//! Kernels by family. Each reads and writes [`Place`](super::memory::Place)s of the rows of one [`Tile`].

pub mod attention;
pub mod binary;
pub mod chain;
pub mod copy;
pub mod fm;
pub mod fold;
pub mod gru;
pub mod input;
pub mod interaction;
pub mod layer_norm;
pub mod lookup;
pub mod matmul;
pub mod mix;
pub mod normalize;
pub mod pad;
pub mod pick;
pub mod reduce;
pub mod running;
pub mod top;
pub mod trees;
pub mod truth;
pub mod unary;
pub mod window;
mod zip;

use super::gemm::Linear;
use super::gemm::half::HalfLinear;
use super::gemm::int8::{Int8Linear, Observe, Quantize};
use super::tile::Tile;

/// One operation with its places.
#[derive(Debug)]
pub enum Kernel {
    /// Dense features side by side.
    Dense(input::Dense),
    /// Integer feature.
    Integer(input::Integer),
    /// Bag length.
    Length(input::Length),
    /// Pooled embedding rows of all tables of a scope.
    Lookups(lookup::Lookups),
    /// Packed matrix product with its epilogue.
    Linear(Linear),
    /// Rows to 8-bit codes.
    Quantize(Quantize),
    /// How large a layer's inputs get.
    Observe(Observe),
    /// Product of 8-bit codes with its epilogue.
    Int8Linear(Int8Linear),
    /// Product with weights of 16 bits.
    HalfLinear(HalfLinear),
    /// Dot products of pairs of vectors.
    Interaction(interaction::Interaction),
    /// Product of two computed matrices.
    MatMul(matmul::MatMul),
    /// Weighted sum of vectors.
    Mix(mix::Mix),
    /// Two operands, broadcast, f32.
    BinaryF32(binary::Binary<f32>),
    /// Two operands, broadcast, i64.
    BinaryI64(binary::Binary<i64>),
    /// Pairs of a factorisation machine.
    Fm(fm::Fm),
    /// Several elementwise ops, f32.
    Chain(Box<chain::Chain>),
    /// One f32 operand, element by element.
    UnaryF32(unary::Unary<unary::UnaryF32>),
    /// One i64 operand, element by element.
    UnaryI64(unary::Unary<unary::UnaryI64>),
    /// Change of type.
    Cast(unary::Cast),
    /// Strided copy of 4-byte elements.
    Copy32(copy::Copy<u32>),
    /// Strided copy of 8-byte elements.
    Copy64(copy::Copy<u64>),
    /// Picked elements of 4 bytes.
    Gather32(copy::Gather<u32>),
    /// Picked elements of 8 bytes.
    Gather64(copy::Gather<u64>),
    /// Sums over axes, f32.
    SumF32(reduce::Sum<f32>),
    /// Sums over axes, i64.
    SumI64(reduce::Sum<i64>),
    /// Along one axis.
    Softmax(normalize::Softmax),
    /// Along one axis.
    L2Norm(normalize::L2Norm),
    /// Along one axis.
    BatchNorm(normalize::BatchNorm),
    /// An op that no pass looks into.
    Generic(Box<dyn Generic>),
}

/// A kernel of its own.
pub trait Generic: std::fmt::Debug + Send + Sync {
    /// Scratch memory that it asks for while it runs.
    fn scratch_bytes(&self) -> usize {
        0
    }
    /// Runs on all rows of the tile.
    fn run(&self, tile: &Tile);
}

impl Kernel {
    /// Scratch memory that it asks for while it runs.
    pub fn scratch_bytes(&self) -> usize {
        match self {
            Kernel::Interaction(kernel) => kernel.scratch_bytes(),
            Kernel::Generic(kernel) => kernel.scratch_bytes(),
            _ => 0,
        }
    }

    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        match self {
            Kernel::Dense(kernel) => kernel.run(tile),
            Kernel::Integer(kernel) => kernel.run(tile),
            Kernel::Length(kernel) => kernel.run(tile),
            Kernel::Lookups(kernel) => kernel.run(tile),
            Kernel::Linear(kernel) => kernel.run(tile),
            Kernel::Quantize(kernel) => kernel.run(tile),
            Kernel::Observe(kernel) => kernel.run(tile),
            Kernel::Int8Linear(kernel) => kernel.run(tile),
            Kernel::HalfLinear(kernel) => kernel.run(tile),
            Kernel::Interaction(kernel) => kernel.run(tile),
            Kernel::MatMul(kernel) => kernel.run(tile),
            Kernel::Mix(kernel) => kernel.run(tile),
            Kernel::BinaryF32(kernel) => kernel.run(tile),
            Kernel::BinaryI64(kernel) => kernel.run(tile),
            Kernel::Fm(kernel) => kernel.run(tile),
            Kernel::Chain(kernel) => kernel.run(tile),
            Kernel::UnaryF32(kernel) => kernel.run(tile),
            Kernel::UnaryI64(kernel) => kernel.run(tile),
            Kernel::Cast(kernel) => kernel.run(tile),
            Kernel::Copy32(kernel) => kernel.run(tile),
            Kernel::Copy64(kernel) => kernel.run(tile),
            Kernel::Gather32(kernel) => kernel.run(tile),
            Kernel::Gather64(kernel) => kernel.run(tile),
            Kernel::SumF32(kernel) => kernel.run(tile),
            Kernel::SumI64(kernel) => kernel.run(tile),
            Kernel::Softmax(kernel) => kernel.run(tile),
            Kernel::L2Norm(kernel) => kernel.run(tile),
            Kernel::BatchNorm(kernel) => kernel.run(tile),
            Kernel::Generic(kernel) => kernel.run(tile),
        }
    }
}
