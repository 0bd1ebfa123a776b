//! Convolutions and pools over the axes behind the channels.

use serde_json::json;

use crate::model::DType;

use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId, Step};
use super::super::node::Node;
use super::super::value::{Row, Value, mixes};
use super::Lower;
use super::ops::{first, input, optional};

const INCONSISTENT: &str = "Export the model again: the graph is not consistent";

/// What a window does along the spatial axes.
#[derive(Debug)]
struct Window {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<usize>,
}

/// A list of sizes from 1 (`least`), or as many defaults.
fn sizes(node: &Node<'_>, name: &str, count: usize, least: i64) -> Checked<Vec<usize>> {
    let values = node.ints(name).map_or_else(|| vec![least; count], <[i64]>::to_vec);
    if values.len() != count || values.iter().any(|value| *value < least || *value > 1 << 20) {
        return Err(problem(format!("{name} {values:?}"), INCONSISTENT));
    }
    Ok(values.into_iter().map(|value| value as usize).collect())
}

impl Window {
    fn new(node: &Node<'_>, kernel: Vec<usize>, spatial: &[usize]) -> Checked<Window> {
        let d = kernel.len();
        if !(1..=3).contains(&d) || d != spatial.len() {
            return Err(problem(format!("a window of {d} axes over {} axes", spatial.len()), "1 to 3 axes can be imported"));
        }
        let (strides, dilations) = (sizes(node, "strides", d, 1)?, sizes(node, "dilations", d, 1)?);
        let mut pads = sizes(node, "pads", 2 * d, 0)?;
        for (axis, size) in spatial.iter().enumerate() {
            let reach = (kernel[axis] - 1) * dilations[axis] + 1;
            // The output is as long as the input over the stride; an odd pad goes behind (upper) or before (lower).
            let total = (size.div_ceil(strides[axis]) - 1) * strides[axis] + reach;
            let total = total.saturating_sub(*size);
            match node.text("auto_pad", "NOTSET") {
                "SAME_UPPER" => (pads[axis], pads[d + axis]) = (total / 2, total - total / 2),
                "SAME_LOWER" => (pads[axis], pads[d + axis]) = (total - total / 2, total / 2),
                "VALID" => (pads[axis], pads[d + axis]) = (0, 0),
                _ => {}
            }
        }
        Ok(Window { kernel, strides, dilations, pads })
    }

    /// Sizes of the result; the second value says whether rounding up would give other ones.
    fn result(&self, spatial: &[usize]) -> Checked<(Vec<usize>, bool)> {
        let d = spatial.len();
        let mut result = Vec::with_capacity(d);
        let mut ragged = false;
        for (axis, size) in spatial.iter().enumerate() {
            let reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1;
            let padded = size + self.pads[axis] + self.pads[d + axis];
            let steps = padded.checked_sub(reach).ok_or_else(|| problem(format!("a window of {reach} over {padded}"), INCONSISTENT))?;
            ragged |= steps % self.strides[axis] != 0;
            result.push(steps / self.strides[axis] + 1);
        }
        Ok((result, ragged))
    }

    fn args(&self) -> Vec<(&'static str, serde_json::Value)> {
        let mut args = Vec::new();
        if self.strides.iter().any(|stride| *stride != 1) {
            args.push(("strides", json!(self.strides)));
        }
        if self.pads.iter().any(|pad| *pad != 0) {
            args.push(("pads", json!(self.pads)));
        }
        args
    }
}

impl Lower {
    /// A value [rows, channels, spatial..]: rows at axis 0, possibly merged with axes of the row.
    fn channels(&mut self, value: &Value) -> Checked<(Row, IrId, usize)> {
        let row = self.row(value)?;
        match row.batch {
            Some(batch) if batch.at == 0 => {
                let id = self.ir(&row)?;
                let lead = batch.merged().len();
                if row.shape.len() < lead + 2 {
                    return Err(problem("a value without channels and spatial axes", INCONSISTENT));
                }
                Ok((row, id, lead))
            }
            _ => Err(mixes("convolves")),
        }
    }

