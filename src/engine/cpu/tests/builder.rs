//! Models in code: shapes worked out, weights random.

mod infer;

use std::sync::Arc;

use crate::model::*;

use super::Random;

/// A model under construction.
pub struct ModelBuilder {
    pub random: Random,
    pub features: Vec<Feature>,
    pub graph: Graph,
    pub weights: Weights,
}

impl ModelBuilder {
    pub fn new(seed: u64) -> ModelBuilder {
        ModelBuilder { random: Random::new(seed), features: vec![], graph: Graph::default(), weights: Weights::default() }
    }

    pub fn dense(&mut self, scope: Scope, width: u32) -> usize {
        self.feature(scope, width, width, FeatureKind::dense())
    }

    pub fn integer(&mut self, scope: Scope, width: u32) -> usize {
        self.feature(scope, width, width, FeatureKind::Integer)
    }

    /// `width` 0: variable, at most `max_len`.
    pub fn sparse(&mut self, scope: Scope, width: u32, max_len: u32, table: TableId, weighted: bool) -> usize {
        let kind = FeatureKind::Sparse {
            table,
            rows: self.weights.table(table).rows,
            pool: Pool::Sum,
            weighted,
            hash: None,
            padding: None,
            missing: MissingRule::Skip,
            out_of_range: RangeRule::Error,
        };
        self.feature(scope, width, max_len, kind)
    }

    fn feature(&mut self, scope: Scope, width: u32, max_len: u32, kind: FeatureKind) -> usize {
        let name = format!("f{}", self.features.len());
        self.features.push(Feature { name, scope, width, max_len, id_type: IdType::U32, kind });
        self.features.len() - 1
    }

    pub fn table(&mut self, rows: u32, dim: u32) -> TableId {
        self.table_of(TableDType::F32, rows, dim)
    }

    /// Numbers in ±1; coded rows have up to 3 bytes of padding.
    pub fn table_of(&mut self, dtype: TableDType, rows: u32, dim: u32) -> TableId {
        let coding = dtype.coding(dim as usize);
        let row_bytes = dtype.row_bytes(dim as usize) + if coding.is_some() { self.random.below(4) } else { 0 };
        let mut data = Vec::new();
        for _ in 0..rows {
            let Some(coding) = coding else {
                for _ in 0..dim {
                    let value = self.random.unit() as f32;
                    match dtype {
                        TableDType::F32 => data.extend(value.to_le_bytes()),
                        TableDType::F16 => data.extend(half::f16::from_f32(value).to_le_bytes()),
                        _ => data.extend(half::bf16::from_f32(value).to_le_bytes()),
                    }
                }
                continue;
            };
            let mut row: Vec<u8> = (0..row_bytes).map(|_| self.random.below(256) as u8).collect();
            let most = ((1 << coding.bits) - 1) as f64;
            let (scale, bias) = ((self.random.unit() / most) as f32, (self.random.unit() / 2.0) as f32);
            let header = if coding.half {
                [half::f16::from_f32(scale).to_le_bytes(), half::f16::from_f32(bias).to_le_bytes()].concat()
            } else {
                [scale.to_le_bytes(), bias.to_le_bytes()].concat()
            };
            row[coding.scale..coding.scale + header.len()].copy_from_slice(&header);
            data.extend(row);
        }
        let name = format!("t{}", self.weights.tables.len());
        self.weights.tables.push(Table { name, rows, dim, dtype, data: data.as_slice().into() });
        TableId(self.weights.tables.len() as u16 - 1)
    }

    /// Uniform in ±`scale`.
    pub fn tensor(&mut self, shape: &[usize], scale: f64) -> TensorId {
        let data = (0..shape.iter().product()).map(|_| (self.random.unit() * scale) as f32).collect();
        self.tensor_of(shape, TensorData::F32(data))
    }

    pub fn tensor_of(&mut self, shape: &[usize], data: TensorData) -> TensorId {
        let name = format!("w{}", self.weights.tensors.len());
        self.weights.tensors.push(Tensor { name, shape: shape.to_vec(), data });
        TensorId(self.weights.tensors.len() as u32 - 1)
    }

    /// `x · wᵀ + b` with weights that keep the size of x.
    pub fn linear(&mut self, x: ValueId, n: usize) -> ValueId {
        let k = *self.shape(x).last().expect("an axis");
        let scale = 1.7 / (k as f64).sqrt();
        let (weight, bias) = (self.tensor(&[n, k], scale), self.tensor(&[n], 0.5));
        self.op(Op::Linear { x, weight, bias: Some(bias) })
    }

    /// Layers with relu between them.
    pub fn mlp(&mut self, mut x: ValueId, widths: &[usize]) -> ValueId {
        for &width in widths {
            x = self.linear(x, width);
            x = self.op(Op::Relu { x });
        }
        x
    }

    pub fn shape(&self, value: ValueId) -> &[usize] {
        &self.graph.value(value).shape
    }

    /// Adds a node whose shape follows from its arguments.
    pub fn op(&mut self, op: Op) -> ValueId {
        let (shape, dtype) = self.infer(&op);
        self.op_as(op, shape, dtype)
    }

