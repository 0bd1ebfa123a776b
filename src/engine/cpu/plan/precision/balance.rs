//! Factors that bring the inputs of a layer to similar size: an input is divided by its factor before it is quantised, its weights are multiplied
//! by it before they are.
//!
//! All inputs of a range share a row's scale, and all weights of a range and column share one: where a few inputs are a hundred times as large as
//! the rest, the rest would be left with two or three codes. How large inputs get is taken from the selftest's rows; larger ones that come later are
//! covered by the row's own scale all the same.

use std::collections::HashMap;
use std::sync::Arc;

use crate::engine::cpu::gemm::int8::Largest;
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{PlanValue, Task, ValueIndex, Work};
use crate::model::DType;

/// Per value that layers read: a factor per input.
pub type Factors = HashMap<ValueIndex, Arc<Vec<f32>>>;

/// Per value that layers read: sizes of its inputs, and of the weights that they meet.
#[derive(Default)]
pub struct Sizes {
    by_value: HashMap<ValueIndex, (Largest, Vec<f32>)>,
}

impl Sizes {
    /// Lets a plan write down how large the inputs of its layers are.
    pub fn observe(&mut self, lowered: &mut Lowered) {
        let tasks = std::mem::take(&mut lowered.tasks);
        for task in tasks {
            if let Work::Linear { x, matrix, .. } = &task.work {
                let (largest, weights) = self.by_value.entry(*x).or_insert_with(|| {
                    let largest = Largest::default();
                    if let Ok(mut largest) = largest.lock() {
                        largest.resize(matrix.k, 0.0);
                    }
                    let scope = lowered.values[*x].scope;
                    lowered.values.push(PlanValue { shape: vec![0], dtype: DType::F32, scope });
                    let work = Work::Observe { x: *x, largest: Arc::clone(&largest) };
                    lowered.tasks.push(Task::new(lowered.values.len() - 1, work));
                    (largest, vec![0.0; matrix.k])
                });
                debug_assert_eq!(largest.lock().map(|largest| largest.len()).ok(), Some(matrix.k));
                for (k, largest) in weights.iter_mut().enumerate() {
                    *largest = (0..matrix.n).fold(*largest, |largest, n| largest.max(matrix.at(k, n).abs()));
                }
            }
            lowered.tasks.push(task);
        }
    }

    /// Factors from what was observed.
    pub fn factors(self) -> Factors {
        let balanced = |(largest, weights): (Largest, Vec<f32>)| {
            let largest = largest.lock().map(|largest| largest.clone()).unwrap_or_default();
            Arc::new(balance(&largest, &weights))
        };
        self.by_value.into_iter().map(|(value, sizes)| (value, balanced(sizes))).collect()
    }
}

/// size^SHARE / weight^(1 - SHARE), with mean 1; 1 for inputs that were never seen or have no weight.
fn balance(largest: &[f32], weights: &[f32]) -> Vec<f32> {
    let logarithms: Vec<Option<f64>> = largest
        .iter()
        .zip(weights)
        .map(|(&largest, &weight)| {
            let usable = largest.is_finite() && weight.is_finite() && largest > 0.0 && weight > 0.0;
            usable.then(|| SHARE * f64::from(largest).log2() - (1.0 - SHARE) * f64::from(weight).log2())
        })
        .collect();
    let usable = logarithms.iter().flatten().count().max(1) as f64;
    let mean = logarithms.iter().flatten().sum::<f64>() / usable;
    logarithms.iter().map(|logarithm| logarithm.map_or(1.0, |logarithm| (logarithm - mean).clamp(-BOUND, BOUND).exp2() as f32)).collect()
}

/// How much of the imbalance of inputs goes to the weights: codes of activations are the scarcer ones, as a row has one scale and a matrix has
/// one per column. Measured on golden models from 0.5 to 1.
const SHARE: f64 = 0.75;
/// Of a factor, in powers of two.
const BOUND: f64 = 12.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_inputs_get_large_factors() {
        assert_eq!(balance(&[16.0, 1.0], &[1.0, 1.0]), [(2.0f32).powf(1.5), (2.0f32).powf(-1.5)]);
        assert_eq!(balance(&[1.0, 1.0], &[16.0, 1.0]), [(2.0f32).powf(-0.5), (2.0f32).powf(0.5)]);
        assert_eq!(balance(&[0.0, 3.0, f32::INFINITY], &[1.0, 2.0, 1.0]), [1.0; 3]);
        assert_eq!(balance(&[1.0, 2.0], &[0.0, 2.0]), [1.0; 2]);
        assert_eq!(balance(&[1e30, 1e-30], &[1.0, 1.0]), [4096.0, 1.0 / 4096.0]);
        assert!(balance(&[], &[]).is_empty());
    }
}
