//! Loop, where it is nn.EmbeddingBag as torch's exporters write it: one iteration per row, each of which takes a bag of k neighbouring
//! elements of a value [k · N, ..] and pools them.
//!
//! The body is run once, for an iteration i that is not known: integers are `a · i + b · N + c`, comparisons are decided where they come out
//! the same for every i and N, and the slice from k · i to k · (i + 1) is the bag of row i. What reads bags and constants alone computes per
//! row, so that the loop's result has its rows at axis 0. Everything else is refused.

use std::collections::HashMap;

use super::super::constant::Const;
use super::super::error::{Checked, Problem, problem};
use super::super::nd::{Move, Nd};
use super::super::node::Node;
use super::super::proto;
use super::super::tensor::constant;
use super::super::value::{Batch, Held, Row, Size, Value};
use super::Lower;
use super::affine::{Affine, affine, integers};
use super::chosen::Chosen;
use super::control::{DEPTH_MAX, Frame, Inner, NodeFault, Scope, needed};
use super::fold::as_sizes;
use super::ops::known;

/// The number of rows.
const ROWS: Size = Size { rows: 1, fixed: 0 };

/// A loop that is something else.
pub fn foreign(why: impl std::fmt::Display) -> Problem {
    problem(
        format!("a loop that is no nn.EmbeddingBag over the rows as torch exports it: {why}"),
        "Only bags of a fixed number of ids per row can be imported: use the Python exporter (gavel.export), which keeps bags, or export the \
         model with nn.Embedding and a sum over the ids",
    )
}

/// A value of the body.
#[derive(Clone, Debug)]
pub enum Local {
    /// A constant, a value of each bag (a row value without rows), or a value from outside.
    Value(Value),
    /// An integer; as a list of one, or alone.
    Int(Affine, bool),
    /// Whether the number is equal to 0, or below it (`true`).
    Test(Affine, bool),
    /// The sequence before this iteration.
    Sequence,
    /// The sequence with this iteration's value.
    Inserted(Row),
    /// The places of a bag's ids that are not padding.
    Chosen(Chosen),
    /// How many they are.
    ChosenCount(Chosen),
    /// Whether there are none.
    NoneChosen(Chosen),
    /// Elements at these places.
    ChosenRows(Chosen, Row),
    /// These elements pooled; zeros where there are none.
    Pooled(Chosen, Row),
}

/// The values of the body and of the branches in it.
pub struct Body<'a> {
    /// By name.
    pub values: HashMap<String, Local>,
    outer: Option<&'a Body<'a>>,
    scope: &'a Scope<'a>,
    frame: Frame<'a>,
    last: bool,
}

impl Body<'_> {
    /// The value of that name, in the body or around it.
    pub fn get(&self, name: &str) -> Option<Local> {
        if let Some(local) = self.values.get(name) {
            return Some(local.clone());
        }
        match self.outer {
            Some(outer) => outer.get(name),
            None => self.scope.get(name).cloned().map(Local::Value),
        }
    }

    fn inputs(&self, node: &proto::Node) -> Checked<Vec<Local>> {
        let one = |name: &String| match name.as_str() {
            "" => Ok(Local::Value(Value::Absent)),
            name => self.get(name).ok_or_else(|| foreign(format!("it reads {name:?}"))),
        };
        node.input.iter().map(one).collect()
    }

    /// As it is in this iteration.
    pub fn here(&self, value: Affine) -> Option<Affine> {
        value.in_last(self.last)
    }

    /// Whether these are the bounds of bag i of bags of `width` elements.
    pub fn is_bag(&self, start: Affine, end: Affine, width: i64) -> bool {
        let bag = Affine { bag: width, size: Size::fixed(0) };
        let next = Affine { bag: width, size: Size::fixed(width) };
        let same = |a: Affine, b: Affine| self.here(a).is_some_and(|a| Some(a) == self.here(b));
        same(start, bag) && same(end, next)
    }
}

