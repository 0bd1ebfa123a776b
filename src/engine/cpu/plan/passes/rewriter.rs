//! What passes that rebuild the list of tasks have in common.

use std::collections::HashMap;

use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::origins::{Origins, Piece};
use crate::engine::cpu::plan::task::{PlanValue, Task, ValueIndex, Work};
use crate::model::{DType, ValueScope};

/// Takes the tasks one by one and puts others in their place, following where elements come from on the way.
pub struct Rewriter<'l, 'a> {
    /// Its tasks are those put so far.
    pub lowered: &'l mut Lowered<'a>,
    /// Of the values made so far.
    pub origins: Origins,
    joined: HashMap<Vec<Piece>, ValueIndex>,
    /// First value of the planner's own.
    own: usize,
    /// Concatenations put so far.
    concats: Vec<ValueIndex>,
}

impl<'l, 'a> Rewriter<'l, 'a> {
    /// Takes the tasks out of `lowered`: to be put back, or others for them.
    pub fn new(lowered: &'l mut Lowered<'a>) -> (Rewriter<'l, 'a>, Vec<Task<'a>>) {
        let tasks = std::mem::take(&mut lowered.tasks);
        let own = lowered.own;
        (Rewriter { own, lowered, origins: Origins::default(), joined: HashMap::new(), concats: Vec::new() }, tasks)
    }

    /// A value made so far.
    pub fn value(&self, value: ValueIndex) -> &PlanValue {
        &self.lowered.values[value]
    }

    /// What a value is called in reports.
    pub fn name(&self, value: ValueIndex) -> String {
        self.lowered.names.get(&value).cloned().unwrap_or_default()
    }

    /// A value of the planner's own, f32, to be made by the next task.
    pub fn add_value(&mut self, shape: Vec<usize>, scope: ValueScope, name: String) -> ValueIndex {
        let value = self.lowered.values.len();
        self.lowered.values.push(PlanValue { shape, dtype: DType::F32, scope });
        self.lowered.names.insert(value, name);
        value
    }

    /// Puts a task behind those so far.
    pub fn put(&mut self, task: Task<'a>) {
        self.origins.learn(&task, &self.lowered.values);
        if matches!(task.work, Work::Concat { .. }) {
            self.concats.push(task.out);
        }
        self.lowered.tasks.push(task);
    }

    /// The pieces that make up a value.
    pub fn origins_of(&self, value: ValueIndex) -> std::rc::Rc<[Piece]> {
        self.origins.of(value, &self.lowered.values)
    }

    /// The largest scope of some pieces.
    pub fn scope_of(&self, pieces: &[Piece]) -> ValueScope {
        pieces.iter().map(|piece| self.value(piece.value).scope).max().unwrap_or(ValueScope::Constant)
    }

    /// A value `[len]` of these pieces side by side: made once for each list, and not at all where another one of the same scope holds them.
    pub fn join(&mut self, pieces: &[Piece], name: &str) -> ValueIndex {
        if let Some(&value) = self.joined.get(pieces) {
            return value;
        }
        if pieces.len() > 1
            && let Some((holder, first)) = self.holder(pieces)
        {
            let (len, scope) = (pieces.iter().map(|piece| piece.len).sum(), self.value(holder).scope);
            let value = self.add_value(vec![len], scope, name.to_owned());
            self.put(Task::new(value, Work::View { x: holder, first }));
            self.joined.insert(pieces.to_vec(), value);
            return value;
        }
        let parts: Vec<ValueIndex> = pieces.iter().map(|&piece| self.part(piece)).collect();
        let value = match parts.as_slice() {
            [part] => *part,
            _ => {
                let len = pieces.iter().map(|piece| piece.len).sum();
                let value = self.add_value(vec![len], self.scope_of(pieces), name.to_owned());
                self.put(Task::new(value, Work::Concat { xs: parts, axis: 0 }));
                value
            }
        };
        self.joined.insert(pieces.to_vec(), value);
        value
    }

    /// A concatenation that was made for a pass and holds these pieces in one go, and where in it. (One of the graph's own may be dropped once
    /// its readers have found something better.)
    fn holder(&self, pieces: &[Piece]) -> Option<(ValueIndex, usize)> {
        let scope = self.scope_of(pieces);
        self.concats.iter().filter(|&&concat| concat >= self.own && self.value(concat).scope == scope).find_map(|&concat| {
            let held = self.origins_of(concat);
            let at = held.windows(pieces.len()).position(|window| window == pieces)?;
            Some((concat, held[..at].iter().map(|piece| piece.len).sum()))
        })
    }

    /// One piece as a vector.
    fn part(&mut self, piece: Piece) -> ValueIndex {
        let PlanValue { shape, scope, .. } = self.value(piece.value).clone();
        if shape == [piece.len] {
            return piece.value;
        }
        let name = self.name(piece.value);
        let value = self.add_value(vec![piece.len], scope, name);
        self.put(Task::new(value, Work::View { x: piece.value, first: piece.first }));
        value
    }
}

/// How often each value is read by tasks and outputs.
pub fn reads(lowered: &Lowered, tasks: &[Task]) -> Vec<usize> {
    let mut reads = vec![0; lowered.values.len()];
    lowered.outputs.iter().for_each(|&output| reads[output] += 1);
    tasks.iter().flat_map(|task| task.work.inputs()).for_each(|input| reads[input] += 1);
    reads
}
