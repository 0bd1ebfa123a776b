//! Running a graph: nodes in order, functions inlined, conditions that are known decided.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::super::constant::Const;
use super::super::error::{Problem, problem};
use super::super::node::Node;
use super::super::proto;
use super::super::tensor::constant;
use super::super::value::Value;
use super::Lower;

/// Calls within calls.
pub const DEPTH_MAX: usize = 32;

/// A node that cannot be imported.
#[derive(Clone, Debug)]
pub struct NodeFault {
    /// Its name, or its first output.
    pub node: String,
    /// Its op.
    pub op: String,
    /// What is wrong.
    pub problem: Problem,
}

/// The values of a graph or a function's body, by name.
#[derive(Debug, Default)]
pub struct Scope<'p> {
    values: HashMap<String, Value>,
    outer: Option<&'p Scope<'p>>,
}

impl<'p> Scope<'p> {
    /// The value of that name, here or around.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name).or_else(|| self.outer?.get(name))
    }

    /// Gives a value its name.
    pub fn set(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_owned(), value);
    }
}

/// What the nodes of a scope have in common.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// Attributes of the call.
    pub caller: &'a HashMap<String, proto::Attribute>,
    /// Calls around it.
    pub depth: usize,
}

fn is_default(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// Which of `nodes` the `wanted` values need.
pub fn needed<'a>(nodes: &'a [proto::Node], wanted: impl Iterator<Item = &'a str>) -> Vec<bool> {
    let mut names: HashSet<&str> = wanted.collect();
    let mut needed = vec![false; nodes.len()];
    for (i, node) in nodes.iter().enumerate().rev() {
        if node.output.iter().any(|output| !output.is_empty() && names.contains(output.as_str())) {
            needed[i] = true;
            reads(node, &mut names);
        }
    }
    needed
}

/// The names that a node reads, its subgraphs' included.
fn reads<'a>(node: &'a proto::Node, names: &mut HashSet<&'a str>) {
    names.extend(node.input.iter().map(String::as_str));
    for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
        for node in &graph.node {
            reads(node, names);
        }
        names.extend(graph.output.iter().map(|output| output.name.as_str()));
    }
}

impl Lower {
    /// Runs those of `nodes` that `wanted` needs. Gives how many were not needed.
    pub fn run(&mut self, nodes: &[proto::Node], wanted: &[&str], scope: &mut Scope<'_>, frame: Frame<'_>) -> Result<usize, NodeFault> {
        let needed = needed(nodes, wanted.iter().copied());
        for (proto, _) in nodes.iter().zip(&needed).filter(|(_, needed)| **needed) {
            let op = if is_default(&proto.domain) { proto.op_type.clone() } else { format!("{}.{}", proto.domain, proto.op_type) };
            let name = if proto.name.is_empty() { proto.output.first().cloned().unwrap_or_default() } else { proto.name.clone() };
            let fault = |problem| NodeFault { node: name.clone(), op: op.clone(), problem };
            self.visit().map_err(fault)?;
            if frame.depth == 0 {
                *self.ops.entry(op.clone()).or_default() += 1;
            }
            self.label = proto.output.first().map_or("", String::as_str).into();
            let values = match self.node(proto, scope, frame) {
                Ok(values) => values,
                Err(Inner::Here(problem)) => return Err(fault(problem)),
                // Of a function's body: the place there is named, and the call.
                Err(Inner::Inside(inner)) => return Err(NodeFault { node: format!("{name}/{}", inner.node), ..inner }),
            };
            for (at, output) in proto.output.iter().enumerate().filter(|(_, output)| !output.is_empty()) {
                let value = values.get(at).cloned().unwrap_or(Value::Absent);
                scope.set(output, value);
            }
        }
        Ok(needed.iter().filter(|needed| !**needed).count())
    }

