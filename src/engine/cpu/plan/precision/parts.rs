//! Which neighbouring inputs of a layer share a scale: those that come from one source.

use std::collections::HashMap;

use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{Task, ValueIndex, Work};

/// Sizes of the parts of a layer's `k` inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// As few as make sense: embeddings side by side count as one part.
    pub coarse: Vec<usize>,
    /// Every input of a concatenation by itself.
    pub fine: Vec<usize>,
}

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

    /// Parts of the rows of `k` inputs that a layer reads from `x`.
    pub fn parts(&self, x: ValueIndex, k: usize) -> Parts {
        let mut found = Vec::new();
        // Where a row of the tile holds several rows of the product, parts repeat from row to row only if the last axis was joined.
        if self.lowered.values[x].len() == k {
            self.flat(x, &mut found)
        } else {
            self.last_axis(x, k, &mut found)
        }
        let mut fine = Vec::new();
        let mut coarse: Vec<(Source, usize)> = Vec::new();
        for (source, size) in found.into_iter().filter(|&(_, size)| size > 0) {
            fine.push(size);
            match coarse.last_mut() {
                Some((last, sum)) if *last == source => *sum += size,
                _ => coarse.push((source, size)),
            }
        }
        let coarse: Vec<usize> = coarse.into_iter().map(|(_, size)| size).collect();
        let bounded = |parts: Vec<usize>| if parts.len() > PARTS_MAX { vec![k] } else { parts };
        Parts { coarse: bounded(coarse), fine: bounded(fine) }
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
            Some(Work::Binary { a, b, .. }) if self.is_joined(*a, len) || self.is_joined(*b, len) => {
                self.flat(if self.is_joined(*a, len) { *a } else { *b }, found);
            }
            Some(Work::Unary { x, .. }) => self.flat(*x, found),
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
            Some(Work::Concat { xs, axis }) if axis + 1 == self.lowered.values[value].shape.len() => {
                let size = |x: ValueIndex| self.lowered.values[x].shape.last().copied().unwrap_or(1);
                found.extend(xs.iter().map(|&x| (Source::Value(x), size(x))));
            }
            _ => found.push((Source::Value(value), k)),
        }
    }
}

/// Each part costs a scale per row, a search for the range, and a pass over the sums.
const PARTS_MAX: usize = 32;
