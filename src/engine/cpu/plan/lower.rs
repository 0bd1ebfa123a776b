//! Nodes to tasks: dead code out, constants computed, small patterns folded.

mod layer;

use std::collections::HashMap;

use crate::batch::Layout;
use crate::engine::EngineError;
use crate::engine::cpu::kernels::binary::BinaryOp;
use crate::engine::cpu::kernels::unary::UnaryF32;
use crate::engine::cpu::program::{Hoist, Options};
use crate::engine::cpu::simd::Simd;
use crate::model::{DType, Model, Node, Op, Operand, Scope, TensorId, UnaryFn, ValueId, ValueScope};

use super::constant::{Constant, evaluate};
use super::task::{PlanValue, Task, ValueIndex, Work};

/// What lowering gives.
pub struct Lowered<'a> {
    /// The graph's values, then the planner's own.
    pub values: Vec<PlanValue>,
    /// In execution order; none makes a constant.
    pub tasks: Vec<Task<'a>>,
    /// Columns of the answer.
    pub outputs: Vec<ValueIndex>,
    /// Values of constant scope that were needed.
    pub constants: HashMap<ValueIndex, Constant<'a>>,
    /// What values are called in reports.
    pub names: HashMap<ValueIndex, String>,
    /// First of the planner's own values.
    pub own: ValueIndex,
}

/// Lowers a model's graph.
pub fn lower<'a>(model: &'a Model, layout: &'a Layout, options: &Options) -> Result<Lowered<'a>, EngineError> {
    let graph = &model.graph;
    let mut values: Vec<PlanValue> = graph
        .values
        .iter()
        .map(|value| PlanValue { shape: value.shape.clone(), dtype: value.dtype, scope: ValueScope::Constant })
        .collect();
    for node in &graph.nodes {
        let inputs = node.op.inputs().into_iter().map(|id| values[index(id)].scope).max();
        values[index(node.out)].scope = scope_of_leaf(model, &node.op, options).max(inputs.unwrap_or(ValueScope::Constant));
    }
    let uses = Uses::new(model);
    let outputs = graph.outputs.iter().map(|output| index(output.value)).collect();
    let names = graph.values.iter().map(|value| value.name.clone()).enumerate().collect();
    let mut lowering = Lowering {
        model,
        layout,
        simd: options.simd,
        uses,
        lowered: Lowered { values, tasks: Vec::new(), outputs, constants: HashMap::new(), names, own: graph.values.len() },
        absorbed: vec![false; graph.nodes.len()],
    };
    // Constants first: patterns look at their values, wherever in the graph they are made.
    for constant in [true, false] {
        for (at, node) in graph.nodes.iter().enumerate() {
            let is_constant = lowering.value(index(node.out)).scope == ValueScope::Constant;
            if lowering.uses.live[at] && is_constant == constant && !lowering.absorbed[at] {
                lowering.node(node)?;
            }
        }
    }
    Ok(lowering.lowered)
}

pub(super) fn index(id: ValueId) -> ValueIndex {
    id.0 as usize
}

/// What a leaf depends on; other ops depend on what their inputs do.
fn scope_of_leaf(model: &Model, op: &Op, options: &Options) -> ValueScope {
    let of = |feature: usize| match model.features[feature].scope {
        Scope::Context if options.hoist != Hoist::Nothing => ValueScope::Context,
        Scope::Context | Scope::Candidate => ValueScope::Candidate,
    };
    match op {
        Op::Dense { features } => features.iter().map(|&feature| of(feature)).max().unwrap_or(ValueScope::Constant),
        Op::Integer { feature } | Op::Length { feature } | Op::Lookup { feature, .. } => of(*feature),
        _ => ValueScope::Constant,
    }
}

/// Who reads what, among the nodes that an output needs.
struct Uses {
    live: Vec<bool>,
    /// Reads per value by live nodes and outputs.
    count: Vec<usize>,
    /// One live node that reads the value.
    reader: Vec<Option<usize>>,
}

impl Uses {
    fn new(model: &Model) -> Uses {
        let graph = &model.graph;
        let mut uses =
            Uses { live: vec![false; graph.nodes.len()], count: vec![0; graph.values.len()], reader: vec![None; graph.values.len()] };
        for output in &graph.outputs {
            uses.count[index(output.value)] += 1;
        }
        for (at, node) in graph.nodes.iter().enumerate().rev() {
            uses.live[at] = uses.count[index(node.out)] > 0;
            if uses.live[at] {
                for input in node.op.inputs() {
                    uses.count[index(input)] += 1;
                    uses.reader[index(input)] = Some(at);
                }
            }
        }
        uses
    }
}

pub(super) struct Lowering<'a> {
    pub(super) model: &'a Model,
    layout: &'a Layout,
    simd: Simd,
    uses: Uses,
    lowered: Lowered<'a>,
    /// Nodes that became part of an earlier task.
    absorbed: Vec<bool>,
}

impl<'a> Lowering<'a> {
    pub(super) fn value(&self, value: ValueIndex) -> &PlanValue {
        &self.lowered.values[value]
    }

