//! Reductions and running sums.

use crate::model::{Reduction, Value};

use super::ops::line;
use super::tensor::{Data, Tensor, indices, place};

/// The elements that fall together, in row-major order, for each element of the result.
fn groups<T: Copy>(out: &Value, x: &Tensor, elements: &[T], axes: &[usize], keep: bool) -> Vec<Vec<T>> {
    let mut groups = vec![Vec::new(); out.len()];
    for (index, element) in indices(&x.shape).zip(elements) {
        let target: Vec<usize> = if keep {
            (0..index.len()).map(|axis| if axes.contains(&axis) { 0 } else { index[axis] }).collect()
        } else {
            (0..index.len()).filter(|axis| !axes.contains(axis)).map(|axis| index[axis]).collect()
        };
        groups[place(&out.shape, &target)].push(*element);
    }
    groups
}

/// Sums.
pub fn sum(out: &Value, x: &Tensor, axes: &[usize], keep: bool) -> Tensor {
    match &x.data {
        Data::Float(values) => {
            let groups = groups(out, x, values, axes, keep);
            Tensor::of_floats(&out.shape, groups.iter().map(|group| group.iter().sum()).collect())
        }
        Data::Integer(values) => {
            let groups = groups(out, x, values, axes, keep);
            let sum = |group: &Vec<i64>| group.iter().fold(0, |sum: i64, x| sum.wrapping_add(*x));
            Tensor::of_integers(&out.shape, groups.iter().map(sum).collect())
        }
    }
}

/// Means, extremes, products.
pub fn reduce(out: &Value, function: Reduction, x: &Tensor, axes: &[usize], keep: bool) -> Tensor {
    match &x.data {
        Data::Float(values) => {
            let of = |group: &Vec<f64>| match function {
                Reduction::Mean => group.iter().sum::<f64>() / group.len() as f64,
                Reduction::Prod => group.iter().product(),
                Reduction::Max | Reduction::Min if group.iter().any(|x| x.is_nan()) => f64::NAN,
                Reduction::Max => group.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                Reduction::Min => group.iter().copied().fold(f64::INFINITY, f64::min),
            };
            Tensor::of_floats(&out.shape, groups(out, x, values, axes, keep).iter().map(of).collect())
        }
        Data::Integer(values) => {
            let of = |group: &Vec<i64>| match function {
                Reduction::Max => group.iter().copied().max().unwrap_or(i64::MIN),
                Reduction::Min => group.iter().copied().min().unwrap_or(i64::MAX),
                Reduction::Mean | Reduction::Prod => unreachable!("the shape pass lets these read floats alone"),
            };
            Tensor::of_integers(&out.shape, groups(out, x, values, axes, keep).iter().map(of).collect())
        }
    }
}

/// Sums of what lies before (or, in reverse, behind) each element along `axis`, and of itself unless `exclusive`.
pub fn cumsum(x: &Tensor, axis: usize, exclusive: bool, reverse: bool) -> Tensor {
    let counts = |here: usize, other: usize| if reverse { other > here } else { other < here } || (!exclusive && other == here);
    let summed = |index: &[usize]| -> Vec<usize> {
        let along = line(index, axis, x.shape[axis]).enumerate();
        along.filter(|(other, _)| counts(index[axis], *other)).map(|(_, index)| place(&x.shape, &index)).collect()
    };
    match &x.data {
        Data::Float(values) => {
            let sums = indices(&x.shape).map(|index| summed(&index).iter().map(|at| values[*at]).sum());
            Tensor::of_floats(&x.shape, sums.collect())
        }
        Data::Integer(values) => {
            let sums = indices(&x.shape).map(|index| summed(&index).iter().fold(0_i64, |sum, at| sum.wrapping_add(values[*at])));
            Tensor::of_integers(&x.shape, sums.collect())
        }
    }
}
