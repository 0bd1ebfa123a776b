//! Dot interactions: of a product x·xᵀ that is only read element by element, just the pairs that are read are computed, in the order in which
//! they are read. With hoisting, pairs of two vectors of the context are computed once per request.
//!
//! The product is recognised by where its operands' elements come from, not by the ops between: rows on the left and columns on the right
//! must each be a run of `dim` elements of one value. So stacks, concatenations, reshapes and transposes of any order will do, and
//! vectors are read where they were computed instead of being copied into a matrix first.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::engine::EngineError;
use crate::engine::cpu::kernels::interaction::{Blocks, VECTORS_MAX};
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::origins::Piece;
use crate::engine::cpu::plan::task::{Note, Task, ValueIndex, Work};
use crate::engine::cpu::program::{Hoist, Options};
use crate::model::{Model, ValueScope};

use super::hoist;
use super::rewriter::Rewriter;

/// The pass.
pub fn run(lowered: &mut Lowered, _: &Model, options: &Options) -> Result<(), EngineError> {
    let (mut rewriter, tasks) = Rewriter::new(lowered);
    let columns = columns_of_readers(&rewriter, &tasks);
    let whole = read_whole(&rewriter, &tasks);
    let mut products: HashMap<ValueIndex, Product> = HashMap::new();
    for mut task in tasks {
        if let Work::MatMul { a, b, transpose_a, transpose_b } = task.work {
            match Product::new(&rewriter, task.out, [a, b], [transpose_a, transpose_b]) {
                Ok(product) if whole[task.out] => {
                    // Each pair once, and written twice.
                    let pairs = product.left.iter().flat_map(|&left| product.right.iter().map(move |&right| [left, right])).collect();
                    put(&mut rewriter, task, Pairs { vectors: product.vectors, dim: product.dim, pairs }, false);
                    continue;
                }
                Ok(product) => {
                    products.insert(task.out, product);
                }
                Err(reason) => task.notes.push(Note::Generic(reason.into_owned())),
            }
            // If nothing else reads the product, it is dropped in the end.
            rewriter.put(task);
            continue;
        }
        let columns = columns[task.out];
        for task in [gather_views(&mut rewriter, &mut task, &products), vec![task]].into_iter().flatten() {
            let Some(pairs) = pairs(&rewriter, &task, &products) else {
                rewriter.put(task);
                continue;
            };
            let hoist = match options.hoist {
                Hoist::Nothing => false,
                Hoist::WherePaying => pairs.pays(&rewriter, columns),
                Hoist::Everything => true,
            };
            put(&mut rewriter, task, pairs, hoist);
        }
    }
    Ok(())
}

/// A product of rows with columns that are runs of elements.
struct Product {
    /// Different vectors, those of the context first.
    vectors: Vec<Piece>,
    dim: usize,
    /// Rows of the product, as indices of vectors.
    left: Vec<usize>,
    /// Columns of it.
    right: Vec<usize>,
}

impl Product {
    /// If it is one, and its rows are its columns too; otherwise why not.
    fn new(rewriter: &Rewriter, out: ValueIndex, operands: [ValueIndex; 2], transposed: [bool; 2]) -> Result<Product, Cow<'static, str>> {
        let shape = &rewriter.value(out).shape;
        let [.., rows, columns] = shape[..] else { return Err("a computed matrix times a vector: nothing to share between rows".into()) };
        if rows * columns != rewriter.value(out).len() {
            return Err("a batch of products per row".into());
        }
        if rewriter.value(out).scope != ValueScope::Candidate {
            return Err("computed once per request".into());
        }
        if rows != columns {
            return Err(match rows.min(columns) {
                1 => "a computed matrix times a vector: nothing to share between rows".into(),
                _ => "not a product of vectors with themselves".into(),
            });
        }
        let dim = rewriter.value(operands[0]).len() / rows.max(1);
        if dim == 0 {
            return Err("vectors without elements".into());
        }
        if rows > VECTORS_MAX {
            return Err(format!("a product of {rows} vectors; an interaction takes at most {VECTORS_MAX}").into());
        }
        let sides = [(rows, transposed[0]), (columns, !transposed[1])];
        let mut found: Vec<Vec<Piece>> = Vec::new();
        for (operand, (count, by_column)) in operands.into_iter().zip(sides) {
            let pieces = rewriter.origins_of(operand);
            let elements: Vec<Piece> =
                pieces.iter().flat_map(|piece| (0..piece.len).map(|at| Piece { first: piece.first + at, len: 1, ..*piece })).collect();
            let element = |vector: usize, k: usize| elements[if by_column { k * count + vector } else { vector * dim + k }];
            let vector = |vector: usize| {
                let first = element(vector, 0);
                let is_run = (0..dim).all(|k| element(vector, k) == Piece { first: first.first + k, ..first });
                is_run.then_some(Piece { len: dim, ..first })
            };
            let vectors: Option<Vec<Piece>> = (0..count).map(vector).collect();
            found.push(vectors.ok_or("rows or columns are not vectors that lie in one piece")?);
        }
        let [left, right] = &found[..] else { unreachable!("two operands") };
        let mut vectors: Vec<Piece> = left.clone();
        vectors.sort_by_key(|&vector| (rewriter.value(vector.value).scope, vector));
        vectors.dedup();
        if !right.iter().all(|vector| vectors.contains(vector)) || right.len() != left.len() {
            return Err("not a product of vectors with themselves".into());
        }
        let index = |list: &[Piece]| list.iter().map(|vector| vectors.iter().position(|other| other == vector)).collect::<Option<Vec<_>>>();
        let (Some(left), Some(right)) = (index(left), index(right)) else { unreachable!("all of them are in the list") };
        Ok(Product { vectors, dim, left, right })
    }
}

