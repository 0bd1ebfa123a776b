//! Normalisations: over axes of the row, with statistics that training left behind or that the row gives.

use serde_json::json;

use crate::model::DType;

use super::super::constant::{Const, Elem};
use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId, Step};
use super::super::node::Node;
use super::super::value::{Value, mixes};
use super::Lower;
use super::ops::{axis_of, first, input, optional};

const INCONSISTENT: &str = "Export the model again: the graph is not consistent";

fn fixed(inputs: &[Value], at: usize, what: &str) -> Checked<Const> {
    input(inputs, at)?
        .constant()
        .cloned()
        .ok_or_else(|| problem(format!("{what} that is computed"), "Export the model with constant parameters"))
}

impl Lower {
    /// BatchNormalization with the statistics of training.
    pub fn batch_normalization(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        if node.flag("training_mode") || node.wants(1) {
            return Err(problem(
                "batch normalisation in training mode, which averages over the rows",
                "Export the model in evaluation mode (model.eval())",
            ));
        }
        let row = self.row(first(inputs)?)?;
        let rank = row.rank();
        let axis = if rank == 1 { return Err(mixes("normalises")) } else { row.own_axis(1, "normalises")? };
        let names = ["weight", "bias", "mean", "var"];
        let mut tensors = Vec::new();
        for (at, name) in names.into_iter().enumerate() {
            let tensor = fixed(inputs, at + 1, name)?;
            if tensor.shape != [row.shape[axis]] {
                return Err(problem(format!("{name} of shape {:?} for {} channels", tensor.shape, row.shape[axis]), INCONSISTENT));
            }
            tensors.push((name, tensor));
        }
        let args = vec![("axis", json!(axis)), ("eps", json!(node.float("epsilon", 1e-5)))];
        let x = self.ir(&row)?;
        let step = Step { op: "batch_norm", inputs: vec![("in", Arg::Value(x))], tensors, args, ..Step::default() };
        let id = self.step(step, row.shape.clone(), DType::F32)?;
        Ok(vec![self.like(&row, row.elem, id)])
    }

    /// (x − mean) / sqrt(variance + eps) over the last `axes` axes of the row, times weight, plus bias of those sizes.
    fn layer_norm(&mut self, x: IrId, axes: usize, weight: Option<Const>, bias: Option<Const>, eps: f64) -> Checked<IrId> {
        let shape = self.shape(x);
        let tensors = [weight.map(|weight| ("weight", weight)), bias.map(|bias| ("bias", bias))].into_iter().flatten().collect();
        let args = vec![("axes", json!(axes)), ("eps", json!(eps))];
        self.step(Step { op: "layer_norm", inputs: vec![("in", Arg::Value(x))], tensors, args, ..Step::default() }, shape, DType::F32)
    }

    /// LayerNormalization.
    pub fn layer_normalization(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        if node.wants(1) || node.wants(2) {
            return Err(problem("the mean or deviation of a layer normalisation", "Use the normalised value alone"));
        }
        let row = self.row(first(inputs)?)?;
        let rank = row.rank();
        let axis = axis_of(node.int("axis", -1), rank)?;
        for axis in axis..rank {
            row.own_axis(axis, "normalises")?;
        }
        let own = row.own_axis(axis, "normalises")?;
        let sizes = row.shape[own..].to_vec();
        let x = self.ir(&row)?;
        let parameter = |at: usize| -> Option<Const> {
            let constant = optional(inputs, at)?.constant()?;
            (constant.len() == sizes.iter().product::<usize>()).then(|| constant.reshaped(sizes.clone()))
        };
        let (scale, bias) = (parameter(1), parameter(2));
        let whole = (optional(inputs, 1).is_none() || scale.is_some()) && (optional(inputs, 2).is_none() || bias.is_some());
        let eps = node.float("epsilon", 1e-5);
        if whole {
            let id = self.layer_norm(x, sizes.len(), scale, bias, eps)?;
            return Ok(vec![self.like(&row, row.elem, id)]);
        }
        let id = self.layer_norm(x, sizes.len(), None, None, eps)?;
        let mut value = self.like(&row, row.elem, id);
        for (at, op) in [(1, "mul"), (2, "add")] {
            if let Some(parameter) = optional(inputs, at) {
                value = self.binary_op(node, op, &value, parameter)?;
            }
        }
        Ok(vec![value])
    }

    /// RMSNormalization (opset 23): x / sqrt(mean(x²) + eps) · scale, over the axes from one on.
    pub fn rms_normalization(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let row = self.row(first(inputs)?)?;
        let rank = row.rank();
        let own =
            (axis_of(node.int("axis", -1), rank)?..rank).map(|axis| row.own_axis(axis, "normalises")).collect::<Checked<Vec<usize>>>()?;
        let x = self.ir(&row)?;
        let square = self.both("mul", x, x)?;
        let mean = self.reduce("reduce_mean", square, &own, true)?;
        let mean = self.with("add", mean, node.float("epsilon", 1e-5))?;
        let root = self.unary("sqrt", mean)?;
        let id = self.both("div", x, root)?;
        let value = self.like(&row, row.elem, id);
        self.binary_op(node, "mul", &value, input(inputs, 1)?)
    }