    /// Conv.
    pub fn conv(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let fixed = |value: &Value| {
            value.constant().cloned().ok_or_else(|| problem("a kernel that is computed", "Use MatMul for products of values"))
        };
        let weight = fixed(input(inputs, 1)?)?;
        let bias = optional(inputs, 2).map(fixed).transpose()?;
        let (row, x, lead) = self.channels(first(inputs)?)?;
        let groups = usize::try_from(node.int("group", 1)).unwrap_or(0);
        let ([o, per_group, kernel @ ..], channels, spatial) = (&weight.shape[..], row.shape[lead], &row.shape[lead + 1..]) else {
            return Err(problem("a kernel without channels", INCONSISTENT));
        };
        if groups == 0 || per_group.checked_mul(groups) != Some(channels) || o % groups != 0 || kernel.contains(&0) {
            return Err(problem(format!("{channels} channels with a kernel {:?} in {groups} groups", weight.shape), INCONSISTENT));
        }
        let window = Window::new(node, kernel.to_vec(), spatial)?;
        let (result, _) = window.result(spatial)?;
        let shape = [&row.shape[..lead], &[*o], &result].concat();
        let mut args = window.args();
        if window.dilations.iter().any(|dilation| *dilation != 1) {
            args.push(("dilations", json!(window.dilations)));
        }
        if groups != 1 {
            args.push(("groups", json!(groups)));
        }
        let tensors = [Some(("weight", weight)), bias.map(|bias| ("bias", bias))].into_iter().flatten().collect();
        let step = Step { op: "conv", inputs: vec![("in", Arg::Value(x))], tensors, args, ..Step::default() };
        let id = self.step(step, shape, DType::F32)?;
        Ok(self.like(&row, row.elem, id))
    }

    /// MaxPool, AveragePool.
    pub fn pool(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        if node.wants(1) {
            return Err(problem("the indices of a pool", "Use the pooled values alone"));
        }
        let (row, x, lead) = self.channels(first(inputs)?)?;
        let spatial = &row.shape[lead + 1..];
        let kernel = sizes(node, "kernel_shape", spatial.len(), 1)?;
        let window = Window::new(node, kernel, spatial)?;
        let (result, ragged) = window.result(spatial)?;
        if ragged && node.flag("ceil_mode") {
            return Err(problem(
                "ceil_mode = 1 with windows that do not fit",
                "Pad the value so that the windows fit, or use ceil_mode = 0",
            ));
        }
        let is_max = node.proto.op_type == "MaxPool";
        let mut args = vec![("kernel", json!(window.kernel))];
        args.extend(window.args());
        let dilated = window.dilations.iter().any(|dilation| *dilation != 1);
        if dilated && !is_max {
            return Err(problem("an average pool with dilations", "Use dilations of 1"));
        }
        if dilated {
            args.push(("dilations", json!(window.dilations)));
        }
        if node.flag("count_include_pad") && !is_max {
            args.push(("count_include_pad", json!(true)));
        }
        let shape = [&row.shape[..lead + 1], &result].concat();
        let id = self.map(if is_max { "max_pool" } else { "avg_pool" }, x, args, shape, DType::F32)?;
        Ok(vec![self.like(&row, row.elem, id)])
    }

    /// GlobalAveragePool, GlobalMaxPool.
    pub fn global_pool(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let (row, x, lead) = self.channels(first(inputs)?)?;
        let axes: Vec<usize> = (lead + 1..row.shape.len()).collect();
        let op = if node.proto.op_type == "GlobalMaxPool" { "reduce_max" } else { "reduce_mean" };
        let id = self.reduce(op, x, &axes, true)?;
        Ok(self.like(&row, row.elem, id))
    }
}
