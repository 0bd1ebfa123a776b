//! A slot: the memory of one batch, filled request by request, then read by the engine.
//!
//! ```text
//!   contexts   c0 | c1 | ..            one row per request: dense, ids (+ starts), weights, integers
//!   candidates r0 r1 r2 | r3 r4 | ..   eligible rows of request 0, of request 1, ..
//!   row_context 0  0  0 |  1  1 | ..   which context each row belongs to
//!   origin      0  2  5 |  0  1 | ..   which candidate of its request each row is
//!   scores     [rows][outputs]         written by the engine
//! ```
//! All blocks lie in one piece of anonymous memory, page by page touched on first use; an engine may register it with its device.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::arena::{Arena, Piece};
use super::layout::{Layout, ScopeLayout};
use bytemuck::{AnyBitPattern, NoUninit, cast_slice, cast_slice_mut};

/// How much fits in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLimits {
    /// Requests.
    pub contexts: usize,
    /// Candidates over all requests.
    pub rows: usize,
    /// Ids of all contexts, and separately of all candidates.
    pub ids: usize,
}

/// The slot has no room for this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Room that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Eligible candidates.
    pub rows: usize,
    /// At most so many sparse ids in the context.
    pub context_ids: usize,
    /// At most so many sparse ids in the candidates.
    pub candidate_ids: usize,
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows written.
    pub rows: usize,
    /// Sparse ids written for the context.
    pub context_ids: usize,
    /// Sparse ids written for the candidates.
    pub candidate_ids: usize,
}

/// One request in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Whose it is: the shard's number for the request.
    pub ticket: u32,
    /// First row.
    pub row: u32,
    /// Rows.
    pub rows: u32,
    /// False once given up (cancelled, expired): need not be computed.
    pub live: bool,
}

/// Bag boundaries.
#[derive(Clone, Copy, Debug)]
pub enum Starts<'a> {
    /// Every row has `stride` ids; bag b of it starts at `offsets[b]`, and ends where the next starts.
    Fixed {
        /// Ids per row.
        stride: usize,
        /// Offset of each bag.
        offsets: &'a [usize],
    },
    /// `starts[row * bags + bag]`, ascending; one more entry ends the last bag.
    Listed {
        /// Bags per row.
        bags: usize,
        /// The starts.
        starts: &'a [u32],
    },
}

/// Rows of one scope, as an engine reads them.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Number of rows.
    pub count: usize,
    /// f32 per row of `dense`.
    pub dense_width: usize,
    /// Row-major `[count][dense_width]`.
    pub dense: &'a [f32],
    /// Table rows or [`super::NO_ROW`]; grouped by row, then bag.
    pub ids: &'a [u32],
    /// Where bags begin.
    pub starts: Starts<'a>,
    /// Parallel to `ids` if any feature of the scope is weighted, else empty; 1.0 for unweighted features.
    pub weights: &'a [f32],
    /// i64 per row of `ints`.
    pub int_width: usize,
    /// Row-major `[count][int_width]`.
    pub ints: &'a [i64],
}

impl Rows<'_> {
    /// Positions in `ids` (and `weights`) of one bag.
    pub fn bag(&self, row: usize, bag: usize) -> Range<usize> {
        match self.starts {
            Starts::Fixed { stride, offsets } => {
                let start = row * stride;
                start + offsets[bag]..start + offsets.get(bag + 1).copied().unwrap_or(stride)
            }
            Starts::Listed { bags, starts } => starts[row * bags + bag] as usize..starts[row * bags + bag + 1] as usize,
        }
    }
}

/// Everything an engine reads.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// One row per request.
    pub contexts: Rows<'a>,
    /// One row per eligible candidate.
    pub candidates: Rows<'a>,
    /// For each candidate row, its context row.
    pub row_context: &'a [u32],
    /// The requests; ranges of dead ones need not be computed.
    pub segments: &'a [Segment],
}

/// Room for the rows of one request in one scope.
pub struct RowsMut<'a> {
    /// `[rows][dense_width]`.
    pub dense: &'a mut [f32],
    /// Room for the ids asked for.
    pub ids: &'a mut [u32],
    /// [rows * bags]: the start of each bag, relative to the slot: add `ids_base`. Empty with a fixed stride.
    pub starts: &'a mut [u32],
    /// What the first id's position in the slot is.
    pub ids_base: u32,
    /// Parallel to `ids`, or empty.
    pub weights: &'a mut [f32],
    /// `[rows][int_width]`.
    pub ints: &'a mut [i64],
    /// One status byte per row.
    pub status: &'a mut [u8],
}

