//! The ops of the manifest, one file per group: arguments, checks, shape. `docs/bundle.md` is the same list in words.

mod elementwise;
mod input;
mod layout;
mod linear;
mod normalize;
mod pick;
mod reduce;
mod sequence;
mod trees;
mod window;

use crate::limits::{AXES_MAX, VALUE_ELEMENTS_MAX};

use super::arguments::{LogicFn, Reduction, UnaryFn};
use super::error::{Fault, did_you_mean};
use super::graph::{DType, ShapeBuf};
use super::json::{At, Object, infinity, quote};
use super::manifest::choice;
use super::name::name;
use super::op::Op;
use super::resolve::{Builder, scalar};
use super::shape;

/// Every op of the manifest.
pub const OPS: [&str; 68] = [
    "abs",
    "add",
    "and",
    "argtopk",
    "avg_pool",
    "batch_norm",
    "broadcast",
    "cast",
    "clamp",
    "compare",
    "concat",
    "const",
    "conv",
    "cos",
    "cumsum",
    "dense",
    "div",
    "embedding",
    "erf",
    "exp",
    "fill",
    "floor",
    "gather",
    "gather_const",
    "gru",
    "integer",
    "iota",
    "l2_norm",
    "layer_norm",
    "length",
    "linear",
    "log",
    "lookup",
    "matmul",
    "max",
    "max_pool",
    "min",
    "mod",
    "mul",
    "not",
    "one_hot",
    "or",
    "pad",
    "pow",
    "prelu",
    "reduce_max",
    "reduce_mean",
    "reduce_min",
    "reduce_prod",
    "reduce_sum",
    "relu",
    "reshape",
    "sdpa",
    "sigmoid",
    "sign",
    "sin",
    "slice",
    "softmax",
    "softplus",
    "sqrt",
    "sub",
    "take_along",
    "tanh",
    "topk",
    "transpose",
    "trees",
    "where",
    "xor",
];

/// An op with the shape and type of its value.
type Made = (Op, ShapeBuf, DType);
type Checked<T> = Result<T, Box<Fault>>;

