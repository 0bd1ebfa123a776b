//! Memory of a tile's values: shared memory first, device memory for what does not fit.

use std::collections::{HashMap, HashSet};

use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::place::{FreeList, Homes, lives};
use crate::engine::cpu::plan::task::{ValueIndex, Work};
use crate::model::ValueScope;

use super::Numbers;
use super::narrow::narrow;
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
    narrow: HashSet<ValueIndex>,
    /// Rows of a tile.
    pub tile: usize,
    /// Bytes per context.
    pub kept_bytes: usize,
    /// Bytes per candidate of values between kernels.
    pub work_bytes: usize,
    /// Of a block, by segment.
    pub blocks: Vec<BlockMemory>,
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
            Region::Shared | Region::Kept | Region::Work => (&mut self.shared, &mut self.shared_bytes),
        };
        spans.push(span);
        let end = (span.offset + span.bytes) * tile;
        *total = (*total).max(if region == Region::Scratch { end.next_multiple_of(256) } else { end });
    }
}

impl Places {
    /// Plans tiles of `tile` rows (a multiple of 16) with at most `shared_limit` bytes of shared memory for values. A value that several
    /// segments touch lies in device memory, a row for each row of the batch.
    pub fn new(lowered: &Lowered, segments: &Segments, tile: usize, shared_limit: usize, numbers: Numbers) -> Places {
        let homes = Homes::new(lowered);
        let narrow = if numbers == Numbers::Bf16 { narrow(lowered, &homes, segments) } else { HashSet::new() };
        let bytes_of = |root: &ValueIndex, bytes: usize| if narrow.contains(root) { bytes / 2 } else { bytes };
        let mut lives = lives(lowered, &homes);
        // Rooms are for the CPU's kernels.
        let rooms = lowered.tasks.iter().filter_map(|task| if let Work::Generic(generic) = &task.work { generic.room() } else { None });
        let rooms: HashSet<ValueIndex> = rooms.collect();
        lives.retain(|(root, _)| !rooms.contains(root));
        let mut roots = HashMap::new();
        let mut kept_bytes = 0usize;
        let mut work = FreeList::default();
        for (root, life) in &lives {
            let scope = lowered.values[*root].scope;
            let crosses = life.kept || segments.of(life.first) != segments.of(life.last);
            if crosses && scope == ValueScope::Context {
                roots.insert(*root, (Region::Kept, kept_bytes, 0));
                kept_bytes = (kept_bytes + bytes_of(root, life.bytes)).next_multiple_of(ROW_ALIGN);
            } else if crosses {
                let stride = bytes_of(root, life.bytes).next_multiple_of(ROW_ALIGN);
                // Rows of values that share memory do not lie in the same places, and blocks of a kernel do not wait for each other: memory is
                // used again by later kernels alone.
                let (first, last) = (segments.of(life.first), segments.of(life.last));
                roots.insert(*root, (Region::Work, work.take(stride, first, last), stride));
            }
        }
        let mut blocks = vec![BlockMemory::default(); segments.list.len()];
        for (number, block) in blocks.iter_mut().enumerate() {
            let (mut shared, mut scratch) = (FreeList::default(), FreeList::default());
            // Of a wide layer, registers hold what no other kernel reads.
            let own = lives.iter().filter(|(_, life)| segments.of(life.first) == number && !segments.list[number].wide);
            let own: Vec<_> = own.filter(|(root, _)| !roots.contains_key(root)).collect();
            for (root, life) in own {
                let stride = if narrow.contains(root) { padded_narrow(life.bytes / 2) } else { padded(life.bytes) };
                let (region, offset) = match shared.take_below(stride, life.first, life.last, shared_limit / tile) {
                    Some(offset) => (Region::Shared, offset),
                    None => (Region::Scratch, scratch.take(stride, life.first, life.last)),
                };
                roots.insert(*root, (region, offset * tile, stride));
                block.take(region, Span { offset, bytes: stride, first: life.first, last: life.last }, tile);
            }
        }
        let shared_limit = shared_limit / tile;
        let kept_bytes = kept_bytes.next_multiple_of(ROW_ALIGN);
        Places { homes, roots, narrow, tile, kept_bytes, work_bytes: work.end(), blocks, shared_limit }
    }

    /// Memory for the steps of one task of a segment alone, `bytes` per row of the tile: what no value holds then of shared memory, or device
    /// memory where too little of it is left. Rooms of the same task lie apart.
    pub fn room(&mut self, segment: usize, task: usize, bytes: usize) -> Place {
        let bytes = padded(bytes);
        let block = &mut self.blocks[segment];
        let (region, offset) = match fit(&block.shared, task, bytes, self.shared_limit) {
            Some(offset) => (Region::Shared, offset),
            None => (Region::Scratch, fit(&block.scratch, task, bytes, usize::MAX).expect("memory has no end")),
        };
        block.take(region, Span { offset, bytes, first: task, last: task }, self.tile);
        Place { region, offset: offset * self.tile, first: 0, stride: bytes }
    }

    /// Which values are parts of others.
    pub fn homes(&self) -> &Homes {
        &self.homes
    }

    /// Whether the value has memory; what a wide layer alone reads of its own results has none.
    pub fn has_memory(&self, value: ValueIndex) -> bool {
        self.roots.contains_key(&self.homes.of(value).0)
    }

    /// Whether the value's elements are bf16.
    pub fn is_narrow(&self, value: ValueIndex) -> bool {
        self.narrow.contains(&self.homes.of(value).0)
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

/// The first gap of so many bytes between what `task` needs, if it ends at or before `limit`.
fn fit(spans: &[Span], task: usize, bytes: usize, limit: usize) -> Option<usize> {
    let mut taken: Vec<&Span> = spans.iter().filter(|span| (span.first..=span.last).contains(&task)).collect();
    taken.sort_unstable_by_key(|span| span.offset);
    let mut offset = 0;
    for span in taken {
        if offset + bytes <= span.offset {
            break;
        }
        offset = offset.max(span.offset + span.bytes);
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

/// The same for rows of 16-bit elements: eight rows, 16 bytes of each, lie in different banks; all are aligned for 16 bytes.
fn padded_narrow(bytes: usize) -> usize {
    const GROUP: usize = 16;
    (bytes.div_ceil(GROUP) | 1) * GROUP
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
    #[test]
    fn rows_of_16_bits_are_an_odd_number_of_16_bytes_apart() {
        for (bytes, expected) in [(2, 16), (16, 16), (18, 48), (32, 48), (128, 144), (1024, 1040)] {
            assert_eq!(padded_narrow(bytes), expected, "{bytes}");
        }
    }
}
