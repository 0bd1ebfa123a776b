//! ScatterElements, where a comparison of indices says the same: counts and sums by id, marks of ids.

use serde_json::json;

use crate::model::DType;

use super::super::constant::{Const, Elem};
use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId, Step};
use super::super::node::Node;
use super::super::value::{Batch, Row, Value, mixes};
use super::Lower;
use super::ops::{axis_of, first, input};

const OTHERWISE: &str = "Only sums (reduction=\"add\"), one index per line, and one number for all indices can be imported: build the value with \
                         Concat or Where";

impl Lower {
    /// Along one axis of the row: the k updates of a line meet its D elements as a matrix of truths [k, D], from which the sum or the mark
    /// of each element is reduced.
    pub fn scatter_elements(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let (data, indices, updates) = (first(inputs)?, input(inputs, 1)?, input(inputs, 2)?);
        let rank = data.rank();
        let axis = axis_of(node.int("axis", 0), rank)?;
        if indices.rank() != rank || updates.rank() != rank {
            return Err(problem("data, indices and updates of different ranks", "Export the model again: the graph is not consistent"));
        }
        let batch = [data, indices, updates].into_iter().find_map(|value| if let Value::Row(row) = value { row.batch } else { None });
        let Some(batch) = batch else { return Err(problem("writing by index into constants", "Fold constants before the import")) };
        if axis == batch.at {
            return Err(mixes("writes elements"));
        }
        let same = self.uniform_update(updates)?;
        let adds = match node.text("reduction", "none") {
            "add" => true,
            "none" if same.is_some() || indices.dims()[axis].known() == Some(1) => false,
            _ => return Err(problem("writing by index, where several updates may meet one element", OTHERWISE)),
        };
        let data = self.beside(data, batch)?;
        let indices = self.beside(indices, batch)?;
        let own = data.own_axis(axis, "writes elements")?;
        let (width, count) = (data.shape[own], indices.shape.get(own).copied().unwrap_or(0));
        let agrees = data.shape.len() == indices.shape.len()
            && (0..data.shape.len()).all(|other| other == own || data.shape[other] == indices.shape[other]);
        if !agrees || count == 0 {
            return Err(problem(format!("indices of shape {:?} per row for data {:?}", indices.shape, data.shape), OTHERWISE));
        }
        // The axis goes last: [.., k] becomes [.., k, D].
        let last = data.shape.len() - 1;
        let mut perm: Vec<usize> = (0..=last).filter(|other| *other != own).collect();
        perm.push(own);
        let index = self.ir(&indices)?;
        let index = self.transposed(index, &perm)?;
        let index = self.cast(index, DType::I64)?;
        let index = self.wrapped(index, width)?;
        let mut shape = self.shape(index);
        shape.push(width);
        let hits = self.map("one_hot", index, vec![("depth", json!(width))], shape.clone(), DType::F32)?;
        let hits = self.cast(hits, data.dtype())?;
        let guard = self.in_range(index, width, data.elem)?;
        let found = match &same {
            Some(value) if adds => {
                let hits = if *value == 1.0 { hits } else { self.with("mul", hits, *value)? };
                self.reduce("reduce_sum", hits, &[last], false)?
            }
            Some(_) => self.reduce("reduce_max", hits, &[last], false)?,
            None => {
                let updates = self.beside(updates, batch)?;
                if updates.shape != indices.shape {
                    return Err(problem("updates of another shape than the indices", OTHERWISE));
                }
                let update = self.ir(&updates)?;
                let update = self.cast(update, data.dtype())?;
                let update = self.transposed(update, &perm)?;
                let mut apart = self.shape(update);
                apart.push(1);
                let update = self.reshaped(update, &apart)?;
                if adds {
                    let hit = self.compare("gt", Arg::Value(hits), Arg::Number(0.0))?;
                    let terms = self.select(hit, Arg::Value(update), Arg::Number(0.0))?;
                    self.reduce("reduce_sum", terms, &[last], false)?
                } else {
                    let id = self.replaced(&data, &perm, hits, update)?;
                    let id = self.both("add", id, guard)?;
                    let id = self.back(id, own, last)?;
                    return Ok(Lower::row_of(data.batch, data.elem, data.shape.clone(), id));
                }
            }
        };
        let x = self.ir(&data)?;
        let x = self.transposed(x, &perm)?;
        let id = match same {
            Some(value) if !adds => {
                let marked = self.compare("gt", Arg::Value(found), Arg::Number(0.0))?;
                self.select(marked, Arg::Number(value), Arg::Value(x))?
            }
            _ => {
                let sum = self.both("add", x, found)?;
                self.around(sum, data.elem)?
            }
        };
        let id = self.both("add", id, guard)?;
        let id = self.back(id, own, last)?;
        Ok(Lower::row_of(data.batch, data.elem, data.shape.clone(), id))
    }

    /// One update per line takes the place of an element.
    fn replaced(&mut self, data: &Row, perm: &[usize], hits: IrId, update: IrId) -> Checked<IrId> {
        let x = self.ir(data)?;
        let x = self.transposed(x, perm)?;
        let mut lines = self.shape(x);
        let last = lines.len() - 1;
        lines.insert(last, 1);
        let x = self.reshaped(x, &lines)?;
        let hit = self.compare("gt", Arg::Value(hits), Arg::Number(0.0))?;
        let id = self.select(hit, Arg::Value(update), Arg::Value(x))?;
        lines.remove(last);
        self.reshaped(id, &lines)
    }

    /// 0 where all indices [.., k] of a line are in range, else NaN (integers: the least one): [.., 1].
    fn in_range(&mut self, index: IrId, width: usize, elem: Elem) -> Checked<IrId> {
        let elem = if elem.is_float() { Elem::F32 } else { Elem::I64 };
        let zeros = self.fill(0.0, &[width], elem)?;
        let (shape, dtype) = (self.shape(index), elem.dtype());
        let inputs = vec![("in", Arg::Value(zeros)), ("index", Arg::Value(index))];
        let step = Step { op: "gather", inputs, args: vec![("axis", json!(0))], ..Step::default() };
        let found = self.step(step, shape.clone(), dtype)?;
        self.reduce("reduce_min", found, &[shape.len() - 1], true)
    }

    /// The last axis at its place again.
    fn back(&mut self, x: IrId, own: usize, last: usize) -> Checked<IrId> {
        let mut perm: Vec<usize> = (0..last).collect();
        perm.insert(own, last);
        self.transposed(x, &perm)
    }

    /// The number that all updates are.
    fn uniform_update(&mut self, updates: &Value) -> Checked<Option<f64>> {
        Ok(match updates {
            Value::Const(constant) if constant.len() > 0 && (1..constant.len()).all(|at| constant.at(at) == constant.at(0)) => {
                Some(constant.at(0))
            }
            Value::Row(row) => match &row.repr {
                super::super::value::Repr::Ir(id) => self.filled(*id),
                _ => None,
            },
            _ => None,
        })
    }

    /// A value of each row; what is the same for all is spread over them.
    fn beside(&mut self, value: &Value, batch: Batch) -> Checked<Row> {
        let row = match value {
            Value::Const(constant) if constant.elem == Elem::Bool => return Err(problem("truth values by index", OTHERWISE)),
            Value::Const(constant) => self.row(&Value::Const(Const::clone(constant)))?,
            other => self.row(other)?,
        };
        match row.batch {
            Some(own) if own == batch => Ok(row),
            Some(_) => Err(mixes("writes elements")),
            None => self.spread(&row, batch),
        }
    }
}
