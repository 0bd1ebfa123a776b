//! Steps of the bundle, made one by one with their shapes.

use serde_json::{Value as Json, json};

use crate::limits::{AXES_MAX, GRAPH_ELEMENTS_MAX, NODES_MAX, VALUE_ELEMENTS_MAX};
use crate::model::DType;

use super::super::constant::{Const, Data, Elem};
use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId, Kind, Node, Step};
use super::super::nd::{broadcast_shapes, count};
use super::super::value::{Repr, Row};
use super::Lower;

/// A number that JSON can hold: infinities are words.
pub fn number(value: f64) -> Json {
    match value {
        f64::INFINITY => json!("inf"),
        f64::NEG_INFINITY => json!("-inf"),
        _ if value.fract() == 0.0 && value.abs() < 1e15 => json!(value as i64),
        _ => json!(value),
    }
}

impl Lower {
    /// Adds a value. Error: one that is larger than a bundle allows.
    pub fn push(&mut self, kind: Kind, shape: Vec<usize>, dtype: DType) -> Checked<IrId> {
        if shape.len() > AXES_MAX {
            return Err(problem(format!("a value of shape {shape:?} per row"), format!("At most {AXES_MAX} axes can be imported")));
        }
        match count(&shape) {
            Some(0) => return Err(problem(format!("a value without elements (shape {shape:?} per row)"), "Remove the empty part")),
            Some(elements) if elements <= VALUE_ELEMENTS_MAX => {}
            _ => {
                let remedy = format!("A value may have {VALUE_ELEMENTS_MAX} elements per row: is an axis the batch that should not be?");
                return Err(problem(format!("a value of shape {shape:?} per row"), remedy));
            }
        }
        // What no score needs is dropped later: the bound of a bundle holds for what is left.
        self.elements = self.elements.saturating_add(shape.iter().product());
        if self.nodes.len() >= 2 * NODES_MAX || self.elements > 4 * GRAPH_ELEMENTS_MAX {
            let what = format!("more than {} steps, or {} elements per row in all", 2 * NODES_MAX, 4 * GRAPH_ELEMENTS_MAX);
            return Err(problem(what, "Export a smaller graph"));
        }
        if let Kind::Step(step) = &kind {
            self.check_types(step)?;
        }
        self.nodes.push(Node { kind, shape, dtype, label: self.label.clone() });
        Ok(IrId(self.nodes.len() - 1))
    }

    /// Values of one type where ops combine them, floats where ops compute floats.
    fn check_types(&self, step: &Step) -> Checked<()> {
        const OF_ANY_TYPE: &[&str] = &[
            "add",
            "sub",
            "mul",
            "min",
            "max",
            "mod",
            "compare",
            "and",
            "or",
            "xor",
            "not",
            "where",
            "reduce_sum",
            "reduce_max",
            "reduce_min",
            "cumsum",
            "concat",
            "slice",
            "reshape",
            "transpose",
            "broadcast",
            "gather_const",
            "gather",
            "take_along",
            "embedding",
            "one_hot",
            "cast",
        ];
        const OF_ONE_TYPE: &[&str] = &["add", "sub", "mul", "min", "max", "mod", "compare", "concat"];
        let reads = Kind::Step(step.clone()).reads();
        let integers = reads.iter().filter(|id| self.dtype(**id) == DType::I64).count();
        let of_integers = ["gru", "where", "sdpa"].contains(&step.op);
        if integers > 0 && !OF_ANY_TYPE.contains(&step.op) && !of_integers {
            return Err(problem("integers where floats are computed", "Cast to float32 before the op"));
        }
        let mixed = integers != 0 && integers != reads.len();
        let fraction = integers > 0 && step.inputs.iter().any(|(_, arg)| matches!(arg, Arg::Number(number) if number.fract() != 0.0));
        if OF_ONE_TYPE.contains(&step.op) && (mixed || fraction) {
            return Err(problem("integers and floats in one op", "Cast one of them before the op"));
        }
        Ok(())
    }

