//! Layout: elements moved, none changed. Of either type.

use crate::limits::{AXES_MAX, NODES_MAX, VALUE_ELEMENTS_MAX};
use crate::model::json::{At, Object};
use crate::model::op::Op;
use crate::model::resolve::Builder;
use crate::model::shape;

use super::{Checked, Made, axis, checked_number, sizes};

impl Builder<'_> {
    pub(super) fn concat(&mut self, object: &Object<'_>) -> Checked<Made> {
        let list_at = object.required("in")?;
        let items = list_at.list(NODES_MAX)?;
        let xs = items.iter().map(|at| self.input(at)).collect::<Checked<Vec<_>>>()?;
        let Some(first) = xs.first().map(|id| self.value(*id)) else { return Err(list_at.wrong("at least one value")) };
        let (mut shape, dtype) = (first.shape.clone(), first.dtype);
        let axis = axis(&object.required("axis")?, &shape)?;
        shape[axis] = 0;
        for (at, id) in items.iter().zip(&xs) {
            let other = self.value(*id);
            let mut rest = other.shape.clone();
            if let Some(size) = rest.get_mut(axis) {
                shape[axis] += std::mem::take(size);
            }
            let size = std::mem::take(&mut shape[axis]);
            let agrees = rest == shape && other.dtype == dtype;
            shape[axis] = size;
            if !agrees {
                let first = self.value(xs[0]);
                let expected = format!("{:?} {:?} but for axis {axis}, as the first", first.dtype, first.shape);
                return Err(at.fault(format!("{:?} {:?}", other.dtype, other.shape), expected, "Reshape or cast it"));
            }
        }
        Ok((Op::Concat { xs, axis }, shape, dtype))
    }

    pub(super) fn slice(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let mut shape = self.value(x).shape.clone();
        let axis = axis(&object.required("axis")?, &shape)?;
        let bound = |key, default| object.optional(key).map_or(Ok(default), |at| at.integer(i64::MIN, i64::MAX));
        let (start, end) = shape::slice(bound("start", 0)?, bound("end", i64::MAX)?, shape[axis]);
        let step = object.optional("step").map_or(Ok(1), |at| at.count(1, VALUE_ELEMENTS_MAX))?;
        shape[axis] = (end - start).div_ceil(step);
        Ok((Op::Slice { x, axis, start, end, step }, shape, self.value(x).dtype))
    }

    pub(super) fn reshape(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let at = object.required("shape")?;
        let written = at.list(AXES_MAX)?.iter().map(|at| at.integer(-1, VALUE_ELEMENTS_MAX as i64)).collect::<Checked<Vec<_>>>()?;
        let from = self.value(x);
        let shape = shape::reshape(from.len(), &written).ok_or_else(|| {
            let remedy = "Shapes are per row, without the batch; one size may be -1";
            at.fault(format!("{written:?}"), format!("the {} elements of {:?}", from.len(), from.shape), remedy)
        })?;
        Ok((Op::Reshape { x }, shape, from.dtype))
    }

    pub(super) fn transpose(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let from = self.value(x);
        let at = object.required("perm")?;
        let perm = at.list(AXES_MAX)?.iter().map(|at| axis(at, &from.shape)).collect::<Checked<Vec<_>>>()?;
        let mut sorted = perm.clone();
        sorted.sort_unstable();
        if sorted != (0..from.shape.len()).collect::<Vec<_>>() {
            return Err(at.fault(
                format!("{perm:?}"),
                format!("each of the {} axes once", from.shape.len()),
                "Shapes are per row, without the batch",
            ));
        }
        let shape = perm.iter().map(|axis| from.shape[*axis]).collect();
        Ok((Op::Transpose { x, perm }, shape, from.dtype))
    }

    pub(super) fn broadcast(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let from = self.value(x);
        let at = object.required("shape")?;
        let shape = sizes(&at)?;
        if shape::broadcast(&from.shape, &shape).as_ref() != Some(&shape) {
            return Err(at.fault(
                format!("{shape:?}"),
                format!("a shape to which {:?} broadcasts", from.shape),
                "Axes are matched from the last; sizes of 1 repeat",
            ));
        }
        Ok((Op::Broadcast { x }, shape, from.dtype))
    }

    pub(super) fn gather_const(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let mut shape = self.value(x).shape.clone();
        let axis = axis(&object.required("axis")?, &shape)?;
        let size = shape[axis] as i64;
        let at = object.required("indices")?;
        let index = |at: &At<'_>| at.integer(-size, size - 1).map(|index| index.rem_euclid(size) as usize);
        let indices = at.list(VALUE_ELEMENTS_MAX)?.iter().map(index).collect::<Checked<Vec<_>>>()?;
        shape[axis] = indices.len();
        Ok((Op::GatherConst { x, axis, indices }, shape, self.value(x).dtype))
    }

    pub(super) fn pad(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let (mut shape, dtype) = (self.value(x).shape.clone(), self.value(x).dtype);
        let pads = pads(&object.required("pads")?, shape.len())?;
        shape.iter_mut().zip(&pads).for_each(|(size, (begin, end))| *size += begin + end);
        let value = match object.optional("value") {
            Some(at) => checked_number(&at, at.number_or_infinity()?, dtype)?,
            None => 0.0,
        };
        Ok((Op::Pad { x, pads, value }, shape, dtype))
    }
}

/// Begins of all axes, then ends of all axes, as pairs.
pub(super) fn pads(at: &At<'_>, axes: usize) -> Checked<Vec<(usize, usize)>> {
    let list = at.list(2 * AXES_MAX)?.iter().map(|at| at.count(0, VALUE_ELEMENTS_MAX)).collect::<Checked<Vec<_>>>()?;
    if list.len() != 2 * axes {
        return Err(at.fault(
            format!("a list of {}", list.len()),
            format!("{} numbers: the begins, then the ends", 2 * axes),
            "Give all axes",
        ));
    }
    Ok((0..axes).map(|axis| (list[axis], list[axes + axis])).collect())
}
