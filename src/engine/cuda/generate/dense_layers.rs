//! Dense layers and dot interactions.

use std::fmt::Write;

use half::bf16;

use crate::engine::cpu::gemm::Activation;
use crate::engine::cpu::plan::origins::Piece;
use crate::engine::cpu::plan::task::{ValueIndex, Work};
use crate::engine::cpu::plan::weights::LayerMatrix;
use crate::engine::cuda::program::{Product, RowsAt, RowsMemory, WideLayer, Yardstick};

use super::emitter::Emitter;
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

/// `[k][n padded to 4]`, as `linear_f32` reads weights.
fn padded_rows(matrix: &LayerMatrix) -> Vec<f32> {
    let padded = matrix.n.next_multiple_of(4);
    let mut weights = vec![0.0f32; matrix.k * padded];
    for k in 0..matrix.k {
        (0..matrix.n).for_each(|n| weights[k * padded + n] = matrix.at(k, n));
    }
    weights
}

/// Strips of 8 columns, chunks of 32 inputs, 32 lanes, 8 elements, as `linear_bf16` reads weights.
fn operand_chunks(matrix: &LayerMatrix) -> Vec<u16> {
    let (strips, chunks) = (matrix.n.div_ceil(8), matrix.k.div_ceil(32));
    let mut weights = Vec::with_capacity(strips * chunks * 256);
    for strip in 0..strips {
        for chunk in 0..chunks {
            for lane in 0..32 {
                let (n, first) = (strip * 8 + lane / 4, chunk * 32 + lane % 4 * 2);
                weights.extend([0, 1, 8, 9, 16, 17, 24, 25].map(|at| operand(matrix, first + at, n)));
            }
        }
    }
    weights
}

/// Strips of 128 columns, pieces of 64 inputs, 8 groups of inputs, columns, 8 inputs, as `WideHopper` reads weights.
fn operand_matrices(matrix: &LayerMatrix) -> Vec<u16> {
    let (strips, pieces) = (matrix.n.div_ceil(128), matrix.k.div_ceil(64));
    let mut weights = Vec::with_capacity(strips * pieces * 64 * 128);
    for strip in 0..strips {
        for group in 0..pieces * 8 {
            for n in strip * 128..strip * 128 + 128 {
                weights.extend((group * 8..group * 8 + 8).map(|k| operand(matrix, k, n)));
            }
        }
    }
    weights
}

/// The Euclidean length of each column, as tensor cores see it.
fn lengths(matrix: &LayerMatrix) -> Vec<f32> {
    let square = |n| (0..matrix.k).map(|k| f64::from(bf16::from_f32(matrix.at(k, n)).to_f32()).powi(2)).sum::<f64>();
    (0..matrix.n).map(|n| square(n).sqrt() as f32).collect()
}

/// A weight as tensor cores see it; zero where there is none.
fn operand(matrix: &LayerMatrix, k: usize, n: usize) -> u16 {
    let weight = if k < matrix.k && n < matrix.n { matrix.at(k, n) } else { 0.0 };
    bf16::from_f32(weight).to_bits()
}

/// 32 x 32 products of vectors, as `interaction_bf16` computes them at once.
struct Square {
    /// Vectors `32 down ..` and `32 across ..`.
    down: usize,
    across: usize,
    /// Tiles of 16 x 8 that hold wanted products.
    tiles: u32,
    /// Where each product belongs, as the lanes hold them; -1: nowhere.
    places: Vec<i32>,
}

impl Square {
    fn head(&self) -> u32 {
        self.down as u32 | (self.across as u32) << 12 | self.tiles << 24
    }
}

