//! Functions of single elements, at numbers where they are not smooth: zeros of both signs, infinities, NaN, integers that wrap.

use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::kernels::array;
use crate::model::*;

use super::axes::{check_rows, mixed};
use super::{check, check_like_cpu};

/// As many elements, drawn from a list by each row.
fn drawn(model: &mut ModelBuilder, count: u32, list: TensorData) -> ValueId {
    let len = match &list {
        TensorData::F32(list) => list.len(),
        TensorData::I64(list) => list.len(),
    };
    let list = model.tensor_of(&[len], list);
    let list = model.op(Op::Const { tensor: list });
    let index = [model.integer(Scope::Candidate, count), model.integer(Scope::Candidate, count)];
    let [a, b] = index.map(|feature| model.op(Op::Integer { feature }));
    let index = model.op(Op::Mul { a: Operand::Value(a), b: Operand::Scalar(9.0) });
    let index = model.op(Op::Add { a: Operand::Value(index), b: Operand::Value(b) });
    let index = model.op(Op::Mod { a: Operand::Value(index), b: Operand::Scalar(len as f64) });
    model.op(Op::Gather { x: list, index, axis: 0 })
}

/// What tells all floats apart that differ: NaN, the size up to a bound, the sign of zeros.
fn facts(model: &mut ModelBuilder, x: ValueId) -> Vec<ValueId> {
    let lost = model.op(Op::Compare { cmp: Comparison::Ne, a: Operand::Value(x), b: Operand::Value(x) });
    let bounded = |model: &mut ModelBuilder, x| {
        let x = model.op(Op::Clamp { x, min: Some(-16.0), max: Some(16.0) });
        model.op(Op::Where { cond: lost, a: Operand::Scalar(9.0), b: Operand::Value(x) })
    };
    let size = bounded(model, x);
    let zero = model.op(Op::Compare { cmp: Comparison::Eq, a: Operand::Value(x), b: Operand::Scalar(0.0) });
    let inverse = model.op(Op::Div { a: Operand::Scalar(1.0), b: Operand::Value(x) });
    let sign = model.op(Op::Where { cond: zero, a: Operand::Value(inverse), b: Operand::Scalar(0.0) });
    let sign = bounded(model, sign);
    let mut outputs = mixed(model, size);
    outputs.extend(mixed(model, sign));
    outputs
}

const FLOATS: [f32; 17] =
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -3.0, 7.25, -7.5, 1e30, -1e30, 1e-30, 60.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];

#[test]
fn functions_of_one_float() {
    let mut model = ModelBuilder::new(1);
    let mut outputs = vec![];
    let x = drawn(&mut model, 40, TensorData::F32(FLOATS.to_vec()));
    for function in UnaryFn::ALL {
        // The sine of infinity is NaN, that of a large number is another one in f64.
        let x = match function {
            UnaryFn::Sin | UnaryFn::Cos => model.op(Op::Clamp { x, min: Some(-7.5), max: Some(60.0) }),
            _ => x,
        };
        let y = model.op(Op::Unary { function, x });
        outputs.extend(facts(&mut model, y));
    }
    // Far below, the CPU engine's sigmoid stops before zero.
    let y = model.op(Op::Sigmoid { x });
    let y = model.op(Op::Add { a: Operand::Value(y), b: Operand::Scalar(1.0) });
    outputs.extend(facts(&mut model, y));
    for op in [Op::Relu { x }, Op::Clamp { x, min: Some(-0.5), max: Some(2.0) }] {
        let y = model.op(op);
        outputs.extend(facts(&mut model, y));
    }
    let slope = model.tensor_of(&[1], TensorData::F32(vec![-2.0]));
    let y = model.op(Op::Prelu { x, slope });
    outputs.extend(facts(&mut model, y));
    check_rows(model, &outputs, check_like_cpu);
}

#[test]
fn functions_of_two_floats() {
    let mut model = ModelBuilder::new(2);
    let mut outputs = vec![];
    let x = drawn(&mut model, 60, TensorData::F32(FLOATS.to_vec()));
    // Overflow and underflow are those of f32: powers of what is small enough.
    let y = drawn(&mut model, 60, TensorData::F32(FLOATS.to_vec()));
    let z = drawn(&mut model, 60, TensorData::F32(vec![0.0, -0.0, 1.0, -1.0, 2.0, 3.0, -2.0, 0.5, -3.0, f32::INFINITY, f32::NAN]));
    let (a, b) = (Operand::Value(x), Operand::Value(y));
    let pairs = [
        Op::Add { a, b },
        Op::Sub { a, b },
        Op::Min { a, b },
        Op::Max { a, b },
        Op::Mul { a, b: Operand::Value(z) },
        Op::Div { a, b: Operand::Value(z) },
        Op::Mod { a: Operand::Value(z), b: Operand::Value(z) },
        Op::Mod { a: Operand::Scalar(5.5), b: Operand::Value(z) },
        Op::Pow { a: Operand::Value(z), b: Operand::Value(z) },
        Op::Pow { a: Operand::Scalar(2.0), b: Operand::Value(z) },
    ];
    for op in pairs {
        let y = model.op(op);
        outputs.extend(facts(&mut model, y));
    }
    for cmp in [Comparison::Lt, Comparison::Le, Comparison::Gt, Comparison::Ge, Comparison::Eq, Comparison::Ne] {
        let y = model.op(Op::Compare { cmp, a, b });
        outputs.extend(mixed(&mut model, y));
    }
    check_rows(model, &outputs, check_like_cpu);
}

