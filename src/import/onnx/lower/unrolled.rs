//! LSTM and RNN, which bundles have no op for: step by step.

use crate::model::DType;

use super::super::constant::Const;
use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId};
use super::super::nd::Move;
use super::super::node::Node;
use super::super::value::{Batch, Value, mixes};
use super::Lower;
use super::ops::{first, optional};
use super::recurrent::{fixed, is_zero};

const INCONSISTENT: &str = "Export the model again: the graph is not consistent";

/// Steps that are unrolled: each becomes about 20 ops.
const STEPS_MAX: usize = 256;

/// What a step computes.
#[derive(Clone, Copy)]
enum Cell {
    Lstm,
    Rnn(&'static str),
}

impl Cell {
    fn gates(self) -> usize {
        if let Cell::Lstm = self { 4 } else { 1 }
    }
}

/// Weights of a direction.
struct Direction {
    w: Const,
    r: Const,
    bias: Option<Const>,
}

/// The layer's own sizes.
struct Sizes {
    steps: usize,
    hidden: usize,
}

impl Lower {
    /// LSTM or RNN in either layout and direction, with lengths and initial states.
    pub fn unrolled(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        let lstm = node.proto.op_type == "LSTM";
        let (w, r) = (fixed(inputs, 1)?, fixed(inputs, 2)?);
        let b = optional(inputs, 3).map(|_| fixed(inputs, 3)).transpose()?;
        let x = self.row(first(inputs)?)?;
        let layout = node.int("layout", 0);
        let rows_at = if layout == 0 { 1 } else { 0 };
        if x.batch != Some(Batch::at(rows_at)) || x.shape.len() != 2 {
            return Err(mixes("runs over a sequence"));
        }
        let ([directions, rows, features], [d2, r2, hidden]) = (&w.shape[..], &r.shape[..]) else {
            return Err(problem("weights of another rank than 3", INCONSISTENT));
        };
        let (directions, hidden) = (*directions, *hidden);
        let word = node.text("direction", "forward");
        let reversed: &[bool] = match (word, directions) {
            ("forward", 1) => &[false],
            ("reverse", 1) => &[true],
            ("bidirectional", 2) => &[false, true],
            _ => return Err(problem(format!("direction {word:?} with weights for {directions}"), INCONSISTENT)),
        };
        let cells = cells(node, lstm, directions)?;
        let gates = cells[0].gates();
        let consistent = (directions, *rows) == (*d2, *r2) && *rows == gates * hidden && *features == x.shape[1] && hidden > 0;
        if !consistent || b.as_ref().is_some_and(|b| b.shape != [directions, 2 * rows]) {
            return Err(problem(format!("weights {:?} and {:?} for {} features", w.shape, r.shape, x.shape[1]), INCONSISTENT));
        }
        let peepholes = optional(inputs, 7).is_some_and(|value| !is_zero(value));
        if node.has("clip") || node.flag("input_forget") || peepholes {
            return Err(problem("a clip, coupled gates or peepholes", "Train with the standard layer (torch.nn.LSTM, torch.nn.RNN)"));
        }
        let sizes = Sizes { steps: x.shape[0], hidden };
        if sizes.steps > STEPS_MAX {
            let remedy = "GRU is one op of a bundle, of any length: train with nn.GRU, or with fewer steps";
            return Err(problem(format!("{} steps, of which each becomes ops of its own; at most {STEPS_MAX}", sizes.steps), remedy));
        }
        let x_id = self.ir(&x)?;
        let length = self.lengths(inputs, sizes.steps)?;
        let (mut all, mut states, mut memories) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (reverse, cell)) in reversed.iter().zip(&cells).enumerate() {
            let own = self.weights(&w, &r, b.as_ref(), at, *cell)?;
            let mut start = Vec::new();
            for state in [5, 6].into_iter().take(if lstm { 2 } else { 1 }) {
                let given = optional(inputs, state).filter(|value| !is_zero(value)).map(|value| self.row(value)).transpose()?;
                start.push(given.map(|row| self.initial(&row, at, hidden, rows_at)).transpose()?);
            }
            let [outputs, state, memory] = self.unroll(*cell, x_id, &own, &start, length, *reverse, &sizes)?;
            all.push(outputs);
            states.push(state);
            memories.push(memory);
        }
        // Y is [T, directions, N, H] (layout 0) or [N, T, directions, H]; the states [directions, N, H] or [N, directions, H].
        let elem = x.elem;
        let y = self.stacked(&all, 1)?;
        let y = Lower::row_of(Some(Batch::at(if layout == 0 { 2 } else { 0 })), elem, vec![sizes.steps, directions, hidden], y);
        let mut results = vec![y];
        for parts in [states, memories].into_iter().take(if lstm { 2 } else { 1 }) {
            let id = self.stacked(&parts, 0)?;
            results.push(Lower::row_of(Some(Batch::at(rows_at)), elem, vec![directions, hidden], id));
        }
        Ok(results)
    }

