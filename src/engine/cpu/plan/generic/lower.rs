//! Graph nodes to generic tasks, and to plain ones where those do the same.

use crate::engine::EngineError;
use crate::engine::cpu::gemm::Activation;
use crate::engine::cpu::kernels::binary::BinaryOp;
use crate::engine::cpu::kernels::fold::FoldFn;
use crate::engine::cpu::kernels::gru::GruLayer;
use crate::engine::cpu::kernels::trees::TreeNode;
use crate::engine::cpu::kernels::window::{PoolFn, Shape};
use crate::engine::cpu::plan::constant::Constant;
use crate::engine::cpu::plan::lower::{Lowering, index, to_f32};
use crate::engine::cpu::plan::strides::Strided;
use crate::engine::cpu::plan::task::{ValueIndex, Work};
use crate::engine::cpu::plan::weights::LayerMatrix;
use crate::model::{DType, Gru, Op, Operand, Reduction, TensorData, TensorId, TreeMode, Trees, ValueScope, Window};

use super::Generic;
use super::attention::{Hidden, Matrix, Wanted};

impl<'a> Lowering<'a> {
    /// An op that has no lowering of its own elsewhere.
    pub(in crate::engine::cpu::plan) fn generic(&mut self, out: ValueIndex, op: &Op) -> Result<(), EngineError> {
        let work = match op {
            Op::Compare { cmp, a, b } => {
                let [a, b] = self.operands(*a, *b)?;
                Generic::Compare { cmp: *cmp, a, b }
            }
            Op::Logic { function, a, b } => Generic::Logic { function: *function, a: index(*a), b: index(*b) },
            Op::Not { x } => Generic::Not { x: index(*x) },
            Op::Where { cond, a, b } => {
                let [a, b] = self.operands(*a, *b)?;
                Generic::Where { cond: index(*cond), a, b }
            }
            Op::Reduce { function, x, axes, .. } => return self.reduce(out, *function, index(*x), axes),
            Op::CumSum { x, axis, exclusive, reverse } => {
                Generic::CumSum { x: index(*x), axis: *axis, exclusive: *exclusive, reverse: *reverse }
            }
            Op::Pad { x, pads, value } => Generic::Pad { x: index(*x), pads: pads.clone(), fill: *value },
            Op::Gather { x, index: picked, axis } => Generic::Pick { x: index(*x), index: index(*picked), axis: *axis },
            Op::TakeAlong { x, index: picked, axis } => Generic::TakeAlong { x: index(*x), index: index(*picked), axis: *axis },
            Op::Embedding { index: picked, table } => Generic::Embedding { index: index(*picked), table: *table },
            Op::OneHot { x, on, off } => Generic::OneHot { x: index(*x), on: *on as f32, off: *off as f32 },
            Op::TopK { x, axis, largest, .. } => Generic::Top { x: index(*x), axis: *axis, largest: *largest, indices: false },
            Op::ArgTopK { x, axis, largest, .. } => Generic::Top { x: index(*x), axis: *axis, largest: *largest, indices: true },
            Op::LayerNorm { x, axes, weight, bias, eps } => {
                let shape = &self.value(out).shape;
                let size = shape[shape.len() - axes..].iter().product();
                let [weight, bias] = [*weight, *bias].map(|tensor| tensor.map(|tensor| self.tensor(tensor).to_vec()));
                Generic::LayerNorm { x: index(*x), size, weight, bias, eps: *eps as f32 }
            }
            Op::Conv { x, weight, bias, window, groups } => return self.conv(out, index(*x), *weight, *bias, window, *groups),
            Op::MaxPool { x, window } => self.pool(PoolFn::Max, index(*x), window),
            Op::AvgPool { x, window, count_include_pad: true } => self.pool(PoolFn::MeanOfAll, index(*x), window),
            Op::AvgPool { x, window, count_include_pad: false } => self.pool(PoolFn::MeanOfInside, index(*x), window),
            Op::Sdpa { q, k, v, mask, scale, causal } => {
                let [q, k, v] = [q, k, v].map(|&value| Matrix { value: index(value), turned: false });
                let mask = mask.map(|mask| Hidden::of_op(index(mask), self.value(index(mask)).dtype));
                let wanted = Wanted { q, k, v, mask, scores: None, scale: *scale as f32, causal: *causal, nan_without_keys: false };
                let values = |value| self.value(value).clone();
                let attention = wanted.placed(out, None, &values, &|value, _| Strided::whole(value, self.value(value).len()));
                let mut attention = attention.expect("values as they are computed lie in rows");
                attention.room = self.room(out, attention.shape.room(), DType::F32);
                Generic::Attention(Box::new(attention))
            }
            Op::Gru(gru) => return self.gru(out, gru),
            Op::Trees(trees) => self.trees(out, trees),
            op => {
                let reason = format!("it has no op {:?}", op.name());
                return Err(EngineError::Unavailable { engine: "cpu", reason, remedy: "upgrade the server".into() });
            }
        };
        self.push(out, Work::Generic(work))
    }

