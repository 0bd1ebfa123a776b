//! Memory of a tile's values: shared memory first, device memory for what does not fit.

use std::collections::{HashMap, HashSet};

use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::place::{FreeList, Homes, Life, lives};
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

/// Memory of all values of a plan: between kernels, and in the tiles of one kernel after the other.
pub struct Places {
    homes: Homes,
    roots: HashMap<ValueIndex, (Region, usize, usize)>,
    narrow: HashSet<ValueIndex>,
    /// What each segment's tiles hold alone.
    own: Vec<Vec<(ValueIndex, Life)>>,
    /// Rows of a tile of the kernel at hand.
    pub tile: usize,
    /// Bytes per context.
    pub kept_bytes: usize,
    /// Bytes per candidate of values between kernels.
    pub work_bytes: usize,
    /// Of a block of the kernel at hand.
    pub block: BlockMemory,
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
    /// Plans the memory between kernels: a value that several segments touch lies in device memory, a row for each row of the batch.
    pub fn new(lowered: &Lowered, segments: &Segments, numbers: Numbers) -> Places {
        let homes = Homes::new(lowered);
        let narrow = narrow(lowered, &homes, segments, numbers);
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
        let mut own: Vec<Vec<(ValueIndex, Life)>> = segments.list.iter().map(|_| Vec::new()).collect();
        for (root, life) in lives.into_iter().filter(|(root, _)| !roots.contains_key(root)) {
            let segment = segments.of(life.first);
            // Of a wide layer, registers hold what no other kernel reads.
            if !segments.list[segment].wide {
                own[segment].push((root, life));
            }
        }
        let kept_bytes = kept_bytes.next_multiple_of(ROW_ALIGN);
        let work_bytes = work.end();
        Places { homes, roots, narrow, own, tile: 0, kept_bytes, work_bytes, block: BlockMemory::default(), shared_limit: 0 }
    }

    /// Plans the tiles of one segment, of `tile` rows (a multiple of 16) with at most `shared_limit` bytes of shared memory for values.
    pub fn plan_tile(&mut self, segment: usize, tile: usize, shared_limit: usize) {
        (self.tile, self.shared_limit, self.block) = (tile, shared_limit / tile, BlockMemory::default());
        let (mut shared, mut scratch) = (FreeList::default(), FreeList::default());
        for (root, life) in &self.own[segment] {
            let stride = if self.narrow.contains(root) { padded_narrow(life.bytes / 2) } else { padded(life.bytes) };
            let (region, offset) = match shared.take_below(stride, life.first, life.last, self.shared_limit) {
                Some(offset) => (Region::Shared, offset),
                None => (Region::Scratch, scratch.take(stride, life.first, life.last)),
            };
            self.roots.insert(*root, (region, offset * tile, stride));
            self.block.take(region, Span { offset, bytes: stride, first: life.first, last: life.last }, tile);
        }
    }

    /// Memory for the steps of one task alone, `bytes` per row of the tile: what no value holds then of shared memory, or device memory where
    /// too little of it is left. Rooms of the same task lie apart.
    pub fn room(&mut self, task: usize, bytes: usize) -> Place {
        let bytes = padded(bytes);
        let block = &mut self.block;
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
    use std::sync::Arc;

    use super::*;
    use crate::batch::Layout;
    use crate::engine::cpu::plan::tasks;
    use crate::engine::cpu::tests::builder::ModelBuilder;
    use crate::engine::cuda::Target;
    use crate::engine::cuda::generate::tails::arrange;
    use crate::model::{LoadOptions, Model, Op, Operand, Scope, discover, load};

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

    /// Values that some kernel needs at the same time, as a walk over all tasks finds them, lie apart in the memory between kernels.
    #[test]
    fn values_between_kernels_lie_apart() {
        let mut models: Vec<Arc<Model>> = bundles().collect();
        models.push(wide_steps());
        let mut pairs = 0;
        for model in &models {
            for (wide_from, numbers) in [(1, Numbers::F32), (1, Numbers::Bf16), (600, Numbers::Bf16), (1 << 11, Numbers::F32)] {
                let target = Target { wide_from, ..Target::new(99 << 10, numbers) };
                let layout = Arc::new(Layout::new(&model.features, model.graph.outputs.len()));
                let mut lowered = tasks(model, &layout, &target.options(), &mut |_| Ok(())).expect("a plan");
                let segments = arrange(&mut lowered, &target);
                let places = Places::new(&lowered, &segments, numbers);
                let mut used: HashMap<ValueIndex, (usize, usize)> = HashMap::new();
                let mut note = |value: ValueIndex, segment: usize| {
                    if lowered.values[value].scope != ValueScope::Constant {
                        let (first, last) = used.entry(places.homes.of(value).0).or_insert((segment, segment));
                        (*first, *last) = (segment.min(*first), segment.max(*last));
                    }
                };
                for (at, task) in lowered.tasks.iter().enumerate() {
                    task.work.inputs().into_iter().chain([task.out]).for_each(|value| note(value, segments.of(at)));
                }
                lowered.outputs.iter().for_each(|&output| note(output, segments.list.len() - 1));
                let span = |root: &ValueIndex| -> (Region, usize, usize) {
                    let (region, offset, _) = places.roots[root];
                    let value = &lowered.values[*root];
                    let element = if places.is_narrow(*root) { 2 } else { value.element_bytes() };
                    (region, offset, offset + value.len() * element)
                };
                let between: Vec<_> = used.iter().filter(|(root, _)| places.roots.contains_key(root)).collect();
                for (at, (a, a_used)) in between.iter().enumerate() {
                    let (region, start, end) = span(a);
                    let room = if region == Region::Kept { places.kept_bytes } else { places.work_bytes };
                    assert!(end <= room, "{}: value {a} ends at {end} of {room}", model.name);
                    for (b, b_used) in &between[at + 1..] {
                        let (other, from, to) = span(b);
                        // Contexts' values stay for the whole batch.
                        let together = region == Region::Kept || (a_used.0 <= b_used.1 && b_used.0 <= a_used.1);
                        if region == other && together {
                            assert!(end <= from || to <= start, "{}, {target:?}: values {a} and {b}", model.name);
                            pairs += 1;
                        }
                    }
                }
            }
        }
        assert!(pairs > 1000, "{pairs} pairs");
    }

    /// The golden models.
    fn bundles() -> impl Iterator<Item = Arc<Model>> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles");
        let found = discover(&folder).expect("the golden bundles");
        found.into_iter().map(|bundle| Arc::new(load(&bundle.path, &LoadOptions::default(), &mut |_| {}).expect("a bundle")))
    }

    /// Products with what was there before, by layers whose results others read, too.
    fn wide_steps() -> Arc<Model> {
        let mut model = ModelBuilder::new(1);
        let feature = model.dense(Scope::Candidate, 30);
        let first = model.op(Op::Dense { features: vec![feature] });
        let mut x = first;
        for width in [40, 50, 60] {
            let inner = model.linear(x, width);
            let y = model.linear(inner, 30);
            let product = model.op(Op::Mul { a: Operand::Value(first), b: Operand::Value(y) });
            x = model.op(Op::Add { a: Operand::Value(product), b: Operand::Value(x) });
        }
        let out = model.linear(x, 1);
        model.finish(&[out])
    }
}
