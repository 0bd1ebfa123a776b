//! What each kernel of a program has to do, counted from shapes: for tables of floors, and for measurements against them.

use std::sync::Arc;

use serde::Serialize;

use super::narrow::narrow;
use super::traffic::passed;
use super::{Numbers, Target, cut};
use crate::batch::Layout;
use crate::engine::EngineError;
use crate::engine::cpu::plan::count_work;
use crate::engine::cpu::plan::place::Homes;
use crate::engine::cpu::plan::task::Work;
use crate::model::{Model, ValueScope};

/// Work of one launch, for one row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LaunchWork {
    /// Its number among the launches of a variant.
    pub launch: usize,
    /// Whether rows are requests; else candidates.
    pub per_request: bool,
    /// Whether it is a wide layer, with what ends it.
    pub wide: bool,
    /// Arithmetic operations; a multiply-add is two.
    pub flops: u64,
    /// Those of them that are products of dense layers and dot interactions: with [`Numbers::Bf16`], work of tensor cores.
    pub product_flops: u64,
    /// Bytes of table rows, bags full.
    pub table_bytes: u64,
    /// Bytes of values that an earlier launch left in device memory, and of those that it leaves there itself.
    pub passed_bytes: u64,
    /// Bytes of weights: read once per tile, whatever its rows.
    pub weight_bytes: u64,
    /// Tasks that it runs.
    pub tasks: usize,
}

/// The work of every launch of a model's program, in order. Variants differ in tiles, not in work; that of short batches in one launch does what
/// a target without hoisting does.
pub fn works(model: &Arc<Model>, target: &Target) -> Result<Vec<LaunchWork>, EngineError> {
    let layout = Layout::new(&model.features, model.graph.outputs.len());
    let (lowered, segments) = cut(model, &layout, target)?;
    let homes = Homes::new(&lowered);
    let narrow = narrow(&lowered, &homes, &segments, target.numbers);
    let passed = passed(&lowered, &homes, &segments, &narrow);
    let mut works: Vec<LaunchWork> = Vec::new();
    for (launch, segment) in segments.list.iter().enumerate() {
        let mut work = LaunchWork {
            launch,
            per_request: segment.scope == ValueScope::Context,
            wide: segment.wide,
            tasks: segment.tasks.len(),
            ..LaunchWork::default()
        };
        for &task in &segment.tasks {
            let task = &lowered.tasks[task];
            let counted = count_work(model, &lowered.values, task);
            work.flops += counted.flops;
            work.product_flops += if is_product(&task.work) { counted.flops } else { 0 };
            work.table_bytes += counted.table_bytes;
            work.weight_bytes += match (target.numbers, is_product(&task.work)) {
                (Numbers::Bf16, true) => counted.weight_bytes / 2,
                _ => counted.weight_bytes,
            };
        }
        work.passed_bytes = passed[launch];
        works.push(work);
    }
    Ok(works)
}