    /// Two operands of one type: that of the values among them.
    fn operands(&mut self, a: Operand, b: Operand) -> Result<[ValueIndex; 2], EngineError> {
        let integer = |operand| match operand {
            Operand::Value(id) => self.value(index(id)).dtype == DType::I64,
            Operand::Scalar(_) => false,
        };
        let dtype = if integer(a) || integer(b) { DType::I64 } else { DType::F32 };
        Ok([self.operand(a, dtype)?, self.operand(b, dtype)?])
    }

    /// Room for the task that makes `out`.
    fn room(&mut self, out: ValueIndex, len: usize, dtype: DType) -> ValueIndex {
        match (self.value(out).scope, dtype) {
            // What is computed now finds its inputs, and its room, among the constants.
            (ValueScope::Constant, DType::F32) => self.add_constant(vec![len], dtype, Constant::F32(vec![0.0; len].into())),
            (ValueScope::Constant, DType::I64) => self.add_constant(vec![len], dtype, Constant::I64(vec![0; len].into())),
            (scope, _) => self.add_value(vec![len], dtype, scope),
        }
    }

    fn reduce(&mut self, out: ValueIndex, function: Reduction, x: ValueIndex, axes: &[usize]) -> Result<(), EngineError> {
        let shape = &self.value(x).shape;
        let count: usize = axes.iter().map(|&axis| shape[axis]).product();
        if count == 1 {
            return self.push(out, Work::View { x, first: 0 });
        }
        let function = match function {
            Reduction::Max => FoldFn::Max,
            Reduction::Min => FoldFn::Min,
            Reduction::Prod => FoldFn::Prod,
            Reduction::Mean => {
                let (shape, scope) = (self.value(out).shape.clone(), self.value(out).scope);
                let sum = self.add_value(shape, DType::F32, scope);
                self.push(sum, Work::Sum { x, axes: axes.to_vec() })?;
                let count = self.add_constant(vec![], DType::F32, Constant::F32(vec![count as f32].into()));
                return self.push(out, Work::Binary { op: BinaryOp::Div, a: sum, b: count });
            }
        };
        self.push(out, Work::Generic(Generic::Fold { function, x, axes: axes.to_vec() }))
    }

    fn pool(&self, function: PoolFn, x: ValueIndex, window: &Window) -> Generic {
        let shape = &self.value(x).shape;
        Generic::Pool { function, x, shape: Shape::new(window, &shape[shape.len() - window.kernel.len()..]) }
    }

    fn conv(
        &mut self,
        out: ValueIndex,
        x: ValueIndex,
        weight: TensorId,
        bias: Option<TensorId>,
        window: &Window,
        groups: usize,
    ) -> Result<(), EngineError> {
        let sizes = &self.model.weights.tensor(weight).shape;
        let (outputs, inputs) = (sizes[0], sizes[1]);
        let bias = bias.map_or(vec![0.0; outputs], |bias| self.tensor(bias).to_vec());
        let weight = self.tensor(weight);
        let point = window.kernel.iter().chain(&window.strides).all(|&size| size == 1) && window.pads.iter().all(|&pads| pads == (0, 0));
        if point && groups == 1 && self.value(out).scope != ValueScope::Constant {
            let shape = &self.value(x).shape;
            let positions = shape[shape.len() - window.kernel.len()..].iter().product();
            return self.point_conv(out, x, positions, LayerMatrix::by_column(weight, inputs, outputs), bias);
        }
        let shape = &self.value(x).shape;
        let shape = Shape::new(window, &shape[shape.len() - window.kernel.len()..]);
        self.push(out, Work::Generic(Generic::Conv { x, shape, groups, inputs, outputs, weight: weight.to_vec(), bias }))
    }

    /// A window of one element is a linear layer over channels; they become the last axis and go back.
    fn point_conv(
        &mut self,
        out: ValueIndex,
        x: ValueIndex,
        positions: usize,
        matrix: LayerMatrix<'a>,
        bias: Vec<f32>,
    ) -> Result<(), EngineError> {
        let (inputs, outputs, scope) = (matrix.k, matrix.n, self.value(out).scope);
        let outer = self.value(out).len() / (outputs * positions);
        let layer = |x| Work::Linear { x, matrix, bias, addend: None, activation: Activation::None };
        if positions == 1 {
            return self.push(out, layer(x));
        }
        let value = |lowering: &mut Lowering<'a>, shape: [usize; 3]| lowering.add_value(shape.to_vec(), DType::F32, scope);
        let channels_first = value(self, [outer, inputs, positions]);
        self.push(channels_first, Work::View { x, first: 0 })?;
        let channels_last = value(self, [outer, positions, inputs]);
        self.push(channels_last, Work::Transpose { x: channels_first, perm: vec![0, 2, 1] })?;
        let product = value(self, [outer, positions, outputs]);
        self.push(product, layer(channels_last))?;
        let turned = value(self, [outer, outputs, positions]);
        self.push(turned, Work::Transpose { x: product, perm: vec![0, 2, 1] })?;
        self.push(out, Work::View { x: turned, first: 0 })
    }

