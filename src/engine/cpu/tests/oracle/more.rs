//! Comparisons, reductions, windows, sequences, trees: index by index. Integers and truth values are whole numbers in f64.

use crate::model::*;

use super::{Array, indices, tensor};

type Get<'g> = dyn Fn(&ValueId) -> &'g Array + 'g;

pub fn value<'g>(model: &Model, op: &Op, out: &Value, get: &Get<'g>) -> Array {
    let operand = |operand: &Operand| match operand {
        Operand::Value(id) => get(id).clone(),
        Operand::Scalar(scalar) => Array { shape: vec![], data: vec![*scalar] },
    };
    let pairwise = |a: &Operand, b: &Operand, f: &dyn Fn(f64, f64) -> f64| {
        let (a, b) = (operand(a), operand(b));
        Array::make(&out.shape, |index| f(a.spread(index), b.spread(index)))
    };
    let map = |x: &ValueId, f: &dyn Fn(f64) -> f64| Array::make(&out.shape, |index| f(get(x).at(index)));
    let truth = |holds: bool| if holds { 1.0 } else { 0.0 };
    let lost = if out.dtype == DType::I64 { i64::MIN as f64 } else { f64::NAN };
    match op {
        Op::Min { a, b } => pairwise(a, b, &|a, b| if a < b { a } else { b }),
        Op::Max { a, b } => pairwise(a, b, &|a, b| if a > b { a } else { b }),
        Op::Mod { a, b } => pairwise(a, b, &|a, b| if b == 0.0 { 0.0 } else { a - (a / b).floor() * b }),
        Op::Compare { cmp, a, b } => pairwise(a, b, &|a, b| {
            truth(match cmp {
                Comparison::Lt => a < b,
                Comparison::Le => a <= b,
                Comparison::Gt => a > b,
                Comparison::Ge => a >= b,
                Comparison::Eq => a == b,
                Comparison::Ne => a != b,
            })
        }),
        Op::Logic { function, a, b } => pairwise(&Operand::Value(*a), &Operand::Value(*b), &|a, b| {
            let count = truth(a != 0.0) + truth(b != 0.0);
            truth(match function {
                LogicFn::And => count == 2.0,
                LogicFn::Or => count > 0.0,
                LogicFn::Xor => count == 1.0,
            })
        }),
        Op::Not { x } => map(x, &|x| truth(x == 0.0)),
        Op::Where { cond, a, b } => {
            let (a, b) = (operand(a), operand(b));
            Array::make(&out.shape, |index| if get(cond).spread(index) != 0.0 { a.spread(index) } else { b.spread(index) })
        }
        Op::Unary { function, x } => map(x, &|x| match function {
            UnaryFn::Abs => x.abs(),
            UnaryFn::Exp => x.exp(),
            UnaryFn::Log => x.ln(),
            UnaryFn::Sqrt => x.sqrt(),
            UnaryFn::Tanh => 1.0 - 2.0 / ((2.0 * x).exp() + 1.0),
            UnaryFn::Erf => erf(x),
            UnaryFn::Floor => x.floor(),
            UnaryFn::Sign => truth(x > 0.0) - truth(x < 0.0),
            UnaryFn::Sin => x.sin(),
            UnaryFn::Cos => x.cos(),
            UnaryFn::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        }),
        Op::Reduce { function, x, axes, keep } => {
            let x = get(x);
            let mut found: Vec<Vec<f64>> = vec![vec![]; out.len()];
            for index in indices(&x.shape) {
                let kept = index.iter().enumerate();
                let kept: Vec<usize> =
                    kept.filter_map(|(axis, &at)| if axes.contains(&axis) { keep.then_some(0) } else { Some(at) }).collect();
                found[kept.iter().zip(&out.shape).fold(0, |flat, (&at, &size)| flat * size + at)].push(x.at(&index));
            }
            let reduced = found.iter().map(|found| match function {
                Reduction::Mean => found.iter().sum::<f64>() / found.len() as f64,
                Reduction::Max => found.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                Reduction::Min => found.iter().copied().fold(f64::INFINITY, f64::min),
                Reduction::Prod => found.iter().product(),
            });
            Array { shape: out.shape.clone(), data: reduced.collect() }
        }
        Op::CumSum { x, axis, exclusive, reverse } => Array::make(&out.shape, |index| {
            let size = out.shape[*axis];
            let here = index[*axis];
            let (mut first, mut end) = if *reverse { (here, size) } else { (0, here + 1) };
            match (exclusive, reverse) {
                (true, true) => first += 1,
                (true, false) => end -= 1,
                _ => {}
            }
            (first..end).map(|at| get(x).at(&with(index, *axis, at))).sum()
        }),
        Op::Pad { x, pads, value } => Array::make(&out.shape, |index| {
            let x = get(x);
            let inside = (0..index.len()).all(|axis| (pads[axis].0..pads[axis].0 + x.shape[axis]).contains(&index[axis]));
            if inside { x.at(&(0..index.len()).map(|axis| index[axis] - pads[axis].0).collect::<Vec<_>>()) } else { *value }
        }),
        Op::Gather { x, index: picked, axis } => Array::make(&out.shape, |index| {
            let (x, picked) = (get(x), get(picked));
            let behind = axis + picked.shape.len();
            let at = picked.at(&index[*axis..behind]);
            if at < 0.0 || at >= x.shape[*axis] as f64 {
                return lost;
            }
            x.at(&[&index[..*axis], &[at as usize], &index[behind..]].concat())
        }),
        Op::TakeAlong { x, index: picked, axis } => Array::make(&out.shape, |index| {
            let (x, at) = (get(x), get(picked).at(index));
            if at < 0.0 || at >= x.shape[*axis] as f64 { lost } else { x.at(&with(index, *axis, at as usize)) }
        }),
        Op::Embedding { index: picked, table } => Array::make(&out.shape, |index| {
            let table = model.weights.table(*table);
            let (column, outer) = index.split_last().expect("an axis");
            let at = get(picked).at(outer);
            if at < 0.0 || at >= f64::from(table.rows) {
                return lost;
            }
            f64::from(table.value(at as u32, *column))
        }),
        Op::OneHot { x, on, off } => Array::make(&out.shape, |index| {
            let (at, outer) = index.split_last().expect("an axis");
            if get(x).at(outer) == *at as f64 { *on } else { *off }
        }),
        Op::TopK { x, axis, largest, .. } | Op::ArgTopK { x, axis, largest, .. } => Array::make(&out.shape, |index| {
            let x = get(x);
            let mut along: Vec<(f64, usize)> = (0..x.shape[*axis]).map(|at| (x.at(&with(index, *axis, at)), at)).collect();
            along.sort_by(|a, b| {
                let values = if *largest { b.0.total_cmp(&(a.0 + 0.0)) } else { a.0.total_cmp(&b.0) };
                values.then(a.1.cmp(&b.1))
            });
            let (value, at) = along[index[*axis]];
            if matches!(op, Op::TopK { .. }) { value } else { at as f64 }
        }),
        Op::LayerNorm { x, axes, weight, bias, eps } => {
            let (weight, bias) = (weight.map(|id| tensor(model, id)), bias.map(|id| tensor(model, id)));
            Array::make(&out.shape, |index| {
                let (outer, inner) = index.split_at(index.len() - axes);
                let group = indices(&out.shape[index.len() - axes..]);
                let elements: Vec<f64> = group.iter().map(|inner| get(x).at(&[outer, inner].concat())).collect();
                let mean = elements.iter().sum::<f64>() / elements.len() as f64;
                let square = elements.iter().map(|x| x * x).sum::<f64>() / elements.len() as f64;
                let normal = (get(x).at(index) - mean) / (square - mean * mean + eps).sqrt();
                normal * weight.as_ref().map_or(1.0, |weight| weight.at(inner)) + bias.as_ref().map_or(0.0, |bias| bias.at(inner))
            })
        }
        Op::Conv { x, weight, bias, window, groups } => {
            let (weight, bias) = (tensor(model, *weight), bias.map(|id| tensor(model, id)));
            let axes = window.kernel.len();
            Array::make(&out.shape, |index| {
                let (lead, position) = index.split_at(index.len() - axes);
                let (&output, lead) = lead.split_last().expect("an axis of channels");
                let first = output / (weight.shape[0] / groups) * weight.shape[1];
                let mut sum = bias.as_ref().map_or(0.0, |bias| bias.at(&[output]));
                for tap in indices(&weight.shape[1..]) {
                    if let Some(at) = under(window, get(x), position, &tap[1..]) {
                        sum += weight.at(&[&[output][..], &tap].concat()) * get(x).at(&[lead, &[first + tap[0]], &at].concat());
                    }
                }
                sum
            })
        }
        Op::MaxPool { x, window } => {
            Array::make(&out.shape, |index| seen(window, get(x), index).into_iter().fold(f64::NEG_INFINITY, f64::max))
        }
        Op::AvgPool { x, window, count_include_pad } => Array::make(&out.shape, |index| {
            let seen = seen(window, get(x), index);
            let count = if *count_include_pad { window.kernel.iter().product() } else { seen.len() };
            seen.iter().sum::<f64>() / count as f64
        }),
        Op::Sdpa { q, k, v, mask, scale, causal } => {
            attention(out, [get(q), get(k), get(v)], mask.as_ref().map(|id| (get(id), model.graph.value(*id).dtype)), *scale, *causal)
        }
        Op::Gru(gru) => recurrent(model, gru, out, get),
        Op::Trees(trees) => ensemble(model, trees, out, get(&trees.x)),
        op => panic!("{} is computed elsewhere", op.name()),
    }
}

