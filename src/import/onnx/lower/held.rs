//! Values that speak of all rows at once: offsets of bags as exporters compute them, and sequences of bags. Few ops may read them.

use super::super::constant::{Const, Elem};
use super::super::error::{Checked, Problem, problem};
use super::super::nd::{Move, Nd, count};
use super::super::node::Node;
use super::super::value::{Batch, Held, Row, Size, Steps, Value};
use super::Lower;
use super::fold::as_sizes;
use super::numbered::row_numbers;
use super::ops::{axis_of, input, ints_or, known, optional};
use super::reshape::show;

const INCONSISTENT: &str = "Export the model again: the graph is not consistent";

/// At least 0 for every number of rows from 1.
pub fn never_negative(size: Size) -> bool {
    size.rows >= 0 && size.rows.checked_add(size.fixed).is_some_and(|least| least >= 0)
}

/// `size` times `k`, plus `more`.
fn times(size: Size, k: i64, more: i64) -> Option<Size> {
    Some(Size { rows: size.rows.checked_mul(k)?, fixed: size.fixed.checked_mul(k)?.checked_add(more)? })
}

/// `size` divided by `k`, if that leaves nothing over.
fn divided(size: Size, k: i64) -> Option<Size> {
    (k > 0 && size.rows % k == 0 && size.fixed % k == 0).then(|| Size { rows: size.rows / k, fixed: size.fixed / k })
}

/// The complaint about a use of the numbers of the rows.
pub fn range_used() -> Problem {
    problem(
        "a range over the number of rows",
        "Only nn.EmbeddingBag may use it, as offsets, and x[arange(batch), i], which takes an element of each row. Take other elements with \
         torch.gather (GatherElements) along another axis",
    )
}

/// The complaint about an op that may not read such a value.
fn refused(steps: &Steps) -> Problem {
    if steps.step == 0 {
        let remedy = "Expand to the batch first, then merge axes";
        return problem(format!("a constant broadcast to {}", show(&steps.dims())), remedy);
    }
    range_used()
}

impl Lower {
    /// Range whose bounds depend on the number of rows.
    pub fn range_over_rows(&self, inputs: &[Value]) -> Checked<Value> {
        let size = |at: usize| input(inputs, at).ok().and_then(as_sizes).filter(|sizes| sizes.data.len() == 1).map(|sizes| sizes.data[0]);
        let steps = || {
            let (start, end, step) = (size(0)?.known()?, size(1)?, size(2)?.known()?);
            let span = Size { rows: end.rows, fixed: end.fixed.checked_sub(start)? };
            let count = divided(span, step).filter(|count| never_negative(*count))?;
            Some(Steps { elem: Elem::I64, lead: vec![], count, tail: 0, start, step })
        };
        steps().map(|steps| Value::Held(Held::Steps(steps))).ok_or_else(|| {
            let remedy =
                "Only ranges from a number to the number of rows, in steps that divide it, can be imported: they are offsets of bags";
            problem("a range over the number of rows", remedy)
        })
    }

    /// A constant number spread over an axis of several elements per row: which of them the rows lie beside is not known.
    pub fn constant_over_rows(&self, value: &Value, dims: &[Size], at: usize) -> Checked<Value> {
        let number = value.constant().filter(|constant| constant.len() == 1).map(|constant| constant.at(0));
        let lead: Option<Vec<usize>> = dims[..at].iter().map(|size| usize::try_from(size.fixed).ok()).collect();
        let tail = dims[at + 1..].iter().all(|size| *size == Size::fixed(1));
        match (number, lead) {
            (Some(number), Some(lead)) if tail && number.fract() == 0.0 && number.abs() < 1e6 => Ok(Value::Held(Held::Steps(Steps {
                elem: value.elem(),
                lead,
                count: dims[at],
                tail: dims.len() - at - 1,
                start: number as i64,
                step: 0,
            }))),
            _ => Err(problem(format!("a constant broadcast to {}", show(dims)), "Expand to the batch first, then merge axes")),
        }
    }