/// A value [k · N, ..] whose k elements per row lie side by side: k, and the value of bag i, [k, ..].
pub fn bag_of(lower: &mut Lower, value: &Value) -> Checked<Option<(i64, Row)>> {
    let Value::Row(row) = value else { return Ok(None) };
    let Some(Batch { at: 0, outer: 1, inner }) = row.batch else { return Ok(None) };
    let mut shape = row.shape.clone();
    if inner == 1 {
        shape.insert(0, 1);
    }
    let moved = lower.move_row(row, &Move::Reshape(shape))?;
    Ok(Some((inner as i64, Row { batch: None, ..moved })))
}

impl Lower {
    /// Loop.
    pub fn bags(&mut self, node: &Node<'_>, inputs: &[Value], scope: &Scope<'_>, frame: Frame<'_>) -> Result<Vec<Value>, Inner> {
        let Some(graph) = node.attribute("body").and_then(|attribute| attribute.g.as_ref()) else {
            return Err(problem("no body", "The file is damaged: export the model again").into());
        };
        let (states, formal) = (inputs.get(2..).unwrap_or_default(), graph.input.get(2..).unwrap_or_default());
        let ([number, condition, ..], true) = (&graph.input[..], states.len() == formal.len() && graph.output.len() > states.len()) else {
            return Err(foreign("its inputs are not those of its body").into());
        };
        let count = Affine { bag: 1, size: Size::fixed(0) };
        let mut values = HashMap::new();
        for tensor in &graph.initializer {
            values.insert(tensor.name.clone(), Local::Value(Value::Const(constant(tensor.clone(), &tensor.name, &mut self.external)?)));
        }
        values.insert(number.name.clone(), Local::Int(count, false));
        for (state, formal) in states.iter().zip(formal) {
            let local = match state {
                Value::Held(Held::Empty) => Local::Sequence,
                Value::Const(zero) if zero.as_integers() == Some(&[0]) && zero.shape.is_empty() => Local::Int(count, false),
                _ => return Err(foreign(format!("{:?} is neither a count from 0 nor an empty sequence", formal.name)).into()),
            };
            values.insert(formal.name.clone(), local);
        }
        // No value stands for the condition: it may not be read.
        let shadowed = condition.name.as_str();
        values.remove(shadowed);
        let mut body = Body { values, outer: None, scope, frame, last: false };
        let wanted: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
        if scope.get(shadowed).is_some() {
            return Err(foreign("its condition has the name of another value").into());
        }
        self.run_body(&graph.node, &wanted, &mut body)?;
        let results: Vec<Local> =
            wanted.iter().map(|name| body.get(name).ok_or_else(|| foreign(format!("no node makes {name:?}")))).collect::<Checked<_>>()?;
        runs_once_per_row(inputs, &results[0])?;
        let mut made = Vec::with_capacity(results.len());
        for (at, result) in results[1..].iter().enumerate() {
            made.push(match (states.get(at), result) {
                (Some(Value::Const(_)), Local::Int(next, false)) if *next == (Affine { bag: 1, size: Size::fixed(1) }) => {
                    Value::sizes(&self.label, Nd::scalar(ROWS))
                }
                (Some(Value::Held(Held::Empty)), Local::Inserted(row)) => Value::Held(Held::Bags(row.clone())),
                (None, Local::Value(Value::Row(row))) if row.batch.is_none() => {
                    Value::Row(Row { batch: Some(Batch::at(0)), ..row.clone() })
                }
                _ => return Err(foreign(format!("its output {at} is neither a count, nor a sequence, nor one value per bag")).into()),
            });
        }
        Ok(made)
    }

    /// Those of a body's nodes that `wanted` needs.
    fn run_body(&mut self, nodes: &[proto::Node], wanted: &[&str], body: &mut Body<'_>) -> Result<(), Inner> {
        let needed = needed(nodes, wanted.iter().copied());
        for (proto, _) in nodes.iter().zip(needed).filter(|(_, needed)| *needed) {
            let name = if proto.name.is_empty() { proto.output.first().cloned().unwrap_or_default() } else { proto.name.clone() };
            let fault = |problem| Inner::Inside(NodeFault { node: name.clone(), op: proto.op_type.clone(), problem });
            self.visit().map_err(fault)?;
            let [output] = &proto.output[..] else {
                // Only the loop over a bag's ids has two.
                if proto.op_type != "Loop" {
                    return Err(fault(foreign("several outputs")));
                }
                let (at, chosen) = self.choosing(proto, body).map_err(fault)?;
                if let Some(output) = proto.output.get(at) {
                    body.values.insert(output.clone(), Local::Chosen(chosen));
                }
                continue;
            };
            let local = match self.body_node(proto, body) {
                Ok(local) => local,
                Err(Inner::Here(problem)) => return Err(fault(problem)),
                Err(Inner::Inside(inner)) => return Err(Inner::Inside(NodeFault { node: format!("{name}/{}", inner.node), ..inner })),
            };
            body.values.insert(output.clone(), local);
        }
        Ok(())
    }