/// The pairs that a task picks from products, and the vectors.
struct Pairs {
    vectors: Vec<Piece>,
    dim: usize,
    pairs: Vec<[usize; 2]>,
}

impl Pairs {
    /// Whether splitting them by scope is worth it: only if the layers that read them, of so many columns, will be split for them.
    fn pays(&self, rewriter: &Rewriter, columns: usize) -> bool {
        let of_context =
            |pair: &[usize; 2]| pair.iter().all(|&vector| rewriter.value(self.vectors[vector].value).scope != ValueScope::Candidate);
        let count = self.pairs.iter().filter(|pair| of_context(pair)).count();
        columns != usize::MAX && hoist::pays(count, columns)
    }
}

/// Parts of a product that a concatenation joins beside other values become a concatenation of their own, given here: to be put before it.
fn gather_views<'a>(rewriter: &mut Rewriter<'_, 'a>, task: &mut Task<'a>, products: &HashMap<ValueIndex, Product>) -> Vec<Task<'a>> {
    let Work::Concat { xs, axis } = &mut task.work else { return vec![] };
    let product_of = |rewriter: &Rewriter, x: ValueIndex| {
        let pieces = rewriter.origins_of(x);
        let from = pieces.first()?.value;
        (products.contains_key(&from) && pieces.iter().all(|piece| piece.value == from)).then_some(from)
    };
    let from: Vec<Option<ValueIndex>> = xs.iter().map(|&x| product_of(rewriter, x)).collect();
    if from.iter().all(|&product| product == from[0]) {
        // All of one product, or none: the task itself is looked at.
        return vec![];
    }
    let (mut parts, mut made) = (Vec::new(), Vec::new());
    for run in from.iter().zip(xs.iter()).collect::<Vec<_>>().chunk_by(|a, b| a.0 == b.0) {
        let run_xs: Vec<ValueIndex> = run.iter().map(|(_, x)| **x).collect();
        if run[0].0.is_none() {
            parts.extend(run_xs);
            continue;
        }
        let mut shape = rewriter.value(run_xs[0]).shape.clone();
        shape[*axis] = run_xs.iter().map(|&x| rewriter.value(x).shape[*axis]).sum();
        let name = format!("{} (pairs)", rewriter.name(task.out));
        let part = rewriter.add_value(shape, ValueScope::Candidate, name);
        made.push(Task::new(part, Work::Concat { xs: run_xs, axis: *axis }));
        parts.push(part);
    }
    *xs = parts;
    made
}

/// The pairs, if the task moves elements of one product and does nothing else.
fn pairs(rewriter: &Rewriter, task: &Task, products: &HashMap<ValueIndex, Product>) -> Option<Pairs> {
    let moves = matches!(task.work, Work::Gather { .. } | Work::Slice { .. } | Work::Transpose { .. } | Work::Concat { .. });
    if !moves || rewriter.value(task.out).len() == 0 {
        return None;
    }
    let inputs = task.work.inputs();
    let from = rewriter.origins_of(*inputs.first()?).first()?.value;
    let product = products.get(&from)?;
    // What the task will move: nobody knows its output yet.
    let mut origins = crate::engine::cpu::plan::origins::Origins::default();
    inputs.iter().for_each(|&input| origins.set(input, rewriter.origins_of(input).to_vec()));
    origins.learn(task, &rewriter.lowered.values);
    let pieces = origins.of(task.out, &rewriter.lowered.values);
    if pieces.iter().any(|piece| piece.value != from) {
        return None;
    }
    let columns = product.right.len();
    let pair = |element: usize| [product.left[element / columns], product.right[element % columns]];
    let pairs: Vec<[usize; 2]> = pieces.iter().flat_map(|piece| (piece.first..piece.first + piece.len).map(pair)).collect();
    Blocks::new(product.vectors.len(), 0, &pairs)?;
    Some(Pairs { vectors: product.vectors.clone(), dim: product.dim, pairs })
}

