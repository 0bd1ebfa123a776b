//! A slow f64 evaluation, one row at a time, element by element through multi-indices. Shares nothing with the engine.

mod more;

use crate::model::*;

use super::batches::{Cell, Request};

/// Scores per request, [rows][outputs].
pub fn scores(model: &Model, requests: &[Request]) -> Vec<Vec<f64>> {
    let of = |request: &Request| {
        if request.dead {
            return vec![];
        }
        request.candidates.iter().flat_map(|candidate| row(model, &request.context, candidate)).collect()
    };
    requests.iter().map(of).collect()
}

#[derive(Clone, Debug)]
struct Array {
    shape: Vec<usize>,
    data: Vec<f64>,
}

impl Array {
    /// Element by element.
    fn make(shape: &[usize], element: impl FnMut(&[usize]) -> f64) -> Array {
        Array { shape: shape.to_vec(), data: indices(shape).iter().map(|index| index.as_slice()).map(element).collect() }
    }

    fn at(&self, index: &[usize]) -> f64 {
        assert_eq!(index.len(), self.shape.len());
        let flat = index.iter().zip(&self.shape).fold(0, |flat, (&at, &size)| {
            assert!(at < size);
            flat * size + at
        });
        self.data[flat]
    }

    /// As numpy broadcasts it.
    fn spread(&self, index: &[usize]) -> f64 {
        let own = &index[index.len() - self.shape.len()..];
        self.at(&own.iter().zip(&self.shape).map(|(&at, &size)| if size == 1 { 0 } else { at }).collect::<Vec<_>>())
    }
}

fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for &size in shape {
        all = all.into_iter().flat_map(|index| (0..size).map(move |at| [index.as_slice(), &[at]].concat())).collect();
    }
    all
}

fn row(model: &Model, context: &[Cell], candidate: &[Cell]) -> Vec<f64> {
    let mut values: Vec<Option<Array>> = vec![None; model.graph.values.len()];
    for node in &model.graph.nodes {
        let made = node_value(model, node, &values, context, candidate);
        values[node.out.0 as usize] = Some(made);
    }
    model.graph.outputs.iter().map(|output| values[output.value.0 as usize].as_ref().expect("made").data[0]).collect()
}

fn tensor(model: &Model, id: TensorId) -> Array {
    let tensor = model.weights.tensor(id);
    let data = match &tensor.data {
        TensorData::F32(values) => values.iter().map(|&value| f64::from(value)).collect(),
        TensorData::I64(values) => values.iter().map(|&value| value as f64).collect(),
    };
    Array { shape: tensor.shape.clone(), data }
}

