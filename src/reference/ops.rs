//! One node on one row. Index by index, as the definition says; no op knows of another.

use crate::model::{DType, Model, Op, Operand, Pool, Table, TensorData, TensorId, Value, ValueId};

use super::row::RowInputs;
use super::tensor::{Data, Tensor, broadcast_index, indices};
use super::{elementwise, pick, reduce, sequence, trees, window};

/// The value that `op` makes. `out`: its name, shape and type; `values`: those made so far, by id; `row`: the inputs.
pub fn run(model: &Model, op: &Op, out: &Value, values: &[Tensor], row: &RowInputs) -> Tensor {
    let shape = out.shape.as_slice();
    let value = |id: &ValueId| &values[id.0 as usize];
    let map = |x: &ValueId, f: &dyn Fn(f64) -> f64| Tensor::of_floats(shape, value(x).floats().iter().map(|x| f(*x)).collect());
    let each = |f: &dyn Fn(&[usize]) -> f64| Tensor::of_floats(shape, indices(shape).map(|index| f(&index)).collect());
    let binary = |a: &Operand, b: &Operand, f: &dyn Fn(f64, f64) -> f64| {
        let get = |operand: &Operand, index: &[usize]| match operand {
            Operand::Value(id) => value(id).broadcast_at(index),
            Operand::Scalar(number) => *number,
        };
        each(&|index| f(get(a, index), get(b, index)))
    };
    match op {
        Op::Dense { features } => Tensor::of_floats(shape, features.iter().flat_map(|feature| row.dense[*feature].clone()).collect()),
        Op::Integer { feature } => Tensor::of_integers(shape, row.integers[*feature].clone()),
        Op::Length { feature } => Tensor::of_integers(shape, vec![row.bags[*feature].len() as i64]),
        Op::Lookup { feature, table, pool } => {
            let table = model.weights.table(*table);
            let rows = |at: u32| table_row(table, at as usize);
            let bag: Vec<(Option<Vec<f64>>, f64)> = row.bags[*feature].iter().map(|id| (id.row.map(rows), id.weight)).collect();
            Tensor::of_floats(shape, pooled(&bag, *pool, table.dim as usize, out.len()))
        }
        Op::Const { tensor } => weight(model, *tensor),
        Op::Linear { x, weight: w, bias } => {
            let (x, w) = (value(x), weight(model, *w));
            let bias = bias.map(|bias| weight(model, bias));
            let (outputs, inputs) = (w.shape[0], w.shape[1]);
            let mut result = Vec::with_capacity(out.len());
            for x in x.floats().chunks(inputs) {
                for o in 0..outputs {
                    let product: f64 = (0..inputs).map(|i| x[i] * w.floats()[o * inputs + i]).sum();
                    result.push(product + bias.as_ref().map_or(0.0, |bias| bias.at(&[o])));
                }
            }
            Tensor::of_floats(shape, result)
        }
        Op::MatMul { a, b, transpose_a, transpose_b } => {
            let (a, b) = (value(a), value(b));
            let k = a.shape[a.shape.len() - if *transpose_a { 2 } else { 1 }];
            let get = |x: &Tensor, leading: &[usize], i: usize, j: usize| {
                let batch = broadcast_index(&x.shape[..x.shape.len() - 2], leading);
                x.at(&[&batch[..], &[i, j]].concat())
            };
            each(&|index| {
                let (leading, at) = index.split_at(index.len() - 2);
                let left = |k| if *transpose_a { get(a, leading, k, at[0]) } else { get(a, leading, at[0], k) };
                let right = |k| if *transpose_b { get(b, leading, at[1], k) } else { get(b, leading, k, at[1]) };
                (0..k).map(|k| left(k) * right(k)).sum()
            })
        }
        Op::Add { a, b } => elementwise::binary(out, values, a, b, &|a, b| a + b, &i64::wrapping_add),
        Op::Sub { a, b } => elementwise::binary(out, values, a, b, &|a, b| a - b, &i64::wrapping_sub),
        Op::Mul { a, b } => elementwise::binary(out, values, a, b, &|a, b| a * b, &i64::wrapping_mul),
        Op::Min { a, b } => elementwise::binary(out, values, a, b, &elementwise::min, &i64::min),
        Op::Max { a, b } => elementwise::binary(out, values, a, b, &elementwise::max, &i64::max),
        Op::Mod { a, b } => elementwise::binary(out, values, a, b, &elementwise::modulo, &elementwise::integer_modulo),
        Op::Compare { cmp, a, b } => elementwise::compare(out, values, *cmp, a, b),
        Op::Logic { function, a, b } => elementwise::logic(out, *function, value(a), value(b)),
        Op::Not { x } => Tensor::of_integers(shape, value(x).integers().iter().map(|x| i64::from(*x == 0)).collect()),
        Op::Where { cond, a, b } => elementwise::choose(out, values, value(cond), a, b),
        Op::Unary { function, x } => map(x, &|x| elementwise::unary(*function, x)),
        Op::Div { a, b } => binary(a, b, &|a, b| a / b),
        Op::Pow { a, b } => binary(a, b, &f64::powf),
        Op::Clamp { x, min, max } => map(x, &|x| {
            let x = min.map_or(x, |min| if x < min { min } else { x });
            max.map_or(x, |max| if x > max { max } else { x })
        }),
        Op::Relu { x } => map(x, &|x| if x < 0.0 { 0.0 } else { x }),
        Op::Sigmoid { x } => map(x, &|x| 1.0 / (1.0 + (-x).exp())),
        Op::Prelu { x, slope } => {
            let (x, slope) = (value(x), weight(model, *slope));
            each(&|index| {
                let x = x.at(index);
                if x >= 0.0 { x } else { slope.broadcast_at(index) * x }
            })
        }
        Op::ReduceSum { x, axes, keep } => reduce::sum(out, value(x), axes, *keep),
        Op::Reduce { function, x, axes, keep } => reduce::reduce(out, *function, value(x), axes, *keep),
        Op::CumSum { x, axis, exclusive, reverse } => reduce::cumsum(value(x), *axis, *exclusive, *reverse),
        Op::Softmax { x, axis } => {
            let x = value(x);
            let along = |index: &[usize]| -> Vec<f64> { line(index, *axis, shape[*axis]).map(|index| x.at(&index)).collect() };
            each(&|index| {
                let values = along(index);
                let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                (x.at(index) - most).exp() / values.iter().map(|value| (value - most).exp()).sum::<f64>()
            })
        }
        Op::BatchNorm { x, axis, mean, var, weight: scale, bias, eps } => {
            let x = value(x);
            let (mean, var) = (weight(model, *mean), weight(model, *var));
            let scale = scale.map(|scale| weight(model, scale));
            let bias = bias.map(|bias| weight(model, bias));
            each(&|index| {
                let i = [index[*axis]];
                let normal = (x.at(index) - mean.at(&i)) / (var.at(&i) + eps).sqrt();
                normal * scale.as_ref().map_or(1.0, |scale| scale.at(&i)) + bias.as_ref().map_or(0.0, |bias| bias.at(&i))
            })
        }
        Op::L2Norm { x, axis, eps } => {
            let x = value(x);
            each(&|index| {
                let norm = line(index, *axis, shape[*axis]).map(|index| x.at(&index).powi(2)).sum::<f64>().sqrt();
                x.at(index) / elementwise::max(norm, *eps)
            })
        }
        Op::LayerNorm { x, axes, weight: scale, bias, eps } => {
            let x = value(x);
            let scale = scale.map(|scale| weight(model, scale));
            let bias = bias.map(|bias| weight(model, bias));
            let outer = shape.len() - axes;
            let n = shape[outer..].iter().product::<usize>() as f64;
            each(&|index| {
                let (lead, inner) = index.split_at(outer);
                let group: Vec<f64> = indices(&shape[outer..]).map(|inner| x.at(&[lead, &inner].concat())).collect();
                let mean = group.iter().sum::<f64>() / n;
                let var = group.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                let normal = (x.at(index) - mean) / (var + eps).sqrt();
                normal * scale.as_ref().map_or(1.0, |scale| scale.at(inner)) + bias.as_ref().map_or(0.0, |bias| bias.at(inner))
            })
        }
        Op::Conv { x, weight: w, bias, window, groups } => {
            let bias = bias.map(|bias| weight(model, bias));
            window::conv(shape, value(x), &weight(model, *w), bias.as_ref(), window, *groups)
        }
        Op::MaxPool { x, window } => window::max_pool(shape, value(x), window),
        Op::AvgPool { x, window, count_include_pad } => window::avg_pool(shape, value(x), window, *count_include_pad),
        Op::Sdpa { q, k, v, mask, scale, causal } => {
            sequence::attention(shape, [value(q), value(k), value(v)], mask.as_ref().map(value), *scale, *causal)
        }
        Op::Gru(gru) => sequence::gru(model, gru, out, values),
        Op::Trees(trees) => trees::sum(model, trees, shape, value(&trees.x)),
        Op::Gather { x, index, axis } => pick::gather(shape, value(x), value(index), *axis),
        Op::TakeAlong { x, index, axis } => pick::take_along(shape, value(x), value(index), *axis),
        Op::Embedding { index, table } => pick::embedding(shape, value(index), model.weights.table(*table)),
        Op::OneHot { x, on, off } => each(&|index| {
            let (at, outer) = (index[index.len() - 1] as i64, &index[..index.len() - 1]);
            if value(x).integer_at(outer) == at { *on } else { *off }
        }),
        Op::TopK { x, axis, largest, .. } => pick::top(value(x), *axis, *largest, shape).0,
        Op::ArgTopK { x, axis, largest, .. } => pick::top(value(x), *axis, *largest, shape).1,
        Op::Pad { x, pads, value: fill } => pick::pad(shape, value(x), pads, *fill),
        Op::Concat { xs, axis } => {
            let mut floats = Vec::new();
            let mut integers = Vec::new();
            for index in indices(shape) {
                // The part in which the index lies, and its place there.
                let (mut part, mut at) = (0, index[*axis]);
                while at >= value(&xs[part]).shape[*axis] {
                    at -= value(&xs[part]).shape[*axis];
                    part += 1;
                }
                let mut inner = index.clone();
                inner[*axis] = at;
                match value(&xs[part]).picked(&[], |_| inner.clone()).data {
                    Data::Float(one) => floats.extend(one),
                    Data::Integer(one) => integers.extend(one),
                }
            }
            match out.dtype {
                DType::F32 => Tensor::of_floats(shape, floats),
                DType::I64 => Tensor::of_integers(shape, integers),
            }
        }
        Op::Slice { x, axis, start, step, .. } => value(x).picked(shape, |index| moved(index, *axis, start + index[*axis] * step)),
        Op::GatherConst { x, axis, indices } => value(x).picked(shape, |index| moved(index, *axis, indices[index[*axis]])),
        Op::Transpose { x, perm } => value(x).picked(shape, |index| {
            let mut from = vec![0; index.len()];
            for (axis, i) in perm.iter().zip(index) {
                from[*axis] = *i;
            }
            from
        }),
        Op::Broadcast { x } => value(x).picked(shape, |index| broadcast_index(&value(x).shape, index)),
        Op::Reshape { x } => Tensor { shape: shape.to_vec(), data: value(x).data.clone() },
        Op::Fill { value } => constant(out, |_| *value),
        Op::Iota { start, step } => constant(out, |i| start + i as f64 * step),
        Op::Cast { x } => match (&value(x).data, out.dtype) {
            (Data::Float(values), DType::I64) => Tensor::of_integers(shape, values.iter().map(|x| x.trunc() as i64).collect()),
            (Data::Integer(values), DType::F32) => Tensor::of_floats(shape, values.iter().map(|x| *x as f64).collect()),
            _ => value(x).clone(),
        },
    }
}

