//! GRU: the recurrent layer that bundles have.

use serde_json::json;

use crate::model::DType;

use super::super::constant::{Const, Elem};
use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId, Step};
use super::super::nd::Move;
use super::super::node::Node;
use super::super::value::{Batch, Row, Value, mixes};
use super::Lower;
use super::ops::{first, input, optional};

const INCONSISTENT: &str = "Export the model again: the graph is not consistent";

/// Parameters of one direction, in the bundle's order of gates (reset, update, new).
struct Direction {
    w_ih: Const,
    w_hh: Const,
    b_ih: Option<Const>,
    b_hh: Option<Const>,
}

/// A weight of a recurrent layer.
pub(super) fn fixed(inputs: &[Value], at: usize) -> Checked<Const> {
    let weight = input(inputs, at)?.constant().cloned();
    weight.ok_or_else(|| problem("weights that are computed", "Export the model with constant weights"))
}

impl Lower {
    /// GRU in either layout and direction, with lengths and an initial state.
    pub fn gru(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        let (w, r) = (fixed(inputs, 1)?, fixed(inputs, 2)?);
        let b = optional(inputs, 3)
            .map(|b| b.constant().cloned().ok_or_else(|| problem("biases that are computed", "Export the model with constant weights")))
            .transpose()?;
        let standard = |names: &[&str]| {
            names.chunks(2).all(|pair| pair.len() == 2 && pair[0].eq_ignore_ascii_case("sigmoid") && pair[1].eq_ignore_ascii_case("tanh"))
        };
        if !standard(&node.texts("activations")) || node.has("clip") {
            return Err(problem("activations other than sigmoid and tanh, or a clip", "Train with the standard GRU"));
        }
        let layout = node.int("layout", 0);
        let rows_at = if layout == 0 { 1 } else { 0 };
        let x = self.row(first(inputs)?)?;
        match x.batch {
            Some(batch) if batch == Batch::at(rows_at) && x.shape.len() == 2 => {}
            _ => return Err(mixes("runs over a sequence")),
        }
        let (steps, features) = (x.shape[0], x.shape[1]);
        let ([directions, gates, i], [d2, g2, hidden]) = (&w.shape[..], &r.shape[..]) else {
            return Err(problem("weights of another rank than 3", INCONSISTENT));
        };
        let consistent =
            (directions, gates) == (d2, g2) && *gates == 3 * hidden && *i == features && (1..=2).contains(directions) && *hidden > 0;
        if !consistent || b.as_ref().is_some_and(|b| b.shape != [*directions, 2 * gates]) {
            return Err(problem(format!("weights {:?} and {:?} for {features} features", w.shape, r.shape), INCONSISTENT));
        }
        let (directions, hidden) = (*directions, *hidden);
        let word = node.text("direction", "forward");
        let reversed: &[bool] = match (word, directions) {
            ("forward", 1) => &[false],
            ("reverse", 1) => &[true],
            ("bidirectional", 2) => &[false, true],
            _ => return Err(problem(format!("direction {word:?} with weights for {directions}"), INCONSISTENT)),
        };
        let x_id = self.ir(&x)?;
        let length = self.lengths(inputs, steps)?;
        let initial = optional(inputs, 5).filter(|value| !is_zero(value)).map(|value| self.row(value)).transpose()?;
        let (mut all, mut last) = (Vec::new(), Vec::new());
        for (direction, reverse) in reversed.iter().enumerate() {
            let own = self.direction(&w, &r, b.as_ref(), direction, hidden)?;
            let h0 = initial.as_ref().map(|row| self.initial(row, direction, hidden, rows_at)).transpose()?;
            for (output, is_last) in [(0, false), (1, true)] {
                if !node.wants(output) {
                    continue;
                }
                let mut step_inputs = vec![("in", Arg::Value(x_id))];
                step_inputs.extend(h0.map(|id| ("h0", Arg::Value(id))));
                step_inputs.extend(length.map(|id| ("length", Arg::Value(id))));
                let tensors = [
                    Some(("w_ih", own.w_ih.clone())),
                    Some(("w_hh", own.w_hh.clone())),
                    own.b_ih.clone().map(|b| ("b_ih", b)),
                    own.b_hh.clone().map(|b| ("b_hh", b)),
                ];
                let mut args = Vec::new();
                if node.int("linear_before_reset", 0) == 0 {
                    args.push(("reset_after", json!(false)));
                }
                if *reverse {
                    args.push(("reverse", json!(true)));
                }
                if is_last {
                    args.push(("last", json!(true)));
                }
                let shape = if is_last { vec![hidden] } else { vec![steps, hidden] };
                let tensors = tensors.into_iter().flatten().collect();
                let step = Step { op: "gru", inputs: step_inputs, tensors, args, ..Step::default() };
                let id = self.step(step, shape, DType::F32)?;
                if is_last { last.push(id) } else { all.push(id) }
            }
        }
        let elem = x.elem;
        // Y is [T, directions, N, H] (layout 0) or [N, T, directions, H]; Y_h [directions, N, H] or [N, directions, H].
        let y = if all.is_empty() {
            Value::Absent
        } else {
            let id = self.stacked(&all, 1)?;
            Lower::row_of(Some(Batch::at(if layout == 0 { 2 } else { 0 })), elem, vec![steps, directions, hidden], id)
        };
        let y_h = if last.is_empty() {
            Value::Absent
        } else {
            let id = self.stacked(&last, 0)?;
            Lower::row_of(Some(Batch::at(if layout == 0 { 1 } else { 0 })), elem, vec![directions, hidden], id)
        };
        Ok(vec![y, y_h])
    }

