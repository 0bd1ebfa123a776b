//! From a plan to CUDA C++ of one model.
//!
//! The planner that the CPU engine uses gives tasks; [`tails`] puts them in order, [`segments`] cuts them into kernels; [`place`] gives values
//! memory; each task becomes a step of its kernel, a call of a function of `kernels/` ([`emitter`] and the families beside it), or part of what
//! a wide layer does with its sums ([`ends`]).

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
mod whole;
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

use super::compile::Arch;
use super::program::{DeviceTable, Launch, Needs, Over, Program, Variant, Way};

use self::blob::Blob;
use self::dense_layers::{Wide, WideKernel, is_multiplied_in_bf16};
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
    /// Whether the device has products of warpgroups: wide layers of large batches in bf16 then have a kernel of those beside the usual one.
    pub warpgroups: bool,
}

impl Target {
    /// Everything on, for devices of this architecture.
    pub fn of(arch: Arch, numbers: Numbers) -> Target {
        Target { warpgroups: arch.has_warpgroups(), ..Target::new(arch.shared_bytes_max(), numbers) }
    }

    /// The same for any device whose blocks may have so much shared memory.
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
        let layout = Arc::new(Layout::new(&model.features, model.graph.outputs.len()));
        let (lowered, segments) = cut(model, &layout, target)?;
        let mut generator = Generator::new(model, &layout, &lowered, &segments, target, "", Made::default());
        let small = generator.variant(&[]);
        let large = generator.variant(&small);
        let differs = small.iter().zip(&large).filter(|(small, large)| small != large).map(|(_, large)| large.over);
        // What candidates need decides, unless contexts alone differ.
        let size = differs.map(|over| match over {
            Over::Contexts { tile } => (false, tile),
            Over::Candidates { tile } => (true, tile),
            Over::Grid { .. } => (true, LARGE_TILES[0]),
        });
        let rows_from = size.max().map(|(_, tile)| tile * BLOCKS_WORTH);
        let mut made = generator.finish();

        let mut variants = vec![];
        if small.iter().all(|launch| launch.scratch_bytes == 0)
            && let Some((lowered, segments)) = whole::plan(model, &layout, target, &lowered, &segments)?
        {
            let mut generator = Generator::new(model, &layout, &lowered, &segments, target, "whole_", made);
            let launches = generator.variant(&[]);
            made = generator.finish();
            variants.push(Variant { rows_from: 0, launches });
        }
        variants.push(Variant { rows_from: if variants.is_empty() { 0 } else { whole::ROWS_MAX + 1 }, launches: small });
        variants.extend(rows_from.map(|rows_from| Variant { rows_from, launches: large }));
        let Made { source, blob, product_blob, tables, needs } = made;
        let by_warpgroups = if source.contains("WideHopper<") { "#include \"wide_hopper.cuh\"\n" } else { "" };
        let source = format!("{PRELUDE}{by_warpgroups}{source}");
        let layers = layers(&lowered, target.numbers);
        let (weights, product_weights) = (blob.into_bytes(), product_blob.into_bytes());
        Ok(Program { model: Arc::clone(model), layout, source, variants, weights, product_weights, tables, needs, layers })
    }
}

/// A model's tasks, and how kernels share them out.
fn cut<'m>(model: &'m Model, layout: &'m Layout, target: &Target) -> Result<(Lowered<'m>, Segments), EngineError> {
    let mut lowered = tasks(model, layout, &target.options(), &mut |_| Ok(()))?;
    let segments = arrange(&mut lowered, target);
    Ok((lowered, segments))
}

