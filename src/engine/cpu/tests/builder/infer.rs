//! Shapes of the ops that are neither leaves nor plain arithmetic.

use crate::model::*;

use super::{ModelBuilder, broadcast_shape};

impl ModelBuilder {
    pub(super) fn infer_more(&self, op: &Op) -> (Vec<usize>, DType) {
        let shape = |id: &ValueId| self.shape(*id).to_vec();
        let dtype = |id: &ValueId| self.graph.value(*id).dtype;
        let operand = |operand: &Operand| match operand {
            Operand::Value(id) => (shape(id), Some(dtype(id))),
            Operand::Scalar(_) => (vec![], None),
        };
        match op {
            Op::Compare { a, b, .. } => (broadcast_shape(&operand(a).0, &operand(b).0), DType::I64),
            Op::Logic { a, b, .. } => (broadcast_shape(&shape(a), &shape(b)), DType::I64),
            Op::Not { x } => (shape(x), DType::I64),
            Op::Where { cond, a, b } => {
                let ((a, a_type), (b, b_type)) = (operand(a), operand(b));
                (broadcast_shape(&shape(cond), &broadcast_shape(&a, &b)), a_type.or(b_type).unwrap_or(DType::F32))
            }
            Op::Reduce { x, axes, keep, .. } => {
                let sizes = shape(x).into_iter().enumerate();
                let kept = sizes.filter_map(|(axis, size)| if axes.contains(&axis) { keep.then_some(1) } else { Some(size) });
                (kept.collect(), dtype(x))
            }
            Op::Unary { x, .. } | Op::CumSum { x, .. } | Op::LayerNorm { x, .. } => (shape(x), dtype(x)),
            Op::Pad { x, pads, .. } => (shape(x).into_iter().zip(pads).map(|(size, (begin, end))| begin + size + end).collect(), dtype(x)),
            Op::Gather { x, index, axis } => {
                let mut out = shape(x);
                out.splice(axis..=axis, shape(index));
                (out, dtype(x))
            }
            Op::TakeAlong { x, index, .. } => (shape(index), dtype(x)),
            Op::Embedding { index, table } => {
                let mut out = shape(index);
                out.push(self.weights.table(*table).dim as usize);
                (out, DType::F32)
            }
            Op::TopK { x, axis, k, .. } | Op::ArgTopK { x, axis, k, .. } => {
                let mut out = shape(x);
                out[*axis] = *k;
                (out, if matches!(op, Op::TopK { .. }) { DType::F32 } else { DType::I64 })
            }
            Op::Conv { x, weight, window, .. } => {
                let mut out = self.windowed(x, window);
                let channel = out.len() - window.kernel.len() - 1;
                out[channel] = self.weights.tensor(*weight).shape[0];
                (out, DType::F32)
            }
            Op::MaxPool { x, window } | Op::AvgPool { x, window, .. } => (self.windowed(x, window), DType::F32),
            Op::Sdpa { q, k, v, .. } => {
                let [q, k, v] = [q, k, v].map(shape);
                let lead = |shape: &[usize]| shape[..shape.len() - 2].to_vec();
                let mut out = broadcast_shape(&broadcast_shape(&lead(&q), &lead(&k)), &lead(&v));
                out.extend([q[q.len() - 2], v[v.len() - 1]]);
                (out, DType::F32)
            }
            Op::Gru(gru) => {
                let hidden = self.weights.tensor(gru.w_hh).shape[1];
                (if gru.last { vec![hidden] } else { vec![self.shape(gru.x)[0], hidden] }, DType::F32)
            }
            Op::Trees(trees) => (vec![self.weights.tensor(trees.leaves).shape[1]], DType::F32),
            op => panic!("{} takes its shape from `op_as`, or from `infer`", op.name()),
        }
    }

    fn windowed(&self, x: &ValueId, window: &Window) -> Vec<usize> {
        let mut out = self.shape(*x).to_vec();
        let first = out.len() - window.kernel.len();
        let positions = window.positions(&out[first..]).expect("the window fits");
        out.splice(first.., positions);
        out
    }
}
