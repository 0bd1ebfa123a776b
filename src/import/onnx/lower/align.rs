//! Operands of an elementwise op, brought from ONNX shapes to shapes per row that broadcast the same way.

use super::super::constant::{Const, Elem};
use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId};
use super::super::nd::{Move, broadcast_shapes};
use super::super::value::{Batch, Row, Value, mixes};
use super::Lower;

/// Operands that broadcast per row.
#[derive(Debug)]
pub struct Aligned {
    /// Where the rows lie in the result.
    pub batch: Option<Batch>,
    /// Parallel to the values.
    pub args: Vec<Arg>,
    /// Of the result, per row.
    pub shape: Vec<usize>,
}

impl Lower {
    /// Aligns values that an op combines elementwise. Error: rows at different axes.
    pub fn align(&mut self, values: &[&Value]) -> Checked<Aligned> {
        self.align_with(values, true)
    }

    /// The same, without numbers: every operand becomes a value.
    pub fn align_values(&mut self, values: &[&Value]) -> Checked<Aligned> {
        self.align_with(values, false)
    }

    fn align_with(&mut self, values: &[&Value], numbers: bool) -> Checked<Aligned> {
        let rank = values.iter().map(|value| value.rank()).max().unwrap_or(0);
        let mut batch: Option<Batch> = None;
        for value in values {
            let Value::Row(Row { batch: Some(own), .. }) = value else { continue };
            let here = Batch { at: own.at + rank - value.rank(), ..*own };
            match batch {
                Some(known) if known != here => return Err(mixes("combines values")),
                _ => batch = Some(here),
            }
        }
        let mut args = Vec::with_capacity(values.len());
        let mut shapes = Vec::with_capacity(values.len());
        for value in values {
            let (arg, shape) = match value {
                Value::Const(constant) => {
                    let constant = self.uniform(constant, batch.map(|batch| (batch, rank)))?;
                    let arg = match constant.number() {
                        Some(number) if numbers && !number.is_nan() && constant.fits_f64() => Arg::Number(number),
                        _ => Arg::Value(self.lift(&constant)?),
                    };
                    (arg, constant.shape)
                }
                Value::Row(row) if row.batch.is_none() => {
                    let id = self.ir(row)?;
                    let shape = match batch {
                        None => row.shape.clone(),
                        Some(batch) => without_batch(&row.shape, batch, rank)?,
                    };
                    (Arg::Value(self.reshaped(id, &shape)?), shape)
                }
                Value::Row(row) => (Arg::Value(self.ir(row)?), row.shape.clone()),
                Value::Sizes(_) | Value::Held(_) => return Err(sizes_used()),
                Value::Absent => return Err(problem("a missing input", "Export the model again")),
            };
            args.push(arg);
            shapes.push(shape);
        }
        let shape = broadcast_shapes(&shapes.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        Ok(Aligned { batch, args, shape })
    }

    /// The result of an op on aligned operands.
    pub fn aligned(&mut self, aligned: &Aligned, elem: Elem, id: IrId) -> Checked<Value> {
        let id = self.reshaped(id, &aligned.shape)?;
        Ok(Lower::row_of(aligned.batch, elem, aligned.shape.clone(), id))
    }

    /// A constant beside values whose rows lie at `batch` of `rank` axes: its own axis there goes away.
    fn uniform(&self, constant: &Const, batch: Option<(Batch, usize)>) -> Checked<Const> {
        let Some((batch, rank)) = batch else { return Ok(constant.clone()) };
        let missing = rank - constant.shape.len();
        let mut constant = constant.clone();
        // A graph exported for one batch size may hold constants with that many equal rows.
        if batch.at >= missing && self.fixed_batch.is_some_and(|fixed| fixed > 1 && fixed == constant.shape[batch.at - missing]) {
            let first = constant.moved(&Move::Pick(batch.at - missing, vec![0]));
            if first.moved(&Move::Broadcast(constant.shape.clone())).data == constant.data {
                constant = first;
            }
        }
        let shape = without_batch(&constant.shape, batch, rank)?;
        Ok(constant.reshaped(shape))
    }
}

/// `shape` without the axis at which others (of `rank` axes) hold the rows.
fn without_batch(shape: &[usize], batch: Batch, rank: usize) -> Checked<Vec<usize>> {
    let missing = rank - shape.len();
    let mut shape = shape.to_vec();
    if batch.at >= missing {
        let axis = batch.at - missing;
        if shape[axis] != 1 {
            return Err(problem(
                format!("a constant of {} different elements along the axis that holds the rows", shape[axis]),
                "Export the model with a dynamic batch, so that no constant has its size",
            ));
        }
        shape.splice(axis..=axis, batch.merged().iter().map(|_| 1));
    }
    Ok(shape)
}

/// The complaint about the number of rows as a number.
pub fn sizes_used() -> super::super::error::Problem {
    problem(
        "the number of rows is used as a number, so that a row's score would depend on how many rows there are",
        "gavel scores every row by itself: take the batch size out of the arithmetic",
    )
}