/// What generators leave behind.
#[derive(Default)]
struct Made {
    source: String,
    blob: Blob,
    /// Weights of products that a library multiplies.
    product_blob: Blob,
    tables: Vec<DeviceTable>,
    needs: Needs,
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

/// One plan of a model on its way.
struct Generator<'g, 'a> {
    model: &'g Model,
    layout: &'g Layout,
    lowered: &'g Lowered<'a>,
    segments: &'g Segments,
    target: &'g Target,
    /// Of the names of its kernels.
    prefix: &'static str,
    places: Places,
    made: Made,
}

/// A kernel on its way into the source.
struct Kernel {
    definitions: String,
    text: String,
    launch: Launch,
}

impl<'g, 'a> Generator<'g, 'a> {
    /// One that adds to what others made.
    fn new(
        model: &'g Model,
        layout: &'g Layout,
        lowered: &'g Lowered<'a>,
        segments: &'g Segments,
        target: &'g Target,
        prefix: &'static str,
        made: Made,
    ) -> Generator<'g, 'a> {
        let places = Places::new(lowered, segments, target.numbers);
        Generator { model, layout, lowered, segments, target, prefix, places, made }
    }

    fn finish(self) -> Made {
        let Needs { kept_bytes, work_bytes } = self.made.needs;
        let needs = Needs { kept_bytes: kept_bytes.max(self.places.kept_bytes), work_bytes: work_bytes.max(self.places.work_bytes) };
        Made { needs, ..self.made }
    }

    /// Adds the kernels of small batches or, given those, of large ones, as far as they differ; gives the launches in order.
    fn variant(&mut self, small: &[Launch]) -> Vec<Launch> {
        let mut launches = Vec::new();
        for (number, segment) in self.segments.list.iter().enumerate() {
            let small = small.get(number);
            let made = match segment.wide {
                true => Some(self.wide(number, small.is_some())),
                // Larger tiles read weights less often, but only from shared memory.
                false if small.is_some() => {
                    let mut made = LARGE_TILES.iter().map(|&tile| self.tiled(number, tile));
                    made.find(|kernel| kernel.launch.scratch_bytes == 0)
                }
                false => Some(self.tiled(number, SMALL_TILE)),
            };
            launches.push(match (made, small) {
                (Some(Kernel { definitions, text, launch }), _) => {
                    // What a layer does with its results is the same in blocks of every size.
                    if !segment.wide || small.is_none() {
                        self.made.source.push_str(&definitions);
                    }
                    self.made.source.push_str(&text);
                    launch
                }
                (None, Some(small)) => small.clone(),
                (None, None) => unreachable!("small tiles always do"),
            });
        }
        launches
    }

    /// What kernels of a segment are called after.
    fn name(&self, segment: usize) -> String {
        let scope = if self.segments.list[segment].scope == ValueScope::Candidate { "candidates" } else { "contexts" };
        format!("{}{scope}_{segment}", self.prefix)
    }

    /// The kernel of a wide layer.
    fn wide(&mut self, segment: usize, large: bool) -> Kernel {
        self.places.tile = if large { LARGE_TILES[0] } else { SMALL_TILE };
        let (&task, tail) = self.segments.list[segment].tasks.split_first().expect("a wide segment is a layer");
        let mut definitions = String::new();
        let made = self.emitter(task, &mut definitions, &mut Vec::new()).wide(tail);
        let Wide { kernel, warpgroups, product, mut layer } = made;
        let what = if layer.has_tail { "_tail" } else { "" };
        let name = format!("{}{what}_{}", self.name(segment), if large { "large" } else { "small" });
        let mut text = String::new();
        let mut launch = wide_launch(&mut text, name.clone(), kernel);
        layer.ways.extend(warpgroups.map(|other| Way::Kernel(wide_launch(&mut text, format!("{name}_warpgroups"), other))));
        layer.ways.extend(product.map(Way::Product));
        launch.layer = (!layer.ways.is_empty() || layer.yardstick.is_some()).then(|| Box::new(layer));
        Kernel { definitions, text, launch }
    }

