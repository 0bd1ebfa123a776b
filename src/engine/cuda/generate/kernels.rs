//! Kernels of a plan: one for each of its segments, in the tile sizes that batches want.

use std::fmt::Write;

use super::blob::Blob;
use super::dense_layers::{Wide, WideKernel};
use super::emitter::{self, Emitter};
use super::place::Places;
use super::segments::Segments;
use super::{LARGE_TILES, SMALL_TILE, THREADS, Target};
use crate::batch::Layout;
use crate::engine::cpu::plan::lookups::count as count_lookups;
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cuda::program::{DeviceTable, Launch, Needs, Over, Way};
use crate::model::{Model, ValueScope};

/// What generators leave behind.
#[derive(Default)]
pub struct Made {
    /// Definitions and kernels.
    pub source: String,
    /// Weights.
    pub blob: Blob,
    /// Weights of products that a library multiplies.
    pub product_blob: Blob,
    /// Which tables kernels read.
    pub tables: Vec<DeviceTable>,
    /// Memory of a slot.
    pub needs: Needs,
}

/// One plan of a model, and what it is for.
#[derive(Clone, Copy)]
pub struct Planned<'g, 'a> {
    /// Whose plan it is.
    pub model: &'g Model,
    /// Of its slots.
    pub layout: &'g Layout,
    /// What is to be done.
    pub lowered: &'g Lowered<'a>,
    /// Which kernel does it.
    pub segments: &'g Segments,
    /// On what.
    pub target: &'g Target,
}

/// A plan on its way into kernels.
pub struct Generator<'g, 'a> {
    planned: Planned<'g, 'a>,
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
    pub fn new(planned: Planned<'g, 'a>, prefix: &'static str, made: Made) -> Generator<'g, 'a> {
        let places = Places::new(planned.lowered, planned.segments, planned.target.numbers);
        Generator { planned, prefix, places, made }
    }

    /// What it made, and others before it.
    pub fn finish(self) -> Made {
        let Needs { kept_bytes, work_bytes } = self.made.needs;
        let needs = Needs { kept_bytes: kept_bytes.max(self.places.kept_bytes), work_bytes: work_bytes.max(self.places.work_bytes) };
        Made { needs, ..self.made }
    }

    /// Adds the kernels of small batches or, given those, of large ones, as far as they differ; gives the launches in order.
    pub fn variant(&mut self, small: &[Launch]) -> Vec<Launch> {
        let mut launches = Vec::new();
        for (number, segment) in self.planned.segments.list.iter().enumerate() {
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
        let scope = if self.planned.segments.list[segment].scope == ValueScope::Candidate { "candidates" } else { "contexts" };
        format!("{}{scope}_{segment}", self.prefix)
    }

    /// The kernel of a wide layer.
    fn wide(&mut self, segment: usize, large: bool) -> Kernel {
        self.places.tile = if large { LARGE_TILES[0] } else { SMALL_TILE };
        let (&task, tail) = self.planned.segments.list[segment].tasks.split_first().expect("a wide segment is a layer");
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
        self.places.plan_tile(segment, tile, self.planned.target.shared_limit - head_bytes(tile));
        let is_candidate = self.planned.segments.list[segment].scope == ValueScope::Candidate;
        let is_last = segment + 1 == self.planned.segments.list.len();
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
        let mut rest = self.planned.segments.list[segment].tasks.as_slice();
        while let [number, behind @ ..] = rest {
            let number = *number;
            // Lookups that stand side by side are one step.
            let lowered = self.planned.lowered;
            let together = &lowered.tasks[number..];
            let together = &together[..count_lookups(together, &lowered.values, self.planned.model)];
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
        let Planned { model, layout, lowered, target, .. } = self.planned;
        Emitter {
            task: &lowered.tasks[number],
            lowered,
            places: &mut self.places,
            layout,
            model,
            target,
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
        let count = self.planned.lowered.outputs.len();
        let mut text = String::new();
        for (column, &output) in self.planned.lowered.outputs.iter().enumerate() {
            let view = emitter::view(self.planned.lowered, &self.places, &mut self.made.blob, output, 0, true);
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
pub const fn head_bytes(tile: usize) -> usize {
    (tile * 4).next_multiple_of(128)
}