/// Computes the task's output as an interaction; `hoist`: pairs of the context apart.
fn put<'a>(rewriter: &mut Rewriter<'_, 'a>, mut task: Task<'a>, pairs: Pairs, hoist: bool) {
    let Pairs { vectors, dim, pairs } = pairs;
    let split = vectors.iter().filter(|vector| rewriter.value(vector.value).scope != ValueScope::Candidate).count();
    let of_context = |pair: &[usize; 2]| pair.iter().all(|&vector| vector < split);
    let count = pairs.iter().filter(|pair| of_context(pair)).count();
    let total = pairs.len();
    let fused = Note::Fused(format!("matmul, layout: {total} pairs of {} vectors of {dim}", vectors.len()));
    if !hoist || count == 0 || count == total {
        task.work = Work::Interaction { vectors, dim, split, pairs };
        task.notes.push(fused);
        rewriter.put(task);
        return;
    }
    let name = rewriter.name(task.out);
    let mut made = Vec::new();
    for (scope, word) in [(ValueScope::Context, "context"), (ValueScope::Candidate, "candidate")] {
        let pairs: Vec<[usize; 2]> = pairs.iter().copied().filter(|pair| of_context(pair) == (scope == ValueScope::Context)).collect();
        // The context's value reads no vector of the candidates.
        let vectors = if scope == ValueScope::Context { vectors[..split].to_vec() } else { vectors.clone() };
        let value = rewriter.add_value(vec![pairs.len()], scope, format!("{name} ({word} pairs)"));
        let mut task = Task::new(value, Work::Interaction { vectors, dim, split, pairs });
        task.notes = vec![fused.clone(), Note::Hoisted(format!("{count} of {total} pairs are computed once per request"))];
        rewriter.put(task);
        made.push(value);
    }
    let both = rewriter.add_value(vec![total], ValueScope::Candidate, format!("{name} (all pairs)"));
    rewriter.put(Task::new(both, Work::Concat { xs: made, axis: 0 }));
    let mut next = [0, count];
    let place = |pair: &[usize; 2]| {
        let side = &mut next[usize::from(!of_context(pair))];
        *side += 1;
        *side - 1
    };
    let indices = pairs.iter().map(place).collect();
    let picked = rewriter.add_value(vec![total], ValueScope::Candidate, name);
    rewriter.put(Task::new(picked, Work::Gather { x: both, axis: 0, indices }));
    task.work = Work::View { x: picked, first: 0 };
    rewriter.put(task);
}

/// For each value: the columns of the narrowest layer that reads it, moved about or not. 0: something else than layers that can be split reads it.
fn columns_of_readers(rewriter: &Rewriter, tasks: &[Task]) -> Vec<usize> {
    let mut columns = vec![usize::MAX; rewriter.lowered.values.len()];
    rewriter.lowered.outputs.iter().for_each(|&output| columns[output] = 0);
    for task in tasks.iter().rev() {
        let reader = match &task.work {
            Work::Linear { matrix, .. } if matrix.n == rewriter.value(task.out).len() => matrix.n,
            Work::View { .. } | Work::Concat { .. } | Work::Slice { .. } | Work::Gather { .. } | Work::Transpose { .. } => {
                columns[task.out]
            }
            _ => 0,
        };
        task.work.inputs().into_iter().for_each(|input| columns[input] = columns[input].min(reader));
    }
    columns
}

/// For each value: whether something computes with all of it.
fn read_whole(rewriter: &Rewriter, tasks: &[Task]) -> Vec<bool> {
    let mut whole = vec![false; rewriter.lowered.values.len()];
    rewriter.lowered.outputs.iter().for_each(|&output| whole[output] = true);
    for task in tasks.iter().rev() {
        match &task.work {
            Work::View { x, .. } => whole[*x] |= whole[task.out] && rewriter.value(*x).len() == rewriter.value(task.out).len(),
            Work::Slice { .. } | Work::Gather { .. } | Work::Transpose { .. } => {}
            work => work.inputs().into_iter().for_each(|input| whole[input] = true),
        }
    }
    whole
}
