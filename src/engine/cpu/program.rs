//! A model's plan for this CPU: steps, packed weights, memory plan.

use std::sync::Arc;

use crate::batch::Layout;
use crate::engine::EngineError;
use crate::engine::precision::PrecisionReport;
use crate::model::Model;

use super::gemm::{Geometry, UNIT_NS, Unit};
use super::kernels::Kernel;
use super::memory::{Block, Place};
use super::plan::{self, PlanReport, PrecisionOptions};
use super::simd::{Simd, SimdLevel};
use super::tile::Tile;

/// Made once per process and instruction set, shared read-only by all shards.
pub struct Program {
    pub(super) model: Arc<Model>,
    pub(super) layout: Arc<Layout>,
    pub(super) simd: Simd,
    /// Values that depend on weights alone, computed when the program was made.
    pub(super) constants: Block,
    pub(super) packed: Block,
    /// Once per context row.
    pub(super) context: Vec<Step>,
    /// Once per candidate row.
    pub(super) candidate: Vec<Step>,
    /// Columns of the answer.
    pub(super) outputs: Vec<Place>,
    pub(super) needs: Needs,
    pub(super) report: PlanReport,
    /// What was decided for dense layers; `None` where all are f32 because that was asked for.
    pub(super) precision: Option<PrecisionReport>,
}

/// What is computed once per request instead of once per candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hoist {
    /// Nothing, not even values of the context: to measure what hoisting saves.
    Nothing,
    /// Values of the context; and parts of layers and interactions that depend on the context alone, where that is faster.
    WherePaying,
    /// The same, wherever it is possible: to test it on small models.
    Everything,
}

/// How a model is planned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Instructions to use.
    pub simd: Simd,
    /// What is computed once per request.
    pub hoist: Hoist,
    /// Compute well-known patterns of ops by one kernel each.
    pub fuse: bool,
    /// Number format of dense layers.
    pub precision: PrecisionOptions,
}

impl Options {
    /// Everything on, for these instructions.
    pub fn new(simd: Simd) -> Options {
        Options { simd, hoist: Hoist::WherePaying, fuse: true, precision: PrecisionOptions::default() }
    }
}

/// Workspace that a program asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Bytes per context of the batch: context values that candidates read.
    pub bytes_per_context: usize,
    /// Bytes of a full tile.
    pub tile_bytes: usize,
    /// Bytes that the kernel with the largest need keeps while it runs.
    pub scratch_bytes: usize,
}

/// Rows that are carried through all steps together: enough that weights are read from cache for many rows, few enough that their values
/// stay in the second-level cache.
pub const TILE_ROWS: usize = 64;

impl Program {
    /// Plans `model` for the best instructions of this CPU.
    pub fn new(model: &Arc<Model>) -> Result<Program, EngineError> {
        Program::for_level(model, Simd::detect())
    }

    /// Plans `model` for these instructions.
    pub fn for_level(model: &Arc<Model>, simd: Simd) -> Result<Program, EngineError> {
        Program::planned(model, &Options::new(simd))
    }

    /// Plans `model` in this way: to compare plans.
    pub fn planned(model: &Arc<Model>, options: &Options) -> Result<Program, EngineError> {
        plan::plan(model, options)
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }
    /// Layout of its rows.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }
    /// Instructions it was planned for.
    pub fn level(&self) -> SimdLevel {
        self.simd.level()
    }
    /// Bytes of packed weights and constants, held once per process.
    pub fn shared_bytes(&self) -> usize {
        let steps = self.context.iter().chain(&self.candidate);
        self.packed.len() + self.constants.len() + steps.map(Step::weight_bytes).sum::<usize>()
    }
    /// What was decided for dense layers, where another precision than f32 was asked for.
    pub fn precision(&self) -> Option<&PrecisionReport> {
        self.precision.as_ref()
    }
    /// The kernels' names, in order.
    #[cfg(test)]
    pub fn kernels(&self) -> String {
        let name = |step: &Step| format!("{:?}", step.kernel).split(['(', ' ']).next().unwrap_or_default().to_owned();
        self.context.iter().chain(&self.candidate).map(name).collect::<Vec<_>>().join(" ")
    }

    /// What it does, for people.
    pub fn report(&self) -> &PlanReport {
        &self.report
    }
    /// Number of steps per tile of contexts and of candidates.
    pub fn steps(&self) -> (usize, usize) {
        (self.context.len(), self.candidate.len())
    }
}

/// A kernel, and how it is cut into units of work of a few ten microseconds.
#[derive(Debug)]
pub struct Step {
    kernel: Kernel,
    rows_per_unit: usize,
    ns_per_row: f32,
}

/// Where a step goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(Unit);

impl Cursor {
    /// At its beginning.
    pub const START: Cursor = Cursor(Unit { panel: 0, row: 0 });
}

impl Step {
    /// A kernel that takes about `ns_per_row`.
    pub fn new(kernel: Kernel, ns_per_row: f32) -> Step {
        let rows_per_unit = ((UNIT_NS as f32 / ns_per_row.max(0.1)) as usize).clamp(1, TILE_ROWS);
        Step { kernel, rows_per_unit, ns_per_row }
    }

    /// Bytes of weights that it holds itself.
    fn weight_bytes(&self) -> usize {
        match &self.kernel {
            Kernel::Int8Linear(linear) => linear.weights.matrix.bytes(),
            Kernel::HalfLinear(linear) => linear.weights.bytes(),
            _ => 0,
        }
    }

    /// Before a tile's first step: asks for what this one will read from memory, if that is known by then.
    pub fn ask(&self, tile: &Tile) {
        if let Kernel::Lookups(lookups) = &self.kernel {
            lookups.ask(tile);
        }
    }

    /// One unit of work. Gives where the next one starts (`None`: the step is done) and about how many nanoseconds this one took.
    pub fn run(&self, tile: &Tile, cursor: Cursor) -> (Option<Cursor>, u64) {
        if let Kernel::Linear(linear) = &self.kernel {
            let (next, macs) = linear.run_unit(tile, cursor.0);
            return (next.map(Cursor), OVERHEAD_NS + (macs / Geometry::of(tile.simd.level()).macs_per_ns) as u64);
        }
        let reduced = match &self.kernel {
            Kernel::Int8Linear(linear) => Some(linear.run_unit(tile, cursor.0)),
            Kernel::HalfLinear(linear) => Some(linear.run_unit(tile, cursor.0)),
            _ => None,
        };
        if let Some((next, ns)) = reduced {
            return (next.map(Cursor), OVERHEAD_NS + ns);
        }
        let row = cursor.0.row;
        let rows = self.rows_per_unit.min(tile.rows - row);
        self.kernel.run(&tile.part(row, rows));
        let next = row + rows;
        let cost = OVERHEAD_NS + (self.ns_per_row * rows as f32) as u64;
        ((next < tile.rows).then_some(Cursor(Unit { panel: 0, row: next })), cost)
    }

    /// Scratch memory that its kernel asks for.
    pub fn scratch_bytes(&self) -> usize {
        self.kernel.scratch_bytes()
    }

    /// Everything at once: while a program is made.
    pub fn run_all(&self, tile: &Tile) {
        self.kernel.run(tile);
    }
}

/// A unit's own cost beside its work.
const OVERHEAD_NS: u64 = 15;
