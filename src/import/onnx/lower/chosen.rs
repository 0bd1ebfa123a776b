//! The ids of a bag that are not padding, as nn.EmbeddingBag with padding_idx is exported: an inner loop collects their places.

use crate::model::{DType, Pool};

use super::super::constant::Elem;
use super::super::error::{Checked, Problem};
use super::super::ir::{Arg, IrId, Kind};
use super::super::node::Node;
use super::super::proto;
use super::super::value::{Repr, Row, Value};
use super::Lower;
use super::affine::{Affine, affine};
use super::bags::{Body, Local, bag_of, foreign};
use super::ops::ints_or;

/// Places of ids that are not padding.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The ids of the bag, [k].
    ids: Row,
    /// Added to ids below 0.
    rows: i64,
    /// The id that is padding.
    padding: i64,
}

fn unknown() -> Problem {
    foreign("an inner loop that does not collect the ids that are not padding")
}

/// Whether a node is of the default domain, with attributes of its own.
fn is_standard(node: &proto::Node) -> bool {
    matches!(node.domain.as_str(), "" | "ai.onnx") && node.attribute.iter().all(|attribute| attribute.ref_attr_name.is_empty())
}

/// A graph of the inner loop, within those around it.
struct Part<'a> {
    graph: &'a proto::Graph,
    outer: Option<&'a Part<'a>>,
}

impl<'a> Part<'a> {
    /// The node that makes a value, and the name of what it was before Identity.
    fn maker(&self, name: &'a str) -> (Option<&'a proto::Node>, &'a str) {
        let mut name = name;
        // A damaged graph may go round in circles.
        for _ in 0..=self.graph.node.len() {
            match self.graph.node.iter().find(|node| node.output.iter().any(|output| output == name)) {
                Some(node) if is_standard(node) && node.op_type == "Identity" && node.input.len() == 1 => name = &node.input[0],
                Some(node) => return (Some(node), name),
                None => return self.outer.map_or((None, name), |outer| outer.maker(name)),
            }
        }
        (self.graph.node.first(), name)
    }

    /// Two inputs of the node that makes a value, if it is that op.
    fn two(&self, name: &'a str, op: &str) -> Option<[&'a str; 2]> {
        match &self.node(name, op)?.input[..] {
            [a, b] => Some([a, b]),
            _ => None,
        }
    }

