//! From a plan to CUDA C++ of one model.
//!
//! The planner that the CPU engine uses gives tasks; [`place`] gives their values memory in a tile; each task becomes a step, a call of a function
//! of `kernels/` ([`emitter`] and the families beside it); the steps of a scope become one kernel, or several where [`segments`] cuts them.

mod blob;
mod dense_layers;
mod elementwise;
mod emitter;
mod ends;
mod families;
mod lookups;
mod narrow;
mod place;
mod segments;
mod tails;
mod traffic;
mod works;

use std::fmt::Write;
use std::sync::Arc;

use crate::batch::Layout;
use crate::engine::EngineError;
use crate::engine::cpu::plan::lookups::count as count_lookups;
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{Task, Work};
use crate::engine::cpu::plan::tasks;
use crate::engine::cpu::plan::weights::LayerMatrix;
use crate::engine::cpu::{Hoist, Options, Simd, SimdLevel};
use crate::engine::precision::{LayerPrecision, Precision};
use crate::model::{Model, ValueScope};

use super::program::{DeviceTable, Launch, Needs, Over, Program, Variant};

use self::blob::Blob;
use self::dense_layers::WideLayer;
use self::dense_layers::is_multiplied_in_bf16;
use self::emitter::Emitter;
use self::place::Places;
use self::segments::Segments;
use self::tails::arrange;

pub use self::works::{LaunchWork, works};

/// Arithmetic of dense layers and dot interactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Numbers {
    /// As the CPU engine computes.
    #[default]
    F32,
    /// Tensor cores: weights in bf16, inputs in two halves of it (of wide layers in one), sums in f32.
    Bf16,
}

/// What a program is generated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Most shared memory that a block may have, in bytes.
    pub shared_limit: usize,
    /// Arithmetic of dense layers.
    pub numbers: Numbers,
    /// What is computed once per request.
    pub hoist: Hoist,
    /// Whether patterns of ops are computed by one step each.
    pub fuse: bool,
    /// Weights of a layer from which it is a kernel of its own.
    pub wide_from: usize,
    /// Whether wide layers of large batches in bf16 are products of warpgroups: for sm_90a alone, and no device has confirmed them yet.
    pub warpgroups: bool,
}

impl Target {
    /// Everything on, for a device whose blocks may have so much shared memory.
    pub fn new(shared_limit: usize, numbers: Numbers) -> Target {
        Target { shared_limit, numbers, hoist: Hoist::WherePaying, fuse: true, wide_from: WIDE_FROM, warpgroups: false }
    }

    /// How the planner goes about it. Constants are folded by portable instructions: a program is the same wherever it is made, so that kernels
    /// compiled on one machine are found on another.
    fn options(&self) -> Options {
        let portable = Simd::new(SimdLevel::Portable).expect("portable instructions are everywhere");
        Options { hoist: self.hoist, fuse: self.fuse, ..Options::new(portable) }
    }
}

impl Program {
    /// Generates a model's kernels.
    pub fn new(model: &Arc<Model>, target: &Target) -> Result<Program, EngineError> {
        let options = target.options();
        let layout = Arc::new(Layout::new(&model.features, model.graph.outputs.len()));
        let mut lowered = tasks(model, &layout, &options, &mut |_| Ok(()))?;
        let segments = arrange(&mut lowered, target);
        let mut generator =
            Generator { model, layout: &layout, lowered: &lowered, segments: &segments, target, blob: Blob::default(), tables: vec![] };
        let mut source = String::from(PRELUDE);
        if target.warpgroups {
            source.push_str("#include \"wide_hopper.cuh\"\n");
        }
        let mut variants = Vec::new();
        let mut needs = Needs::default();
        for tile in [SMALL_TILE].into_iter().chain(LARGE_TILES) {
            let mut places = Places::new(&lowered, &segments, tile, target.shared_limit - head_bytes(tile), target.numbers);
            let mut kernels = String::new();
            let launches = generator.variant(&mut places, &mut kernels);
            // Larger tiles read weights less often, but only from shared memory.
            if tile > SMALL_TILE && launches.iter().any(|launch| launch.scratch_bytes > 0) {
                continue;
            }
            source.push_str(&kernels);
            variants.push(Variant { rows_from: if variants.is_empty() { 0 } else { tile * BLOCKS_WORTH }, launches });
            needs = Needs { kept_bytes: places.kept_bytes, work_bytes: places.work_bytes };
            if tile > SMALL_TILE {
                break;
            }
        }
        let layers = layers(&lowered, target.numbers);
        let Generator { blob, tables, .. } = generator;
        Ok(Program { model: Arc::clone(model), layout, source, variants, weights: blob.into_bytes(), tables, needs, layers })
    }
}