    /// Values side by side on a new axis.
    pub fn stacked(&mut self, parts: &[IrId], axis: usize) -> Checked<IrId> {
        let mut lifted = Vec::with_capacity(parts.len());
        for part in parts {
            let mut shape = self.shape(*part);
            shape.insert(axis, 1);
            lifted.push(self.reshaped(*part, &shape)?);
        }
        self.concat(&lifted, axis)
    }

    /// ONNX keeps the gates as update, reset, new.
    fn direction(&mut self, w: &Const, r: &Const, b: Option<&Const>, direction: usize, hidden: usize) -> Checked<Direction> {
        self.spend(w.len().saturating_add(r.len()))?;
        let order: Vec<usize> = (hidden..2 * hidden).chain(0..hidden).chain(2 * hidden..3 * hidden).collect();
        let gates = |tensor: &Const, name: &str| {
            let own = tensor.moved(&Move::Pick(0, vec![direction]));
            let mut own = own.reshaped(own.shape[1..].to_vec()).moved(&Move::Pick(0, order.clone()));
            own.name = format!("{}.{name}", tensor.name).into();
            own
        };
        let bias = |half: usize, name: &str| -> Option<Const> {
            let b = b?;
            let places: Vec<usize> = order.iter().map(|gate| direction * 6 * hidden + half * 3 * hidden + gate).collect();
            let mut own = b.picked(vec![3 * hidden], &places);
            own.name = format!("{}.{name}", b.name).into();
            Some(own)
        };
        let suffix = if direction == 0 { "" } else { ".reverse" };
        Ok(Direction {
            w_ih: gates(w, &format!("ih{suffix}")),
            w_hh: gates(r, &format!("hh{suffix}")),
            b_ih: bias(0, &format!("ih{suffix}")),
            b_hh: bias(1, &format!("hh{suffix}")),
        })
    }

    /// The initial state of a direction: [H].
    pub fn initial(&mut self, row: &Row, direction: usize, hidden: usize, rows_at: usize) -> Checked<IrId> {
        let own = match row.batch {
            Some(batch) if batch == Batch::at(rows_at) => row.clone(),
            None if row.shape.len() == 3 && row.shape[rows_at] == 1 => {
                let mut shape = row.shape.clone();
                shape.remove(rows_at);
                self.move_row(row, &Move::Reshape(shape))?
            }
            _ => return Err(mixes("starts a sequence")),
        };
        if own.shape.len() != 2 || own.shape[1] != hidden || direction >= own.shape[0] {
            return Err(problem(format!("an initial state of shape {:?}", own.shape), INCONSISTENT));
        }
        let picked = self.move_row(&own, &Move::Pick(0, vec![direction]))?;
        let flat = self.move_row(&picked, &Move::Reshape(vec![hidden]))?;
        self.ir(&flat)
    }
}

/// Whether a value is zeros alone.
pub fn is_zero(value: &Value) -> bool {
    matches!(value, Value::Const(constant) if constant.elem != Elem::Bool && constant.to_f64().iter().all(|x| *x == 0.0))
}