/// The squares that hold all pairs. A product is wanted once in a square: pairs that come again are in a further one.
fn squares(pairs: &[[usize; 2]]) -> Vec<Square> {
    let mut squares: Vec<Square> = Vec::new();
    for (place, &[a, b]) in pairs.iter().enumerate() {
        let (i, j) = (a.max(b), a.min(b));
        let (down, across) = (i / 32, j / 32);
        let (tile, element) = (i % 32 / 16 * 4 + j % 32 / 8, i % 16 / 8 * 2 + j % 2);
        let lane = i % 8 * 4 + j % 8 / 2;
        let slot = (tile * 4 + element) * 32 + lane;
        let free = squares.iter().position(|square| (square.down, square.across) == (down, across) && square.places[slot] < 0);
        let at = free.unwrap_or(squares.len());
        if at == squares.len() {
            squares.push(Square { down, across, tiles: 0, places: vec![-1; 1024] });
        }
        let square = &mut squares[at];
        square.tiles |= 1 << tile;
        square.places[slot] = place as i32;
    }
    squares
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a warp's lanes hold of 32 inputs and 8 columns is the whole chunk, each weight once, in the order of mma.sync's second operand.
    #[test]
    fn chunks_hold_weights_where_tensor_cores_want_them() {
        let numbers: Vec<f32> = (0..40 * 9).map(|at| (at % 251) as f32).collect();
        let matrix = LayerMatrix::by_column(&numbers, 40, 9);
        let chunks = operand_chunks(&matrix);
        assert_eq!(chunks.len(), 2 * 2 * 256, "two strips of two chunks");
        for (at, &bits) in chunks.iter().enumerate() {
            let (strip, chunk, lane, element) = (at / 512, at / 256 % 2, at / 8 % 32, at % 8);
            // Two halves of 16 inputs; in each two registers, of inputs 2 t and 2 t + 8, with two neighbours each.
            let (half, register, odd) = (element / 4, element / 2 % 2, element % 2);
            let (k, n) = (chunk * 32 + half * 16 + lane % 4 * 2 + register * 8 + odd, strip * 8 + lane / 4);
            let expected = if k < 40 && n < 9 { matrix.at(k, n) } else { 0.0 };
            assert_eq!(bf16::from_bits(bits).to_f32(), expected, "input {k}, column {n}");
        }
    }

    #[test]
    fn matrices_of_warpgroups_hold_eight_inputs_of_each_column() {
        let numbers: Vec<f32> = (0..70 * 130).map(|at| (at % 251) as f32).collect();
        let matrix = LayerMatrix::by_column(&numbers, 70, 130);
        let pieces = operand_matrices(&matrix);
        assert_eq!(pieces.len(), 2 * 2 * 64 * 128);
        for (at, &bits) in pieces.iter().enumerate() {
            let (k, n) = (at / (128 * 8) % 16 * 8 + at % 8, at / (16 * 128 * 8) * 128 + at / 8 % 128);
            let expected = if k < 70 && n < 130 { matrix.at(k, n) } else { 0.0 };
            assert_eq!(bf16::from_bits(bits).to_f32(), expected, "input {k}, column {n}");
        }
    }

    #[test]
    fn squares_hold_every_pair_once() {
        let all: Vec<[usize; 2]> = (0..40).flat_map(|i| (0..40).map(move |j| [i, j])).collect();
        let below: Vec<[usize; 2]> = all.iter().copied().filter(|[i, j]| j < i).collect();
        for (pairs, expected) in [(vec![[3, 1]], 1), (below.clone(), 3), (all, 6), (vec![[1, 2], [2, 1], [1, 2]], 3), (vec![[39, 0]], 1)] {
            let squares = squares(&pairs);
            assert_eq!(squares.len(), expected, "{} pairs", pairs.len());
            let mut found = vec![0; pairs.len()];
            for square in &squares {
                for (slot, &place) in square.places.iter().enumerate().filter(|(_, place)| **place >= 0) {
                    let (tile, element, lane) = (slot / 128, slot / 32 % 4, slot % 32);
                    let i = square.down * 32 + tile / 4 * 16 + element / 2 * 8 + lane / 4;
                    let j = square.across * 32 + tile % 4 * 8 + lane % 4 * 2 + element % 2;
                    let [a, b] = pairs[place as usize];
                    assert_eq!([i, j], [a.max(b), a.min(b)]);
                    assert!(square.tiles >> tile & 1 == 1, "tile {tile} is computed");
                    found[place as usize] += 1;
                }
            }
            assert!(found.iter().all(|&count| count == 1));
        }
        assert_eq!(squares(&[[20, 3]])[0].head(), 1 << 4 << 24, "one tile of the first square");
    }
}
