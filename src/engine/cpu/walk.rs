//! Strided loops over several operands at once: what broadcasting, transposing, slicing, joining and reducing have in common.
//!
//! A walk is made at planning time: axes of size 1 are dropped and neighbouring axes that all operands step through evenly become one, so
//! that most ops end as a single run over a whole tile.

use std::array::from_fn;

/// One loop. `strides` count elements of each operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dim<const N: usize> {
    /// Turns (per row, if it is the loop that rows were merged into).
    pub size: usize,
    /// Step of each operand.
    pub strides: [usize; N],
}

/// Nested loops over `N` operands, innermost last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk<const N: usize> {
    dims: Vec<Dim<N>>,
    rows_merged: bool,
}

impl<const N: usize> Walk<N> {
    /// Loops over `dims`. With `row_strides` the rows of the tile are the outermost loop; without (an operand is read through an index),
    /// the caller loops over rows.
    pub fn new(row_strides: Option<[usize; N]>, dims: &[Dim<N>]) -> Walk<N> {
        let mut merged: Vec<Dim<N>> = row_strides.map(|strides| Dim { size: 1, strides }).into_iter().collect();
        for dim in dims.iter().filter(|dim| dim.size != 1) {
            match merged.last_mut() {
                Some(last) if from_fn(|operand| dim.strides[operand] * dim.size) == last.strides => {
                    *last = Dim { size: last.size * dim.size, strides: dim.strides };
                }
                _ => merged.push(*dim),
            }
        }
        if merged.is_empty() {
            merged.push(Dim { size: 1, strides: [0; N] });
        }
        Walk { dims: merged, rows_merged: row_strides.is_some() }
    }

    /// Whether [`Walk::run`] takes all rows at once; otherwise it is called row by row.
    pub fn rows_merged(&self) -> bool {
        self.rows_merged
    }

    /// Strides of the innermost loop.
    pub fn inner(&self) -> [usize; N] {
        self.dims[self.dims.len() - 1].strides
    }

    /// Calls `run(offsets, count)` for every innermost loop, offsets in elements from each operand's first row.
    #[inline(always)]
    pub fn run(&self, rows: usize, mut run: impl FnMut([usize; N], usize)) {
        let scale = if self.rows_merged { rows } else { 1 };
        nest(&self.dims, scale, [0; N], &mut run);
    }
}

fn nest<const N: usize>(dims: &[Dim<N>], scale: usize, offsets: [usize; N], run: &mut impl FnMut([usize; N], usize)) {
    let (dim, rest) = (dims[0], &dims[1..]);
    let size = dim.size * scale;
    if rest.is_empty() {
        if size > 0 {
            run(offsets, size);
        }
        return;
    }
    for turn in 0..size {
        nest(rest, 1, from_fn(|operand| offsets[operand] + turn * dim.strides[operand]), run);
    }
}

/// Strides of a row-major array.
pub fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Whether an array of shape `from` broadcasts to `to`.
pub fn spreads(from: &[usize], to: &[usize]) -> bool {
    from.len() <= to.len() && from.iter().rev().zip(to.iter().rev()).all(|(from, to)| from == to || *from == 1)
}

/// Strides with which an array of shape `from` is read as `to` under numpy's broadcasting: aligned at the end, 0 where repeated.
pub fn broadcast(from: &[usize], to: &[usize]) -> Vec<usize> {
    assert!(from.len() <= to.len(), "broadcasting never drops an axis");
    let mut strides = vec![0; to.len()];
    let missing = to.len() - from.len();
    for (axis, stride) in row_major(from).into_iter().enumerate() {
        assert!(from[axis] == to[missing + axis] || from[axis] == 1, "shapes were checked when the model was loaded");
        strides[missing + axis] = if from[axis] == 1 { 0 } else { stride };
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims<const N: usize>(list: &[(usize, [usize; N])]) -> Vec<Dim<N>> {
        list.iter().map(|&(size, strides)| Dim { size, strides }).collect()
    }

    #[test]
    fn loops_merge_where_all_operands_step_evenly() {
        // [rows][4][8] + [4][8] per row, no repetition: one run.
        let walk = Walk::new(Some([32, 32]), &dims(&[(4, [8, 8]), (8, [1, 1])]));
        assert_eq!(walk.dims, dims(&[(32, [1, 1])]));
        // A constant is repeated per row.
        let walk = Walk::new(Some([32, 0]), &dims(&[(4, [8, 8]), (8, [1, 1])]));
        assert_eq!(walk.dims, dims(&[(1, [32, 0]), (32, [1, 1])]));
        // A scalar per row.
        let walk = Walk::new(Some([1, 1]), &dims::<2>(&[]));
        assert_eq!(walk.dims, dims(&[(1, [1, 1])]));
        assert_eq!(Walk::new(None, &dims::<2>(&[(1, [7, 7])])).dims, dims(&[(1, [0, 0])]));
    }

    #[test]
    fn runs_cover_every_element_once() {
        let walk = Walk::new(Some([6, 1]), &dims(&[(2, [3, 0]), (3, [1, 0])]));
        let mut seen = Vec::new();
        let inner = walk.inner();
        walk.run(2, |[to, from], count| (0..count).for_each(|i| seen.push((to + i * inner[0], from + i * inner[1]))));
        assert_eq!(seen, (0..12).map(|i| (i, i / 6)).collect::<Vec<_>>());
        let walk = Walk::new(Some([0, 4]), &dims(&[(0, [1, 1])]));
        walk.run(3, |_, _| panic!("nothing to do"));
    }

    #[test]
    fn broadcasting_aligns_at_the_end() {
        assert_eq!(row_major(&[2, 3, 4]), [12, 4, 1]);
        assert_eq!(broadcast(&[3, 1], &[2, 3, 4]), [0, 1, 0]);
        assert_eq!(broadcast(&[], &[5]), [0]);
    }
}
