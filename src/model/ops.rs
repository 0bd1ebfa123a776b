//! The ops of the manifest, one function per group: arguments, checks, shape. `docs/bundle.md` is the same list in words.

use crate::limits::{AXES_MAX, FEATURES_MAX, NODES_MAX, VALUE_ELEMENTS_MAX};

use super::error::{Fault, did_you_mean};
use super::feature::{Feature, FeatureKind};
use super::graph::{DType, Op, Operand, Pool, ShapeBuf, ValueId};
use super::json::{At, Object, quote};
use super::manifest::{choice, pool};
use super::name::name;
use super::resolve::{Builder, scalar};
use super::shape;
use super::table::TableId;
use super::weights::TensorDType;

/// Every op of the manifest.
pub const OPS: [&str; 29] = [
    "add",
    "batch_norm",
    "broadcast",
    "cast",
    "clamp",
    "concat",
    "const",
    "dense",
    "div",
    "fill",
    "gather_const",
    "integer",
    "iota",
    "l2_norm",
    "length",
    "linear",
    "lookup",
    "matmul",
    "mul",
    "pow",
    "prelu",
    "reduce_sum",
    "relu",
    "reshape",
    "sigmoid",
    "slice",
    "softmax",
    "sub",
    "transpose",
];

/// An op with the shape and type of its value.
type Made = (Op, ShapeBuf, DType);
type Checked<T> = Result<T, Box<Fault>>;

