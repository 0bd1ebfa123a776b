//! Shapes as values, and constants made from them.

use super::super::constant::{Const, Elem};
use super::super::error::{Checked, problem};
use super::super::nd::{Move, Nd, count};
use super::super::node::Node;
use super::super::value::{Batch, Repr, Row, Size, Value, mixes};
use super::Lower;
use super::fold::as_sizes;
use super::ops::{axis_of, first, input, ints_or, known};
use super::reshape::show;

const INCONSISTENT: &str = "Export the model again: the graph is not consistent";

impl Lower {
    /// Constant, in any of its spellings.
    pub fn constant_op(&mut self, node: &Node<'_>) -> Checked<Value> {
        if node.has("value_string") || node.has("value_strings") || node.has("sparse_value") {
            return Err(problem("a constant of strings, or a sparse one", "Map strings to numbers before the model"));
        }
        let external = &mut self.external;
        if let Some(value) = node.tensor("value", external)? {
            return Ok(Value::Const(value));
        }
        if node.has("value_float") {
            return Ok(self.made(Elem::F32, vec![], vec![node.float("value_float", 0.0)]));
        }
        if node.has("value_floats") {
            let values: Vec<f64> = node.floats("value_floats").iter().map(|x| f64::from(*x)).collect();
            return Ok(self.made(Elem::F32, vec![values.len()], values));
        }
        if node.has("value_int") {
            return Ok(self.made_integers(Nd::scalar(node.int("value_int", 0))));
        }
        match node.ints("value_ints") {
            Some(values) => Ok(self.made_integers(Nd::vector(values.to_vec()))),
            None => Err(problem("a constant without a value", INCONSISTENT)),
        }
    }

    /// ConstantOfShape: a constant, or one number for each row.
    pub fn constant_of_shape(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let external = &mut self.external;
        let value = node.tensor("value", external)?.unwrap_or(Const::numbers("zero", Elem::F32, vec![1], vec![0.0]));
        let scalar = Value::Const(value.reshaped(vec![]));
        if value.len() != 1 {
            return Err(problem("a value that is not one number", INCONSISTENT));
        }
        self.expanded(&scalar, first(inputs)?)
    }

    /// Range.
    pub fn range(&mut self, inputs: &[Value]) -> Checked<Value> {
        if inputs.iter().any(|value| matches!(value, Value::Sizes(_))) {
            return self.range_over_rows(inputs);
        }
        let number = |at: usize| {
            input(inputs, at)?
                .constant()
                .and_then(Const::number)
                .ok_or_else(|| problem("a range whose bounds are computed", "Export the model with fixed sizes"))
        };
        let (start, end, step) = (number(0)?, number(1)?, number(2)?);
        let elements = ((end - start) / step).ceil().max(0.0);
        if elements.is_nan() || elements >= 1e9 {
            return Err(problem(format!("a range of {elements} elements"), INCONSISTENT));
        }
        self.spend(elements as usize)?;
        let elem = first(inputs)?.elem();
        let values = (0..elements as usize).map(|i| start + i as f64 * step).collect();
        Ok(self.made(elem, vec![elements as usize], values))
    }

    /// Shape, of which a part may be asked for.
    pub fn shape_op(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        self.folded += 1;
        let dims = first(inputs)?.dims();
        let bound = |at: i64| if at < 0 { at.saturating_add(dims.len() as i64).max(0) } else { at.min(dims.len() as i64) } as usize;
        let (start, end) = (bound(node.int("start", 0)), bound(node.int("end", i64::MAX)));
        Ok(Value::sizes(&self.label, Nd::vector(dims.get(start..end).unwrap_or_default().to_vec())))
    }