    /// x `[rows, k]` times a weight tensor `[n, k]`, plus a bias: now, where it is a constant.
    fn product(
        &mut self,
        x: ValueIndex,
        weight: TensorId,
        bias: Vec<f32>,
        rows: usize,
        scope: ValueScope,
    ) -> Result<ValueIndex, EngineError> {
        let tensor = self.model.weights.tensor(weight);
        let (n, k) = (tensor.shape[0], tensor.shape[1]);
        let product = self.add_value(vec![rows, n], DType::F32, scope);
        if scope != ValueScope::Constant {
            let matrix = LayerMatrix::by_column(self.tensor(weight), k, n);
            self.push(product, Work::Linear { x, matrix, bias, addend: None, activation: Activation::None })?;
            return Ok(product);
        }
        let weight = self.add_constant(vec![n, k], DType::F32, Constant::of_tensor(tensor));
        self.push(product, Work::MatMul { a: x, b: weight, transpose_a: false, transpose_b: true })?;
        let bias = self.add_constant(vec![n], DType::F32, Constant::F32(bias.into()));
        let sum = self.add_value(vec![rows, n], DType::F32, scope);
        self.push(sum, Work::Binary { op: BinaryOp::Add, a: product, b: bias })?;
        Ok(sum)
    }

    fn gru(&mut self, out: ValueIndex, gru: &Gru) -> Result<(), EngineError> {
        let x = index(gru.x);
        let (steps, hidden) = (self.value(x).shape[0], self.model.weights.tensor(gru.w_hh).shape[1]);
        let bias = |tensor: Option<TensorId>| {
            tensor.map_or(vec![0.0; 3 * hidden], |tensor| self.tensor(tensor).iter().map(|&bias| f64::from(bias)).collect())
        };
        let (mut with_inputs, mut with_state) = (bias(gru.b_ih), bias(gru.b_hh));
        // What r does not scale is added once, with the inputs' bias.
        let of_n = gru.reset_after.then(|| to_f32(&with_state.split_off(2 * hidden)));
        with_inputs.iter_mut().zip(&with_state).for_each(|(with_inputs, with_state)| *with_inputs += with_state);
        let state = self.tensor(gru.w_hh);
        // As much as its inputs depend on, which is less than the whole where only the length or the attention is of the candidate.
        let scope = self.value(x).scope;
        let gates = self.product(x, gru.w_ih, to_f32(&with_inputs), steps, scope)?;
        let (kind, reverse, last, reset_after) = (gru.kind, gru.reverse, gru.last, gru.reset_after);
        let layer = GruLayer { steps, hidden, kind, reverse, last, reset_after };
        let [first, attention, length] = [gru.h0, gru.attention, gru.length].map(|id| id.map(index));
        self.push(
            out,
            Work::Generic(Generic::Gru { gates, first, length, attention, weights: state.to_vec(), bias: of_n.unwrap_or_default(), layer }),
        )
    }

    fn trees(&mut self, out: ValueIndex, trees: &Trees) -> Generic {
        let integers = |id| match &self.model.weights.tensor(id).data {
            TensorData::I64(values) => values.as_slice(),
            TensorData::F32(_) => unreachable!("the shape pass checked that this tensor holds integers"),
        };
        // Numbers that were checked when the model was loaded: all fit.
        let [feature, mode, yes, no] = [trees.feature, trees.mode, trees.yes, trees.no].map(integers);
        let missing_yes = trees.missing_yes.map(integers);
        let threshold = self.tensor(trees.threshold);
        let targets = self.value(out).len();
        let node = |at: usize| match TreeMode::of(mode[at]) {
            Some(TreeMode::Branch(comparison)) => {
                let missing = if missing_yes.is_some_and(|missing| missing[at] != 0) { TreeNode::MISSING } else { 0 };
                let outcomes = TreeNode::outcomes_of(comparison) | missing;
                TreeNode { feature: feature[at] as u32, threshold: threshold[at], outcomes, next: [no[at] as u32, yes[at] as u32] }
            }
            Some(TreeMode::Leaf) | None => TreeNode {
                feature: (feature[at] as usize * targets) as u32,
                threshold: 0.0,
                outcomes: TreeNode::LEAF,
                next: [at as u32; 2],
            },
        };
        let nodes = (0..mode.len()).map(node).collect();
        let roots = integers(trees.roots).iter().map(|&root| root as u32).collect();
        let leaves = self.tensor(trees.leaves).to_vec();
        let room = self.room(out, targets, DType::I64);
        Generic::Trees { x: index(trees.x), room, nodes, roots, leaves }
    }
}
