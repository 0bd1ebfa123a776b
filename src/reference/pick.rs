//! Elements chosen by index or by rank, and padding.

use std::cmp::Ordering;

use crate::model::Table;

use super::ops::{line, moved, table_row};
use super::tensor::{Data, Tensor, indices, place};

fn within(index: i64, size: usize) -> Option<usize> {
    usize::try_from(index).ok().filter(|index| *index < size)
}

/// The index's axes take the place of `axis`.
pub fn gather(shape: &[usize], x: &Tensor, index: &Tensor, axis: usize) -> Tensor {
    let rank = index.shape.len();
    x.picked_or_lost(shape, |at| {
        let picked = within(index.integer_at(&at[axis..axis + rank]), x.shape[axis])?;
        Some([&at[..axis], &[picked], &at[axis + rank..]].concat())
    })
}

/// One element of `x` for each of `index`.
pub fn take_along(shape: &[usize], x: &Tensor, index: &Tensor, axis: usize) -> Tensor {
    x.picked_or_lost(shape, |at| Some(moved(at, axis, within(index.integer_at(at), x.shape[axis])?)))
}

/// Rows of a table.
pub fn embedding(shape: &[usize], index: &Tensor, table: &Table) -> Tensor {
    let row = |index: &i64| match within(*index, table.rows as usize) {
        Some(row) => table_row(table, row),
        None => vec![f64::NAN; table.dim as usize],
    };
    Tensor::of_floats(shape, index.integers().iter().flat_map(row).collect())
}

/// The first elements along `axis` in sorted order, as many as `shape` has, and where they lie.
pub fn top(x: &Tensor, axis: usize, largest: bool, shape: &[usize]) -> (Tensor, Tensor) {
    let (mut values, mut places) = (Vec::new(), Vec::new());
    for index in indices(shape) {
        let mut along: Vec<(usize, f64)> = line(&index, axis, x.shape[axis]).map(|index| x.at(&index)).enumerate().collect();
        // A stable sort: of equals the lower index stays first.
        along.sort_by(|(_, a), (_, b)| if largest { ascending(*b, *a) } else { ascending(*a, *b) });
        let (at, value) = along[index[axis]];
        values.push(value);
        places.push(at as i64);
    }
    (Tensor::of_floats(shape, values), Tensor::of_integers(shape, places))
}

/// NaN is larger than every number.
fn ascending(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// `fill` around the elements.
pub fn pad(shape: &[usize], x: &Tensor, pads: &[(usize, usize)], fill: f64) -> Tensor {
    let place_of = |index: &[usize]| -> Option<usize> {
        let from = (0..index.len()).map(|axis| index[axis].checked_sub(pads[axis].0).filter(|at| *at < x.shape[axis]));
        Some(place(&x.shape, &from.collect::<Option<Vec<usize>>>()?))
    };
    let places = indices(shape).map(|index| place_of(&index));
    match &x.data {
        Data::Float(values) => Tensor::of_floats(shape, places.map(|place| place.map_or(fill, |place| values[place])).collect()),
        Data::Integer(values) => Tensor::of_integers(shape, places.map(|place| place.map_or(fill as i64, |place| values[place])).collect()),
    }
}
