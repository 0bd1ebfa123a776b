//! Reductions, softmax, running sums, orders: over axes of the row, never over the rows.

use serde_json::json;

use crate::model::DType;

use super::super::constant::{Const, Elem};
use super::super::error::{Checked, problem};
use super::super::ir::IrId;
use super::super::nd::Nd;
use super::super::node::Node;
use super::super::value::{Row, Size, Value};
use super::Lower;
use super::ops::{axis_of, first, input, ints_or, optional};

impl Lower {
    /// A reduction of any kind.
    pub fn reduce_op(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?;
        let rank = value.rank();
        let axes = match ints_or(node, "axes", inputs, 1)? {
            Some(axes) if !axes.is_empty() => axes.into_iter().map(|axis| axis_of(axis, rank)).collect::<Checked<Vec<_>>>()?,
            _ if node.flag("noop_with_empty_axes") => return Ok(value.clone()),
            _ => (0..rank).collect(),
        };
        let keep = node.int("keepdims", 1) != 0;
        let op = node.proto.op_type.as_str();
        if let Value::Sizes(sizes) = value {
            return self.reduce_sizes(op, sizes, keep);
        }
        if let Value::Const(constant) = value
            && let Some(folded) = self.reduce_constant(op, constant, &axes, keep)?
        {
            self.folded += 1;
            return Ok(folded);
        }
        let row = self.row(value)?;
        let own = axes.iter().map(|axis| row.own_axis(*axis, "reduces values")).collect::<Checked<Vec<_>>>()?;
        let x = self.ir(&row)?;
        let id = self.reduced(op, x, &own, keep)?;
        let id = if op == "ReduceSum" { self.around(id, row.elem)? } else { id };
        let batch = row.batch.map(|batch| match keep {
            true => batch,
            false => super::super::value::Batch { at: batch.at - axes.iter().filter(|axis| **axis < batch.at).count(), ..batch },
        });
        Ok(Lower::row_of(batch, row.elem, self.shape(id), id))
    }

    /// The product, sum.. of sizes: all of them to one.
    fn reduce_sizes(&mut self, op: &str, sizes: &Nd<Size>, keep: bool) -> Checked<Value> {
        let combine = |a: Size, b: Size| match (op, a.known(), b.known()) {
            ("ReduceProd", Some(k), _) => Some(Size { rows: b.rows.checked_mul(k)?, fixed: b.fixed.checked_mul(k)? }),
            ("ReduceProd", _, Some(k)) => Some(Size { rows: a.rows.checked_mul(k)?, fixed: a.fixed.checked_mul(k)? }),
            ("ReduceSum", ..) => Some(Size { rows: a.rows.checked_add(b.rows)?, fixed: a.fixed.checked_add(b.fixed)? }),
            _ => None,
        };
        let start = Size::fixed(i64::from(op == "ReduceProd"));
        let total = sizes.data.iter().try_fold(start, |a, b| combine(a, *b)).ok_or_else(super::align::sizes_used)?;
        let shape = if keep { vec![1; sizes.shape.len()] } else { vec![] };
        Ok(Value::sizes(&self.label, Nd { shape, data: vec![total] }))
    }

