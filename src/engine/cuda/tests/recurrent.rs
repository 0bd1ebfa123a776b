//! Recurrent layers (`kernels/recurrent.cuh`).

use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::kernels::array;
use crate::model::{DType, Gru, GruKind, Op, Operand, Scope, ValueId};

use super::check_values;

/// Flags 1, 2, 4: not `reset_after`, not `reverse`, not `last`; 8: of the context's sequence. Other operands come and go with them.
fn layer(model: &mut ModelBuilder, [steps, inputs, hidden]: [usize; 3], kind: GruKind, flags: usize) -> ValueId {
    let feature = model.dense(if flags & 8 > 0 { Scope::Context } else { Scope::Candidate }, (steps * inputs) as u32);
    let x = model.op(Op::Dense { features: vec![feature] });
    let x = model.op_as(Op::Reshape { x }, vec![steps, inputs], DType::F32);
    let w_ih = model.tensor(&[3 * hidden, inputs], 1.0 / inputs as f64);
    let w_hh = model.tensor(&[3 * hidden, hidden], 1.0 / hidden as f64);
    let b_ih = Some(model.tensor(&[3 * hidden], 0.5)).filter(|_| flags != 3);
    let b_hh = Some(model.tensor(&[3 * hidden], 0.5)).filter(|_| flags != 5);
    let h0 = (flags % 2 == 1).then(|| array(model, &[hidden]));
    // From -2 to 6.
    let length = (flags >= 2).then(|| {
        let feature = model.integer(Scope::Candidate, 1);
        let length = model.op(Op::Integer { feature });
        let length = model.op_as(Op::Reshape { x: length }, vec![], DType::I64);
        model.op(Op::Add { a: Operand::Value(length), b: Operand::Scalar(2.0) })
    });
    let attention = (kind != GruKind::Gru).then(|| {
        let x = array(model, &[steps]);
        model.op(Op::Sigmoid { x })
    });
    let (reset_after, reverse, last) = (flags & 1 == 0, flags & 2 == 0, flags & 4 == 0);
    model.op(Op::Gru(Gru { x, w_ih, w_hh, b_ih, b_hh, h0, length, attention, kind, reset_after, reverse, last }))
}

#[test]
fn layers_of_every_kind() {
    for (seed, kind) in GruKind::NAMES.map(|(_, kind)| kind).into_iter().enumerate() {
        check_values(seed as u64, &[6, 11], |model| (0..12).map(|flags| layer(model, [5, 3, 4], kind, flags)).collect());
    }
}

/// States around quads, and around as many as leave a thread one, two, four and eight rows.
#[test]
fn layers_of_every_width() {
    let widths = [1, 7, 21, 31, 32, 33, 43, 64];
    for flags in [0, 7] {
        check_values(flags as u64, &[16, 49], |model| {
            widths.iter().map(|&hidden| layer(model, [3, 2, hidden], GruKind::Augru, flags)).collect()
        });
    }
}
