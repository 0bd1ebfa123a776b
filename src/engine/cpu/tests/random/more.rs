//! Comparisons, choices, reductions, windows, sequences, trees.

use crate::model::*;

use super::{Generator, Known, SIZE_MAX};

/// Elements of a value at most, and of what a sequence or window op may compute.
const LEN_MAX: usize = 400;

impl Generator {
    /// Adds one op of these, or none where the choice does not fit.
    pub(super) fn grow_more(&mut self) {
        match self.random().below(20) {
            0..=2 => self.function(),
            3 => self.extreme(),
            4 => self.remainder(),
            5 | 6 => self.compare(),
            7 => self.logic(),
            8 => self.choose(),
            9 => self.reduce_otherwise(),
            10 => self.cumsum(),
            11 => self.pad(),
            12 => self.pick(),
            13 => self.take_along(),
            14 => self.by_rank(),
            15 => self.layer_norm(),
            16 => self.window(),
            17 => self.attention(),
            18 => self.recurrent(),
            _ => self.trees(),
        }
    }

    fn len(&self, x: Known) -> usize {
        self.model.graph.value(x.id).len()
    }

    fn exact_float(&mut self) -> Option<Known> {
        self.any_of(|model, known| known.exact && model.graph.value(known.id).dtype == DType::F32)
    }

    fn integers(&mut self) -> Known {
        self.any_of(|model, known| model.graph.value(known.id).dtype == DType::I64).expect("lengths are integers")
    }

    fn scalar(&mut self, op: fn(Operand, Operand) -> Op, x: ValueId, number: f64) -> ValueId {
        self.model.op(op(Operand::Value(x), Operand::Scalar(number)))
    }

    fn function(&mut self) {
        let function = self.random().pick(&UnaryFn::ALL);
        let x = match function {
            UnaryFn::Floor | UnaryFn::Sign => match self.exact_float() {
                Some(x) => x,
                None => return,
            },
            _ => self.float(),
        };
        let unary = |function| move |x| Op::Unary { function, x };
        let (argument, size, exact) = match function {
            UnaryFn::Exp if x.size > 4.0 => return,
            UnaryFn::Sin | UnaryFn::Cos if x.size > 8.0 => return,
            UnaryFn::Exp => (x.id, x.size.exp(), false),
            UnaryFn::Log | UnaryFn::Sqrt => {
                let positive = self.model.op(unary(UnaryFn::Abs)(x.id));
                (self.scalar(|a, b| Op::Add { a, b }, positive, 0.5), x.size + 1.0, false)
            }
            UnaryFn::Abs => (x.id, x.size, x.exact),
            UnaryFn::Floor => (x.id, x.size + 1.0, true),
            UnaryFn::Sign => (x.id, 1.0, true),
            UnaryFn::Softplus => (x.id, x.size + 1.0, false),
            UnaryFn::Tanh | UnaryFn::Erf | UnaryFn::Sin | UnaryFn::Cos => (x.id, 1.0, false),
        };
        if size < SIZE_MAX {
            let id = self.model.op(unary(function)(argument));
            self.keep(id, size, exact);
        }
    }

    fn extreme(&mut self) {
        let Some((a, b, left, right)) = self.pair() else { return };
        let op = if self.random().chance(2) { Op::Min { a: left, b: right } } else { Op::Max { a: left, b: right } };
        let id = self.model.op(op);
        self.keep(id, a.size.max(b.size), a.exact && b.exact);
    }

    fn remainder(&mut self) {
        let Some(a) = self.any_of(|_, known| known.exact) else { return };
        // Also of integers by integers, some of them zero.
        if self.dtype(a) == DType::I64
            && let Some(b) = self.partner(a, DType::I64)
        {
            let id = self.model.op(Op::Mod { a: Operand::Value(a.id), b: Operand::Value(b.id) });
            self.keep(id, b.size, true);
            return;
        }
        let by = self.random().pick(&[2.0, -3.0, 1.0]);
        let id = self.scalar(|a, b| Op::Mod { a, b }, a.id, by);
        self.keep(id, by.abs(), true);
    }

