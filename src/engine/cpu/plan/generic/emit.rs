//! Generic tasks to kernels.

use std::marker::PhantomData;
use std::ops::Range;

use crate::engine::cpu::kernels::Kernel;
use crate::engine::cpu::kernels::attention::{Attention, Mask, MaskPlace};
use crate::engine::cpu::kernels::fold::{Fold, FoldFn};
use crate::engine::cpu::kernels::gru::{Gru, StatePart};
use crate::engine::cpu::kernels::layer_norm::LayerNorm;
use crate::engine::cpu::kernels::normalize::AxisView;
use crate::engine::cpu::kernels::pad::Pad;
use crate::engine::cpu::kernels::pick::{Embedding, OneHot, Pick, TakeAlong};
use crate::engine::cpu::kernels::running::CumSum;
use crate::engine::cpu::kernels::top::Top;
use crate::engine::cpu::kernels::trees::Trees;
use crate::engine::cpu::kernels::truth::{Compare, Logic, Where, choose_32, choose_64, compare_f32, compare_i64};
use crate::engine::cpu::kernels::unary::{Unary, UnaryI64};
use crate::engine::cpu::kernels::window::{Conv, Pool};
use crate::engine::cpu::memory::Place;
use crate::engine::cpu::plan::emit::{Emitter, NS_COPY, NS_ELEMENT, NS_EXP};
use crate::engine::cpu::plan::task::ValueIndex;
use crate::engine::cpu::walk::{Dim, Walk, broadcast, row_major};
use crate::model::DType;

use super::Generic;
use super::attention::Hiding;

