//! Products: linear layers and matrices.

use crate::model::graph::DType;
use crate::model::json::{Object, quote};
use crate::model::op::Op;
use crate::model::resolve::Builder;
use crate::model::shape;

use super::{Checked, Made};

impl Builder<'_> {
    pub(super) fn linear(&mut self, object: &Object<'_>) -> Checked<Made> {
        let in_at = object.required("in")?;
        let x = self.float(&in_at)?;
        let weight_at = object.required("weight")?;
        let weight = self.tensor(&weight_at)?;
        let [outputs, inputs] = self.tensor_use(weight).shape[..] else {
            let found = format!("tensor {} has shape {:?}", quote(weight_at.text()?), self.tensor_use(weight).shape);
            return Err(weight_at.fault(found, "[out, in]", "A linear layer's weight has two axes, outputs first"));
        };
        let mut shape = self.value(x).shape.clone();
        match shape.last_mut() {
            Some(last) if *last == inputs => *last = outputs,
            _ => {
                let found = format!("tensor {} has shape {:?}", quote(weight_at.text()?), [outputs, inputs]);
                let expected =
                    format!("[.., {}], since the input {:?} has shape {shape:?}", shape.last().unwrap_or(&0), self.value(x).name);
                return Err(weight_at.fault(found, expected, "Check the layer that it belongs to, and that it is not transposed"));
            }
        }
        let bias = object.optional("bias").map(|at| self.tensor_of(&at, &[outputs])).transpose()?;
        Ok((Op::Linear { x, weight, bias }, shape, DType::F32))
    }

    /// numpy's matmul. An argument of rank 1 becomes a matrix by a reshape, and its axis leaves the result by another.
    pub(super) fn matmul(&mut self, object: &Object<'_>, out: &str) -> Checked<Made> {
        let flag = |key| object.optional(key).map_or(Ok(false), |at| at.boolean());
        let (transpose_a, transpose_b) = (flag("transpose_a")?, flag("transpose_b")?);
        let (a_at, b_at) = (object.required("a")?, object.required("b")?);
        let (mut a, mut b) = (self.float(&a_at)?, self.float(&b_at)?);
        let (shape_a, shape_b) = (self.value(a).shape.clone(), self.value(b).shape.clone());
        let (vector_a, vector_b) = (shape_a.len() == 1, shape_b.len() == 1);
        if (vector_a && transpose_a) || (vector_b && transpose_b) || shape_a.is_empty() || shape_b.is_empty() {
            let found = format!("shapes {shape_a:?} and {shape_b:?}");
            return Err(object.at.fault(found, "matrices, or vectors that are not transposed", "Reshape the arguments"));
        }
        if vector_a {
            a = self.push(&a_at, format!("{out}~a"), Op::Reshape { x: a }, vec![1, shape_a[0]], DType::F32)?;
        }
        if vector_b {
            b = self.push(&b_at, format!("{out}~b"), Op::Reshape { x: b }, vec![shape_b[0], 1], DType::F32)?;
        }
        let Some(mut shape) = shape::matmul(&self.value(a).shape, &self.value(b).shape, transpose_a, transpose_b) else {
            let found = format!("shapes {shape_a:?} and {shape_b:?}");
            return Err(object.at.fault(
                found,
                "inner sizes that agree, and leading axes that broadcast",
                "Check transpose_a and transpose_b",
            ));
        };
        let op = Op::MatMul { a, b, transpose_a, transpose_b };
        if !vector_a && !vector_b {
            return Ok((op, shape, DType::F32));
        }
        let x = self.push(&object.at, format!("{out}~product"), op, shape.clone(), DType::F32)?;
        if vector_b {
            shape.pop();
        }
        if vector_a {
            shape.remove(shape.len() - 1 - usize::from(!vector_b));
        }
        Ok((Op::Reshape { x }, shape, DType::F32))
    }
}