    fn body_node(&mut self, proto: &proto::Node, body: &Body<'_>) -> Result<Local, Inner> {
        if !matches!(proto.domain.as_str(), "" | "ai.onnx") {
            return Err(foreign(format!("an op of the domain {:?}", proto.domain)).into());
        }
        let node = Node { proto, caller: body.frame.caller };
        let inputs = body.inputs(proto)?;
        if proto.op_type == "If" {
            return self.body_if(&node, &inputs, body);
        }
        if let Some(integer) = integers(&node, &inputs, body)? {
            return Ok(integer);
        }
        if let Some(local) = self.of_chosen(&node, &inputs)? {
            return Ok(local);
        }
        if matches!(proto.op_type.as_str(), "Add" | "Sub" | "Equal" | "Less" | "Greater" | "Not" | "Reshape" | "Squeeze")
            && inputs.iter().all(|local| matches!(local, Local::Value(Value::Const(_))))
        {
            return self.own_op(&node, &inputs);
        }
        match (proto.op_type.as_str(), &inputs[..]) {
            ("SequenceInsert", [Local::Sequence, Local::Value(Value::Row(row))]) if row.batch.is_none() => Ok(Local::Inserted(row.clone())),
            ("Slice", [Local::Value(whole), start, end, rest @ ..]) if !matches!(whole, Value::Const(_)) => {
                let ones = |at: usize, one: i64| match rest.get(at) {
                    None | Some(Local::Value(Value::Absent)) => true,
                    Some(Local::Value(value)) => known(value, "axes").is_ok_and(|values| values == [one]),
                    Some(_) => false,
                };
                let bag = bag_of(self, whole)?.zip(affine(start).zip(affine(end)));
                match bag {
                    Some(((width, row), ((start, true), (end, true)))) if ones(0, 0) && ones(1, 1) && body.is_bag(start, end, width) => {
                        Ok(Local::Value(Value::Row(row)))
                    }
                    _ => Err(foreign("a slice that is not the bag of one row").into()),
                }
            }
            ("Shape" | "Size", [Local::Value(value)]) if !matches!(value, Value::Held(Held::Empty | Held::Bags(_))) => {
                let values = self.standard(&node, std::slice::from_ref(value))?;
                values.into_iter().next().map(Local::Value).ok_or_else(|| foreign("no value").into())
            }
            (
                "Identity" | "Cast" | "CastLike" | "Constant" | "Gather" | "Unsqueeze" | "Mul" | "Div" | "ReduceSum" | "ReduceMean"
                | "ReduceMax",
                _,
            ) => self.own_op(&node, &inputs),
            (other, _) => Err(foreign(format!("{other} in its body")).into()),
        }
    }

    /// An op of the bag and constants alone: the same in the steps of a row.
    fn own_op(&mut self, node: &Node<'_>, inputs: &[Local]) -> Result<Local, Inner> {
        let own = |local: &Local| match local {
            Local::Value(value @ (Value::Absent | Value::Const(_))) => Some(value.clone()),
            Local::Value(Value::Row(row)) if row.batch.is_none() => Some(Value::Row(row.clone())),
            _ => None,
        };
        let own: Option<Vec<Value>> = inputs.iter().map(own).collect();
        let own = own.ok_or_else(|| foreign("an op of values that are not those of one bag"))?;
        let value = self.standard(node, &own)?.into_iter().next();
        value.map(Local::Value).ok_or_else(|| foreign("no value").into())
    }

