//! Products with weights: linear layers, and what follows them folded in.

use std::borrow::Cow;

use crate::engine::EngineError;
use crate::engine::cpu::gemm::Activation;
use crate::engine::cpu::kernels::binary::BinaryOp;
use crate::engine::cpu::plan::constant::Constant;
use crate::engine::cpu::plan::task::{Note, Task, ValueIndex, Work};
use crate::engine::cpu::plan::weights::LayerMatrix;
use crate::model::{DType, Node, Op, Operand, TensorId, ValueId, ValueScope};

use super::{Lowering, index, to_f32};

/// A linear layer under construction: what follows it may be folded in.
struct Layer<'a> {
    x: ValueIndex,
    out: ValueIndex,
    matrix: LayerMatrix<'a>,
    /// Axes of one element behind that of the columns: a product with a column vector has one.
    behind: usize,
    /// Factor per column, from a batch norm.
    scale: Option<Vec<f64>>,
    bias: Vec<f64>,
    activation: Activation,
    /// What was folded in.
    notes: Vec<Note>,
}

/// An operand of a matrix product as numpy reads its shape: a vector is one row on the left, one column on the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side {
    /// Matrices: product of the leading axes.
    count: usize,
    rows: usize,
    columns: usize,
    /// Whether it lies in memory as `[columns][rows]`, and that makes a difference.
    turned: bool,
}

impl Side {
    fn new(shape: &[usize], transpose: bool, is_left: bool) -> Side {
        let (count, rows, columns, transpose) = match *shape {
            [k] if is_left => (1, 1, k, false),
            [k] => (1, k, 1, false),
            [ref lead @ .., rows, columns] => {
                let (rows, columns) = if transpose { (columns, rows) } else { (rows, columns) };
                (lead.iter().product(), rows, columns, transpose)
            }
            [] => unreachable!("the shape pass refuses scalars in a matrix product"),
        };
        Side { count, rows, columns, turned: transpose && rows != 1 && columns != 1 }
    }

    fn len(self) -> usize {
        self.rows * self.columns
    }
}

impl<'a> Lowering<'a> {
    pub(super) fn linear(&mut self, out: ValueIndex, x: ValueIndex, weight: TensorId, bias: Option<TensorId>) -> Result<(), EngineError> {
        let tensor = self.model.weights.tensor(weight);
        let (n, k) = (tensor.shape[0], tensor.shape[1]);
        if self.value(out).scope == ValueScope::Constant {
            let weight = self.add_constant(vec![n, k], DType::F32, Constant::of_tensor(tensor));
            let product = self.add_value(self.value(out).shape.clone(), DType::F32, ValueScope::Constant);
            self.push(product, Work::MatMul { a: x, b: weight, transpose_a: false, transpose_b: true })?;
            let Some(bias) = bias else {
                return self.push(out, Work::View { x: product, first: 0 });
            };
            let bias = self.add_constant(vec![n], DType::F32, Constant::of_tensor(self.model.weights.tensor(bias)));
            return self.push(out, Work::Binary { op: BinaryOp::Add, a: product, b: bias });
        }
        let weights = self.tensor(weight);
        let bias = bias.map_or(vec![0.0; n], |bias| self.tensor(bias).iter().map(|&bias| f64::from(bias)).collect());
        let matrix = LayerMatrix::by_column(weights, k, n);
        self.layer(Layer { bias, ..Layer::new(x, out, matrix, 0) })
    }

