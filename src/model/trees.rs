//! The nodes of decision trees, checked once when they are loaded: engines walk them without asking.

use std::path::Path;

use super::arguments::{TreeMode, Trees};
use super::error::Fault;
use super::json::quote;
use super::weights::{TensorData, TensorId, Weights};

/// Checks that every index of `trees` names something, and that children lie behind their parents. `features`: how many there are;
/// `at`: the op's place in the manifest.
pub(super) fn check(trees: &Trees, features: usize, weights: &Weights, manifest: &Path, at: &str) -> Result<(), Box<Fault>> {
    let fault = |key: &str, tensor: TensorId, index: usize, found: i64, expected: String| {
        let found = format!("element {index} of tensor {} is {found}", quote(&weights.tensor(tensor).name));
        Fault::new(manifest, format!("{at}.{key}"), found, expected, "Export the trees again")
    };
    let integers = |id| match &weights.tensor(id).data {
        TensorData::I64(values) => values.as_slice(),
        TensorData::F32(_) => unreachable!("the shape pass checked that this tensor holds integers"),
    };
    let modes = integers(trees.mode);
    let nodes = modes.len();
    let rows = weights.tensor(trees.leaves).shape[0];
    let below = |found: i64, end: usize| usize::try_from(found).is_ok_and(|found| found < end);
    for (index, &mode) in modes.iter().enumerate() {
        let mode = TreeMode::of(mode).ok_or_else(|| fault("mode", trees.mode, index, mode, "a number from 0 to 6".into()))?;
        let feature = integers(trees.feature)[index];
        if mode == TreeMode::Leaf {
            if !below(feature, rows) {
                return Err(fault("feature", trees.feature, index, feature, format!("a row of the {rows} of leaves, at a leaf")));
            }
            continue;
        }
        if !below(feature, features) {
            return Err(fault("feature", trees.feature, index, feature, format!("one of the {features} features")));
        }
        for (key, tensor) in [("yes", trees.yes), ("no", trees.no)] {
            let child = integers(tensor)[index];
            if child <= index as i64 || !below(child, nodes) {
                return Err(fault(key, tensor, index, child, format!("a node behind its parent, below {nodes}")));
            }
        }
        if let Some(tensor) = trees.missing_yes
            && !matches!(integers(tensor)[index], 0 | 1)
        {
            return Err(fault("missing_yes", tensor, index, integers(tensor)[index], "0 or 1".into()));
        }
    }
    match integers(trees.roots).iter().enumerate().find(|(_, root)| !below(**root, nodes)) {
        Some((index, &root)) => Err(fault("roots", trees.roots, index, root, format!("one of the {nodes} nodes"))),
        None => Ok(()),
    }
}
