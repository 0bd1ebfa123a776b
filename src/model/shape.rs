//! Arithmetic of per-row shapes.

use super::graph::{Axis, ShapeBuf};

/// Elements of a shape; None if that does not fit in memory's address range.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, size| product.checked_mul(*size))
}

/// numpy's broadcast of two shapes.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Option<ShapeBuf> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (x, y) if x == y => Some(x),
            (1, x) | (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

/// An axis as written (negative counts from the end), made non-negative.
pub(crate) fn axis(written: i64, rank: usize) -> Option<Axis> {
    let rank = rank as i64;
    let axis = if written < 0 { written + rank } else { written };
    (0..rank).contains(&axis).then_some(axis as usize)
}

/// A matrix product's shape, both of rank ≥ 2, after the transposes.
pub(crate) fn matmul(a: &[usize], b: &[usize], transpose_a: bool, transpose_b: bool) -> Option<ShapeBuf> {
    let matrix = |shape: &[usize], transpose: bool| match shape {
        [.., rows, columns] if transpose => Some((*columns, *rows)),
        [.., rows, columns] => Some((*rows, *columns)),
        _ => None,
    };
    let ((m, k), (k2, n)) = (matrix(a, transpose_a)?, matrix(b, transpose_b)?);
    if k != k2 {
        return None;
    }
    let mut shape = broadcast(&a[..a.len() - 2], &b[..b.len() - 2])?;
    shape.extend([m, n]);
    Some(shape)
}

/// The shape asked for, in which one −1 stands for what is left.
pub(crate) fn reshape(elements_in: usize, written: &[i64]) -> Option<ShapeBuf> {
    let known = written.iter().filter(|size| **size != -1).try_fold(1_usize, |product, size| {
        let size = usize::try_from(*size).ok()?;
        product.checked_mul(size)
    })?;
    let free = written.iter().filter(|size| **size == -1).count();
    let rest = match free {
        0 if known == elements_in => 1,
        1 if known != 0 && elements_in.is_multiple_of(known) => elements_in / known,
        _ => return None,
    };
    Some(written.iter().map(|size| if *size == -1 { rest } else { *size as usize }).collect())
}

/// Bounds of a slice as written, resolved as numpy does: `start ≤ end ≤ size`.
pub(crate) fn slice(start: i64, end: i64, size: usize) -> (usize, usize) {
    let size = size as i64;
    let bound = |written: i64| if written < 0 { (written + size).max(0) } else { written.min(size) };
    let (start, end) = (bound(start), bound(end));
    (start as usize, end.max(start) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasts_as_numpy() {
        type Case = (&'static [usize], &'static [usize], Option<&'static [usize]>);
        let cases: [Case; 6] = [
            (&[], &[3], Some(&[3])),
            (&[4, 1], &[3], Some(&[4, 3])),
            (&[2, 1, 5], &[7, 1], Some(&[2, 7, 5])),
            (&[1], &[0], Some(&[0])),
            (&[2], &[3], None),
            (&[2, 3], &[2], None),
        ];
        for (a, b, expected) in cases {
            assert_eq!(broadcast(a, b).as_deref(), expected, "{a:?} {b:?}");
            assert_eq!(broadcast(b, a).as_deref(), expected, "{b:?} {a:?}");
        }
    }

    #[test]
    fn resolves_what_is_written() {
        assert_eq!(axis(-1, 3), Some(2));
        assert_eq!(axis(3, 3), None);
        assert_eq!(axis(-4, 3), None);
        assert_eq!(axis(0, 0), None);
        assert_eq!(reshape(12, &[3, -1]), Some(vec![3, 4]));
        assert_eq!(reshape(12, &[5, -1]), None);
        assert_eq!(reshape(1, &[]), Some(vec![]));
        assert_eq!(reshape(12, &[-1, -1]), None);
        assert_eq!(reshape(12, &[-2, -6]), None);
        assert_eq!(reshape(0, &[0, -1]), None);
        assert_eq!(slice(0, i64::MAX, 5), (0, 5));
        assert_eq!(slice(-2, i64::MAX, 5), (3, 5));
        assert_eq!(slice(4, 2, 5), (4, 4));
        assert_eq!(slice(-9, -9, 5), (0, 0));
        assert_eq!(matmul(&[2, 3], &[4, 3], false, true), Some(vec![2, 4]));
        assert_eq!(matmul(&[7, 3, 2], &[3, 5], true, false), Some(vec![7, 2, 5]));
        assert_eq!(matmul(&[3], &[3, 5], false, false), None);
    }
}
