//! Numbers of the rows: `x[arange(batch), i]` takes an element of each row. No other use of them keeps rows apart.
//!
//! Exporters write it as GatherND by pairs (row, i), or as Gather from the merged axis `[N·T, ..]` by `row · T + i`.

use serde_json::json;

use super::super::constant::Elem;
use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId, Step};
use super::super::nd::Move;
use super::super::node::Node;
use super::super::value::{Batch, Held, Repr, Row, Size, Steps, Value, mixes};
use super::Lower;
use super::held::range_used;

const OTHERWISE: &str = "Take elements of a row with torch.gather (GatherElements) along one axis";

/// A range from 0 over the rows, as a value of each row.
pub fn row_numbers(value: &Value) -> Option<Value> {
    let Value::Held(Held::Steps(Steps { elem, lead, count, tail, start: 0, step })) = value else { return None };
    let per_row = Size { rows: 1, fixed: 0 };
    (*count == per_row && lead.is_empty() && *step > 0 && !elem.is_float()).then(|| {
        let repr = Repr::Numbers { per: *step, rest: None };
        Value::Row(Row { batch: Some(Batch::at(0)), shape: vec![1; *tail], elem: *elem, repr })
    })
}

/// Whether a value was made of numbers of rows.
fn is_numbered(value: &Value) -> bool {
    matches!(value, Value::Row(Row { repr: Repr::Numbers { .. } | Repr::Shape, .. }))
}

impl Lower {
    /// Arithmetic with numbers of rows; None where there are none.
    pub fn numbered(&mut self, node: &Node<'_>, op: &'static str, a: &Value, b: &Value) -> Checked<Option<Value>> {
        let (own, other) = match (a, b) {
            (Value::Row(own), other) if is_numbered(a) => (own, other),
            (other, Value::Row(own)) if is_numbered(b) => (own, other),
            _ => return Ok(None),
        };
        // Zeros in its place say which shape comes out, and where the rows lie.
        let zeros = self.fill(0.0, &own.shape, Elem::I64)?;
        let zeros = Lower::row_of(own.batch, own.elem, own.shape.clone(), zeros);
        match (op, &own.repr, other) {
            ("mul", Repr::Numbers { per, rest: None }, Value::Const(factor)) if factor.shape.len() <= own.rank() => {
                let factor = factor.as_integers().filter(|factor| factor.len() == 1).map(|factor| factor[0]);
                let per = factor.and_then(|factor| per.checked_mul(factor)).filter(|per| *per > 0).ok_or_else(range_used)?;
                Ok(Some(Value::Row(Row { repr: Repr::Numbers { per, rest: None }, ..own.clone() })))
            }
            ("add", Repr::Numbers { per, rest: None }, Value::Row(_) | Value::Const(_))
                if !is_numbered(other) && !other.elem().is_float() =>
            {
                let sum = self.binary_op(node, "add", &zeros, other)?;
                let row = self.row(&sum)?;
                let rest = Some(self.ir(&row)?);
                Ok(Some(Value::Row(Row { repr: Repr::Numbers { per: *per, rest }, ..row })))
            }
            // Exporters broadcast indices by an op whose elements nobody reads.
            ("add" | "mul" | "min" | "max", _, Value::Row(_) | Value::Const(_)) if !is_numbered(other) => {
                let result = self.binary_op(node, op, &zeros, other)?;
                let row = self.row(&result)?;
                Ok(Some(Value::Row(Row { repr: Repr::Shape, ..row })))
            }
            _ => Err(range_used()),
        }
    }

    /// Indices side by side on their last axis.
    pub fn places(&mut self, rows: Vec<Row>, own_axis: usize) -> Checked<Value> {
        let mut columns = Vec::with_capacity(rows.len());
        for row in rows {
            let last = row.batch.is_none_or(|batch| batch.at + 1 != row.rank()) && own_axis + 1 == row.shape.len();
            if !last || row.shape[own_axis] != 1 || row.elem.is_float() {
                return Err(range_used());
            }
            columns.push(self.move_row(&row, &Move::Reshape(row.shape[..own_axis].to_vec()))?);
        }
        Ok(Value::Held(Held::Places(columns)))
    }