    /// A value of the planner's own.
    pub(super) fn add_value(&mut self, shape: Vec<usize>, dtype: DType, scope: ValueScope) -> ValueIndex {
        self.lowered.values.push(PlanValue { shape, dtype, scope });
        self.lowered.values.len() - 1
    }

    pub(super) fn add_constant(&mut self, shape: Vec<usize>, dtype: DType, constant: Constant<'a>) -> ValueIndex {
        let value = self.add_value(shape, dtype, ValueScope::Constant);
        self.lowered.constants.insert(value, constant);
        value
    }

    /// Adds a task, or computes it now if it depends on constants alone.
    pub(super) fn push(&mut self, out: ValueIndex, work: Work<'a>) -> Result<(), EngineError> {
        let task = Task::new(out, work);
        if self.value(out).scope == ValueScope::Constant {
            let constant = evaluate(&task, &self.lowered.values, &self.lowered.constants, self.model, self.layout, self.simd)?;
            self.lowered.constants.insert(out, constant);
        } else if self.value(out).len() > 0 {
            self.lowered.tasks.push(task);
        }
        Ok(())
    }

    pub(super) fn tensor(&self, tensor: TensorId) -> &'a [f32] {
        self.model.weights.tensor(tensor).as_f32().expect("the shape pass checked that this tensor holds floats")
    }

    fn node(&mut self, node: &Node) -> Result<(), EngineError> {
        let out = index(node.out);
        let work = match &node.op {
            Op::Dense { features } => Work::Dense { features: features.clone() },
            Op::Integer { feature } => Work::Integer { feature: *feature },
            Op::Length { feature } => Work::Length { feature: *feature },
            Op::Lookup { feature, table, pool } => Work::Lookup { feature: *feature, table: *table, pool: *pool },
            Op::Const { tensor } => {
                self.lowered.constants.insert(out, Constant::of_tensor(self.model.weights.tensor(*tensor)));
                return Ok(());
            }
            Op::Fill { value } => return self.fill(out, |_| *value),
            Op::Iota { start, step } => return self.fill(out, |at| start + at as f64 * step),
            Op::Linear { x, weight, bias } => return self.linear(out, index(*x), *weight, *bias),
            Op::MatMul { a, b, transpose_a, transpose_b } => {
                return self.matmul(out, index(*a), index(*b), *transpose_a, *transpose_b);
            }
            Op::Add { a, b } => return self.binary(BinaryOp::Add, out, *a, *b),
            Op::Sub { a, b } => return self.binary(BinaryOp::Sub, out, *a, *b),
            Op::Mul { a, b } => return self.binary(BinaryOp::Mul, out, *a, *b),
            Op::Div { a, b } => return self.binary(BinaryOp::Div, out, *a, *b),
            Op::Pow { a, b } => return self.binary(BinaryOp::Pow, out, *a, *b),
            Op::Clamp { x, min, max } => self.clamp(index(*x), *min, *max),
            Op::ReduceSum { x, axes, .. } => {
                if axes.iter().all(|&axis| self.value(index(*x)).shape[axis] == 1) {
                    Work::View { x: index(*x), first: 0 }
                } else {
                    Work::Sum { x: index(*x), axes: axes.clone() }
                }
            }
            Op::Concat { xs, axis } => Work::Concat { xs: xs.iter().copied().map(index).collect(), axis: *axis },
            Op::Slice { x, axis, start, step, .. } => self.slice(index(*x), *axis, *start, *step),
            Op::Reshape { x } => Work::View { x: index(*x), first: 0 },
            Op::Transpose { x, perm } => self.transpose(index(*x), perm),
            Op::Broadcast { x } => {
                if self.value(index(*x)).len() == self.value(out).len() {
                    Work::View { x: index(*x), first: 0 }
                } else {
                    Work::Broadcast { x: index(*x) }
                }
            }
            Op::GatherConst { x, axis, indices } => Work::Gather { x: index(*x), axis: *axis, indices: indices.clone() },
            Op::Cast { x } => {
                if self.value(index(*x)).dtype == self.value(out).dtype {
                    Work::View { x: index(*x), first: 0 }
                } else {
                    Work::Cast { x: index(*x) }
                }
            }
            Op::Relu { x } => Work::Unary { function: UnaryF32::Relu, x: index(*x) },
            Op::Sigmoid { x } => Work::Unary { function: UnaryF32::Sigmoid, x: index(*x) },
            Op::Prelu { x, slope } => {
                let tensor = self.model.weights.tensor(*slope);
                let slope = self.add_constant(tensor.shape.clone(), DType::F32, Constant::of_tensor(tensor));
                Work::Binary { op: BinaryOp::Prelu, a: index(*x), b: slope }
            }
            Op::Softmax { x, axis } => Work::Softmax { x: index(*x), axis: *axis },
            Op::BatchNorm { x, axis, mean, var, weight, bias, eps } => {
                let (scale, bias) = self.batch_norm(*var, *weight, *bias, *eps);
                Work::BatchNorm { x: index(*x), axis: *axis, mean: self.tensor(*mean).to_vec(), scale: to_f32(&scale), bias: to_f32(&bias) }
            }
            Op::L2Norm { x, axis, eps } => Work::L2Norm { x: index(*x), axis: *axis, eps: *eps as f32 },
            Op::Min { a, b } => return self.binary(BinaryOp::Min, out, *a, *b),
            Op::Max { a, b } => return self.binary(BinaryOp::Max, out, *a, *b),
            Op::Mod { a, b } => return self.binary(BinaryOp::Mod, out, *a, *b),
            Op::Unary { function: UnaryFn::Sqrt, x } => Work::Unary { function: UnaryF32::Sqrt, x: index(*x) },
            Op::Unary { function, x } => Work::Unary { function: UnaryF32::Function(*function), x: index(*x) },
            op => return self.generic(out, op),
        };
        self.push(out, work)
    }

    fn fill(&mut self, out: ValueIndex, element: impl Fn(usize) -> f64) -> Result<(), EngineError> {
        let value = self.value(out);
        let elements = (0..value.len()).map(element);
        let constant = match value.dtype {
            DType::F32 => Constant::F32(elements.map(|element| element as f32).collect::<Vec<_>>().into()),
            DType::I64 => Constant::I64(elements.map(|element| element as i64).collect::<Vec<_>>().into()),
        };
        self.lowered.constants.insert(out, constant);
        Ok(())
    }

    fn clamp(&self, x: ValueIndex, min: Option<f64>, max: Option<f64>) -> Work<'a> {
        let (min, max) = (min.unwrap_or(f64::NEG_INFINITY), max.unwrap_or(f64::INFINITY));
        match self.value(x).dtype {
            DType::F32 => Work::Unary { function: UnaryF32::Clamp { min: min as f32, max: max as f32 }, x },
            DType::I64 => Work::ClampI64 { x, min: min as i64, max: max as i64 },
        }
    }

    fn slice(&self, x: ValueIndex, axis: usize, start: usize, step: usize) -> Work<'a> {
        let shape = &self.value(x).shape;
        if step == 1 && shape[..axis].iter().all(|&size| size == 1) {
            return Work::View { x, first: start * shape[axis + 1..].iter().product::<usize>() };
        }
        Work::Slice { x, axis, start, step }
    }

    pub(super) fn transpose(&self, x: ValueIndex, perm: &[usize]) -> Work<'a> {
        let shape = &self.value(x).shape;
        // Axes of size 1 may move freely.
        if perm.iter().filter(|&&axis| shape[axis] != 1).is_sorted() {
            return Work::View { x, first: 0 };
        }
        Work::Transpose { x, perm: perm.to_vec() }
    }

    /// The value behind an operand, of this type.
    pub(super) fn operand(&mut self, operand: Operand, dtype: DType) -> Result<ValueIndex, EngineError> {
        match operand {
            Operand::Scalar(scalar) => {
                let constant = match dtype {
                    DType::F32 => Constant::F32(vec![scalar as f32].into()),
                    DType::I64 => Constant::I64(vec![scalar as i64].into()),
                };
                Ok(self.add_constant(vec![], dtype, constant))
            }
            Operand::Value(id) if self.value(index(id)).dtype == dtype => Ok(index(id)),
            Operand::Value(id) => {
                let PlanValue { shape, scope, .. } = self.value(index(id)).clone();
                let cast = self.add_value(shape, dtype, scope);
                self.push(cast, Work::Cast { x: index(id) })?;
                Ok(cast)
            }
        }
    }

    pub(super) fn binary(&mut self, op: BinaryOp, out: ValueIndex, a: Operand, b: Operand) -> Result<(), EngineError> {
        let dtype = self.value(out).dtype;
        let (a, b) = (self.operand(a, dtype)?, self.operand(b, dtype)?);
        let exponent = match (op, self.lowered.constants.get(&b)) {
            (BinaryOp::Pow, Some(Constant::F32(values))) if values.len() == 1 && self.value(a).len() == self.value(out).len() => {
                Some(values[0])
            }
            _ => None,
        };
        let work = match exponent {
            Some(1.0) => Work::View { x: a, first: 0 },
            Some(2.0) => Work::Unary { function: UnaryF32::Square, x: a },
            Some(0.5) => Work::Unary { function: UnaryF32::Sqrt, x: a },
            _ => Work::Binary { op, a, b },
        };
        self.push(out, work)
    }

    /// Factor and addend per column, in f64: `(x − mean) · factor + addend`.
    fn batch_norm(&self, var: TensorId, weight: Option<TensorId>, bias: Option<TensorId>, eps: f64) -> (Vec<f64>, Vec<f64>) {
        let var = self.tensor(var);
        let at = |tensor: Option<TensorId>, at: usize, default: f64| tensor.map_or(default, |tensor| f64::from(self.tensor(tensor)[at]));
        let scale = var.iter().enumerate().map(|(i, &var)| at(weight, i, 1.0) / (f64::from(var) + eps).sqrt()).collect();
        (scale, (0..var.len()).map(|i| at(bias, i, 0.0)).collect())
    }
}

pub(super) fn to_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}
