//! What each kernel of a program has to do, counted from shapes: for tables of floors, and for measurements against them.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use super::narrow::narrow;
use super::tails::arrange;
use super::traffic::passed;
use super::{Numbers, Target};
use crate::batch::Layout;
use crate::engine::EngineError;
use crate::engine::cpu::plan::count_work;
use crate::engine::cpu::plan::place::Homes;
use crate::engine::cpu::plan::task::Work;
use crate::engine::cpu::plan::tasks;
use crate::model::{Model, ValueScope};

/// Work of one launch, for one row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LaunchWork {
    /// Its number among the launches of a variant.
    pub launch: usize,
    /// Whether rows are requests; else candidates.
    pub per_request: bool,
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

/// The work of every launch of a model's program, in order. Variants differ in tiles, not in work.
pub fn works(model: &Arc<Model>, target: &Target) -> Result<Vec<LaunchWork>, EngineError> {
    let options = target.options();
    let layout = Arc::new(Layout::new(&model.features, model.graph.outputs.len()));
    let mut lowered = tasks(model, &layout, &options, &mut |_| Ok(()))?;
    let segments = arrange(&mut lowered, target);
    let homes = Homes::new(&lowered);
    let narrow = if target.numbers == Numbers::Bf16 { narrow(&lowered, &homes, &segments) } else { HashSet::new() };
    let passed = passed(&lowered, &homes, &segments, &narrow);
    let mut works: Vec<LaunchWork> = Vec::new();
    for (launch, segment) in segments.list.iter().enumerate() {
        let mut work =
            LaunchWork { launch, per_request: segment.scope == ValueScope::Context, tasks: segment.tasks.len(), ..LaunchWork::default() };
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

/// Whether its arithmetic is that of matrix products.
fn is_product(work: &Work<'_>) -> bool {
    matches!(work, Work::Linear { .. } | Work::Interaction { .. } | Work::MatMul { .. })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::cpu::Hoist;
    use crate::engine::cuda::Program;
    use crate::model::{LoadOptions, load};

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
            let works = works(&model, &target).expect("a plan");
            for variant in &program.variants {
                assert_eq!(variant.launches.len(), works.len(), "{name}");
            }
        }
    }
}
