//! Element by element, with numpy's broadcasting.

use crate::model::arguments::{Comparison, LogicFn};
use crate::model::graph::{DType, ShapeBuf, ValueId};
use crate::model::json::{At, Object, quote};
use crate::model::manifest::choice;
use crate::model::op::{Op, Operand};
use crate::model::resolve::{Builder, scalar};
use crate::model::shape;

use super::{Checked, Made, checked_number, dtype};

impl Builder<'_> {
    /// Two f32 operands.
    pub(super) fn binary(&mut self, object: &Object<'_>, op: impl Fn(Operand, Operand) -> Op) -> Checked<Made> {
        let (a, b) = (self.operand(&object.required("a")?)?, self.operand(&object.required("b")?)?);
        Ok((op(a, b), self.pair(object, a, b)?, DType::F32))
    }

    /// Two operands of one type.
    pub(super) fn typed_binary(&mut self, object: &Object<'_>, op: impl Fn(Operand, Operand) -> Op) -> Checked<Made> {
        let (a, b, dtype) = self.operands(object)?;
        Ok((op(a, b), self.pair(object, a, b)?, dtype))
    }

    pub(super) fn compare(&mut self, object: &Object<'_>) -> Checked<Made> {
        let (a, b, dtype) = self.operands(object)?;
        let cmp = choice(&object.required("cmp")?, &Comparison::NAMES)?;
        let shape = self.pair(object, a, b)?;
        // Rounded as values are: a number compares equal to itself.
        let rounded = |operand| match (operand, dtype) {
            (Operand::Scalar(number), DType::F32) => Operand::Scalar(f64::from(number as f32)),
            _ => operand,
        };
        Ok((Op::Compare { cmp, a: rounded(a), b: rounded(b) }, shape, DType::I64))
    }

    pub(super) fn logic(&mut self, object: &Object<'_>, function: LogicFn) -> Checked<Made> {
        let (a, b) = (self.integers(&object.required("a")?)?, self.integers(&object.required("b")?)?);
        let shape = self.pair(object, Operand::Value(a), Operand::Value(b))?;
        Ok((Op::Logic { function, a, b }, shape, DType::I64))
    }

    pub(super) fn not(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.integers(&object.required("in")?)?;
        Ok((Op::Not { x }, self.value(x).shape.clone(), DType::I64))
    }

    pub(super) fn choose(&mut self, object: &Object<'_>) -> Checked<Made> {
        let cond = self.integers(&object.required("cond")?)?;
        let (a, b, dtype) = self.operands(object)?;
        let shapes = [self.value(cond).shape.clone(), self.shape_of(a), self.shape_of(b)];
        let both = shape::broadcast(&shapes[1], &shapes[2]).and_then(|shape| shape::broadcast(&shapes[0], &shape));
        let Some(shape) = both else {
            let found = format!("shapes {:?}, {:?} and {:?}", shapes[0], shapes[1], shapes[2]);
            return Err(object.at.fault(found, BROADCAST, "Reshape them"));
        };
        Ok((Op::Where { cond, a, b }, shape, dtype))
    }

    /// The operands `a` and `b`: of one type, f32 if both are numbers.
    fn operands(&self, object: &Object<'_>) -> Checked<(Operand, Operand, DType)> {
        let (a_at, b_at) = (object.required("a")?, object.required("b")?);
        let (a, b) = (self.any_operand(&a_at)?, self.any_operand(&b_at)?);
        let type_of = |operand| match operand {
            Operand::Value(id) => Some(self.value(id).dtype),
            Operand::Scalar(_) => None,
        };
        let dtype = match (type_of(a), type_of(b)) {
            (Some(a), Some(b)) if a != b => {
                let found = format!("{a:?} and {b:?}").to_lowercase();
                return Err(object.at.fault(found, "two values of one type", "Put {\"op\": \"cast\"} before one of them"));
            }
            (a, b) => a.or(b).unwrap_or(DType::F32),
        };
        for (at, operand) in [(&a_at, a), (&b_at, b)] {
            if let Operand::Scalar(number) = operand {
                checked_number(at, number, dtype)?;
            }
        }
        Ok((a, b, dtype))
    }

    fn shape_of(&self, operand: Operand) -> ShapeBuf {
        match operand {
            Operand::Value(id) => self.value(id).shape.clone(),
            Operand::Scalar(_) => vec![],
        }
    }

    /// The shape of two operands, of which one is a value.
    fn pair(&self, object: &Object<'_>, a: Operand, b: Operand) -> Checked<ShapeBuf> {
        if let (Operand::Scalar(_), Operand::Scalar(_)) = (a, b) {
            return Err(object.at.fault("two numbers", "at least one value", "Compute it yourself, or use fill"));
        }
        let (a, b) = (self.shape_of(a), self.shape_of(b));
        shape::broadcast(&a, &b).ok_or_else(|| object.at.fault(format!("shapes {a:?} and {b:?}"), BROADCAST, "Reshape one of the two"))
    }

    pub(super) fn clamp(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.float(&object.required("in")?)?;
        let bound = |at: At<'_>| at.number_or_infinity().and_then(|number| scalar(&at, number));
        let min = object.optional("min").map(bound).transpose()?;
        let max = object.optional("max").map(bound).transpose()?;
        if min.is_none() && max.is_none() || matches!((min, max), (Some(min), Some(max)) if min > max) {
            return Err(object.at.fault(format!("min {min:?}, max {max:?}"), "at least one of the two, min <= max", "Correct the bounds"));
        }
        Ok((Op::Clamp { x, min, max }, self.value(x).shape.clone(), DType::F32))
    }

    pub(super) fn unary(&mut self, object: &Object<'_>, op: impl Fn(ValueId) -> Op) -> Checked<Made> {
        let x = self.float(&object.required("in")?)?;
        Ok((op(x), self.value(x).shape.clone(), DType::F32))
    }

    pub(super) fn cast(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let to = dtype(object, "to")?.ok_or_else(|| object.at.fault("no key \"to\"", "one", "docs/bundle.md lists the keys"))?;
        Ok((Op::Cast { x }, self.value(x).shape.clone(), to))
    }

    pub(super) fn prelu(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.float(&object.required("in")?)?;
        let slope_at = object.required("slope")?;
        let slope = self.tensor(&slope_at)?;
        let shape = self.value(x).shape.clone();
        let found = &self.tensor_use(slope).shape;
        if shape::broadcast(&shape, found).as_ref() != Some(&shape) {
            let found = format!("tensor {} has shape {found:?}", quote(slope_at.text()?));
            return Err(slope_at.fault(found, format!("one that broadcasts to {shape:?}"), "Reshape the tensor before saving it"));
        }
        Ok((Op::Prelu { x, slope }, shape, DType::F32))
    }
}

const BROADCAST: &str = "shapes that broadcast: from the last axis on, equal sizes or 1";
