//! Memory for every value.

use std::collections::HashMap;

use crate::engine::EngineError;
use crate::engine::cpu::memory::{Block, Place, Region};
use crate::engine::cpu::program::TILE_ROWS;
use crate::model::ValueScope;

use super::constant::Constant;
use super::lower::Lowered;
use super::task::{PlanValue, ValueIndex, Work};

/// Gives values their places.
pub trait Placing {
    /// Where a value lies.
    fn of(&mut self, value: ValueIndex) -> Place;
}

/// Places of a whole program.
pub struct Places<'l, 'a> {
    values: &'l [PlanValue],
    constants: &'l HashMap<ValueIndex, Constant<'a>>,
    homes: Homes,
    roots: HashMap<ValueIndex, Root>,
    bytes_per_context: usize,
    bytes_per_tile_row: usize,
    block: ConstantBlock,
}

/// Memory of a value that is no view of another.
#[derive(Clone, Copy, Debug)]
struct Root {
    region: Region,
    /// Bytes within a row of its region.
    offset: usize,
    /// Bytes from row to row of this value.
    stride: usize,
}

/// Plans the memory of all values of `lowered`.
pub fn place<'l, 'a>(lowered: &'l Lowered<'a>) -> Places<'l, 'a> {
    let homes = Homes::new(lowered);
    let lives = lives(lowered, &homes);
    let mut roots = HashMap::new();
    let mut bytes_per_context = 0;
    for (root, life) in lives.iter().filter(|(_, life)| life.kept) {
        roots.insert(*root, Root { region: Region::Context, offset: bytes_per_context, stride: 0 });
        bytes_per_context = (bytes_per_context + life.bytes).next_multiple_of(LINE);
    }
    let bytes_per_context = off_the_page(bytes_per_context);
    roots.values_mut().for_each(|root| root.stride = bytes_per_context);
    let mut bytes_per_tile_row = 0;
    for scope in [ValueScope::Context, ValueScope::Candidate] {
        let mut free = FreeList::default();
        let of_scope = lives.iter().filter(|(root, life)| !life.kept && lowered.values[*root].scope == scope);
        for (root, life) in of_scope {
            let stride = off_the_page(life.bytes);
            roots.insert(*root, Root { region: Region::Tile, offset: free.take(stride, life.first, life.last), stride });
        }
        bytes_per_tile_row = bytes_per_tile_row.max(free.end);
    }
    Places {
        values: &lowered.values,
        constants: &lowered.constants,
        homes,
        roots,
        bytes_per_context,
        bytes_per_tile_row,
        block: ConstantBlock::default(),
    }
}

impl Places<'_, '_> {
    /// Bytes of a context's row.
    pub fn bytes_per_context(&self) -> usize {
        self.bytes_per_context
    }

    /// Bytes that a full tile takes, per row.
    pub fn bytes_per_tile_row(&self) -> usize {
        self.bytes_per_tile_row
    }

    /// The constants that were asked for.
    pub fn into_constants(self) -> Result<Block, EngineError> {
        self.block.into_block("constants")
    }
}

impl Placing for Places<'_, '_> {
    fn of(&mut self, value: ValueIndex) -> Place {
        let PlanValue { scope, .. } = self.values[value];
        let (len, bytes) = (self.values[value].len(), self.values[value].element_bytes());
        if scope == ValueScope::Constant {
            let constant = self.constants.get(&value).expect("constants that tasks read were computed");
            return Place { region: Region::Constant, offset: self.block.add(value, constant.bytes()), stride: 0, len };
        }
        let (root, first) = self.homes.of(value);
        // A value without elements is neither written nor read.
        let Some(root) = self.roots.get(&root) else { return Place { region: Region::Tile, offset: 0, stride: 0, len } };
        let rows = if root.region == Region::Tile { TILE_ROWS } else { 1 };
        Place { region: root.region, offset: root.offset * rows + first * bytes, stride: root.stride / bytes, len }
    }
}

/// Which values are parts of others: views of what was computed, and parts of a concatenation that are computed in their place.
pub(in crate::engine) struct Homes {
    /// The value it is a part of, and its first element there.
    parents: HashMap<ValueIndex, (ValueIndex, usize)>,
}

impl Homes {
    /// Of a plan.
    pub(in crate::engine) fn new(lowered: &Lowered) -> Homes {
        let mut homes = Homes { parents: HashMap::new() };
        for task in &lowered.tasks {
            match &task.work {
                Work::View { x, first } => {
                    homes.parents.insert(task.out, (*x, *first));
                }
                Work::Concat { xs, axis } => homes.join(lowered, task.out, xs, *axis),
                _ => {}
            }
        }
        homes
    }

    /// Lets the inputs of a concatenation be computed where it wants them, if each (or some neighbours together) is a piece in one go, of the
    /// same scope, whole, and not part of another one yet. The others are copied.
    fn join(&mut self, lowered: &Lowered, out: ValueIndex, xs: &[ValueIndex], axis: usize) {
        let values = &lowered.values;
        if values[out].shape[..axis].iter().any(|&size| size != 1) {
            return;
        }
        let mut first = 0;
        for (position, &x) in xs.iter().enumerate() {
            let (root, at) = self.of(x);
            if values[x].scope == values[out].scope && at == 0 && root != out && self.covers(lowered, &xs[position..], root) {
                self.parents.insert(root, (out, first));
            }
            first += values[x].len();
        }
    }