    /// An op that reads such a value.
    pub fn held(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let found = self.of_held(node, inputs);
        if found.is_ok() {
            return found;
        }
        // Not as offsets of bags: as the numbers of the rows, then.
        let numbers: Vec<Value> = inputs.iter().map(|value| row_numbers(value).unwrap_or_else(|| value.clone())).collect();
        let default = matches!(node.proto.domain.as_str(), "" | "ai.onnx");
        if !default || numbers.iter().any(|value| matches!(value, Value::Held(_))) {
            return found;
        }
        self.standard(node, &numbers)?.into_iter().next().ok_or_else(range_used)
    }

    fn of_held(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let op = node.proto.op_type.as_str();
        if !matches!(node.proto.domain.as_str(), "" | "ai.onnx") {
            return Err(super::align::sizes_used());
        }
        match (op, inputs) {
            ("Identity", [value]) => Ok(value.clone()),
            ("GatherND", [data, Value::Held(Held::Places(columns))]) => self.gather_places(node, data, columns),
            ("Cast", [Value::Held(Held::Places(_))]) if matches!(Elem::of(node.int("to", 1))?, Elem::I64 | Elem::I32) => {
                Ok(inputs[0].clone())
            }
            ("ConcatFromSequence", [Value::Held(Held::Bags(row))]) => concatenated(self, node, row),
            ("Mul", [Value::Held(Held::Steps(steps)), value] | [value, Value::Held(Held::Steps(steps))]) => spread(value, steps),
            ("Concat", _) => self.extended(node, inputs),
            (_, [Value::Held(Held::Steps(steps)), ..]) => self.of_steps(op, node, steps, inputs),
            _ => {
                let remedy = "Sequences can be imported only as nn.EmbeddingBag uses them: use the Python exporter (gavel.export), or \
                              nn.Embedding and a sum over the ids";
                Err(problem("a sequence, or a range over the number of rows", remedy))
            }
        }
    }

    fn of_steps(&mut self, op: &str, node: &Node<'_>, steps: &Steps, inputs: &[Value]) -> Checked<Value> {
        let no = || refused(steps);
        let rank = steps.dims().len();
        let at = steps.lead.len();
        let made = |steps: Steps| Ok(Value::Held(Held::Steps(steps)));
        let integer = |elem: Elem| matches!(elem, Elem::I64 | Elem::I32);
        match op {
            "Shape" => self.shape_op(node, inputs),
            "Size" => self.size_op(inputs),
            "Cast" | "CastLike" => {
                let to = if op == "Cast" { Elem::of(node.int("to", 1))? } else { input(inputs, 1)?.elem() };
                if to != steps.elem && !(integer(to) && integer(steps.elem)) {
                    return Err(no());
                }
                made(Steps { elem: to, ..steps.clone() })
            }
            "Unsqueeze" => {
                let axes = ints_or(node, "axes", inputs, 1)?.ok_or_else(no)?;
                match axes[..] {
                    [axis] if axis == rank as i64 || axis == -1 => made(Steps { tail: steps.tail + 1, ..steps.clone() }),
                    _ => Err(no()),
                }
            }
            "Squeeze" => {
                let axes = ints_or(node, "axes", inputs, 1)?.ok_or_else(no)?;
                let [axis] = axes[..] else { return Err(no()) };
                let axis = axis_of(axis, rank)?;
                let mut lead = steps.lead.clone();
                if axis >= at || lead.remove(axis) != 1 {
                    return Err(no());
                }
                made(Steps { lead, ..steps.clone() })
            }
            "Reshape" => self.steps_reshaped(steps, input(inputs, 1)?),
            "Slice" => sliced(steps, inputs).map(|steps| Value::Held(Held::Steps(steps))),
            "CumSum" if steps.step == 0 && steps.tail == 0 && integer(steps.elem) => {
                let axis = input(inputs, 1)?.constant().and_then(Const::number).ok_or_else(no)?;
                if axis_of(axis as i64, rank)? != at || node.flag("exclusive") || node.flag("reverse") {
                    return Err(no());
                }
                made(Steps { step: steps.start, ..steps.clone() })
            }
            "ReduceSum" if steps.step == 0 && steps.tail == 0 && integer(steps.elem) => {
                let axes = ints_or(node, "axes", inputs, 1)?.ok_or_else(no)?;
                let [axis] = axes[..] else { return Err(no()) };
                if axis_of(axis, rank)? != at || node.int("keepdims", 1) != 0 {
                    return Err(no());
                }
                let sum = times(steps.count, steps.start, 0).ok_or_else(no)?;
                let lines = count(&steps.lead).ok_or_else(no)?;
                self.spend(lines)?;
                Ok(Value::sizes(&self.label, Nd { shape: steps.lead.clone(), data: vec![sum; lines] }))
            }
            _ => Err(no()),
        }
    }

