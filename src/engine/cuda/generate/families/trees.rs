//! Forests of decision trees (`kernels/trees.cuh`).

use crate::engine::cpu::kernels::trees::TreeNode;
use crate::engine::cpu::plan::generic::Generic;

use crate::engine::cuda::generate::emitter::Emitter;

impl Emitter<'_, '_> {
    pub(super) fn trees(&mut self, trees: &Generic) {
        let Generic::Trees { x, nodes, roots, leaves, .. } = trees else { unreachable!("called for forests alone") };
        let nodes: Vec<u32> = nodes.iter().flat_map(packed).collect();
        let [nodes, roots_at, leaves] = [self.blob.add(&nodes), self.blob.add(roots), self.blob.add(leaves)];
        let (targets, tile) = (self.out().len(), self.places.tile);
        let parts = (ROOM / targets).clamp(1, PARTS).min(roots.len().max(1));
        let room = self.block_room(parts * tile * targets * size_of::<f64>());
        let (x, out, trees) = (self.view(*x), self.out_view(), roots.len());
        self.step(format!("trees<{x}, {out}, {room}, {tile}, {trees}, {targets}, {parts}, {nodes}, {roots_at}, {leaves}>(b);"));
    }
}

/// A node as one load of the kernel.
fn packed(node: &TreeNode) -> [u32; 4] {
    let &TreeNode { feature, threshold, outcomes, next } = node;
    if outcomes == TreeNode::LEAF {
        return [outcomes, 0, feature, 0];
    }
    assert!(feature < 1 << (u32::BITS - OUTCOME_BITS), "rows of so many features do not fit into memory");
    [feature << OUTCOME_BITS | outcomes, threshold.to_bits(), next[0], next[1]]
}

/// Bits for [`TreeNode::outcomes`].
const OUTCOME_BITS: u32 = 5;
/// Threads that share a row's trees, at most.
const PARTS: usize = 64;
/// Sums of a row, at most.
const ROOM: usize = 128;