    fn reduce_constant(&mut self, op: &str, value: &Const, axes: &[usize], keep: bool) -> Checked<Option<Value>> {
        let (start, combine): (f64, fn(f64, f64) -> f64) = match op {
            "ReduceSum" | "ReduceMean" => (0.0, |a, b| a + b),
            "ReduceProd" => (1.0, |a, b| a * b),
            "ReduceMax" => (f64::NEG_INFINITY, f64::max),
            "ReduceMin" => (f64::INFINITY, f64::min),
            _ => return Ok(None),
        };
        let kept: Vec<usize> = value.shape.iter().enumerate().map(|(axis, size)| if axes.contains(&axis) { 1 } else { *size }).collect();
        let elements: usize = kept.iter().product();
        if value.len() == 0 || (!value.elem.is_float() && op == "ReduceMean") {
            return Ok(None);
        }
        self.spend(value.len())?;
        let mut results = vec![start; elements];
        // Where each element goes: the broadcast of the result's places.
        let places = super::super::nd::Move::Broadcast(value.shape.clone()).places(&kept);
        for (i, place) in places.into_iter().enumerate() {
            results[place] = combine(results[place], value.at(i));
        }
        if op == "ReduceMean" {
            let count = (value.len() / elements) as f64;
            results.iter_mut().for_each(|x| *x /= count);
        }
        let shape = if keep {
            kept
        } else {
            value.shape.iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, size)| *size).collect()
        };
        Ok(Some(self.made(value.elem, shape, results)))
    }

    /// A reduction over axes of the row.
    pub fn reduced(&mut self, op: &str, x: IrId, axes: &[usize], keep: bool) -> Checked<IrId> {
        match op {
            "ReduceSum" => self.reduce("reduce_sum", x, axes, keep),
            "ReduceMean" => self.reduce("reduce_mean", x, axes, keep),
            "ReduceMax" => self.reduce("reduce_max", x, axes, keep),
            "ReduceMin" => self.reduce("reduce_min", x, axes, keep),
            "ReduceProd" => self.reduce("reduce_prod", x, axes, keep),
            "ReduceL1" => {
                let size = self.unary("abs", x)?;
                self.reduce("reduce_sum", size, axes, keep)
            }
            "ReduceSumSquare" | "ReduceL2" => {
                let square = self.both("mul", x, x)?;
                let sum = self.reduce("reduce_sum", square, axes, keep)?;
                if op == "ReduceL2" { self.unary("sqrt", sum) } else { Ok(sum) }
            }
            "ReduceLogSum" => {
                let sum = self.reduce("reduce_sum", x, axes, keep)?;
                self.unary("log", sum)
            }
            // Stable: the largest is taken out and added again.
            "ReduceLogSumExp" => {
                let most = self.reduce("reduce_max", x, axes, true)?;
                let rest = self.both("sub", x, most)?;
                let rest = self.unary("exp", rest)?;
                let sum = self.reduce("reduce_sum", rest, axes, true)?;
                let log = self.unary("log", sum)?;
                let result = self.both("add", log, most)?;
                if keep {
                    return Ok(result);
                }
                let shape: Vec<usize> =
                    self.shape(x).iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, size)| *size).collect();
                self.reshaped(result, &shape)
            }
            other => Err(problem(format!("the reduction {other}"), "Express it with other ops")),
        }
    }

    /// A value and its axis, of an op that works along one axis.
    fn along(&mut self, value: &Value, axis: i64, what: &str) -> Checked<(Row, IrId, usize)> {
        let row = self.row(value)?;
        let own = row.own_axis(axis_of(axis, row.rank())?, what)?;
        let x = self.ir(&row)?;
        Ok((row, x, own))
    }

    /// Softmax, LogSoftmax.
    pub fn softmax_op(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?;
        // Before version 13 all axes from this one on were one.
        let old = self.opset < 13;
        let axis = node.int("axis", if old { 1 } else { -1 });
        if old && axis_of(axis, value.rank())? + 1 != value.rank() {
            let remedy = "Export with opset_version=13 or later, or normalise along the last axis";
            return Err(problem(
                format!("axis {axis} of {} axes, which version {} takes as one from there on", value.rank(), self.opset),
                remedy,
            ));
        }
        let (row, x, axis) = self.along(value, axis, "normalises")?;
        let id = match node.proto.op_type.as_str() {
            "Softmax" => self.softmax(x, axis)?,
            _ => {
                let sum = self.reduced("ReduceLogSumExp", x, &[axis], true)?;
                self.both("sub", x, sum)?
            }
        };
        Ok(self.like(&row, row.elem, id))
    }

    /// CumSum.
    pub fn cumsum(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let axis = input(inputs, 1)?.constant().and_then(Const::number);
        let axis = axis.ok_or_else(|| problem("an axis that is computed", "Use a constant axis"))?;
        let (row, x, axis) = self.along(first(inputs)?, axis as i64, "sums")?;
        let mut args = vec![("axis", json!(axis))];
        for key in ["exclusive", "reverse"] {
            if node.flag(key) {
                args.push((key, json!(true)));
            }
        }
        let id = self.map("cumsum", x, args, row.shape.clone(), row.dtype())?;
        let id = self.around(id, row.elem)?;
        Ok(self.like(&row, row.elem, id))
    }

    /// TopK: values and indices.
    pub fn topk(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        let k = input(inputs, 1)?.constant().and_then(Const::number);
        let k = k.ok_or_else(|| problem("a k that is computed", "Use a constant k"))? as usize;
        let (row, x, axis) = self.along(first(inputs)?, node.int("axis", -1), "orders values")?;
        if k == 0 || k > row.shape[axis] {
            return Err(problem(format!("the {k} largest of {}", row.shape[axis]), "Export the model again"));
        }
        let mut args = vec![("axis", json!(axis)), ("k", json!(k))];
        if node.int("largest", 1) == 0 {
            args.push(("largest", json!(false)));
        }
        let mut shape = row.shape.clone();
        shape[axis] = k;
        let mut values = Vec::new();
        for (at, op, elem) in [(0, "topk", row.elem), (1, "argtopk", Elem::I64)] {
            values.push(if node.wants(at) {
                let x = self.cast(x, DType::F32)?;
                let id = self.map(op, x, args.clone(), shape.clone(), if at == 0 { DType::F32 } else { DType::I64 })?;
                let id = self.cast(id, elem.dtype())?;
                self.like(&row, elem, id)
            } else {
                Value::Absent
            });
        }
        Ok(values)
    }

    /// ArgMax, ArgMin.
    pub fn arg_max(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        node.only("select_last_index", 0)?;
        let value = first(inputs)?;
        let axis = axis_of(node.int("axis", 0), value.rank())?;
        let (row, x, own) = self.along(value, axis as i64, "compares values")?;
        let mut args = vec![("axis", json!(own)), ("k", json!(1))];
        if node.proto.op_type == "ArgMin" {
            args.push(("largest", json!(false)));
        }
        let mut shape = row.shape.clone();
        shape[own] = 1;
        let x = self.cast(x, DType::F32)?;
        let id = self.map("argtopk", x, args, shape, DType::I64)?;
        let kept = self.like(&row, Elem::I64, id);
        if node.int("keepdims", 1) != 0 {
            return Ok(kept);
        }
        let target: Vec<Size> = kept.dims().into_iter().enumerate().filter(|(at, _)| *at != axis).map(|(_, size)| size).collect();
        self.shaped(&kept, &target, true)
    }

    /// DequantizeLinear of a constant.
    pub fn dequantize(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let (Some(x), Some(scale)) = (first(inputs)?.constant().cloned(), input(inputs, 1)?.constant().cloned()) else {
            return Err(problem(
                "a computed value in a quantised format",
                "Export the float model: the server quantises dense layers itself (--precision int8)",
            ));
        };
        let zero = match optional(inputs, 2) {
            Some(zero) => zero.constant().cloned().ok_or_else(|| problem("a zero point that is computed", "Export the float model"))?,
            None => Const::numbers("zero", Elem::I64, scale.shape.clone(), vec![0.0; scale.len()]),
        };
        if node.int("block_size", 0) != 0 || zero.len() != scale.len() {
            return Err(problem("block-wise quantisation", "Export the float model"));
        }
        self.spend(x.len())?;
        let rank = x.shape.len();
        let stride = |lower_axis: usize| x.shape[lower_axis + 1..].iter().product::<usize>().max(1);
        let (per, size) = if scale.len() == 1 {
            (1, 1)
        } else {
            let axis = axis_of(node.int("axis", 1), rank)?;
            if x.shape[axis] != scale.len() {
                return Err(problem("scales that do not fit the axis", "Export the model again"));
            }
            (stride(axis), scale.len())
        };
        let values = (0..x.len()).map(|i| {
            let c = i / per % size;
            (x.at(i) - zero.at(c)) * scale.at(c)
        });
        let values = values.collect();
        self.folded += 1;
        Ok(self.made(scale.elem, x.shape.clone(), values))
    }

    /// QuantizeLinear of a constant: what it gives is only read by DequantizeLinear.
    pub fn quantize(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let constants: Option<Vec<Const>> = inputs.iter().map(|value| value.constant().cloned()).collect();
        let Some([x, scale, rest @ ..]) = constants.as_deref() else {
            return Err(problem(
                "a computed value in a quantised format",
                "Export the float model: the server quantises dense layers itself (--precision int8)",
            ));
        };
        let zero = rest.first();
        let elem = zero.map_or(Elem::U8, |zero| zero.elem);
        let (low, high) = match elem {
            Elem::U8 => (0.0, 255.0),
            Elem::I8 => (-128.0, 127.0),
            Elem::U16 => (0.0, 65535.0),
            Elem::I16 => (-32768.0, 32767.0),
            _ => return Err(problem("this format of quantisation", "Export the float model")),
        };
        if node.int("block_size", 0) != 0 || zero.is_some_and(|zero| zero.len() != scale.len()) {
            return Err(problem("block-wise quantisation", "Export the float model"));
        }
        self.spend(x.len())?;
        let (per, size) = if scale.len() == 1 {
            (1, 1)
        } else {
            let axis = axis_of(node.int("axis", 1), x.shape.len())?;
            if x.shape[axis] != scale.len() {
                return Err(problem("scales that do not fit the axis", "Export the model again"));
            }
            (x.shape[axis + 1..].iter().product::<usize>().max(1), scale.len())
        };
        let values = (0..x.len())
            .map(|i| {
                let c = i / per % size;
                ((x.at(i) / scale.at(c)).round_ties_even() + zero.map_or(0.0, |zero| zero.at(c))).clamp(low, high)
            })
            .collect();
        Ok(self.made(elem, x.shape.clone(), values))
    }
}
