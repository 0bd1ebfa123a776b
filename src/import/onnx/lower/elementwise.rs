//! Elementwise arithmetic.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use crate::model::DType;

use super::super::constant::{Const, Elem};
use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId, Kind, Step};
use super::super::node::Node;
use super::super::value::{Atom, Repr, Row, Value};
use super::Lower;
use super::ops::first;

impl Lower {
    /// The value as a row value; constants are lifted.
    pub fn row(&mut self, value: &Value) -> Checked<Row> {
        match value {
            Value::Row(row) => Ok(row.clone()),
            Value::Const(constant) => {
                let id = self.lift(constant)?;
                Ok(Row { batch: None, shape: constant.shape.clone(), elem: constant.elem, repr: Repr::Ir(id) })
            }
            Value::Sizes(_) | Value::Held(_) => Err(super::align::sizes_used()),
            Value::Absent => Err(problem("a missing input", "Export the model again")),
        }
    }

    /// The same row with other elements.
    pub fn like(&self, row: &Row, elem: Elem, id: IrId) -> Value {
        Lower::row_of(row.batch, elem, self.shape(id), id)
    }

    /// A row value with a step applied to each element.
    pub fn each(&mut self, value: &Value, f: impl FnOnce(&mut Lower, IrId) -> Checked<IrId>) -> Checked<Value> {
        let row = self.row(value)?;
        let x = self.ir(&row)?;
        let y = f(self, x)?;
        Ok(self.like(&row, row.elem, y))
    }

    /// Ops of one value.
    pub fn unary_op(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?;
        let op = node.proto.op_type.as_str();
        if !value.elem().is_float() {
            return self.each(value, |lower, x| match op {
                "Neg" => lower.with("mul", x, -1.0).and_then(|x| lower.around(x, value.elem())),
                "Abs" => {
                    let negative = lower.with("mul", x, -1.0)?;
                    let size = lower.both("max", x, negative)?;
                    lower.around(size, value.elem())
                }
                "Relu" => lower.with("max", x, 0.0),
                "Sign" => lower.with("max", x, -1.0).and_then(|x| lower.with("min", x, 1.0)),
                _ => Err(problem("integers", "Cast to float32 before the op")),
            });
        }
        let alpha = |default: f64| node.float("alpha", default);
        let approximate = node.text("approximate", "none");
        let value = self.each(value, |lower, x| {
            Ok(match op {
                "Abs" | "Exp" | "Log" | "Sqrt" | "Tanh" | "Erf" | "Floor" | "Sign" | "Sin" | "Cos" | "Softplus" | "Relu" | "Sigmoid" => {
                    let name = ["abs", "exp", "log", "sqrt", "tanh", "erf", "floor", "sign", "sin", "cos", "softplus", "relu", "sigmoid"];
                    let name = name.into_iter().find(|name| *name == op.to_ascii_lowercase());
                    lower.unary(name.unwrap_or("abs"), x)?
                }
                "Neg" => lower.with("mul", x, -1.0)?,
                "Reciprocal" => lower.binary("div", Arg::Number(1.0), Arg::Value(x))?,
                "Ceil" => {
                    let x = lower.with("mul", x, -1.0)?;
                    let x = lower.unary("floor", x)?;
                    lower.with("mul", x, -1.0)?
                }
                "Round" => lower.round(x)?,
                "Tan" => {
                    let (s, c) = (lower.unary("sin", x)?, lower.unary("cos", x)?);
                    lower.both("div", s, c)?
                }
                "Softsign" => {
                    let d = lower.unary("abs", x)?;
                    let d = lower.with("add", d, 1.0)?;
                    lower.both("div", x, d)?
                }
                "LeakyRelu" => lower.leaky(x, alpha(0.01))?,
                "ThresholdedRelu" => {
                    let above = lower.compare("gt", Arg::Value(x), Arg::Number(alpha(1.0)))?;
                    lower.select(above, Arg::Value(x), Arg::Number(0.0))?
                }
                "Elu" => lower.elu(x, 1.0, alpha(1.0), 1.0)?,
                "Selu" => {
                    let gamma = node.float("gamma", 1.050_700_987_355_480_5);
                    lower.elu(x, gamma, alpha(1.673_263_242_354_377_2), 1.0)?
                }
                "Celu" => lower.elu(x, 1.0, alpha(1.0), alpha(1.0))?,
                "HardSigmoid" => lower.hard_sigmoid(x, alpha(0.2), node.float("beta", 0.5))?,
                "HardSwish" => {
                    let gate = lower.hard_sigmoid(x, 1.0 / 6.0, 0.5)?;
                    lower.both("mul", x, gate)?
                }
                "Mish" => {
                    let y = lower.unary("softplus", x)?;
                    let y = lower.unary("tanh", y)?;
                    lower.both("mul", x, y)?
                }
                "Gelu" if approximate == "tanh" => {
                    let cube = lower.both("mul", x, x)?;
                    let cube = lower.both("mul", cube, x)?;
                    let cube = lower.with("mul", cube, 0.044_715)?;
                    let y = lower.both("add", x, cube)?;
                    let y = lower.with("mul", y, (2.0 / PI).sqrt())?;
                    let y = lower.unary("tanh", y)?;
                    lower.half_of_one_plus(x, y)?
                }
                "Gelu" => {
                    let y = lower.with("mul", x, FRAC_1_SQRT_2)?;
                    let y = lower.unary("erf", y)?;
                    lower.half_of_one_plus(x, y)?
                }
                other => lower.curve(other, x)?,
            })
        })?;
        Ok(value)
    }