    /// A product with a constant matrix is a linear layer, one of inner size 1 is elementwise; anything else is computed per row.
    pub(super) fn matmul(
        &mut self,
        out: ValueIndex,
        a: ValueIndex,
        b: ValueIndex,
        transpose_a: bool,
        transpose_b: bool,
    ) -> Result<(), EngineError> {
        let left = Side::new(&self.value(a).shape, transpose_a, true);
        let right = Side::new(&self.value(b).shape, transpose_b, false);
        let [a_constant, b_constant] = [a, b].map(|value| self.value(value).scope == ValueScope::Constant);
        let plain = Work::MatMul { a, b, transpose_a, transpose_b };
        if self.value(out).len() == 0 || (a_constant && b_constant) {
            return self.push(out, plain);
        }
        let (k, moved) = (left.columns, |turned: bool, side: Side| if turned { side.count * side.len() } else { 0 });
        if b_constant && right.count == 1 && pays(moved(left.turned, left), k * right.columns * left.count * left.rows, left.turned) {
            let x = if left.turned { self.turn(a)? } else { a };
            let matrix = self.matrix_of(b, k, right.columns, right.turned);
            return self.layer(Layer::new(x, out, matrix, 0));
        }
        // W·x = (xᵀ·Wᵀ)ᵀ.
        let answer = Side { rows: left.rows, columns: right.columns, ..right };
        let (turn_x, turn_out) = (right.columns > 1 && !right.turned, right.columns > 1 && left.rows > 1);
        let packs = left.rows >= 4 && right.columns >= 4;
        let macs = right.count * right.columns * left.len();
        if a_constant && left.count == 1 && pays(moved(turn_x, right) + moved(turn_out, answer), macs, !packs) {
            let matrix = self.matrix_of(a, k, left.rows, !left.turned);
            if !turn_x && !turn_out {
                let behind = usize::from(self.value(b).shape.len() > 1 && self.value(a).shape.len() > 1);
                return self.layer(Layer::new(b, out, matrix, behind));
            }
            let x = if turn_x { self.turn(b)? } else { b };
            let lead = self.value(out).shape.clone();
            let lead = &lead[..lead.len() - if self.value(a).shape.len() > 1 { 2 } else { 1 }];
            let (scope, bias) = (self.value(out).scope, vec![0.0; left.rows]);
            let product = self.add_value([lead, &[right.columns, left.rows]].concat(), DType::F32, scope);
            self.push(product, Work::Linear { x, matrix, bias, addend: None, activation: Activation::None })?;
            let rank = lead.len() + 2;
            let work = if turn_out { self.transpose(product, &turned(rank)) } else { Work::View { x: product, first: 0 } };
            return self.push(out, work);
        }
        if k == 1 {
            return self.outer(out, [a, b], [left, right]);
        }
        self.push(out, plain)
    }

    /// A column times a row, which broadcast to their product.
    fn outer(&mut self, out: ValueIndex, operands: [ValueIndex; 2], sides: [Side; 2]) -> Result<(), EngineError> {
        let mut lead: Vec<usize> = Vec::new();
        let mut factors = Vec::with_capacity(2);
        for (operand, side) in operands.into_iter().zip(sides) {
            let own = self.value(operand).shape.clone();
            let own = &own[..own.len().saturating_sub(2)];
            lead = broadcast_shape(&lead, own);
            let shape = [own, &[side.rows, side.columns]].concat();
            factors.push(self.shaped(operand, shape)?);
        }
        let product = [lead.as_slice(), &[sides[0].rows, sides[1].columns]].concat();
        let work = Work::Binary { op: BinaryOp::Mul, a: factors[0], b: factors[1] };
        if product == self.value(out).shape {
            return self.push(out, work);
        }
        let scope = self.value(out).scope;
        let whole = self.add_value(product, DType::F32, scope);
        self.push(whole, work)?;
        self.push(out, Work::View { x: whole, first: 0 })
    }

    /// The same elements in this shape.
    fn shaped(&mut self, x: ValueIndex, shape: Vec<usize>) -> Result<ValueIndex, EngineError> {
        if self.value(x).shape == shape {
            return Ok(x);
        }
        let scope = self.value(x).scope;
        let view = self.add_value(shape, DType::F32, scope);
        self.push(view, Work::View { x, first: 0 })?;
        Ok(view)
    }

    /// With the last two axes exchanged.
    fn turn(&mut self, x: ValueIndex) -> Result<ValueIndex, EngineError> {
        let perm = turned(self.value(x).shape.len());
        let (shape, scope) = (perm.iter().map(|&axis| self.value(x).shape[axis]).collect(), self.value(x).scope);
        let turned = self.add_value(shape, DType::F32, scope);
        let work = self.transpose(x, &perm);
        self.push(turned, work)?;
        Ok(turned)
    }