fn with(index: &[usize], axis: usize, at: usize) -> Vec<usize> {
    let mut index = index.to_vec();
    index[axis] = at;
    index
}

/// By Simpson's rule: e^(-t²) is smooth, and the error far below that of f32.
fn erf(x: f64) -> f64 {
    let (end, parts) = (x.clamp(-6.0, 6.0), 400);
    let at = |part: usize| (-(end * part as f64 / parts as f64).powi(2)).exp();
    let sum: f64 = (1..parts).map(|part| at(part) * if part % 2 == 0 { 2.0 } else { 4.0 }).sum();
    std::f64::consts::FRAC_2_SQRT_PI * end / parts as f64 / 3.0 * (at(0) + sum + at(parts))
}

/// Place of element `tap` of a window; None in the padding.
fn under(window: &Window, x: &Array, position: &[usize], tap: &[usize]) -> Option<Vec<usize>> {
    let first = x.shape.len() - tap.len();
    let place = |axis: usize| {
        let at = (position[axis] * window.strides[axis] + tap[axis] * window.dilations[axis]) as i64 - window.pads[axis].0 as i64;
        (0..x.shape[first + axis] as i64).contains(&at).then_some(at as usize)
    };
    (0..tap.len()).map(place).collect()
}

/// Elements under a pool's window.
fn seen(window: &Window, x: &Array, index: &[usize]) -> Vec<f64> {
    let (lead, position) = index.split_at(index.len() - window.kernel.len());
    let places = indices(&window.kernel).into_iter().filter_map(|tap| under(window, x, position, &tap));
    places.map(|at| x.at(&[lead, &at].concat())).collect()
}