    /// x / 2 · (1 + y).
    fn half_of_one_plus(&mut self, x: IrId, y: IrId) -> Checked<IrId> {
        let half = self.with("mul", x, 0.5)?;
        let y = self.with("add", y, 1.0)?;
        self.both("mul", half, y)
    }

    /// To the nearest integer, halves to the even one: floor(x + 1/2), less 1 where that is odd and x lies half-way.
    fn round(&mut self, x: IrId) -> Checked<IrId> {
        let floor = self.unary("floor", x)?;
        let rest = self.both("sub", x, floor)?;
        let odd = self.with("mod", floor, 2.0)?;
        let half = self.compare("eq", Arg::Value(rest), Arg::Number(0.5))?;
        let above = self.compare("gt", Arg::Value(rest), Arg::Number(0.5))?;
        let above = self.cast(above, DType::F32)?;
        let up = self.select(half, Arg::Value(odd), Arg::Value(above))?;
        self.both("add", floor, up)
    }

    /// x, or slope · x below 0.
    pub fn leaky(&mut self, x: IrId, slope: f64) -> Checked<IrId> {
        let tensor = Const::numbers(&format!("{}.slope", self.label), Elem::F32, vec![1], vec![slope]);
        let shape = self.shape(x);
        if shape.is_empty() {
            let x = self.reshaped(x, &[1])?;
            let y = self.prelu(x, tensor)?;
            return self.reshaped(y, &[]);
        }
        self.prelu(x, tensor)
    }

    /// x, or slope · x below 0; the slope broadcasts to x.
    pub fn prelu(&mut self, x: IrId, slope: Const) -> Checked<IrId> {
        let shape = self.shape(x);
        let step = Step { op: "prelu", inputs: vec![("in", Arg::Value(x))], tensors: vec![("slope", slope)], ..Step::default() };
        self.step(step, shape, DType::F32)
    }

    /// scale · (x where x > 0, else alpha · (e^(x / width) − 1)).
    fn elu(&mut self, x: IrId, scale: f64, alpha: f64, width: f64) -> Checked<IrId> {
        // e^x of a positive x may be infinite: it is not picked, and never multiplied.
        let low = if width == 1.0 { x } else { self.with("div", x, width)? };
        let low = self.unary("exp", low)?;
        let low = self.with("sub", low, 1.0)?;
        let low = self.with("mul", low, alpha * scale)?;
        let high = if scale == 1.0 { x } else { self.with("mul", x, scale)? };
        let positive = self.compare("gt", Arg::Value(x), Arg::Number(0.0))?;
        self.select(positive, Arg::Value(high), Arg::Value(low))
    }

    fn hard_sigmoid(&mut self, x: IrId, alpha: f64, beta: f64) -> Checked<IrId> {
        let y = self.with("mul", x, alpha)?;
        let y = self.with("add", y, beta)?;
        self.clamp(y, Some(0.0), Some(1.0))
    }

