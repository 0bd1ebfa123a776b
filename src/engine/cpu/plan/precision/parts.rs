//! Which neighbouring inputs of a layer share a scale: those that come from one source.

use std::collections::HashMap;

use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{Task, ValueIndex, Work};

/// Where parts come from: neighbours of one kind are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Embeddings.
    Lookup,
    /// Anything else, by value.
    Value(ValueIndex),
}

/// Who makes which value.
pub struct Makers<'l, 'a> {
    lowered: &'l Lowered<'a>,
    by_value: HashMap<ValueIndex, &'l Task<'a>>,
}

impl<'l, 'a> Makers<'l, 'a> {
    /// Of these tasks.
    pub fn new(lowered: &'l Lowered<'a>) -> Makers<'l, 'a> {
        Makers { lowered, by_value: lowered.tasks.iter().map(|task| (task.out, task)).collect() }
    }

    /// Sizes of the parts of the rows of `k` inputs that a layer reads from `x`: as few as make sense, embeddings side by side are one.
    pub fn parts(&self, x: ValueIndex, k: usize) -> Vec<usize> {
        let mut found = Vec::new();
        // Where a row of the tile holds several rows of the product, parts repeat from row to row only if the last axis was joined.
        if self.lowered.values[x].len() == k {
            self.flat(x, &mut found)
        } else {
            self.last_axis(x, k, &mut found)
        }
        let mut parts: Vec<(Source, usize)> = Vec::new();
        for (source, size) in found.into_iter().filter(|&(_, size)| size > 0) {
            match parts.last_mut() {
                Some((last, sum)) if *last == source => *sum += size,
                _ => parts.push((source, size)),
            }
        }
        if parts.len() > PARTS_MAX { vec![k] } else { parts.into_iter().map(|(_, size)| size).collect() }
    }

    /// Parts of all elements of a value, in order.
    fn flat(&self, value: ValueIndex, found: &mut Vec<(Source, usize)>) {
        let len = self.lowered.values[value].len();
        match self.by_value.get(&value).map(|task| &task.work) {
            Some(Work::View { x, first: 0 }) if self.lowered.values[*x].len() == len => self.flat(*x, found),
            Some(Work::Concat { xs, axis }) if self.lowered.values[value].shape[..*axis].iter().all(|&size| size == 1) => {
                xs.iter().for_each(|&x| self.flat(x, found));
            }
            // What is computed element by element has the parts of what it is computed from.
            Some(work @ (Work::Binary { .. } | Work::Chain { .. } | Work::Unary { .. })) => {
                match work.inputs().into_iter().find(|&input| self.is_joined(input, len)) {
                    Some(joined) => self.flat(joined, found),
                    None => found.push((Source::Value(value), len)),
                }
            }
            Some(Work::Lookup { .. }) => found.push((Source::Lookup, len)),
            _ => found.push((Source::Value(value), len)),
        }
    }

    /// Whether a value of this length was joined from parts.
    fn is_joined(&self, value: ValueIndex, len: usize) -> bool {
        let mut found = Vec::new();
        self.lowered.values[value].len() == len && {
            self.flat(value, &mut found);
            found.len() > 1
        }
    }

    fn last_axis(&self, value: ValueIndex, k: usize, found: &mut Vec<(Source, usize)>) {
        match self.by_value.get(&value).map(|task| &task.work) {
            Some(Work::Concat { xs, axis })
                if axis + 1 == self.lowered.values[value].shape.len() && self.lowered.values[value].shape.last() == Some(&k) =>
            {
                let size = |x: ValueIndex| self.lowered.values[x].shape.last().copied().unwrap_or(1);
                found.extend(xs.iter().map(|&x| (Source::Value(x), size(x))));
            }
            _ => found.push((Source::Value(value), k)),
        }
    }
}

/// Parts cut evenly into pieces of at most `most` inputs; pieces but the last of a part have whole vectors.
pub fn pieces(parts: &[usize], most: usize) -> Vec<usize> {
    let mut pieces = Vec::new();
    for &part in parts {
        let size = part.div_ceil(part.div_ceil(most)).next_multiple_of(VECTOR);
        pieces.extend((0..part).step_by(size).map(|first| size.min(part - first)));
    }
    pieces
}

/// Each part costs a scale per row, a search for the range, and a pass over the sums.
pub const PARTS_MAX: usize = 64;
/// Elements of the widest vector.
const VECTOR: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_even_and_whole() {
        assert_eq!(pieces(&[16, 351], usize::MAX), [16, 351]);
        assert_eq!(pieces(&[16, 351], 128), [16, 128, 128, 95]);
        assert_eq!(pieces(&[16, 351], 64), [16, 64, 64, 64, 64, 64, 31]);
        assert_eq!(pieces(&[129, 3], 128), [80, 49, 3]);
        assert_eq!(pieces(&[1], 32), [1]);
    }
}
