//! Decision trees, node by node.

use crate::model::{Model, TreeMode, Trees};

use super::ops::weight;
use super::tensor::Tensor;

/// The sum over all trees of the leaf that `x` reaches.
pub fn sum(model: &Model, trees: &Trees, shape: &[usize], x: &Tensor) -> Tensor {
    let tensor = |id| weight(model, id);
    let [feature, mode, yes, no, roots] = [trees.feature, trees.mode, trees.yes, trees.no, trees.roots].map(tensor);
    let (threshold, leaves) = (tensor(trees.threshold), tensor(trees.leaves));
    let missing_yes = trees.missing_yes.map(tensor);
    let mut sums = vec![0.0; shape[0]];
    for root in roots.integers() {
        let mut node = *root as usize;
        while let Some(TreeMode::Branch(comparison)) = TreeMode::of(mode.integers()[node]) {
            let x = x.floats()[feature.integers()[node] as usize];
            let holds = if x.is_nan() {
                missing_yes.as_ref().is_some_and(|missing| missing.integers()[node] != 0)
            } else {
                comparison.holds(x, threshold.floats()[node])
            };
            node = if holds { yes.integers()[node] } else { no.integers()[node] } as usize;
        }
        let leaf = feature.integers()[node] as usize;
        for (target, sum) in sums.iter_mut().enumerate() {
            *sum += leaves.at(&[leaf, target]);
        }
    }
    Tensor::of_floats(shape, sums)
}
