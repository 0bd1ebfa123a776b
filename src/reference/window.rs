//! Convolutions and pools: every position of the window, every element under it.

use crate::model::Window;

use super::tensor::{Tensor, indices};

/// The index into the last axes of `x` behind each element of the window at `position`; None in the padding.
fn under<'w>(window: &'w Window, sizes: &'w [usize], position: &'w [usize]) -> impl Iterator<Item = (Vec<usize>, Option<Vec<usize>>)> + 'w {
    indices(&window.kernel).map(move |tap| {
        let at = (0..sizes.len()).map(|axis| {
            let padded = position[axis] * window.strides[axis] + tap[axis] * window.dilations[axis];
            padded.checked_sub(window.pads[axis].0).filter(|at| *at < sizes[axis])
        });
        let at = at.collect();
        (tap, at)
    })
}

/// x `[.., C, s..]` → `[.., O, t..]`.
pub fn conv(shape: &[usize], x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, window: &Window, groups: usize) -> Tensor {
    let axes = window.kernel.len();
    let first = shape.len() - axes;
    let (outputs, per_group) = (weight.shape[0], weight.shape[1]);
    let sizes = &x.shape[first..];
    let element = |index: Vec<usize>| {
        let (lead, output, position) = (&index[..first - 1], index[first - 1], &index[first..]);
        let group = output / (outputs / groups);
        let mut sum = bias.map_or(0.0, |bias| bias.at(&[output]));
        for (tap, at) in under(window, sizes, position) {
            let Some(at) = at else { continue };
            for channel in 0..per_group {
                let from = [lead, &[group * per_group + channel], &at].concat();
                sum += x.at(&from) * weight.at(&[&[output, channel][..], &tap].concat());
            }
        }
        sum
    };
    Tensor::of_floats(shape, indices(shape).map(element).collect())
}

/// The largest under the window; NaN if there is one.
pub fn max_pool(shape: &[usize], x: &Tensor, window: &Window) -> Tensor {
    pooled(shape, x, window, |values| {
        if values.iter().any(|x| x.is_nan()) { f64::NAN } else { values.iter().copied().fold(f64::NEG_INFINITY, f64::max) }
    })
}

/// The mean under the window.
pub fn avg_pool(shape: &[usize], x: &Tensor, window: &Window, count_include_pad: bool) -> Tensor {
    let all = window.kernel.iter().product::<usize>();
    pooled(shape, x, window, |values| {
        let count = if count_include_pad { all } else { values.len() };
        values.iter().sum::<f64>() / count as f64
    })
}

fn pooled(shape: &[usize], x: &Tensor, window: &Window, pool: impl Fn(&[f64]) -> f64) -> Tensor {
    let first = shape.len() - window.kernel.len();
    let element = |index: Vec<usize>| {
        let (lead, position) = index.split_at(first);
        let found = under(window, &x.shape[first..], position).filter_map(|(_, at)| at);
        pool(&found.map(|at| x.at(&[lead, &at].concat())).collect::<Vec<f64>>())
    };
    Tensor::of_floats(shape, indices(shape).map(element).collect())
}
