//! The generator of elementwise steps: one loop over the elements of a result, its operands at computed places. Chains of ops become one
//! expression; transposes, slices, joins and other moves are loops that only read elsewhere.

use std::fmt::Write;

use crate::engine::cpu::kernels::binary::BinaryOp;
use crate::engine::cpu::kernels::chain::{ChainOp, Instruction};
use crate::engine::cpu::kernels::unary::UnaryF32;
use crate::engine::cpu::plan::task::{ValueIndex, Work};
use crate::engine::cpu::walk::{broadcast, row_major};
use crate::model::{DType, UnaryFn};

use super::emitter::{Emitter, element, literal, literal_i64};

/// An operand of an elementwise step: a view, and its element as an expression of `e`, the element of the result.
pub struct Operand {
    /// Of the operand's rows.
    pub view: String,
    /// Of its elements.
    pub dtype: DType,
    /// In C++.
    pub index: String,
}

/// What an elementwise op computes of each element: `x0`, `x1`.. are its operands, `lines` come before the expression.
pub struct Formula {
    pub operands: Vec<Source>,
    pub lines: Vec<String>,
    pub expression: String,
}

/// Where an operand's elements come from.
pub enum Source {
    /// A value that broadcasts to the result.
    Value(ValueIndex),
    /// Numbers in the weights: their offset in bytes, and which one belongs to element `e`.
    Numbers { offset: usize, index: String },
}

/// The element at which strides (of each axis of `shape`) lie, as an expression of `e`, which counts the elements of `shape` in row-major order.
pub fn index_expression(shape: &[usize], strides: &[usize], first: usize) -> String {
    // Axes that go on where the next one ends are one.
    let mut axes: Vec<(usize, usize)> = Vec::new();
    for (&size, &stride) in shape.iter().zip(strides).filter(|(size, _)| **size != 1) {
        match axes.last_mut() {
            Some((last_size, last_stride)) if *last_stride == stride * size => (*last_size, *last_stride) = (*last_size * size, stride),
            _ => axes.push((size, stride)),
        }
    }
    let total: usize = axes.iter().map(|(size, _)| size).product();
    if total == 0 {
        return "0".to_owned();
    }
    let mut behind = total;
    let mut terms: Vec<String> = Vec::new();
    for (at, &(size, stride)) in axes.iter().enumerate() {
        behind /= size;
        if stride == 0 {
            continue;
        }
        let mut term = "e".to_owned();
        if behind > 1 {
            term = format!("{term} / {behind}");
        }
        if at > 0 {
            term = format!("{term} % {size}");
        }
        if stride > 1 {
            term = format!("{term} * {stride}");
        }
        terms.push(term);
    }
    if first > 0 || terms.is_empty() {
        terms.push(first.to_string());
    }
    terms.join(" + ")
}

impl Emitter<'_, '_> {
    /// A loop over the task's elements: `x0`, `x1`.. are the operands, `expression` the result.
    pub(super) fn map(&mut self, operands: &[Operand], expression: &str) {
        let (len, out) = (self.out().len(), self.out_view());
        self.map_onto(&out, len, "e", operands, &[], expression);
    }

    /// The same, onto element `at` (an expression of `e`) of `out`, for `len` values of `e`; `lines` come before the expression.
    pub(super) fn map_onto(&mut self, out: &str, len: usize, at: &str, operands: &[Operand], lines: &[String], expression: &str) {
        if len == 0 {
            return;
        }
        let mut text = format!("for (int i = (int)thread_x(); i < b.rows * {len}; i += THREADS) {{\n");
        let _ = writeln!(text, "            const int r = i / {len}, e = i % {len};");
        for (number, operand) in operands.iter().enumerate() {
            let Operand { view, dtype, index } = operand;
            let _ = writeln!(text, "            const {} x{number} = {view}::row(b, r)[{index}];", element(*dtype));
        }
        lines.iter().for_each(|line| {
            let _ = writeln!(text, "            {line}");
        });
        // An element may be unused where one has a single value.
        let _ = writeln!(text, "            (void)e;\n            {out}::row(b, r)[{at}] = {expression};\n        }}");
        self.step(text);
    }