fn attention(out: &Value, [q, k, v]: [&Array; 3], mask: Option<(&Array, DType)>, scale: f64, causal: bool) -> Array {
    let (keys, width) = (k.shape[k.shape.len() - 2], k.shape[k.shape.len() - 1]);
    Array::make(&out.shape, |index| {
        let (lead, at) = index.split_at(index.len() - 2);
        let pick = |x: &Array, row: usize, column: usize| {
            // Broadcast the leading axes alone.
            let own = x.shape.len() - 2;
            let lead: Vec<usize> = (0..own).map(|axis| if x.shape[axis] == 1 { 0 } else { lead[lead.len() - own + axis] }).collect();
            x.at(&[&lead[..], &[row, column]].concat())
        };
        let (mut above, mut below, mut most) = (0.0, 0.0, f64::NEG_INFINITY);
        for turn in 0..2 {
            for key in 0..if causal { keys.min(at[0] + 1) } else { keys } {
                let mut score = scale * (0..width).map(|e| pick(q, at[0], e) * pick(k, key, e)).sum::<f64>();
                if let Some((mask, dtype)) = mask {
                    let element = mask.spread(&[lead, &[at[0], key]].concat());
                    match dtype {
                        DType::I64 if element == 0.0 => continue,
                        DType::I64 => {}
                        DType::F32 => score += element,
                    }
                }
                if turn == 0 {
                    most = most.max(score);
                } else if score > f64::NEG_INFINITY {
                    above += (score - most).exp() * pick(v, key, at[1]);
                    below += (score - most).exp();
                }
            }
        }
        if below == 0.0 { 0.0 } else { above / below }
    })
}