    /// Adds a node with a shape of its own (reshape, broadcast, fill, iota, cast).
    pub fn op_as(&mut self, op: Op, shape: Vec<usize>, dtype: DType) -> ValueId {
        let leaf = |feature: &usize| match self.features[*feature].scope {
            Scope::Context => ValueScope::Context,
            Scope::Candidate => ValueScope::Candidate,
        };
        let own = match &op {
            Op::Dense { features } => features.iter().map(leaf).max(),
            Op::Integer { feature } | Op::Length { feature } | Op::Lookup { feature, .. } => Some(leaf(feature)),
            _ => None,
        };
        let scope = op.inputs().iter().map(|id| self.graph.value(*id).scope).chain(own).max().unwrap_or(ValueScope::Constant);
        let out = ValueId(self.graph.values.len() as u32);
        self.graph.values.push(Value { name: format!("v{}", out.0), shape, dtype, scope });
        self.graph.nodes.push(Node { out, op });
        out
    }

    fn infer(&self, op: &Op) -> (Vec<usize>, DType) {
        let shape = |id: &ValueId| self.shape(*id).to_vec();
        let dtype = |id: &ValueId| self.graph.value(*id).dtype;
        match op {
            Op::Dense { features } => (vec![features.iter().map(|&f| self.features[f].width as usize).sum()], DType::F32),
            Op::Integer { feature } => (vec![self.features[*feature].width as usize], DType::I64),
            Op::Length { .. } => (vec![], DType::I64),
            Op::Lookup { feature, table, pool } => {
                let dim = self.weights.table(*table).dim as usize;
                let shape = if *pool == Pool::None { vec![self.features[*feature].max_len as usize, dim] } else { vec![dim] };
                (shape, DType::F32)
            }
            Op::Const { tensor } => {
                let tensor = self.weights.tensor(*tensor);
                (tensor.shape.clone(), if tensor.as_f32().is_some() { DType::F32 } else { DType::I64 })
            }
            Op::Linear { x, weight, .. } => {
                let mut shape = shape(x);
                *shape.last_mut().expect("an axis") = self.weights.tensor(*weight).shape[0];
                (shape, DType::F32)
            }
            Op::MatMul { a, b, transpose_a, transpose_b } => {
                let (mut left, mut right) = (shape(a), shape(b));
                let (left_rank, right_rank) = (left.len(), right.len());
                if left_rank == 1 {
                    left.insert(0, 1);
                } else if *transpose_a {
                    left.swap(left_rank - 1, left_rank - 2);
                }
                if right_rank == 1 {
                    right.push(1);
                } else if *transpose_b {
                    right.swap(right_rank - 1, right_rank - 2);
                }
                let mut out = broadcast_shape(&left[..left.len() - 2], &right[..right.len() - 2]);
                if left_rank > 1 {
                    out.push(left[left.len() - 2]);
                }
                if right_rank > 1 {
                    out.push(right[right.len() - 1]);
                }
                (out, DType::F32)
            }
            Op::Add { a, b }
            | Op::Sub { a, b }
            | Op::Mul { a, b }
            | Op::Div { a, b }
            | Op::Pow { a, b }
            | Op::Min { a, b }
            | Op::Max { a, b }
            | Op::Mod { a, b } => {
                let of = |operand: &Operand| match operand {
                    Operand::Value(id) => (shape(id), Some(dtype(id))),
                    Operand::Scalar(_) => (vec![], None),
                };
                let ((a, a_type), (b, b_type)) = (of(a), of(b));
                let integer = a_type.or(b_type) == Some(DType::I64) && b_type.or(a_type) == Some(DType::I64);
                (broadcast_shape(&a, &b), if integer { DType::I64 } else { DType::F32 })
            }
            Op::ReduceSum { x, axes, keep } => {
                let sizes = shape(x).into_iter().enumerate();
                let kept = sizes.filter_map(|(axis, size)| if axes.contains(&axis) { keep.then_some(1) } else { Some(size) });
                (kept.collect(), dtype(x))
            }
            Op::Concat { xs, axis } => {
                let mut out = shape(&xs[0]);
                out[*axis] = xs.iter().map(|x| self.shape(*x)[*axis]).sum();
                (out, dtype(&xs[0]))
            }
            Op::Slice { x, axis, start, end, step } => {
                let mut out = shape(x);
                out[*axis] = (end - start).div_ceil(*step);
                (out, dtype(x))
            }
            Op::Transpose { x, perm } => (perm.iter().map(|&axis| self.shape(*x)[axis]).collect(), dtype(x)),
            Op::GatherConst { x, axis, indices } => {
                let mut out = shape(x);
                out[*axis] = indices.len();
                (out, dtype(x))
            }
            Op::Clamp { x, .. }
            | Op::Relu { x }
            | Op::Sigmoid { x }
            | Op::Prelu { x, .. }
            | Op::Softmax { x, .. }
            | Op::BatchNorm { x, .. }
            | Op::L2Norm { x, .. } => (shape(x), dtype(x)),
            Op::Reshape { .. } | Op::Broadcast { .. } | Op::Fill { .. } | Op::Iota { .. } | Op::Cast { .. } => {
                panic!("these take their shape from `op_as`")
            }
            op => self.infer_more(op),
        }
    }

    /// The model, with these values as outputs.
    pub fn finish(self, outputs: &[ValueId]) -> Arc<Model> {
        let mut graph = self.graph;
        graph.outputs =
            outputs.iter().enumerate().map(|(at, &value)| Output { name: format!("o{at}"), kind: OutputKind::Value, value }).collect();
        Arc::new(Model::new("test", self.features, graph, self.weights))
    }
}

/// numpy's rule.
pub fn broadcast_shape(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| if axis + shape.len() < rank { 1 } else { shape[axis + shape.len() - rank] };
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (1, size) | (size, 1) => size,
            (a, b) => {
                assert_eq!(a, b, "shapes broadcast");
                a
            }
        })
        .collect()
}
