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
mod kernels;
mod lookups;
mod narrow;
mod packing;
mod place;
mod segments;
mod tails;
mod traffic;
mod whole;
mod works;

use std::sync::Arc;

use crate::batch::Layout;
use crate::engine::EngineError;
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{Task, Work};
use crate::engine::cpu::plan::tasks;
use crate::engine::cpu::plan::weights::LayerMatrix;
use crate::engine::cpu::{Hoist, Options, Simd, SimdLevel};
use crate::engine::precision::{LayerPrecision, Precision};
use crate::model::Model;

use super::compile::Arch;
use super::program::{Over, Program, Variant};

use self::dense_layers::is_multiplied_in_bf16;
use self::kernels::{Generator, Made, Planned};
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
        let planned = Planned { model, layout: &layout, lowered: &lowered, segments: &segments, target };
        let mut generator = Generator::new(planned, "", Made::default());
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
            let planned = Planned { lowered: &lowered, segments: &segments, ..planned };
            let mut generator = Generator::new(planned, "whole_", made);
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
