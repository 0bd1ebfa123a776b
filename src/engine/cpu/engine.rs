//! One shard's CPU engine: workspace, slots, the batch under way.

use std::sync::Arc;

use crate::batch::{Segment, Slot, SlotLimits};
use crate::engine::slots::{Slots, new_slot};
use crate::engine::{Engine, EngineError, Prepared, SlotId, Step};
use crate::model::ValueScope;
use crate::units::{Clock, Instant, Span};

use super::memory::Block;
use super::program::{Cursor, Program, TILE_ROWS};
use super::tile::{Memory, Tile};

/// Runs one batch at a time.
pub struct CpuEngine {
    slots: Slots<(Slot, Arc<Program>)>,
    workspace: Workspace,
    batch: Option<Batch>,
}

/// Scratch memory shared by all models: as large as the largest needs.
struct Workspace {
    contexts: Block,
    tile: Block,
    scratch: Block,
    /// Live rows of the batch, in order: contexts, then candidates.
    ranges: Vec<Range>,
}

/// Neighbouring live rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    scope: ValueScope,
    first: usize,
    rows: usize,
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug)]
struct Batch {
    slot: SlotId,
    /// Which of the workspace's ranges.
    range: usize,
    /// Rows of it that are done.
    done: usize,
    /// Next step.
    step: usize,
    /// Where in that step.
    cursor: Cursor,
}

impl CpuEngine {
    /// An engine without models.
    pub fn new() -> Result<CpuEngine, EngineError> {
        let none = || Block::zeroed("workspace", 0);
        let workspace = Workspace { contexts: none()?, tile: none()?, scratch: none()?, ranges: Vec::new() };
        Ok(CpuEngine { slots: Slots::new(), workspace, batch: None })
    }
}

impl Engine for CpuEngine {
    fn attach(&mut self, model: &Prepared, slots: usize, limits: SlotLimits) -> Result<Vec<SlotId>, EngineError> {
        let Prepared::Cpu(program) = model else {
            panic!("a model prepared for another engine");
        };
        self.workspace.fit(program, limits)?;
        self.slots.add(slots, || Ok((new_slot(program.layout(), limits)?, Arc::clone(program))))
    }

    fn detach(&mut self, slots: &[SlotId]) {
        assert!(self.batch.is_none_or(|batch| !slots.contains(&batch.slot)), "a slot in flight stays");
        self.slots.remove(slots);
    }

    fn slot(&mut self, id: SlotId) -> &mut Slot {
        assert!(self.batch.is_none_or(|batch| batch.slot != id), "a slot in flight belongs to the engine");
        &mut self.slots.get(id).0
    }

    fn start(&mut self, id: SlotId) {
        assert!(self.batch.is_none(), "one batch at a time");
        self.workspace.list_ranges(self.slots.get(id).0.segments());
        self.batch = Some(Batch { slot: id, range: 0, done: 0, step: 0, cursor: Cursor::START });
    }

    fn step(&mut self, clock: &Clock, until: Instant) -> Step {
        let Some(mut batch) = self.batch else { return Step::Idle };
        let (slot, program) = self.slots.get(batch.slot);
        let program = &*program;
        let (inputs, scores) = slot.run();
        let mut tile = Tile {
            simd: program.simd,
            scope: ValueScope::Context,
            first: 0,
            rows: 0,
            tile_row: 0,
            inputs,
            weights: &program.model.weights,
            packed: program.packed.as_slice(),
            memory: self.workspace.memory(program),
        };
        let mut watch = Watch::new(clock, until);
        while let Some(range) = self.workspace.ranges.get(batch.range) {
            (tile.scope, tile.first, tile.rows) = (range.scope, range.first + batch.done, next_tile(range.rows - batch.done));
            let steps = if range.scope == ValueScope::Context { &program.context } else { &program.candidate };
            if batch.step == 0 && batch.cursor == Cursor::START {
                steps.iter().for_each(|step| step.ask(&tile));
            }
            while let Some(step) = steps.get(batch.step) {
                let (next, spent_ns) = step.run(&tile, batch.cursor);
                batch.cursor = next.unwrap_or(Cursor::START);
                batch.step += usize::from(next.is_none());
                if watch.is_over(spent_ns) {
                    self.batch = Some(batch);
                    return Step::Pending;
                }
            }
            if range.scope == ValueScope::Candidate {
                write_scores(program, &tile, scores);
            }
            batch.step = 0;
            batch.done += tile.rows;
            if batch.done == range.rows {
                (batch.range, batch.done) = (batch.range + 1, 0);
            }
        }
        self.batch = None;
        Step::Done(batch.slot)
    }

    fn in_flight(&self) -> usize {
        usize::from(self.batch.is_some())
    }

    fn capacity(&self) -> usize {
        1
    }
}