    /// A constant over the rows in other lines; anything else only in the shape that it has.
    fn steps_reshaped(&mut self, steps: &Steps, target: &Value) -> Checked<Value> {
        let no = || refused(steps);
        let target = as_sizes(target).ok_or_else(no)?.data;
        if target == steps.dims() || (target == [Size::fixed(-1)] && steps.dims().len() == 1) {
            return Ok(Value::Held(Held::Steps(steps.clone())));
        }
        let lines = count(&steps.lead).and_then(|lines| i64::try_from(lines).ok()).ok_or_else(no)?;
        let total = times(steps.count, lines, 0).ok_or_else(no)?;
        let (rest, lead) = target.split_last().ok_or_else(no)?;
        let lead: Option<Vec<usize>> =
            lead.iter().map(|size| size.known().filter(|size| *size > 0)).map(|size| Some(size? as usize)).collect();
        let lead = lead.filter(|_| steps.step == 0 && steps.tail == 0).ok_or_else(no)?;
        let size = count(&lead).and_then(|lines| divided(total, i64::try_from(lines).ok()?)).ok_or_else(no)?;
        if *rest != Size::fixed(-1) && *rest != size {
            return Err(no());
        }
        Ok(Value::Held(Held::Steps(Steps { lead, count: size, ..steps.clone() })))
    }

    /// Steps with their predecessor before them, or their successor behind.
    fn extended(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let Some(Value::Held(Held::Steps(steps))) = inputs.iter().find(|value| matches!(value, Value::Held(Held::Steps(_)))) else {
            return Err(super::align::sizes_used());
        };
        let no = || refused(steps);
        let at = steps.lead.len();
        if steps.tail != 0 || axis_of(node.int("axis", 0), at + 1)? != at {
            return Err(no());
        }
        // One more element in each line, each of that value.
        let one_more = |value: &Value, expected: Option<Size>| {
            let sizes = as_sizes(value)?;
            let shape = [&steps.lead[..], &[1]].concat();
            (sizes.shape == shape && sizes.data.iter().all(|size| Some(*size) == expected)).then_some(())
        };
        let mut steps = steps.clone();
        match inputs {
            [Value::Held(_), last] => {
                let next = times(steps.count, steps.step, steps.start);
                one_more(last, next).ok_or_else(no)?;
            }
            [first, Value::Held(_)] => {
                let before = steps.start.checked_sub(steps.step).ok_or_else(no)?;
                one_more(first, Some(Size::fixed(before))).ok_or_else(no)?;
                steps.start = before;
            }
            _ => return Err(no()),
        }
        steps.count.fixed = steps.count.fixed.checked_add(1).ok_or_else(|| problem("a size that is too large", INCONSISTENT))?;
        Ok(Value::Held(Held::Steps(steps)))
    }

