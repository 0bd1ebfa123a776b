//! From ONNX nodes to steps: one node at a time, in order, knowing of each value what it is ([`Value`]).

mod affine;
mod align;
mod attention;
mod bags;
mod chosen;
mod control;
mod convolve;
mod curves;
mod einsum;
mod elementwise;
mod fold;
mod gather;
mod held;
mod integers;
mod linear_models;
mod logic;
mod matmul;
mod movement;
mod normalize;
mod numbered;
mod ops;
mod recurrent;
mod reduce;
mod reshape;
mod same;
mod scatter;
mod shapes;
mod steps;
mod trees;
mod unrolled;

use std::collections::HashMap;
use std::rc::Rc;

use crate::limits::NODES_MAX;

use super::constant::{Const, Elem};
use super::error::{Checked, problem};
use super::ir;
use super::nd::Nd;
use super::proto;
use super::tensor::External;
use super::value::{Atom, Batch, Repr, Row, Value};

pub use control::{Frame, Scope, needed};
pub use reshape::show;
pub use steps::number;

/// Elements of constants that may be computed beyond those of the file, at least.
const CONSTANT_ELEMENTS: usize = 1 << 24;

/// Elements of inputs whose origin is followed, over all values; beyond, they are plain values.
const ATOMS: usize = 1 << 23;

/// Elements per row of an input up to which their origin is followed.
const ATOMS_OF_INPUT: usize = 1 << 16;

/// An input of the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Name.
    pub name: String,
    /// Element type.
    pub elem: Elem,
    /// Shape per row.
    pub shape: Vec<usize>,
}

impl Input {
    /// Elements per row.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The graph under way.
#[derive(Debug)]
pub struct Lower {
    /// Steps so far.
    pub nodes: Vec<ir::Node>,
    /// Inputs of the graph.
    pub inputs: Vec<Input>,
    /// The batch size that the inputs declare, where they declare a number.
    pub fixed_batch: Option<usize>,
    /// The version of ai.onnx.
    pub opset: i64,
    /// Nodes that were computed at import.
    pub folded: usize,
    /// Nodes by op.
    pub ops: HashMap<String, usize>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Data files.
    pub external: External,
    functions: HashMap<(String, String, String), Rc<proto::Function>>,
    /// Name of the value under way, for labels.
    label: Rc<str>,
    visited: usize,
    elements: usize,
    constants_left: usize,
    atoms_left: usize,
    lifted: Vec<(Const, ir::IrId)>,
}

impl Lower {
    /// A graph with these inputs; `elements` is what the file's own constants hold.
    pub fn new(
        inputs: Vec<Input>,
        fixed_batch: Option<usize>,
        functions: Vec<proto::Function>,
        elements: usize,
        external: External,
    ) -> Lower {
        let key = |f: &proto::Function| (f.domain.clone(), f.name.clone(), f.overload.clone());
        Lower {
            nodes: Vec::new(),
            inputs,
            fixed_batch,
            opset: 13,
            folded: 0,
            ops: HashMap::new(),
            notes: Vec::new(),
            external,
            functions: functions.into_iter().map(|function| (key(&function), Rc::new(function))).collect(),
            label: "".into(),
            visited: 0,
            elements: 0,
            constants_left: CONSTANT_ELEMENTS.saturating_add(elements.saturating_mul(4)),
            atoms_left: ATOMS,
            lifted: Vec::new(),
        }
    }

    /// What follows is made for the value `name`.
    pub fn start(&mut self, name: &str) {
        self.label = name.into();
    }

    /// The value of input `index`.
    pub fn input(&mut self, index: usize) -> Checked<Value> {
        let Input { elem, shape, name } = self.inputs[index].clone();
        self.label = name.as_str().into();
        let elements = self.inputs[index].len();
        let atoms: Vec<Atom> = (0..elements).map(|column| Atom { input: index as u32, column: column as u32, offset: 0 }).collect();
        let repr = Repr::Atoms { atoms: Rc::new(atoms), integer: !elem.is_float() };
        let mut row = Row { batch: Some(Batch::at(0)), shape, elem, repr };
        if elements > ATOMS_OF_INPUT {
            row.repr = Repr::Ir(self.ir(&row)?);
        }
        Ok(Value::Row(row))
    }

    /// Takes from the budget of computed constants.
    fn spend(&mut self, elements: usize) -> Checked<()> {
        self.constants_left = self.constants_left.checked_sub(elements).ok_or_else(|| {
            problem(
                "constants computed in the graph grow beyond 4 times those of the file",
                "Fold constants before the import (onnxsim, or optimize=True of the exporter)",
            )
        })?;
        Ok(())
    }

    /// Counts a visited node: functions may call functions.
    fn visit(&mut self) -> Checked<()> {
        self.visited += 1;
        if self.visited > 4 * NODES_MAX {
            return Err(problem(format!("more than {} nodes after inlining functions", 4 * NODES_MAX), "Export a smaller graph"));
        }
        Ok(())
    }

    /// A row value of the graph under way.
    fn row_of(batch: Option<Batch>, elem: Elem, shape: Vec<usize>, id: ir::IrId) -> Value {
        Value::Row(Row { batch, shape, elem, repr: Repr::Ir(id) })
    }

    /// A constant made here.
    fn made(&self, elem: Elem, shape: Vec<usize>, values: Vec<f64>) -> Value {
        Value::Const(Const::numbers(&self.label, elem, shape, values))
    }

    /// Integers made here.
    fn made_integers(&self, values: Nd<i64>) -> Value {
        Value::Const(Const::integers(&self.label, Elem::I64, values))
    }
}
