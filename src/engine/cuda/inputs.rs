//! Where kernels find the rows of a batch: in the slot itself, or in a copy on the device.
//!
//! Only blocks of the candidates whose size follows from the number of rows are copied; ids of bags of any length are read where they lie, each once,
//! and so are contexts, which are few.

use std::ops::Range;

use super::job::{DevicePointer, InputRows};
use crate::batch::{Layout, ScopeMap, SlotMap};

/// Addresses of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    pub contexts: InputRows,
    pub candidates: InputRows,
    pub row_context: DevicePointer,
    /// To be copied before kernels run.
    pub copied: Vec<Placed>,
}

/// A block that can be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    which: Block,
    /// From this byte of the slot's memory on.
    pub from: usize,
    /// So many bytes.
    pub bytes: usize,
}

/// A copy with its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub from: usize,
    pub to: DevicePointer,
    pub bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Dense,
    Ids,
    Weights,
    Ints,
    RowContext,
}

impl Copy {
    /// Room that it takes on the device.
    pub fn room(&self) -> usize {
        self.bytes.next_multiple_of(ALIGN)
    }
}

impl Inputs {
    /// All in the slot, which the device sees at `base`.
    pub fn mapped(base: DevicePointer, map: &SlotMap) -> Inputs {
        let at = |range: &Range<usize>| if range.is_empty() { 0 } else { base + range.start as u64 };
        let rows = |map: &ScopeMap| InputRows {
            dense: at(&map.dense),
            ids: at(&map.ids),
            starts: at(&map.starts),
            weights: at(&map.weights),
            ints: at(&map.ints),
        };
        Inputs { contexts: rows(&map.context), candidates: rows(&map.candidate), row_context: at(&map.row_context), copied: Vec::new() }
    }

    /// What of `rows` candidates can be copied.
    pub fn copies(&self, map: &SlotMap, layout: &Layout, rows: usize) -> Vec<Copy> {
        let range = |block| match block {
            Block::Dense => &map.candidate.dense,
            Block::Ids => &map.candidate.ids,
            Block::Weights => &map.candidate.weights,
            Block::Ints => &map.candidate.ints,
            Block::RowContext => &map.row_context,
        };
        row_bytes(layout)
            .map(|(which, bytes)| (which, range(which), bytes))
            .map(|(which, range, bytes)| Copy { which, from: range.start, bytes: (rows * bytes).min(range.len()) })
            .into_iter()
            .filter(|copy| copy.bytes > 0)
            .collect()
    }

    /// The same, but for `copies`, which come to lie at `staging`, where there is room for `all`.
    pub fn staged(&self, copies: &[Copy], staging: DevicePointer, all: &[Copy]) -> Inputs {
        let mut inputs = self.clone();
        let mut to = staging;
        for room in all {
            if let Some(copy) = copies.iter().find(|copy| copy.which == room.which) {
                inputs.copied.push(Placed { from: copy.from, to, bytes: copy.bytes });
                *match copy.which {
                    Block::Dense => &mut inputs.candidates.dense,
                    Block::Ids => &mut inputs.candidates.ids,
                    Block::Weights => &mut inputs.candidates.weights,
                    Block::Ints => &mut inputs.candidates.ints,
                    Block::RowContext => &mut inputs.row_context,
                } = to;
            }
            to += room.room() as u64;
        }
        inputs
    }
}

/// Bytes of `rows` candidates that can be copied.
pub fn copied_bytes(layout: &Layout, rows: usize) -> usize {
    rows * row_bytes(layout).iter().map(|(_, bytes)| bytes).sum::<usize>()
}

/// Bytes of a candidate in the blocks that can be copied.
fn row_bytes(layout: &Layout) -> [(Block, usize); 5] {
    let layout = &layout.candidate;
    let ids = layout.bag_stride.unwrap_or(0) * 4;
    [
        (Block::Dense, layout.dense_width * 4),
        (Block::Ids, ids),
        (Block::Weights, if layout.weighted { ids } else { 0 }),
        (Block::Ints, layout.int_width * 8),
        (Block::RowContext, 4),
    ]
}

/// Of blocks on the device.
const ALIGN: usize = 256;
