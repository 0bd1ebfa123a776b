//! Recurrent layers with gates: all rows of a tile take a step together. The inputs' part of all gates is a linear layer before this; here is what
//! depends on the state. Source: Cho et al. 2014, arXiv:1406.1078; with attention: Zhou et al. 2019, arXiv:1809.03672.

use crate::engine::cpu::gemm::{Matrix, rows_product};
use crate::engine::cpu::memory::Place;
use crate::engine::cpu::program::TILE_ROWS;
use crate::engine::cpu::simd::{MulAdd, multiversion};
use crate::engine::cpu::tile::Tile;
use crate::model::{GruKind, UnaryFn};

use super::Generic;
use super::unary::{UnaryF32, sigmoid_in_place, unary_f32};

/// Steps of a layer; gates lie in the order r, z, n.
#[derive(Debug)]
pub struct Gru {
    /// Inputs' part of the gates, biases included: `[steps][3 · hidden]`.
    pub gates: Place,
    /// First state `[hidden]`; zeros if there is none.
    pub first: Option<Place>,
    /// i64: steps that are taken; all if there is none.
    pub length: Option<Place>,
    /// `[steps]`, as the kind wants it.
    pub attention: Option<Place>,
    /// All states `[steps][hidden]`, zeros where no step is taken; or the last state.
    pub out: Place,
    /// Gates r and z: `hidden` x `2 · hidden`, nothing added.
    pub of_rz: StatePart,
    /// Gate n: `hidden` x `hidden`.
    pub of_n: StatePart,
    /// How it goes.
    pub layer: GruLayer,
}

/// What the state contributes to gates.
#[derive(Debug)]
pub struct StatePart {
    /// Its weights.
    pub weights: Matrix,
    /// One per column, and zeros to the matrix's padding.
    pub bias: Vec<f32>,
}

impl StatePart {
    fn of(&self, tile: &Tile, state: &[f32], out: &mut [f32]) {
        rows_product(tile, &self.weights, &self.bias, state, out);
    }
}

/// What a layer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GruLayer {
    /// Steps.
    pub steps: usize,
    /// States.
    pub hidden: usize,
    /// How attention enters.
    pub kind: GruKind,
    /// From the last step taken to the first.
    pub reverse: bool,
    /// Whether the last state is wanted alone.
    pub last: bool,
    /// Whether r scales the state's part of n (its bias too), and not the state.
    pub reset_after: bool,
}

impl Generic for Gru {
    /// The state, gates r and z, gate n, and the state scaled by r or the new n, of all rows.
    fn scratch_bytes(&self) -> usize {
        TILE_ROWS * 5 * self.layer.hidden * size_of::<f32>()
    }

    fn run(&self, tile: &Tile) {
        let GruLayer { steps, hidden, reverse, last, kind, reset_after } = self.layer;
        let gates = tile.source::<f32>(&self.gates);
        let first = self.first.as_ref().map(|place| tile.source::<f32>(place));
        let length = self.length.as_ref().map(|place| tile.source::<i64>(place));
        let attention = self.attention.as_ref().map(|place| tile.source::<f32>(place));
        let mut out = tile.target::<f32>(&self.out);
        let taken = |row: usize| length.as_ref().map_or(steps, |length| length.row(row)[0].clamp(0, steps as i64) as usize);
        let rows = tile.rows;
        let (state, rest) = tile.scratch(self.scratch_bytes()).split_at_mut(rows * hidden);
        let (rz, rest) = rest.split_at_mut(rows * 2 * hidden);
        let (n, rest) = rest.split_at_mut(rows * hidden);
        let other = &mut rest[..rows * hidden];
        for (row, state) in state.chunks_exact_mut(hidden).enumerate() {
            match &first {
                Some(first) => state.copy_from_slice(first.row(row)),
                None => state.fill(0.0),
            }
        }
        for turn in 0..(0..rows).map(taken).max().unwrap_or(0) {
            // Rows whose steps are all taken are computed along, and keep their state.
            let going = |row: &usize| turn < taken(*row);
            let at = |row: usize| if reverse { taken(row) - 1 - turn } else { turn };
            let inputs = |row: usize| &gates.row(row)[at(row) * 3 * hidden..][..3 * hidden];
            self.of_rz.of(tile, state, rz);
            for row in (0..rows).filter(going) {
                add(tile.simd, &mut rz[row * 2 * hidden..][..2 * hidden], &inputs(row)[..2 * hidden]);
            }
            sigmoid_in_place(tile.simd, rz);
            if reset_after {
                self.of_n.of(tile, state, n);
                for row in (0..rows).filter(going) {
                    let r = &rz[row * 2 * hidden..][..hidden];
                    scale_add(tile.simd, &mut n[row * hidden..][..hidden], r, &inputs(row)[2 * hidden..]);
                }
            } else {
                for (row, other) in other.chunks_exact_mut(hidden).enumerate() {
                    let r = &rz[row * 2 * hidden..][..hidden];
                    other.iter_mut().zip(r).zip(&state[row * hidden..]).for_each(|((other, &r), &h)| *other = r * h);
                }
                self.of_n.of(tile, other, n);
                for row in (0..rows).filter(going) {
                    add(tile.simd, &mut n[row * hidden..][..hidden], &inputs(row)[2 * hidden..]);
                }
            }
            unary_f32(tile.simd, UnaryF32::Function(UnaryFn::Tanh), n, other);
            for row in (0..rows).filter(going) {
                let attention = attention.as_ref().map_or(0.0, |attention| attention.row(row)[at(row)]);
                let state = &mut state[row * hidden..][..hidden];
                let z = &rz[row * 2 * hidden + hidden..][..hidden];
                update(tile.simd, kind, attention, state, &other[row * hidden..][..hidden], z);
                if !last {
                    out.row(row)[at(row) * hidden..][..hidden].copy_from_slice(state);
                }
            }
        }
        for (row, state) in state.chunks_exact(hidden).enumerate() {
            match last {
                true => out.row(row).copy_from_slice(state),
                false => out.row(row)[taken(row) * hidden..].fill(0.0),
            }
        }
    }
}

multiversion! {
    fn add(to: &mut [f32], x: &[f32]) = add_body;
    fn scale_add(n: &mut [f32], r: &[f32], x: &[f32]) = scale_add_body;
    fn update(kind: GruKind, attention: f32, state: &mut [f32], n: &[f32], z: &[f32]) = update_body;
}

#[inline(always)]
fn add_body<M: MulAdd>(to: &mut [f32], x: &[f32]) {
    for (to, &x) in to.iter_mut().zip(x) {
        *to += x;
    }
}

#[inline(always)]
fn scale_add_body<M: MulAdd>(n: &mut [f32], r: &[f32], x: &[f32]) {
    for ((n, &r), &x) in n.iter_mut().zip(r).zip(x) {
        *n = M::mul_add(r, *n, x);
    }
}

#[inline(always)]
fn update_body<M: MulAdd>(kind: GruKind, attention: f32, state: &mut [f32], n: &[f32], z: &[f32]) {
    let next = state.iter_mut().zip(n).zip(z);
    match kind {
        GruKind::Gru => {
            for ((h, &n), &z) in next {
                *h = M::mul_add(z, *h, (1.0 - z) * n);
            }
        }
        GruKind::Agru => {
            for ((h, &n), _) in next {
                *h = M::mul_add(attention, n, (1.0 - attention) * *h);
            }
        }
        GruKind::Augru => {
            for ((h, &n), &z) in next {
                let z = attention * z;
                *h = M::mul_add(z, n, (1.0 - z) * *h);
            }
        }
    }
}