    /// PRelu with a slope of any kind.
    pub fn prelu_op(&mut self, inputs: &[Value]) -> Checked<Value> {
        let [x, slope] = inputs else { return Err(problem("not two inputs", "Export the model again")) };
        let aligned = self.align_values(&[x, slope])?;
        let [Arg::Value(x_id), Arg::Value(slope_id)] = aligned.args[..] else { unreachable!("align_values gives values") };
        let result = match slope {
            Value::Const(constant) if self.shape(x_id) == aligned.shape => {
                let mut shape = self.shape(slope_id);
                while shape.len() > aligned.shape.len() {
                    shape.remove(0);
                }
                let slope = constant.reshaped(shape);
                if aligned.shape.is_empty() { self.leaky(x_id, slope.at(0))? } else { self.prelu(x_id, slope)? }
            }
            _ => {
                let low = self.both("mul", x_id, slope_id)?;
                let negative = self.compare("lt", Arg::Value(x_id), Arg::Number(0.0))?;
                self.select(negative, Arg::Value(low), Arg::Value(x_id))?
            }
        };
        self.aligned(&aligned, x.elem(), result)
    }

    /// Ops of two values, or of several one after the other.
    pub fn fold_op(&mut self, node: &Node<'_>, op: &'static str, inputs: &[Value]) -> Checked<Value> {
        let mut result = first(inputs)?.clone();
        for next in &inputs[1..] {
            result = self.binary_op(node, op, &result, next)?;
        }
        Ok(result)
    }

    /// One op of two values.
    pub fn binary_op(&mut self, node: &Node<'_>, op: &'static str, a: &Value, b: &Value) -> Checked<Value> {
        if let (Value::Const(a), Value::Const(b)) = (a, b) {
            return self.fold_two(node, op, a, b).map(Value::Const);
        }
        if let Some(value) = self.shifted(op, a, b)? {
            return Ok(value);
        }
        if let Some(value) = self.numbered(node, op, a, b)? {
            return Ok(value);
        }
        let elem = if matches!(a, Value::Row(_)) { a.elem() } else { b.elem() };
        let aligned = self.align(&[a, b])?;
        // Sums often start with zeros of the batch's size; bags without weights have ones.
        let neutral = [("add", 0.0), ("mul", 1.0)].into_iter().find(|(name, _)| *name == op).map(|(_, number)| number);
        if let (Some(neutral), [Arg::Value(x), Arg::Value(y)]) = (neutral, &aligned.args[..]) {
            for (fill, other) in [(*x, *y), (*y, *x)] {
                if self.is_fill(fill, neutral) && self.shape(other) == aligned.shape {
                    return Ok(Lower::row_of(aligned.batch, elem, aligned.shape, other));
                }
            }
        }
        let [x, y] = &aligned.args[..] else { unreachable!("two operands") };
        let (x, y) = (x.clone(), y.clone());
        let id = match (op, elem.is_float()) {
            ("div", false) => self.quotient(x, y, elem)?,
            ("pow", false) if matches!(y, Arg::Value(_)) => {
                return Err(problem("an integer to a power that is computed", "Cast to float32 before the op"));
            }
            ("pow", false) if matches!(y, Arg::Number(k) if k >= 0.0 && k.fract() == 0.0 && k < 64.0) => self.whole_power(x, y)?,
            ("pow", false) => {
                let float = |lower: &mut Lower, arg| match arg {
                    Arg::Value(id) => lower.cast(id, DType::F32).map(Arg::Value),
                    other => Ok(other),
                };
                let (x, y) = (float(self, x)?, float(self, y)?);
                let power = self.binary("pow", x, y)?;
                self.cast(power, DType::I64)?
            }
            ("pow", true) => {
                // The exponent may be an integer.
                let y = if let Arg::Value(id) = y { Arg::Value(self.cast(id, DType::F32)?) } else { y };
                match y {
                    Arg::Number(1.0) if matches!(x, Arg::Value(_)) => {
                        let Arg::Value(x) = x else { unreachable!("matched") };
                        x
                    }
                    Arg::Number(0.5) if matches!(x, Arg::Value(_)) => {
                        let Arg::Value(x) = x else { unreachable!("matched") };
                        self.unary("sqrt", x)?
                    }
                    _ => self.binary("pow", x, y)?,
                }
            }
            ("mod", _) if node.flag("fmod") => self.remainder(x, y)?,
            _ => self.binary(op, x, y)?,
        };
        let id = if matches!(op, "add" | "sub" | "mul" | "pow") { self.around(id, elem)? } else { id };
        self.aligned(&aligned, elem, id)
    }