/// A request being written. Nothing is taken until [`Slot::commit`].
pub struct Draft<'a> {
    /// One row.
    pub context: RowsMut<'a>,
    /// `need.rows` rows.
    pub candidates: RowsMut<'a>,
    /// Candidate index of each row.
    pub origin: &'a mut [u32],
    /// Bid of each row in micros (meaningful if the request has bids).
    pub bids: &'a mut [i64],
}

/// The memory of one batch.
pub struct Slot {
    layout: Arc<Layout>,
    limits: SlotLimits,
    memory: Piece,
    map: SlotMap,
    rows: usize,
    context_ids: usize,
    candidate_ids: usize,
    segments: Vec<Segment>,
}

/// Where the blocks of one scope lie in a slot's memory, in bytes; empty where the layout has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScopeMap {
    /// See [`Rows::dense`].
    pub dense: Range<usize>,
    /// See [`Rows::ids`].
    pub ids: Range<usize>,
    /// See [`Starts::Listed`].
    pub starts: Range<usize>,
    /// See [`Rows::weights`].
    pub weights: Range<usize>,
    /// See [`Rows::ints`].
    pub ints: Range<usize>,
    status: Range<usize>,
}

/// Where the blocks of a slot lie in its memory, in bytes, each on a cache line of its own: for an engine that reads them from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotMap {
    /// One row per request.
    pub context: ScopeMap,
    /// One row per candidate.
    pub candidate: ScopeMap,
    /// See [`Inputs::row_context`].
    pub row_context: Range<usize>,
    origin: Range<usize>,
    bids: Range<usize>,
    /// f32 `[rows][outputs]`.
    pub scores: Range<usize>,
}

impl Slot {
    /// Reserves address space for a full slot; pages are taken when first written.
    pub fn new(layout: Arc<Layout>, limits: SlotLimits) -> io::Result<Slot> {
        let (_, mut pieces) = Arena::share_out([Slot::bytes(&layout, limits)])?;
        Ok(Slot::within(pieces.remove(0), layout, limits))
    }

    /// A slot in memory that is there: untouched, and [`Slot::bytes`] large.
    pub fn within(memory: Piece, layout: Arc<Layout>, limits: SlotLimits) -> Slot {
        let (map, bytes) = SlotMap::new(&layout, limits);
        assert_eq!(memory.len(), bytes, "memory of the slot's size");
        Slot { layout, limits, memory, map, rows: 0, context_ids: 0, candidate_ids: 0, segments: Vec::with_capacity(limits.contexts) }
    }

    /// Bytes of address space that a slot takes.
    pub fn bytes(layout: &Layout, limits: SlotLimits) -> usize {
        SlotMap::new(layout, limits).1
    }

    /// The layout it was made for.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }
    /// Its capacity.
    pub fn limits(&self) -> SlotLimits {
        self.limits
    }
    /// Rows so far, dead ones included.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Requests so far.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Where its blocks lie.
    pub fn map(&self) -> &SlotMap {
        &self.map
    }

    /// Its memory, for an engine whose device works on it. Stays where it is when the slot moves.
    pub fn memory(&self) -> *mut u8 {
        self.memory.as_ptr()
    }

    /// Forgets all requests; keeps the memory.
    pub fn clear(&mut self) {
        self.rows = 0;
        self.context_ids = 0;
        self.candidate_ids = 0;
        self.segments.clear();
    }

    /// The request `segment` is given up: its rows need not be computed.
    pub fn drop_segment(&mut self, segment: usize) {
        self.segments[segment].live = false;
    }

    /// Whether one more request fits.
    pub fn has_room(&self, need: Need) -> bool {
        self.segments.len() < self.limits.contexts
            && self.rows + need.rows <= self.limits.rows
            && self.context_ids + need.context_ids <= self.limits.ids
            && self.candidate_ids + need.candidate_ids <= self.limits.ids
    }