    /// The kernel of a segment in tiles.
    fn tiled(&mut self, segment: usize, tile: usize) -> Kernel {
        self.places.plan_tile(segment, tile, self.target.shared_limit - head_bytes(tile));
        let is_candidate = self.segments.list[segment].scope == ValueScope::Candidate;
        let is_last = segment + 1 == self.segments.list.len();
        let mut definitions = String::new();
        let mut steps = self.steps(segment, &mut definitions);
        if is_last {
            steps.push(self.scores());
        }
        let name = self.name(segment);
        let space = format!("{}tile_{tile}", self.prefix);
        let mut text = format!("\nnamespace {space} {{\n{definitions}\nstruct {name} {{\n    DEV static void run(const Block& b) {{\n");
        let _ = writeln!(text, "{}\n    }}\n}};\n}}  // namespace {space}\n", steps.join("\n        sync_block();\n"));
        let end = if is_last { "    finish(job);\n" } else { "" };
        let (kernel, scratch) = (format!("{name}_tile_{tile}"), self.places.block.scratch_bytes);
        let run = format!("run_tiles<{space}::{name}, {tile}, {is_candidate}, {scratch}>(job, shared);");
        let _ = writeln!(text, "KERNEL(THREADS) {kernel}(Job job) {{\n    DYN_SMEM(shared);\n    {run}\n{end}}}");
        let launch = Launch {
            kernel,
            over: if is_candidate { Over::Candidates { tile } } else { Over::Contexts { tile } },
            threads: THREADS,
            shared_bytes: (head_bytes(tile) + self.places.block.shared_bytes) as u32,
            scratch_bytes: scratch,
            layer: None,
        };
        Kernel { definitions: String::new(), text, launch }
    }

    /// The steps of a segment.
    fn steps(&mut self, segment: usize, definitions: &mut String) -> Vec<String> {
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
            let mut emitter = self.emitter(number, definitions, &mut steps);
            match together {
                [] => emitter.emit(),
                _ => emitter.lookups(together),
            }
            texts.extend(steps.into_iter().map(|step| format!("        {step}")));
        }
        texts
    }

    fn emitter<'e>(&'e mut self, number: usize, definitions: &'e mut String, steps: &'e mut Vec<String>) -> Emitter<'e, 'a> {
        Emitter {
            task: &self.lowered.tasks[number],
            lowered: self.lowered,
            places: &mut self.places,
            layout: self.layout,
            model: self.model,
            target: self.target,
            blob: &mut self.made.blob,
            product_blob: &mut self.made.product_blob,
            tables: &mut self.made.tables,
            definitions,
            steps,
            number,
        }
    }

    /// The step that writes the answer: outputs are of any scope.
    fn scores(&mut self) -> String {
        let count = self.lowered.outputs.len();
        let mut text = String::new();
        for (column, &output) in self.lowered.outputs.iter().enumerate() {
            let view = emitter::view(self.lowered, &self.places, &mut self.made.blob, output, 0, true);
            let _ = write!(text, "{}write_score<{view}, {count}, {column}>(b);", if column > 0 { "\n" } else { "        " });
        }
        text
    }
}

/// Adds the kernel of a wide layer to a source; gives its launch.
fn wide_launch(source: &mut String, kernel: String, wide: WideKernel) -> Launch {
    let WideKernel { run, threads, rows, columns, shared_bytes } = wide;
    let _ = writeln!(source, "KERNEL({threads}) {kernel}(Job job) {{\n    DYN_SMEM(shared);\n    {run}\n}}");
    Launch { kernel, over: Over::Grid { rows, columns }, threads, shared_bytes, scratch_bytes: 0, layer: None }
}

/// Bytes of shared memory before the values: `HEAD` of `run_tiles` in `kernels/tile.cuh`.
const fn head_bytes(tile: usize) -> usize {
    (tile * 4).next_multiple_of(128)
}

/// Rows of a tile of short batches.
const SMALL_TILE: usize = 16;
/// Rows of a tile where weights should be read seldom: the first that fits into shared memory, for each kernel.
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
