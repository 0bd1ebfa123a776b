//! Along axes that vanish, and running sums.

use crate::limits::AXES_MAX;
use crate::model::arguments::Reduction;
use crate::model::graph::{Axis, ShapeBuf, ValueId};
use crate::model::json::Object;
use crate::model::op::Op;
use crate::model::resolve::Builder;

use super::{Checked, Made, axis, flag};

/// Arguments that reductions share, and the shape that is left.
struct Reduced {
    x: ValueId,
    axes: Vec<Axis>,
    keep: bool,
    shape: ShapeBuf,
}

impl Builder<'_> {
    pub(super) fn reduce_sum(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let Reduced { x, axes, keep, shape } = self.reduced(object, x)?;
        Ok((Op::ReduceSum { x, axes, keep }, shape, self.value(x).dtype))
    }

    pub(super) fn reduce(&mut self, object: &Object<'_>, function: Reduction) -> Checked<Made> {
        let at = object.required("in")?;
        let x = match function {
            Reduction::Max | Reduction::Min => self.input(&at)?,
            Reduction::Mean | Reduction::Prod => self.float(&at)?,
        };
        let Reduced { x, axes, keep, shape } = self.reduced(object, x)?;
        Ok((Op::Reduce { function, x, axes, keep }, shape, self.value(x).dtype))
    }

    fn reduced(&self, object: &Object<'_>, x: ValueId) -> Checked<Reduced> {
        let shape = &self.value(x).shape;
        let keep = flag(object, "keep", false)?;
        let mut axes = match object.optional("axes") {
            None => (0..shape.len()).collect(),
            Some(at) => at.list(AXES_MAX)?.iter().map(|at| axis(at, shape)).collect::<Checked<Vec<_>>>()?,
        };
        let asked = axes.len();
        axes.sort_unstable();
        axes.dedup();
        if axes.len() != asked {
            return Err(object.at.fault("an axis twice", "each axis once", "Remove one"));
        }
        let left = shape.iter().enumerate().filter_map(|(axis, size)| match axes.contains(&axis) {
            true if keep => Some(1),
            true => None,
            false => Some(*size),
        });
        let shape = left.collect();
        Ok(Reduced { x, axes, keep, shape })
    }

    pub(super) fn cumsum(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let shape = self.value(x).shape.clone();
        let axis = axis(&object.required("axis")?, &shape)?;
        let (exclusive, reverse) = (flag(object, "exclusive", false)?, flag(object, "reverse", false)?);
        Ok((Op::CumSum { x, axis, exclusive, reverse }, shape, self.value(x).dtype))
    }
}
