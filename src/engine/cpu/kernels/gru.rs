//! Recurrent layers with gates. The inputs' part of all gates is a linear layer before this; here is what depends on the state.
//! Source: Cho et al. 2014, arXiv:1406.1078; with attention: Zhou et al. 2019, arXiv:1809.03672.

use std::sync::Arc;

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, Simd, multiversion};
use crate::engine::cpu::tile::Tile;
use crate::engine::cpu::{elementary, math};
use crate::model::GruKind;

use super::Generic;

/// Steps of a layer with `hidden` states; gates lie in the order r, z, n.
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
    /// f32 of room: [`Gru::scratch`].
    pub scratch: Place,
    /// The layer.
    pub layer: Arc<GruLayer>,
}

/// A layer's numbers.
#[derive(Debug)]
pub struct GruLayer {
    /// Steps.
    pub steps: usize,
    /// States.
    pub hidden: usize,
    /// State weights, `[hidden][3 · hidden]`: the row of state i holds its weight in each gate.
    pub weights: Vec<f32>,
    /// Addend of the state's part of n, `[hidden]`, where r scales that part; else it is among the inputs' biases.
    pub bias: Option<Vec<f32>>,
    /// How attention enters.
    pub kind: GruKind,
    /// From the last step taken to the first.
    pub reverse: bool,
    /// Whether the last state is wanted alone.
    pub last: bool,
}

impl Gru {
    /// Elements of room that a layer needs.
    pub fn scratch(hidden: usize) -> usize {
        5 * hidden
    }
}

/// Rows that take a step together: each weight is loaded once for all of them.
const GROUP: usize = 4;

impl Generic for Gru {
    fn run(&self, tile: &Tile) {
        let whole = tile.rows - tile.rows % GROUP;
        (0..whole).step_by(GROUP).for_each(|first| self.rows::<GROUP>(tile, first, four));
        (whole..tile.rows).for_each(|row| self.rows::<1>(tile, row, one));
    }
}

impl Gru {
    /// All steps of rows `first .. first + R`; `step` takes one in all of them.
    fn rows<const R: usize>(&self, tile: &Tile, first: usize, step: fn(Simd, &GruLayer, &mut [Row; R], usize)) {
        let GruLayer { steps, hidden, last, .. } = *self.layer;
        let gates = tile.source::<f32>(&self.gates);
        let start = self.first.as_ref().map(|place| tile.source::<f32>(place));
        let length = self.length.as_ref().map(|place| tile.source::<i64>(place));
        let attention = self.attention.as_ref().map(|place| tile.source::<f32>(place));
        let (mut out, mut scratch) = (tile.target::<f32>(&self.out), tile.target::<f32>(&self.scratch));
        let mut rows: [Row; R] = std::array::from_fn(|at| {
            let row = first + at;
            assert!(row < tile.rows && self.scratch.len == Gru::scratch(hidden), "a row of the tile, with room");
            // SAFETY: a row of the scratch place, which is long enough; rows are apart from each other, and each is taken once.
            let room = unsafe { std::slice::from_raw_parts_mut(scratch.row_ptr(row), Gru::scratch(hidden)) };
            let (state, work) = room.split_at_mut(hidden);
            match &start {
                Some(start) => state.copy_from_slice(start.row(row)),
                None => state.fill(0.0),
            }
            let taken = length.as_ref().map_or(steps, |length| length.row(row)[0].clamp(0, steps as i64) as usize);
            Row { gates: gates.row(row), attention: attention.as_ref().map(|attention| attention.row(row)), taken, state, work }
        });
        for turn in 0..rows.iter().map(|row| row.taken).max().unwrap_or(0) {
            if rows.iter().all(|row| turn < row.taken) {
                step(tile.simd, &self.layer, &mut rows, turn);
            } else {
                // Some rows have ended.
                let going = rows.iter_mut().filter(|row| turn < row.taken);
                going.for_each(|row| one(tile.simd, &self.layer, std::array::from_mut(row), turn));
            }
            if !last {
                for (at, row) in rows.iter().enumerate().filter(|(_, row)| turn < row.taken) {
                    out.row(first + at)[self.layer.position(turn, row.taken) * hidden..][..hidden].copy_from_slice(row.state);
                }
            }
        }
        for (at, row) in rows.iter().enumerate() {
            match last {
                true => out.row(first + at).copy_from_slice(row.state),
                false => out.row(first + at)[row.taken * hidden..].fill(0.0),
            }
        }
    }
}

impl GruLayer {
    /// Where in the sequence turn `turn` of `taken` is.
    fn position(&self, turn: usize, taken: usize) -> usize {
        if self.reverse { taken - 1 - turn } else { turn }
    }
}

/// A row under way.
struct Row<'a> {
    /// `[steps][3 · hidden]`.
    gates: &'a [f32],
    /// `[steps]`.
    attention: Option<&'a [f32]>,
    /// Steps that are taken.
    taken: usize,
    /// `[hidden]`.
    state: &'a mut [f32],
    /// Gates r, z, n, and the state scaled by r: `[4 · hidden]`.
    work: &'a mut [f32],
}

