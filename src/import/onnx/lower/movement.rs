//! Moves of elements, on constants, sizes, ids and computed values alike; and the ops that are one move.

use std::rc::Rc;

use super::super::constant::Const;
use super::super::error::{Checked, problem};
use super::super::ir::IrId;
use super::super::nd::{Move, Nd, count};
use super::super::node::Node;
use super::super::value::{Atom, Batch, Repr, Row, Size, Value, mixes};
use super::Lower;
use super::fold::as_sizes;
use super::ops::{axis_of, first};

impl Lower {
    /// Moves elements of a row; the move speaks of the row's own shape.
    pub fn move_row(&mut self, row: &Row, by: &Move) -> Checked<Row> {
        if by.is_identity(&row.shape) {
            return Ok(row.clone());
        }
        let shape = by.shape(&row.shape);
        let elements = count(&shape).filter(|elements| *elements <= crate::limits::VALUE_ELEMENTS_MAX).ok_or_else(|| {
            problem(format!("a value of shape {shape:?} per row"), format!("At most {} elements", crate::limits::VALUE_ELEMENTS_MAX))
        })?;
        let repr = match &row.repr {
            Repr::Atoms { atoms, integer } if elements > 0 && self.atoms_left >= elements => {
                self.atoms_left -= elements;
                let moved: Vec<Atom> = match by {
                    Move::Reshape(_) => atoms.to_vec(),
                    _ => by.places(&row.shape).into_iter().map(|place| atoms[place]).collect(),
                };
                Repr::Atoms { atoms: Rc::new(moved), integer: *integer }
            }
            Repr::Numbers { per, rest } => Repr::Numbers { per: *per, rest: rest.map(|rest| self.move_ir(rest, by)).transpose()? },
            Repr::Shape => Repr::Shape,
            _ => {
                let x = self.ir(row)?;
                Repr::Ir(self.move_ir(x, by)?)
            }
        };
        Ok(Row { shape, repr, ..row.clone() })
    }

    fn move_ir(&mut self, x: IrId, by: &Move) -> Checked<IrId> {
        match by {
            Move::Transpose(perm) => self.transposed(x, perm),
            Move::Pick(axis, indices) => self.picked(x, *axis, indices),
            Move::Reshape(shape) => self.reshaped(x, shape),
            Move::Broadcast(shape) => self.broadcast(x, shape),
        }
    }

    /// A constant moved.
    pub fn move_constant(&mut self, constant: &Const, by: &Move) -> Checked<Const> {
        if !matches!(by, Move::Reshape(_)) {
            self.spend(count(&by.shape(&constant.shape)).unwrap_or(usize::MAX))?;
        }
        let mut moved = constant.moved(by);
        if !matches!(by, Move::Reshape(_)) && !by.is_identity(&constant.shape) {
            moved.name = self.label.clone();
        }
        Ok(moved)
    }

    /// Elements along an axis of the ONNX shape.
    pub fn pick(&mut self, value: &Value, axis: usize, indices: Vec<usize>, what: &str) -> Checked<Value> {
        Ok(match value {
            Value::Const(constant) => Value::Const(self.move_constant(constant, &Move::Pick(axis, indices))?),
            Value::Sizes(sizes) => Value::sizes(&self.label, sizes.moved(&Move::Pick(axis, indices))),
            Value::Row(row) => {
                let axis = row.own_axis(axis, what)?;
                Value::Row(self.move_row(row, &Move::Pick(axis, indices))?)
            }
            Value::Held(_) => return Err(super::align::sizes_used()),
            Value::Absent => return Err(problem("a missing input", "Export the model again")),
        })
    }

    /// Transpose.
    pub fn transpose(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?;
        let rank = value.rank();
        let perm: Vec<usize> = match node.ints("perm") {
            None => (0..rank).rev().collect(),
            Some(perm) => perm.iter().map(|axis| axis_of(*axis, rank)).collect::<Checked<_>>()?,
        };
        self.permuted(value, &perm)
    }

    /// Axis i of the result is axis perm[i].
    pub fn permuted(&mut self, value: &Value, perm: &[usize]) -> Checked<Value> {
        let mut seen = vec![false; value.rank()];
        perm.iter().for_each(|axis| seen[*axis] = true);
        if perm.len() != seen.len() || seen.contains(&false) {
            return Err(problem(format!("perm {perm:?} for a value of {} axes", seen.len()), "Export the model again"));
        }
        Ok(match value {
            Value::Const(constant) => Value::Const(self.move_constant(constant, &Move::Transpose(perm.to_vec()))?),
            Value::Sizes(sizes) => Value::Sizes(sizes.moved(&Move::Transpose(perm.to_vec()))),
            Value::Row(row) => {
                let mut own = Vec::new();
                let mut at = 0;
                for (place, axis) in perm.iter().enumerate() {
                    match (row.axis(*axis), row.batch) {
                        (Some(axis), _) => own.push(axis),
                        (None, Some(batch)) => {
                            at = place;
                            own.extend((0..batch.merged().len()).map(|i| batch.at + i));
                        }
                        (None, None) => {}
                    }
                }
                let moved = self.move_row(row, &Move::Transpose(own))?;
                Value::Row(Row { batch: row.batch.map(|batch| Batch { at, ..batch }), ..moved })
            }
            Value::Held(_) => return Err(super::align::sizes_used()),
            Value::Absent => return Err(problem("a missing input", "Export the model again")),
        })
    }

