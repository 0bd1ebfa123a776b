//! Tree ensembles: LightGBM, XGBoost, random forests.

use std::collections::HashMap;

use crate::limits::VALUE_ELEMENTS_MAX;
use crate::model::DType;

use super::super::constant::{Const, Elem};
use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId, Step};
use super::super::nd::Nd;
use super::super::node::Node;
use super::super::value::{Row, Value};
use super::Lower;
use super::ops::first;

const DAMAGED: &str = "The file is damaged: convert the model again";

/// A node of a tree in the file.
#[derive(Clone, Copy, Debug)]
enum Branch {
    /// Row of the leaves.
    Leaf(usize),
    /// Where to go: feature, threshold, mode as in the bundle, NaN goes to yes by a flag of its own, children.
    Split { feature: i64, threshold: f64, mode: i64, missing_yes: bool, yes: usize, no: usize },
}

/// Trees of a file, and what their leaves add to which target.
struct Forest {
    branches: Vec<Branch>,
    roots: Vec<usize>,
    /// [leaves][targets]
    leaves: Vec<f64>,
    /// Which of them a leaf gives a number for.
    given: Vec<bool>,
    targets: usize,
}

/// Largest f32 not above `x`, or least not below.
fn rounded(x: f64, up: bool) -> f32 {
    let near = x as f32;
    let wide = f64::from(near);
    match up {
        true if wide < x => near.next_up(),
        false if wide > x => near.next_down(),
        _ => near,
    }
}

/// The mode of !=.
const NOT_EQUAL: i64 = 6;

fn mode_of(word: &str) -> Checked<i64> {
    Ok(match word {
        "LEAF" => 0,
        "BRANCH_LEQ" => 1,
        "BRANCH_LT" => 2,
        "BRANCH_GTE" => 3,
        "BRANCH_GT" => 4,
        "BRANCH_EQ" => 5,
        "BRANCH_NEQ" => NOT_EQUAL,
        other => return Err(problem(format!("the branch {other:?}"), "Convert the model with numeric splits")),
    })
}

/// Numbers of an attribute, as floats or as a tensor of doubles.
fn numbers(lower: &mut Lower, node: &Node<'_>, name: &str) -> Checked<Vec<f64>> {
    if let Some(tensor) = node.tensor(&format!("{name}_as_tensor"), &mut lower.external)? {
        return Ok(tensor.to_f64());
    }
    Ok(node.floats(name).iter().map(|x| f64::from(*x)).collect())
}

