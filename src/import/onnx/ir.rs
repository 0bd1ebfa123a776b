//! What the graph becomes before it is written: steps of the bundle's ops, and two kinds that wait for the whole graph: elements of
//! inputs, whose features are not decided yet, and lookups of ids.

use std::rc::Rc;

use serde_json::Value as Json;

use crate::model::{DType, Pool};

use super::constant::{Const, Elem};
use super::value::Atom;

/// Index of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IrId(pub usize);

/// An argument of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// A value.
    Value(IrId),
    /// A list of values.
    List(Vec<IrId>),
    /// A number, where the op takes one.
    Number(f64),
}

/// A step of a bundle's graph; `docs/bundle.md` defines ops and arguments.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Op.
    pub op: &'static str,
    /// Values it reads.
    pub inputs: Vec<(&'static str, Arg)>,
    /// Tensors it reads.
    pub tensors: Vec<(&'static str, Const)>,
    /// The table it reads.
    pub table: Option<Const>,
    /// Everything else.
    pub args: Vec<(&'static str, Json)>,
}

/// How a value comes to be.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Elements of inputs.
    Source {
        /// Row-major over the shape.
        atoms: Rc<Vec<Atom>>,
        /// Made integers before they are used.
        integer: bool,
        /// The type in ONNX: integers of 32 bits wrap around where a request may bring more.
        elem: Elem,
    },
    /// Rows of a table [rows, dim] by ids that are elements of inputs: [ids.., dim], or pooled over the last axis of the ids.
    Embed {
        /// The table.
        table: Const,
        /// Row-major.
        atoms: Rc<Vec<Atom>>,
        /// Shape of the ids.
        ids: Vec<usize>,
        /// Sum or mean over the last axis of the ids; none.
        pool: Pool,
    },
    /// A constant.
    Const(Const),
    /// Anything else.
    Step(Step),
}

/// A value.
#[derive(Clone, Debug)]
pub struct Node {
    /// How it comes to be.
    pub kind: Kind,
    /// Shape per row.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
    /// The ONNX value that it was made for.
    pub label: Rc<str>,
}

impl Kind {
    /// The values it reads.
    pub fn reads(&self) -> Vec<IrId> {
        let Kind::Step(step) = self else { return vec![] };
        let mut reads = Vec::new();
        for (_, arg) in &step.inputs {
            match arg {
                Arg::Value(id) => reads.push(*id),
                Arg::List(ids) => reads.extend(ids),
                Arg::Number(_) => {}
            }
        }
        reads
    }
}

/// Which of `nodes` the `outputs` need.
pub fn live(nodes: &[Node], outputs: impl Iterator<Item = IrId>) -> Vec<bool> {
    let mut live = vec![false; nodes.len()];
    outputs.for_each(|id| live[id.0] = true);
    for index in (0..nodes.len()).rev() {
        if live[index] {
            nodes[index].kind.reads().into_iter().for_each(|id| live[id.0] = true);
        }
    }
    live
}

/// Sums and means over the ids of a bag become pooled lookups, where nothing else reads the rows.
pub fn pool_lookups(nodes: &mut [Node], outputs: &[IrId]) {
    let live = live(nodes, outputs.iter().copied());
    let mut readers = vec![0_usize; nodes.len()];
    outputs.iter().for_each(|id| readers[id.0] += 1);
    for (node, _) in nodes.iter().zip(&live).filter(|(_, live)| **live) {
        node.kind.reads().into_iter().for_each(|id| readers[id.0] += 1);
    }
    for index in 0..nodes.len() {
        let Kind::Step(step) = &nodes[index].kind else { continue };
        let pool = match step.op {
            "reduce_sum" => Pool::Sum,
            "reduce_mean" => Pool::Mean,
            _ => continue,
        };
        let [(_, Arg::Value(from))] = step.inputs[..] else { continue };
        let Kind::Embed { table, atoms, ids, pool: Pool::None } = &nodes[from.0].kind else { continue };
        let [width] = ids[..] else { continue };
        let axes = step.args.iter().find(|(key, _)| *key == "axes").map(|(_, axes)| axes.clone());
        if width < 2 || axes != Some(serde_json::json!([0])) || readers[from.0] != 1 || nodes[from.0].shape.len() != 2 {
            continue;
        }
        let pooled = Kind::Embed { table: table.clone(), atoms: atoms.clone(), ids: ids.clone(), pool };
        nodes[index].kind = pooled;
    }
}