    fn node(&mut self, proto: &proto::Node, scope: &Scope<'_>, frame: Frame<'_>) -> Result<Vec<Value>, Inner> {
        let mut inputs = Vec::with_capacity(proto.input.len());
        for name in &proto.input {
            inputs.push(match name.as_str() {
                "" => Value::Absent,
                name => scope.get(name).cloned().ok_or_else(|| {
                    problem(format!("it reads {name:?}, which no earlier node makes"), "The graph is not in order: export the model again")
                })?,
            });
        }
        let key = (proto.domain.clone(), proto.op_type.clone(), proto.overload.clone());
        if let Some(function) = self.functions.get(&key).cloned() {
            return self.call(&function, proto, inputs, frame);
        }
        let node = Node { proto, caller: frame.caller };
        if is_default(&proto.domain) && proto.op_type == "If" {
            return self.decide(&node, &inputs, scope, frame);
        }
        if is_default(&proto.domain) && proto.op_type == "Loop" {
            return self.bags(&node, &inputs, scope, frame);
        }
        if inputs.iter().any(|value| matches!(value, Value::Held(_))) {
            return Ok(vec![self.held(&node, &inputs)?]);
        }
        Ok(match proto.domain.as_str() {
            "" | "ai.onnx" => self.standard(&node, &inputs)?,
            "ai.onnx.ml" => self.machine_learning(&node, &inputs)?,
            other => {
                let remedy = "Only ai.onnx, ai.onnx.ml and functions of the model's own can be imported: export without \
                              runtime-specific optimisations";
                return Err(problem(format!("the domain {other:?}"), remedy).into());
            }
        })
    }

    /// A function of the model's own: its body, with the call's inputs and attributes.
    fn call(
        &mut self,
        function: &Rc<proto::Function>,
        proto: &proto::Node,
        inputs: Vec<Value>,
        frame: Frame<'_>,
    ) -> Result<Vec<Value>, Inner> {
        if frame.depth >= DEPTH_MAX {
            return Err(problem("functions that call functions without end", "Export the model again").into());
        }
        let mut attributes: HashMap<String, proto::Attribute> =
            function.attribute_proto.iter().map(|attribute| (attribute.name.clone(), attribute.clone())).collect();
        for attribute in &proto.attribute {
            let given = match attribute.ref_attr_name.as_str() {
                "" => Some(attribute.clone()),
                name => frame.caller.get(name).cloned(),
            };
            if let Some(given) = given {
                attributes.insert(attribute.name.clone(), given);
            }
        }
        let mut scope = Scope::default();
        let mut inputs = inputs.into_iter();
        for name in &function.input {
            scope.set(name, inputs.next().unwrap_or(Value::Absent));
        }
        let wanted: Vec<&str> = function.output.iter().map(String::as_str).collect();
        let frame = Frame { caller: &attributes, depth: frame.depth + 1 };
        self.run(&function.node, &wanted, &mut scope, frame).map_err(Inner::Inside)?;
        Ok(wanted.iter().map(|name| scope.get(name).cloned().unwrap_or(Value::Absent)).collect())
    }

    /// If, whose condition is known: one branch is run in place.
    fn decide(&mut self, node: &Node<'_>, inputs: &[Value], scope: &Scope<'_>, frame: Frame<'_>) -> Result<Vec<Value>, Inner> {
        let Some(condition) = inputs.first().and_then(Value::constant).and_then(Const::number) else {
            return Err(problem("a condition that depends on the inputs", "Compute both branches and choose with Where").into());
        };
        if frame.depth >= DEPTH_MAX {
            return Err(problem("branches within branches without end", "Export the model again").into());
        }
        let branch = if condition != 0.0 { "then_branch" } else { "else_branch" };
        let Some(graph) = node.attribute(branch).and_then(|attribute| attribute.g.as_ref()) else {
            return Err(problem(format!("no {branch}"), "The file is damaged: export the model again").into());
        };
        let mut inner = Scope { values: HashMap::new(), outer: Some(scope) };
        for tensor in &graph.initializer {
            let value = constant(tensor.clone(), &tensor.name, &mut self.external)?;
            inner.set(&tensor.name, Value::Const(value));
        }
        let wanted: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
        self.run(&graph.node, &wanted, &mut inner, Frame { depth: frame.depth + 1, ..frame }).map_err(Inner::Inside)?;
        Ok(wanted.iter().map(|name| inner.get(name).cloned().unwrap_or(Value::Absent)).collect())
    }
}

/// A problem here, or of a node of a body that was run here.
pub enum Inner {
    /// Of the node itself.
    Here(Problem),
    /// Of a node in its body.
    Inside(NodeFault),
}

impl From<Problem> for Inner {
    fn from(problem: Problem) -> Inner {
        Inner::Here(problem)
    }
}