impl<'p> Emitter<'_, 'p> {
    /// The kernel of a generic task whose result lies in `out`.
    pub(in crate::engine::cpu::plan) fn generic(&mut self, generic: &'p Generic, out: Place) {
        let len = out.len as f32;
        match generic {
            Generic::Compare { cmp, a, b } => {
                let (cmp, walk) = (*cmp, self.spread([*a, *b]));
                let dtype = self.values[*a].dtype;
                let (a, b) = (self.places.of(*a), self.places.of(*b));
                let ns = 4.0 + len * 2.0 * NS_ELEMENT;
                match dtype {
                    DType::F32 => self.put(Compare { cmp, a, b, out, walk, compare: compare_f32 }, ns),
                    DType::I64 => self.put(Compare { cmp, a, b, out, walk, compare: compare_i64 }, ns),
                }
            }
            Generic::Logic { function, a, b } => {
                let walk = self.spread([*a, *b]);
                let (a, b) = (self.places.of(*a), self.places.of(*b));
                self.put(Logic { function: *function, a, b, out, walk }, 4.0 + len * 2.0 * NS_ELEMENT);
            }
            Generic::Not { x } => {
                let kernel = Unary::new(UnaryI64::Not, self.places.of(*x), out);
                self.push(Kernel::UnaryI64(kernel), 2.0 + len * 2.0 * NS_ELEMENT);
            }
            Generic::Where { cond, a, b } => {
                let walk = self.spread([*cond, *a, *b]);
                let (cond, a, b) = (self.places.of(*cond), self.places.of(*a), self.places.of(*b));
                let ns = 4.0 + len * 2.0 * NS_ELEMENT;
                match self.values[self.task.out].dtype {
                    DType::F32 => self.put(Where { cond, a, b, out, walk, choose: choose_32 }, ns),
                    DType::I64 => self.put(Where { cond, a, b, out, walk, choose: choose_64 }, ns),
                }
            }
            Generic::Fold { function, x, axes } => self.fold(*function, *x, axes, out),
            Generic::CumSum { x, axis, exclusive, reverse } => {
                let view = AxisView::new(&self.values[*x].shape, *axis);
                let (x, exclusive, reverse) = (self.places.of(*x), *exclusive, *reverse);
                let ns = 4.0 + len * 4.0 * NS_ELEMENT;
                match self.values[self.task.out].dtype {
                    DType::F32 => self.put(CumSum { x, out, view, exclusive, reverse, element: PhantomData::<f32> }, ns),
                    DType::I64 => self.put(CumSum { x, out, view, exclusive, reverse, element: PhantomData::<i64> }, ns),
                }
            }
            Generic::Pad { x, pads, fill } => self.pad(*x, pads, *fill, out),
            Generic::Pick { x, index, axis } => {
                let view = AxisView::new(&self.values[*x].shape, *axis);
                let (x, index) = (self.places.of(*x), self.places.of(*index));
                let ns = 4.0 + len * 2.0 * NS_COPY;
                match self.values[self.task.out].dtype {
                    DType::F32 => self.put(Pick { x, index, out, view, lost: f32::NAN }, ns),
                    DType::I64 => self.put(Pick { x, index, out, view, lost: i64::MIN }, ns),
                }
            }
            Generic::TakeAlong { x, index, axis } => {
                let (view, picked) = (AxisView::new(&self.values[*x].shape, *axis), self.values[*index].shape[*axis]);
                let (x, index) = (self.places.of(*x), self.places.of(*index));
                let ns = 4.0 + len * 4.0 * NS_COPY;
                match self.values[self.task.out].dtype {
                    DType::F32 => self.put(TakeAlong { x, index, out, view, picked, lost: f32::NAN }, ns),
                    DType::I64 => self.put(TakeAlong { x, index, out, view, picked, lost: i64::MIN }, ns),
                }
            }
            Generic::Embedding { index, table } => {
                let index = self.places.of(*index);
                self.put(Embedding { index, table: *table, out }, 4.0 + index.len as f32 * 10.0 + len * NS_COPY);
            }
            Generic::OneHot { x, on, off } => {
                let x = self.places.of(*x);
                let depth = out.len / x.len;
                self.put(OneHot { x, out, depth, on: *on, off: *off }, 4.0 + len * NS_COPY);
            }
            Generic::Top { x, axis, largest, indices } => {
                let (view, k) = (AxisView::new(&self.values[*x].shape, *axis), self.values[self.task.out].shape[*axis]);
                let x = self.places.of(*x);
                let ns = 4.0 + (x.len * k.min(16)) as f32 * NS_ELEMENT;
                self.put(Top { x, out, view, k, largest: *largest, indices: *indices }, ns);
            }
            Generic::LayerNorm { x, size, weight, bias, eps } => {
                let x = self.places.of(*x);
                let kernel = LayerNorm { x, out, size: *size, weight: weight.clone(), bias: bias.clone(), eps: *eps };
                self.put(kernel, 10.0 + len * 3.0 * NS_ELEMENT);
            }
            Generic::Conv { x, shape, groups, inputs, outputs, weight, bias } => {
                let x = self.places.of(*x);
                let ns = 10.0 + len * (weight.len() / outputs) as f32 * NS_ELEMENT;
                let (weight, bias) = (weight.clone(), bias.clone());
                self.put(Conv { x, out, shape: *shape, groups: *groups, inputs: *inputs, outputs: *outputs, weight, bias }, ns);
            }
            Generic::Pool { function, x, shape } => {
                let x = self.places.of(*x);
                let kernel = Pool::new(*function, x, out, *shape);
                let ns = 10.0 + len * kernel.taps() as f32 * NS_ELEMENT;
                self.put(kernel, ns);
            }
            Generic::Attention(attention) => self.attention(attention, out),
            Generic::Gru { gates, first, length, attention, weights, bias, layer } => {
                let mut place = |value: &Option<ValueIndex>| value.map(|value| self.places.of(value));
                let (first, length, attention) = (place(first), place(length), place(attention));
                let (gates, hidden) = (self.places.of(*gates), layer.hidden);
                let mut part = |columns: Range<usize>, bias: &[f32]| {
                    let start = columns.start;
                    let weights = self.packer.add(hidden, columns.len(), move |k, n| weights[(start + n) * hidden + k]);
                    let mut bias = bias.to_vec();
                    bias.resize(weights.padded, 0.0);
                    StatePart { weights, bias }
                };
                let (of_rz, of_n) = (part(0..2 * hidden, &[]), part(2 * hidden..3 * hidden, bias));
                let per_step = (3 * hidden * hidden) as f32 * NS_PRODUCT + hidden as f32 * 4.0 * NS_EXP;
                let ns = 10.0 + layer.steps as f32 * per_step;
                self.put(Gru { gates, first, length, attention, out, of_rz, of_n, layer: *layer }, ns);
            }
            Generic::Trees { x, room, nodes, roots, leaves } => {
                let (x, sums) = (self.places.of(*x), self.places.of(*room));
                let depth = (nodes.len() as f32 / roots.len() as f32).log2().max(1.0);
                let ns = 10.0 + roots.len() as f32 * (depth * NS_BRANCH + len);
                self.put(Trees { x, out, sums, nodes: nodes.clone(), roots: roots.clone(), leaves: leaves.clone() }, ns);
            }
        }
    }

    fn put(&mut self, kernel: impl crate::engine::cpu::kernels::Generic + 'static, ns_per_row: f32) {
        self.push(Kernel::Generic(Box::new(kernel)), ns_per_row);
    }

    /// Loops over the result and operands that broadcast to it, row by row.
    fn spread<const I: usize, const N: usize>(&self, operands: [ValueIndex; I]) -> Walk<N> {
        assert_eq!(N, I + 1, "the result and its operands");
        let shape = &self.values[self.task.out].shape;
        let strides: Vec<Vec<usize>> = std::iter::once(row_major(shape))
            .chain(operands.iter().map(|&operand| broadcast(&self.values[operand].shape, shape)))
            .collect();
        let dim = |axis: usize| Dim { size: shape[axis], strides: std::array::from_fn(|operand| strides[operand][axis]) };
        Walk::new(None, &(0..shape.len()).map(dim).collect::<Vec<_>>())
    }

    fn fold(&mut self, function: FoldFn, x: ValueIndex, axes: &[usize], out: Place) {
        let shape = &self.values[x].shape;
        let kept: Vec<usize> = (0..shape.len()).map(|axis| if axes.contains(&axis) { 1 } else { shape[axis] }).collect();
        let (out_strides, x_strides) = (broadcast(&kept, shape), row_major(shape));
        let dim = |axis: usize| Dim { size: shape[axis], strides: [out_strides[axis], x_strides[axis]] };
        let walk = Walk::new(None, &(0..shape.len()).map(dim).collect::<Vec<_>>());
        let ns = 4.0 + self.values[x].len() as f32 * NS_ELEMENT;
        let x = self.places.of(x);
        match self.values[self.task.out].dtype {
            DType::F32 => self.put(Fold { function, x, out, walk, element: PhantomData::<f32> }, ns),
            DType::I64 => self.put(Fold { function, x, out, walk, element: PhantomData::<i64> }, ns),
        }
    }

    fn pad(&mut self, x: ValueIndex, pads: &[(usize, usize)], fill: f64, out: Place) {
        let shape = &self.values[x].shape;
        let (out_strides, x_strides) = (row_major(&self.values[self.task.out].shape), row_major(shape));
        let first = out_strides.iter().zip(pads).map(|(stride, (begin, _))| stride * begin).sum();
        let dim = |axis: usize| Dim { size: shape[axis], strides: [out_strides[axis], x_strides[axis]] };
        let walk = Walk::new(None, &(0..shape.len()).map(dim).collect::<Vec<_>>());
        let x = self.places.of(x);
        let ns = 4.0 + out.len as f32 * 2.0 * NS_COPY;
        match self.values[self.task.out].dtype {
            DType::F32 => self.put(Pad { x, out, first, walk, fill: fill as f32 }, ns),
            DType::I64 => self.put(Pad { x, out, first, walk, fill: fill as i64 }, ns),
        }
    }

    fn attention(&mut self, attention: &super::attention::Attention, out: Place) {
        let mut from = |value: ValueIndex, first: usize| {
            let place = self.places.of(value);
            place.part(first, place.len - first, self.values[value].element_bytes())
        };
        let [q, k, v] = [attention.q, attention.k, attention.v].map(|(value, first)| from(value, first));
        let room = from(attention.room, 0);
        let mask = attention.mask.as_ref().map_or(Mask::None, |mask| {
            let place = MaskPlace { place: from(mask.value, mask.first), row_step: mask.row_step, key_step: mask.key_step };
            match mask.hiding {
                Hiding::Added => Mask::Added(place),
                Hiding::Truth { hides_zero, score } => Mask::Truth { place, hides_zero, score },
            }
        });
        let shape = attention.shape;
        let heads: usize = attention.lead.iter().map(|dim| dim.size).product();
        let scores = (heads * shape.rows * shape.keys) as f32;
        let ns = 10.0 + scores * ((shape.width + shape.values) as f32 * NS_MAC + NS_EXP);
        self.put(Attention { q, k, v, out, mask, room, walk: Walk::new(None, &attention.lead), shape }, ns);
    }
}

/// Rough costs in nanoseconds, as in [`crate::engine::cpu::plan::emit`]: a multiply-add of a short vector product or of all rows'
/// product with packed weights, a step down a tree.
const NS_MAC: f32 = 0.1;
const NS_PRODUCT: f32 = 0.03;
const NS_BRANCH: f32 = 4.0;