    /// A constant as a layer's matrix. `by_column`: it lies as `[n][k]`.
    fn matrix_of(&self, constant: ValueIndex, k: usize, n: usize, by_column: bool) -> LayerMatrix<'a> {
        let Some(Constant::F32(weights)) = self.lowered.constants.get(&constant).cloned() else {
            unreachable!("constants are computed first, and products are of floats");
        };
        match (weights, by_column) {
            (Cow::Borrowed(weights), true) => LayerMatrix::by_column(weights, k, n),
            (Cow::Borrowed(weights), false) => LayerMatrix::by_column(weights, n, k).transposed(),
            (Cow::Owned(weights), true) => LayerMatrix::computed(k, n, |at, column| weights[column * k + at]),
            (Cow::Owned(weights), false) => LayerMatrix::computed(k, n, |at, column| weights[at * n + column]),
        }
    }

    /// Folds what follows into the layer, as long as nobody else reads what lies between.
    fn layer(&mut self, mut layer: Layer<'a>) -> Result<(), EngineError> {
        while layer.activation == Activation::None && self.uses.count[layer.out] == 1 {
            let Some(reader) = self.uses.reader[layer.out] else { break };
            if !self.fold(&mut layer, &self.model.graph.nodes[reader]) {
                break;
            }
            self.absorbed[reader] = true;
            layer.notes.push(Note::Fused(self.model.graph.nodes[reader].op.name().to_owned()));
            layer.out = index(self.model.graph.nodes[reader].out);
        }
        let Layer { x, out, matrix, scale, bias, activation, notes, .. } = layer;
        let matrix = match scale {
            None => matrix,
            Some(scale) => matrix.scaled(&scale),
        };
        if self.value(out).len() > 0 {
            let work = Work::Linear { x, matrix, bias: to_f32(&bias), addend: None, activation };
            self.lowered.tasks.push(Task { out, work, notes });
        }
        Ok(())
    }

    /// Whether `node`, the only reader of the layer's output, became part of the layer.
    fn fold(&self, layer: &mut Layer, node: &Node) -> bool {
        match &node.op {
            Op::Add { a, b } => {
                let other = if *a == Operand::Value(ValueId(layer.out as u32)) { b } else { a };
                let Some(addend) = self.per_column(*other, layer.matrix.n, layer.behind) else { return false };
                // One number per column, or one: the sum has no more elements than the product.
                debug_assert_eq!(self.value(index(node.out)).len(), self.value(layer.out).len());
                layer.bias.iter_mut().zip(addend).for_each(|(bias, addend)| *bias += addend);
                true
            }
            Op::BatchNorm { axis, mean, var, weight, bias, eps, .. } if self.has_columns(layer, *axis) => {
                let (scale, addend) = self.batch_norm(*var, *weight, *bias, *eps);
                for (column, bias) in layer.bias.iter_mut().enumerate() {
                    *bias = (*bias - f64::from(self.tensor(*mean)[column])) * scale[column] + addend[column];
                }
                layer.scale = Some(match layer.scale.take() {
                    None => scale,
                    Some(before) => before.iter().zip(scale).map(|(before, scale)| before * scale).collect(),
                });
                true
            }
            Op::Relu { .. } => {
                layer.activation = Activation::Relu;
                true
            }
            Op::Sigmoid { .. } => {
                layer.activation = Activation::Sigmoid;
                true
            }
            _ => false,
        }
    }

    /// Whether the layer's columns lie along this axis.
    fn has_columns(&self, layer: &Layer, axis: usize) -> bool {
        let shape = &self.value(layer.out).shape;
        axis + 1 + layer.behind == shape.len() && shape[axis] == layer.matrix.n
    }

    /// A constant operand as one number per column of an `[.., n, 1..]` value with so many axes behind the columns', if it is that.
    fn per_column(&self, operand: Operand, n: usize, behind: usize) -> Option<Vec<f64>> {
        let id = match operand {
            Operand::Scalar(scalar) => return Some(vec![scalar; n]),
            Operand::Value(id) => index(id),
        };
        let Some(Constant::F32(values)) = self.lowered.constants.get(&id) else { return None };
        let shape = &self.value(id).shape;
        let columns = if shape.len() > behind { shape[shape.len() - 1 - behind] } else { 1 };
        if values.len() != columns || (columns != n && columns != 1) {
            return None;
        }
        Some((0..n).map(|column| f64::from(values[if columns == 1 { 0 } else { column }])).collect())
    }
}

impl<'a> Layer<'a> {
    fn new(x: ValueIndex, out: ValueIndex, matrix: LayerMatrix<'a>, behind: usize) -> Layer<'a> {
        let bias = vec![0.0; matrix.n];
        Layer { x, out, matrix, behind, scale: None, bias, activation: Activation::None, notes: Vec::new() }
    }
}

/// Whether moving so many elements per row, to multiply with packed weights, is faster than a product of so many multiply-adds with weights
/// as they lie. `slow`: one that would not pack an operand either.
fn pays(moved: usize, macs: usize, slow: bool) -> bool {
    let saved = if slow { NS_SLOW - NS_MAC } else { NS_PACKED - NS_MAC };
    moved as f32 * NS_MOVE <= macs as f32 * saved
}

/// Nanoseconds: of a multiply-add with packed weights, with those that are packed anew for each row, with unpacked ones, and of moving an
/// element to another place.
const NS_MAC: f32 = 0.015;
const NS_PACKED: f32 = 0.04;
const NS_SLOW: f32 = 0.1;
const NS_MOVE: f32 = 0.5;

/// The last two of so many axes exchanged.
fn turned(rank: usize) -> Vec<usize> {
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank - 1, rank - 2);
    perm
}

/// numpy's rule, for shapes that are known to broadcast.
fn broadcast_shape(a: &[usize], b: &[usize]) -> Vec<usize> {
    let (long, short) = if a.len() < b.len() { (b, a) } else { (a, b) };
    let missing = long.len() - short.len();
    long.iter().enumerate().map(|(axis, &size)| if axis >= missing && size == 1 { short[axis - missing] } else { size }).collect()
}
