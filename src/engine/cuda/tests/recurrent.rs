//! Recurrent layers (`kernels/recurrent.cuh`).

use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::generic::recurrent_layer;
use crate::model::{DType, GruKind, Op, Scope, ValueId};

use super::check_values;

/// Flags 1, 2, 4: not `reset_after`, not `reverse`, not `last`; 8: of the context's sequence. Other operands come and go with them.
pub(super) fn layer(model: &mut ModelBuilder, [steps, inputs, hidden]: [usize; 3], kind: GruKind, flags: usize) -> ValueId {
    let feature = model.dense(if flags & 8 > 0 { Scope::Context } else { Scope::Candidate }, (steps * inputs) as u32);
    let x = model.op(Op::Dense { features: vec![feature] });
    let x = model.op_as(Op::Reshape { x }, vec![steps, inputs], DType::F32);
    recurrent_layer(model, x, hidden, kind, flags)
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