/// Whether its arithmetic is for tensor cores; products of values with each other are not (`kernels/products.cuh`).
pub(super) fn is_product(work: &Work<'_>) -> bool {
    matches!(work, Work::Linear { .. } | Work::Interaction { .. })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::cpu::Hoist;
    use crate::engine::cpu::tests::builder::ModelBuilder;
    use crate::engine::cuda::Program;
    use crate::engine::cuda::program::Over;
    use crate::model::{LoadOptions, Op, Operand, Scope, load};

    fn model(name: &str) -> Arc<Model> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(name);
        Arc::new(load(&folder, &LoadOptions::default(), &mut |_| {}).expect("a bundle"))
    }

    /// However a plan is cut, its tasks do the same; only what passes between kernels grows.
    #[test]
    fn cuts_change_no_work() {
        let model = model("dlrm");
        let base = Target { hoist: Hoist::Nothing, ..Target::new(227 << 10, Numbers::F32) };
        let sum = |works: &[LaunchWork], of: fn(&LaunchWork) -> u64| works.iter().map(of).sum::<u64>();
        let whole = works(&model, &base).expect("a plan");
        let cut = works(&model, &Target { wide_from: 1, ..base }).expect("a plan");
        assert!(cut.len() > whole.len(), "{} kernels, {} kernels", cut.len(), whole.len());
        let counts: [fn(&LaunchWork) -> u64; 4] =
            [|work| work.flops, |work| work.product_flops, |work| work.table_bytes, |work| work.weight_bytes];
        for of in counts {
            assert_eq!(sum(&cut, of), sum(&whole, of));
            assert!(sum(&whole, of) > 0);
        }
        assert!(sum(&cut, |work| work.passed_bytes) > sum(&whole, |work| work.passed_bytes));
        let halved = works(&model, &Target { numbers: Numbers::Bf16, ..base }).expect("a plan");
        assert!(sum(&halved, |work| work.weight_bytes) < sum(&whole, |work| work.weight_bytes));
    }

    #[test]
    fn there_is_one_for_each_launch() {
        for name in ["dlrm", "deepfm_scoped"] {
            let model = model(name);
            let target = Target::new(227 << 10, Numbers::F32);
            let program = Program::new(&model, &target).expect("a program");
            let launches = works(&model, &target).expect("a plan").len();
            let expected = if launches == 2 { vec![1, 2, 2] } else { vec![1, 1] };
            assert_eq!(program.variants.iter().map(|variant| variant.launches.len()).collect::<Vec<_>>(), expected, "{name}");
            let whole = works(&model, &Target { hoist: Hoist::Nothing, ..target }).expect("a plan");
            assert_eq!(whole.len(), 1, "{name}");
        }
    }

    /// A cross layer of 30 and its next, in kernels: x0 and what the layers between make, once each.
    #[test]
    fn what_is_passed_on_is_what_kernels_read_and_write() {
        let mut model = ModelBuilder::new(1);
        let feature = model.dense(Scope::Candidate, 30);
        let x0 = model.op(Op::Dense { features: vec![feature] });
        let mut x = x0;
        for _ in 0..2 {
            let inner = model.linear(x, 20);
            let y = model.linear(inner, 30);
            let product = model.op(Op::Mul { a: Operand::Value(x0), b: Operand::Value(y) });
            x = model.op(Op::Add { a: Operand::Value(product), b: Operand::Value(x) });
        }
        let out = model.linear(x, 1);
        let model = model.finish(&[out]);
        for (numbers, wide, narrow) in [(Numbers::F32, 4, 0), (Numbers::Bf16, 4, 2)] {
            // Bytes of 30 columns and of 20 as they are, and of what layers alone read.
            let (whole, copy, inner) = (30 * wide, 30 * narrow, if narrow > 0 { 20 * narrow } else { 20 * wide });
            let read = if narrow > 0 { copy } else { whole };
            let expected = [
                whole + copy,                 // x0
                read + inner,                 // V x0
                inner + whole + whole + copy, // x1 of V x0 and x0
                read + inner,                 // V x1
                inner + 2 * whole + whole,    // x2 of V x1, x0 and x1
                whole,
            ];
            let target = Target { wide_from: 100, ..Target::new(99 << 10, numbers) };
            let works = works(&model, &target).expect("a plan");
            assert_eq!(works.iter().map(|work| work.passed_bytes).collect::<Vec<_>>(), expected, "{numbers:?}");
        }
    }

    /// A kernel that would keep values in device memory has smaller tiles; others and wide layers are not held back by it.
    #[test]
    fn each_kernel_has_the_largest_tile_that_fits() {
        let mut model = ModelBuilder::new(2);
        let (few, many) = (model.dense(Scope::Candidate, 16), model.dense(Scope::Candidate, 500));
        let few = model.op(Op::Dense { features: vec![few] });
        let many = model.op(Op::Dense { features: vec![many] });
        let y = model.linear(few, 128);
        // Between the wide layers: rows of 500, which fit into 99 KiB 32 times.
        let z = model.op(Op::Softmax { x: many, axis: 0 });
        let z = model.linear(z, 3);
        let z = model.op(Op::Concat { xs: vec![y, z], axis: 0 });
        let z = model.linear(z, 64);
        let out = model.linear(z, 1);
        let model = model.finish(&[out]);
        let target = Target { wide_from: 2000, ..Target::new(99 << 10, Numbers::F32) };
        let program = Program::new(&model, &target).expect("a program");
        let shapes = |variant: usize| program.variants[variant].launches.iter().map(|launch| launch.over).collect::<Vec<_>>();
        let grid = |rows, columns| Over::Grid { rows, columns };
        let tiles = |tile| Over::Candidates { tile };
        assert_eq!(shapes(0), [tiles(16), grid(64, 2), tiles(16), grid(64, 1), tiles(16)]);
        assert_eq!(shapes(1), [tiles(64), grid(128, 1), tiles(32), grid(128, 1), tiles(64)]);
        // A tile of 64 rows pays from 64 of them on.
        assert_eq!(program.variants[1].rows_from, 4096);
        assert!(program.variants.iter().flat_map(|variant| &variant.launches).all(|launch| launch.scratch_bytes == 0));
    }
}