    fn compare(&mut self) {
        let cmp = self.random().pick(&Comparison::NAMES).1;
        let Some((a, b, left, right)) = self.pair() else { return };
        if a.exact && b.exact {
            let id = self.model.op(Op::Compare { cmp, a: left, b: right });
            self.keep(id, 1.0, true);
        }
    }

    fn logic(&mut self) {
        let a = self.integers();
        let id = match self.partner(a, DType::I64) {
            Some(b) if self.random().chance(2) => {
                let function = self.random().pick(&[LogicFn::And, LogicFn::Or, LogicFn::Xor]);
                self.model.op(Op::Logic { function, a: a.id, b: b.id })
            }
            _ => self.model.op(Op::Not { x: a.id }),
        };
        self.keep(id, 1.0, true);
    }

    fn choose(&mut self) {
        let Some((a, b, left, right)) = self.pair() else { return };
        let shape = self.partner(a, DType::I64);
        let Some(cond) = shape else { return };
        // The three must broadcast together: try, and see whether the third fits the first two.
        let both = self.model.op(Op::Min { a: left, b: right });
        let both = Known { id: both, size: 0.0, exact: false };
        let shapes = [self.shape(both), self.shape(cond)];
        let fits = shapes[0].iter().rev().zip(shapes[1].iter().rev()).all(|(a, b)| a == b || *a == 1 || *b == 1);
        if fits {
            let id = self.model.op(Op::Where { cond: cond.id, a: left, b: right });
            if self.model.graph.value(id).len() <= LEN_MAX {
                self.keep(id, a.size.max(b.size), a.exact && b.exact);
            }
        }
    }

    fn reduce_otherwise(&mut self) {
        let function = self.random().pick(&[Reduction::Mean, Reduction::Max, Reduction::Min, Reduction::Prod]);
        let x = if matches!(function, Reduction::Max | Reduction::Min) { self.any() } else { self.float() };
        let shape = self.shape(x);
        let axes: Vec<usize> = (0..shape.len()).filter(|_| self.model.random.chance(2)).collect();
        let count: usize = axes.iter().map(|&axis| shape[axis]).product();
        let size = if function == Reduction::Prod { x.size.max(1.0).powi(count as i32) } else { x.size };
        if axes.is_empty() || count == 0 || size >= SIZE_MAX {
            return;
        }
        let keep = self.random().chance(2);
        let id = self.model.op(Op::Reduce { function, x: x.id, axes, keep });
        self.keep(id, size, x.exact && matches!(function, Reduction::Max | Reduction::Min));
    }

    /// A value with axes, and one of them.
    fn axis(&mut self, x: Known) -> Option<usize> {
        let rank = self.shape(x).len();
        if rank == 0 { None } else { Some(self.random().below(rank)) }
    }

    fn cumsum(&mut self) {
        let x = self.any();
        let Some(axis) = self.axis(x) else { return };
        let size = x.size * self.shape(x)[axis] as f64;
        if size < SIZE_MAX {
            let (exclusive, reverse) = (self.random().chance(2), self.random().chance(2));
            let id = self.model.op(Op::CumSum { x: x.id, axis, exclusive, reverse });
            self.keep(id, size, false);
        }
    }

    fn pad(&mut self) {
        let x = self.any();
        let pads = (0..self.shape(x).len()).map(|_| (self.model.random.below(3), self.model.random.below(2))).collect();
        let value = self.random().pick(&[0.0, 2.0, -1.0]);
        let id = self.model.op(Op::Pad { x: x.id, pads, value });
        if self.model.graph.value(id).len() <= LEN_MAX {
            self.keep(id, x.size.max(2.0), x.exact);
        }
    }

    /// Integers as indices of `size` elements.
    fn indices(&mut self, x: ValueId, size: usize) -> ValueId {
        self.scalar(|a, b| Op::Mod { a, b }, x, size as f64)
    }

