//! Which numbers may be missing: columns whose NaN the graph deals with, so that requests may carry it.
//!
//! A value *takes NaN* if each of its readers does: trees have a branch for it, IsNaN asks for it, a choice by IsNaN (an imputer) puts a number
//! in its place. What moves elements, and arithmetic that makes NaN of NaN, takes it if all that reads the result does. Anything else would
//! turn a missing number into a score that nobody meant.

use super::graph::Converted;
use super::ir::{Arg, IrId, Kind, Node, Step};

/// `[input][column]`: every reader deals with NaN. Columns that nothing reads are no reason to refuse it.
pub fn taken(graph: &Converted, live: &[bool]) -> Vec<Vec<bool>> {
    let nodes = &graph.nodes;
    let mut takes = vec![true; nodes.len()];
    graph.columns.iter().for_each(|column| takes[column.id.0] = false);
    // Readers stand behind what they read: from the back, all readers of a value are known when its turn comes.
    for reader in (0..nodes.len()).rev().filter(|reader| live[*reader]) {
        let Kind::Step(step) = &nodes[reader].kind else { continue };
        for (key, arg) in &step.inputs {
            let read: &[IrId] = match arg {
                Arg::Value(id) => std::slice::from_ref(id),
                Arg::List(ids) => ids,
                Arg::Number(_) => &[],
            };
            for id in read {
                takes[id.0] &= deals(nodes, step, key, *id, takes[reader]);
            }
        }
    }
    let mut columns: Vec<Vec<bool>> = graph.inputs.iter().map(|input| vec![true; input.len()]).collect();
    for (index, node) in nodes.iter().enumerate().filter(|(index, _)| live[*index]) {
        let (atoms, taken) = match &node.kind {
            Kind::Source { atoms, .. } => (atoms, takes[index]),
            Kind::Embed { atoms, .. } => (atoms, false),
            Kind::Const(_) | Kind::Step(_) => continue,
        };
        atoms.iter().for_each(|atom| columns[atom.input as usize][atom.column as usize] &= taken);
    }
    columns
}

/// Whether `step`, whose own value takes NaN if `result` says so, deals with NaN in its argument `key`, which is `id`.
fn deals(nodes: &[Node], step: &Step, key: &str, id: IrId, result: bool) -> bool {
    match step.op {
        "trees" => true,
        "concat" | "slice" | "reshape" | "transpose" | "broadcast" | "gather_const" => result,
        "add" | "sub" | "mul" | "div" => result,
        // NaN equals nothing, itself included: IsNaN, and an imputer that replaces another number.
        "compare" => {
            matches!(word(step, "cmp"), Some("eq" | "ne")) && matches!(other(step, key), Some(Arg::Number(_)))
                || asks(nodes, step).is_some()
        }
        "where" => result || argument(step, "cond").is_some_and(|cond| passes_by(nodes, cond, key, id)),
        _ => false,
    }
}

/// Whether a choice by `cond` takes nothing of its argument `key`, which is `id`, where that is NaN.
fn passes_by(nodes: &[Node], cond: &Arg, key: &str, id: IrId) -> bool {
    let mut cond = cond;
    // What the condition says of a NaN.
    let mut holds = true;
    loop {
        let Arg::Value(at) = cond else { return false };
        let Kind::Step(step) = &nodes[at.0].kind else { return false };
        if step.op == "not"
            && let Some(inner) = argument(step, "in")
        {
            (cond, holds) = (inner, !holds);
            continue;
        }
        return match asks(nodes, step) {
            Some((asked, yes)) => same(nodes, asked, id) && key == if yes == holds { "b" } else { "a" },
            None => false,
        };
    }
}

/// The value that a comparison with itself asks for NaN, and what it says if there is one.
fn asks(nodes: &[Node], step: &Step) -> Option<(IrId, bool)> {
    let (Some(Arg::Value(a)), Some(Arg::Value(b))) = (argument(step, "a"), argument(step, "b")) else { return None };
    match word(step, "cmp") {
        Some("ne") if step.op == "compare" && same(nodes, *a, *b) => Some((*a, true)),
        Some("eq") if step.op == "compare" && same(nodes, *a, *b) => Some((*a, false)),
        _ => None,
    }
}

/// The same elements at the same places.
fn same(nodes: &[Node], a: IrId, b: IrId) -> bool {
    let (x, y) = (&nodes[a.0], &nodes[b.0]);
    match (&x.kind, &y.kind) {
        (Kind::Source { atoms, integer }, Kind::Source { atoms: others, integer: other }) => {
            x.shape == y.shape && integer == other && atoms == others
        }
        _ => a == b,
    }
}

fn argument<'s>(step: &'s Step, key: &str) -> Option<&'s Arg> {
    step.inputs.iter().find(|(own, _)| *own == key).map(|(_, arg)| arg)
}

/// The other operand of a comparison.
fn other<'s>(step: &'s Step, key: &str) -> Option<&'s Arg> {
    argument(step, if key == "a" { "b" } else { "a" })
}

fn word<'s>(step: &'s Step, key: &str) -> Option<&'s str> {
    step.args.iter().find(|(own, _)| *own == key).and_then(|(_, value)| value.as_str())
}