    /// Room for one more request, or [`Full`].
    pub fn reserve(&mut self, need: Need) -> Result<Draft<'_>, Full> {
        if !self.has_room(need) {
            return Err(Full);
        }
        let contexts = self.segments.len();
        let rows = self.rows;
        let mut cut = Cutter { rest: &mut self.memory[..], at: 0 };
        let context = cut.rows(&self.map.context, &self.layout.context, contexts, 1, self.context_ids, need.context_ids);
        let candidates = cut.rows(&self.map.candidate, &self.layout.candidate, rows, need.rows, self.candidate_ids, need.candidate_ids);
        let row_context = cut.take::<u32>(&self.map.row_context, rows, need.rows);
        let origin = cut.take::<u32>(&self.map.origin, rows, need.rows);
        let bids = cut.take::<i64>(&self.map.bids, rows, need.rows);
        row_context.fill(contexts as u32);
        Ok(Draft { context, candidates, origin, bids })
    }

    /// Takes what the draft last reserved was filled with. `counts` is within what was asked for.
    /// Returns the number of the segment.
    pub fn commit(&mut self, ticket: u32, counts: Counts) -> usize {
        let segment = self.segments.len();
        self.segments.push(Segment { ticket, row: self.rows as u32, rows: counts.rows as u32, live: true });
        self.rows += counts.rows;
        self.context_ids += counts.context_ids;
        self.candidate_ids += counts.candidate_ids;
        assert!(
            self.rows <= self.limits.rows && self.context_ids <= self.limits.ids && self.candidate_ids <= self.limits.ids,
            "commit within the reservation"
        );
        // One more start ends the last bag of each scope.
        let (contexts, rows) = (self.segments.len(), self.rows);
        self.end_bags(false, contexts);
        self.end_bags(true, rows);
        segment
    }

    fn end_bags(&mut self, candidate: bool, rows: usize) {
        let (map, layout, ids) = if candidate {
            (&self.map.candidate, &self.layout.candidate, self.candidate_ids)
        } else {
            (&self.map.context, &self.layout.context, self.context_ids)
        };
        if layout.bag_stride.is_none() {
            let starts: &mut [u32] = cast_slice_mut(&mut self.memory[map.starts.clone()]);
            starts[rows * layout.bags] = ids as u32;
        }
    }

    /// What the engine reads, and the scores `[rows][outputs]` that it writes.
    pub fn run(&mut self) -> (Inputs<'_>, &mut [f32]) {
        let (inputs, scores) = self.memory.split_at_mut(self.map.scores.start);
        let inputs = &*inputs;
        let row_context = view::<u32>(inputs, &self.map.row_context, self.rows);
        let contexts = rows(inputs, &self.map.context, &self.layout.context, self.segments.len(), self.context_ids);
        let candidates = rows(inputs, &self.map.candidate, &self.layout.candidate, self.rows, self.candidate_ids);
        let scores = &mut cast_slice_mut::<u8, f32>(&mut scores[..self.map.scores.len()])[..self.rows * self.layout.outputs];
        (Inputs { contexts, candidates, row_context, segments: &self.segments }, scores)
    }

    /// Scores of a segment, `[rows][outputs]`.
    pub fn scores(&self, segment: usize) -> &[f32] {
        let Segment { row, rows, .. } = self.segments[segment];
        let outputs = self.layout.outputs;
        &view::<f32>(&self.memory, &self.map.scores, self.rows * outputs)[row as usize * outputs..][..rows as usize * outputs]
    }

    /// Candidate index of each row of a segment.
    pub fn origin(&self, segment: usize) -> &[u32] {
        self.of_segment(&self.map.origin, segment)
    }
    /// Bids of each row of a segment, in micros.
    pub fn bids(&self, segment: usize) -> &[i64] {
        self.of_segment(&self.map.bids, segment)
    }
    /// Status byte of each row of a segment.
    pub fn status(&self, segment: usize) -> &[u8] {
        self.of_segment(&self.map.candidate.status, segment)
    }
    /// Status byte of the segment's context.
    pub fn context_status(&self, segment: usize) -> u8 {
        self.memory[self.map.context.status.start + segment]
    }

    fn of_segment<T: AnyBitPattern + NoUninit>(&self, map: &Range<usize>, segment: usize) -> &[T] {
        let Segment { row, rows, .. } = self.segments[segment];
        &view::<T>(&self.memory, map, self.rows)[row as usize..][..rows as usize]
    }
}

