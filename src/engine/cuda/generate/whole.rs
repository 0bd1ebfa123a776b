//! Short batches in one launch: a plan without hoisting, in which a tile computes for each of its candidates what belongs to the request.
//!
//! Hoisting saves work and costs a launch: about 1.3 us between two kernels, and the time that the first of them takes with hardly a block to run. A
//! tile that takes 16 rows through a layer takes as long as for one, since it waits for weights; and the rows of tables that its candidates
//! share come from the caches. What is left is bounded here. While a batch leaves most of the device idle, that costs nobody else anything.

use crate::batch::Layout;
use crate::engine::EngineError;
use crate::engine::cpu::Hoist;
use crate::engine::cpu::plan::count_work;
use crate::engine::cpu::plan::lower::Lowered;
use crate::model::{Model, ValueScope};

use super::kernels::head_bytes;
use super::place::Places;
use super::segments::Segments;
use super::works::is_product;
use super::{Numbers, SMALL_TILE, Target, cut};

/// Candidates up to which it pays: 32 blocks, a quarter of an H100.
pub const ROWS_MAX: usize = 512;

/// The plan, if it takes one launch where the hoisted one takes two, little more work, and no memory beside a block's own.
pub fn plan<'m>(
    model: &'m Model,
    layout: &'m Layout,
    target: &Target,
    hoisted: &Lowered<'_>,
    segments: &Segments,
) -> Result<Option<(Lowered<'m>, Segments)>, EngineError> {
    let is_worth_one = segments.list.len() == 2 && segments.list.iter().all(|segment| !segment.wide);
    if target.hoist != Hoist::WherePaying || !is_worth_one {
        return Ok(None);
    }
    let (whole, segments) = cut(model, layout, &Target { hoist: Hoist::Nothing, ..*target })?;
    let mut places = Places::new(&whole, &segments, target.numbers);
    places.plan_tile(0, SMALL_TILE, target.shared_limit - head_bytes(SMALL_TILE));
    if segments.list.len() != 1 || places.block.scratch_bytes > 0 {
        return Ok(None);
    }
    let more = clocks(model, &whole, target).saturating_sub(clocks(model, hoisted, target));
    Ok((more <= CLOCKS_MORE).then_some((whole, segments)))
}

/// About how many clocks a block is busy with what its candidates need, beside waiting.
fn clocks(model: &Model, lowered: &Lowered<'_>, target: &Target) -> u64 {
    let of_candidates = lowered.tasks.iter().filter(|task| lowered.values[task.out].scope == ValueScope::Candidate);
    let of_row: u64 = of_candidates
        .map(|task| {
            let work = count_work(model, &lowered.values, task);
            let is_dense = target.numbers == Numbers::Bf16 && is_product(&task.work);
            work.flops * if is_dense { TENSOR_FLOP } else { FLOP } + work.table_bytes * TABLE_BYTE
        })
        .sum();
    of_row * SMALL_TILE as u64 / CLOCK
}

/// A clock, in the unit of the others.
const CLOCK: u64 = 1024;
/// A block does 128 in a clock: half of what its share of an H100 could.
const FLOP: u64 = 8;
/// The same on tensor cores, in two halves of bf16.
const TENSOR_FLOP: u64 = 1;
/// Bytes of tables, 64 in a clock from the L2.
const TABLE_BYTE: u64 = 16;
/// About a microsecond.
const CLOCKS_MORE: u64 = 2000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cpu::tests::builder::ModelBuilder;
    use crate::engine::cuda::Program;
    use crate::model::{Op, Pool, Scope};

    /// Launches of each variant, for a request with a history of so many ids.
    fn launches(history: u32, wide_from: usize) -> Vec<usize> {
        let mut model = ModelBuilder::new(1);
        let table = model.table(100, 16);
        let [seen, own] = [(Scope::Context, history), (Scope::Candidate, 1)].map(|(scope, ids)| {
            let feature = model.sparse(scope, ids, ids, table, false);
            model.op(Op::Lookup { feature, table, pool: Pool::Sum })
        });
        let user = model.linear(seen, 32);
        let x = model.op(Op::Concat { xs: vec![user, own], axis: 0 });
        let x = model.linear(x, 64);
        let out = model.linear(x, 1);
        let model = model.finish(&[out]);
        let target = Target { wide_from, ..Target::new(99 << 10, Numbers::F32) };
        let program = Program::new(&model, &target).expect("a program");
        assert!(program.variants.windows(2).all(|pair| pair[0].rows_from < pair[1].rows_from));
        program.variants.iter().map(|variant| variant.launches.len()).collect()
    }

    #[test]
    fn short_batches_take_one_launch_where_that_is_little_more_work() {
        assert_eq!(launches(4, 1 << 19), [1, 2, 2], "few ids of the request");
        assert_eq!(launches(400, 1 << 19), [2, 2], "a long history, which 16 rows would read 16 times");
        assert!(launches(4, 1000).iter().all(|&launches| launches > 2), "a layer that is a kernel of its own");
    }
}