fn node_value(model: &Model, node: &Node, values: &[Option<Array>], context: &[Cell], candidate: &[Cell]) -> Array {
    let out = model.graph.value(node.out);
    let cell = |feature: usize| match model.features[feature].scope {
        Scope::Context => &context[feature],
        Scope::Candidate => &candidate[feature],
    };
    let value = |id: &ValueId| values[id.0 as usize].as_ref().expect("made before");
    let operand = |operand: &Operand| match operand {
        Operand::Value(id) => value(id).clone(),
        Operand::Scalar(scalar) => Array { shape: vec![], data: vec![*scalar] },
    };
    let pairwise = |a: &Operand, b: &Operand, f: &dyn Fn(f64, f64) -> f64| {
        let (a, b) = (operand(a), operand(b));
        Array::make(&out.shape, |index| f(a.spread(index), b.spread(index)))
    };
    let map = |x: &ValueId, f: &dyn Fn(f64) -> f64| Array::make(&out.shape, |index| f(value(x).at(index)));
    let with = |index: &[usize], axis: usize, at: usize| {
        let mut index = index.to_vec();
        index[axis] = at;
        index
    };
    let integer = out.dtype == DType::I64;
    match &node.op {
        Op::Dense { features } => {
            let data = features.iter().flat_map(|&feature| cell(feature).dense.iter().map(|&value| f64::from(value))).collect();
            Array { shape: out.shape.clone(), data }
        }
        Op::Integer { feature } => {
            Array { shape: out.shape.clone(), data: cell(*feature).ints.iter().map(|&value| value as f64).collect() }
        }
        Op::Length { feature } => Array { shape: vec![], data: vec![cell(*feature).ids.len() as f64] },
        Op::Lookup { feature, table, pool } => lookup(model, cell(*feature), *table, *pool, out),
        Op::Const { tensor: id } => tensor(model, *id),
        Op::Linear { x, weight, bias } => {
            let (x, weight) = (value(x), tensor(model, *weight));
            let bias = bias.map(|bias| tensor(model, bias));
            Array::make(&out.shape, |index| {
                let (last, lead) = index.split_last().expect("an axis");
                let sum: f64 = (0..weight.shape[1]).map(|k| x.at(&[lead, &[k]].concat()) * weight.at(&[*last, k])).sum();
                sum + bias.as_ref().map_or(0.0, |bias| bias.at(&[*last]))
            })
        }
        Op::MatMul { a, b, transpose_a, transpose_b } => matmul(value(a), value(b), *transpose_a, *transpose_b, &out.shape),
        Op::Add { a, b } => pairwise(a, b, &|a, b| a + b),
        Op::Sub { a, b } => pairwise(a, b, &|a, b| a - b),
        Op::Mul { a, b } => pairwise(a, b, &|a, b| a * b),
        Op::Div { a, b } if integer => pairwise(a, b, &|a, b| if b == 0.0 { 0.0 } else { (a / b).trunc() }),
        Op::Div { a, b } => pairwise(a, b, &|a, b| a / b),
        Op::Pow { a, b } => pairwise(a, b, &|a, b| a.powf(b)),
        Op::Clamp { x, min, max } => map(x, &|x| x.max(min.unwrap_or(f64::NEG_INFINITY)).min(max.unwrap_or(f64::INFINITY))),
        Op::ReduceSum { x, axes, keep } => {
            let x = value(x);
            let mut sums = Array::make(&out.shape, |_| 0.0);
            for index in indices(&x.shape) {
                let kept = index.iter().enumerate();
                let kept: Vec<usize> =
                    kept.filter_map(|(axis, &at)| if axes.contains(&axis) { keep.then_some(0) } else { Some(at) }).collect();
                let flat = kept.iter().zip(&out.shape).fold(0, |flat, (&at, &size)| flat * size + at);
                sums.data[flat] += x.at(&index);
            }
            sums
        }
        Op::Concat { xs, axis } => Array::make(&out.shape, |index| {
            let mut at = index[*axis];
            for x in xs {
                let size = value(x).shape[*axis];
                if at < size {
                    return value(x).at(&with(index, *axis, at));
                }
                at -= size;
            }
            unreachable!("the sizes add up")
        }),
        Op::Slice { x, axis, start, step, .. } => {
            Array::make(&out.shape, |index| value(x).at(&with(index, *axis, start + index[*axis] * step)))
        }
        Op::Reshape { x } => Array { shape: out.shape.clone(), data: value(x).data.clone() },
        Op::Transpose { x, perm } => Array::make(&out.shape, |index| {
            let mut from = vec![0; index.len()];
            perm.iter().zip(index).for_each(|(&axis, &at)| from[axis] = at);
            value(x).at(&from)
        }),
        Op::Broadcast { x } => Array::make(&out.shape, |index| value(x).spread(index)),
        Op::GatherConst { x, axis, indices } => Array::make(&out.shape, |index| value(x).at(&with(index, *axis, indices[index[*axis]]))),
        Op::Fill { value } => Array::make(&out.shape, |_| *value),
        Op::Iota { start, step } => Array::make(&out.shape, |index| start + index[0] as f64 * step),
        Op::Cast { x } => map(x, &|x| if integer { x.trunc() } else { x }),
        Op::Relu { x } => map(x, &|x| x.max(0.0)),
        Op::Sigmoid { x } => map(x, &|x| 1.0 / (1.0 + (-x).exp())),
        Op::Prelu { x, slope } => {
            let slope = tensor(model, *slope);
            Array::make(&out.shape, |index| {
                let x = value(x).at(index);
                if x >= 0.0 { x } else { x * slope.spread(index) }
            })
        }
        Op::Softmax { x, axis } => {
            let x = value(x);
            Array::make(&out.shape, |index| {
                let along = || (0..x.shape[*axis]).map(|at| x.at(&with(index, *axis, at)));
                let max = along().fold(f64::NEG_INFINITY, f64::max);
                (x.at(index) - max).exp() / along().map(|x| (x - max).exp()).sum::<f64>()
            })
        }
        Op::BatchNorm { x, axis, mean, var, weight, bias, eps } => {
            let (x, mean, var) = (value(x), tensor(model, *mean), tensor(model, *var));
            let (weight, bias) = (weight.map(|id| tensor(model, id)), bias.map(|id| tensor(model, id)));
            Array::make(&out.shape, |index| {
                let at = [index[*axis]];
                let normal = (x.at(index) - mean.at(&at)) / (var.at(&at) + eps).sqrt();
                normal * weight.as_ref().map_or(1.0, |weight| weight.at(&at)) + bias.as_ref().map_or(0.0, |bias| bias.at(&at))
            })
        }
        Op::L2Norm { x, axis, eps } => {
            let x = value(x);
            Array::make(&out.shape, |index| {
                let square: f64 = (0..x.shape[*axis]).map(|at| x.at(&with(index, *axis, at)).powi(2)).sum();
                x.at(index) / square.sqrt().max(*eps)
            })
        }
        op => more::value(model, op, out, &value),
    }
}