    /// Split along the rows, where axes of the row are merged into theirs from the left: parts of such an axis.
    pub fn split_merged(&mut self, row: &Row, sizes: &[Size]) -> Checked<Vec<Value>> {
        let no = || super::super::value::mixes("splits values");
        let batch = row.batch.filter(|batch| batch.inner == 1).ok_or_else(no)?;
        let parts: Option<Vec<usize>> = sizes.iter().map(|size| usize::try_from(size.rows).ok().filter(|_| size.fixed == 0)).collect();
        let parts =
            parts.filter(|parts| parts.iter().all(|part| *part > 0) && parts.iter().sum::<usize>() == batch.outer).ok_or_else(no)?;
        if batch.outer == 1 {
            return Ok(vec![Value::Row(row.clone())]);
        }
        let mut start = 0;
        let mut values = Vec::with_capacity(parts.len());
        for part in parts {
            let picked = self.move_row(row, &Move::Pick(batch.at, (start..start + part).collect()))?;
            let mut shape = picked.shape.clone();
            if part == 1 {
                shape.remove(batch.at);
            }
            let moved = self.move_row(&picked, &Move::Reshape(shape))?;
            values.push(Value::Row(Row { batch: Some(Batch { outer: part, ..batch }), ..moved }));
            start += part;
        }
        Ok(values)
    }
}

/// A sequence of one value per row, one behind the other.
fn concatenated(lower: &mut Lower, node: &Node<'_>, row: &Row) -> Checked<Value> {
    let (Some(1), 0, 0) = (row.shape.first(), node.int("axis", 0), node.int("new_axis", 0)) else {
        return Err(problem("a sequence that is not concatenated along its first axis of size 1", "Export the model again"));
    };
    let moved = lower.move_row(row, &Move::Reshape(row.shape[1..].to_vec()))?;
    Ok(Value::Row(Row { batch: Some(Batch::at(0)), ..moved }))
}

/// A value times ones.
fn spread(value: &Value, steps: &Steps) -> Checked<Value> {
    let (own, other) = (value.dims(), steps.dims());
    let fits = own.len() == other.len() && own.iter().zip(&other).all(|(own, other)| own == other || *other == Size::fixed(1));
    match value {
        Value::Row(row) if fits && steps.step == 0 && steps.start == 1 && row.elem == steps.elem => Ok(value.clone()),
        _ => Err(refused(steps)),
    }
}

/// Lines of steps, or steps without their first.
fn sliced(steps: &Steps, inputs: &[Value]) -> Checked<Steps> {
    let no = || refused(steps);
    let (start, end) = (known(input(inputs, 1)?, "bounds")?, known(input(inputs, 2)?, "bounds")?);
    let axes = optional(inputs, 3).map_or(Ok(vec![0]), |axes| known(axes, "axes"))?;
    let by = optional(inputs, 4).map_or(Ok(vec![1]), |by| known(by, "steps"))?;
    let ([start], [end], [axis], [1]) = (&start[..], &end[..], &axes[..], &by[..]) else { return Err(no()) };
    let axis = axis_of(*axis, steps.dims().len())?;
    let mut steps = steps.clone();
    if let Some(size) = steps.lead.get_mut(axis) {
        let lines = (*start >= 0 && start < end).then(|| (*end).min(*size as i64) - start).filter(|lines| *lines > 0);
        *size = lines.ok_or_else(|| problem("a slice of no elements, or counted from the end", "Export the model again"))? as usize;
        return Ok(steps);
    }
    let count = Size { fixed: steps.count.fixed.checked_sub(*start).ok_or_else(no)?, ..steps.count };
    if axis != steps.lead.len() || *start < 0 || *end < i64::from(i32::MAX) || !never_negative(count) {
        return Err(no());
    }
    let skipped = start.checked_mul(steps.step).and_then(|skipped| skipped.checked_add(steps.start)).ok_or_else(no)?;
    Ok(Steps { count, start: skipped, ..steps })
}