    /// Size.
    pub fn size_op(&mut self, inputs: &[Value]) -> Checked<Value> {
        let mut size = Size::fixed(1);
        for dim in first(inputs)?.dims() {
            let next = match (size.known(), dim.known()) {
                (Some(k), _) => dim.rows.checked_mul(k).zip(dim.fixed.checked_mul(k)),
                (_, Some(k)) => size.rows.checked_mul(k).zip(size.fixed.checked_mul(k)),
                _ => None,
            };
            let (rows, fixed) = next.ok_or_else(|| problem("a size that is too large", INCONSISTENT))?;
            size = Size { rows, fixed };
        }
        Ok(Value::sizes(&self.label, Nd::scalar(size)))
    }

    /// EyeLike of a fixed shape.
    pub fn eye_like(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?;
        let dims: Option<Vec<i64>> = value.dims().into_iter().map(Size::known).collect();
        let (Some(dims), k) = (dims, node.int("k", 0)) else { return Err(mixes("builds a matrix")) };
        let [rows, columns] = dims[..] else { return Err(problem("a value that is no matrix", INCONSISTENT)) };
        self.spend(rows.saturating_mul(columns) as usize)?;
        let elem = if node.has("dtype") { Elem::of(node.int("dtype", 1))? } else { value.elem() };
        let values = (0..rows).flat_map(|i| (0..columns).map(move |j| f64::from(j.checked_sub(i) == Some(k)))).collect();
        Ok(self.made(elem, vec![rows as usize, columns as usize], values))
    }

    /// NonZero of a constant.
    pub fn non_zero(&mut self, inputs: &[Value]) -> Checked<Value> {
        let Some(value) = first(inputs)?.constant().cloned() else {
            return Err(problem("indices that depend on the values", "The number of elements must be fixed: use Where and a mask"));
        };
        let rank = value.shape.len();
        let found: Vec<usize> = (0..value.len()).filter(|i| value.at(*i) != 0.0).collect();
        self.spend(found.len().saturating_mul(rank))?;
        let mut data = Vec::with_capacity(found.len() * rank);
        for axis in 0..rank {
            let inner: usize = value.shape[axis + 1..].iter().product();
            data.extend(found.iter().map(|place| (place / inner % value.shape[axis]) as i64));
        }
        Ok(self.made_integers(Nd { shape: vec![rank, found.len()], data }))
    }

    /// Expand.
    pub fn expand(&mut self, inputs: &[Value]) -> Checked<Value> {
        self.expanded(first(inputs)?, input(inputs, 1)?)
    }

    /// The value broadcast with a shape.
    fn expanded(&mut self, value: &Value, shape: &Value) -> Checked<Value> {
        let Some(target) = as_sizes(shape) else {
            return Err(problem("a shape that is computed from the inputs' values", "Export the model with fixed shapes"));
        };
        let target = target.data;
        let own = value.dims();
        let rank = own.len().max(target.len());
        let pad = |dims: &[Size]| [vec![Size::fixed(1); rank - dims.len()], dims.to_vec()].concat();
        let (own, target) = (pad(&own), pad(&target));
        let clash = || problem(format!("a broadcast of {} to {}", show(&own), show(&target)), INCONSISTENT);
        let mut result = Vec::with_capacity(rank);
        for (a, b) in own.iter().zip(&target) {
            let fixed_rows = |size: &Size| size.known().is_some() && size.known() == self.fixed_batch.map(|rows| rows as i64);
            result.push(match (a, b) {
                _ if a == b || *b == Size::fixed(1) => *a,
                (_, b) if *a == Size::fixed(1) => *b,
                (a, b) if a.rows != 0 && fixed_rows(b) => *a,
                _ => return Err(clash()),
            });
        }
        let ats: Vec<usize> = (0..rank).filter(|at| result[*at].rows != 0).collect();
        if ats.len() > 1 {
            return Err(mixes("broadcasts"));
        }
        let Some(at) = ats.first().copied() else {
            let shape: Vec<usize> = result.iter().map(|size| usize::try_from(size.fixed).map_err(|_| clash())).collect::<Checked<_>>()?;
            return match value {
                Value::Const(constant) => Ok(Value::Const(self.move_constant(constant, &Move::Broadcast(shape))?)),
                Value::Sizes(sizes) => {
                    self.spend(count(&shape).unwrap_or(usize::MAX))?;
                    Ok(Value::Sizes(sizes.moved(&Move::Broadcast(shape))))
                }
                _ => {
                    let row = self.row(value)?;
                    Ok(Value::Row(self.move_row(&row, &Move::Broadcast(shape))?))
                }
            };
        };
        let row = self.row(value)?;
        let batch = match row.batch {
            Some(batch) => Batch { at, ..batch },
            // The same for every row.
            None if result[at] == (Size { rows: 1, fixed: 0 }) => Batch::at(at),
            None => {
                return self.constant_over_rows(value, &result, at);
            }
        };
        let mut shape = Vec::with_capacity(rank);
        for (axis, size) in result.iter().enumerate() {
            if axis == at {
                shape.extend(batch.merged());
            } else {
                shape.push(usize::try_from(size.fixed).map_err(|_| clash())?);
            }
        }
        let missing = rank - value.rank();
        let base = match row.batch {
            None if at >= missing => {
                let mut own = row.shape.clone();
                own.remove(at - missing);
                self.move_row(&row, &Move::Reshape(own))?
            }
            _ => row,
        };
        let moved = self.move_row(&base, &Move::Broadcast(shape))?;
        Ok(Value::Row(Row { batch: Some(batch), ..moved }))
    }