impl Builder<'_> {
    /// Reads one entry of the graph.
    pub(super) fn node(&mut self, at: &At<'_>) -> Checked<()> {
        let object = at.object()?;
        let op_at = object.required("op")?;
        let out = name(&object.required("out")?)?;
        let made = match op_at.text()? {
            "dense" => self.dense(&object),
            "integer" => self.integer(&object),
            "length" => self.length(&object),
            "lookup" => self.lookup(&object, &out),
            "const" => self.constant(&object),
            "fill" => self.fill(&object),
            "iota" => iota(&object),
            "linear" => self.linear(&object),
            "matmul" => self.matmul(&object, &out),
            "add" => self.binary(&object, |a, b| Op::Add { a, b }),
            "sub" => self.binary(&object, |a, b| Op::Sub { a, b }),
            "mul" => self.binary(&object, |a, b| Op::Mul { a, b }),
            "div" => self.binary(&object, |a, b| Op::Div { a, b }),
            "pow" => self.binary(&object, |a, b| Op::Pow { a, b }),
            "clamp" => self.clamp(&object),
            "relu" => self.unary(&object, |x| Op::Relu { x }),
            "sigmoid" => self.unary(&object, |x| Op::Sigmoid { x }),
            "cast" => self.cast(&object),
            "prelu" => self.prelu(&object),
            "softmax" => self.softmax(&object),
            "batch_norm" => self.batch_norm(&object),
            "l2_norm" => self.l2_norm(&object),
            "reduce_sum" => self.reduce_sum(&object),
            "concat" => self.concat(&object),
            "slice" => self.slice(&object),
            "reshape" => self.reshape(&object),
            "transpose" => self.transpose(&object),
            "broadcast" => self.broadcast(&object),
            "gather_const" => self.gather_const(&object),
            other => {
                let remedy =
                    did_you_mean(other, OPS.into_iter()).unwrap_or_else(|| "Express it with these ops, or upgrade the server".into());
                return Err(op_at.fault(format!("unknown op {}", quote(other)), format!("one of {}", OPS.join(", ")), remedy));
            }
        };
        let (op, shape, dtype) = made?;
        object.finish()?;
        self.push(at, out, op, shape, dtype)?;
        Ok(())
    }

    // Inputs.

    fn dense(&mut self, object: &Object<'_>) -> Checked<Made> {
        let list_at = object.required("features")?;
        let mut features = Vec::new();
        let mut width = 0;
        for at in list_at.list(FEATURES_MAX)? {
            let index = self.feature(&at)?;
            let feature = &self.manifest.features[index];
            if !matches!(feature.kind, FeatureKind::Dense { .. }) {
                return Err(not_of_kind(&at, feature, "dense"));
            }
            width += feature.width as usize;
            features.push(index);
        }
        Ok((Op::Dense { features }, vec![width], DType::F32))
    }

    fn integer(&mut self, object: &Object<'_>) -> Checked<Made> {
        let at = object.required("feature")?;
        let index = self.feature(&at)?;
        let feature = &self.manifest.features[index];
        match feature.kind {
            FeatureKind::Integer => Ok((Op::Integer { feature: index }, vec![feature.width as usize], DType::I64)),
            _ => Err(not_of_kind(&at, feature, "integer")),
        }
    }

    fn length(&mut self, object: &Object<'_>) -> Checked<Made> {
        let at = object.required("feature")?;
        let index = self.feature(&at)?;
        let feature = &self.manifest.features[index];
        match feature.kind {
            FeatureKind::Sparse { .. } => Ok((Op::Length { feature: index }, vec![], DType::I64)),
            _ => Err(not_of_kind(&at, feature, "sparse")),
        }
    }

    fn lookup(&mut self, object: &Object<'_>, out: &str) -> Checked<Made> {
        let pool = object.optional("pool").map(|at| pool(&at).map(|pool| (at, pool))).transpose()?;
        if let Some(at) = object.optional("feature") {
            let table = object.optional("table");
            let (op, shape) = self.one_lookup(&at, table.as_ref(), pool.as_ref())?;
            return Ok((op, shape, DType::F32));
        }
        let list_at = object.optional("features").ok_or_else(|| {
            object.at.fault("neither feature nor features", "\"feature\": NAME or \"features\": [NAME, ..]", "docs/bundle.md, op lookup")
        })?;
        let features = list_at.list(FEATURES_MAX)?;
        let tables = object.optional("tables").map(|at| at.list(FEATURES_MAX).map(|list| (at, list))).transpose()?;
        if let Some((at, list)) = &tables
            && list.len() != features.len()
        {
            return Err(at.wrong(format!("as many tables as features: {}", features.len())));
        }
        // Each lookup [dim] becomes a row [1, dim] of the stack.
        let mut rows: Vec<ValueId> = Vec::new();
        for (i, at) in features.iter().enumerate() {
            let table = tables.as_ref().map(|(_, list)| &list[i]);
            let (op, shape) = self.one_lookup(at, table, pool.as_ref())?;
            let [dim] = shape[..] else {
                return Err(at.fault("pool \"none\"", "a pooled lookup in \"features\"", "Look it up by itself, with \"feature\""));
            };
            if let Some(first) = rows.first().map(|id| self.value(*id).shape[1])
                && first != dim
            {
                let remedy = "Look features of other sizes up apart, then concat";
                return Err(at.fault(format!("rows of {dim} elements"), format!("{first}, as the feature before it"), remedy));
            }
            let x = self.push(at, format!("{out}~{i}"), op, vec![dim], DType::F32)?;
            rows.push(self.push(at, format!("{out}~{i}~row"), Op::Reshape { x }, vec![1, dim], DType::F32)?);
        }
        let Some(dim) = rows.first().map(|id| self.value(*id).shape[1]) else {
            return Err(list_at.wrong("at least one feature"));
        };
        let shape = vec![rows.len(), dim];
        Ok((Op::Concat { xs: rows, axis: 0 }, shape, DType::F32))
    }

    fn one_lookup(&self, at: &At<'_>, table_at: Option<&At<'_>>, pool_at: Option<&(At<'_>, Pool)>) -> Checked<(Op, ShapeBuf)> {
        let index = self.feature(at)?;
        let feature = &self.manifest.features[index];
        let FeatureKind::Sparse { table, rows, pool, weighted, .. } = &feature.kind else {
            return Err(not_of_kind(at, feature, "sparse"));
        };
        let (table, spec): (TableId, _) = match table_at {
            None => (*table, self.tables.spec(*table)),
            Some(at) => self.tables.named(at)?,
        };
        if let Some(at) = table_at
            && spec.rows < *rows
        {
            let expected = format!("at least {rows}, the bound of the ids of feature {:?}", feature.name);
            return Err(at.fault(format!("table {:?} of {} rows", spec.name, spec.rows), expected, "Name the larger table in the feature"));
        }
        let pool = pool_at.map_or(*pool, |(_, pool)| *pool);
        if let Some((at, _)) = pool_at
            && *weighted
            && pool == Pool::Max
        {
            let found = format!("pool \"max\" of the weighted feature {:?}", feature.name);
            return Err(at.fault(found, "\"sum\", \"mean\" or \"none\" where ids have weights", "Choose another pool"));
        }
        let dim = spec.dim as usize;
        let shape = if pool == Pool::None { vec![feature.max_len as usize, dim] } else { vec![dim] };
        Ok((Op::Lookup { feature: index, table, pool }, shape))
    }

    fn constant(&mut self, object: &Object<'_>) -> Checked<Made> {
        let tensor = self.any_tensor(&object.required("tensor")?)?;
        let found = self.tensor_use(tensor);
        let dtype = match found.dtype {
            TensorDType::F32 => DType::F32,
            TensorDType::I64 => DType::I64,
        };
        Ok((Op::Const { tensor }, found.shape.clone(), dtype))
    }

    fn fill(&mut self, object: &Object<'_>) -> Checked<Made> {
        let dtype = dtype(object, "dtype")?.unwrap_or(DType::F32);
        let value = typed_number(&object.required("value")?, dtype)?;
        let shape = object.optional("shape").map(|at| sizes(&at)).transpose()?.unwrap_or_default();
        Ok((Op::Fill { value }, shape, dtype))
    }

    // Arithmetic.

    fn linear(&mut self, object: &Object<'_>) -> Checked<Made> {
        let in_at = object.required("in")?;
        let x = self.float(&in_at)?;
        let weight_at = object.required("weight")?;
        let weight = self.tensor(&weight_at)?;
        let [outputs, inputs] = self.tensor_use(weight).shape[..] else {
            let found = format!("tensor {} has shape {:?}", quote(weight_at.text()?), self.tensor_use(weight).shape);
            return Err(weight_at.fault(found, "[out, in]", "A linear layer's weight has two axes, outputs first"));
        };
        let mut shape = self.value(x).shape.clone();
        match shape.last_mut() {
            Some(last) if *last == inputs => *last = outputs,
            _ => {
                let found = format!("tensor {} has shape {:?}", quote(weight_at.text()?), [outputs, inputs]);
                let expected =
                    format!("[.., {}], since the input {:?} has shape {shape:?}", shape.last().unwrap_or(&0), self.value(x).name);
                return Err(weight_at.fault(found, expected, "Check the layer that it belongs to, and that it is not transposed"));
            }
        }
        let bias = object.optional("bias").map(|at| self.tensor_of(&at, &[outputs])).transpose()?;
        Ok((Op::Linear { x, weight, bias }, shape, DType::F32))
    }

    /// numpy's matmul. An argument of rank 1 becomes a matrix by a reshape, and its axis leaves the result by another.
    fn matmul(&mut self, object: &Object<'_>, out: &str) -> Checked<Made> {
        let flag = |key| object.optional(key).map_or(Ok(false), |at| at.boolean());
        let (transpose_a, transpose_b) = (flag("transpose_a")?, flag("transpose_b")?);
        let (a_at, b_at) = (object.required("a")?, object.required("b")?);
        let (mut a, mut b) = (self.float(&a_at)?, self.float(&b_at)?);
        let (shape_a, shape_b) = (self.value(a).shape.clone(), self.value(b).shape.clone());
        let (vector_a, vector_b) = (shape_a.len() == 1, shape_b.len() == 1);
        if (vector_a && transpose_a) || (vector_b && transpose_b) || shape_a.is_empty() || shape_b.is_empty() {
            let found = format!("shapes {shape_a:?} and {shape_b:?}");
            return Err(object.at.fault(found, "matrices, or vectors that are not transposed", "Reshape the arguments"));
        }
        if vector_a {
            a = self.push(&a_at, format!("{out}~a"), Op::Reshape { x: a }, vec![1, shape_a[0]], DType::F32)?;
        }
        if vector_b {
            b = self.push(&b_at, format!("{out}~b"), Op::Reshape { x: b }, vec![shape_b[0], 1], DType::F32)?;
        }
        let Some(mut shape) = shape::matmul(&self.value(a).shape, &self.value(b).shape, transpose_a, transpose_b) else {
            let found = format!("shapes {shape_a:?} and {shape_b:?}");
            return Err(object.at.fault(
                found,
                "inner sizes that agree, and leading axes that broadcast",
                "Check transpose_a and transpose_b",
            ));
        };
        let op = Op::MatMul { a, b, transpose_a, transpose_b };
        if !vector_a && !vector_b {
            return Ok((op, shape, DType::F32));
        }
        let x = self.push(&object.at, format!("{out}~product"), op, shape.clone(), DType::F32)?;
        if vector_b {
            shape.pop();
        }
        if vector_a {
            shape.remove(shape.len() - 1 - usize::from(!vector_b));
        }
        Ok((Op::Reshape { x }, shape, DType::F32))
    }

    fn binary(&mut self, object: &Object<'_>, op: impl Fn(Operand, Operand) -> Op) -> Checked<Made> {
        let (a, b) = (self.operand(&object.required("a")?)?, self.operand(&object.required("b")?)?);
        let shape_of = |operand| match operand {
            Operand::Value(id) => self.value(id).shape.clone(),
            Operand::Scalar(_) => vec![],
        };
        if let (Operand::Scalar(_), Operand::Scalar(_)) = (a, b) {
            return Err(object.at.fault("two numbers", "at least one value", "Compute it yourself, or use fill"));
        }
        let (shape_a, shape_b) = (shape_of(a), shape_of(b));
        match shape::broadcast(&shape_a, &shape_b) {
            Some(shape) => Ok((op(a, b), shape, DType::F32)),
            None => {
                let found = format!("shapes {shape_a:?} and {shape_b:?}");
                Err(object.at.fault(found, "shapes that broadcast: from the last axis on, equal sizes or 1", "Reshape one of the two"))
            }
        }
    }

    fn clamp(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.float(&object.required("in")?)?;
        let bound = |at: At<'_>| at.number().and_then(|number| scalar(&at, number));
        let min = object.optional("min").map(bound).transpose()?;
        let max = object.optional("max").map(bound).transpose()?;
        if min.is_none() && max.is_none() || matches!((min, max), (Some(min), Some(max)) if min > max) {
            return Err(object.at.fault(format!("min {min:?}, max {max:?}"), "at least one of the two, min <= max", "Correct the bounds"));
        }
        Ok((Op::Clamp { x, min, max }, self.value(x).shape.clone(), DType::F32))
    }

    fn unary(&mut self, object: &Object<'_>, op: impl Fn(ValueId) -> Op) -> Checked<Made> {
        let x = self.float(&object.required("in")?)?;
        Ok((op(x), self.value(x).shape.clone(), DType::F32))
    }

    fn cast(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let to = dtype(object, "to")?.ok_or_else(|| object.at.fault("no key \"to\"", "one", "docs/bundle.md lists the keys"))?;
        Ok((Op::Cast { x }, self.value(x).shape.clone(), to))
    }

    fn prelu(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.float(&object.required("in")?)?;
        let slope_at = object.required("slope")?;
        let slope = self.tensor(&slope_at)?;
        let shape = self.value(x).shape.clone();
        let found = &self.tensor_use(slope).shape;
        if shape::broadcast(&shape, found).as_ref() != Some(&shape) {
            let found = format!("tensor {} has shape {found:?}", quote(slope_at.text()?));
            return Err(slope_at.fault(found, format!("one that broadcasts to {shape:?}"), "Reshape the tensor before saving it"));
        }
        Ok((Op::Prelu { x, slope }, shape, DType::F32))
    }

    fn softmax(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.float(&object.required("in")?)?;
        let shape = self.value(x).shape.clone();
        let axis = axis(&object.required("axis")?, &shape)?;
        Ok((Op::Softmax { x, axis }, shape, DType::F32))
    }

    fn batch_norm(&mut self, object: &Object<'_>) -> Checked<Made> {
        let in_at = object.required("in")?;
        let x = self.float(&in_at)?;
        let shape = self.value(x).shape.clone();
        let axis = match object.optional("axis") {
            Some(at) => axis(&at, &shape)?,
            None => shape.len().checked_sub(1).ok_or_else(|| in_at.fault("a scalar", "at least one axis", "Reshape it first"))?,
        };
        let eps = epsilon(object, 1e-5)?;
        let size = [shape[axis]];
        let mean = self.tensor_of(&object.required("mean")?, &size)?;
        let var_at = object.required("var")?;
        let var = self.tensor_of(&var_at, &size)?;
        self.require_above(var, -eps, &var_at);
        let weight = object.optional("weight").map(|at| self.tensor_of(&at, &size)).transpose()?;
        let bias = object.optional("bias").map(|at| self.tensor_of(&at, &size)).transpose()?;
        Ok((Op::BatchNorm { x, axis, mean, var, weight, bias, eps }, shape, DType::F32))
    }

    fn l2_norm(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.float(&object.required("in")?)?;
        let shape = self.value(x).shape.clone();
        let axis = axis(&object.required("axis")?, &shape)?;
        let eps = epsilon(object, 1e-12)?;
        Ok((Op::L2Norm { x, axis, eps }, shape, DType::F32))
    }

    fn reduce_sum(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.float(&object.required("in")?)?;
        let shape = self.value(x).shape.clone();
        let keep = object.optional("keep").map_or(Ok(false), |at| at.boolean())?;
        let mut axes = match object.optional("axes") {
            None => (0..shape.len()).collect(),
            Some(at) => at.list(AXES_MAX)?.iter().map(|at| axis(at, &shape)).collect::<Checked<Vec<_>>>()?,
        };
        let asked = axes.len();
        axes.sort_unstable();
        axes.dedup();
        if axes.len() != asked {
            return Err(object.at.fault("an axis twice", "each axis once", "Remove one"));
        }
        let reduced = shape.iter().enumerate().filter_map(|(axis, size)| match axes.contains(&axis) {
            true if keep => Some(1),
            true => None,
            false => Some(*size),
        });
        let reduced = reduced.collect();
        Ok((Op::ReduceSum { x, axes, keep }, reduced, DType::F32))
    }

    // Layout: of either type.

    fn concat(&mut self, object: &Object<'_>) -> Checked<Made> {
        let list_at = object.required("in")?;
        let items = list_at.list(NODES_MAX)?;
        let xs = items.iter().map(|at| self.input(at)).collect::<Checked<Vec<_>>>()?;
        let Some(first) = xs.first().map(|id| self.value(*id)) else { return Err(list_at.wrong("at least one value")) };
        let (mut shape, dtype) = (first.shape.clone(), first.dtype);
        let axis = axis(&object.required("axis")?, &shape)?;
        shape[axis] = 0;
        for (at, id) in items.iter().zip(&xs) {
            let other = self.value(*id);
            let mut rest = other.shape.clone();
            if let Some(size) = rest.get_mut(axis) {
                shape[axis] += std::mem::take(size);
            }
            let size = std::mem::take(&mut shape[axis]);
            let agrees = rest == shape && other.dtype == dtype;
            shape[axis] = size;
            if !agrees {
                let first = self.value(xs[0]);
                let expected = format!("{:?} {:?} but for axis {axis}, as the first", first.dtype, first.shape);
                return Err(at.fault(format!("{:?} {:?}", other.dtype, other.shape), expected, "Reshape or cast it"));
            }
        }
        Ok((Op::Concat { xs, axis }, shape, dtype))
    }

    fn slice(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let mut shape = self.value(x).shape.clone();
        let axis = axis(&object.required("axis")?, &shape)?;
        let bound = |key, default| object.optional(key).map_or(Ok(default), |at| at.integer(i64::MIN, i64::MAX));
        let (start, end) = shape::slice(bound("start", 0)?, bound("end", i64::MAX)?, shape[axis]);
        let step = object.optional("step").map_or(Ok(1), |at| at.count(1, VALUE_ELEMENTS_MAX))?;
        shape[axis] = (end - start).div_ceil(step);
        Ok((Op::Slice { x, axis, start, end, step }, shape, self.value(x).dtype))
    }

    fn reshape(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let at = object.required("shape")?;
        let written = at.list(AXES_MAX)?.iter().map(|at| at.integer(-1, VALUE_ELEMENTS_MAX as i64)).collect::<Checked<Vec<_>>>()?;
        let from = self.value(x);
        let shape = shape::reshape(from.len(), &written).ok_or_else(|| {
            let remedy = "Shapes are per row, without the batch; one size may be -1";
            at.fault(format!("{written:?}"), format!("the {} elements of {:?}", from.len(), from.shape), remedy)
        })?;
        Ok((Op::Reshape { x }, shape, from.dtype))
    }

    fn transpose(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let from = self.value(x);
        let at = object.required("perm")?;
        let perm = at.list(AXES_MAX)?.iter().map(|at| axis(at, &from.shape)).collect::<Checked<Vec<_>>>()?;
        let mut sorted = perm.clone();
        sorted.sort_unstable();
        if sorted != (0..from.shape.len()).collect::<Vec<_>>() {
            return Err(at.fault(
                format!("{perm:?}"),
                format!("each of the {} axes once", from.shape.len()),
                "Shapes are per row, without the batch",
            ));
        }
        let shape = perm.iter().map(|axis| from.shape[*axis]).collect();
        Ok((Op::Transpose { x, perm }, shape, from.dtype))
    }

    fn broadcast(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let from = self.value(x);
        let at = object.required("shape")?;
        let shape = sizes(&at)?;
        if shape::broadcast(&from.shape, &shape).as_ref() != Some(&shape) {
            return Err(at.fault(
                format!("{shape:?}"),
                format!("a shape to which {:?} broadcasts", from.shape),
                "Axes are matched from the last; sizes of 1 repeat",
            ));
        }
        Ok((Op::Broadcast { x }, shape, from.dtype))
    }

    fn gather_const(&mut self, object: &Object<'_>) -> Checked<Made> {
        let x = self.input(&object.required("in")?)?;
        let mut shape = self.value(x).shape.clone();
        let axis = axis(&object.required("axis")?, &shape)?;
        let size = shape[axis] as i64;
        let at = object.required("indices")?;
        let index = |at: &At<'_>| at.integer(-size, size - 1).map(|index| index.rem_euclid(size) as usize);
        let indices = at.list(VALUE_ELEMENTS_MAX)?.iter().map(index).collect::<Checked<Vec<_>>>()?;
        shape[axis] = indices.len();
        Ok((Op::GatherConst { x, axis, indices }, shape, self.value(x).dtype))
    }
}

