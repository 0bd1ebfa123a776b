//! Attention and recurrent layers.

use crate::model::{Gru, GruKind, Model, Value, ValueId};

use super::ops::weight;
use super::tensor::{Data, Tensor, broadcast_index, indices};

/// softmax(q · kᵀ · scale, masked) · v, one row of q after the other.
pub fn attention(shape: &[usize], [q, k, v]: [&Tensor; 3], mask: Option<&Tensor>, scale: f64, causal: bool) -> Tensor {
    let rank = shape.len();
    let width = q.shape[q.shape.len() - 1];
    let keys = k.shape[k.shape.len() - 2];
    let at = |x: &Tensor, lead: &[usize], i: usize, j: usize| {
        let lead = broadcast_index(&x.shape[..x.shape.len() - 2], lead);
        x.at(&[&lead[..], &[i, j]].concat())
    };
    let element = |index: Vec<usize>| {
        let (lead, row, column) = (&index[..rank - 2], index[rank - 2], index[rank - 1]);
        let score = |key: usize| {
            let product: f64 = (0..width).map(|e| at(q, lead, row, e) * at(k, lead, key, e)).sum();
            let score = product * scale;
            if causal && key > row {
                return f64::NEG_INFINITY;
            }
            match mask.map(|mask| &mask.data) {
                None => score,
                Some(Data::Float(_)) => score + mask.map_or(0.0, |mask| mask.broadcast_at(&[lead, &[row, key]].concat())),
                Some(Data::Integer(_)) => {
                    let attends = mask.is_some_and(|mask| mask.integer_at(&[lead, &[row, key]].concat()) != 0);
                    if attends { score } else { f64::NEG_INFINITY }
                }
            }
        };
        let scores: Vec<f64> = (0..keys).map(score).collect();
        if scores.iter().all(|score| *score == f64::NEG_INFINITY) {
            return 0.0;
        }
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
        // A key that is not attended does not count, whatever its value.
        let attended = (0..keys).filter(|key| weights[*key] != 0.0);
        attended.map(|key| weights[key] * at(v, lead, key, column)).sum::<f64>() / weights.iter().sum::<f64>()
    };
    Tensor::of_floats(shape, indices(shape).map(element).collect())
}

/// A recurrent layer, step by step.
pub fn gru(model: &Model, gru: &Gru, out: &Value, values: &[Tensor]) -> Tensor {
    let value = |id: ValueId| &values[id.0 as usize];
    let x = value(gru.x);
    let (steps, inputs) = (x.shape[0], x.shape[1]);
    let (w, u) = (weight(model, gru.w_ih), weight(model, gru.w_hh));
    let hidden = u.shape[1];
    let biases = [gru.b_ih, gru.b_hh].map(|bias| bias.map(|bias| weight(model, bias)));
    let bias = |which: usize, at: usize| biases[which].as_ref().map_or(0.0, |bias| bias.at(&[at]));
    let taken = gru.length.map_or(steps, |length| value(length).integers()[0].clamp(0, steps as i64) as usize);
    let mut state = gru.h0.map_or(vec![0.0; hidden], |h0| value(h0).floats().to_vec());
    let mut states = vec![0.0; steps * hidden];
    let order: Vec<usize> = if gru.reverse { (0..taken).rev().collect() } else { (0..taken).collect() };
    for step in order {
        let from_input = |at: usize| (0..inputs).map(|i| w.at(&[at, i]) * x.at(&[step, i])).sum::<f64>() + bias(0, at);
        let product = |at: usize, state: &[f64]| (0..hidden).map(|i| u.at(&[at, i]) * state[i]).sum::<f64>();
        let gate = |at: usize| sigmoid(from_input(at) + product(at, &state) + bias(1, at));
        let r: Vec<f64> = (0..hidden).map(gate).collect();
        let reset: Vec<f64> = r.iter().zip(&state).map(|(r, h)| r * h).collect();
        let next = |i: usize| {
            let at = 2 * hidden + i;
            let of_state = if gru.reset_after { r[i] * (product(at, &state) + bias(1, at)) } else { product(at, &reset) + bias(1, at) };
            let n = (from_input(at) + of_state).tanh();
            let z = gate(hidden + i);
            let a = gru.attention.map_or(0.0, |attention| value(attention).at(&[step]));
            match gru.kind {
                GruKind::Gru => (1.0 - z) * n + z * state[i],
                GruKind::Agru => (1.0 - a) * state[i] + a * n,
                GruKind::Augru => (1.0 - a * z) * state[i] + a * z * n,
            }
        };
        state = (0..hidden).map(next).collect();
        states[step * hidden..][..hidden].copy_from_slice(&state);
    }
    Tensor::of_floats(&out.shape, if gru.last { state } else { states })
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
