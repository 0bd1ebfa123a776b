//! Windows that move over the last axes: convolutions and pools.

use crate::limits::VALUE_ELEMENTS_MAX;
use crate::model::arguments::Window;
use crate::model::graph::{DType, ShapeBuf, ValueId};
use crate::model::json::{At, Object, quote};
use crate::model::op::Op;
use crate::model::resolve::Builder;

use super::layout::pads;
use super::{Checked, Made, flag};

impl Builder<'_> {
    pub(super) fn conv(&mut self, object: &Object<'_>) -> Checked<Made> {
        let in_at = object.required("in")?;
        let x = self.float(&in_at)?;
        let weight_at = object.required("weight")?;
        let weight = self.tensor(&weight_at)?;
        let sizes = self.tensor_use(weight).shape.clone();
        let [outputs, per_group, kernel @ ..] = sizes.as_slice() else {
            let found = format!("tensor {} has shape {sizes:?}", quote(weight_at.text()?));
            return Err(weight_at.fault(found, KERNEL, "Reshape the tensor before saving it"));
        };
        if !(1..=SPACE_AXES_MAX).contains(&kernel.len()) {
            let found = format!("tensor {} has shape {sizes:?}", quote(weight_at.text()?));
            return Err(weight_at.fault(found, KERNEL, "Reshape the tensor before saving it"));
        }
        let groups = object.optional("groups").map_or(Ok(1), |at| at.count(1, VALUE_ELEMENTS_MAX))?;
        let shape = &self.value(x).shape;
        let channels = shape.len().checked_sub(kernel.len() + 1).map(|axis| shape[axis]);
        if channels.is_none() || channels != per_group.checked_mul(groups) || !outputs.is_multiple_of(groups) {
            let found = format!("tensor {} has shape {sizes:?}, groups {groups}", quote(weight_at.text()?));
            let expected =
                format!("[O, C / groups, ..] with O a multiple of groups, since the input {:?} has shape {shape:?}", self.value(x).name);
            return Err(weight_at.fault(found, expected, "Shapes are per row, without the batch: [.., C, s..]"));
        }
        let (window, mut shape) = self.window(object, &in_at, x, kernel.to_vec(), true)?;
        let channel = shape.len() - kernel.len() - 1;
        shape[channel] = *outputs;
        let bias = object.optional("bias").map(|at| self.tensor_of(&at, &[*outputs])).transpose()?;
        Ok((Op::Conv { x, weight, bias, window, groups }, shape, DType::F32))
    }

    pub(super) fn max_pool(&mut self, object: &Object<'_>) -> Checked<Made> {
        let (x, window, shape) = self.pool_window(object, true)?;
        Ok((Op::MaxPool { x, window }, shape, DType::F32))
    }

    pub(super) fn avg_pool(&mut self, object: &Object<'_>) -> Checked<Made> {
        let count_include_pad = flag(object, "count_include_pad", false)?;
        let (x, window, shape) = self.pool_window(object, false)?;
        Ok((Op::AvgPool { x, window, count_include_pad }, shape, DType::F32))
    }

    fn pool_window(&mut self, object: &Object<'_>, dilates: bool) -> Checked<(ValueId, Window, ShapeBuf)> {
        let in_at = object.required("in")?;
        let x = self.float(&in_at)?;
        let kernel_at = object.required("kernel")?;
        let kernel = counts(&kernel_at)?;
        let sizes = self.value(x).shape.clone();
        if kernel.is_empty() || kernel.len() >= sizes.len() {
            let found = format!("a window of {} axes over shape {sizes:?}", kernel.len());
            return Err(kernel_at.fault(found, "1 to 3 axes, behind an axis of channels", "Reshape the input: [.., C, s..]"));
        }
        let first = sizes.len() - kernel.len();
        let (window, shape) = self.window(object, &in_at, x, kernel, dilates)?;
        // Each position of the window has an element that is no padding: there is a largest, and a number to divide by.
        for axis in 0..window.kernel.len() {
            let size = sizes[first + axis];
            let covers = |position: usize| {
                // The first element of the window that is not in the padding before the axis.
                let before = window.pads[axis].0.saturating_sub(position * window.strides[axis]);
                let tap = before.div_ceil(window.dilations[axis]);
                tap < window.kernel[axis] && window.source(axis, size, position, tap).is_some()
            };
            if let Some(position) = (0..shape[first + axis]).find(|position| !covers(*position)) {
                let found = format!("position {position} of the window lies in the padding of axis {}", first + axis);
                return Err(object.at.fault(found, "an element under each position of the window", "Pad less than the window's size"));
            }
        }
        Ok((x, window, shape))
    }

    /// The window that the keys describe, and the shape of its positions over the last axes of `x`.
    fn window(&self, object: &Object<'_>, in_at: &At<'_>, x: ValueId, kernel: Vec<usize>, dilates: bool) -> Checked<(Window, ShapeBuf)> {
        let axes = kernel.len();
        let per_axis = |key| match object.optional(key) {
            None => Ok(vec![1; axes]),
            Some(at) => {
                let list = counts(&at)?;
                if list.len() == axes { Ok(list) } else { Err(at.wrong(format!("a list of {axes}, one per axis of the window"))) }
            }
        };
        let strides = per_axis("strides")?;
        let dilations = if dilates { per_axis("dilations")? } else { vec![1; axes] };
        let pads = object.optional("pads").map_or(Ok(vec![(0, 0); axes]), |at| pads(&at, axes))?;
        let window = Window { kernel, strides, dilations, pads };
        let mut shape = self.value(x).shape.clone();
        let first = shape.len() - axes;
        let Some(positions) = window.positions(&shape[first..]) else {
            let found = format!("value {:?} of shape {shape:?}", self.value(x).name);
            let expected = format!("last axes that a window of {:?} fits in, padding and dilation counted", window.kernel);
            return Err(in_at.fault(found, expected, "Shapes are per row, without the batch: [.., C, s..]"));
        };
        shape[first..].copy_from_slice(&positions);
        Ok((window, shape))
    }
}

/// Positive numbers, one per axis of a window.
fn counts(at: &At<'_>) -> Checked<Vec<usize>> {
    at.list(SPACE_AXES_MAX)?.iter().map(|at| at.count(1, VALUE_ELEMENTS_MAX)).collect()
}

/// Axes that a window may have.
const SPACE_AXES_MAX: usize = 3;
const KERNEL: &str = "[O, C / groups, k..] with 1 to 3 axes of the window";