fn iota(object: &Object<'_>) -> Checked<Made> {
    let dtype = dtype(object, "dtype")?.unwrap_or(DType::F32);
    let size = object.required("size")?.count(1, VALUE_ELEMENTS_MAX)?;
    let number = |key, default| object.optional(key).map_or(Ok(default), |at| typed_number(&at, dtype));
    Ok((Op::Iota { start: number("start", 0.0)?, step: number("step", 1.0)? }, vec![size], dtype))
}

fn not_of_kind(at: &At<'_>, feature: &Feature, kind: &str) -> Box<Fault> {
    let found = match feature.kind {
        FeatureKind::Dense { .. } => "dense",
        FeatureKind::Sparse { .. } => "sparse",
        FeatureKind::Integer => "integer",
    };
    let remedy = "Ops by kind: dense reads dense features, lookup and length sparse ones, integer integer ones";
    at.fault(format!("feature {:?} is {found}", feature.name), format!("a {kind} feature"), remedy)
}

fn axis(at: &At<'_>, shape: &[usize]) -> Checked<usize> {
    let written = at.integer(-(AXES_MAX as i64), AXES_MAX as i64)?;
    let remedy = "Shapes are per row, without the batch";
    shape::axis(written, shape.len()).ok_or_else(|| at.fault(format!("axis {written}"), format!("an axis of shape {shape:?}"), remedy))
}

fn sizes(at: &At<'_>) -> Checked<ShapeBuf> {
    at.list(AXES_MAX)?.iter().map(|at| at.count(1, VALUE_ELEMENTS_MAX)).collect()
}

fn dtype(object: &Object<'_>, key: &'static str) -> Checked<Option<DType>> {
    object.optional(key).map(|at| choice(&at, &[("f32", DType::F32), ("i64", DType::I64)])).transpose()
}

/// A number that the type holds exactly enough: integers up to 2^53 for i64.
fn typed_number(at: &At<'_>, dtype: DType) -> Checked<f64> {
    let number = at.number()?;
    match dtype {
        DType::F32 => scalar(at, number),
        DType::I64 if number.fract() == 0.0 && number.abs() <= (1_i64 << 53) as f64 => Ok(number),
        DType::I64 => Err(at.wrong("an integer within 2^53, as dtype is \"i64\"")),
    }
}

fn epsilon(object: &Object<'_>, default: f64) -> Checked<f64> {
    let Some(at) = object.optional("eps") else { return Ok(default) };
    let eps = at.number()?;
    if (0.0..=1.0).contains(&eps) { Ok(eps) } else { Err(at.wrong("a number from 0 to 1")) }
}