    /// A value [rows, channels, ..] with its channel axis.
    fn image(&mut self, value: &Value) -> Checked<(super::super::value::Row, IrId, usize)> {
        let row = self.row(value)?;
        match row.batch {
            Some(batch) if batch.at == 0 && row.rank() >= 3 => {
                let id = self.ir(&row)?;
                Ok((row, id, batch.merged().len()))
            }
            _ => Err(mixes("normalises")),
        }
    }

    /// Times a number per channel, plus another; axis `axis` holds the channels.
    fn per_channel(&mut self, x: IrId, axis: usize, scale: &Const, bias: &Const) -> Checked<IrId> {
        let mut shape = vec![1; self.shape(x).len() - axis];
        shape[0] = scale.len();
        let (scale, bias) = (self.lift(&scale.reshaped(shape.clone()))?, self.lift(&bias.reshaped(shape))?);
        let x = self.both("mul", x, scale)?;
        self.both("add", x, bias)
    }

    /// InstanceNormalization: each channel over its spatial axes.
    pub fn instance_normalization(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let (scale, bias) = (fixed(inputs, 1, "a scale")?, fixed(inputs, 2, "a bias")?);
        let (row, x, axis) = self.image(first(inputs)?)?;
        if scale.shape != [row.shape[axis]] || bias.shape != scale.shape {
            return Err(problem("parameters that do not fit the channels", INCONSISTENT));
        }
        let id = self.layer_norm(x, row.shape.len() - axis - 1, None, None, node.float("epsilon", 1e-5))?;
        let id = self.per_channel(id, axis, &scale, &bias)?;
        Ok(self.like(&row, row.elem, id))
    }

    /// GroupNormalization: groups of channels with their spatial axes.
    pub fn group_normalization(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let (mut scale, mut bias) = (fixed(inputs, 1, "a scale")?, fixed(inputs, 2, "a bias")?);
        let (row, x, axis) = self.image(first(inputs)?)?;
        let channels = row.shape[axis];
        let groups = usize::try_from(node.int("num_groups", 1)).unwrap_or(0);
        if groups == 0 || channels % groups != 0 || scale.len() != bias.len() {
            return Err(problem(format!("{channels} channels in {groups} groups"), INCONSISTENT));
        }
        // Before opset 21 the parameters are per group.
        if scale.len() == groups && groups != channels {
            let each: Vec<usize> = (0..channels).map(|channel| channel / (channels / groups)).collect();
            (scale, bias) = (scale.picked(vec![channels], &each), bias.picked(vec![channels], &each));
        }
        if scale.len() != channels {
            return Err(problem("parameters that do not fit the channels", INCONSISTENT));
        }
        let mut apart = row.shape.clone();
        apart.splice(axis..=axis, [groups, channels / groups]);
        let id = self.reshaped(x, &apart)?;
        let id = self.layer_norm(id, apart.len() - axis - 1, None, None, node.float("epsilon", 1e-5))?;
        let id = self.reshaped(id, &row.shape)?;
        let id = self.per_channel(id, axis, &scale, &bias)?;
        Ok(self.like(&row, row.elem, id))
    }

    /// LpNormalization: a zero vector stays zero.
    pub fn lp_normalization(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let row = self.row(first(inputs)?)?;
        let axis = row.own_axis(axis_of(node.int("axis", -1), row.rank())?, "normalises")?;
        let x = self.ir(&row)?;
        let id = match node.int("p", 2) {
            2 => self.map("l2_norm", x, vec![("axis", json!(axis)), ("eps", json!(TINY))], row.shape.clone(), DType::F32)?,
            1 => {
                let sum = self.reduced("ReduceL1", x, &[axis], true)?;
                let sum = self.with("max", sum, TINY)?;
                self.both("div", x, sum)?
            }
            p => return Err(problem(format!("the norm of order {p}"), "Use 1 or 2")),
        };
        Ok(self.like(&row, row.elem, id))
    }

    /// MeanVarianceNormalization over axes of the row.
    pub fn mean_variance_normalization(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let row = self.row(first(inputs)?)?;
        let axes = node.ints("axes").unwrap_or(&[0, 2, 3]).to_vec();
        let own = axes.into_iter().map(|axis| row.own_axis(axis_of(axis, row.rank())?, "normalises")).collect::<Checked<Vec<_>>>()?;
        let x = self.ir(&row)?;
        let mean = self.reduce("reduce_mean", x, &own, true)?;
        let rest = self.both("sub", x, mean)?;
        let square = self.both("mul", rest, rest)?;
        let var = self.reduce("reduce_mean", square, &own, true)?;
        let deviation = self.unary("sqrt", var)?;
        let deviation = self.with("add", deviation, 1e-9)?;
        let id = self.both("div", rest, deviation)?;
        Ok(self.like(&row, row.elem, id))
    }

    /// A constant of f32.
    pub fn f32s(&self, suffix: &str, shape: Vec<usize>, values: Vec<f64>) -> Const {
        Const::numbers(&format!("{}{suffix}", self.label), Elem::F32, shape, values)
    }
}

/// Below every norm that matters: a divisor that leaves a zero vector zero.
pub const TINY: f64 = 1e-30;
