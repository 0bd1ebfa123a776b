//! Elements chosen while a row is computed: by index, by rank.

use crate::limits::VALUE_ELEMENTS_MAX;
use crate::model::graph::DType;
use crate::model::json::Object;
use crate::model::op::Op;
use crate::model::resolve::Builder;

use super::{Checked, Made, axis, checked_number, flag};

impl Builder<'_> {
    pub(super) fn gather(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let index = self.integers(&object.required("index")?)?;
        let from = self.value(x);
        let axis = axis(&object.required("axis")?, &from.shape)?;
        let shape = [&from.shape[..axis], &self.value(index).shape, &from.shape[axis + 1..]].concat();
        Ok((Op::Gather { x, index, axis }, shape, from.dtype))
    }

    pub(super) fn take_along(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let index_at = object.required("index")?;
        let index = self.integers(&index_at)?;
        let (from, picked) = (self.value(x), self.value(index));
        let axis = axis(&object.required("axis")?, &from.shape)?;
        let mut expected = from.shape.clone();
        if let Some(size) = picked.shape.get(axis) {
            expected[axis] = *size;
        }
        if picked.shape != expected {
            let found = format!("value {:?} of shape {:?}", picked.name, picked.shape);
            let wanted = format!("the shape {:?} but for axis {axis}, as the value {:?}", from.shape, from.name);
            return Err(index_at.fault(found, wanted, "Broadcast or slice one of the two"));
        }
        Ok((Op::TakeAlong { x, index, axis }, expected, from.dtype))
    }

    pub(super) fn embedding(&mut self, object: &Object<'_>) -> Checked<Made> {
        let index = self.integers(&object.required("in")?)?;
        let (table, spec) = self.tables.named(&object.required("table")?)?;
        let shape = [&self.value(index).shape[..], &[spec.dim as usize]].concat();
        Ok((Op::Embedding { index, table }, shape, DType::F32))
    }

    pub(super) fn one_hot(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.integers(&object.required("in")?)?;
        let depth = object.required("depth")?.count(1, VALUE_ELEMENTS_MAX)?;
        let number = |key, default| match object.optional(key) {
            Some(at) => checked_number(&at, at.number_or_infinity()?, DType::F32),
            None => Ok(default),
        };
        let shape = [&self.value(x).shape[..], &[depth]].concat();
        Ok((Op::OneHot { x, on: number("on", 1.0)?, off: number("off", 0.0)? }, shape, DType::F32))
    }

    /// The values (F32), or where they lie (I64).
    pub(super) fn topk(&mut self, object: &Object<'_>, dtype: DType) -> Checked<Made> {
        let x = self.float(&object.required("in")?)?;
        let mut shape = self.value(x).shape.clone();
        let axis = axis(&object.required("axis")?, &shape)?;
        let k = object.required("k")?.count(1, shape[axis])?;
        let largest = flag(object, "largest", true)?;
        shape[axis] = k;
        let op = match dtype {
            DType::F32 => Op::TopK { x, axis, k, largest },
            DType::I64 => Op::ArgTopK { x, axis, k, largest },
        };
        Ok((op, shape, dtype))
    }
}