    /// An operand that broadcasts to the result.
    pub(super) fn spread(&mut self, value: ValueIndex) -> Operand {
        let shape = self.out().shape.clone();
        let strides = broadcast(&self.value(value).shape, &shape);
        self.strided(value, &strides, 0)
    }

    /// An operand whose elements lie at these strides.
    pub(super) fn strided(&mut self, value: ValueIndex, strides: &[usize], first: usize) -> Operand {
        let index = index_expression(&self.out().shape, strides, first);
        Operand { view: self.view(value), dtype: self.value(value).dtype, index }
    }

    /// The operand of a formula.
    fn source(&mut self, source: &Source) -> Operand {
        match source {
            Source::Value(value) => self.spread(*value),
            Source::Numbers { offset, index } => {
                Operand { view: format!("Constant<float, {offset}>"), dtype: DType::F32, index: index.clone() }
            }
        }
    }

    /// A task that computes each element of its own, as a loop.
    pub(super) fn formula_step(&mut self) {
        let Formula { operands, lines, expression } = self.formula().expect("the caller knows the op");
        let operands: Vec<Operand> = operands.iter().map(|source| self.source(source)).collect();
        let (len, out) = (self.out().len(), self.out_view());
        self.map_onto(&out, len, "e", &operands, &lines, &expression);
    }

    /// What the task computes of each element; `None` where elements move or meet each other.
    pub(super) fn formula(&mut self) -> Option<Formula> {
        let values = |values: &[ValueIndex]| values.iter().map(|&value| Source::Value(value)).collect();
        let simple = |operands, expression| Some(Formula { operands, lines: vec![], expression });
        match &self.task.work {
            Work::Binary { op, a, b } => {
                let expression = match self.out().dtype {
                    DType::F32 => binary_f32(*op, "x0", "x1"),
                    DType::I64 => format!("{}_i64(x0, x1)", op.name()),
                };
                simple(values(&[*a, *b]), expression)
            }
            Work::Unary { function, x } => simple(values(&[*x]), unary_f32(*function, "x0")),
            Work::Broadcast { x } => simple(values(&[*x]), "x0".to_owned()),
            Work::Chain { leaves, steps } => {
                let lines = steps.iter().enumerate().map(|(at, step)| format!("const float t{at} = {};", instruction(step))).collect();
                Some(Formula { operands: values(leaves), lines, expression: format!("t{}", steps.len() - 1) })
            }
            Work::BatchNorm { x, axis, mean, scale, bias } => {
                let mut strides = vec![0; self.out().shape.len()];
                strides[*axis] = 1;
                let index = index_expression(&self.out().shape, &strides, 0);
                let mut operands = vec![Source::Value(*x)];
                for numbers in [mean, scale, bias] {
                    operands.push(Source::Numbers { offset: self.blob.add(numbers), index: index.clone() });
                }
                simple(operands, "fma_(x0 - x1, x2, x3)".to_owned())
            }
            _ => None,
        }
    }

    pub(super) fn clamp_i64(&mut self, x: ValueIndex, min: i64, max: i64) {
        let operands = [self.spread(x)];
        self.map(&operands, &format!("min_i64(max_i64(x0, {}), {})", literal_i64(min), literal_i64(max)));
    }

    pub(super) fn cast(&mut self, x: ValueIndex) {
        let operands = [self.spread(x)];
        let expression = match (self.value(x).dtype, self.out().dtype) {
            (DType::F32, DType::I64) => "f32_to_i64(x0)",
            (DType::I64, DType::F32) => "(float)x0",
            _ => "x0",
        };
        self.map(&operands, expression);
    }

    /// Elements of `x` from `first` on: nothing to do where they are in place.
    pub(super) fn same_elements(&mut self, x: ValueIndex, first: usize) {
        let (from, to) = (self.view_from(x, first), self.out_view());
        if from != to {
            let strides = row_major(&self.out().shape);
            let operand = self.strided(x, &strides, first);
            self.map(&[operand], "x0");
        }
    }

    pub(super) fn slice(&mut self, x: ValueIndex, axis: usize, start: usize, step: usize) {
        let mut strides = row_major(&self.value(x).shape);
        let first = start * strides[axis];
        strides[axis] *= step;
        let operand = self.strided(x, &strides, first);
        self.map(&[operand], "x0");
    }

