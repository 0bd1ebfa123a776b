//! What an op is called, and which tensors and values it reads.

use super::arguments::{Gru, Trees};
use super::graph::ValueId;
use super::op::{Op, Operand};
use super::weights::TensorId;

impl Op {
    /// Its name in the manifest.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Dense { .. } => "dense",
            Op::Integer { .. } => "integer",
            Op::Length { .. } => "length",
            Op::Lookup { .. } => "lookup",
            Op::Const { .. } => "const",
            Op::Linear { .. } => "linear",
            Op::MatMul { .. } => "matmul",
            Op::Add { .. } => "add",
            Op::Sub { .. } => "sub",
            Op::Mul { .. } => "mul",
            Op::Div { .. } => "div",
            Op::Pow { .. } => "pow",
            Op::Clamp { .. } => "clamp",
            Op::ReduceSum { .. } => "reduce_sum",
            Op::Concat { .. } => "concat",
            Op::Slice { .. } => "slice",
            Op::Reshape { .. } => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::Broadcast { .. } => "broadcast",
            Op::GatherConst { .. } => "gather_const",
            Op::Fill { .. } => "fill",
            Op::Iota { .. } => "iota",
            Op::Cast { .. } => "cast",
            Op::Relu { .. } => "relu",
            Op::Sigmoid { .. } => "sigmoid",
            Op::Prelu { .. } => "prelu",
            Op::Softmax { .. } => "softmax",
            Op::BatchNorm { .. } => "batch_norm",
            Op::L2Norm { .. } => "l2_norm",
            Op::Min { .. } => "min",
            Op::Max { .. } => "max",
            Op::Mod { .. } => "mod",
            Op::Compare { .. } => "compare",
            Op::Logic { function, .. } => function.name(),
            Op::Not { .. } => "not",
            Op::Where { .. } => "where",
            Op::Unary { function, .. } => function.name(),
            Op::Reduce { function, .. } => function.name(),
            Op::CumSum { .. } => "cumsum",
            Op::Pad { .. } => "pad",
            Op::Gather { .. } => "gather",
            Op::TakeAlong { .. } => "take_along",
            Op::Embedding { .. } => "embedding",
            Op::OneHot { .. } => "one_hot",
            Op::TopK { .. } => "topk",
            Op::ArgTopK { .. } => "argtopk",
            Op::LayerNorm { .. } => "layer_norm",
            Op::Conv { .. } => "conv",
            Op::MaxPool { .. } => "max_pool",
            Op::AvgPool { .. } => "avg_pool",
            Op::Sdpa { .. } => "sdpa",
            Op::Gru(_) => "gru",
            Op::Trees(_) => "trees",
        }
    }

    /// The tensors it reads, in argument order.
    pub fn tensors(&self) -> Vec<TensorId> {
        let some = |tensors: &[Option<TensorId>]| tensors.iter().flatten().copied().collect();
        match self {
            Op::Const { tensor } | Op::Prelu { slope: tensor, .. } => vec![*tensor],
            Op::Linear { weight, bias, .. } | Op::Conv { weight, bias, .. } => some(&[Some(*weight), *bias]),
            Op::BatchNorm { mean, var, weight, bias, .. } => some(&[Some(*mean), Some(*var), *weight, *bias]),
            Op::LayerNorm { weight, bias, .. } => some(&[*weight, *bias]),
            Op::Gru(gru) => some(&[Some(gru.w_ih), Some(gru.w_hh), gru.b_ih, gru.b_hh]),
            Op::Trees(trees) => {
                let Trees { feature, threshold, mode, yes, no, missing_yes, roots, leaves, .. } = *trees;
                some(&[Some(feature), Some(threshold), Some(mode), Some(yes), Some(no), missing_yes, Some(roots), Some(leaves)])
            }
            _ => vec![],
        }
    }

    /// The values it reads, in argument order.
    pub fn inputs(&self) -> Vec<ValueId> {
        fn operand(operands: &[Operand]) -> Vec<ValueId> {
            operands
                .iter()
                .filter_map(|operand| match operand {
                    Operand::Value(id) => Some(*id),
                    Operand::Scalar(_) => None,
                })
                .collect()
        }
        match self {
            Op::Dense { .. }
            | Op::Integer { .. }
            | Op::Length { .. }
            | Op::Lookup { .. }
            | Op::Const { .. }
            | Op::Fill { .. }
            | Op::Iota { .. } => vec![],
            Op::MatMul { a, b, .. } | Op::Logic { a, b, .. } => vec![*a, *b],
            Op::Add { a, b }
            | Op::Sub { a, b }
            | Op::Mul { a, b }
            | Op::Div { a, b }
            | Op::Pow { a, b }
            | Op::Min { a, b }
            | Op::Max { a, b }
            | Op::Mod { a, b }
            | Op::Compare { a, b, .. } => operand(&[*a, *b]),
            Op::Where { cond, a, b } => operand(&[Operand::Value(*cond), *a, *b]),
            Op::Gather { x, index, .. } | Op::TakeAlong { x, index, .. } => vec![*x, *index],
            Op::Embedding { index, .. } => vec![*index],
            Op::Sdpa { q, k, v, mask, .. } => [Some(*q), Some(*k), Some(*v), *mask].into_iter().flatten().collect(),
            Op::Gru(Gru { x, h0, length, attention, .. }) => [Some(*x), *h0, *length, *attention].into_iter().flatten().collect(),
            Op::Trees(Trees { x, .. }) => vec![*x],
            Op::Concat { xs, .. } => xs.clone(),
            Op::Linear { x, .. }
            | Op::Clamp { x, .. }
            | Op::ReduceSum { x, .. }
            | Op::Slice { x, .. }
            | Op::Reshape { x }
            | Op::Transpose { x, .. }
            | Op::Broadcast { x }
            | Op::GatherConst { x, .. }
            | Op::Cast { x }
            | Op::Relu { x }
            | Op::Sigmoid { x }
            | Op::Prelu { x, .. }
            | Op::Softmax { x, .. }
            | Op::BatchNorm { x, .. }
            | Op::L2Norm { x, .. }
            | Op::Not { x }
            | Op::Unary { x, .. }
            | Op::Reduce { x, .. }
            | Op::CumSum { x, .. }
            | Op::Pad { x, .. }
            | Op::OneHot { x, .. }
            | Op::TopK { x, .. }
            | Op::ArgTopK { x, .. }
            | Op::LayerNorm { x, .. }
            | Op::Conv { x, .. }
            | Op::MaxPool { x, .. }
            | Op::AvgPool { x, .. } => vec![*x],
        }
    }
}