    fn node(&self, name: &'a str, op: &str) -> Option<&'a proto::Node> {
        self.maker(name).0.filter(|node| is_standard(node) && node.op_type == op && node.output.len() == 1)
    }

    /// Whether two names are one value.
    fn is(&self, name: &'a str, other: &'a str) -> bool {
        self.maker(name).1 == self.maker(other).1
    }

    /// The value from outside the inner loop; exporters wrap numbers in CastLike.
    fn outside(&self, name: &'a str, body: &Body<'_>) -> Option<Local> {
        let (mut maker, mut name) = self.maker(name);
        if let Some(node) = maker.filter(|node| is_standard(node) && node.op_type == "CastLike") {
            (maker, name) = self.maker(node.input.first()?);
        }
        if maker.is_some() || self.is_own(name) { None } else { body.get(name) }
    }

    fn is_own(&self, name: &str) -> bool {
        self.graph.input.iter().any(|input| input.name == name) || self.outer.is_some_and(|outer| outer.is_own(name))
    }

    /// A constant integer from outside.
    fn number(&self, name: &'a str, body: &Body<'_>) -> Option<i64> {
        match self.outside(name, body)? {
            Local::Value(value @ Value::Const(_)) => affine(&Local::Value(value)).and_then(|(value, _)| value.size.known()),
            _ => None,
        }
    }

    /// A value plus a constant.
    fn plus(&self, name: &'a str, value: &'a str, body: &Body<'_>) -> Option<i64> {
        let [a, b] = self.two(name, "Add")?;
        if self.is(a, value) { self.number(b, body) } else { self.number(a, body).filter(|_| self.is(b, value)) }
    }

    /// The branch of an If, which gives one value and holds no constants.
    fn branch<'b>(&'b self, node: &'b proto::Node, name: &str) -> Option<(Part<'b>, &'b str)>
    where
        'a: 'b,
    {
        let graph = node.attribute.iter().find(|attribute| attribute.name == name)?.g.as_ref()?;
        let [output] = &graph.output[..] else { return None };
        graph.initializer.is_empty().then_some((Part { graph, outer: Some(self) }, output.name.as_str()))
    }
}

/// What the inner loop collects.
struct Collected {
    /// Which output of the loop the list is.
    output: usize,
    view: String,
    width: i64,
    rows: i64,
    padding: i64,
}

/// The inner loop of the exporter: for each place j of the bag
///
/// ```text
///   index = ids[j];  index += rows, if index < 0;  list += [j], if index != padding
/// ```
fn matched(graph: &proto::Graph, node: &proto::Node, body: &Body<'_>) -> Option<Collected> {
    let ([_, _, list, place], [again, list_out, place_out]) = (&graph.input[..], &graph.output[..]) else { return None };
    let [trips, first, list_in, start] = &node.input[..] else { return None };
    // The exporter writes the two in any order.
    let output = match body.get(list_in)? {
        Local::Value(Value::Const(_)) => 0,
        _ => 1,
    };
    let (list, place, list_in, start, list_out, place_out) = match output {
        0 => (list, place, list_in, start, list_out, place_out),
        _ => (place, list, start, list_in, place_out, list_out),
    };
    let (list, place) = (list.name.as_str(), place.name.as_str());
    if !trips.is_empty() || !graph.initializer.is_empty() || !is_standard(node) {
        return None;
    }
    match (body.get(first)?, body.get(list_in)?) {
        (Local::Value(Value::Const(first)), Local::Value(Value::Const(empty)))
            if first.number().is_some_and(|first| first != 0.0) && empty.shape == [0] && !empty.elem.is_float() => {}
        _ => return None,
    }
    let part = Part { graph, outer: None };
    // From the first place of the bag to its last.
    if part.plus(&place_out.name, place, body)? != 1 {
        return None;
    }
    let [next, end] = part.two(&again.name, "Less")?;
    if part.plus(next, place, body)? != 1 {
        return None;
    }
    let ((start, _), (end, _)) = (affine(&body.get(start)?)?, affine(&part.outside(end, body)?)?);
    let width = end.plus(start, -1).filter(|width| width.bag == 0)?.size.known().filter(|width| *width > 0)?;
    if !body.is_bag(start, end, width) {
        return None;
    }
    // The list grows by the place, or stays.
    let grows = part.node(&list_out.name, "If")?;
    let ((then, grown), (other, kept)) = (part.branch(grows, "then_branch")?, part.branch(grows, "else_branch")?);
    let [before, added] = then.two(grown, "Concat")?;
    let axis = then.node(grown, "Concat")?.attribute.iter().find(|attribute| attribute.name == "axis")?.i;
    let [added, shape] = then.two(added, "Reshape")?;
    let is_list = matches!(then.outside(shape, body)?, Local::Value(Value::Const(shape)) if shape.as_integers() == Some(&[-1]));
    if axis != 0 || !is_list || !then.is(before, list) || !then.is(added, place) || !other.is(kept, list) {
        return None;
    }
    // Where the id is not padding.
    let not = part.node(grows.input.first()?, "Not")?;
    let [id, padding] = part.two(not.input.first()?, "Equal")?;
    let padding = part.number(padding, body)?;
    let wrapped = part.node(id, "If")?;
    let ((then, moved), (other, plain)) = (part.branch(wrapped, "then_branch")?, part.branch(wrapped, "else_branch")?);
    let [index, zero] = part.two(wrapped.input.first()?, "Less")?;
    let rows = then.plus(moved, index, body)?;
    let gather = part.node(index, "Gather")?;
    let [view, at] = part.two(index, "Gather")?;
    let is_first_axis = gather.attribute.iter().all(|attribute| attribute.name != "axis" || attribute.i == 0);
    if part.number(zero, body)? != 0 || !other.is(plain, index) || !is_first_axis || !part.is(at, place) {
        return None;
    }
    let (maker, view) = part.maker(view);
    (maker.is_none() && !part.is_own(view)).then(|| Collected { output, view: view.to_owned(), width, rows, padding })
}

impl Lower {
    /// The inner loop: from the first place of a bag to its last, places whose id is not padding are appended to a list.
    /// Gives which of its outputs that is.
    pub fn choosing(&mut self, node: &proto::Node, body: &Body<'_>) -> Checked<(usize, Chosen)> {
        let graph = node.attribute.iter().find(|attribute| attribute.name == "body").and_then(|attribute| attribute.g.as_ref());
        let Collected { output, view, width, rows, padding } = graph.and_then(|graph| matched(graph, node, body)).ok_or_else(unknown)?;
        let Some(Local::Value(whole)) = body.get(&view) else { return Err(unknown()) };
        match bag_of(self, &whole)? {
            Some((own, ids)) if own == width && ids.shape.len() == 1 && matches!(ids.elem, Elem::I64 | Elem::I32) => {
                Ok((output, Chosen { ids, rows, padding }))
            }
            _ => Err(unknown()),
        }
    }