fn index(value: i64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

impl Forest {
    /// From the attributes of `TreeEnsembleRegressor` and `TreeEnsembleClassifier`; `kind`: "target" or "class".
    fn classic(lower: &mut Lower, node: &Node<'_>, kind: &str, targets: usize) -> Checked<Forest> {
        let ints = |name: &str| node.ints(name).unwrap_or_default();
        let (trees, ids, features) = (ints("nodes_treeids"), ints("nodes_nodeids"), ints("nodes_featureids"));
        let (yes, no, missing) = (ints("nodes_truenodeids"), ints("nodes_falsenodeids"), ints("nodes_missing_value_tracks_true"));
        let modes = node.texts("nodes_modes");
        let values = numbers(lower, node, "nodes_values")?;
        let count = trees.len();
        if [ids.len(), features.len(), yes.len(), no.len(), modes.len(), values.len()].iter().any(|len| *len != count) || count == 0 {
            return Err(problem("node lists of different lengths", DAMAGED));
        }
        let place: HashMap<(i64, i64), usize> = (0..count).map(|i| ((trees[i], ids[i]), i)).collect();
        if place.len() != count {
            return Err(problem("a node given twice", DAMAGED));
        }
        let child =
            |tree: i64, id: i64| place.get(&(tree, id)).copied().ok_or_else(|| problem(format!("no node {id} in tree {tree}"), DAMAGED));
        let mut branches = Vec::with_capacity(count);
        let mut leaf_of = HashMap::new();
        let mut roots = Vec::new();
        for i in 0..count {
            if i == 0 || trees[i] != trees[i - 1] {
                roots.push(i);
            }
            branches.push(match mode_of(modes[i])? {
                0 => {
                    let leaf = leaf_of.len();
                    leaf_of.insert((trees[i], ids[i]), leaf);
                    Branch::Leaf(leaf)
                }
                mode => Branch::Split {
                    feature: features[i],
                    threshold: values[i],
                    mode,
                    missing_yes: missing.get(i).is_some_and(|flag| *flag != 0),
                    yes: child(trees[i], yes[i])?,
                    no: child(trees[i], no[i])?,
                },
            });
        }
        let name = |what: &str| format!("{kind}_{what}");
        let (leaf_trees, leaf_ids, leaf_targets) = (ints(&name("treeids")), ints(&name("nodeids")), ints(&name("ids")));
        let weights = numbers(lower, node, &name("weights"))?;
        if [leaf_ids.len(), leaf_targets.len(), weights.len()].iter().any(|len| *len != leaf_trees.len()) {
            return Err(problem("leaf lists of different lengths", DAMAGED));
        }
        let mut forest = Forest::empty(lower, branches, roots, leaf_of.len(), targets)?;
        for i in 0..leaf_trees.len() {
            let Some(leaf) = leaf_of.get(&(leaf_trees[i], leaf_ids[i])) else {
                return Err(problem("a weight of a node that is no leaf", DAMAGED));
            };
            forest.add(*leaf, leaf_targets[i], weights[i])?;
        }
        Ok(forest)
    }

    /// From the attributes of `TreeEnsemble` (ai.onnx.ml 5).
    fn modern(lower: &mut Lower, node: &Node<'_>, targets: usize) -> Checked<Forest> {
        let ints = |name: &str| node.ints(name).unwrap_or_default();
        let (features, yes, no) = (ints("nodes_featureids"), ints("nodes_truenodeids"), ints("nodes_falsenodeids"));
        let (yes_leaf, no_leaf, missing) = (ints("nodes_trueleafs"), ints("nodes_falseleafs"), ints("nodes_missing_value_tracks_true"));
        let tensor = |lower: &mut Lower, name: &str| -> Checked<Vec<f64>> {
            Ok(node.tensor(name, &mut lower.external)?.map(|tensor| tensor.to_f64()).unwrap_or_default())
        };
        let (splits, modes, weights) = (tensor(lower, "nodes_splits")?, tensor(lower, "nodes_modes")?, tensor(lower, "leaf_weights")?);
        let (targets_of, count) = (ints("leaf_targetids"), features.len());
        let lengths = [yes.len(), no.len(), yes_leaf.len(), no_leaf.len(), splits.len(), modes.len()];
        if lengths.iter().any(|len| *len != count) || targets_of.len() != weights.len() || weights.is_empty() {
            return Err(problem("node or leaf lists of different lengths", DAMAGED));
        }
        let leaves = weights.len();
        // Leaves stand behind the splits, each once per parent.
        let mut branches = Vec::with_capacity(2 * count);
        let mut tail = Vec::new();
        for i in 0..count {
            let mode = modes[i];
            if !(0.0..=5.0).contains(&mode) {
                return Err(problem("a branch on membership", "Convert the model with numeric splits"));
            }
            let mut child = |id: i64, is_leaf: i64| -> Checked<usize> {
                let bound = if is_leaf != 0 { leaves } else { count };
                let id = Some(index(id)).filter(|id| *id < bound).ok_or_else(|| problem(format!("no node {id}"), DAMAGED))?;
                if is_leaf == 0 {
                    return Ok(id);
                }
                tail.push(Branch::Leaf(id));
                Ok(count + tail.len() - 1)
            };
            let (yes, no) = (child(yes[i], yes_leaf[i])?, child(no[i], no_leaf[i])?);
            let missing_yes = missing.get(i).is_some_and(|flag| *flag != 0);
            branches.push(Branch::Split { feature: features[i], threshold: splits[i], mode: mode as i64 + 1, missing_yes, yes, no });
        }
        branches.extend(tail);
        let roots: Vec<usize> = ints("tree_roots").iter().map(|root| index(*root)).collect();
        if roots.iter().any(|root| *root >= count) {
            return Err(problem("a root that is no node", DAMAGED));
        }
        let mut forest = Forest::empty(lower, branches, roots, leaves, targets)?;
        for (leaf, (target, weight)) in targets_of.iter().zip(weights).enumerate() {
            forest.add(leaf, *target, weight)?;
        }
        Ok(forest)
    }

    fn empty(lower: &mut Lower, branches: Vec<Branch>, roots: Vec<usize>, leaves: usize, targets: usize) -> Checked<Forest> {
        let elements = leaves.saturating_mul(targets);
        lower.spend(elements)?;
        Ok(Forest { branches, roots, leaves: vec![0.0; elements], given: vec![false; elements], targets })
    }

    fn add(&mut self, leaf: usize, target: i64, weight: f64) -> Checked<()> {
        let target = Some(index(target)).filter(|target| *target < self.targets);
        let target = target.ok_or_else(|| problem("a weight for a target that is not there", DAMAGED))?;
        self.leaves[leaf * self.targets + target] += weight;
        self.given[leaf * self.targets + target] = true;
        Ok(())
    }

    /// One target only.
    fn only(mut self, target: usize) -> Forest {
        self.leaves = self.leaves.iter().skip(target).step_by(self.targets).copied().collect();
        self.targets = 1;
        self
    }

    /// The step: nodes renumbered so that children stand behind their parents.
    fn step(self, lower: &mut Lower, x: IrId, features: usize) -> Checked<IrId> {
        let mut order: Vec<usize> = Vec::with_capacity(self.branches.len());
        let mut place = vec![usize::MAX; self.branches.len()];
        let mut roots = Vec::with_capacity(self.roots.len());
        for root in &self.roots {
            roots.push(order.len() as i64);
            let mut stack = vec![*root];
            while let Some(at) = stack.pop() {
                if place[at] != usize::MAX {
                    return Err(problem("a node that two nodes lead to", DAMAGED));
                }
                place[at] = order.len();
                order.push(at);
                if let Branch::Split { yes, no, .. } = self.branches[at] {
                    stack.extend([no, yes]);
                }
            }
        }
        let mut columns: [Vec<i64>; 5] = Default::default();
        let mut thresholds = Vec::with_capacity(order.len());
        for at in order {
            let (row, threshold) = match self.branches[at] {
                Branch::Leaf(leaf) => ([leaf as i64, 0, 0, 0, 0], 0.0),
                Branch::Split { feature, threshold, mode, missing_yes, yes, no } => {
                    // The comparison itself decides first: of NaN, only != holds.
                    let missing_yes = missing_yes || mode == NOT_EQUAL;
                    if index(feature) >= features {
                        return Err(problem(format!("a split on feature {feature} of {features}"), DAMAGED));
                    }
                    if threshold.is_nan() {
                        return Err(problem("a threshold that is NaN", DAMAGED));
                    }
                    // In f32, x <= t for a wider t is x <= the largest f32 not above t, and so on.
                    let threshold = match mode {
                        1 | 4 => rounded(threshold, false),
                        2 | 3 => rounded(threshold, true),
                        _ => threshold as f32,
                    };
                    ([feature, mode, place[yes] as i64, place[no] as i64, i64::from(missing_yes)], threshold.clamp(f32::MIN, f32::MAX))
                }
            };
            columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
            thresholds.push(f64::from(threshold));
        }
        let label = lower.label.clone();
        let ints = |suffix: &str, data: Vec<i64>| Const::integers(&format!("{label}.{suffix}"), Elem::I64, Nd::vector(data));
        let [feature, mode, yes, no, missing] = columns;
        let mut tensors = vec![
            ("feature", ints("feature", feature)),
            ("threshold", Const::numbers(&format!("{label}.threshold"), Elem::F32, vec![thresholds.len()], thresholds)),
            ("mode", ints("mode", mode)),
            ("yes", ints("yes", yes)),
            ("no", ints("no", no)),
        ];
        if missing.iter().any(|flag| *flag != 0) {
            tensors.push(("missing_yes", ints("missing_yes", missing)));
        }
        tensors.push(("roots", ints("roots", roots)));
        let leaves = self.leaves.len() / self.targets;
        tensors.push(("leaves", Const::numbers(&format!("{label}.leaves"), Elem::F32, vec![leaves, self.targets], self.leaves)));
        let step = Step { op: "trees", inputs: vec![("in", Arg::Value(x))], tensors, ..Step::default() };
        lower.step(step, vec![self.targets], DType::F32)
    }
}

impl Lower {
    /// The features of a row as f32 [features].
    pub fn features(&mut self, value: &Value) -> Checked<(Row, IrId)> {
        let row = self.batch_first(value, "splits")?;
        let [_] = row.shape[..] else { return Err(problem("a value that is not [N, features]", "Export the model again")) };
        let x = self.ir(&row)?;
        Ok((row, self.cast(x, DType::F32)?))
    }

    /// Adds a constant per element.
    fn plus(&mut self, x: IrId, values: &[f64]) -> Checked<IrId> {
        if values.iter().all(|value| *value == 0.0) {
            return Ok(x);
        }
        let base = self.f32s(".base", vec![values.len()], values.to_vec());
        let base = self.lift(&base)?;
        self.both("add", x, base)
    }

    /// TreeEnsembleRegressor.
    pub fn tree_regressor(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        let targets = targets_of(node)?;
        let forest = Forest::classic(self, node, "target", targets)?;
        let base = numbers(self, node, "base_values")?;
        let average = match node.text("aggregate_function", "SUM") {
            "SUM" => false,
            "AVERAGE" => true,
            other => return Err(problem(format!("aggregate_function {other}"), "Convert the model with SUM")),
        };
        self.regression(forest, inputs, &base, average, node.text("post_transform", "NONE"))
    }

    /// TreeEnsemble of ai.onnx.ml 5.
    pub fn tree_ensemble(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        let targets = targets_of(node)?;
        let forest = Forest::modern(self, node, targets)?;
        let average = match node.int("aggregate_function", 1) {
            0 => true,
            1 => false,
            _ => return Err(problem("an aggregate_function that is neither sum nor average", "Convert the model with SUM")),
        };
        let post = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"];
        let post = post.get(index(node.int("post_transform", 0))).copied().unwrap_or("?");
        self.regression(forest, inputs, &[], average, post)
    }

    fn regression(&mut self, forest: Forest, inputs: &[Value], base: &[f64], average: bool, post: &str) -> Checked<Vec<Value>> {
        let (row, x) = self.features(first(inputs)?)?;
        let (trees, targets) = (forest.roots.len(), forest.targets);
        if !base.is_empty() && base.len() != targets {
            return Err(problem(format!("{} base values for {targets} targets", base.len()), DAMAGED));
        }
        let mut id = forest.step(self, x, row.shape[0])?;
        if average {
            id = self.with("div", id, trees as f64)?;
        }
        id = self.plus(id, base)?;
        id = self.post_transform(id, post)?;
        Ok(vec![self.like(&row, Elem::F32, id)])
    }

    /// TreeEnsembleClassifier: the label is not computed, the scores are.
    pub fn tree_classifier(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        let classes = node.ints("classlabels_int64s").map_or(0, <[i64]>::len).max(node.texts("classlabels_strings").len());
        if classes == 0 || classes > VALUE_ELEMENTS_MAX {
            return Err(problem("no class labels", DAMAGED));
        }
        let (row, x) = self.features(first(inputs)?)?;
        let forest = Forest::classic(self, node, "class", classes)?;
        let base = numbers(self, node, "base_values")?;
        let post = node.text("post_transform", "NONE");
        let ids = node.ints("class_ids").unwrap_or_default();
        let leaves = forest.leaves.len() / classes;
        let whole = (0..leaves).all(|leaf| forest.given[leaf * classes..][..classes].iter().all(|given| *given));
        let features = row.shape[0];
        let id = if classes == 2 && ids.iter().all(|id| *id == 0) {
            // One score stands for both classes.
            if base.len() > 1 && base.iter().any(|base| *base != 0.0) {
                return Err(problem("two base values for one score", "Convert the model again: runtimes disagree on what this means"));
            }
            let positive = forest.leaves.iter().all(|weight| *weight >= 0.0);
            let id = forest.only(0).step(self, x, features)?;
            let score = self.plus(id, base.get(..1).unwrap_or_default())?;
            let other = match post {
                "LOGISTIC" => {
                    let p = self.unary("sigmoid", score)?;
                    let minus = self.with("mul", score, -1.0)?;
                    let q = self.unary("sigmoid", minus)?;
                    let id = self.concat(&[q, p], 0)?;
                    return Ok(vec![Value::Absent, self.like(&row, Elem::F32, id)]);
                }
                "PROBIT" => return Err(problem("post_transform PROBIT", "Convert the model with LOGISTIC")),
                _ if positive => self.binary("sub", Arg::Number(1.0), Arg::Value(score))?,
                _ => self.with("mul", score, -1.0)?,
            };
            self.concat(&[other, score], 0)?
        } else {
            if classes <= 2 && (!whole || !base.is_empty()) {
                return Err(problem(
                    "a classifier of two classes whose leaves score one of them only",
                    "Convert the model again: runtimes disagree on what this means",
                ));
            }
            if !base.is_empty() && base.len() != classes {
                return Err(problem(format!("{} base values for {classes} classes", base.len()), DAMAGED));
            }
            let id = forest.step(self, x, features)?;
            let id = self.plus(id, &base)?;
            self.post_transform(id, post)?
        };
        Ok(vec![Value::Absent, self.like(&row, Elem::F32, id)])
    }

    /// What follows the scores [classes].
    pub fn post_transform(&mut self, x: IrId, post: &str) -> Checked<IrId> {
        match post {
            "NONE" => Ok(x),
            "LOGISTIC" => self.unary("sigmoid", x),
            "SOFTMAX" => self.softmax(x, 0),
            "SOFTMAX_ZERO" => {
                // A softmax over the scores that are not 0, which stay 0.
                let zero = self.compare("eq", Arg::Value(x), Arg::Number(0.0))?;
                let most = self.reduce("reduce_max", x, &[0], true)?;
                let rest = self.both("sub", x, most)?;
                let rest = self.unary("exp", rest)?;
                let rest = self.select(zero, Arg::Number(0.0), Arg::Value(rest))?;
                let sum = self.reduce("reduce_sum", rest, &[0], true)?;
                let sum = self.with("max", sum, super::normalize::TINY)?;
                self.both("div", rest, sum)
            }
            other => Err(problem(format!("post_transform {other}"), "Convert the model with NONE, LOGISTIC or SOFTMAX")),
        }
    }
}

fn targets_of(node: &Node<'_>) -> Checked<usize> {
    let targets = index(node.int("n_targets", 1));
    Some(targets).filter(|targets| (1..=VALUE_ELEMENTS_MAX).contains(targets)).ok_or_else(|| problem("no targets", DAMAGED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_round_towards_the_same_answers() {
        let t = 0.1_f64;
        let (down, up) = (rounded(t, false), rounded(t, true));
        assert!(f64::from(down) <= t && f64::from(up) >= t && down.next_up() == up);
        assert_eq!(rounded(0.5, true), 0.5);
        for x in [down, up, 0.0, 1.0] {
            assert_eq!(f64::from(x) <= t, x <= down);
            assert_eq!(f64::from(x) < t, x < up);
            assert_eq!(f64::from(x) >= t, x >= up);
            assert_eq!(f64::from(x) > t, x > down);
        }
    }
}
