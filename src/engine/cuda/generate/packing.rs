//! Weights of layers and pairs of interactions in the order in which kernels read them.

use half::bf16;

use crate::engine::cpu::plan::weights::LayerMatrix;

/// `[k][n padded to 4]`, as `linear_f32` reads weights.
pub fn padded_rows(matrix: &LayerMatrix) -> Vec<f32> {
    let padded = matrix.n.next_multiple_of(4);
    let mut weights = vec![0.0f32; matrix.k * padded];
    for k in 0..matrix.k {
        (0..matrix.n).for_each(|n| weights[k * padded + n] = matrix.at(k, n));
    }
    weights
}

/// Strips of 8 columns, chunks of 32 inputs, 32 lanes, 8 elements, as `linear_bf16` reads weights.
pub fn operand_chunks(matrix: &LayerMatrix) -> Vec<u16> {
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
pub fn operand_matrices(matrix: &LayerMatrix) -> Vec<u16> {
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
pub fn lengths(matrix: &LayerMatrix) -> Vec<f32> {
    let square = |n| (0..matrix.k).map(|k| f64::from(bf16::from_f32(matrix.at(k, n)).to_f32()).powi(2)).sum::<f64>();
    (0..matrix.n).map(|n| square(n).sqrt() as f32).collect()
}

/// A weight as tensor cores see it; zero where there is none.
pub fn operand(matrix: &LayerMatrix, k: usize, n: usize) -> u16 {
    let weight = if k < matrix.k && n < matrix.n { matrix.at(k, n) } else { 0.0 };
    bf16::from_f32(weight).to_bits()
}

/// 32 x 32 products of vectors, as `interaction_bf16` computes them at once.
pub struct Square {
    /// Vectors `32 down ..` and `32 across ..`.
    down: usize,
    across: usize,
    /// Tiles of 16 x 8 that hold wanted products.
    tiles: u32,
    /// Where each product belongs, as the lanes hold them; -1: nowhere.
    pub places: Vec<i32>,
}

impl Square {
    /// As the kernel reads the first three.
    pub fn head(&self) -> u32 {
        self.down as u32 | (self.across as u32) << 12 | self.tiles << 24
    }
}

/// The squares that hold all pairs. A product is wanted once in a square: pairs that come again are in a further one.
pub fn squares(pairs: &[[usize; 2]]) -> Vec<Square> {
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
