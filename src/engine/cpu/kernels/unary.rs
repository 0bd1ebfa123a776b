//! Element by element, one operand: relu, sigmoid, clamp, powers with a fixed exponent, casts.

use std::marker::PhantomData;

use bytemuck::Pod;

use crate::engine::cpu::elementary;
use crate::engine::cpu::math;
use crate::engine::cpu::memory::Place;
use crate::engine::cpu::simd::{MulAdd, Simd, multiversion};
use crate::engine::cpu::tile::Tile;
use crate::engine::cpu::walk::{Dim, Walk};
use crate::model::{DType, UnaryFn};

/// An f32 function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UnaryF32 {
    /// x where x ≥ 0, else 0; NaN stays.
    Relu,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
    /// Into `min ..= max`; NaN stays.
    Clamp {
        /// −∞ where there is none.
        min: f32,
        /// ∞ where there is none.
        max: f32,
    },
    /// x².
    Square,
    /// √x.
    Sqrt,
    /// One of the graph's functions.
    Function(UnaryFn),
}

impl UnaryF32 {
    /// Its name, in the manifest or in words.
    pub fn name(self) -> &'static str {
        match self {
            UnaryF32::Relu => "relu",
            UnaryF32::Sigmoid => "sigmoid",
            UnaryF32::Clamp { .. } => "clamp",
            UnaryF32::Square => "square",
            UnaryF32::Sqrt => "sqrt",
            UnaryF32::Function(function) => function.name(),
        }
    }
}

/// An i64 function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UnaryI64 {
    /// Into `min ..= max`.
    Clamp {
        /// Least.
        min: i64,
        /// Greatest.
        max: i64,
    },
    /// 1 where it is 0, else 0.
    Not,
}

/// A function that a [`Unary`] applies.
pub trait Function: Copy {
    /// Of its operand and result.
    type Element: Pod;
    /// Applies it.
    fn apply(self, simd: Simd, x: &[Self::Element], out: &mut [Self::Element]);
}

/// `out = function(x)`, same shape.
#[derive(Debug)]
pub struct Unary<F: Function> {
    function: F,
    x: Place,
    out: Place,
    walk: Walk<2>,
    element: PhantomData<F::Element>,
}

impl<F: Function> Unary<F> {
    /// Both of the same length and scope.
    pub fn new(function: F, x: Place, out: Place) -> Unary<F> {
        let walk = Walk::new(Some([out.stride, x.stride]), &[Dim { size: out.len, strides: [1, 1] }]);
        Unary { function, x, out, walk, element: PhantomData }
    }

    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        over_runs(&self.walk, tile, &self.x, &self.out, |x, out| self.function.apply(tile.simd, x, out));
    }
}

impl Function for UnaryF32 {
    type Element = f32;
    fn apply(self, simd: Simd, x: &[f32], out: &mut [f32]) {
        unary_f32(simd, self, x, out);
    }
}

impl Function for UnaryI64 {
    type Element = i64;
    fn apply(self, _: Simd, x: &[i64], out: &mut [i64]) {
        let pairs = out.iter_mut().zip(x);
        match self {
            // Minimum last, as numpy does where the two contradict each other.
            UnaryI64::Clamp { min, max } => pairs.for_each(|(out, &x)| *out = x.max(min).min(max)),
            UnaryI64::Not => pairs.for_each(|(out, &x)| *out = i64::from(x == 0)),
        }
    }
}

multiversion! {
    /// Applies a function to equally long slices.
    pub fn unary_f32(function: UnaryF32, x: &[f32], out: &mut [f32]) = unary_body;
    /// Applies the sigmoid in place.
    pub fn sigmoid_in_place(values: &mut [f32]) = sigmoid_body;
}

#[inline(always)]
fn sigmoid_body<M: MulAdd>(values: &mut [f32]) {
    for value in values {
        *value = math::sigmoid::<M>(*value);
    }
}

#[inline(always)]
fn unary_body<M: MulAdd>(function: UnaryF32, x: &[f32], out: &mut [f32]) {
    match function {
        UnaryF32::Relu => each(x, out, |x| if x < 0.0 { 0.0 } else { x }),
        UnaryF32::Sigmoid => each(x, out, math::sigmoid::<M>),
        UnaryF32::Clamp { min, max } => each(x, out, |x| {
            let x = if x < min { min } else { x };
            if x > max { max } else { x }
        }),
        UnaryF32::Square => each(x, out, |x| x * x),
        UnaryF32::Sqrt => each(x, out, f32::sqrt),
        UnaryF32::Function(function) => function_body::<M>(function, x, out),
    }
}

