//! Einsum: brought to matrix products, or to an elementwise product where nothing is summed over both.

use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId};
use super::super::nd::Move;
use super::super::node::Node;
use super::super::value::{Batch, Value, mixes};
use super::Lower;

/// A value whose axes (per row) have names.
#[derive(Clone, Debug)]
struct Named {
    id: IrId,
    labels: Vec<char>,
}

/// Labels of the axes that are merged with the rows: no equation has them.
fn merged_labels(batch: &Batch) -> Vec<char> {
    [(batch.outer, '\u{F000}'), (batch.inner, '\u{F001}')].into_iter().filter(|(size, _)| *size != 1).map(|(_, label)| label).collect()
}

fn refused(equation: &str, why: &str) -> super::super::error::Problem {
    problem(format!("the equation {equation:?}: {why}"), "Write it with MatMul, Mul and ReduceSum")
}

impl Lower {
    /// Einsum of one or more operands.
    pub fn einsum(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let text = node.text("equation", "");
        let equation: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match equation.split_once("->") {
            Some((left, right)) => (left.to_string(), right.to_string()),
            None => {
                // Labels that stand once, in alphabetical order.
                let mut labels: Vec<char> = equation.chars().filter(|c| *c != ',').collect();
                labels.sort_unstable();
                let once: String = labels.iter().filter(|c| labels.iter().filter(|d| d == c).count() == 1).collect();
                (equation.clone(), once)
            }
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != inputs.len() || terms.is_empty() {
            return Err(refused(text, "not as many terms as inputs"));
        }
        let (terms, output) = with_ellipsis(&terms, &right, inputs).ok_or_else(|| refused(text, "an ellipsis that does not fit"))?;
        // The label of the rows: the same in every operand that has them, kept in the result, nowhere else. Axes of the row that are merged
        // into theirs get labels of their own.
        let mut rows: Option<(char, Batch)> = None;
        let mut operands = Vec::with_capacity(inputs.len());
        for (labels, value) in terms.iter().zip(inputs) {
            let row = self.row(value)?;
            let unique = labels.iter().all(|c| labels.iter().filter(|d| *d == c).count() == 1);
            if labels.len() != row.rank() || !unique {
                return Err(refused(text, "a term that does not fit its input, or names an axis twice"));
            }
            let mut own = labels.clone();
            if let Some(batch) = row.batch {
                let label = own[batch.at];
                own.splice(batch.at..=batch.at, merged_labels(&batch));
                if rows.is_some_and(|(known, other)| known != label || (other.outer, other.inner) != (batch.outer, batch.inner)) {
                    return Err(mixes("multiplies values"));
                }
                rows = Some((label, batch));
            }
            operands.push((row, own));
        }
        let mut named = Vec::with_capacity(operands.len());
        for (row, mut labels) in operands {
            let mut row = row;
            if let Some((label, _)) = rows
                && let Some(at) = labels.iter().position(|c| *c == label)
            {
                if row.batch.is_some() || row.shape[at] != 1 {
                    return Err(mixes("multiplies values"));
                }
                let mut shape = row.shape.clone();
                shape.remove(at);
                row = self.move_row(&row, &Move::Reshape(shape))?;
                labels.remove(at);
            }
            named.push(Named { id: self.ir(&row)?, labels });
        }
        let mut wanted = output.clone();
        let batch = match rows {
            Some((label, batch)) => {
                let at = wanted.iter().position(|c| *c == label).ok_or_else(|| mixes("sums values"))?;
                wanted.splice(at..=at, merged_labels(&batch));
                Some(Batch { at, ..batch })
            }
            None => None,
        };
        let mut rest = named.into_iter();
        let Some(mut result) = rest.next() else { return Err(refused(text, "no operand")) };
        let rest: Vec<Named> = rest.collect();
        for (i, next) in rest.iter().enumerate() {
            let later: Vec<char> =
                rest[i + 1..].iter().flat_map(|named| named.labels.iter().copied()).chain(wanted.iter().copied()).collect();
            result = self.contracted(text, result, next.clone(), &later)?;
        }
        let result = self.summed(result, &wanted)?;
        let perm: Option<Vec<usize>> = wanted.iter().map(|label| result.labels.iter().position(|c| c == label)).collect();
        let perm = perm.filter(|perm| perm.len() == result.labels.len()).ok_or_else(|| refused(text, "a result with other axes"))?;
        let id = self.transposed(result.id, &perm)?;
        let elem = inputs[0].elem();
        Ok(Lower::row_of(batch, elem, self.shape(id), id))
    }

    /// Sums over the axes that nothing later needs.
    fn summed(&mut self, value: Named, later: &[char]) -> Checked<Named> {
        let gone: Vec<usize> = (0..value.labels.len()).filter(|at| !later.contains(&value.labels[*at])).collect();
        if gone.is_empty() {
            return Ok(value);
        }
        let id = self.reduce("reduce_sum", value.id, &gone, false)?;
        Ok(Named { id, labels: value.labels.into_iter().filter(|c| later.contains(c)).collect() })
    }

    /// Two operands as one; `later` are the labels that are still needed.
    fn contracted(&mut self, text: &str, a: Named, b: Named, later: &[char]) -> Checked<Named> {
        // What stands on one side only and is not needed is summed there.
        let needed = |other: &Named| other.labels.iter().chain(later).copied().collect::<Vec<char>>();
        let (for_a, for_b) = (needed(&b), needed(&a));
        let (a, b) = (self.summed(a, &for_a)?, self.summed(b, &for_b)?);
        let size =
            |lower: &Lower, named: &Named, label: char| named.labels.iter().position(|c| *c == label).map(|at| lower.shape(named.id)[at]);
        for label in &a.labels {
            let (x, y) = (size(self, &a, *label), size(self, &b, *label));
            if let (Some(x), Some(y)) = (x, y)
                && x != y
            {
                return Err(refused(text, "axes of one name with different sizes"));
            }
        }
        let shared: Vec<char> = a.labels.iter().copied().filter(|c| b.labels.contains(c)).collect();
        let (kept, summed): (Vec<char>, Vec<char>) = shared.iter().partition(|c| later.contains(c));
        let only = |x: &Named| x.labels.iter().copied().filter(|c| !shared.contains(c)).collect::<Vec<char>>();
        let (left, right) = (only(&a), only(&b));
        let labels = [kept.clone(), left.clone(), right.clone()].concat();
        if summed.is_empty() {
            let x = self.spread_labels(&a, &labels)?;
            let y = self.spread_labels(&b, &labels)?;
            let id = self.binary("mul", Arg::Value(x), Arg::Value(y))?;
            return Ok(Named { id, labels });
        }
        let arrange = |lower: &mut Lower, named: &Named, groups: [&[char]; 3]| -> Checked<(IrId, Vec<Vec<usize>>)> {
            let order: Vec<char> = groups.concat();
            let perm: Vec<usize> = order.iter().filter_map(|label| named.labels.iter().position(|c| c == label)).collect();
            let id = lower.transposed(named.id, &perm)?;
            let shape = lower.shape(id);
            let mut sizes = Vec::new();
            let mut at = 0;
            for group in groups {
                sizes.push(shape[at..at + group.len()].to_vec());
                at += group.len();
            }
            let flat = [sizes[0].clone(), vec![sizes[1].iter().product(), sizes[2].iter().product()]].concat();
            Ok((lower.reshaped(id, &flat)?, sizes))
        };
        let (x, x_sizes) = arrange(self, &a, [&kept, &left, &summed])?;
        let (y, y_sizes) = arrange(self, &b, [&kept, &summed, &right])?;
        let id = self.product(x, y)?;
        let shape = [x_sizes[0].clone(), x_sizes[1].clone(), y_sizes[2].clone()].concat();
        Ok(Named { id: self.reshaped(id, &shape)?, labels })
    }

    /// The operand with axes as `labels` says, of size 1 where it has none.
    fn spread_labels(&mut self, value: &Named, labels: &[char]) -> Checked<IrId> {
        let perm: Vec<usize> = labels.iter().filter_map(|label| value.labels.iter().position(|c| c == label)).collect();
        let id = self.transposed(value.id, &perm)?;
        let mut own = self.shape(id).into_iter();
        let shape: Vec<usize> = labels.iter().map(|label| if value.labels.contains(label) { own.next().unwrap_or(1) } else { 1 }).collect();
        self.reshaped(id, &shape)
    }
}

/// Terms and result with the ellipsis replaced by capital labels of its own; None if it does not fit the ranks.
fn with_ellipsis(terms: &[&str], output: &str, inputs: &[Value]) -> Option<(Vec<Vec<char>>, Vec<char>)> {
    // Private labels that no equation uses.
    let private = |i: usize| char::from_u32(0xE000 + i as u32);
    let mut most = 0;
    let mut results = Vec::new();
    for (term, value) in terms.iter().zip(inputs) {
        if term.contains("...") {
            most = most.max(value.rank().checked_sub(term.len() - 3)?);
        }
    }
    let expand = |term: &str, axes: usize| -> Option<Vec<char>> {
        match term.split_once("...") {
            None => Some(term.chars().collect()),
            Some((before, after)) => {
                let middle: Option<Vec<char>> = (most - axes.min(most)..most).map(private).collect();
                Some([before.chars().collect::<Vec<_>>(), middle?, after.chars().collect()].concat())
            }
        }
    };
    for (term, value) in terms.iter().zip(inputs) {
        let axes = if term.contains("...") { value.rank().checked_sub(term.len() - 3)? } else { 0 };
        results.push(expand(term, axes)?);
    }
    Some((results, expand(output, most)?))
}
