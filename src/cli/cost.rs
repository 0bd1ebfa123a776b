//! What the nodes of a graph cost, as the graph is written: before an engine folds, fuses or hoists.

use crate::model::{Model, Node, Op, Pool, Reduction, TensorData, Trees, Value, ValueScope};

/// Work of some nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes of table rows read, bags full.
    pub table_bytes: u64,
}

/// Work of a model, split as the graph's scopes split it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Once per model: values of weights alone.
    pub constant: Work,
    /// Once per request.
    pub request: Work,
    /// Once per candidate.
    pub candidate: Work,
}

/// The work of the nodes that outputs depend on.
pub fn cost(model: &Model) -> Cost {
    let live = live(model);
    let mut cost = Cost::default();
    for node in model.graph.nodes.iter().filter(|node| live[node.out.0 as usize]) {
        let work = work(model, node);
        let total = match model.graph.value(node.out).scope {
            ValueScope::Constant => &mut cost.constant,
            ValueScope::Context => &mut cost.request,
            ValueScope::Candidate => &mut cost.candidate,
        };
        total.flops += work.flops;
        total.table_bytes += work.table_bytes;
    }
    cost
}

/// Which values some output depends on.
pub fn live(model: &Model) -> Vec<bool> {
    let mut live = vec![false; model.graph.values.len()];
    for output in &model.graph.outputs {
        live[output.value.0 as usize] = true;
    }
    for node in model.graph.nodes.iter().rev() {
        if live[node.out.0 as usize] {
            node.op.inputs().iter().for_each(|input| live[input.0 as usize] = true);
        }
    }
    live
}

