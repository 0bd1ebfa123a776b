//! Dense layers and dot interactions.

use std::fmt::Write;

use half::bf16;

use crate::engine::cpu::gemm::Activation;
use crate::engine::cpu::plan::origins::Piece;
use crate::engine::cpu::plan::task::{ValueIndex, Work};
use crate::engine::cpu::plan::weights::LayerMatrix;
use crate::engine::cuda::program::{Product, RowsAt, RowsMemory, WideLayer, Yardstick};

use super::emitter::Emitter;
use super::packing::{lengths, operand, operand_chunks, operand_matrices, padded_rows, squares};
use super::place::Region;
use super::traffic::is_in_place;

/// What calls of the kernels of a layer have in common.
pub(super) struct Layer {
    pub(super) x: String,
    pub(super) out: String,
    pub(super) addend: String,
    pub(super) activation: &'static str,
    pub(super) weights: usize,
    pub(super) bias: usize,
}

/// A layer that is a kernel of its own (`kernels/wide.cuh`).
pub struct WideKernel {
    /// All that the kernel does.
    pub run: String,
    /// Of a block.
    pub threads: u32,
    /// Rows of a block.
    pub rows: usize,
    /// Strips of columns.
    pub columns: usize,
    /// Shared memory of a block.
    pub shared_bytes: u32,
}

/// A layer in all ways that there are for it.
pub struct Wide {
    /// By warps: always there, and the judge of the others.
    pub kernel: WideKernel,
    /// By warpgroups.
    pub warpgroups: Option<WideKernel>,
    /// By a library.
    pub product: Option<Product>,
    /// What a choice needs to know of it, without its ways.
    pub layer: WideLayer,
}

impl Emitter<'_, '_> {
    /// A product with weights, bias, addend, activation (`kernels/mlp.cuh`, `kernels/mlp_bf16.cuh`).
    pub(super) fn linear(&mut self, x: ValueIndex, matrix: &LayerMatrix, bias: &[f32], addend: Option<ValueIndex>, activation: Activation) {
        let (k, n) = (matrix.k, matrix.n);
        let inner = self.out().len() / n;
        let addend_inner = addend.map_or(1, |addend| self.value(addend).len() / n);
        let tile = self.places.tile;
        let is_bf16 = self.multiplies_in_bf16(matrix);
        let room = match is_bf16 && tile == 16 && shares_inputs(inner, k, n) {
            true => self.block_room(WARP_SUMS * WARPS),
            false => "None".to_owned(),
        };
        let Layer { x, out, addend, activation, weights, bias } = self.layer(x, matrix, bias, addend, activation);
        let name = if is_bf16 { "linear_bf16" } else { "linear_f32" };
        let shape = format!("{tile}, {k}, {n}, {inner}, {addend_inner}");
        self.step(format!("{name}<{x}, {out}, {addend}, {room}, {shape}, {activation}, {weights}, {bias}>(b);"));
    }

    /// The task, a product over one vector of each row, as a kernel of its own, with the tasks of its tail. Large batches have large blocks, and other
    /// ways to compute it.
    pub(super) fn wide(&mut self, tail: &[usize]) -> Wide {
        let Work::Linear { x, matrix, bias, addend, activation } = &self.task.work else { unreachable!("only layers are wide") };
        let (k, n) = (matrix.k, matrix.n);
        let is_large = self.places.tile > super::SMALL_TILE;
        let (is_candidate, is_bf16) = (self.is_candidate(), self.multiplies_in_bf16(matrix));
        let layer = self.layer(*x, matrix, bias, *addend, *activation);
        let (end, has_tail) = self.end(&layer, n, tail);
        let has_ways = is_large && is_bf16;
        let warpgroups = (has_ways && self.target.warpgroups).then(|| self.wide_hopper(&layer.x, &end, matrix));
        let outs = self.stored(tail);
        let product = outs.first().filter(|_| has_ways).and_then(|out| self.product(*x, matrix, bias, *activation, *out));
        let (product, yardstick) = match left_out(addend.is_some(), has_tail) {
            None => (product, None),
            Some(leaves_out) => (None, product.map(|product| Yardstick { product, leaves_out })),
        };
        let Layer { x, weights, .. } = layer;
        let side = if is_large { 128 } else { 64 };
        let (strip, bytes) = if is_bf16 {
            // 32 inputs of the rows and columns of a block, each 64 bytes, in a ring.
            (format!("WideBf16<{x}, {end}, {0}, {0}, {STAGES}, {k}, {n}, {weights}>", side / 32), STAGES * 2 * side * 64)
        } else {
            // 16 inputs, 4 bytes each; rows have 4 more for the sake of the banks. Twice.
            (format!("WideF32<{x}, {end}, {}, {k}, {n}, {weights}>", side / 16), 2 * 16 * (2 * side + 4) * 4)
        };
        let kernel = WideKernel {
            run: format!("run_strips<{strip}, {side}, {is_candidate}>(job, shared);"),
            threads: super::THREADS,
            rows: side,
            columns: n.div_ceil(side),
            shared_bytes: (side * 4 + bytes) as u32,
        };
        let name = self.lowered.names.get(&self.task.out).cloned().unwrap_or_default();
        let lengths = if warpgroups.is_some() || product.is_some() { lengths(matrix) } else { vec![] };
        let layer = WideLayer { name, k, n, per_candidate: is_candidate, has_tail, outs, lengths, ways: vec![], yardstick };
        Wide { kernel, warpgroups, product, layer }
    }