#[test]
fn functions_of_integers() {
    let mut model = ModelBuilder::new(3);
    let mut outputs = vec![];
    let numbers = vec![0, 1, -1, 2, -2, 3, 7, -7, 63, i64::MAX, i64::MIN, i64::MAX - 1, 1 << 33, -(1 << 33) - 1];
    let x = drawn(&mut model, 60, TensorData::I64(numbers.clone()));
    let y = drawn(&mut model, 60, TensorData::I64(numbers));
    let (a, b) = (Operand::Value(x), Operand::Value(y));
    let mut results = vec![];
    for op in [
        Op::Add { a, b },
        Op::Sub { a, b },
        Op::Mul { a, b },
        Op::Div { a, b },
        Op::Mod { a, b },
        Op::Pow { a, b },
        Op::Min { a, b },
        Op::Max { a, b },
        Op::Logic { function: LogicFn::And, a: x, b: y },
        Op::Logic { function: LogicFn::Or, a: x, b: y },
        Op::Logic { function: LogicFn::Xor, a: x, b: y },
        Op::Not { x },
        Op::Clamp { x, min: Some(-2.0), max: Some(9.0) },
    ] {
        results.push(model.op(op));
    }
    for cmp in [Comparison::Lt, Comparison::Le, Comparison::Gt, Comparison::Ge, Comparison::Eq, Comparison::Ne] {
        results.push(model.op(Op::Compare { cmp, a, b }));
    }
    // Floats to integers: beyond their range, and towards zero.
    let floats = [0.75, -0.75, 7.5, -7.5, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 9.3e18];
    let floats = drawn(&mut model, 60, TensorData::F32(floats.to_vec()));
    results.push(model.op_as(Op::Cast { x: floats }, vec![60], DType::I64));
    for result in results {
        // Each digit: the lowest, and all of them.
        let low = model.op(Op::Mod { a: Operand::Value(result), b: Operand::Scalar(1000.0) });
        let whole = model.op_as(Op::Cast { x: result }, vec![60], DType::F32);
        let whole = model.op(Op::Mul { a: Operand::Value(whole), b: Operand::Scalar(1e-18) });
        let low = model.op_as(Op::Cast { x: low }, vec![60], DType::F32);
        let low = model.op(Op::Mul { a: Operand::Value(low), b: Operand::Scalar(1e-2) });
        outputs.extend(mixed(&mut model, low));
        outputs.extend(mixed(&mut model, whole));
    }
    check_rows(model, &outputs, check_like_cpu);
}

#[test]
fn every_kind_of_broadcast_and_move() {
    let mut model = ModelBuilder::new(4);
    let mut outputs = vec![];
    let shapes: [&[usize]; 6] = [&[3, 4, 5], &[5], &[4, 1], &[3, 1, 1], &[1, 4, 5], &[]];
    for a in shapes {
        for b in shapes {
            let [a, b] = [a, b].map(|shape| array(&mut model, shape));
            let y = model.op(Op::Sub { a: Operand::Value(a), b: Operand::Value(b) });
            outputs.extend(mixed(&mut model, y));
        }
    }
    let x = array(&mut model, &[3, 4, 5]);
    let context = model.dense(Scope::Context, 20);
    let context = model.op(Op::Dense { features: vec![context] });
    let context = model.op_as(Op::Reshape { x: context }, vec![4, 5], DType::F32);
    for op in [
        Op::Transpose { x, perm: vec![2, 0, 1] },
        Op::Transpose { x, perm: vec![0, 2, 1] },
        Op::Transpose { x: context, perm: vec![1, 0] },
        Op::Slice { x, axis: 1, start: 1, end: 4, step: 2 },
        Op::Slice { x, axis: 2, start: 0, end: 5, step: 3 },
        Op::GatherConst { x, axis: 1, indices: vec![3, 0, 0, 2, 1] },
        Op::GatherConst { x, axis: 2, indices: vec![4, 4] },
        Op::Concat { xs: vec![x, x], axis: 1 },
        Op::Concat { xs: vec![context, context, context], axis: 1 },
        Op::Mul { a: Operand::Value(context), b: Operand::Value(x) },
    ] {
        let y = model.op(op);
        outputs.extend(mixed(&mut model, y));
    }
    let y = model.op_as(Op::Broadcast { x: context }, vec![2, 4, 5], DType::F32);
    outputs.extend(mixed(&mut model, y));
    check_rows(model, &outputs, check);
}
