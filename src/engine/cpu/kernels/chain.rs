//! Several elementwise ops in one walk: strips of [`STRIP`] elements go through all steps while they are in the first-level cache.

use crate::engine::cpu::kernels::binary::{BinaryOp, Element};
use crate::engine::cpu::kernels::unary::{UnaryF32, unary_f32};
use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, Simd, multiversion};
use crate::engine::cpu::tile::Tile;
use crate::engine::cpu::walk::Walk;

/// Most operands of a chain.
pub const LEAVES_MAX: usize = 7;
/// Most steps of a chain.
pub const STEPS_MAX: usize = 8;
/// Operands of the walk: the result, then the leaves.
pub const OPERANDS: usize = LEAVES_MAX + 1;

/// What a step computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ChainOp {
    /// Of two arguments.
    Binary(BinaryOp),
    /// Of one.
    Unary(UnaryF32),
    /// a · b + c.
    MulAdd,
}

/// Where a step's argument comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg(i8);

impl Arg {
    /// No argument.
    pub const NONE: Arg = Arg(i8::MIN);

    /// An operand of the chain.
    pub fn leaf(at: usize) -> Arg {
        Arg(-1 - at as i8)
    }

    /// The result of an earlier step.
    pub fn step(at: usize) -> Arg {
        Arg(at as i8)
    }

    /// Which step, if it is one's result.
    pub fn as_step(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }

    /// Which operand, if it is one.
    pub fn as_leaf(self) -> Option<usize> {
        (self != Arg::NONE && self.0 < 0).then(|| (-1 - i16::from(self.0)) as usize)
    }

    /// The same argument once step `removed` is gone, which nothing reads any more.
    pub fn after_removal(self, removed: usize) -> Arg {
        match self.as_step() {
            Some(step) if step > removed => Arg::step(step - 1),
            _ => self,
        }
    }
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Instruction {
    /// What.
    pub op: ChainOp,
    /// Of what: as many as the op takes, then [`Arg::NONE`].
    pub args: [Arg; 3],
}

/// `out` = the last step's result; operands broadcast as numpy does.
#[derive(Debug)]
pub struct Chain {
    /// At most [`LEAVES_MAX`].
    pub leaves: Vec<Place>,
    /// At most [`STEPS_MAX`]; each reads leaves and earlier steps.
    pub steps: Vec<Instruction>,
    /// Result.
    pub out: Place,
    /// Loops over (out, leaves); innermost steps are 1 for `out`, 0 or 1 for leaves.
    pub walk: Walk<OPERANDS>,
}

/// An operand on a strip.
#[derive(Clone, Copy)]
enum Operand<'a> {
    Many(&'a [f32]),
    One(f32),
}

impl Chain {
    /// Whether a walk can be run: innermost steps as [`Chain::walk`] says.
    pub fn takes(walk: &Walk<OPERANDS>) -> bool {
        let [out, leaves @ ..] = walk.inner();
        out == 1 && leaves.iter().all(|&step| step <= 1)
    }

    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        let mut out = tile.target::<f32>(&self.out);
        let mut starts = [std::ptr::null::<f32>(); LEAVES_MAX];
        let mut temporary = [[0.0f32; STRIP]; STEPS_MAX - 1];
        if self.walk.rows_merged() {
            self.leaves.iter().zip(&mut starts).for_each(|(leaf, start)| *start = tile.source::<f32>(leaf).row_ptr(0));
            self.loops(tile.simd, tile.rows, out.row_ptr(0), &starts, &mut temporary);
            return;
        }
        for row in 0..tile.rows {
            self.leaves.iter().zip(&mut starts).for_each(|(leaf, start)| *start = tile.source::<f32>(leaf).row_ptr(row));
            self.loops(tile.simd, 1, out.row_ptr(row), &starts, &mut temporary);
        }
    }

    fn loops(&self, simd: Simd, rows: usize, out: *mut f32, starts: &[*const f32; LEAVES_MAX], temporary: &mut [[f32; STRIP]]) {
        let steps = self.walk.inner();
        self.walk.run(rows, |offsets, count| {
            for first in (0..count).step_by(STRIP) {
                let count = STRIP.min(count - first);
                let mut leaves = [Operand::One(0.0); LEAVES_MAX];
                // SAFETY: the walk was made for these places' shapes, so it stays within their rows; innermost steps are 0 or 1, so that
                // `count` elements lie one behind the other, or are one; the plan keeps the output apart from what the task reads.
                let out = unsafe {
                    for at in 0..self.leaves.len() {
                        let start = starts[at].add(offsets[at + 1]);
                        leaves[at] = match steps[at + 1] {
                            0 => Operand::One(*start),
                            _ => Operand::Many(std::slice::from_raw_parts(start.add(first), count)),
                        };
                    }
                    std::slice::from_raw_parts_mut(out.add(offsets[0] + first), count)
                };
                self.strip(simd, &leaves, temporary, out);
            }
        });
    }

