//! Small n-dimensional arrays that are moved around: constants, symbolic sizes, origins of ids. Every move is a table of source indices.

use super::error::{Checked, problem};

/// Row-major elements of a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Nd<T> {
    /// Sizes.
    pub shape: Vec<usize>,
    /// Product of the sizes many.
    pub data: Vec<T>,
}

/// Number of elements, or None if it passes `usize`.
pub fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, size| product.checked_mul(*size))
}

/// Elements that one step along each axis skips.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1];
    }
    strides
}

/// numpy's rule. Error: sizes that differ and are not 1.
pub fn broadcast_shapes(shapes: &[&[usize]]) -> Checked<Vec<usize>> {
    let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
    let mut result = vec![1; rank];
    for shape in shapes {
        for (size, into) in shape.iter().rev().zip(result.iter_mut().rev()) {
            if *into == 1 {
                *into = *size;
            } else if *size != 1 && *size != *into {
                return Err(problem(format!("shapes {shapes:?} do not broadcast"), "Export the model again: the graph is not consistent"));
            }
        }
    }
    Ok(result)
}

/// A move of elements.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// Axis i of the result is axis perm[i].
    Transpose(Vec<usize>),
    /// Elements along an axis, by index.
    Pick(usize, Vec<usize>),
    /// Same elements, other shape.
    Reshape(Vec<usize>),
    /// numpy broadcast to the shape.
    Broadcast(Vec<usize>),
}

impl Move {
    /// The shape of the result. The move must fit `shape`: callers have checked it.
    pub fn shape(&self, shape: &[usize]) -> Vec<usize> {
        match self {
            Move::Transpose(perm) => perm.iter().map(|axis| shape[*axis]).collect(),
            Move::Pick(axis, indices) => {
                let mut shape = shape.to_vec();
                shape[*axis] = indices.len();
                shape
            }
            Move::Reshape(shape) | Move::Broadcast(shape) => shape.clone(),
        }
    }

    /// Whether it leaves a value of this shape as it is.
    pub fn is_identity(&self, shape: &[usize]) -> bool {
        match self {
            Move::Transpose(perm) => perm.iter().enumerate().all(|(i, axis)| i == *axis),
            Move::Pick(axis, indices) => indices.len() == shape[*axis] && indices.iter().enumerate().all(|(i, index)| i == *index),
            Move::Reshape(to) | Move::Broadcast(to) => to == shape,
        }
    }

    /// For each element of the result, its place in a value of `shape`.
    pub fn places(&self, shape: &[usize]) -> Vec<usize> {
        let result = self.shape(shape);
        let source = strides(shape);
        match self {
            Move::Reshape(_) => (0..result.iter().product()).collect(),
            Move::Transpose(perm) => walk(&result, &perm.iter().map(|axis| source[*axis]).collect::<Vec<_>>()),
            Move::Broadcast(_) => {
                let missing = result.len() - shape.len();
                let steps: Vec<usize> = (0..result.len())
                    .map(|axis| if axis < missing || shape[axis - missing] == 1 { 0 } else { source[axis - missing] })
                    .collect();
                walk(&result, &steps)
            }
            Move::Pick(axis, indices) => {
                let inner = source[*axis];
                let block = inner * shape[*axis];
                let outer: usize = shape[..*axis].iter().product();
                let mut places = Vec::with_capacity(outer * indices.len() * inner);
                for o in 0..outer {
                    for index in indices {
                        places.extend((0..inner).map(|i| o * block + index * inner + i));
                    }
                }
                places
            }
        }
    }
}

/// Places of all elements of `shape` where a step along axis i moves by `steps[i]`.
fn walk(shape: &[usize], steps: &[usize]) -> Vec<usize> {
    let total: usize = shape.iter().product();
    let mut places = Vec::with_capacity(total);
    let mut index = vec![0; shape.len()];
    let mut place = 0;
    for _ in 0..total {
        places.push(place);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            place += steps[axis];
            if index[axis] < shape[axis] {
                break;
            }
            place -= steps[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    places
}

impl<T: Clone> Nd<T> {
    /// One element, no axes.
    pub fn scalar(value: T) -> Nd<T> {
        Nd { shape: vec![], data: vec![value] }
    }

    /// One axis.
    pub fn vector(data: Vec<T>) -> Nd<T> {
        Nd { shape: vec![data.len()], data }
    }

    /// The elements moved.
    pub fn moved(&self, by: &Move) -> Nd<T> {
        let shape = by.shape(&self.shape);
        let data = match by {
            Move::Reshape(_) => self.data.clone(),
            _ => by.places(&self.shape).into_iter().map(|place| self.data[place].clone()).collect(),
        };
        Nd { shape, data }
    }

    /// Side by side along `axis`. The parts agree on the other axes: callers have checked it.
    pub fn concat(parts: &[Nd<T>], axis: usize) -> Nd<T> {
        let mut shape = parts[0].shape.clone();
        shape[axis] = parts.iter().map(|part| part.shape[axis]).sum();
        let outer: usize = shape[..axis].iter().product();
        let mut data = Vec::with_capacity(shape.iter().product());
        for o in 0..outer {
            for part in parts {
                let block: usize = part.shape[axis..].iter().product();
                data.extend_from_slice(&part.data[o * block..(o + 1) * block]);
            }
        }
        Nd { shape, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iota(shape: &[usize]) -> Nd<usize> {
        Nd { shape: shape.to_vec(), data: (0..shape.iter().product()).collect() }
    }

    #[test]
    fn moves() {
        let cases = [
            (Move::Transpose(vec![1, 0]), vec![3, 2], vec![0, 3, 1, 4, 2, 5]),
            (Move::Pick(1, vec![2, 0]), vec![2, 2], vec![2, 0, 5, 3]),
            (Move::Pick(0, vec![1]), vec![1, 3], vec![3, 4, 5]),
            (Move::Reshape(vec![6]), vec![6], vec![0, 1, 2, 3, 4, 5]),
            (Move::Broadcast(vec![2, 2, 3]), vec![2, 2, 3], vec![0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]),
        ];
        for (by, shape, data) in cases {
            assert_eq!(iota(&[2, 3]).moved(&by), Nd { shape, data }, "{by:?}");
        }
        assert_eq!(iota(&[2, 1]).moved(&Move::Broadcast(vec![2, 2])).data, [0, 0, 1, 1]);
        assert_eq!(iota(&[]).moved(&Move::Broadcast(vec![2])).data, [0, 0]);
        assert_eq!(Nd::concat(&[iota(&[2, 1]), iota(&[2, 2])], 1).data, [0, 0, 1, 1, 2, 3]);
    }

    #[test]
    fn shapes_broadcast() {
        assert_eq!(broadcast_shapes(&[&[2, 1], &[3]]), Ok(vec![2, 3]));
        assert_eq!(broadcast_shapes(&[&[], &[0, 1]]), Ok(vec![0, 1]));
        assert!(broadcast_shapes(&[&[2], &[3]]).is_err());
    }
}