    /// GatherND by pairs of which one is the number of the row: an element of each row's own value.
    pub fn gather_places(&mut self, node: &Node<'_>, data: &Value, columns: &[Row]) -> Checked<Value> {
        let (Value::Row(data), [a, b], 0) = (data, columns, node.int("batch_dims", 0)) else {
            return Err(problem("indices that are numbers of rows and others, of more than two axes or of a constant", OTHERWISE));
        };
        let is_row = |row: &Row| row.repr == Repr::Numbers { per: 1, rest: None };
        let index = match data.batch {
            Some(batch) if batch == Batch::at(0) && is_row(a) => b,
            Some(batch) if batch == Batch::at(1) && is_row(b) => a,
            _ => return Err(mixes("takes elements")),
        };
        let Some(size) = data.shape.first().copied() else { return Err(problem("an index of more axes than there are", OTHERWISE)) };
        let id = self.ir(index)?;
        let id = self.wrapped(id, size)?;
        let x = self.ir(data)?;
        self.taken(x, id, 0, data.elem, index.batch)
    }

    /// Gather by numbers of rows, from an axis that holds the rows and the elements of each: one of the row's own.
    pub fn gather_numbered(&mut self, data: &Value, axis: usize, indices: &Row) -> Checked<Value> {
        let (Value::Row(data), Repr::Numbers { per, rest }) = (data, &indices.repr) else { return Err(range_used()) };
        let (Some(batch), Some(index_batch)) = (data.batch, indices.batch) else { return Err(range_used()) };
        if batch.at != axis || batch.outer != 1 || i64::try_from(batch.inner).ok() != Some(*per) {
            return Err(mixes("takes elements"));
        }
        let Some(rest) = rest else {
            // The rows in their own order.
            return if batch.inner == 1 && indices.shape.is_empty() { Ok(Value::Row(data.clone())) } else { Err(range_used()) };
        };
        let x = self.ir(data)?;
        let mut apart = data.shape.clone();
        if batch.inner == 1 {
            apart.insert(axis, 1);
        }
        let x = self.reshaped(x, &apart)?;
        // Negative ones would be elements of the row before: they give NaN.
        self.taken(x, *rest, axis, data.elem, Some(Batch { at: index_batch.at + axis, ..index_batch }))
    }

    /// Elements along an axis of the row by indices of the row; the indices' axes take the place of the axis.
    fn taken(&mut self, x: IrId, index: IrId, axis: usize, elem: Elem, batch: Option<Batch>) -> Checked<Value> {
        let (from, by) = (self.shape(x), self.shape(index));
        let shape = [&from[..axis], &by, &from[axis + 1..]].concat();
        let inputs = vec![("in", Arg::Value(x)), ("index", Arg::Value(index))];
        let step = Step { op: "gather", inputs, args: vec![("axis", json!(axis))], ..Step::default() };
        let id = self.step(step, shape.clone(), self.dtype(x))?;
        Ok(Lower::row_of(batch, elem, shape, id))
    }

    /// GatherND of each row by its own indices (batch_dims = 1), one axis deep.
    pub fn gather_by_row(&mut self, data: &Row, indices: &Row) -> Checked<Value> {
        let (Some(1), Some(at), Some(other)) = (indices.shape.last().copied(), data.batch, indices.batch) else {
            return Err(problem("indices that are computed, of more than one axis", OTHERWISE));
        };
        if at != Batch::at(0) || other != at || data.shape.is_empty() {
            return Err(mixes("takes elements"));
        }
        let index = self.ir(indices)?;
        let index = self.reshaped(index, &indices.shape[..indices.shape.len() - 1])?;
        let index = self.cast(index, crate::model::DType::I64)?;
        let index = self.wrapped(index, data.shape[0])?;
        let x = self.ir(data)?;
        self.taken(x, index, 0, data.elem, Some(at))
    }
}