impl Builder<'_> {
    /// Reads one entry of the graph.
    pub(super) fn node(&mut self, at: &At<'_>) -> Checked<()> {
        let object = at.object()?;
        let op_at = object.required("op")?;
        let out_at = object.required("out")?;
        let out = name(&out_at)?;
        if infinity(&out).is_some() {
            return Err(out_at.fault(format!("a value {out:?}"), "a name that is no number", "Choose another name"));
        }
        let made = match op_at.text()? {
            "dense" => self.dense(&object),
            "integer" => self.integer(&object),
            "length" => self.length(&object),
            "lookup" => self.lookup(&object, &out),
            "const" => self.constant(&object),
            "fill" => self.fill(&object),
            "iota" => input::iota(&object),
            "linear" => self.linear(&object),
            "matmul" => self.matmul(&object, &out),
            "add" => self.typed_binary(&object, |a, b| Op::Add { a, b }),
            "sub" => self.typed_binary(&object, |a, b| Op::Sub { a, b }),
            "mul" => self.typed_binary(&object, |a, b| Op::Mul { a, b }),
            "div" => self.binary(&object, |a, b| Op::Div { a, b }),
            "pow" => self.binary(&object, |a, b| Op::Pow { a, b }),
            "min" => self.typed_binary(&object, |a, b| Op::Min { a, b }),
            "max" => self.typed_binary(&object, |a, b| Op::Max { a, b }),
            "mod" => self.typed_binary(&object, |a, b| Op::Mod { a, b }),
            "compare" => self.compare(&object),
            "and" => self.logic(&object, LogicFn::And),
            "or" => self.logic(&object, LogicFn::Or),
            "xor" => self.logic(&object, LogicFn::Xor),
            "not" => self.not(&object),
            "where" => self.choose(&object),
            "clamp" => self.clamp(&object),
            "relu" => self.unary(&object, |x| Op::Relu { x }),
            "sigmoid" => self.unary(&object, |x| Op::Sigmoid { x }),
            "cast" => self.cast(&object),
            "prelu" => self.prelu(&object),
            "softmax" => self.softmax(&object),
            "batch_norm" => self.batch_norm(&object),
            "l2_norm" => self.l2_norm(&object),
            "layer_norm" => self.layer_norm(&object),
            "reduce_sum" => self.reduce_sum(&object),
            "reduce_mean" => self.reduce(&object, Reduction::Mean),
            "reduce_max" => self.reduce(&object, Reduction::Max),
            "reduce_min" => self.reduce(&object, Reduction::Min),
            "reduce_prod" => self.reduce(&object, Reduction::Prod),
            "cumsum" => self.cumsum(&object),
            "concat" => self.concat(&object),
            "slice" => self.slice(&object),
            "reshape" => self.reshape(&object),
            "transpose" => self.transpose(&object),
            "broadcast" => self.broadcast(&object),
            "gather_const" => self.gather_const(&object),
            "pad" => self.pad(&object),
            "gather" => self.gather(&object),
            "take_along" => self.take_along(&object),
            "embedding" => self.embedding(&object),
            "one_hot" => self.one_hot(&object),
            "topk" => self.topk(&object, DType::F32),
            "argtopk" => self.topk(&object, DType::I64),
            "conv" => self.conv(&object),
            "max_pool" => self.max_pool(&object),
            "avg_pool" => self.avg_pool(&object),
            "sdpa" => self.sdpa(&object),
            "gru" => self.gru(&object),
            "trees" => self.trees(&object),
            other => match UnaryFn::ALL.into_iter().find(|function| function.name() == other) {
                Some(function) => self.unary(&object, |x| Op::Unary { function, x }),
                None => {
                    let remedy =
                        did_you_mean(other, OPS.into_iter()).unwrap_or_else(|| "Express it with these ops, or upgrade the server".into());
                    return Err(op_at.fault(format!("unknown op {}", quote(other)), format!("one of {}", OPS.join(", ")), remedy));
                }
            },
        };
        let (op, shape, dtype) = made?;
        object.finish()?;
        self.push(at, out, op, shape, dtype)?;
        Ok(())
    }
}

fn axis(at: &At<'_>, shape: &[usize]) -> Checked<usize> {
    let written = at.integer(-(AXES_MAX as i64), AXES_MAX as i64)?;
    let remedy = "Shapes are per row, without the batch";
    shape::axis(written, shape.len()).ok_or_else(|| at.fault(format!("axis {written}"), format!("an axis of shape {shape:?}"), remedy))
}

fn sizes(at: &At<'_>) -> Checked<ShapeBuf> {
    at.list(AXES_MAX)?.iter().map(|at| at.count(1, VALUE_ELEMENTS_MAX)).collect()
}

fn dtype(object: &Object<'_>, key: &'static str) -> Checked<Option<DType>> {
    object.optional(key).map(|at| choice(&at, &[("f32", DType::F32), ("i64", DType::I64)])).transpose()
}

/// A number that the type holds exactly enough: integers up to 2^53 for i64.
fn typed_number(at: &At<'_>, dtype: DType) -> Checked<f64> {
    let number = at.number_or_infinity()?;
    checked_number(at, number, dtype)
}

/// [`typed_number`] of a number that was read.
fn checked_number(at: &At<'_>, number: f64, dtype: DType) -> Checked<f64> {
    match dtype {
        DType::F32 => scalar(at, number),
        DType::I64 if number.fract() == 0.0 && number.abs() <= (1_i64 << 53) as f64 => Ok(number),
        DType::I64 => Err(at.wrong("an integer within 2^53, where values are i64")),
    }
}

fn epsilon(object: &Object<'_>, default: f64) -> Checked<f64> {
    let Some(at) = object.optional("eps") else { return Ok(default) };
    let eps = at.number()?;
    if (0.0..=1.0).contains(&eps) { Ok(eps) } else { Err(at.wrong("a number from 0 to 1")) }
}

/// A boolean that may be left out.
fn flag(object: &Object<'_>, key: &'static str, default: bool) -> Checked<bool> {
    object.optional(key).map_or(Ok(default), |at| at.boolean())
}