impl Workspace {
    /// Grows to what `program` needs with these limits. A batch may be under way: what it has computed moves along.
    fn fit(&mut self, program: &Program, limits: SlotLimits) -> Result<(), EngineError> {
        grow(&mut self.contexts, "workspace for context values", program.needs.bytes_per_context * limits.contexts)?;
        grow(&mut self.tile, "workspace for a tile", program.needs.tile_bytes)?;
        grow(&mut self.scratch, "scratch memory for a kernel", program.needs.scratch_bytes)?;
        // Each segment starts at most one range of each scope.
        self.ranges.reserve((2 * limits.contexts).saturating_sub(self.ranges.len()));
        Ok(())
    }

    fn memory(&mut self, program: &Program) -> Memory {
        Memory {
            constants: program.constants.as_slice::<u8>().as_ptr().cast_mut(),
            contexts: self.contexts.as_mut_slice::<u8>().as_mut_ptr(),
            tile: self.tile.as_mut_slice::<u8>().as_mut_ptr(),
            scratch: self.scratch.as_mut_slice::<u8>().as_mut_ptr(),
            scratch_bytes: self.scratch.len(),
        }
    }

    /// Lists the rows of live segments; neighbours become one range, so that small requests share tiles.
    fn list_ranges(&mut self, segments: &[Segment]) {
        self.ranges.clear();
        let live = || segments.iter().enumerate().filter(|(_, segment)| segment.live && segment.rows > 0);
        for (context, _) in live() {
            self.extend(ValueScope::Context, context, 1);
        }
        for (_, segment) in live() {
            self.extend(ValueScope::Candidate, segment.row as usize, segment.rows as usize);
        }
    }

    fn extend(&mut self, scope: ValueScope, first: usize, rows: usize) {
        match self.ranges.last_mut() {
            Some(last) if last.scope == scope && last.first + last.rows == first => last.rows += rows,
            _ => self.ranges.push(Range { scope, first, rows }),
        }
    }
}

fn grow(block: &mut Block, what: &str, bytes: usize) -> Result<(), EngineError> {
    if block.len() < bytes {
        let mut larger = Block::zeroed(what, bytes)?;
        larger.as_mut_slice::<u8>()[..block.len()].copy_from_slice(block.as_slice());
        *block = larger;
    }
    Ok(())
}

/// Rows of the next tile: what is left in tiles of even size.
fn next_tile(rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(TILE_ROWS))
}

/// The outputs of a tile's rows, from wherever they were computed.
fn write_scores(program: &Program, tile: &Tile, scores: &mut [f32]) {
    let width = program.outputs.len();
    for (column, place) in program.outputs.iter().enumerate() {
        let values = tile.source::<f32>(place);
        let rows = &mut scores[tile.first * width..][..tile.rows * width];
        for (row, scores) in rows.chunks_exact_mut(width).enumerate() {
            scores[column] = values.row(row)[0];
        }
    }
}

/// Says when a step's time is over, reading the clock only after so much work that the reading does not count.
struct Watch<'c> {
    clock: &'c Clock,
    until: Instant,
    /// Estimated work until the next look.
    left_ns: u64,
}

impl Watch<'_> {
    fn new(clock: &Clock, until: Instant) -> Watch<'_> {
        let mut watch = Watch { clock, until, left_ns: 0 };
        watch.look();
        watch
    }

    fn look(&mut self) -> bool {
        let left = self.until.since(self.clock.now());
        self.left_ns = left.0.min(LOOK_NS);
        left == Span::ZERO
    }

    /// Whether time is over after about `spent_ns` more of work.
    fn is_over(&mut self, spent_ns: u64) -> bool {
        self.left_ns = self.left_ns.saturating_sub(spent_ns);
        self.left_ns == 0 && self.look()
    }
}

/// Work between two looks at the clock (some 30 ns each).
const LOOK_NS: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(row: u32, rows: u32, live: bool) -> Segment {
        Segment { ticket: 0, row, rows, live }
    }

    #[test]
    fn ranges_join_live_neighbours_and_skip_the_dead() {
        let range = |scope, first, rows| Range { scope, first, rows };
        let (context, candidate) = (ValueScope::Context, ValueScope::Candidate);
        let none = || Block::zeroed("", 0).expect("memory");
        let mut workspace = Workspace { contexts: none(), tile: none(), scratch: none(), ranges: vec![] };
        workspace.list_ranges(&[
            segment(0, 3, true),
            segment(3, 4, true),
            segment(7, 5, false),
            segment(12, 0, true),
            segment(12, 1, true),
        ]);
        let expected = [range(context, 0, 2), range(context, 4, 1), range(candidate, 0, 7), range(candidate, 12, 1)];
        assert_eq!(workspace.ranges, expected);
    }

    #[test]
    fn tiles_are_even() {
        for (rows, expected) in [(1, 1), (63, 63), (64, 64), (65, 33), (32, 32), (163, 55), (128, 64), (129, 43)] {
            assert_eq!(next_tile(rows), expected, "{rows}");
        }
    }
}