    /// All steps on one strip.
    fn strip(&self, simd: Simd, leaves: &[Operand; LEAVES_MAX], temporary: &mut [[f32; STRIP]], out: &mut [f32]) {
        let count = out.len();
        for (at, step) in self.steps.iter().enumerate() {
            let (done, rest) = temporary.split_at_mut(at.min(STEPS_MAX - 1));
            let to = if at + 1 == self.steps.len() { &mut *out } else { &mut rest[0][..count] };
            let operand = |arg: Arg| match arg.as_step() {
                Some(step) => Operand::Many(&done[step][..count]),
                None => leaves[(-1 - arg.0) as usize],
            };
            let [a, b, c] = step.args;
            match step.op {
                ChainOp::Unary(function) => match operand(a) {
                    Operand::Many(x) => unary_f32(simd, function, x, to),
                    Operand::One(x) => {
                        let mut one = [0.0];
                        unary_f32(simd, function, &[x], &mut one);
                        to.fill(one[0]);
                    }
                },
                ChainOp::Binary(op) => match (operand(a), operand(b)) {
                    (Operand::Many(a), Operand::Many(b)) => f32::both(simd, op, a, b, to),
                    (Operand::One(a), Operand::Many(b)) => f32::left(simd, op, a, b, to),
                    (Operand::Many(a), Operand::One(b)) => f32::right(simd, op, a, b, to),
                    (Operand::One(a), Operand::One(b)) => to.fill(f32::one(op, a, b)),
                },
                ChainOp::MulAdd => match (operand(a), operand(b), operand(c)) {
                    (Operand::Many(a), Operand::Many(b), Operand::Many(c)) => mul_add(simd, a, b, c, to),
                    (Operand::Many(a), Operand::One(b), Operand::Many(c)) | (Operand::One(b), Operand::Many(a), Operand::Many(c)) => {
                        scale_add(simd, a, b, c, to);
                    }
                    (Operand::Many(a), Operand::Many(b), Operand::One(c)) => mul_shift(simd, a, b, c, to),
                    (Operand::Many(a), Operand::One(b), Operand::One(c)) | (Operand::One(b), Operand::Many(a), Operand::One(c)) => {
                        scale_shift(simd, a, b, c, to);
                    }
                    (Operand::One(a), Operand::One(b), Operand::Many(c)) => f32::left(simd, BinaryOp::Add, a * b, c, to),
                    (Operand::One(a), Operand::One(b), Operand::One(c)) => to.fill(a * b + c),
                },
            }
        }
    }
}

multiversion! {
    fn mul_add(a: &[f32], b: &[f32], c: &[f32], out: &mut [f32]) = mul_add_body;
    fn scale_add(a: &[f32], b: f32, c: &[f32], out: &mut [f32]) = scale_add_body;
    fn mul_shift(a: &[f32], b: &[f32], c: f32, out: &mut [f32]) = mul_shift_body;
    fn scale_shift(a: &[f32], b: f32, c: f32, out: &mut [f32]) = scale_shift_body;
}

#[inline(always)]
fn mul_add_body<M: MulAdd>(a: &[f32], b: &[f32], c: &[f32], out: &mut [f32]) {
    for (((out, &a), &b), &c) in out.iter_mut().zip(a).zip(b).zip(c) {
        *out = M::mul_add(a, b, c);
    }
}

#[inline(always)]
fn scale_add_body<M: MulAdd>(a: &[f32], b: f32, c: &[f32], out: &mut [f32]) {
    for ((out, &a), &c) in out.iter_mut().zip(a).zip(c) {
        *out = M::mul_add(a, b, c);
    }
}

#[inline(always)]
fn mul_shift_body<M: MulAdd>(a: &[f32], b: &[f32], c: f32, out: &mut [f32]) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = M::mul_add(a, b, c);
    }
}

#[inline(always)]
fn scale_shift_body<M: MulAdd>(a: &[f32], b: f32, c: f32, out: &mut [f32]) {
    for (out, &a) in out.iter_mut().zip(a) {
        *out = M::mul_add(a, b, c);
    }
}

/// Elements of a strip: results of all steps together stay below the first-level cache.
const STRIP: usize = 256;