    /// Whether a value is a fill of this number.
    fn is_fill(&self, id: IrId, number: f64) -> bool {
        self.filled(id) == Some(number)
    }

    /// The number that fills a value.
    pub fn filled(&self, id: IrId) -> Option<f64> {
        let Kind::Step(step) = &self.nodes[id.0].kind else { return None };
        match (step.op, &step.inputs[..]) {
            ("fill", _) => step.args.iter().find(|(key, _)| *key == "value").and_then(|(_, value)| value.as_f64()),
            ("broadcast" | "reshape", [(_, Arg::Value(from))]) => self.filled(*from),
            _ => None,
        }
    }

    /// Ids plus or minus constants: their origin is not lost.
    fn shifted(&mut self, op: &str, a: &Value, b: &Value) -> Checked<Option<Value>> {
        let sign = match op {
            "add" => 1,
            "sub" => -1,
            _ => return Ok(None),
        };
        let (row, constant) = match (a, b) {
            (Value::Row(row), Value::Const(constant)) => (row, constant),
            (Value::Const(constant), Value::Row(row)) if sign == 1 => (row, constant),
            _ => return Ok(None),
        };
        let (Repr::Atoms { atoms, integer: true }, Some(_)) = (&row.repr, constant.as_integers()) else { return Ok(None) };
        // Sums of 8 or 16 bits may wrap around.
        if row.elem.is_float() || row.elem.narrow().is_some_and(|(bits, _)| bits < 32) {
            return Ok(None);
        }
        let (row_shape, batch) = (row.shape.clone(), row.batch);
        let rank = row.rank().max(constant.shape.len());
        if rank != row.rank() {
            return Ok(None);
        }
        let own = match batch {
            Some(batch) if constant.shape.len() + batch.at >= rank => {
                let axis = batch.at + constant.shape.len() - rank;
                let mut shape = constant.shape.clone();
                if shape[axis] != 1 {
                    return Ok(None);
                }
                shape.splice(axis..=axis, batch.merged().iter().map(|_| 1));
                shape
            }
            _ => constant.shape.clone(),
        };
        if super::super::nd::broadcast_shapes(&[&own, &row_shape]).ok().as_ref() != Some(&row_shape) {
            return Ok(None);
        }
        self.spend(row_shape.iter().product())?;
        let offsets = constant.reshaped(own).moved(&super::super::nd::Move::Broadcast(row_shape));
        let offsets = offsets.as_integers().unwrap_or_default();
        let shifted: Option<Vec<Atom>> = atoms
            .iter()
            .zip(offsets)
            .map(|(atom, offset)| {
                let offset = offset.checked_mul(sign)?.checked_add(atom.offset)?;
                Some(Atom { offset, ..*atom })
            })
            .collect();
        let Some(shifted) = shifted else { return Ok(None) };
        Ok(Some(Value::Row(Row { repr: Repr::Atoms { atoms: shifted.into(), integer: true }, ..row.clone() })))
    }

    /// Clip, whose bounds are inputs, or attributes before version 11.
    pub fn clip(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?.clone();
        if node.has("min") || node.has("max") {
            let bound = |name: &str| node.has(name).then(|| node.float(name, 0.0));
            return self.each(&value, |lower, x| lower.clamp(x, bound("min"), bound("max")));
        }
        let bound = |at: usize| inputs.get(at).filter(|value| value.is_there());
        let number = |value: Option<&Value>| value.and_then(|value| value.constant().and_then(Const::number));
        let is_number = |value: Option<&Value>| value.is_none_or(|value| number(Some(value)).is_some_and(|number| !number.is_nan()));
        if is_number(bound(1)) && is_number(bound(2)) {
            let (min, max) = (number(bound(1)), number(bound(2)));
            return self.each(&value, |lower, x| lower.clamp(x, min, max));
        }
        let mut result = value;
        for (at, op) in [(1, "max"), (2, "min")] {
            if let Some(limit) = bound(at) {
                let elem = result.elem();
                let aligned = self.align(&[&result, limit])?;
                let id = self.binary(op, aligned.args[0].clone(), aligned.args[1].clone())?;
                result = self.aligned(&aligned, elem, id)?;
            }
        }
        Ok(result)
    }
}
