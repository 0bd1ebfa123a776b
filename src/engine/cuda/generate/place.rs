//! Memory of a tile's values: shared memory first, device memory for what does not fit.

use std::collections::{HashMap, HashSet};

use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::place::{FreeList, Homes, lives};
use crate::engine::cpu::plan::task::{ValueIndex, Work};
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

impl Region {
    /// The template of views of a tile's memory (`kernels/tile.cuh`).
    pub fn of_tile(self) -> &'static str {
        if self == Region::Scratch { "Scratch" } else { "Shared" }
    }
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
    /// Bytes of shared memory per row of the tile, at most.
    shared_limit: usize,
}

/// What a block needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockMemory {
    /// Shared memory for values.
    pub shared_bytes: usize,
    /// Device memory.
    pub scratch_bytes: usize,
    /// What was given away of the one and of the other.
    shared: Vec<Span>,
    scratch: Vec<Span>,
}

/// Bytes of each row of the tile that are in use for some tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    offset: usize,
    bytes: usize,
    first: usize,
    last: usize,
}

impl BlockMemory {
    /// Writes down a piece of a row.
    fn take(&mut self, region: Region, span: Span, tile: usize) {
        let (spans, total) = match region {
            Region::Scratch => (&mut self.scratch, &mut self.scratch_bytes),
            Region::Shared | Region::Kept => (&mut self.shared, &mut self.shared_bytes),
        };
        spans.push(span);
        let end = (span.offset + span.bytes) * tile;
        *total = (*total).max(if region == Region::Scratch { end.next_multiple_of(256) } else { end });
    }
}

impl Places {
    /// Plans tiles of `tile` rows (a multiple of 16) with at most `shared_limit` bytes of shared memory for values.
    pub fn new(lowered: &Lowered, tile: usize, shared_limit: usize) -> Places {
        let homes = Homes::new(lowered);
        let mut lives = lives(lowered, &homes);
        // Rooms are for the CPU's kernels.
        let rooms = lowered.tasks.iter().filter_map(|task| if let Work::Generic(generic) = &task.work { generic.room() } else { None });
        let rooms: HashSet<ValueIndex> = rooms.collect();
        lives.retain(|(root, _)| !rooms.contains(root));
        let mut roots = HashMap::new();
        let mut kept_bytes = 0usize;
        for (root, life) in lives.iter().filter(|(_, life)| life.kept) {
            roots.insert(*root, (Region::Kept, kept_bytes, 0));
            kept_bytes = (kept_bytes + life.bytes).next_multiple_of(16);
        }
        let mut blocks = <[BlockMemory; 2]>::default();
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
                block.take(region, Span { offset, bytes: stride, first: life.first, last: life.last }, tile);
            }
        }
        Places { homes, roots, tile, kept_bytes: kept_bytes.next_multiple_of(64), blocks, shared_limit: shared_limit / tile }
    }

    /// Memory for the steps of one task alone, `bytes` per row of the tile: what no value holds then of shared memory, or device memory where too
    /// little of it is left. Rooms of the same task lie apart.
    pub fn room(&mut self, scope: ValueScope, task: usize, bytes: usize) -> Place {
        let bytes = padded(bytes);
        let block = &mut self.blocks[usize::from(scope == ValueScope::Candidate)];
        let (region, offset) = match fit(&block.shared, task, bytes, self.shared_limit) {
            Some(offset) => (Region::Shared, offset),
            None => (Region::Scratch, fit(&block.scratch, task, bytes, usize::MAX).expect("memory has no end")),
        };
        block.take(region, Span { offset, bytes, first: task, last: task }, self.tile);
        Place { region, offset: offset * self.tile, stride: bytes }
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

/// The first gap of so many bytes between what `task` needs, if it ends at or before `limit`.
fn fit(spans: &[Span], task: usize, bytes: usize, limit: usize) -> Option<usize> {
    let mut taken: Vec<&Span> = spans.iter().filter(|span| (span.first..=span.last).contains(&task)).collect();
    taken.sort_unstable_by_key(|span| span.offset);
    let mut offset = 0;
    for span in taken {
        if offset + bytes <= span.offset {
            break;
        }
        offset = span.offset + span.bytes;
    }
    (offset + bytes <= limit).then_some(offset)
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
    fn rooms_lie_where_nothing_is_needed() {
        let span = |offset, bytes, first, last| Span { offset, bytes, first, last };
        let spans = [span(32, 16, 0, 4), span(0, 8, 2, 2), span(48, 8, 3, 5)];
        for (task, bytes, limit, expected) in [
            (0, 32, 64, Some(0)),
            (2, 24, 64, Some(8)),
            (2, 32, 80, Some(48)),
            (3, 40, 96, Some(56)),
            (3, 40, 95, None),
            (6, 64, 64, Some(0)),
        ] {
            assert_eq!(fit(&spans, task, bytes, limit), expected, "{bytes} bytes for task {task} below {limit}");
        }
    }

    #[test]
    fn wide_rows_are_an_odd_number_of_groups_apart() {
        for (bytes, expected) in [(4, 8), (52, 56), (64, 96), (96, 96), (128, 160), (2048, 2080)] {
            assert_eq!(padded(bytes), expected, "{bytes}");
        }
    }
}