    fn pick(&mut self) {
        let index = self.integers();
        if !index.exact {
            return;
        }
        match self.random().below(3) {
            0 => {
                let (rows, dim) = (self.random().pick(&[1, 7]), self.random().pick(&[1, 3, 16]));
                if self.len(index) * dim as usize <= LEN_MAX {
                    let table = self.model.table(rows, dim);
                    let index = self.indices(index.id, rows as usize);
                    let id = self.model.op(Op::Embedding { index, table });
                    self.keep(id, 1.0, true);
                }
            }
            1 => {
                let depth = self.random().pick(&[1usize, 4, 9]);
                let shape = [self.shape(index), vec![depth]].concat();
                if shape.iter().product::<usize>() <= LEN_MAX && shape.len() <= 5 {
                    let id = self.model.op_as(Op::OneHot { x: index.id, on: 1.5, off: -0.5 }, shape, DType::F32);
                    self.keep(id, 1.5, true);
                }
            }
            _ => {
                let x = self.any();
                let Some(axis) = self.axis(x) else { return };
                let size = self.shape(x)[axis];
                if self.len(x) / size * self.len(index) <= LEN_MAX && self.shape(x).len() + self.shape(index).len() <= 6 {
                    let index = self.indices(index.id, size);
                    let id = self.model.op(Op::Gather { x: x.id, index, axis });
                    self.keep(id, x.size, x.exact);
                }
            }
        }
    }

    fn take_along(&mut self) {
        let x = self.any();
        let Some(axis) = self.axis(x) else { return };
        let mut shape = self.shape(x);
        let size = std::mem::replace(&mut shape[axis], self.model.random.below(4) + 1);
        let data = (0..shape.iter().product()).map(|_| self.model.random.below(size) as i64).collect();
        let tensor = self.model.tensor_of(&shape, TensorData::I64(data));
        let mut index = self.model.op(Op::Const { tensor });
        // Of the row, where there is a scalar to shift them by.
        if let Some(shift) = self.any_of(|model, known| {
            let value = model.graph.value(known.id);
            value.dtype == DType::I64 && known.exact && value.shape.is_empty()
        }) {
            let shifted = self.model.op(Op::Add { a: Operand::Value(index), b: Operand::Value(shift.id) });
            index = self.indices(shifted, size);
        }
        let id = self.model.op(Op::TakeAlong { x: x.id, index, axis });
        self.keep(id, x.size, x.exact);
    }

    fn by_rank(&mut self) {
        let x = self.array();
        let Some(axis) = self.axis(x) else { return };
        let k = 1 + self.model.random.below(self.shape(x)[axis]);
        let largest = self.random().chance(2);
        let id = self.model.op(Op::TopK { x: x.id, axis, k, largest });
        self.keep(id, x.size, x.exact);
        if x.exact {
            let id = self.model.op(Op::ArgTopK { x: x.id, axis, k, largest });
            self.keep(id, SIZE_MAX.min(self.shape(x)[axis] as f64), true);
        }
    }

    fn layer_norm(&mut self) {
        let x = self.array();
        let shape = self.shape(x);
        let axes = 1 + self.random().below(shape.len());
        let own = shape[shape.len() - axes..].to_vec();
        let weight = if self.random().chance(2) { Some(self.model.tensor(&own, 1.0)) } else { None };
        let bias = if self.random().chance(2) { Some(self.model.tensor(&own, 1.0)) } else { None };
        let id = self.model.op(Op::LayerNorm { x: x.id, axes, weight, bias, eps: 0.5 });
        let size = (own.iter().product::<usize>() as f64).sqrt() + 1.0;
        if x.size < 16.0 && size < SIZE_MAX {
            self.keep(id, size, false);
        }
    }

