//! What the planner joins: pairs of a factorisation machine, gated mixtures.

use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::kernels::array;
use crate::model::*;

use super::axes::{check_rows, mixed};
use super::check;

/// `count` vectors of `dim` numbers under a gate: vectors that lie side by side, or were computed apart.
pub(super) fn mixture(model: &mut ModelBuilder, count: usize, dim: usize, softmax: bool, side_by_side: bool) -> ValueId {
    let gate = array(model, &[count]);
    let gate = if softmax { model.op(Op::Softmax { x: gate, axis: 0 }) } else { gate };
    let gate = model.op_as(Op::Reshape { x: gate }, vec![count, 1], DType::F32);
    let stack = if side_by_side {
        array(model, &[count, dim])
    } else {
        let x = array(model, &[6]);
        let vectors: Vec<ValueId> = (0..count).map(|_| model.mlp(x, &[dim])).collect();
        let vectors = vectors.into_iter().map(|x| model.op_as(Op::Reshape { x }, vec![1, dim], DType::F32)).collect();
        model.op(Op::Concat { xs: vectors, axis: 0 })
    };
    let product = model.op(Op::Mul { a: value(gate), b: value(stack) });
    model.op(Op::ReduceSum { x: product, axes: vec![0], keep: false })
}

fn value(id: ValueId) -> Operand {
    Operand::Value(id)
}

#[test]
fn pairs_of_fields_of_either_scope() {
    let mut model = ModelBuilder::new(1);
    let mut outputs = vec![];
    for (own, of_context, dim) in [(5, 0, 8), (3, 2, 1), (2, 7, 21), (39, 1, 16), (1, 4, 40)] {
        let mut x = array(&mut model, &[own, dim]);
        if of_context > 0 {
            let feature = model.dense(Scope::Context, (of_context * dim) as u32);
            let context = model.op(Op::Dense { features: vec![feature] });
            let context = model.op_as(Op::Reshape { x: context }, vec![of_context, dim], DType::F32);
            x = model.op(Op::Concat { xs: vec![context, x], axis: 0 });
        }
        let x = model.op(Op::Mul { a: value(x), b: Operand::Scalar(0.25) });
        let sum = model.op(Op::ReduceSum { x, axes: vec![0], keep: false });
        let square = model.op(Op::Pow { a: value(sum), b: Operand::Scalar(2.0) });
        let squares = model.op(Op::Mul { a: value(x), b: value(x) });
        let squares = model.op(Op::ReduceSum { x: squares, axes: vec![0], keep: false });
        let pairs = model.op(Op::Sub { a: value(square), b: value(squares) });
        outputs.extend(mixed(&mut model, pairs));
    }
    check_rows(model, &outputs, check);
}

#[test]
fn mixtures_of_every_width() {
    let mut model = ModelBuilder::new(2);
    let mut outputs = vec![];
    for (at, (count, dim)) in [(2, 1), (5, 7), (8, 8), (9, 33), (33, 12), (64, 3), (3, 130)].into_iter().enumerate() {
        for softmax in [false, true] {
            let sum = mixture(&mut model, count, dim, softmax, at % 2 == 0 || count > 16);
            outputs.extend(mixed(&mut model, sum));
        }
    }
    check_rows(model, &outputs, check);
}
