//! Lookup joining: all lookups of one scope become one step, so that a tile's reads of all tables overlap, and small batches pay for one step.
//!
//! Lookups read ids alone, so they may run as early as the first of them. Each then holds its memory from there on: a long sequence stays
//! where it is, for the rows of many sequences at once would leave the cache before they are used.

use crate::batch::{Layout, ScopeLayout};
use crate::engine::cpu::kernels::Kernel;
use crate::engine::cpu::kernels::lookup::{Lookup, Lookups};
use crate::engine::cpu::program::Step;
use crate::engine::cpu::simd::Simd;
use crate::model::{Feature, Model, Pool, Scope, ValueScope};

use super::lower::Lowered;
use super::place::Placing;
use super::task::{Note, PlanValue, Task, Work};

/// Moves the lookups of each scope to the first one. Where nothing is hoisted, candidates look up features of the context: a group of its own.
pub fn join(lowered: &mut Lowered, model: &Model) {
    let tasks = std::mem::take(&mut lowered.tasks);
    let values = &lowered.values;
    let mut early: [Vec<Task>; 3] = [vec![], vec![], vec![]];
    let mut rest = Vec::with_capacity(tasks.len());
    const GROUPS: [(ValueScope, Scope); 3] =
        [(ValueScope::Context, Scope::Context), (ValueScope::Candidate, Scope::Context), (ValueScope::Candidate, Scope::Candidate)];
    let mut at = [None; 3];
    for task in tasks {
        let moves = values[task.out].len() <= MOVED_ELEMENTS_MAX;
        match GROUPS.iter().position(|group| group_of(&task, values, model) == Some(*group)) {
            Some(which) if moves => {
                at[which].get_or_insert(rest.len());
                early[which].push(task);
            }
            _ => rest.push(task),
        }
    }
    // The later place first: what is inserted moves the places behind it.
    let mut order = [0, 1, 2];
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

/// For which rows a lookup is done, and whose feature it reads.
fn group_of(task: &Task, values: &[PlanValue], model: &Model) -> Option<(ValueScope, Scope)> {
    match &task.work {
        Work::Lookup { feature, .. } => Some((values[task.out].scope, model.features[*feature].scope)),
        _ => None,
    }
}

/// How many tasks at the start of `tasks` are lookups of one group.
pub fn count(tasks: &[Task], values: &[PlanValue], model: &Model) -> usize {
    let Some(group) = tasks.first().and_then(|first| group_of(first, values, model)) else { return 0 };
    tasks.iter().take_while(|task| group_of(task, values, model) == Some(group)).count()
}

/// The step of lookups that [`count`] counted.
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
