//! Memory of a tile's values: shared memory first, device memory for what does not fit.

use std::collections::HashMap;

use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::place::{FreeList, Homes, lives};
use crate::engine::cpu::plan::task::ValueIndex;
use crate::model::ValueScope;

/// Which memory a value lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// Of contexts, read by candidates.
    Kept,
    /// The tile, in shared memory.
    Shared,
    /// The tile, in device memory.
    Scratch,
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which memory.
    pub region: Region,
    /// First byte of the first row: of the tile, or of a context.
    pub offset: usize,
    /// Elements from row to row of the tile; 0 where rows do not lie in a tile.
    pub stride: usize,
}

/// Memory of all values of a plan, for tiles of some size.
pub struct Places {
    homes: Homes,
    roots: HashMap<ValueIndex, (Region, usize, usize)>,
    /// Rows of a tile.
    pub tile: usize,
    /// Bytes per context.
    pub kept_bytes: usize,
    /// Of a block, by kernel: contexts, candidates.
    pub blocks: [BlockMemory; 2],
}

/// What a block needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockMemory {
    /// Shared memory for values.
    pub shared_bytes: usize,
    /// Device memory.
    pub scratch_bytes: usize,
}

impl Places {
    /// Plans tiles of `tile` rows (a multiple of 16) with at most `shared_limit` bytes of shared memory for values.
    pub fn new(lowered: &Lowered, tile: usize, shared_limit: usize) -> Places {
        let homes = Homes::new(lowered);
        let lives = lives(lowered, &homes);
        let mut roots = HashMap::new();
        let mut kept_bytes = 0usize;
        for (root, life) in lives.iter().filter(|(_, life)| life.kept) {
            roots.insert(*root, (Region::Kept, kept_bytes, 0));
            kept_bytes = (kept_bytes + life.bytes).next_multiple_of(16);
        }
        let mut blocks = [BlockMemory::default(); 2];
        for (block, scope) in blocks.iter_mut().zip([ValueScope::Context, ValueScope::Candidate]) {
            let (mut shared, mut scratch) = (FreeList::default(), FreeList::default());
            for (root, life) in lives.iter().filter(|(root, life)| !life.kept && lowered.values[*root].scope == scope) {
                let stride = padded(life.bytes);
                let offset = shared.take_below(stride, life.first, life.last, shared_limit / tile);
                let (region, offset) = match offset {
                    Some(offset) => (Region::Shared, offset),
                    None => (Region::Scratch, scratch.take(stride, life.first, life.last)),
                };
                roots.insert(*root, (region, offset * tile, stride));
            }
            *block = BlockMemory { shared_bytes: shared.end() * tile, scratch_bytes: (scratch.end() * tile).next_multiple_of(256) };
        }
        Places { homes, roots, tile, kept_bytes: kept_bytes.next_multiple_of(64), blocks }
    }

    /// Where a value lies that is no constant. `element`: bytes of one.
    pub fn of(&self, value: ValueIndex, element: usize) -> Place {
        let (root, first) = self.homes.of(value);
        match self.roots.get(&root) {
            Some(&(region, offset, stride)) => Place { region, offset: offset + first * element, stride: stride / element },
            // A value without elements is neither written nor read.
            None => Place { region: Region::Shared, offset: 0, stride: 0 },
        }
    }
}

/// Bytes from row to row: wide rows start in other banks of shared memory than their neighbours (8 words further, so that the rows and
/// columns that a tensor core's operand needs at once lie in different banks); all are aligned for 8 bytes.
fn padded(bytes: usize) -> usize {
    const GROUP: usize = 32;
    if bytes < 2 * GROUP {
        return bytes.next_multiple_of(8);
    }
    let groups = bytes.div_ceil(GROUP);
    (groups | 1) * GROUP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_rows_are_an_odd_number_of_groups_apart() {
        for (bytes, expected) in [(4, 8), (52, 56), (64, 96), (96, 96), (128, 160), (2048, 2080)] {
            assert_eq!(padded(bytes), expected, "{bytes}");
        }
    }
}