    /// Outputs [T, H], last state and last memory [H] of a direction.
    #[allow(clippy::too_many_arguments)]
    fn unroll(
        &mut self,
        cell: Cell,
        x: IrId,
        own: &Direction,
        start: &[Option<IrId>],
        length: Option<IrId>,
        reverse: bool,
        sizes: &Sizes,
    ) -> Checked<[IrId; 3]> {
        let Sizes { steps, hidden } = *sizes;
        let gates = self.linear(x, own.w.clone(), own.bias.clone())?;
        let width = cell.gates() * hidden;
        let mut states: Vec<IrId> = Vec::with_capacity(2);
        for at in 0..2 {
            states.push(match start.get(at).copied().flatten() {
                Some(id) => id,
                None => self.fill(0.0, &[hidden], super::super::constant::Elem::F32)?,
            });
        }
        let (mut state, mut memory) = (states[0], states[1]);
        // Zeros need no product.
        let mut at_zero = start.first().copied().flatten().is_none();
        let mut outputs = vec![state; steps];
        let order: Vec<usize> = if reverse { (0..steps).rev().collect() } else { (0..steps).collect() };
        for step in order {
            let now = self.picked(gates, 0, &[step])?;
            let mut now = self.reshaped(now, &[width])?;
            if !at_zero {
                let before = self.linear(state, own.r.clone(), None)?;
                now = self.both("add", now, before)?;
            }
            let (next, kept) = match cell {
                Cell::Rnn(function) => (self.unary(function, now)?, memory),
                Cell::Lstm => self.lstm_step(now, memory, hidden)?,
            };
            outputs[step] = next;
            (state, memory) = match length {
                None => (next, kept),
                Some(length) => {
                    let taken = self.with_length(length, step)?;
                    outputs[step] = self.select(taken, Arg::Value(next), Arg::Number(0.0))?;
                    let memory = if let Cell::Lstm = cell { self.select(taken, Arg::Value(kept), Arg::Value(memory))? } else { kept };
                    (self.select(taken, Arg::Value(next), Arg::Value(state))?, memory)
                }
            };
            at_zero = false;
        }
        let all = self.stacked(&outputs, 0)?;
        Ok([all, state, memory])
    }

    /// Gates in the order input, output, forget, new, as ONNX has them: the next state and memory.
    fn lstm_step(&mut self, gates: IrId, memory: IrId, hidden: usize) -> Checked<(IrId, IrId)> {
        let part = |lower: &mut Lower, from: IrId, gate: usize, count: usize| {
            lower.picked(from, 0, &(gate * hidden..(gate + count) * hidden).collect::<Vec<_>>())
        };
        let open = part(self, gates, 0, 3)?;
        let open = self.unary("sigmoid", open)?;
        let new = part(self, gates, 3, 1)?;
        let new = self.unary("tanh", new)?;
        let (input, output, forget) = (part(self, open, 0, 1)?, part(self, open, 1, 1)?, part(self, open, 2, 1)?);
        let (kept, added) = (self.both("mul", forget, memory)?, self.both("mul", input, new)?);
        let memory = self.both("add", kept, added)?;
        let shown = self.unary("tanh", memory)?;
        Ok((self.both("mul", output, shown)?, memory))
    }

    /// Whether the row has a step of that number.
    fn with_length(&mut self, length: IrId, step: usize) -> Checked<IrId> {
        let taken = self.compare("gt", Arg::Value(length), Arg::Number(step as f64))?;
        self.reshaped(taken, &[1])
    }

    /// Lengths of the sequences: i64 [], or None where all have every step.
    pub fn lengths(&mut self, inputs: &[Value], steps: usize) -> Checked<Option<IrId>> {
        match optional(inputs, 4) {
            None => Ok(None),
            Some(Value::Const(lengths)) if lengths.to_f64().iter().all(|length| *length == steps as f64) => Ok(None),
            Some(value) => {
                let row = self.row(value)?;
                if !row.shape.is_empty() || row.batch != Some(Batch::at(0)) {
                    return Err(problem("lengths that are not one per row", INCONSISTENT));
                }
                let id = self.ir(&row)?;
                self.cast(id, DType::I64).map(Some)
            }
        }
    }

    fn weights(&mut self, w: &Const, r: &Const, b: Option<&Const>, direction: usize, cell: Cell) -> Checked<Direction> {
        self.spend(w.len().saturating_add(r.len()))?;
        let suffix = if direction == 0 { "" } else { ".reverse" };
        let own = |tensor: &Const, name: &str| {
            let own = tensor.moved(&Move::Pick(0, vec![direction]));
            let mut own = own.reshaped(own.shape[1..].to_vec());
            own.name = format!("{}.{name}{suffix}", tensor.name).into();
            own
        };
        let width = cell.gates() * r.shape[2];
        let bias = b.map(|b| {
            let values = b.to_f64();
            let both = &values[direction * 2 * width..(direction + 1) * 2 * width];
            let sums = (0..width).map(|gate| both[gate] + both[width + gate]).collect();
            Const::numbers(&format!("{}.sum{suffix}", b.name), b.elem, vec![width], sums)
        });
        Ok(Direction { w: own(w, "ih"), r: own(r, "hh"), bias })
    }
}

/// The function of each direction.
fn cells(node: &Node<'_>, lstm: bool, directions: usize) -> Checked<Vec<Cell>> {
    let given = node.texts("activations");
    let refused = || {
        let what = format!("activations {}", given.join(", "));
        problem(what, "Only the standard ones can be imported: Sigmoid, Tanh, Tanh of an LSTM, Tanh or Relu of an RNN")
    };
    let known = |name: &str| ["Sigmoid", "Tanh", "Relu"].into_iter().find(|known| known.eq_ignore_ascii_case(name));
    let found: Vec<&str> = given.iter().map(|name| known(name).ok_or_else(refused)).collect::<Checked<_>>()?;
    if lstm {
        let standard = found.chunks(3).all(|three| three == ["Sigmoid", "Tanh", "Tanh"]);
        return if standard { Ok(vec![Cell::Lstm; directions]) } else { Err(refused()) };
    }
    let cell = |name: &str| match name {
        "Tanh" => Ok(Cell::Rnn("tanh")),
        "Relu" => Ok(Cell::Rnn("relu")),
        _ => Err(refused()),
    };
    match found.len() {
        0 => Ok(vec![Cell::Rnn("tanh"); directions]),
        count if count == directions => found.into_iter().map(cell).collect(),
        _ => Err(refused()),
    }
}