    /// Concat.
    pub fn concat_op(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let inputs: Vec<&Value> = inputs.iter().filter(|value| value.is_there() && !is_empty(value)).collect();
        let Some(first) = inputs.first() else { return Err(problem("a concatenation of nothing", "Export the model again")) };
        let rank = first.rank();
        let axis = axis_of(node.int("axis", 0), rank)?;
        if inputs.iter().any(|value| value.rank() != rank) {
            return Err(problem("parts of different ranks side by side", "Export the model again"));
        }
        let all_constant: Option<Vec<&Const>> = inputs.iter().map(|value| value.constant()).collect();
        if let Some(parts) = all_constant {
            return self.concat_constants(&parts, axis).map(Value::Const);
        }
        if let Some(parts) = inputs.iter().map(|value| as_sizes(value)).collect::<Option<Vec<Nd<Size>>>>() {
            check_parts(&parts.iter().map(|part| part.shape.as_slice()).collect::<Vec<_>>(), axis)?;
            return Ok(Value::sizes(&self.label, Nd::concat(&parts, axis)));
        }
        self.concat_rows(&inputs, axis)
    }

    fn concat_constants(&mut self, parts: &[&Const], axis: usize) -> Checked<Const> {
        check_parts(&parts.iter().map(|part| part.shape.as_slice()).collect::<Vec<_>>(), axis)?;
        let elem = parts[0].elem;
        self.spend(parts.iter().map(|part| part.len()).sum())?;
        if let Some(parts) = parts.iter().map(|part| part.integer_nd()).collect::<Option<Vec<_>>>() {
            return Ok(Const::integers(&self.label, elem, Nd::concat(&parts, axis)));
        }
        let parts: Vec<Nd<f64>> = parts.iter().map(|part| Nd { shape: part.shape.clone(), data: part.to_f64() }).collect();
        let Nd { shape, data } = Nd::concat(&parts, axis);
        Ok(Const::numbers(&self.label, elem, shape, data))
    }

    /// Row values side by side, with constants between them.
    fn concat_rows(&mut self, inputs: &[&Value], axis: usize) -> Checked<Value> {
        let batch = inputs.iter().find_map(|value| if let Value::Row(row) = value { row.batch } else { None });
        let differs = |value: &&&Value| matches!(value, Value::Row(Row { batch: Some(own), .. }) if Some(*own) != batch);
        if inputs.iter().any(|value| differs(&value)) {
            return Err(mixes("puts values side by side"));
        }
        if batch.is_some_and(|batch| batch.at == axis) {
            return Err(mixes("puts values side by side"));
        }
        let mut rows = Vec::with_capacity(inputs.len());
        for value in inputs {
            let row = self.row(value)?;
            rows.push(match (row.batch, batch) {
                (None, Some(batch)) => self.spread(&row, batch)?,
                _ => row,
            });
        }
        let own_axis = rows[0].own_axis(axis, "puts values side by side")?;
        check_parts(&rows.iter().map(|row| row.shape.as_slice()).collect::<Vec<_>>(), own_axis)?;
        let elem = rows[0].elem;
        if rows.iter().any(|row| matches!(row.repr, Repr::Numbers { .. } | Repr::Shape)) {
            return self.places(rows, own_axis);
        }
        let total: usize = rows.iter().map(|row| row.shape.iter().product::<usize>()).sum();
        let flags: Vec<Option<bool>> =
            rows.iter().map(|row| if let Repr::Atoms { integer, .. } = row.repr { Some(integer) } else { None }).collect();
        if flags.iter().all(|flag| flag.is_some() && *flag == flags[0]) && total <= self.atoms_left {
            self.atoms_left -= total;
            let parts: Vec<Nd<Atom>> = rows
                .iter()
                .filter_map(|row| match &row.repr {
                    Repr::Atoms { atoms, .. } => Some(Nd { shape: row.shape.clone(), data: atoms.to_vec() }),
                    _ => None,
                })
                .collect();
            let Nd { shape, data } = Nd::concat(&parts, own_axis);
            let repr = Repr::Atoms { atoms: Rc::new(data), integer: flags[0] == Some(true) };
            return Ok(Value::Row(Row { batch, shape, elem, repr }));
        }
        let parts = rows.iter().map(|row| self.ir(row)).collect::<Checked<Vec<_>>>()?;
        let id = self.concat(&parts, own_axis)?;
        Ok(Lower::row_of(batch, elem, self.shape(id), id))
    }

    /// A value that is the same for all rows, as one beside rows at `batch`: its axis there must hold equal elements for each row.
    pub fn spread(&mut self, row: &Row, batch: Batch) -> Checked<Row> {
        let Some(size) = row.shape.get(batch.at).copied() else { return Err(mixes("uses a constant")) };
        if size != 1 || self.fixed_batch != Some(1) || !batch.merged().is_empty() {
            return Err(problem(
                format!("a constant of {size} rows beside values of each row"),
                "Expand the constant to the batch (its first axis from the input's shape), or export with a dynamic batch",
            ));
        }
        let mut shape = row.shape.clone();
        shape.remove(batch.at);
        let moved = self.move_row(row, &Move::Reshape(shape))?;
        Ok(Row { batch: Some(batch), ..moved })
    }
}

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Const(constant) if constant.shape.len() == 1 && constant.len() == 0)
}

/// Parts of a concatenation agree on all other axes.
fn check_parts(shapes: &[&[usize]], axis: usize) -> Checked<()> {
    let agrees = |shape: &&[usize]| {
        shape.len() == shapes[0].len() && axis < shape.len() && (0..shape.len()).all(|i| i == axis || shape[i] == shapes[0][i])
    };
    if shapes.iter().all(agrees) { Ok(()) } else { Err(problem(format!("shapes {shapes:?} side by side"), "Export the model again")) }
}