#[inline(always)]
fn function_body<M: MulAdd>(function: UnaryFn, x: &[f32], out: &mut [f32]) {
    match function {
        UnaryFn::Abs => each(x, out, f32::abs),
        UnaryFn::Exp => each(x, out, elementary::exp::<M>),
        UnaryFn::Log => each(x, out, elementary::log::<M>),
        UnaryFn::Sqrt => each(x, out, f32::sqrt),
        UnaryFn::Tanh => each(x, out, elementary::tanh::<M>),
        UnaryFn::Erf => each(x, out, elementary::erf::<M>),
        UnaryFn::Floor => each(x, out, f32::floor),
        // NaN fails both comparisons and stays.
        UnaryFn::Sign => each(x, out, |x| {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        }),
        UnaryFn::Softplus => each(x, out, elementary::softplus::<M>),
        UnaryFn::Sin => circular(x, out, elementary::sin, f64::sin),
        UnaryFn::Cos => circular(x, out, elementary::cos, f64::cos),
    }
}

/// `out[i] = function(x[i])` in a plain loop: `Iterator::for_each` may be compiled as a function of its own, without the level's instructions, and
/// every fused product in it is a call into a library then.
#[inline(always)]
fn each(x: &[f32], out: &mut [f32], function: impl Fn(f32) -> f32) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = function(x);
    }
}

/// `near` for all, then `far` where numbers are too large for it.
#[inline(always)]
fn circular(x: &[f32], out: &mut [f32], near: impl Fn(f32) -> f32, far: fn(f64) -> f64) {
    each(x, out, near);
    // Of NaN and infinities both make NaN.
    if x.iter().any(|x| x.abs() > elementary::CIRCLE_MAX) {
        let large = out.iter_mut().zip(x).filter(|(_, x)| x.abs() > elementary::CIRCLE_MAX);
        large.for_each(|(out, &x)| *out = far(f64::from(x)) as f32);
    }
}

/// i64 to f32 (rounded), or f32 to i64 (towards zero; NaN gives 0, out of range the nearest).
#[derive(Debug)]
pub struct Cast {
    to: DType,
    x: Place,
    out: Place,
}

impl Cast {
    /// To `to` from the other type; same length and scope.
    pub fn new(to: DType, x: Place, out: Place) -> Cast {
        Cast { to, x, out }
    }

    /// Runs on all rows of the tile.
    pub fn run(&self, tile: &Tile) {
        match self.to {
            DType::F32 => self.rows::<i64, f32>(tile, |x| x as f32),
            DType::I64 => self.rows::<f32, i64>(tile, |x| x as i64),
        }
    }

    fn rows<A: Pod, B: Pod>(&self, tile: &Tile, cast: impl Fn(A) -> B) {
        let (x, mut out) = (tile.source::<A>(&self.x), tile.target::<B>(&self.out));
        for row in 0..tile.rows {
            out.row(row).iter_mut().zip(x.row(row)).for_each(|(out, &x)| *out = cast(x));
        }
    }
}

/// Calls `run` with pairs of slices that together are all rows of `x` and `out`.
fn over_runs<T: Pod>(walk: &Walk<2>, tile: &Tile, x: &Place, out: &Place, run: impl Fn(&[T], &mut [T])) {
    let (source, mut target) = (tile.source::<T>(x), tile.target::<T>(out));
    if walk.inner() == [1, 1] {
        let (from, to) = (source.row_ptr(0), target.row_ptr(0));
        walk.run(tile.rows, |[to_at, from_at], count| {
            // SAFETY: the walk stays within the rows of both places, which `source` and `target` vouch for, and which are disjoint.
            let (x, out) =
                unsafe { (std::slice::from_raw_parts(from.add(from_at), count), std::slice::from_raw_parts_mut(to.add(to_at), count)) };
            run(x, out);
        });
    } else {
        for row in 0..tile.rows {
            run(source.row(row), target.row(row));
        }
    }
}