fn lookup(model: &Model, cell: &Cell, table: TableId, pool: Pool, out: &Value) -> Array {
    let table = model.weights.table(table);
    let element = |id: u32, column: usize| f64::from(table.value(id, column));
    let present: Vec<(u32, f64)> =
        cell.ids.iter().zip(&cell.weights).filter(|(id, _)| **id < table.rows).map(|(&id, &weight)| (id, f64::from(weight))).collect();
    Array::make(&out.shape, |index| {
        let column = index[index.len() - 1];
        match pool {
            Pool::None => match cell.ids.get(index[0]) {
                Some(&id) if id < table.rows => element(id, column) * f64::from(cell.weights[index[0]]),
                _ => 0.0,
            },
            Pool::Sum => present.iter().map(|&(id, weight)| element(id, column) * weight).sum(),
            Pool::Mean => present.iter().map(|&(id, weight)| element(id, column) * weight).sum::<f64>() / present.len().max(1) as f64,
            Pool::Max if present.is_empty() => 0.0,
            Pool::Max => present.iter().map(|&(id, _)| element(id, column)).fold(f64::NEG_INFINITY, f64::max),
        }
    })
}

fn matmul(a: &Array, b: &Array, transpose_a: bool, transpose_b: bool, out: &[usize]) -> Array {
    let (row_dropped, column_dropped) = (a.shape.len() == 1, b.shape.len() == 1);
    let turned = |x: &Array, turn: bool| {
        let mut shape = x.shape.clone();
        let rank = shape.len();
        if !turn || rank < 2 {
            return x.clone();
        }
        shape.swap(rank - 1, rank - 2);
        Array::make(&shape, |index| {
            let mut index = index.to_vec();
            index.swap(rank - 1, rank - 2);
            x.at(&index)
        })
    };
    let (mut a, mut b) = (turned(a, transpose_a), turned(b, transpose_b));
    if row_dropped {
        a.shape.insert(0, 1);
    }
    if column_dropped {
        b.shape.push(1);
    }
    let k = a.shape[a.shape.len() - 1];
    Array::make(out, |index| {
        let mut lead = index.to_vec();
        let column = if column_dropped { 0 } else { lead.pop().expect("a column") };
        let row = if row_dropped { 0 } else { lead.pop().expect("a row") };
        (0..k).map(|k| a.spread(&[lead.as_slice(), &[row, k]].concat()) * b.spread(&[lead.as_slice(), &[k, column]].concat())).sum()
    })
}