    fn window(&mut self) {
        let x = self.array();
        let shape = self.shape(x);
        if shape.len() < 2 {
            return;
        }
        let axes = 1 + self.random().below(3.min(shape.len() - 1));
        let sizes = &shape[shape.len() - axes..];
        let random = &mut self.model.random;
        let mut kernel = vec![];
        let (mut strides, mut dilations, mut pads) = (vec![], vec![], vec![]);
        for &size in sizes {
            kernel.push(1 + random.below(size.min(3)));
            strides.push(1 + random.below(2));
            let reach = kernel[kernel.len() - 1].max(2) - 1;
            dilations.push(1 + if size > 2 * reach { random.below(2) } else { 0 });
            pads.push((random.below(reach + 1).min(kernel[kernel.len() - 1] - 1), random.below(2).min(kernel[kernel.len() - 1] - 1)));
        }
        let mut window = Window { kernel, strides, dilations, pads };
        let which = random.below(4);
        if which == 0 {
            let op = Op::MaxPool { x: x.id, window: Window { dilations: vec![1; axes], ..window } };
            let id = self.model.op(op);
            self.keep(id, x.size, x.exact);
            return;
        }
        if which == 1 {
            let count_include_pad = random.chance(2);
            let id = self.model.op(Op::AvgPool { x: x.id, window: Window { dilations: vec![1; axes], ..window }, count_include_pad });
            self.keep(id, x.size, false);
            return;
        }
        if which == 2 {
            window = Window { kernel: vec![1; axes], strides: vec![1; axes], dilations: vec![1; axes], pads: vec![(0, 0); axes] };
        }
        let channels = shape[shape.len() - axes - 1];
        let groups = if channels.is_multiple_of(2) { random.pick(&[1, 2, channels]) } else { random.pick(&[1, channels]) };
        let (outputs, inputs) = (groups * (1 + random.below(3)), channels / groups);
        let weight_shape = [&[outputs, inputs][..], &window.kernel].concat();
        let taps = weight_shape[1..].iter().product::<usize>();
        let weight = self.model.tensor(&weight_shape, 2.0 / taps as f64);
        let bias = if self.random().chance(2) { Some(self.model.tensor(&[outputs], 1.0)) } else { None };
        let id = self.model.op(Op::Conv { x: x.id, weight, bias, window, groups });
        let size = 2.0 * x.size + 1.0;
        if self.model.graph.value(id).len() <= LEN_MAX && size < SIZE_MAX {
            self.keep(id, size, false);
        }
    }

    fn attention(&mut self) {
        let x = self.array();
        let mut shape = self.shape(x);
        if x.size > 4.0 || self.len(x) > 200 {
            return;
        }
        let mut keys = x.id;
        if shape.len() == 1 {
            shape.insert(0, 1);
            keys = self.model.op_as(Op::Reshape { x: keys }, shape.clone(), DType::F32);
        }
        let width = shape[shape.len() - 1];
        let weight = self.model.tensor(&[width, width], 1.0 / width as f64);
        let queries = self.model.op(Op::Linear { x: keys, weight, bias: None });
        // All queries, or one; of all leading indices, or one for all.
        let axis = shape.len() - 1 - 1 - usize::from(shape.len() > 2 && self.random().chance(2));
        let queries =
            if self.random().chance(2) { queries } else { self.model.op(Op::Slice { x: queries, axis, start: 0, end: 1, step: 1 }) };
        let n = self.random().pick(&[1usize, 3, 17]);
        let weight = self.model.tensor(&[n, width], 1.0 / width as f64);
        let values = self.model.op(Op::Linear { x: keys, weight, bias: None });
        let count = shape[shape.len() - 2];
        let mask = match self.random().below(3) {
            0 => None,
            1 => {
                let data = (0..count).map(|_| i64::from(!self.model.random.chance(3))).collect();
                let tensor = self.model.tensor_of(&[count], TensorData::I64(data));
                Some(self.model.op(Op::Const { tensor }))
            }
            _ => {
                let data = (0..count).map(|_| if self.model.random.chance(4) { f32::NEG_INFINITY } else { 0.5 }).collect();
                let tensor = self.model.tensor_of(&[1, count], TensorData::F32(data));
                Some(self.model.op(Op::Const { tensor }))
            }
        };
        let (scale, causal) = (self.random().pick(&[1.0, 0.25]), self.random().chance(3));
        let id = self.model.op(Op::Sdpa { q: queries, k: keys, v: values, mask, scale, causal });
        self.keep(id, x.size, false);
    }