/// All indices along `axis` through `index`.
pub(super) fn line(index: &[usize], axis: usize, size: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..size).map(move |i| moved(index, axis, i))
}

/// `index` with another position on `axis`.
pub(super) fn moved(index: &[usize], axis: usize, to: usize) -> Vec<usize> {
    let mut index = index.to_vec();
    index[axis] = to;
    index
}

fn constant(out: &Value, element: impl Fn(usize) -> f64) -> Tensor {
    match out.dtype {
        DType::F32 => Tensor::of_floats(&out.shape, (0..out.len()).map(element).collect()),
        DType::I64 => Tensor::of_integers(&out.shape, (0..out.len()).map(|i| element(i) as i64).collect()),
    }
}

/// A tensor of the weights.
pub(super) fn weight(model: &Model, id: TensorId) -> Tensor {
    let tensor = model.weights.tensor(id);
    match &tensor.data {
        TensorData::F32(values) => Tensor::of_floats(&tensor.shape, values.iter().map(|x| f64::from(*x)).collect()),
        TensorData::I64(values) => Tensor::of_integers(&tensor.shape, values.clone()),
    }
}

/// A row of a table.
pub(super) fn table_row(table: &Table, row: usize) -> Vec<f64> {
    (0..table.dim as usize).map(|column| f64::from(table.value(row as u32, column))).collect()
}

/// The rows of a bag combined. Absent ids contribute nothing; an empty bag gives zeros. `len`: elements of the result.
fn pooled(bag: &[(Option<Vec<f64>>, f64)], pool: Pool, dim: usize, len: usize) -> Vec<f64> {
    let mut result = vec![0.0; len];
    if pool == Pool::None {
        for (position, (row, weight)) in bag.iter().enumerate() {
            for (d, x) in row.iter().flatten().enumerate() {
                result[position * dim + d] = x * weight;
            }
        }
        return result;
    }
    let present: Vec<(&Vec<f64>, f64)> = bag.iter().filter_map(|(row, weight)| row.as_ref().map(|row| (row, *weight))).collect();
    if present.is_empty() {
        return result;
    }
    for (d, result) in result.iter_mut().enumerate() {
        let column = present.iter().map(|(row, weight)| (row[d], weight));
        *result = match pool {
            Pool::Max => column.map(|(x, _)| x).fold(f64::NEG_INFINITY, f64::max),
            Pool::Mean => column.map(|(x, weight)| x * weight).sum::<f64>() / present.len() as f64,
            _ => column.map(|(x, weight)| x * weight).sum(),
        };
    }
    result
}
