//! Forests (`kernels/trees.cuh`).

use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::kernels::array;
use crate::engine::cpu::tests::random::ensemble;
use crate::model::{Comparison, DType, Op, Operand, TensorData, Trees, UnaryFn, ValueId};

use super::check_values;

/// NaN where an element is below -2.
pub fn with_nan(model: &mut ModelBuilder, x: ValueId) -> ValueId {
    let len = model.shape(x)[0];
    let below = model.op(Op::Compare { cmp: Comparison::Lt, a: Operand::Value(x), b: Operand::Scalar(-2.0) });
    let minus = model.op_as(Op::Fill { value: -1.0 }, vec![len], DType::F32);
    let nan = model.op(Op::Unary { function: UnaryFn::Log, x: minus });
    model.op(Op::Where { cond: below, a: Operand::Value(nan), b: Operand::Value(x) })
}

#[test]
fn trees_of_every_mode_and_missing_features() {
    check_values(1, &[70, 1], |model| {
        let whole = array(model, &[6]);
        let missing = with_nan(model, whole);
        (0..12)
            .map(|number| {
                let trees = ensemble(model, if number % 2 == 0 { whole } else { missing }, 6);
                model.op(Op::Trees(trees))
            })
            .collect()
    });
}

/// Trees of one branch: as many as share threads, one less, one more, and several times as many; one target, several, more than a room holds.
#[test]
fn many_trees_are_shared_out() {
    check_values(2, &[17, 3], |model| {
        let x = array(model, &[5]);
        [(1, 1), (63, 1), (64, 1), (65, 1), (300, 2), (70, 7), (5, 150)].map(|(count, targets)| stumps(model, x, count, targets)).to_vec()
    });
}

pub(super) fn stumps(model: &mut ModelBuilder, x: ValueId, count: usize, targets: usize) -> ValueId {
    let mut integers = |shape: &[usize], of: &dyn Fn(i64) -> i64| {
        let data = (0..shape[0] as i64).map(of).collect();
        model.tensor_of(shape, TensorData::I64(data))
    };
    let nodes = 3 * count;
    // A branch and its two leaves, side by side.
    let feature = integers(&[nodes], &|at| if at % 3 == 0 { at / 3 % 5 } else { at / 3 * 2 + at % 3 - 1 });
    let mode = integers(&[nodes], &|at| if at % 3 == 0 { 1 + at / 3 % 6 } else { 0 });
    let yes = integers(&[nodes], &|at| if at % 3 == 0 { at + 1 } else { 0 });
    let no = integers(&[nodes], &|at| if at % 3 == 0 { at + 2 } else { 0 });
    let roots = integers(&[count], &|at| 3 * at);
    let threshold = model.tensor(&[nodes], 3.0);
    let leaves = model.tensor(&[2 * count, targets], 1.0);
    model.op(Op::Trees(Trees { x, feature, threshold, mode, yes, no, missing_yes: None, roots, leaves }))
}