    /// Shape of a value.
    pub fn shape(&self, id: IrId) -> Vec<usize> {
        self.nodes[id.0].shape.clone()
    }

    /// Type of a value.
    pub fn dtype(&self, id: IrId) -> DType {
        self.nodes[id.0].dtype
    }

    /// Any step.
    pub fn step(&mut self, step: Step, shape: Vec<usize>, dtype: DType) -> Checked<IrId> {
        self.push(Kind::Step(step), shape, dtype)
    }

    /// A step of one value, with further arguments.
    pub fn map(&mut self, op: &'static str, x: IrId, args: Vec<(&'static str, Json)>, shape: Vec<usize>, dtype: DType) -> Checked<IrId> {
        let step = Step { op, inputs: vec![("in", Arg::Value(x))], args, ..Step::default() };
        self.step(step, shape, dtype)
    }

    /// An elementwise step of one f32 value.
    pub fn unary(&mut self, op: &'static str, x: IrId) -> Checked<IrId> {
        let shape = self.shape(x);
        let x = self.cast(x, DType::F32)?;
        self.map(op, x, vec![], shape, DType::F32)
    }

    /// An elementwise step of two operands; the result has their type, or is a truth value.
    pub fn binary(&mut self, op: &'static str, a: Arg, b: Arg) -> Checked<IrId> {
        let step = Step { op, inputs: vec![("a", a), ("b", b)], ..Step::default() };
        self.operands(step, None)
    }

    /// A comparison: `lt`, `le`, `gt`, `ge`, `eq`, `ne`.
    pub fn compare(&mut self, cmp: &'static str, a: Arg, b: Arg) -> Checked<IrId> {
        let step = Step { op: "compare", inputs: vec![("a", a), ("b", b)], args: vec![("cmp", json!(cmp))], ..Step::default() };
        self.operands(step, Some(DType::I64))
    }

    /// `a` where `cond` is not 0, else `b`.
    pub fn select(&mut self, cond: IrId, a: Arg, b: Arg) -> Checked<IrId> {
        let dtype = [&a, &b].into_iter().find_map(|arg| if let Arg::Value(id) = arg { Some(self.dtype(*id)) } else { None });
        let step = Step { op: "where", inputs: vec![("cond", Arg::Value(cond)), ("a", a), ("b", b)], ..Step::default() };
        self.operands(step, Some(dtype.unwrap_or(DType::F32)))
    }

    /// A broadcasting step of operands.
    fn operands(&mut self, step: Step, dtype: Option<DType>) -> Checked<IrId> {
        let values: Vec<IrId> = step.inputs.iter().filter_map(|(_, arg)| if let Arg::Value(id) = arg { Some(*id) } else { None }).collect();
        let Some(first) = values.first() else { return Err(problem("an op of numbers alone", "Fold constants before the import")) };
        let dtype = dtype.unwrap_or(self.dtype(*first));
        let shapes: Vec<Vec<usize>> = values.iter().map(|id| self.shape(*id)).collect();
        let shape = broadcast_shapes(&shapes.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        self.step(step, shape, dtype)
    }

    /// With a number.
    pub fn with(&mut self, op: &'static str, a: IrId, b: f64) -> Checked<IrId> {
        self.binary(op, Arg::Value(a), Arg::Number(b))
    }

    /// Of two values.
    pub fn both(&mut self, op: &'static str, a: IrId, b: IrId) -> Checked<IrId> {
        self.binary(op, Arg::Value(a), Arg::Value(b))
    }

    /// Bounded from below, above or both.
    pub fn clamp(&mut self, x: IrId, min: Option<f64>, max: Option<f64>) -> Checked<IrId> {
        let (min, max) = (min.filter(|min| *min != f64::NEG_INFINITY), max.filter(|max| *max != f64::INFINITY));
        if min.is_none() && max.is_none() {
            return Ok(x);
        }
        // The upper bound wins, also over the lower one.
        if let (Some(low), Some(high)) = (min, max)
            && low > high
        {
            let x = self.clamp(x, min, None)?;
            return self.clamp(x, None, max);
        }
        if self.dtype(x) == DType::I64 {
            let x = min.map_or(Ok(x), |min| self.with("max", x, min))?;
            return max.map_or(Ok(x), |max| self.with("min", x, max));
        }
        let bound = |key, value: Option<f64>| value.map(|value| (key, number(value)));
        let args = [bound("min", min), bound("max", max)].into_iter().flatten().collect();
        let shape = self.shape(x);
        self.map("clamp", x, args, shape, DType::F32)
    }

    /// Of another type.
    pub fn cast(&mut self, x: IrId, to: DType) -> Checked<IrId> {
        if self.dtype(x) == to {
            return Ok(x);
        }
        let shape = self.shape(x);
        self.map("cast", x, vec![("to", json!(if to == DType::F32 { "f32" } else { "i64" }))], shape, to)
    }

    /// Same elements, other shape.
    pub fn reshaped(&mut self, x: IrId, shape: &[usize]) -> Checked<IrId> {
        // Of a value that was reshaped already, only the last shape counts.
        let mut x = x;
        while let Kind::Step(Step { op: "reshape", inputs, .. }) = &self.nodes[x.0].kind
            && let [(_, Arg::Value(from))] = inputs[..]
        {
            x = from;
        }
        if self.shape(x) == shape {
            return Ok(x);
        }
        let dtype = self.dtype(x);
        self.map("reshape", x, vec![("shape", json!(shape))], shape.to_vec(), dtype)
    }

    /// Axis i of the result is axis perm[i].
    pub fn transposed(&mut self, x: IrId, perm: &[usize]) -> Checked<IrId> {
        if perm.iter().enumerate().all(|(i, axis)| i == *axis) {
            return Ok(x);
        }
        let from = self.shape(x);
        let dtype = self.dtype(x);
        // Where only axes of one element move, nothing moves in memory.
        let moving: Vec<usize> = perm.iter().copied().filter(|axis| from[*axis] != 1).collect();
        let shape: Vec<usize> = perm.iter().map(|axis| from[*axis]).collect();
        if moving.is_sorted() {
            return self.reshaped(x, &shape);
        }
        self.map("transpose", x, vec![("perm", json!(perm))], shape, dtype)
    }

    /// numpy broadcast.
    pub fn broadcast(&mut self, x: IrId, shape: &[usize]) -> Checked<IrId> {
        if self.shape(x) == shape {
            return Ok(x);
        }
        let dtype = self.dtype(x);
        self.map("broadcast", x, vec![("shape", json!(shape))], shape.to_vec(), dtype)
    }

    /// Elements along an axis by index.
    pub fn picked(&mut self, x: IrId, axis: usize, indices: &[usize]) -> Checked<IrId> {
        let mut shape = self.shape(x);
        if indices.len() == shape[axis] && indices.iter().enumerate().all(|(i, index)| i == *index) {
            return Ok(x);
        }
        let dtype = self.dtype(x);
        shape[axis] = indices.len();
        let step = match indices {
            [first, second, ..] => second.checked_sub(*first).filter(|step| *step > 0),
            _ => Some(1),
        };
        let step = step.filter(|step| indices.windows(2).all(|pair| pair[1].checked_sub(pair[0]) == Some(*step)));
        if let (Some(step), Some(first), Some(last)) = (step, indices.first(), indices.last()) {
            let mut args = vec![("axis", json!(axis)), ("start", json!(first)), ("end", json!(last + 1))];
            if step != 1 {
                args.push(("step", json!(step)));
            }
            return self.map("slice", x, args, shape, dtype);
        }
        self.map("gather_const", x, vec![("axis", json!(axis)), ("indices", json!(indices))], shape, dtype)
    }

    /// Side by side along an axis.
    pub fn concat(&mut self, parts: &[IrId], axis: usize) -> Checked<IrId> {
        if let [one] = parts {
            return Ok(*one);
        }
        let Some(first) = parts.first() else { return Err(problem("a concatenation of nothing", "Export the model again")) };
        let mut shape = self.shape(*first);
        let dtype = self.dtype(*first);
        let mut size = 0;
        for part in parts {
            let own = self.shape(*part);
            let agrees = own.len() == shape.len() && (0..own.len()).all(|i| i == axis || own[i] == shape[i]);
            if !agrees || axis >= own.len() {
                return Err(problem(format!("shapes {shape:?} and {own:?} side by side"), "Export the model again"));
            }
            size += own[axis];
        }
        shape[axis] = size;
        let step =
            Step { op: "concat", inputs: vec![("in", Arg::List(parts.to_vec()))], args: vec![("axis", json!(axis))], ..Step::default() };
        self.step(step, shape, dtype)
    }

    /// A reduction over axes of the row; over none, the value itself.
    pub fn reduce(&mut self, op: &'static str, x: IrId, axes: &[usize], keep: bool) -> Checked<IrId> {
        if axes.is_empty() {
            return Ok(x);
        }
        let from = self.shape(x);
        let dtype = self.dtype(x);
        let shape: Vec<usize> = if keep {
            from.iter().enumerate().map(|(axis, size)| if axes.contains(&axis) { 1 } else { *size }).collect()
        } else {
            from.iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, size)| *size).collect()
        };
        if axes.iter().all(|axis| from[*axis] == 1) {
            return self.reshaped(x, &shape);
        }
        let mut args = vec![("axes", json!(axes))];
        if keep {
            args.push(("keep", json!(true)));
        }
        self.map(op, x, args, shape, dtype)
    }

    /// Softmax along an axis of the row.
    pub fn softmax(&mut self, x: IrId, axis: usize) -> Checked<IrId> {
        let shape = self.shape(x);
        self.map("softmax", x, vec![("axis", json!(axis))], shape, DType::F32)
    }

    /// A constant as a value.
    pub fn lift(&mut self, value: &Const) -> Checked<IrId> {
        if let Some((_, id)) = self.lifted.iter().find(|(known, _)| known.is_same(value)) {
            return Ok(*id);
        }
        let dtype = value.elem.dtype();
        let id = match value.number() {
            Some(only) if !only.is_nan() && value.fits_f64() => {
                let mut args = vec![("value", number(only)), ("shape", json!(value.shape))];
                if dtype == DType::I64 {
                    args.push(("dtype", json!("i64")));
                }
                self.step(Step { op: "fill", args, ..Step::default() }, value.shape.clone(), dtype)?
            }
            _ => {
                if let Data::F32(values) = &*value.data
                    && values.iter().any(|x| x.is_nan())
                {
                    return Err(problem(format!("the constant {:?} holds NaN", value.name), "Export a good checkpoint"));
                }
                self.push(Kind::Const(value.clone()), value.shape.clone(), dtype)?
            }
        };
        self.lifted.push((value.clone(), id));
        Ok(id)
    }

    /// The value as a step's.
    pub fn ir(&mut self, row: &Row) -> Checked<IrId> {
        match &row.repr {
            Repr::Ir(id) => Ok(*id),
            Repr::Numbers { .. } | Repr::Shape => Err(super::held::range_used()),
            Repr::Atoms { atoms, integer } => {
                self.push(Kind::Source { atoms: atoms.clone(), integer: *integer, elem: row.elem }, row.shape.clone(), row.dtype())
            }
        }
    }

    /// A value of zeros or another number.
    pub fn fill(&mut self, value: f64, shape: &[usize], elem: Elem) -> Checked<IrId> {
        let constant = Const::numbers(&self.label.clone(), elem, vec![], vec![value]);
        let one = self.lift(&constant)?;
        self.broadcast(one, shape)
    }
}