    /// Tile.
    pub fn tile(&mut self, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?.clone();
        let Some(repeats) = as_sizes(input(inputs, 1)?) else {
            return Err(problem("repeats that are computed from the inputs' values", "Export the model with fixed shapes"));
        };
        let dims = value.dims();
        if repeats.data.len() != dims.len() {
            return Err(problem(format!("{} repeats for {} axes", repeats.data.len(), dims.len()), INCONSISTENT));
        }
        let mut value = value;
        for (axis, repeat) in repeats.data.iter().enumerate() {
            value = match (repeat.known(), dims[axis]) {
                (Some(1), _) => value,
                (Some(times), size) if size.rows == 0 && times > 0 => self.repeated(&value, axis, size.fixed as usize, times as usize)?,
                (None, size) if size == Size::fixed(1) => {
                    let mut shape = value.dims();
                    shape[axis] = *repeat;
                    self.expanded(&value, &Value::Sizes(Nd::vector(shape)))?
                }
                (Some(_), size) if size.rows != 0 => return Err(mixes("repeats values")),
                _ => return Err(problem(format!("{} repeated {} times", show(&dims), show(&repeats.data)), INCONSISTENT)),
            };
        }
        Ok(value)
    }

    fn repeated(&mut self, value: &Value, axis: usize, size: usize, times: usize) -> Checked<Value> {
        let indices = size.checked_mul(times).filter(|len| *len <= crate::limits::VALUE_ELEMENTS_MAX);
        let len = indices.ok_or_else(|| problem(format!("{size} elements repeated {times} times"), "Export a smaller graph"))?;
        if size == 1 {
            // A broadcast says the same and costs less.
            let row = match value {
                Value::Row(row) => row.clone(),
                _ => return self.pick(value, axis, vec![0; len], "repeats values"),
            };
            let own = row.own_axis(axis, "repeats values")?;
            let mut shape = row.shape.clone();
            shape[own] = times;
            return Ok(Value::Row(self.move_row(&row, &Move::Broadcast(shape))?));
        }
        self.pick(value, axis, (0..len).map(|i| i % size).collect(), "repeats values")
    }