/// The work of one node on one row.
pub fn work(model: &Model, node: &Node) -> Work {
    let out = model.graph.value(node.out);
    let value = |id| -> &Value { model.graph.value(id) };
    let len = out.len() as u64;
    let flops = match &node.op {
        Op::Dense { .. }
        | Op::Integer { .. }
        | Op::Length { .. }
        | Op::Const { .. }
        | Op::Fill { .. }
        | Op::Iota { .. }
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Broadcast { .. }
        | Op::GatherConst { .. }
        | Op::Cast { .. }
        | Op::Where { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::TakeAlong { .. }
        | Op::OneHot { .. } => 0,
        Op::Lookup { feature, table, pool } => {
            let feature = &model.features[*feature];
            let table = model.weights.table(*table);
            let (ids, dim) = (u64::from(feature.max_len), u64::from(table.dim));
            // One id is copied; each further one is combined, each weighted one multiplied; codes are scaled and shifted.
            let combined = if *pool == Pool::None { 0 } else { (ids - 1) * dim };
            let decoded = if table.dtype.coding(table.dim as usize).is_some() { 2 * ids * dim } else { 0 };
            let flops = decoded + combined + if feature.is_weighted() { ids * dim } else { 0 } + if *pool == Pool::Mean { dim } else { 0 };
            return Work { flops, table_bytes: ids * table.row_bytes() as u64 };
        }
        Op::Linear { weight, bias, .. } => {
            let inputs = model.weights.tensor(*weight).shape[1] as u64;
            2 * inputs * len + if bias.is_some() { len } else { 0 }
        }
        Op::MatMul { a, transpose_a, .. } => {
            let shape = &value(*a).shape;
            let inner = match shape.as_slice() {
                [.., inner, _] if *transpose_a => *inner,
                [.., inner] => *inner,
                [] => 1,
            };
            2 * inner as u64 * len
        }
        Op::Add { .. }
        | Op::Sub { .. }
        | Op::Mul { .. }
        | Op::Div { .. }
        | Op::Pow { .. }
        | Op::Min { .. }
        | Op::Max { .. }
        | Op::Mod { .. }
        | Op::Compare { .. }
        | Op::Logic { .. }
        | Op::Not { .. }
        | Op::Unary { .. }
        | Op::Relu { .. } => len,
        Op::Clamp { .. } | Op::Prelu { .. } => 2 * len,
        Op::ReduceSum { x, .. } => (value(*x).len() as u64).saturating_sub(len),
        Op::Reduce { x, function: Reduction::Mean, .. } => value(*x).len() as u64,
        Op::Reduce { x, .. } => (value(*x).len() as u64).saturating_sub(len),
        Op::CumSum { .. } => len,
        // Comparisons of a selection that keeps k.
        Op::TopK { x, .. } | Op::ArgTopK { x, .. } => value(*x).len() as u64,
        Op::Embedding { table, .. } => {
            let table = model.weights.table(*table);
            let rows = len / u64::from(table.dim.max(1));
            let decoded = if table.dtype.coding(table.dim as usize).is_some() { 2 * len } else { 0 };
            return Work { flops: decoded, table_bytes: rows * table.row_bytes() as u64 };
        }
        Op::LayerNorm { .. } => 7 * len,
        Op::Conv { weight, bias, .. } => {
            let taps: usize = model.weights.tensor(*weight).shape[1..].iter().product();
            2 * taps as u64 * len + if bias.is_some() { len } else { 0 }
        }
        Op::MaxPool { window, .. } | Op::AvgPool { window, .. } => window.kernel.iter().product::<usize>() as u64 * len,
        Op::Sdpa { q, k, .. } => {
            let (width, keys) = (value(*q).shape[value(*q).shape.len() - 1] as u64, value(*k).shape[value(*k).shape.len() - 2] as u64);
            let rows = len / (out.shape[out.shape.len() - 1] as u64).max(1);
            // Products, scale and softmax of a score, its share of the values.
            2 * rows * keys * width + 6 * rows * keys + 2 * keys * len
        }
        Op::Gru(gru) => {
            let (steps, inputs) = (value(gru.x).shape[0] as u64, value(gru.x).shape[1] as u64);
            let hidden = model.weights.tensor(gru.w_hh).shape[1] as u64;
            steps * hidden * (6 * inputs + 6 * hidden + 20)
        }
        // On the way of each tree, and one leaf added.
        Op::Trees(trees) => comparisons(model, trees) + model.weights.tensor(trees.roots).shape[0] as u64 * len,
        // exp, add, divide; softmax also finds and subtracts the largest.
        Op::Sigmoid { .. } => 3 * len,
        Op::Softmax { .. } => 5 * len,
        Op::BatchNorm { .. } => 4 * len,
        Op::L2Norm { .. } => 3 * len,
    };
    Work { flops, table_bytes: 0 }
}

/// Comparisons from all roots to a leaf, if each holds in half of the cases.
fn comparisons(model: &Model, trees: &Trees) -> u64 {
    let [mode, yes, no, roots] = [trees.mode, trees.yes, trees.no, trees.roots].map(|id| match &model.weights.tensor(id).data {
        TensorData::I64(numbers) => numbers.as_slice(),
        // The shape pass asks for integers.
        TensorData::F32(_) => &[],
    });
    let mut below = vec![0.0_f64; mode.len()];
    let of = |below: &[f64], node: i64| usize::try_from(node).ok().and_then(|node| below.get(node)).copied().unwrap_or_default();
    for at in (0..mode.len()).rev().filter(|&at| mode[at] != 0) {
        below[at] = 1.0 + (of(&below, yes[at]) + of(&below, no[at])) / 2.0;
    }
    roots.iter().map(|&root| of(&below, root)).sum::<f64>().round() as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{DType, Graph, LoadOptions, Output, OutputKind, Tensor, TensorId, ValueId, Weights, load};

    fn open(name: &str) -> Model {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(name);
        load(&path, &LoadOptions::default(), &mut |_| {}).unwrap()
    }

    #[test]
    fn trees_count_comparisons_and_leaves() {
        // A root with a leaf and a second node with two; a tree that is a leaf. Two targets.
        let integers = |data: &[i64]| Tensor { name: String::new(), shape: vec![data.len()], data: TensorData::I64(data.to_vec()) };
        let tensors = [&[1, 0, 1, 0, 0, 0][..], &[1, 0, 3, 0, 0, 0], &[2, 0, 4, 0, 0, 0], &[0, 5]].map(integers);
        let ids = [0, 1, 2, 3].map(TensorId);
        let trees = Trees {
            x: ValueId(0),
            feature: ids[0],
            mode: ids[0],
            yes: ids[1],
            no: ids[2],
            missing_yes: None,
            threshold: ids[0],
            roots: ids[3],
            leaves: ids[0],
        };
        let value = |name: &str, shape| Value { name: name.into(), shape, dtype: DType::F32, scope: ValueScope::Candidate };
        let node = Node { out: ValueId(1), op: Op::Trees(trees) };
        let output = Output { name: "y".into(), kind: OutputKind::Value, value: ValueId(1) };
        let graph = Graph { values: vec![value("x", vec![2]), value("y", vec![2])], nodes: vec![node], outputs: vec![output] };
        let model = Model::new("trees", vec![], graph, Weights { tensors: tensors.into(), ..Weights::default() });
        // 1.5 on the way of the first tree, rounded; two trees of two numbers.
        assert_eq!(cost(&model).candidate, Work { flops: 2 + 4, table_bytes: 0 });
    }

    #[test]
    fn counts_the_work_of_dlrm() {
        // MLPs 13-64-32-16 and 367-64-32-1 with biases and relu (top: sigmoid last), 27 x 27 dots of 16.
        let layer = |inputs: u64, outputs: u64| (2 * inputs + 1) * outputs;
        let bottom = layer(13, 64) + layer(64, 32) + layer(32, 16) + 64 + 32 + 16;
        let top = layer(367, 64) + layer(64, 32) + layer(32, 1) + 64 + 32 + 3;
        let expected = Work { flops: bottom + top + 2 * 16 * 27 * 27, table_bytes: 26 * 16 * 4 };
        assert_eq!(cost(&open("dlrm")), Cost { candidate: expected, ..Cost::default() });

        let scoped = cost(&open("dlrm_scoped"));
        assert_eq!(scoped.request.flops, bottom);
        assert_eq!(scoped.request.table_bytes, 13 * 16 * 4);
        assert_eq!(scoped.candidate.flops + scoped.request.flops, expected.flops);
    }
}
