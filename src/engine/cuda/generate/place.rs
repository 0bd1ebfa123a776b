//! Memory of a tile's values: shared memory first, device memory for what does not fit.

use std::collections::HashMap;

use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::place::{FreeList, Homes, lives};
use crate::engine::cpu::plan::task::ValueIndex;
use crate::model::ValueScope;

use super::segments::Segments;

/// Which memory a value lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// Of contexts, read by candidates.
    Kept,
    /// The tile, in shared memory.
    Shared,
    /// The tile, in device memory.
    Scratch,
    /// Rows of the batch, between two kernels.
    Work,
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which memory.
    pub region: Region,
    /// First byte of the first row: of the tile, of a context; in `Work`, per row of the slot.
    pub offset: usize,
    /// The first element within a row.
    pub first: usize,
    /// Elements from row to row; 0 in `Kept`.
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
    /// Bytes per candidate of values between kernels.
    pub work_bytes: usize,
    /// Of a block, by segment.
    pub blocks: Vec<BlockMemory>,
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
    /// Plans tiles of `tile` rows (a multiple of 16) with at most `shared_limit` bytes of shared memory for values. A value that several
    /// segments touch lies in device memory, a row for each row of the batch.
    pub fn new(lowered: &Lowered, segments: &Segments, tile: usize, shared_limit: usize) -> Places {
        let homes = Homes::new(lowered);
        let lives = lives(lowered, &homes);
        let mut roots = HashMap::new();
        let mut kept_bytes = 0usize;
        let mut work = FreeList::default();
        for (root, life) in &lives {
            let scope = lowered.values[*root].scope;
            let crosses = life.kept || segments.of(life.first) != segments.of(life.last);
            if crosses && scope == ValueScope::Context {
                roots.insert(*root, (Region::Kept, kept_bytes, 0));
                kept_bytes = (kept_bytes + life.bytes).next_multiple_of(ROW_ALIGN);
            } else if crosses {
                let stride = life.bytes.next_multiple_of(ROW_ALIGN);
                roots.insert(*root, (Region::Work, work.take(stride, life.first, life.last), stride));
            }
        }
        let mut blocks = Vec::with_capacity(segments.list.len());
        for number in 0..segments.list.len() {
            let (mut shared, mut scratch) = (FreeList::default(), FreeList::default());
            let own = lives.iter().filter(|(_, life)| segments.of(life.first) == number);
            let own: Vec<_> = own.filter(|(root, _)| !roots.contains_key(root)).collect();
            for (root, life) in own {
                let stride = padded(life.bytes);
                let (region, offset) = match shared.take_below(stride, life.first, life.last, shared_limit / tile) {
                    Some(offset) => (Region::Shared, offset),
                    None => (Region::Scratch, scratch.take(stride, life.first, life.last)),
                };
                roots.insert(*root, (region, offset * tile, stride));
            }
            let scratch_bytes = (scratch.end() * tile).next_multiple_of(256);
            blocks.push(BlockMemory { shared_bytes: shared.end() * tile, scratch_bytes });
        }
        Places { homes, roots, tile, kept_bytes: kept_bytes.next_multiple_of(ROW_ALIGN), work_bytes: work.end(), blocks }
    }

    /// Where a value lies that is no constant. `element`: bytes of one.
    pub fn of(&self, value: ValueIndex, element: usize) -> Place {
        let (root, first) = self.homes.of(value);
        match self.roots.get(&root) {
            Some(&(region, offset, stride)) => Place { region, offset, first, stride: stride / element },
            // A value without elements is neither written nor read.
            None => Place { region: Region::Shared, offset: 0, first: 0, stride: 0 },
        }
    }
}

/// Rows in device memory start on lines of the cache.
const ROW_ALIGN: usize = 64;

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