    /// Cast.
    pub fn cast_op(&mut self, inputs: &[Value], to: Elem) -> Checked<Value> {
        let value = first(inputs)?;
        match value {
            Value::Const(constant) => {
                self.spend(constant.len())?;
                self.folded += 1;
                if let (Some(values), false, false) = (constant.as_integers(), to.is_float(), to == Elem::Bool) {
                    let values = Nd { shape: constant.shape.clone(), data: values.to_vec() };
                    return Ok(Value::Const(Const::integers(&constant.name, to, values)));
                }
                let mut values = constant.to_f64();
                if to == Elem::Bool {
                    values.iter_mut().for_each(|x| *x = f64::from(*x != 0.0));
                }
                Ok(Value::Const(Const::numbers(&constant.name, to, constant.shape.clone(), values)))
            }
            Value::Sizes(_) if !to.is_float() && to != Elem::Bool => Ok(value.clone()),
            Value::Sizes(_) | Value::Held(_) => Err(super::align::sizes_used()),
            Value::Row(row) => self.cast_row(row, to).map(Value::Row),
            Value::Absent => Err(problem("a missing input", INCONSISTENT)),
        }
    }

    fn cast_row(&mut self, row: &Row, to: Elem) -> Checked<Row> {
        if to == Elem::Bool && row.elem != Elem::Bool {
            let x = self.ir(row)?;
            let id = self.compare("ne", super::super::ir::Arg::Value(x), super::super::ir::Arg::Number(0.0))?;
            return Ok(Row { elem: to, repr: Repr::Ir(id), ..row.clone() });
        }
        let wraps = row.elem != Elem::Bool && to.narrow().is_some() && !to.holds(row.elem);
        // Inputs that become integers of 32 bits keep their origin: they may be ids. What requests bring of them is wrapped, if it must be.
        let repr = match &row.repr {
            Repr::Atoms { atoms, integer } if !wraps || to == Elem::I32 => {
                Repr::Atoms { atoms: atoms.clone(), integer: *integer || !to.is_float() }
            }
            Repr::Numbers { .. } if matches!(to, Elem::I64 | Elem::I32) => row.repr.clone(),
            _ => {
                let x = self.ir(row)?;
                let x = self.cast(x, to.dtype())?;
                Repr::Ir(if wraps { self.around(x, to)? } else { x })
            }
        };
        Ok(Row { elem: to, repr, ..row.clone() })
    }

    /// Dropout, which does nothing at inference.
    pub fn dropout(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        let training = inputs.get(2).and_then(Value::constant).and_then(Const::number).unwrap_or(0.0);
        if training != 0.0 || node.wants(1) {
            return Err(problem("dropout in training mode", "Export the model in evaluation mode (model.eval())"));
        }
        Ok(vec![first(inputs)?.clone()])
    }

    /// Slice: constants along axes of the row; along the rows only all of them.
    pub fn slice_op(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let mut value = first(inputs)?.clone();
        let rank = value.rank();
        let sizes = |at: usize| {
            as_sizes(input(inputs, at)?).map(|sizes| sizes.data).ok_or_else(|| {
                problem("bounds that are computed from the inputs' values", "Export the model with fixed bounds, or use a mask")
            })
        };
        let given = |name: &str| node.ints(name).map(|values| values.iter().map(|value| Size::fixed(*value)).collect());
        let starts: Vec<Size> = given("starts").map_or_else(|| sizes(1), Ok)?;
        let ends: Vec<Size> = given("ends").map_or_else(|| sizes(2), Ok)?;
        let axes = ints_or(node, "axes", inputs, 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = match inputs.get(4).filter(|steps| steps.is_there()) {
            Some(steps) => known(steps, "steps")?,
            None => vec![1; starts.len()],
        };
        if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
            return Err(problem("starts, ends, axes and steps of different lengths", INCONSISTENT));
        }
        for i in 0..starts.len() {
            let axis = axis_of(axes[i], rank)?;
            let dim = value.dims()[axis];
            let (start, end, step) = (starts[i], ends[i], steps[i]);
            if dim.rows != 0 {
                let all = step == 1 && start == Size::fixed(0) && (end == dim || end.known().is_some_and(|end| end >= i64::from(i32::MAX)));
                let fixed = step == 1
                    && start == Size::fixed(0)
                    && end.known().is_some()
                    && end.known() == self.fixed_batch.map(|rows| rows as i64);
                if !(all || fixed) {
                    return Err(mixes("takes elements"));
                }
                continue;
            }
            let (Some(start), Some(end)) = (start.known(), end.known()) else { return Err(super::align::sizes_used()) };
            let indices = sliced(dim.fixed, start, end, step).ok_or_else(|| problem("a slice with step 0", INCONSISTENT))?;
            if indices.is_empty() && !matches!(value, Value::Const(_) | Value::Sizes(_)) {
                return Err(problem("a slice of no elements", "Remove the empty part"));
            }
            value = self.pick(&value, axis, indices, "takes elements")?;
        }
        Ok(value)
    }