    fn recurrent(&mut self) {
        let Some(x) = self.any_of(|model, known| {
            let value = model.graph.value(known.id);
            value.dtype == DType::F32 && value.shape.len() == 2 && known.size <= 8.0
        }) else {
            return;
        };
        let shape = self.shape(x);
        let (steps, inputs) = (shape[0], shape[1]);
        let hidden = self.random().pick(&[1usize, 3, 8, 33]);
        if steps * hidden > LEN_MAX {
            return;
        }
        let w_ih = self.model.tensor(&[3 * hidden, inputs], 1.0 / inputs as f64);
        let w_hh = self.model.tensor(&[3 * hidden, hidden], 1.0 / hidden as f64);
        let b_ih = if self.random().chance(2) { Some(self.model.tensor(&[3 * hidden], 0.5)) } else { None };
        let b_hh = if self.random().chance(2) { Some(self.model.tensor(&[3 * hidden], 0.5)) } else { None };
        let h0 = if self.random().chance(2) {
            let tensor = self.model.tensor(&[hidden], 1.0);
            Some(self.model.op(Op::Const { tensor }))
        } else {
            None
        };
        let length = self.any_of(|model, known| {
            let value = model.graph.value(known.id);
            value.dtype == DType::I64 && known.exact && value.shape.is_empty()
        });
        let length = length.filter(|_| self.model.random.chance(2)).map(|length| length.id);
        let kind = self.random().pick(&GruKind::NAMES).1;
        let attention = if kind == GruKind::Gru {
            None
        } else {
            let of_steps = self.any_of(|model, known| {
                let value = model.graph.value(known.id);
                value.dtype == DType::F32 && value.shape == [steps] && known.size <= 4.0
            });
            Some(match of_steps {
                Some(known) => self.model.op(Op::Sigmoid { x: known.id }),
                None => self.model.op_as(Op::Fill { value: 0.5 }, vec![steps], DType::F32),
            })
        };
        let (reset_after, reverse, last) = (self.random().chance(2), self.random().chance(2), self.random().chance(2));
        let gru = Gru { x: x.id, w_ih, w_hh, b_ih, b_hh, h0, length, attention, kind, reset_after, reverse, last };
        let id = self.model.op(Op::Gru(gru));
        self.keep(id, 1.0, false);
    }

    fn trees(&mut self) {
        let Some(x) = self.any_of(|model, known| {
            let value = model.graph.value(known.id);
            value.dtype == DType::F32 && value.shape.len() == 1 && known.exact
        }) else {
            return;
        };
        let features = self.len(x);
        let trees = ensemble(&mut self.model, x.id, features);
        let id = self.model.op(Op::Trees(trees));
        self.keep(id, 8.0, false);
    }
}

/// A few random trees over `features` elements of `x`, which are multiples of 1/8.
pub fn ensemble(model: &mut super::ModelBuilder, x: ValueId, features: usize) -> Trees {
    let (count, targets) = (1 + model.random.below(8), model.random.pick(&[1usize, 1, 3]));
    let (mut feature, mut threshold, mut mode, mut yes, mut no, mut missing, mut roots) =
        (vec![], vec![], vec![], vec![], vec![], vec![], vec![]);
    let mut leaves = 0;
    for _ in 0..count {
        roots.push(mode.len() as i64);
        // A tree as a list of nodes still to be made: each inner node adds two behind itself.
        let first = mode.len();
        let mut planned = 1;
        let mut at = 0;
        while at < planned {
            let inner = planned < 31 && (at == 0 || model.random.chance(2));
            mode.push(if inner { 1 + model.random.below(6) as i64 } else { 0 });
            feature.push(if inner { model.random.below(features) as i64 } else { leaves });
            threshold.push(model.random.below(64) as f32 / 8.0 - 4.0);
            yes.push(if inner { (first + planned) as i64 } else { 0 });
            no.push(if inner { (first + planned + 1) as i64 } else { 0 });
            missing.push(model.random.below(2) as i64);
            if inner {
                planned += 2;
            } else {
                leaves += 1;
            }
            at += 1;
        }
    }
    let nodes = mode.len();
    let leaves_tensor = model.tensor(&[leaves as usize, targets], 1.0);
    let mut integers = |shape: &[usize], data: Vec<i64>| model.tensor_of(shape, TensorData::I64(data));
    let (feature, mode, yes) = (integers(&[nodes], feature), integers(&[nodes], mode), integers(&[nodes], yes));
    let (no, missing, roots) = (integers(&[nodes], no), integers(&[nodes], missing), integers(&[count], roots));
    let threshold = model.tensor_of(&[nodes], TensorData::F32(threshold));
    Trees { x, feature, threshold, mode, yes, no, missing_yes: Some(missing), roots, leaves: leaves_tensor }
}
