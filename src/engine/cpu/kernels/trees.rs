//! Ensembles of decision trees: tree by tree over all rows, so that a tree's nodes stay in cache.

use crate::engine::cpu::memory::Place;
use crate::engine::cpu::tile::Tile;
use crate::model::Comparison;

use super::Generic;

/// A node. At a leaf, `feature` is the first element of its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TreeNode {
    /// Which feature is looked at.
    pub feature: u32,
    /// What it is compared with.
    pub threshold: f32,
    /// For which outcomes of the comparison the way is that of `next[1]`: bits of [`TreeNode::LESS`] and so on; [`TreeNode::LEAF`] alone at a
    /// leaf.
    pub outcomes: u32,
    /// Next nodes: where the comparison does not hold, and where it does. Behind this one.
    pub next: [u32; 2],
}

impl TreeNode {
    /// Feature < threshold.
    pub const LESS: u32 = 1;
    /// Feature = threshold.
    pub const EQUAL: u32 = 2;
    /// Feature > threshold.
    pub const GREATER: u32 = 4;
    /// The feature is NaN.
    pub const MISSING: u32 = 8;
    /// A leaf.
    pub const LEAF: u32 = 16;

    /// The outcomes for which a comparison holds.
    pub fn outcomes_of(comparison: Comparison) -> u32 {
        match comparison {
            Comparison::Lt => TreeNode::LESS,
            Comparison::Le => TreeNode::LESS | TreeNode::EQUAL,
            Comparison::Gt => TreeNode::GREATER,
            Comparison::Ge => TreeNode::GREATER | TreeNode::EQUAL,
            Comparison::Eq => TreeNode::EQUAL,
            Comparison::Ne => TreeNode::LESS | TreeNode::GREATER,
        }
    }
}

/// Sum over trees of the leaf that each reaches → `[targets]`.
#[derive(Debug)]
pub struct Trees {
    /// Features.
    pub x: Place,
    /// Result.
    pub out: Place,
    /// 8 bytes of room per target: sums are made in f64.
    pub sums: Place,
    /// All nodes; children behind their parents.
    pub nodes: Vec<TreeNode>,
    /// First nodes.
    pub roots: Vec<u32>,
    /// `[leaves][targets]`.
    pub leaves: Vec<f32>,
}

impl Generic for Trees {
    fn run(&self, tile: &Tile) {
        let targets = self.out.len;
        let (x, mut out, mut sums) = (tile.source::<f32>(&self.x), tile.target::<f32>(&self.out), tile.target::<f64>(&self.sums));
        (0..tile.rows).for_each(|row| sums.row(row).fill(0.0));
        for &root in &self.roots {
            for row in 0..tile.rows {
                let leaf = self.leaf(root, x.row(row));
                let numbers = &self.leaves[leaf..leaf + targets];
                sums.row(row).iter_mut().zip(numbers).for_each(|(sum, &number)| *sum += f64::from(number));
            }
        }
        for row in 0..tile.rows {
            out.row(row).iter_mut().zip(sums.row(row)).for_each(|(out, sum)| *out = *sum as f32);
        }
    }
}

impl Trees {
    /// First of the numbers of the leaf that `x` reaches.
    #[inline(always)]
    fn leaf(&self, root: u32, x: &[f32]) -> usize {
        let mut node = &self.nodes[root as usize];
        while node.outcomes != TreeNode::LEAF {
            let x = x[node.feature as usize];
            let outcome = if x < node.threshold {
                TreeNode::LESS
            } else if x > node.threshold {
                TreeNode::GREATER
            } else if x.is_nan() {
                TreeNode::MISSING
            } else {
                TreeNode::EQUAL
            };
            let holds = node.outcomes & outcome != 0;
            node = &self.nodes[node.next[usize::from(holds)] as usize];
        }
        node.feature as usize
    }
}
