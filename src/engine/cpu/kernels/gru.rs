//! Recurrent layers with gates. The inputs' part of all gates is a linear layer before this; here is what depends on the state.
//! Source: Cho et al. 2014, arXiv:1406.1078; with attention: Zhou et al. 2019, arXiv:1809.03672.

use std::sync::Arc;

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, multiversion};
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

impl Generic for Gru {
    fn run(&self, tile: &Tile) {
        let GruLayer { steps, hidden, reverse, last, .. } = *self.layer;
        let gates = tile.source::<f32>(&self.gates);
        let first = self.first.as_ref().map(|place| tile.source::<f32>(place));
        let length = self.length.as_ref().map(|place| tile.source::<i64>(place));
        let attention = self.attention.as_ref().map(|place| tile.source::<f32>(place));
        let (mut out, mut scratch) = (tile.target::<f32>(&self.out), tile.target::<f32>(&self.scratch));
        for row in 0..tile.rows {
            let (gates, out) = (gates.row(row), out.row(row));
            let (state, scratch) = scratch.row(row).split_at_mut(hidden);
            match &first {
                Some(first) => state.copy_from_slice(first.row(row)),
                None => state.fill(0.0),
            }
            let taken = length.as_ref().map_or(steps, |length| length.row(row)[0].clamp(0, steps as i64) as usize);
            let attention = attention.as_ref().map(|attention| attention.row(row));
            for turn in 0..taken {
                let at = if reverse { taken - 1 - turn } else { turn };
                let attention = attention.map_or(0.0, |attention| attention[at]);
                step(tile.simd, &self.layer, &gates[at * 3 * hidden..][..3 * hidden], attention, state, scratch);
                if !last {
                    out[at * hidden..][..hidden].copy_from_slice(state);
                }
            }
            if last {
                out.copy_from_slice(state);
            } else {
                out[taken * hidden..].fill(0.0);
            }
        }
    }
}

multiversion! {
    fn step(layer: &GruLayer, gates: &[f32], attention: f32, state: &mut [f32], scratch: &mut [f32]) = step_body;
}

/// One step. `scratch`: four times the state's size.
#[inline(always)]
fn step_body<M: MulAdd>(layer: &GruLayer, gates: &[f32], attention: f32, state: &mut [f32], scratch: &mut [f32]) {
    let hidden = state.len();
    let (mine, reset) = scratch.split_at_mut(3 * hidden);
    let (rz, n) = mine.split_at_mut(2 * hidden);
    let (gates_rz, gates_n) = gates.split_at(2 * hidden);
    match &layer.bias {
        // The state's part of n is scaled by r: all three gates see the same state.
        Some(bias) => {
            product::<M>(&layer.weights, 3 * hidden, 0, state, rz);
            product::<M>(&layer.weights, 3 * hidden, 2 * hidden, state, n);
            rz.iter_mut().zip(gates_rz).for_each(|(gate, &x)| *gate = math::sigmoid::<M>(*gate + x));
            for (((n, &r), &bias), &x) in n.iter_mut().zip(&rz[..hidden]).zip(bias).zip(gates_n) {
                *n = elementary::tanh::<M>(M::mul_add(r, *n + bias, x));
            }
        }
        None => {
            product::<M>(&layer.weights, 3 * hidden, 0, state, rz);
            rz.iter_mut().zip(gates_rz).for_each(|(gate, &x)| *gate = math::sigmoid::<M>(*gate + x));
            reset.iter_mut().zip(&*rz).zip(&*state).for_each(|((reset, &r), &h)| *reset = r * h);
            product::<M>(&layer.weights, 3 * hidden, 2 * hidden, reset, n);
            n.iter_mut().zip(gates_n).for_each(|(n, &x)| *n = elementary::tanh::<M>(*n + x));
        }
    }
    let next = state.iter_mut().zip(&*n).zip(&rz[hidden..]);
    match layer.kind {
        GruKind::Gru => next.for_each(|((h, &n), &z)| *h = M::mul_add(z, *h, (1.0 - z) * n)),
        GruKind::Agru => next.for_each(|((h, &n), _)| *h = M::mul_add(attention, n, (1.0 - attention) * *h)),
        GruKind::Augru => next.for_each(|((h, &n), &z)| {
            let z = attention * z;
            *h = M::mul_add(z, n, (1.0 - z) * *h);
        }),
    }
}

/// `out[j] = Σ x[i] · weights[i][first + j]`, rows of `width`: blocks of columns that stay in registers, x in ascending order.
#[inline(always)]
fn product<M: MulAdd>(weights: &[f32], width: usize, first: usize, x: &[f32], out: &mut [f32]) {
    const BLOCK: usize = 64;
    let mut start = first;
    let mut blocks = out.chunks_exact_mut(BLOCK);
    for out in &mut blocks {
        let mut sums = [0.0; BLOCK];
        for (&x, weights) in x.iter().zip(weights.chunks_exact(width)) {
            let weights: &[f32; BLOCK] = weights[start..start + BLOCK].try_into().expect("as long as the block");
            sums.iter_mut().zip(weights).for_each(|(sum, &weight)| *sum = M::mul_add(x, weight, *sum));
        }
        out.copy_from_slice(&sums);
        start += BLOCK;
    }
    let rest = blocks.into_remainder();
    rest.fill(0.0);
    for (&x, weights) in x.iter().zip(weights.chunks_exact(width)) {
        rest.iter_mut().zip(&weights[start..]).for_each(|(sum, &weight)| *sum = M::mul_add(x, weight, *sum));
    }
}
