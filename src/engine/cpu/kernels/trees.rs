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
    /// Next nodes: where the comparison does not hold, and where it does. Behind this one; a leaf's are itself.
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

    /// How `x` compares, without a branch: which way a row goes cannot be foreseen.
    #[inline(always)]
    fn outcome(x: f32, threshold: f32) -> u32 {
        let [less, equal, greater] = [x < threshold, x == threshold, x > threshold].map(u32::from);
        // The threshold is a number: NaN alone is none of the three.
        less | equal << 1 | greater << 2 | (1 ^ less ^ equal ^ greater) << 3
    }

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
        let whole = tile.rows - tile.rows % GROUP;
        for &root in &self.roots {
            let mut add = |row: usize, leaf: usize| {
                let numbers = &self.leaves[leaf..leaf + targets];
                sums.row(row).iter_mut().zip(numbers).for_each(|(sum, &number)| *sum += f64::from(number));
            };
            for first in (0..whole).step_by(GROUP) {
                let leaves = self.leaves::<GROUP>(root, std::array::from_fn(|at| x.row(first + at)));
                leaves.into_iter().enumerate().for_each(|(at, leaf)| add(first + at, leaf));
            }
            for row in whole..tile.rows {
                let [leaf] = self.leaves(root, [x.row(row)]);
                add(row, leaf);
            }
        }
        for row in 0..tile.rows {
            out.row(row).iter_mut().zip(sums.row(row)).for_each(|(out, sum)| *out = *sum as f32);
        }
    }
}

/// Rows that go down a tree side by side: each waits for its next node, so that one row alone would leave the CPU idle.
const GROUP: usize = 8;

impl Trees {
    /// For each row the first of the numbers of the leaf that it reaches.
    #[inline(always)]
    fn leaves<const R: usize>(&self, root: u32, rows: [&[f32]; R]) -> [usize; R] {
        let mut at = [root; R];
        loop {
            let mut going = false;
            for (at, row) in at.iter_mut().zip(rows) {
                let node = &self.nodes[*at as usize];
                let is_leaf = node.outcomes == TreeNode::LEAF;
                let x = if is_leaf { 0.0 } else { row[node.feature as usize] };
                *at = node.next[usize::from(node.outcomes & TreeNode::outcome(x, node.threshold) != 0)];
                going |= !is_leaf;
            }
            if !going {
                return at.map(|leaf| self.nodes[leaf as usize].feature as usize);
            }
        }
    }
}
