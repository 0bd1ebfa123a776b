//! Lookup joining: all lookups of one scope become one step, so that a tile's reads of all tables overlap, and small batches pay for one step.
//!
//! Lookups read ids alone, so they may run as early as the first of them. Each then holds its memory from there on: a long sequence stays
//! where it is, for the rows of many sequences at once would leave the cache before they are used.

use crate::batch::{Layout, ScopeLayout};
use crate::engine::cpu::kernels::Kernel;
use crate::engine::cpu::kernels::lookup::{Lookup, Lookups};
use crate::engine::cpu::program::Step;
use crate::engine::cpu::simd::Simd;
use crate::model::{Feature, Model, Pool, ValueScope};

use super::lower::Lowered;
use super::place::Placing;
use super::task::{Note, PlanValue, Task, Work};

/// Moves the lookups of each scope to the first one.
pub fn join(lowered: &mut Lowered) {
    let tasks = std::mem::take(&mut lowered.tasks);
    let values = &lowered.values;
    let moves = |task: &Task, scope: ValueScope| {
        matches!(task.work, Work::Lookup { .. }) && values[task.out].scope == scope && values[task.out].len() <= MOVED_ELEMENTS_MAX
    };
    let mut early: [Vec<Task>; 2] = [vec![], vec![]];
    let mut rest = Vec::with_capacity(tasks.len());
    const SCOPES: [ValueScope; 2] = [ValueScope::Context, ValueScope::Candidate];
    let mut at = [None; 2];
    for task in tasks {
        match SCOPES.iter().position(|&scope| moves(&task, scope)) {
            Some(which) => {
                at[which].get_or_insert(rest.len());
                early[which].push(task);
            }
            None => rest.push(task),
        }
    }
    // The later place first: what is inserted moves the places behind it.
    let mut order = [0, 1];
    order.sort_by_key(|&which| std::cmp::Reverse(at[which]));
    for which in order {
        let at = at[which].unwrap_or(0);
        let count = early[which].len();
        if count > 1 {
            early[which].iter_mut().for_each(|task| task.notes.push(Note::Fused(format!("one step of {count} lookups"))));
        }
        rest.splice(at..at, std::mem::take(&mut early[which]));
    }
    lowered.tasks = rest;
}

/// How many tasks at the start of `tasks` are lookups of one scope.
pub fn count(tasks: &[Task], values: &[PlanValue]) -> usize {
    let Some(first) = tasks.first() else { return 0 };
    let scope = values[first.out].scope;
    tasks.iter().take_while(|task| matches!(task.work, Work::Lookup { .. }) && values[task.out].scope == scope).count()
}

/// The step of lookups of one scope.
pub fn emit(tasks: &[Task], places: &mut dyn Placing, layout: &Layout, model: &Model, simd: Simd) -> Step {
    let mut lookups = Vec::with_capacity(tasks.len());
    let mut ns_per_row = 0.0;
    for task in tasks {
        let Work::Lookup { feature, table, pool } = &task.work else { unreachable!("the caller counted lookups") };
        let declared = &model.features[*feature];
        let table = model.weights.table(*table);
        let lookup = Lookup {
            scope: declared.scope,
            bag: bag_of(layout.scope(declared.scope), *feature),
            width: (!declared.is_variable()).then_some(declared.width as usize),
            pool: *pool,
            weighted: declared.is_weighted() && *pool != Pool::Max,
            out: places.of(task.out),
        };
        ns_per_row += ns_of(declared, table.row_bytes());
        lookups.push((lookup, table));
    }
    Step::new(Kernel::Lookups(Lookups::new(simd, lookups)), ns_per_row)
}

fn bag_of(layout: &ScopeLayout, feature: usize) -> usize {
    layout.bag_of(feature).expect("the shape pass lets sparse features alone be looked up")
}

/// About how long a row takes, if half of a bag is there and tables are in memory.
fn ns_of(feature: &Feature, row_bytes: usize) -> f32 {
    let ids = if feature.is_variable() { feature.max_len as f32 / 2.0 } else { feature.width as f32 };
    2.0 + ids * (10.0 + row_bytes as f32 * NS_PER_BYTE)
}

/// Longer sequences are looked up where they are first needed.
const MOVED_ELEMENTS_MAX: usize = 1024;

/// Of rows that come from memory.
const NS_PER_BYTE: f32 = 0.08;