/// The dense layers of a plan, with the arithmetic of each.
fn layers(lowered: &Lowered, numbers: Numbers) -> Vec<LayerPrecision> {
    let decided = |matrix: &LayerMatrix| match numbers {
        Numbers::F32 => (Precision::F32, "as asked for"),
        Numbers::Bf16 if is_multiplied_in_bf16(matrix) => (Precision::Bf16, "tensor cores multiply it"),
        Numbers::Bf16 => (Precision::F32, "too few columns for tensor cores"),
    };
    let layer = |task: &Task| match &task.work {
        Work::Linear { matrix, .. } => {
            let name = lowered.names.get(&task.out).cloned().unwrap_or_default();
            let (precision, reason) = decided(matrix);
            Some(LayerPrecision { name, k: matrix.k, n: matrix.n, precision, reason: reason.to_owned() })
        }
        _ => None,
    };
    lowered.tasks.iter().filter_map(layer).collect()
}

/// One model on its way.
struct Generator<'g, 'a> {
    model: &'g Model,
    layout: &'g Layout,
    lowered: &'g Lowered<'a>,
    segments: &'g Segments,
    target: &'g Target,
    blob: Blob,
    tables: Vec<DeviceTable>,
}

impl<'a> Generator<'_, 'a> {
    /// The kernels for tiles of some size: their source, and their launches in order.
    fn variant(&mut self, places: &mut Places, source: &mut String) -> Vec<Launch> {
        let tile = places.tile;
        let _ = writeln!(source, "\nnamespace tile_{tile} {{");
        let mut launches = Vec::new();
        let mut kernels = String::new();
        for (number, segment) in self.segments.list.iter().enumerate() {
            let is_candidate = segment.scope == ValueScope::Candidate;
            let is_last = number + 1 == self.segments.list.len();
            let scope = if is_candidate { "candidates" } else { "contexts" };
            if segment.wide {
                let mut definitions = String::new();
                let layer = self.wide(places, number, &mut definitions);
                source.push_str(&definitions);
                let WideLayer { run, threads, rows, columns, shared_bytes, has_tail } = layer;
                let tail = if has_tail { "_tail" } else { "" };
                let kernel = format!("{scope}_{number}{tail}_tile_{tile}");
                let _ = writeln!(kernels, "KERNEL({threads}) {kernel}(Job job) {{\n    DYN_SMEM(shared);\n    {run}\n}}");
                launches.push(Launch { kernel, over: Over::Grid { rows, columns }, threads, shared_bytes, scratch_bytes: 0 });
                continue;
            }
            let mut definitions = String::new();
            let mut steps = self.steps(places, number, &mut definitions);
            if is_last {
                steps.push(self.scores(places));
            }
            let name = format!("{scope}_{number}");
            let _ = writeln!(source, "{definitions}\nstruct {name} {{\n    DEV static void run(const Block& b) {{");
            let _ = writeln!(source, "{}\n    }}\n}};", steps.join("\n        sync_block();\n"));
            let end = if is_last { "    finish(job);\n" } else { "" };
            let block = &places.blocks[number];
            let (kernel, scratch) = (format!("{name}_tile_{tile}"), block.scratch_bytes);
            let run = format!("run_tiles<tile_{tile}::{name}, {tile}, {is_candidate}, {scratch}>(job, shared);");
            let _ = writeln!(kernels, "KERNEL(THREADS) {kernel}(Job job) {{\n    DYN_SMEM(shared);\n    {run}\n{end}}}");
            launches.push(Launch {
                kernel,
                over: if is_candidate { Over::Candidates { tile } } else { Over::Contexts { tile } },
                threads: THREADS,
                shared_bytes: (head_bytes(tile) + block.shared_bytes) as u32,
                scratch_bytes: scratch,
            });
        }
        let _ = writeln!(source, "}}  // namespace tile_{tile}\n\n{kernels}");
        launches
    }

    /// The steps of a segment.
    fn steps(&mut self, places: &mut Places, segment: usize, definitions: &mut String) -> Vec<String> {
        let mut texts = Vec::new();
        let mut rest = self.segments.list[segment].tasks.as_slice();
        while let [number, behind @ ..] = rest {
            let number = *number;
            // Lookups that stand side by side are one step.
            let lowered = self.lowered;
            let together = &lowered.tasks[number..];
            let together = &together[..count_lookups(together, &lowered.values, self.model)];
            rest = &behind[together.len().saturating_sub(1)..];
            let mut steps = Vec::new();
            let mut emitter = self.emitter(places, segment, number, definitions, &mut steps);
            match together {
                [] => emitter.emit(),
                _ => emitter.lookups(together),
            }
            texts.extend(steps.into_iter().map(|step| format!("        {step}")));
        }
        texts
    }

    /// The layer that a segment is, with its tail.
    fn wide(&mut self, places: &mut Places, segment: usize, definitions: &mut String) -> WideLayer {
        let (&number, tail) = self.segments.list[segment].tasks.split_first().expect("a wide segment is a layer");
        self.emitter(places, segment, number, definitions, &mut Vec::new()).wide(tail)
    }

    fn emitter<'e>(
        &'e mut self,
        places: &'e mut Places,
        segment: usize,
        number: usize,
        definitions: &'e mut String,
        steps: &'e mut Vec<String>,
    ) -> Emitter<'e, 'a> {
        Emitter {
            task: &self.lowered.tasks[number],
            lowered: self.lowered,
            places,
            layout: self.layout,
            model: self.model,
            target: self.target,
            blob: &mut self.blob,
            tables: &mut self.tables,
            definitions,
            steps,
            segment,
            number,
        }
    }

    /// The step that writes the answer: outputs are of any scope.
    fn scores(&mut self, places: &Places) -> String {
        let count = self.lowered.outputs.len();
        let mut text = String::new();
        for (column, &output) in self.lowered.outputs.iter().enumerate() {
            let view = emitter::view(self.lowered, places, &mut self.blob, output, 0, true);
            let _ = write!(text, "{}write_score<{view}, {count}, {column}>(b);", if column > 0 { "\n" } else { "        " });
        }
        text
    }
}

