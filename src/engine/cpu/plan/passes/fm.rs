//! Square of the sum less sum of the squares, the usual way to write a factorisation machine's pairs, becomes one kernel.

use crate::engine::EngineError;
use crate::engine::cpu::kernels::binary::BinaryOp;
use crate::engine::cpu::kernels::unary::UnaryF32;
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{Note, ValueIndex, Work};
use crate::engine::cpu::program::Options;
use crate::model::Model;

/// The pass.
pub fn run(lowered: &mut Lowered, _: &Model, _: &Options) -> Result<(), EngineError> {
    let mut makers = vec![None; lowered.values.len()];
    for at in 0..lowered.tasks.len() {
        let found = Makers { lowered, of: &makers }.pairs(&lowered.tasks[at].work);
        if let Some(x) = found {
            let task = &mut lowered.tasks[at];
            task.work = Work::Fm { x, sums: None };
            task.notes.push(Note::Fused("factorisation machine: square of the sum, sum of the squares".to_owned()));
        }
        makers[lowered.tasks[at].out] = Some(at);
    }
    Ok(())
}

struct Makers<'l, 'a> {
    lowered: &'l Lowered<'a>,
    of: &'l [Option<usize>],
}

impl Makers<'_, '_> {
    /// What made a value, through views of the whole.
    fn work(&self, value: ValueIndex) -> Option<&Work<'_>> {
        let work = &self.lowered.tasks[self.of[value]?].work;
        match work {
            Work::View { x, first: 0 } if self.lowered.values[*x].len() == self.lowered.values[value].len() => self.work(*x),
            _ => Some(work),
        }
    }

    /// x, if this is (Σ x)² − Σ x² over the leading axis of `x`.
    fn pairs(&self, work: &Work) -> Option<ValueIndex> {
        let Work::Binary { op: BinaryOp::Sub, a, b } = work else { return None };
        let Work::Sum { x, axes } = self.work(self.square_of(*a)?)? else { return None };
        let Work::Sum { x: squares, axes: square_axes } = self.work(*b)? else { return None };
        let shape = &self.lowered.values[*x].shape;
        let [axis] = axes[..] else { return None };
        let leads = shape[..axis].iter().all(|&size| size == 1);
        let same = self.square_of(*squares) == Some(*x) && square_axes == axes;
        (leads && same && self.lowered.values[*a].len() == self.lowered.values[*b].len()).then_some(*x)
    }

    /// x, if the value is x².
    fn square_of(&self, value: ValueIndex) -> Option<ValueIndex> {
        match self.work(value)? {
            Work::Unary { function: UnaryF32::Square, x } => Some(*x),
            Work::Binary { op: BinaryOp::Mul, a, b } if a == b => Some(*a),
            _ => None,
        }
    }
}