multiversion! {
    fn one(layer: &GruLayer, rows: &mut [Row; 1], turn: usize) = one_body;
    fn four(layer: &GruLayer, rows: &mut [Row; GROUP], turn: usize) = four_body;
}

#[inline(always)]
fn one_body<M: MulAdd>(layer: &GruLayer, rows: &mut [Row; 1], turn: usize) {
    step::<M, 1>(layer, rows, turn);
}

#[inline(always)]
fn four_body<M: MulAdd>(layer: &GruLayer, rows: &mut [Row; GROUP], turn: usize) {
    step::<M, GROUP>(layer, rows, turn);
}

/// One step of some rows.
#[inline(always)]
fn step<M: MulAdd, const R: usize>(layer: &GruLayer, rows: &mut [Row; R], turn: usize) {
    let (hidden, width) = (layer.hidden, 3 * layer.hidden);
    let at: [usize; R] = std::array::from_fn(|row| layer.position(turn, rows[row].taken));
    // What the state alone makes: all gates where r scales the state's part of n, else n later.
    let columns = if layer.bias.is_some() { width } else { 2 * hidden };
    product::<M, R>(&layer.weights, width, 0, rows.each_mut().map(|row| (&*row.state, &mut row.work[..columns])));
    for (row, at) in rows.iter_mut().zip(at) {
        let (rz, rest) = row.work.split_at_mut(2 * hidden);
        for (gate, &x) in rz.iter_mut().zip(&row.gates[at * width..]) {
            *gate = math::sigmoid::<M>(*gate + x);
        }
        if layer.bias.is_none() {
            for ((reset, &r), &h) in rest[hidden..].iter_mut().zip(&*rz).zip(&*row.state) {
                *reset = r * h;
            }
        }
    }
    if layer.bias.is_none() {
        let parts = rows.each_mut().map(|row| {
            let (n, reset) = row.work[2 * hidden..].split_at_mut(hidden);
            (&*reset, n)
        });
        product::<M, R>(&layer.weights, width, 2 * hidden, parts);
    }
    for (row, at) in rows.iter_mut().zip(at) {
        let (rz, n) = row.work[..width].split_at_mut(2 * hidden);
        let gates = &row.gates[at * width + 2 * hidden..];
        match &layer.bias {
            Some(bias) => {
                for (((n, &r), &bias), &x) in n.iter_mut().zip(&*rz).zip(bias).zip(gates) {
                    *n = elementary::tanh::<M>(M::mul_add(r, *n + bias, x));
                }
            }
            None => {
                for (n, &x) in n.iter_mut().zip(gates) {
                    *n = elementary::tanh::<M>(*n + x);
                }
            }
        }
        let attention = row.attention.map_or(0.0, |attention| attention[at]);
        let next = row.state.iter_mut().zip(&*n).zip(&rz[hidden..]);
        match layer.kind {
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
}

/// For each row (x, out): `out[j] = Σ x[i] · weights[i][first + j]`, rows of weights of `width`, x in ascending order, so that a row's result
/// does not depend on the others.
#[inline(always)]
fn product<M: MulAdd, const R: usize>(weights: &[f32], width: usize, first: usize, mut rows: [(&[f32], &mut [f32]); R]) {
    let mut start = 0;
    if R == 1 {
        start = blocks::<M, R, 64>(weights, width, first, &mut rows, start);
    }
    start = blocks::<M, R, 32>(weights, width, first, &mut rows, start);
    start = blocks::<M, R, 16>(weights, width, first, &mut rows, start);
    for (x, out) in &mut rows {
        let rest = &mut out[start..];
        rest.fill(0.0);
        for (&x, weights) in x.iter().zip(weights.chunks_exact(width)) {
            for (sum, &weight) in rest.iter_mut().zip(&weights[first + start..]) {
                *sum = M::mul_add(x, weight, *sum);
            }
        }
    }
}

/// The columns from `start` on, in blocks of `B` whose sums stay in registers; gives the first column that is left.
#[inline(always)]
fn blocks<M: MulAdd, const R: usize, const B: usize>(
    weights: &[f32],
    width: usize,
    first: usize,
    rows: &mut [(&[f32], &mut [f32]); R],
    mut start: usize,
) -> usize {
    let (inner, columns) = (rows[0].0.len(), rows[0].1.len());
    while start + B <= columns {
        let mut sums = [[0.0; B]; R];
        for (i, weights) in weights.chunks_exact(width).enumerate().take(inner) {
            let weights: &[f32; B] = weights[first + start..][..B].try_into().expect("as long as the block");
            for (sums, (x, _)) in sums.iter_mut().zip(&*rows) {
                let x = x[i];
                for (sum, &weight) in sums.iter_mut().zip(weights) {
                    *sum = M::mul_add(x, weight, *sum);
                }
            }
        }
        for (sums, (_, out)) in sums.iter().zip(rows.iter_mut()) {
            out[start..][..B].copy_from_slice(sums);
        }
        start += B;
    }
    start
}