    /// Split.
    pub fn split(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        let value = first(inputs)?.clone();
        let axis = axis_of(node.int("axis", 0), value.rank())?;
        if let (Value::Row(row), Some(Value::Sizes(sizes))) = (&value, inputs.get(1))
            && row.axis(axis).is_none()
        {
            return self.split_merged(row, &sizes.data);
        }
        let Some(size) = value.dims()[axis].known() else { return Err(mixes("splits values")) };
        let parts = node.proto.output.len() as i64;
        let sizes = match ints_or(node, "split", inputs, 1)? {
            Some(sizes) => sizes,
            None => {
                let parts = node.int("num_outputs", parts).max(1);
                let each = size.checked_add(parts - 1).map_or(0, |sum| sum / parts);
                (0..parts.min(1 << 16)).map(|i| (size - i * each).clamp(0, each)).collect()
            }
        };
        if sizes.iter().any(|size| *size < 0) || sizes.iter().try_fold(0_i64, |sum, size| sum.checked_add(*size)) != Some(size) {
            return Err(problem(format!("a split of {size} into {sizes:?}"), INCONSISTENT));
        }
        let mut start = 0;
        let mut values = Vec::with_capacity(sizes.len());
        for (at, size) in sizes.into_iter().enumerate() {
            if node.wants(at) {
                values.push(self.pick(&value, axis, (start as usize..(start + size) as usize).collect(), "splits values")?);
            } else {
                values.push(Value::Absent);
            }
            start += size;
        }
        Ok(values)
    }
}

/// The indices of numpy's start:end:step over `size`; None for step 0.
fn sliced(size: i64, start: i64, end: i64, step: i64) -> Option<Vec<usize>> {
    let from_end = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
    if step == 0 {
        return None;
    }
    let mut indices = Vec::new();
    if step > 0 {
        let (mut at, end) = (from_end(start).clamp(0, size), from_end(end).clamp(0, size));
        while at < end {
            indices.push(at as usize);
            at = at.saturating_add(step);
        }
    } else {
        let (mut at, end) = (from_end(start).clamp(-1, size - 1), from_end(end).clamp(-1, size - 1));
        while at > end {
            indices.push(at as usize);
            at = at.saturating_add(step);
        }
    }
    Some(indices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_those_of_numpy() {
        let cases: [(i64, i64, i64, i64, &[usize]); 8] = [
            (5, 0, i64::MAX, 1, &[0, 1, 2, 3, 4]),
            (5, -2, i64::MAX, 1, &[3, 4]),
            (5, 1, -1, 2, &[1, 3]),
            (5, -1, i64::MIN, -1, &[4, 3, 2, 1, 0]),
            (5, 3, 0, -2, &[3, 1]),
            (5, 4, 2, 1, &[]),
            (5, 0, 9, i64::MAX, &[0]),
            (0, 0, 9, 1, &[]),
        ];
        for (size, start, end, step, expected) in cases {
            assert_eq!(sliced(size, start, end, step).as_deref(), Some(expected), "{size} {start}:{end}:{step}");
        }
        assert_eq!(sliced(5, 0, 5, 0), None);
    }
}