    pub(super) fn transpose(&mut self, x: ValueIndex, perm: &[usize]) {
        let strides = row_major(&self.value(x).shape);
        let strides: Vec<usize> = perm.iter().map(|&axis| strides[axis]).collect();
        let operand = self.strided(x, &strides, 0);
        self.map(&[operand], "x0");
    }

    pub(super) fn gather(&mut self, x: ValueIndex, axis: usize, indices: &[usize]) {
        let shape = self.value(x).shape.clone();
        let (size, inner): (usize, usize) = (shape[axis], shape[axis + 1..].iter().product());
        let list: Vec<u32> = indices.iter().map(|&index| index as u32).collect();
        let list = self.blob.add(&list);
        let picked = format!("(int)Constant<uint32_t, {list}>::row(b, r)[e / {inner} % {}]", indices.len());
        let index = format!("(e / {} * {size} + {picked}) * {inner} + e % {inner}", inner * indices.len());
        let operand = Operand { view: self.view(x), dtype: self.value(x).dtype, index };
        self.map(&[operand], "x0");
    }

    /// Joins values; what already lies in its place is not copied.
    pub(super) fn concat(&mut self, xs: &[ValueIndex], axis: usize) {
        let shape = self.out().shape.clone();
        let behind: usize = shape[axis + 1..].iter().product();
        let mut at = 0;
        for &x in xs {
            let size = self.value(x).shape[axis] * behind;
            let len = self.value(x).len();
            let (from, to) = (self.view(x), self.view_from(self.task.out, at));
            if len > 0 && from != to {
                let operand = Operand { view: from, dtype: self.value(x).dtype, index: "e".to_owned() };
                let index = if size == len { "e".to_owned() } else { format!("e / {size} * {} + e % {size}", shape[axis] * behind) };
                self.map_onto(&to, len, &index, &[operand], &[], "x0");
            }
            at += size;
        }
    }
}

/// A step of a chain, of its leaves `x0`.. and the results `t0`.. of earlier steps.
fn instruction(Instruction { op, args }: &Instruction) -> String {
    let name = |at: usize| match args[at].as_step() {
        Some(step) => format!("t{step}"),
        None => format!("x{}", args[at].as_leaf().expect("an argument that the op takes")),
    };
    match op {
        ChainOp::Binary(op) => binary_f32(*op, &name(0), &name(1)),
        ChainOp::Unary(function) => unary_f32(*function, &name(0)),
        ChainOp::MulAdd => format!("fma_({}, {}, {})", name(0), name(1), name(2)),
    }
}

/// A function of two floats (`kernels/elementwise.cuh`).
fn binary_f32(op: BinaryOp, a: &str, b: &str) -> String {
    match op {
        BinaryOp::Add => format!("({a} + {b})"),
        BinaryOp::Sub => format!("({a} - {b})"),
        BinaryOp::Mul => format!("({a} * {b})"),
        BinaryOp::Div => format!("({a} / {b})"),
        _ => format!("{}_f32({a}, {b})", op.name()),
    }
}

/// A function of one float.
fn unary_f32(function: UnaryF32, x: &str) -> String {
    match function {
        UnaryF32::Clamp { min, max } => format!("clamp_f32({x}, {}, {})", literal(min), literal(max)),
        UnaryF32::Function(UnaryFn::Abs) => format!("abs_({x})"),
        _ => format!("{}_f32({x})", function.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_become_short_expressions() {
        for (shape, strides, first, expected) in [
            (vec![4], vec![1], 0, "e"),
            (vec![4], vec![0], 0, "0"),
            (vec![2, 3], vec![3, 1], 5, "e + 5"),
            (vec![2, 3], vec![1, 2], 0, "e / 3 + e % 3 * 2"),
            (vec![2, 1, 3], vec![0, 7, 1], 0, "e % 3"),
            (vec![2, 3, 4], vec![12, 0, 1], 0, "e / 12 * 12 + e % 4"),
            (vec![], vec![], 2, "2"),
            (vec![3, 0], vec![0, 1], 0, "0"),
        ] {
            assert_eq!(index_expression(&shape, &strides, first), expected, "{shape:?} {strides:?}");
        }
    }
}
