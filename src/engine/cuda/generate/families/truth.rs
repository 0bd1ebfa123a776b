//! Comparisons, logic and choice, padding, one-hot vectors: all elementwise.

use crate::engine::cpu::plan::task::ValueIndex;
use crate::engine::cpu::walk::row_major;
use crate::model::{Comparison, DType, LogicFn};

use crate::engine::cuda::generate::elementwise::Operand;
use crate::engine::cuda::generate::emitter::{Emitter, literal, literal_i64};

impl Emitter<'_, '_> {
    pub(super) fn compare(&mut self, cmp: Comparison, a: ValueIndex, b: ValueIndex) {
        let operands = [self.spread(a), self.spread(b)];
        let operator = match cmp {
            Comparison::Lt => "<",
            Comparison::Le => "<=",
            Comparison::Gt => ">",
            Comparison::Ge => ">=",
            Comparison::Eq => "==",
            Comparison::Ne => "!=",
        };
        self.map(&operands, &format!("(int64_t)(x0 {operator} x1)"));
    }

    pub(super) fn logic(&mut self, function: LogicFn, a: ValueIndex, b: ValueIndex) {
        let operands = [self.spread(a), self.spread(b)];
        let truth = match function {
            LogicFn::And => "x0 != 0 && x1 != 0",
            LogicFn::Or => "(x0 | x1) != 0",
            LogicFn::Xor => "(x0 != 0) != (x1 != 0)",
        };
        self.map(&operands, &format!("(int64_t)({truth})"));
    }

    pub(super) fn not(&mut self, x: ValueIndex) {
        let operands = [self.spread(x)];
        self.map(&operands, "(int64_t)(x0 == 0)");
    }

    pub(super) fn choose(&mut self, cond: ValueIndex, a: ValueIndex, b: ValueIndex) {
        let operands = [self.spread(cond), self.spread(a), self.spread(b)];
        self.map(&operands, "x0 != 0 ? x1 : x2");
    }

    /// Each element says whether the operand has it.
    pub(super) fn pad(&mut self, x: ValueIndex, pads: &[(usize, usize)], fill: f64) {
        let (shape, out_shape) = (self.value(x).shape.clone(), self.out().shape.clone());
        let (strides, out_strides) = (row_major(&shape), row_major(&out_shape));
        let mut lines = Vec::new();
        let mut index = Vec::new();
        for axis in (0..shape.len()).filter(|&axis| out_shape[axis] != 1 || shape[axis] != 1) {
            let (begin, size) = (pads[axis].0, shape[axis]);
            lines.push(format!("const int c{axis} = e / {} % {} - {begin};", out_strides[axis], out_shape[axis]));
            lines.push(format!("const bool in{axis} = c{axis} >= 0 && c{axis} < {size};"));
            index.push((axis, format!("c{axis} * {}", strides[axis])));
        }
        let inside: Vec<String> = index.iter().map(|(axis, _)| format!("in{axis}")).collect();
        let index: Vec<String> = index.into_iter().map(|(_, term)| term).collect();
        let inside = if inside.is_empty() { "true".to_owned() } else { inside.join(" && ") };
        let index = if index.is_empty() { "0".to_owned() } else { index.join(" + ") };
        let fill = match self.out().dtype {
            DType::F32 => literal(fill as f32),
            DType::I64 => literal_i64(fill as i64),
        };
        let (len, out, x) = (self.out().len(), self.out_view(), self.view(x));
        self.map_onto(&out, len, "e", &[], &lines, &format!("{inside} ? {x}::row(b, r)[{index}] : {fill}"));
    }

    pub(super) fn one_hot(&mut self, x: ValueIndex, on: f32, off: f32) {
        let depth = self.out().len() / self.value(x).len();
        let operand = Operand { view: self.view(x), dtype: DType::I64, index: format!("e / {depth}") };
        self.map(&[operand], &format!("x0 == e % {depth} ? {} : {}", literal(on), literal(off)));
    }
}