/// Bytes of shared memory before the values: `HEAD` of `run_tiles` in `kernels/tile.cuh`.
const fn head_bytes(tile: usize) -> usize {
    (tile * 4).next_multiple_of(128)
}

/// Rows of a tile of short batches.
const SMALL_TILE: usize = 16;
/// Rows of a tile where weights should be read seldom: the first that fits into shared memory.
const LARGE_TILES: [usize; 2] = [64, 32];
/// A batch fills so many large tiles before they pay: fewer leave most of the device idle.
const BLOCKS_WORTH: usize = 64;
/// A block streams about 64 bytes of weights per clock from the L2: half a million take 5 to 10 us per tile.
const WIDE_FROM: usize = 1 << 19;
/// Threads of a block: `THREADS` of `kernels/tile.cuh`.
const THREADS: u32 = 256;
/// What every source begins with.
const PRELUDE: &str = "\
#include \"attention.cuh\"
#include \"dot_interaction.cuh\"
#include \"elementwise.cuh\"
#include \"experts.cuh\"
#include \"fm.cuh\"
#include \"lookup_pool.cuh\"
#include \"mlp.cuh\"
#include \"mlp_bf16.cuh\"
#include \"normalize.cuh\"
#include \"picks.cuh\"
#include \"products.cuh\"
#include \"recurrent.cuh\"
#include \"reduce.cuh\"
#include \"trees.cuh\"
#include \"wide.cuh\"
#include \"window.cuh\"
";
