//! Matrix products.

use super::super::constant::{Const, Elem};
use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId, Step};
use super::super::nd::{Move, broadcast_shapes};
use super::super::node::Node;
use super::super::value::{Batch, Row, Value, mixes};
use super::Lower;
use super::ops::{first, input, optional};
use crate::model::DType;

const INCONSISTENT: &str = "Export the model again: the graph is not consistent";

impl Lower {
    /// x [.., i] · weightᵀ + bias, weight [o, i].
    pub fn linear(&mut self, x: IrId, weight: Const, bias: Option<Const>) -> Checked<IrId> {
        let mut shape = self.shape(x);
        let ([o, i], Some(last)) = (&weight.shape[..], shape.last_mut()) else {
            return Err(problem("a weight that is no matrix", INCONSISTENT));
        };
        if i != last {
            return Err(problem(format!("a product of {last} elements with a weight for {i}"), INCONSISTENT));
        }
        *last = *o;
        let tensors = [Some(("weight", weight)), bias.map(|bias| ("bias", bias))].into_iter().flatten().collect();
        self.step(Step { op: "linear", inputs: vec![("in", Arg::Value(x))], tensors, ..Step::default() }, shape, DType::F32)
    }

    /// The matrix product of two values per row, numpy's rules for at least two axes each.
    pub fn product(&mut self, a: IrId, b: IrId) -> Checked<IrId> {
        let (left, right) = (self.shape(a), self.shape(b));
        let ([lead_a @ .., m, k], [lead_b @ .., k2, n]) = (&left[..], &right[..]) else {
            return Err(problem("a matrix product of vectors", INCONSISTENT));
        };
        if k != k2 {
            return Err(problem(format!("a matrix product of {left:?} and {right:?}"), INCONSISTENT));
        }
        let shape = [broadcast_shapes(&[lead_a, lead_b])?, vec![*m, *n]].concat();
        let step = Step { op: "matmul", inputs: vec![("a", Arg::Value(a)), ("b", Arg::Value(b))], ..Step::default() };
        self.step(step, shape, DType::F32)
    }

    /// MatMul.
    pub fn matmul_op(&mut self, inputs: &[Value]) -> Checked<Value> {
        let (a, b) = (first(inputs)?, input(inputs, 1)?);
        if let (Value::Const(a), Value::Const(b)) = (a, b)
            && let ([m, k], [k2, n]) = (&a.shape[..], &b.shape[..])
            && k == k2
            && m.saturating_mul(*k).saturating_mul(*n) <= 1 << 28
        {
            return self.fold_product(a, b);
        }
        if a.rank() == 0 || b.rank() == 0 {
            return Err(problem("a matrix product of scalars", INCONSISTENT));
        }
        // A vector counts as a row or a column, which the result loses again.
        if a.rank() == 1 || b.rank() == 1 {
            let (left, right) = (a.rank() == 1, b.rank() == 1);
            let a = if left { self.unsqueezed(a, &[0])? } else { a.clone() };
            let b = if right { self.unsqueezed(b, &[1])? } else { b.clone() };
            let result = self.matrices(&a, &b)?;
            let mut dims = result.dims();
            let rank = dims.len();
            let mut gone = Vec::new();
            if right {
                gone.push(rank - 1);
            }
            if left {
                gone.push(rank - 2);
            }
            for axis in gone {
                dims.remove(axis);
            }
            return self.shaped(&result, &dims, true);
        }
        self.matrices(a, b)
    }

    fn fold_product(&mut self, a: &Const, b: &Const) -> Checked<Value> {
        let (m, k, n) = (a.shape[0], a.shape[1], b.shape[1]);
        self.spend(m.saturating_mul(n))?;
        let (x, y) = (a.to_f64(), b.to_f64());
        let mut result = vec![0.0; m * n];
        for i in 0..m {
            for l in 0..k {
                let factor = x[i * k + l];
                for j in 0..n {
                    result[i * n + j] += factor * y[l * n + j];
                }
            }
        }
        self.folded += 1;
        Ok(self.made(a.elem, vec![m, n], result))
    }