fn view<'a, T: AnyBitPattern>(memory: &'a [u8], map: &Range<usize>, count: usize) -> &'a [T] {
    &cast_slice::<u8, T>(&memory[map.clone()])[..count]
}

fn rows<'a>(memory: &'a [u8], map: &ScopeMap, layout: &'a ScopeLayout, count: usize, ids: usize) -> Rows<'a> {
    Rows {
        count,
        dense_width: layout.dense_width,
        dense: view(memory, &map.dense, count * layout.dense_width),
        ids: view(memory, &map.ids, ids),
        starts: match layout.bag_stride {
            Some(stride) => Starts::Fixed { stride, offsets: &layout.bag_offsets },
            None => Starts::Listed {
                bags: layout.bags,
                starts: view(memory, &map.starts, if count == 0 { 0 } else { count * layout.bags + 1 }),
            },
        },
        weights: view(memory, &map.weights, if layout.weighted { ids } else { 0 }),
        int_width: layout.int_width,
        ints: view(memory, &map.ints, count * layout.int_width),
    }
}

/// Cuts ascending, disjoint pieces out of the slot's memory.
struct Cutter<'a> {
    rest: &'a mut [u8],
    at: usize,
}

impl<'a> Cutter<'a> {
    /// Elements `start .. start + count` of the block at `map`. Blocks must be asked for in the order in which they lie.
    fn take<T: AnyBitPattern + NoUninit>(&mut self, map: &Range<usize>, start: usize, count: usize) -> &'a mut [T] {
        let from = map.start + start * size_of::<T>();
        let bytes = count * size_of::<T>();
        let (_, rest) = std::mem::take(&mut self.rest).split_at_mut(from - self.at);
        let (piece, rest) = rest.split_at_mut(bytes);
        self.rest = rest;
        self.at = from + bytes;
        cast_slice_mut(piece)
    }

    fn rows(&mut self, map: &ScopeMap, layout: &ScopeLayout, row: usize, rows: usize, id: usize, ids: usize) -> RowsMut<'a> {
        let starts = if layout.bag_stride.is_some() { 0 } else { rows * layout.bags };
        RowsMut {
            dense: self.take(&map.dense, row * layout.dense_width, rows * layout.dense_width),
            ids: self.take(&map.ids, id, ids),
            starts: self.take(&map.starts, if starts == 0 { 0 } else { row * layout.bags }, starts),
            ids_base: id as u32,
            weights: self.take(&map.weights, if layout.weighted { id } else { 0 }, if layout.weighted { ids } else { 0 }),
            ints: self.take(&map.ints, row * layout.int_width, rows * layout.int_width),
            status: self.take(&map.status, row, rows),
        }
    }
}

impl SlotMap {
    /// Places the blocks, each on a cache line of its own.
    fn new(layout: &Layout, limits: SlotLimits) -> (SlotMap, usize) {
        let mut end = 0;
        let mut place = |elements: usize, size: usize| {
            let start = end;
            let bytes = elements * size;
            end = (start + bytes).next_multiple_of(BLOCK_ALIGN);
            start..start + bytes
        };
        let mut scope = |layout: &ScopeLayout, rows: usize| ScopeMap {
            dense: place(rows * layout.dense_width, 4),
            ids: place(if layout.bags == 0 { 0 } else { limits.ids }, 4),
            starts: place(if layout.bag_stride.is_some() { 0 } else { rows * layout.bags + 1 }, 4),
            weights: place(if layout.weighted { limits.ids } else { 0 }, 4),
            ints: place(rows * layout.int_width, 8),
            status: place(rows, 1),
        };
        let context = scope(&layout.context, limits.contexts);
        let candidate = scope(&layout.candidate, limits.rows);
        let row_context = place(limits.rows, 4);
        let origin = place(limits.rows, 4);
        let bids = place(limits.rows, 8);
        let scores = place(limits.rows * layout.outputs, 4);
        (SlotMap { context, candidate, row_context, origin, bids, scores }, end)
    }
}

/// Blocks start on cache lines.
const BLOCK_ALIGN: usize = 64;