    /// The layer by products of warpgroups (`kernels/wide_hopper.cuh`).
    fn wide_hopper(&mut self, x: &str, end: &str, matrix: &LayerMatrix) -> WideKernel {
        let (k, n, is_candidate) = (matrix.k, matrix.n, self.is_candidate());
        let weights = self.blob.add(&operand_matrices(matrix));
        // Contexts and barriers; 64 inputs of the rows, as groups of 8 with 64 bytes between them, and of the columns.
        let shared_bytes = (1024 + STAGES * (8 * (128 * 16 + 64) + 128 * 64 * 2)) as u32;
        let layer = format!("using Layer = WideHopper<{x}, {end}, {is_candidate}, {STAGES}, {k}, {n}, {weights}>;");
        let check = format!("static_assert(Layer::SHARED_BYTES == {shared_bytes}, \"the launch's shared memory\");");
        WideKernel {
            run: format!("{layer}\n    {check}\n    Layer::run(job, shared);"),
            threads: 3 * 128,
            rows: 128,
            columns: n.div_ceil(128),
            shared_bytes,
        }
    }

    /// The layer as cuBLASLt takes it, where it can: it adds a bias and cuts at 0, and wants rows of 16 bits on boundaries of 16 bytes. It computes
    /// all rows that a graph is for, so that contexts, which a batch seldom has as many of as it may, are left to kernels.
    fn product(&mut self, x: ValueIndex, matrix: &LayerMatrix, bias: &[f32], activation: Activation, out: RowsAt) -> Option<Product> {
        let relu = match activation {
            Activation::None => false,
            Activation::Relu => true,
            Activation::Sigmoid => return None,
        };
        // Rows of candidates that are contexts' would have to be looked up.
        let has_own_rows = self.is_candidate() && self.value(x).scope == self.out().scope;
        if !cfg!(feature = "cublaslt") || !has_own_rows {
            return None;
        }
        let x = self.rows_at(x);
        let is_aligned = |rows: &RowsAt| rows.first_byte(1).is_multiple_of(16) && (rows.stride * rows.element_bytes()).is_multiple_of(16);
        if !x.is_bf16 || !is_aligned(&x) || !is_aligned(&out) {
            return None;
        }
        let (k, n, weights_stride) = (matrix.k, matrix.n, matrix.k.next_multiple_of(8));
        let weights: Vec<u16> = (0..n * weights_stride).map(|at| operand(matrix, at % weights_stride, at / weights_stride)).collect();
        let weights = self.product_blob.add(&weights);
        let bias: Vec<f32> = (0..n).map(|n| bias.get(n).copied().unwrap_or(0.0)).collect();
        let bias = match out.is_bf16 {
            true => self.product_blob.add(&bias.iter().map(|&bias| bf16::from_f32(bias).to_bits()).collect::<Vec<u16>>()),
            false => self.product_blob.add(&bias),
        };
        Some(Product { k, n, x, out, weights, weights_stride, bias, relu })
    }

    /// What the kernel of the layer with this tail leaves in memory.
    fn stored(&self, tail: &[usize]) -> Vec<RowsAt> {
        let lowered = self.lowered;
        let steps = tail.iter().map(|&at| &lowered.tasks[at]).filter(|task| !is_in_place(task, lowered, self.places.homes()));
        let values = std::iter::once(self.task.out).chain(steps.map(|task| task.out));
        values.filter(|&value| self.places.has_memory(value)).map(|value| self.rows_at(value)).collect()
    }