    /// The product of two values of at least two axes.
    fn matrices(&mut self, a: &Value, b: &Value) -> Checked<Value> {
        // x · W: the usual layer.
        if let (Value::Row(x), Value::Const(weight)) = (a, b)
            && weight.shape.len() == 2
            && x.axis(x.rank() - 1).is_some()
        {
            let id = self.ir(x)?;
            if !self.shape(id).is_empty() {
                self.spend(weight.len())?;
                let id = self.linear(id, weight.transposed(), None)?;
                return Ok(self.like(x, x.elem, id));
            }
        }
        let elem = if matches!(a, Value::Row(_)) { a.elem() } else { b.elem() };
        let rank = a.rank().max(b.rank());
        let (x, y) = (self.row(a)?, self.row(b)?);
        let place = |row: &Row| row.batch.map(|batch| Batch { at: batch.at + rank - row.rank(), ..batch });
        let (px, py) = (place(&x), place(&y));
        // The rows may be rows of the left matrix, or columns of the right one, if the other side is the same for all of them.
        let (batch, cut) = match (px, py) {
            (None, None) => (None, Cut::None),
            (Some(batch), None) if batch.at == rank - 2 => (Some(batch), Cut::Rows),
            (None, Some(batch)) if batch.at == rank - 1 => (Some(batch), Cut::Columns),
            (Some(p), Some(q)) if p != q || p.at >= rank - 2 => return Err(mixes("multiplies matrices")),
            (Some(batch), _) | (_, Some(batch)) if batch.at < rank - 2 => (Some(batch), Cut::None),
            _ => return Err(mixes("multiplies matrices")),
        };
        let (x_id, y_id) =
            (self.aside(&x, batch, rank, matches!(cut, Cut::Columns))?, self.aside(&y, batch, rank, matches!(cut, Cut::Rows))?);
        let id = match (batch, cut) {
            (Some(batch), Cut::Rows) => {
                // [.., rows, k] per row: as many matrix rows as are merged, one if none.
                let (shape, m) = (self.shape(x_id), batch.outer * batch.inner);
                let lead = &shape[..shape.len() - 1 - batch.merged().len()];
                let k = shape[shape.len() - 1];
                let flat = self.reshaped(x_id, &[lead, &[m, k]].concat())?;
                let id = self.product(flat, y_id)?;
                let made = self.shape(id);
                let target = [&made[..made.len() - 2], &batch.merged(), &made[made.len() - 1..]].concat();
                self.reshaped(id, &target)?
            }
            (Some(batch), Cut::Columns) => {
                let (shape, n) = (self.shape(y_id), batch.outer * batch.inner);
                let lead = &shape[..shape.len() - batch.merged().len()];
                let flat = self.reshaped(y_id, &[lead, &[n]].concat())?;
                let id = self.product(x_id, flat)?;
                let made = self.shape(id);
                let target = [&made[..made.len() - 1], &batch.merged()].concat();
                self.reshaped(id, &target)?
            }
            _ => self.product(x_id, y_id)?,
        };
        Ok(Lower::row_of(batch, elem, self.shape(id), id))
    }

    /// An operand without its axis where the other side holds the rows (`keep`: that axis is its own matrix axis).
    fn aside(&mut self, row: &Row, batch: Option<Batch>, rank: usize, keep: bool) -> Checked<IrId> {
        let missing = rank - row.rank();
        let row = match (row.batch, batch) {
            (None, Some(batch)) if !keep && batch.at >= missing && batch.at < rank - 2 => {
                let mut shape = row.shape.clone();
                if shape[batch.at - missing] != 1 {
                    return Err(mixes("multiplies matrices"));
                }
                shape.splice(batch.at - missing..=batch.at - missing, batch.merged().iter().map(|_| 1));
                self.move_row(row, &Move::Reshape(shape))?
            }
            _ => row.clone(),
        };
        self.ir(&row)
    }

    /// Gemm: alpha · A · B + beta · C.
    pub fn gemm(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let (mut a, mut b) = (first(inputs)?.clone(), input(inputs, 1)?.clone());
        let (alpha, beta) = (node.float("alpha", 1.0), node.float("beta", 1.0));
        if a.rank() != 2 || b.rank() != 2 {
            return Err(problem("a product of values that are no matrices", INCONSISTENT));
        }
        if node.flag("transA") {
            a = self.permuted(&a, &[1, 0])?;
        }
        let scaled = |lower: &mut Lower, value: &Const, by: f64| -> Checked<Const> {
            if by == 1.0 {
                return Ok(value.clone());
            }
            lower.spend(value.len())?;
            let data = value.to_f64().into_iter().map(|x| x * by).collect();
            Ok(Const::numbers(&format!("{}.scaled", value.name), value.elem, value.shape.clone(), data))
        };
        let c = optional(inputs, 2).cloned();
        // The usual layer, with its bias.
        if let (Value::Row(x), Value::Const(weight)) = (&a, &b)
            && x.axis(1).is_some()
            && x.batch.is_some()
        {
            self.spend(weight.len())?;
            let weight = if node.flag("transB") { weight.clone() } else { weight.transposed() };
            let weight = scaled(self, &weight, alpha)?;
            let bias = match &c {
                Some(Value::Const(c)) if c.len() == weight.shape[0] && c.shape.last().copied().unwrap_or(1) == c.len() => {
                    Some(scaled(self, &c.reshaped(vec![weight.shape[0]]), beta)?)
                }
                _ => None,
            };
            let id = self.ir(x)?;
            let added = bias.is_some() || c.is_none();
            let id = self.linear(id, weight, bias)?;
            let value = self.like(x, x.elem, id);
            return match c {
                Some(c) if !added => self.with_bias(node, &value, &c, beta),
                _ => Ok(value),
            };
        }
        if node.flag("transB") {
            b = self.permuted(&b, &[1, 0])?;
        }
        let mut value = self.matmul_op(&[a, b])?;
        if alpha != 1.0 {
            value = self.each(&value, |lower, x| lower.with("mul", x, alpha))?;
        }
        match c {
            Some(c) => self.with_bias(node, &value, &c, beta),
            None => Ok(value),
        }
    }

    fn with_bias(&mut self, node: &Node<'_>, value: &Value, bias: &Value, beta: f64) -> Checked<Value> {
        if beta == 1.0 {
            return self.binary_op(node, "add", value, bias);
        }
        let beta = self.made(Elem::F32, vec![], vec![beta]);
        let bias = self.binary_op(node, "mul", bias, &beta)?;
        self.binary_op(node, "add", value, &bias)
    }

    /// A value with the rows at axis 0, nothing merged; others are moved there. Error: rows that are merged.
    pub fn batch_first(&mut self, value: &Value, what: &str) -> Checked<Row> {
        let row = self.row(value)?;
        match row.batch {
            Some(batch) if batch.at == 0 && batch.merged().is_empty() => Ok(row),
            None => Ok(row),
            _ => Err(mixes(what)),
        }
    }
}

/// Which matrix axis holds the rows.
#[derive(Clone, Copy, Debug)]
enum Cut {
    None,
    Rows,
    Columns,
}
