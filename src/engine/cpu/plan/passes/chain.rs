//! Elementwise ops that follow each other become one walk over memory: what lies between them stays in registers and the first-level cache.
//!
//! A cross layer's `x0 * y + x`, a swish, an FM's tail, a Dice activation: each op alone reads and writes whole tiles.

use crate::engine::EngineError;
use crate::engine::cpu::kernels::binary::BinaryOp;
use crate::engine::cpu::kernels::chain::{Arg, ChainOp, Instruction, LEAVES_MAX, STEPS_MAX};
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{Note, Task, ValueIndex, Work};
use crate::engine::cpu::program::Options;
use crate::model::{DType, Model};

/// Joins every elementwise task with those before it that nothing else reads.
pub fn run(lowered: &mut Lowered, _: &Model, _: &Options) -> Result<(), EngineError> {
    let mut reads = vec![0usize; lowered.values.len()];
    lowered.outputs.iter().for_each(|&output| reads[output] += 1);
    lowered.tasks.iter().flat_map(|task| task.work.inputs()).for_each(|input| reads[input] += 1);
    let mut makers = vec![None; lowered.values.len()];
    lowered.tasks.iter().enumerate().for_each(|(at, task)| makers[task.out] = Some(at));
    let mut absorbed = vec![false; lowered.tasks.len()];
    for at in (0..lowered.tasks.len()).rev() {
        if absorbed[at] || !is_elementwise(lowered, &lowered.tasks[at]) {
            continue;
        }
        let mut chain = Chain { lowered, reads: &reads, makers: &makers, leaves: Vec::new(), steps: Vec::new(), members: Vec::new() };
        chain.add(at);
        if chain.members.len() < 2 {
            continue;
        }
        let Chain { leaves, steps, members, .. } = chain;
        let names: Vec<&str> = members.iter().rev().map(|&member| name(&lowered.tasks[member].work)).collect();
        members.iter().skip(1).for_each(|&member| absorbed[member] = true);
        let task = &mut lowered.tasks[at];
        task.notes.push(Note::Fused(names.join(", ")));
        task.work = Work::Chain { leaves, steps: multiply_add(steps) };
    }
    let mut at = 0;
    lowered.tasks.retain(|_| {
        at += 1;
        !absorbed[at - 1]
    });
    Ok(())
}

fn is_elementwise(lowered: &Lowered, task: &Task) -> bool {
    lowered.values[task.out].dtype == DType::F32 && matches!(task.work, Work::Binary { .. } | Work::Unary { .. })
}

fn name(work: &Work) -> &'static str {
    match work {
        Work::Binary { op, .. } => op.name(),
        Work::Unary { function, .. } => function.name(),
        _ => "",
    }
}

/// A chain under construction.
struct Chain<'c, 'a> {
    lowered: &'c Lowered<'a>,
    reads: &'c [usize],
    makers: &'c [Option<usize>],
    leaves: Vec<ValueIndex>,
    steps: Vec<Instruction>,
    /// Tasks that are part of it, the last one first.
    members: Vec<usize>,
}

impl Chain<'_, '_> {
    /// Adds a task, after what it may absorb of its operands.
    fn add(&mut self, at: usize) -> Arg {
        self.members.push(at);
        let task = &self.lowered.tasks[at];
        let (op, operands) = match &task.work {
            Work::Binary { op, a, b } => (ChainOp::Binary(*op), vec![*a, *b]),
            Work::Unary { function, x } => (ChainOp::Unary(*function), vec![*x]),
            _ => unreachable!("elementwise tasks alone are added"),
        };
        let mut args = [Arg::NONE; 3];
        for (position, &operand) in operands.iter().enumerate() {
            // Operands still to come, and each member's own operands, need room for leaves and steps.
            let rest = operands.len() - position;
            args[position] = match self.makers[operand] {
                Some(maker) if self.may_absorb(task.out, operand, maker, rest) => self.add(maker),
                _ => self.leaf(operand),
            };
        }
        self.steps.push(Instruction { op, args });
        Arg::step(self.steps.len() - 1)
    }

    fn may_absorb(&self, out: ValueIndex, operand: ValueIndex, maker: usize, rest: usize) -> bool {
        let values = &self.lowered.values;
        let task = &self.lowered.tasks[maker];
        // Each member adds at most one leaf more than it takes away.
        let room = self.members.len() < STEPS_MAX && self.members.len() + 2 + rest <= LEAVES_MAX;
        room && self.reads[operand] == 1
            && is_elementwise(self.lowered, task)
            && values[operand].shape == values[out].shape
            && values[operand].scope == values[out].scope
    }

    fn leaf(&mut self, value: ValueIndex) -> Arg {
        let at = self.leaves.iter().position(|&leaf| leaf == value).unwrap_or_else(|| {
            self.leaves.push(value);
            self.leaves.len() - 1
        });
        Arg::leaf(at)
    }
}

/// Makes one step of a product and the sum that alone reads it.
fn multiply_add(mut steps: Vec<Instruction>) -> Vec<Instruction> {
    let mut at = 0;
    while at < steps.len() {
        let Instruction { op: ChainOp::Binary(BinaryOp::Add), args: [a, b, _] } = steps[at] else {
            at += 1;
            continue;
        };
        let product = [(a, b), (b, a)].into_iter().find_map(|(product, other)| {
            let step = product.as_step()?;
            matches!(steps[step].op, ChainOp::Binary(BinaryOp::Mul)).then_some((step, other))
        });
        // A product of two leaves, or of earlier steps: its own arguments are there already.
        if let Some((step, other)) = product.filter(|&(step, _)| readers(&steps, step) == 1) {
            let [x, y, _] = steps[step].args;
            steps[at] = Instruction { op: ChainOp::MulAdd, args: [x, y, other] };
            steps.remove(step);
            for instruction in &mut steps[step..] {
                instruction.args.iter_mut().for_each(|arg| *arg = arg.after_removal(step));
            }
        } else {
            at += 1;
        }
    }
    steps
}

fn readers(steps: &[Instruction], step: usize) -> usize {
    steps.iter().flat_map(|instruction| instruction.args).filter(|arg| arg.as_step() == Some(step)).count()
}