    /// Whether the first of these values, side by side, are the whole of `root`.
    fn covers(&self, lowered: &Lowered, xs: &[ValueIndex], root: ValueIndex) -> bool {
        let mut end = 0;
        for &x in xs {
            if end == lowered.values[root].len() || self.of(x) != (root, end) {
                break;
            }
            end += lowered.values[x].len();
        }
        end == lowered.values[root].len()
    }

    /// The root of a value, and the value's first element in it.
    pub(in crate::engine) fn of(&self, value: ValueIndex) -> (ValueIndex, usize) {
        let (mut root, mut at) = (value, 0);
        while let Some(&(parent, first)) = self.parents.get(&root) {
            root = parent;
            at += first;
        }
        (root, at)
    }
}

/// When a root's memory is in use, in tasks.
pub(in crate::engine) struct Life {
    /// The first task that touches it.
    pub(in crate::engine) first: usize,
    /// The last one.
    pub(in crate::engine) last: usize,
    /// Per row.
    pub(in crate::engine) bytes: usize,
    /// Read by candidates although it is of the context: not part of a tile.
    pub(in crate::engine) kept: bool,
}

/// Roots with memory, in order of their first use.
pub(in crate::engine) fn lives(lowered: &Lowered, homes: &Homes) -> Vec<(ValueIndex, Life)> {
    let mut lives: Vec<(ValueIndex, Life)> = Vec::new();
    let mut slots: HashMap<ValueIndex, usize> = HashMap::new();
    let mut touch = |value: ValueIndex, at: usize, by: ValueScope| {
        let scope = lowered.values[value].scope;
        if scope == ValueScope::Constant || lowered.values[value].len() == 0 {
            return;
        }
        let (root, _) = homes.of(value);
        let slot = *slots.entry(root).or_insert_with(|| {
            let bytes = lowered.values[root].len() * lowered.values[root].element_bytes();
            lives.push((root, Life { first: at, last: at, bytes, kept: false }));
            lives.len() - 1
        });
        let life = &mut lives[slot].1;
        life.last = life.last.max(at);
        life.kept |= by != scope;
    };
    for (at, task) in lowered.tasks.iter().enumerate() {
        let scope = lowered.values[task.out].scope;
        task.work.inputs().into_iter().for_each(|input| touch(input, at, scope));
        touch(task.out, at, scope);
    }
    for &output in &lowered.outputs {
        touch(output, lowered.tasks.len(), ValueScope::Candidate);
    }
    lives
}

/// First fit over bytes of a tile's row.
#[derive(Default)]
pub(in crate::engine) struct FreeList {
    /// (first byte, end, last task that needs it), ascending.
    taken: Vec<(usize, usize, usize)>,
    end: usize,
}

impl FreeList {
    /// Room for tasks `first ..= last`.
    pub(in crate::engine) fn take(&mut self, bytes: usize, first: usize, last: usize) -> usize {
        self.take_below(bytes, first, last, usize::MAX).expect("memory has no end")
    }

    /// The same, if it ends at or before `limit`.
    pub(in crate::engine) fn take_below(&mut self, bytes: usize, first: usize, last: usize, limit: usize) -> Option<usize> {
        let bytes = bytes.next_multiple_of(GRAIN);
        self.taken.retain(|&(_, _, until)| until >= first);
        let mut offset = 0;
        let mut position = 0;
        for &(start, end, _) in &self.taken {
            if offset + bytes <= start {
                break;
            }
            offset = end;
            position += 1;
        }
        if offset + bytes > limit {
            return None;
        }
        self.taken.insert(position, (offset, offset + bytes, last));
        self.end = self.end.max(offset + bytes);
        Some(offset)
    }

    /// Bytes of a row, with all that was taken.
    pub(in crate::engine) fn end(&self) -> usize {
        self.end
    }
}

/// Constants side by side, each once.
#[derive(Default)]
pub struct ConstantBlock {
    offsets: HashMap<ValueIndex, usize>,
    pieces: Vec<(usize, Vec<u8>)>,
    end: usize,
}

impl ConstantBlock {
    /// Room for `bytes`; gives the offset.
    pub fn reserve(&mut self, bytes: usize) -> usize {
        let offset = self.end;
        self.end = (offset + bytes).next_multiple_of(LINE);
        offset
    }

    /// A constant; gives its offset.
    pub fn add(&mut self, value: ValueIndex, bytes: &[u8]) -> usize {
        if let Some(&offset) = self.offsets.get(&value) {
            return offset;
        }
        let offset = self.reserve(bytes.len());
        self.offsets.insert(value, offset);
        self.pieces.push((offset, bytes.to_vec()));
        offset
    }

    /// All of it in memory of its own.
    pub fn into_block(self, what: &str) -> Result<Block, EngineError> {
        let mut block = Block::zeroed(what, self.end)?;
        for (offset, bytes) in self.pieces {
            block.as_mut_slice::<u8>()[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(block)
    }
}

/// A row stride that is not a multiple of a page: rows a page apart would share the few ways of one cache set.
fn off_the_page(bytes: usize) -> usize {
    if bytes > 0 && bytes.is_multiple_of(PAGE) { bytes + LINE } else { bytes }
}

const PAGE: usize = 4096;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Tile offsets are multiples of this per row, so that values of 8 bytes are aligned whatever lies before them.
const GRAIN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reused_once_its_value_is_dead() {
        let mut free = FreeList::default();
        assert_eq!(free.take(16, 0, 2), 0);
        assert_eq!(free.take(8, 1, 3), 16);
        assert_eq!(free.take(8, 3, 4), 0, "the first is dead by now");
        assert_eq!(free.take(12, 3, 5), 24, "too large for the hole");
        assert_eq!(free.take(8, 4, 5), 8);
        assert_eq!(free.end, 36);
    }
}