fn recurrent<'g>(model: &Model, gru: &Gru, out: &Value, get: &Get<'g>) -> Array {
    let x = get(&gru.x);
    let (w, u) = (tensor(model, gru.w_ih), tensor(model, gru.w_hh));
    let (steps, inputs, hidden) = (x.shape[0], x.shape[1], u.shape[1]);
    let bias = |id: Option<TensorId>| id.map_or(vec![0.0; 3 * hidden], |id| tensor(model, id).data);
    let (b, c) = (bias(gru.b_ih), bias(gru.b_hh));
    let mut h = gru.h0.map_or(vec![0.0; hidden], |id| get(&id).data.clone());
    let mut all = vec![0.0; steps * hidden];
    let taken = gru.length.map_or(steps as f64, |id| get(&id).data[0]).clamp(0.0, steps as f64) as usize;
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    for turn in 0..taken {
        let at = if gru.reverse { taken - 1 - turn } else { turn };
        let of_x = |j: usize| b[j] + (0..inputs).map(|i| w.at(&[j, i]) * x.at(&[at, i])).sum::<f64>();
        let of_h = |j: usize, h: &[f64]| (0..hidden).map(|i| u.at(&[j, i]) * h[i]).sum::<f64>();
        let a = gru.attention.map_or(0.0, |id| get(&id).at(&[at]));
        let r: Vec<f64> = (0..hidden).map(|j| sigmoid(of_x(j) + of_h(j, &h) + c[j])).collect();
        let scaled: Vec<f64> = (0..hidden).map(|j| r[j] * h[j]).collect();
        h = (0..hidden)
            .map(|j| {
                let z = sigmoid(of_x(hidden + j) + of_h(hidden + j, &h) + c[hidden + j]);
                let k = 2 * hidden + j;
                let inner = if gru.reset_after { r[j] * (of_h(k, &h) + c[k]) } else { of_h(k, &scaled) + c[k] };
                let n = (of_x(k) + inner).tanh();
                let share = match gru.kind {
                    GruKind::Gru => 1.0 - z,
                    GruKind::Agru => a,
                    GruKind::Augru => a * z,
                };
                h[j] + share * (n - h[j])
            })
            .collect();
        all[at * hidden..][..hidden].copy_from_slice(&h);
    }
    Array { shape: out.shape.clone(), data: if gru.last { h } else { all } }
}

fn ensemble(model: &Model, trees: &Trees, out: &Value, x: &Array) -> Array {
    let of = |id: TensorId| tensor(model, id).data;
    let (feature, threshold, mode) = (of(trees.feature), of(trees.threshold), of(trees.mode));
    let (yes, no, leaves) = (of(trees.yes), of(trees.no), tensor(model, trees.leaves));
    let missing = trees.missing_yes.map(of);
    let reached = |mut at: usize| {
        while mode[at] != 0.0 {
            let (x, t) = (x.data[feature[at] as usize], threshold[at]);
            let holds = match mode[at] as usize {
                _ if x.is_nan() => missing.as_ref().is_some_and(|missing| missing[at] == 1.0),
                1 => x <= t,
                2 => x < t,
                3 => x >= t,
                4 => x > t,
                5 => x == t,
                _ => x != t,
            };
            at = if holds { yes[at] } else { no[at] } as usize;
        }
        feature[at] as usize
    };
    let rows: Vec<usize> = of(trees.roots).into_iter().map(|root| reached(root as usize)).collect();
    Array::make(&out.shape, |index| rows.iter().map(|&row| leaves.at(&[row, index[0]])).sum())
}