    /// Where a value between kernels lies.
    fn rows_at(&self, value: ValueIndex) -> RowsAt {
        let is_bf16 = self.places.is_narrow(value);
        let bytes = if is_bf16 { 2 } else { 4 };
        let place = self.places.of(value, bytes);
        let first = place.first * bytes;
        match place.region {
            Region::Kept => {
                RowsAt { memory: RowsMemory::Kept { offset: place.offset + first }, stride: self.places.kept_bytes / bytes, is_bf16 }
            }
            // Nothing that wide layers read or write lies in a tile.
            Region::Work | Region::Shared | Region::Scratch => {
                RowsAt { memory: RowsMemory::Work { offset: place.offset, first }, stride: place.stride, is_bf16 }
            }
        }
    }

    fn multiplies_in_bf16(&self, matrix: &LayerMatrix) -> bool {
        self.is_bf16() && is_multiplied_in_bf16(matrix)
    }

    fn layer(&mut self, x: ValueIndex, matrix: &LayerMatrix, bias: &[f32], addend: Option<ValueIndex>, activation: Activation) -> Layer {
        let mut bias = bias.to_vec();
        bias.resize(matrix.n.next_multiple_of(8), 0.0);
        let bias = self.blob.add(&bias);
        let weights =
            if self.multiplies_in_bf16(matrix) { self.blob.add(&operand_chunks(matrix)) } else { self.blob.add(&padded_rows(matrix)) };
        let (x, out, addend) = (self.view(x), self.out_view(), self.view_or_none(addend));
        let activation = match activation {
            Activation::None => "IDENTITY",
            Activation::Relu => "RELU",
            Activation::Sigmoid => "SIGMOID",
        };
        Layer { x, out, addend, activation, weights, bias }
    }

    /// Dot products of pairs (`kernels/dot_interaction.cuh`).
    pub(super) fn interaction(&mut self, vectors: &[Piece], dim: usize, pairs: &[[usize; 2]]) {
        if self.is_bf16() {
            return self.interaction_bf16(vectors, dim, pairs);
        }
        let list: Vec<u32> = pairs.iter().map(|[a, b]| *a as u32 | (*b as u32) << 16).collect();
        let list = self.blob.add(&list);
        let (out, count) = (self.out_view(), pairs.len());
        let vectors = self.vectors(vectors);
        self.step(format!("interaction_f32<{vectors}, {out}, {dim}, {count}, {list}>(b);"));
    }

    fn interaction_bf16(&mut self, vectors: &[Piece], dim: usize, pairs: &[[usize; 2]]) {
        let squares = squares(pairs);
        let heads: Vec<u32> = squares.iter().map(|square| square.head()).collect();
        let places: Vec<i32> = squares.iter().flat_map(|square| &square.places).copied().collect();
        let (heads, places) = (self.blob.add(&heads), self.blob.add(&places));
        let (out, count, name) = (self.out_view(), vectors.len(), format!("Vectors{}", self.number));
        let mut text = format!("struct {name} {{\n    DEV static Quad quad(const Block& b, int r, int v, int k) {{\n");
        for run in self.vector_runs(vectors) {
            let bytes = format!("{} * (int)sizeof({}::Element)", run.step.unsigned_abs(), run.view);
            let align = format!("boundary(Rows<{}>::ALIGN | {bytes})", run.view);
            let _ = writeln!(text, "        {}return operand_quad<{dim}, {align}>({}, k);", run.condition(count), run.address());
        }
        text.push_str("    }\n};");
        self.define(&text);
        self.step(format!("interaction_bf16<{name}, {out}, {count}, {dim}, {}, {heads}, {places}>(b);", squares.len()));
    }
}

/// What a product with bias and activation leaves out of a layer, as a yardstick says it.
fn left_out(has_addend: bool, has_tail: bool) -> Option<&'static str> {
    match (has_addend, has_tail) {
        (false, false) => None,
        (true, false) => Some("the addend"),
        (false, true) => Some("the tail"),
        (true, true) => Some("the addend and the tail"),
    }
}

/// Whether a layer is multiplied on tensor cores where bf16 is asked for. One of few columns would leave most of their products unused: it
/// is computed exactly for less.
pub fn is_multiplied_in_bf16(matrix: &LayerMatrix) -> bool {
    matrix.n >= 8
}

/// Whether a product is so small that warps share its inputs: `WarpTiles::SPLITS` of `kernels/mlp_bf16.cuh` is above 1.
fn shares_inputs(inner: usize, k: usize, n: usize) -> bool {
    inner * n.div_ceil(8) * 2 <= WARPS && k > 32
}

/// Pieces of the rings of `WideBf16` and `WideHopper`.
const STAGES: usize = 4;
/// Warps of a block: `WARPS` of `kernels/tile.cuh`.
const WARPS: usize = 8;
/// Bytes of the sums of 16 x 8 products.
const WARP_SUMS: usize = 512;