    /// If: decided, or one that treats the last bag in its own way, to the same end.
    fn body_if(&mut self, node: &Node<'_>, inputs: &[Local], body: &Body<'_>) -> Result<Local, Inner> {
        let last = Affine { bag: 1, size: Size { rows: -1, fixed: 1 } };
        match inputs {
            [Local::Value(Value::Const(condition))] => {
                let condition = condition.number().ok_or_else(|| foreign("a condition of several values"))?;
                self.branch(node, if condition != 0.0 { "then_branch" } else { "else_branch" }, body, body.last)
            }
            [Local::NoneChosen(chosen)] => {
                let Local::Value(Value::Const(none)) = self.branch(node, "then_branch", body, body.last)? else {
                    return Err(foreign("an empty bag that is not a constant").into());
                };
                match self.branch(node, "else_branch", body, body.last)? {
                    Local::Pooled(other, row)
                        if other == *chosen && none.shape == row.shape && (0..none.len()).all(|i| none.at(i) == 0.0) =>
                    {
                        Ok(Local::Value(Value::Row(row)))
                    }
                    _ => Err(foreign("an empty bag that is not zeros, or a bag that is not pooled").into()),
                }
            }
            [Local::Test(difference, false)] if *difference == last || difference.plus(last, 1) == Some(Affine::size(Size::fixed(0))) => {
                let special = self.branch(node, "then_branch", body, true)?;
                let general = self.branch(node, "else_branch", body, body.last)?;
                match (special, general) {
                    (Local::Value(Value::Row(a)), Local::Value(Value::Row(b))) if a.batch.is_none() && b.batch.is_none() => {
                        let (x, y) = (self.ir(&a)?, self.ir(&b)?);
                        if a.shape == b.shape && a.elem == b.elem && (self.same(x, y, 0) || self.same_mean(x, y)) {
                            return Ok(Local::Value(Value::Row(b)));
                        }
                        Err(foreign("its last bag is computed in another way").into())
                    }
                    _ => Err(foreign("a condition on the last bag").into()),
                }
            }
            _ => Err(foreign("a condition that is not the same for all bags").into()),
        }
    }

    fn branch(&mut self, node: &Node<'_>, name: &str, body: &Body<'_>, last: bool) -> Result<Local, Inner> {
        let Some(graph) = node.attribute(name).and_then(|attribute| attribute.g.as_ref()) else {
            return Err(problem(format!("no {name}"), "The file is damaged: export the model again").into());
        };
        let frame = Frame { depth: body.frame.depth + 1, ..body.frame };
        let [output] = &graph.output[..] else { return Err(foreign("a branch of several values").into()) };
        if frame.depth >= DEPTH_MAX {
            return Err(problem("branches within branches without end", "Export the model again").into());
        }
        let mut values = HashMap::new();
        for tensor in &graph.initializer {
            values.insert(tensor.name.clone(), Local::Value(Value::Const(constant(tensor.clone(), &tensor.name, &mut self.external)?)));
        }
        let mut inner = Body { values, outer: Some(body), scope: body.scope, frame, last };
        self.run_body(&graph.node, &[output.name.as_str()], &mut inner)?;
        inner.get(&output.name).ok_or_else(|| foreign(format!("no node makes {:?}", output.name)).into())
    }
}

/// Checks that a loop with these inputs, and this condition at the end of an iteration, has as many iterations as there are rows.
fn runs_once_per_row(inputs: &[Value], condition: &Local) -> Checked<()> {
    let truth = |value: Option<&Value>| match value {
        None | Some(Value::Absent) => true,
        Some(value) => value.constant().and_then(Const::number).is_some_and(|truth| truth != 0.0),
    };
    let trips = match inputs.first() {
        None | Some(Value::Absent) => None,
        Some(value) => Some(as_sizes(value).filter(|sizes| sizes.data == [ROWS])),
    };
    // i + 1 < N, or always.
    let next = Affine { bag: 1, size: Size { rows: -1, fixed: 1 } };
    let good = match (trips, condition) {
        (None, Local::Test(difference, true)) => *difference == next,
        (Some(Some(_)), Local::Value(Value::Const(again))) => again.number().is_some_and(|again| again != 0.0),
        _ => false,
    };
    if good && truth(inputs.get(1)) { Ok(()) } else { Err(foreign("it does not run once for each row of the request")) }
}
