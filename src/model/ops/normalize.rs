//! Along axes, same shape: softmax and norms.

use crate::limits::AXES_MAX;
use crate::model::graph::DType;
use crate::model::json::Object;
use crate::model::op::Op;
use crate::model::resolve::Builder;

use super::{Checked, Made, axis, epsilon};

impl Builder<'_> {
    pub(super) fn softmax(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.float(&object.required("in")?)?;
        let shape = self.value(x).shape.clone();
        let axis = axis(&object.required("axis")?, &shape)?;
        Ok((Op::Softmax { x, axis }, shape, DType::F32))
    }

    pub(super) fn batch_norm(&mut self, object: &Object<'_>) -> Checked<Made> {
        let in_at = object.required("in")?;
        let x = self.float(&in_at)?;
        let shape = self.value(x).shape.clone();
        let axis = match object.optional("axis") {
            Some(at) => axis(&at, &shape)?,
            None => shape.len().checked_sub(1).ok_or_else(|| in_at.fault("a scalar", "at least one axis", "Reshape it first"))?,
        };
        let eps = epsilon(object, 1e-5)?;
        let size = [shape[axis]];
        let mean = self.tensor_of(&object.required("mean")?, &size)?;
        let var_at = object.required("var")?;
        let var = self.tensor_of(&var_at, &size)?;
        self.require_above(var, -eps, &var_at);
        let weight = object.optional("weight").map(|at| self.tensor_of(&at, &size)).transpose()?;
        let bias = object.optional("bias").map(|at| self.tensor_of(&at, &size)).transpose()?;
        Ok((Op::BatchNorm { x, axis, mean, var, weight, bias, eps }, shape, DType::F32))
    }

    pub(super) fn l2_norm(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.float(&object.required("in")?)?;
        let shape = self.value(x).shape.clone();
        let axis = axis(&object.required("axis")?, &shape)?;
        let eps = epsilon(object, 1e-12)?;
        Ok((Op::L2Norm { x, axis, eps }, shape, DType::F32))
    }

    pub(super) fn layer_norm(&mut self, object: &Object<'_>) -> Checked<Made> {
        let in_at = object.required("in")?;
        let x = self.float(&in_at)?;
        let shape = self.value(x).shape.clone();
        let axes = match object.optional("axes") {
            Some(at) => at.count(1, shape.len().clamp(1, AXES_MAX))?,
            None => 1,
        };
        let Some(outer) = shape.len().checked_sub(axes) else {
            return Err(in_at.fault("a scalar", "at least one axis", "Reshape it first"));
        };
        let weight = object.optional("weight").map(|at| self.tensor_of(&at, &shape[outer..])).transpose()?;
        let bias = object.optional("bias").map(|at| self.tensor_of(&at, &shape[outer..])).transpose()?;
        let eps = epsilon(object, 1e-5)?;
        Ok((Op::LayerNorm { x, axes, weight, bias, eps }, shape, DType::F32))
    }
}
