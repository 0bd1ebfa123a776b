//! Comparisons, truth values, choices.

use crate::model::DType;

use super::super::constant::Elem;
use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId};
use super::super::node::Node;
use super::super::value::Value;
use super::Lower;
use super::ops::first;

impl Lower {
    /// Equal, Less, ..
    pub fn compare_op(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let [a, b] = inputs else { return Err(problem("not two inputs", "Export the model again")) };
        let cmp = match node.proto.op_type.as_str() {
            "Equal" => "eq",
            "Greater" => "gt",
            "Less" => "lt",
            "GreaterOrEqual" => "ge",
            _ => "le",
        };
        let aligned = self.align(&[a, b])?;
        let id = self.compare(cmp, aligned.args[0].clone(), aligned.args[1].clone())?;
        self.aligned(&aligned, Elem::Bool, id)
    }

    /// And, Or, Xor.
    pub fn logic_op(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let [a, b] = inputs else { return Err(problem("not two inputs", "Export the model again")) };
        let op = match node.proto.op_type.as_str() {
            "And" => "and",
            "Or" => "or",
            _ => "xor",
        };
        let aligned = self.align_values(&[a, b])?;
        let id = self.binary(op, aligned.args[0].clone(), aligned.args[1].clone())?;
        self.aligned(&aligned, Elem::Bool, id)
    }

    /// Not.
    pub fn not(&mut self, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?;
        self.each(value, |lower, x| {
            let shape = lower.shape(x);
            lower.map("not", x, vec![], shape, DType::I64)
        })
    }

    /// Where.
    pub fn where_op(&mut self, inputs: &[Value]) -> Checked<Value> {
        let [cond, a, b] = inputs else { return Err(problem("not three inputs", "Export the model again")) };
        let aligned = self.align(&[cond, a, b])?;
        let elem = a.elem();
        let cond = match aligned.args[0] {
            Arg::Value(id) => id,
            _ => self.fill_of(&aligned.args[0], Elem::Bool)?,
        };
        let (a, b) = (aligned.args[1].clone(), aligned.args[2].clone());
        let id = match (&a, &b) {
            (Arg::Number(x), Arg::Number(_)) if !elem.is_float() => {
                let x = self.fill(*x, &[], elem)?;
                self.select(cond, Arg::Value(x), b)?
            }
            _ => self.select(cond, a, b)?,
        };
        self.aligned(&aligned, elem, id)
    }

    fn fill_of(&mut self, arg: &Arg, elem: Elem) -> Checked<IrId> {
        match arg {
            Arg::Number(number) => self.fill(*number, &[], elem),
            Arg::Value(id) => Ok(*id),
            Arg::List(_) => Err(problem("a list as an operand", "Export the model again")),
        }
    }

    /// IsNaN: a NaN differs from itself.
    pub fn is_nan(&mut self, inputs: &[Value]) -> Checked<Value> {
        let row = self.row(first(inputs)?)?;
        let x = self.ir(&row)?;
        let id = self.compare("ne", Arg::Value(x), Arg::Value(x))?;
        Ok(self.like(&row, Elem::Bool, id))
    }

    /// IsInf.
    pub fn is_inf(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let row = self.row(first(inputs)?)?;
        let x = self.ir(&row)?;
        let mut found: Option<IrId> = None;
        for (flag, bound) in [("detect_positive", f64::INFINITY), ("detect_negative", f64::NEG_INFINITY)] {
            if node.int(flag, 1) != 0 {
                let here = self.compare("eq", Arg::Value(x), Arg::Number(bound))?;
                found = Some(match found {
                    Some(other) => self.both("or", other, here)?,
                    None => here,
                });
            }
        }
        match found {
            Some(id) => Ok(self.like(&row, Elem::Bool, id)),
            None => {
                let id = self.fill(0.0, &row.shape, Elem::Bool)?;
                Ok(self.like(&row, Elem::Bool, id))
            }
        }
    }
}