    /// Ops that read places of ids.
    pub fn of_chosen(&mut self, node: &Node<'_>, inputs: &[Local]) -> Checked<Option<Local>> {
        let zero = |local: &Local| affine(local).is_some_and(|(value, _)| value == Affine::default());
        Ok(Some(match (node.proto.op_type.as_str(), inputs) {
            ("Size", [Local::Chosen(chosen)]) => Local::ChosenCount(chosen.clone()),
            ("CastLike", [constant @ Local::Value(Value::Const(_)), Local::ChosenCount(_)]) if affine(constant).is_some() => {
                constant.clone()
            }
            ("Equal", [Local::ChosenCount(chosen), other]) if zero(other) => Local::NoneChosen(chosen.clone()),
            ("Gather", [Local::Value(whole), Local::Chosen(chosen)]) if node.int("axis", 0) == 0 => match bag_of(self, whole)? {
                Some((width, row)) if width == chosen.ids.shape[0] as i64 && row.shape.len() == 2 && row.elem.is_float() => {
                    Local::ChosenRows(chosen.clone(), row)
                }
                _ => return Err(foreign("values that are not those of the bag's ids")),
            },
            ("ReduceSum" | "ReduceMean" | "ReduceMax", [Local::ChosenRows(chosen, row), rest @ ..]) => {
                let values: Option<Vec<Value>> =
                    rest.iter().map(|local| if let Local::Value(value) = local { Some(value.clone()) } else { None }).collect();
                let axes = ints_or(node, "axes", &values.unwrap_or_default(), 0)?;
                if axes.as_deref() != Some(&[0]) || node.int("keepdims", 1) != 1 {
                    return Err(foreign("bags that are not pooled over their ids"));
                }
                Local::Pooled(chosen.clone(), self.pooled(&node.proto.op_type, chosen, row)?)
            }
            (_, inputs) => {
                let touches = |local: &Local| {
                    matches!(
                        local,
                        Local::Chosen(_) | Local::ChosenCount(_) | Local::NoneChosen(_) | Local::ChosenRows(..) | Local::Pooled(..)
                    )
                };
                if inputs.iter().any(touches) {
                    return Err(foreign(format!("{} of the ids that are not padding", node.proto.op_type)));
                }
                return Ok(None);
            }
        }))
    }

    /// 1 for ids that are not padding, [k, 1].
    fn mask(&mut self, chosen: &Chosen) -> Checked<IrId> {
        let index = self.ir(&chosen.ids)?;
        let index = self.cast(index, DType::I64)?;
        let negative = self.compare("lt", Arg::Value(index), Arg::Number(0.0))?;
        let from_end = self.with("add", index, chosen.rows as f64)?;
        let index = self.select(negative, Arg::Value(from_end), Arg::Value(index))?;
        let mask = self.compare("ne", Arg::Value(index), Arg::Number(chosen.padding as f64))?;
        self.reshaped(mask, &[chosen.ids.shape[0], 1])
    }

    /// How many ids are not padding, [1, 1].
    fn chosen_count(&mut self, chosen: &Chosen) -> Checked<IrId> {
        let mask = self.mask(chosen)?;
        let mask = self.cast(mask, DType::F32)?;
        self.reduce("reduce_sum", mask, &[0], true)
    }

    /// The pooled values of a bag; zeros if all its ids are padding.
    fn pooled(&mut self, op: &str, chosen: &Chosen, row: &Row) -> Checked<Row> {
        let x = self.ir(row)?;
        let made = |shape, id| Row { batch: None, shape, elem: row.elem, repr: Repr::Ir(id) };
        let shape = vec![1, row.shape[1]];
        if op == "ReduceSum" && self.is_zero_at_padding(x, chosen) {
            let id = self.reduce("reduce_sum", x, &[0], true)?;
            return Ok(made(shape, id));
        }
        let mask = self.mask(chosen)?;
        if op == "ReduceMax" {
            let x = self.select(mask, Arg::Value(x), Arg::Number(f64::NEG_INFINITY))?;
            let most = self.reduce("reduce_max", x, &[0], true)?;
            let count = self.chosen_count(chosen)?;
            let some = self.compare("gt", Arg::Value(count), Arg::Number(0.0))?;
            let id = self.select(some, Arg::Value(most), Arg::Number(0.0))?;
            return Ok(made(shape, id));
        }
        let x = self.select(mask, Arg::Value(x), Arg::Number(0.0))?;
        let mut id = self.reduce("reduce_sum", x, &[0], true)?;
        if op == "ReduceMean" {
            let count = self.chosen_count(chosen)?;
            let count = self.with("max", count, 1.0)?;
            id = self.both("div", id, count)?;
        }
        Ok(made(shape, id))
    }

    /// Whether `x` are the rows of a table by these ids, and that of the padding is zeros: then a sum need not leave it out.
    fn is_zero_at_padding(&self, x: IrId, chosen: &Chosen) -> bool {
        let Kind::Embed { table, atoms, pool: Pool::None, .. } = &self.nodes[x.0].kind else { return false };
        let Repr::Atoms { atoms: ids, integer: true } = &chosen.ids.repr else { return false };
        let ([rows, dim], Ok(at)) = (&table.shape[..], usize::try_from(chosen.padding)) else { return false };
        atoms == ids && at < *rows && chosen.rows == *rows as i64 && (at * dim..(at + 1) * dim).all(|i| table.at(i) == 0.0)
    }
}
