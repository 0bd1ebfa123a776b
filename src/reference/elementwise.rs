//! Functions of one element, or of two.

use crate::model::{Comparison, DType, LogicFn, Operand, UnaryFn, Value};

use super::tensor::{Data, Tensor, indices};

/// The function of one number.
pub fn unary(function: UnaryFn, x: f64) -> f64 {
    match function {
        UnaryFn::Abs => x.abs(),
        UnaryFn::Exp => x.exp(),
        UnaryFn::Log => x.ln(),
        UnaryFn::Sqrt => x.sqrt(),
        UnaryFn::Tanh => x.tanh(),
        UnaryFn::Erf => erf(x),
        UnaryFn::Floor => x.floor(),
        UnaryFn::Sign if x > 0.0 => 1.0,
        UnaryFn::Sign if x < 0.0 => -1.0,
        UnaryFn::Sign => x,
        UnaryFn::Sin => x.sin(),
        UnaryFn::Cos => x.cos(),
        // ln(1 + eˣ) = x + ln(1 + e⁻ˣ): neither exponential overflows.
        UnaryFn::Softplus if x > 0.0 => x + (-x).exp().ln_1p(),
        UnaryFn::Softplus => x.exp().ln_1p(),
    }
}

/// 2/√π · e^(−x²) · Σ 2ⁿ·x^(2n+1) / (1·3·5·…·(2n+1)): all terms have one sign. Source: Abramowitz and Stegun 7.1.6.
pub fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.5 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..300 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// The smaller; NaN if either is.
pub fn min(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

/// The larger; NaN if either is.
pub fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// Remainder with the sign of the divisor.
pub fn modulo(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
}

/// Remainder with the sign of the divisor; 0 where that is 0.
pub fn integer_modulo(a: i64, b: i64) -> i64 {
    if b == 0 {
        return 0;
    }
    let (a, b) = (i128::from(a), i128::from(b));
    (((a % b) + b) % b) as i64
}

/// An operand's element, of either type.
enum Element {
    Float(f64),
    Integer(i64),
}

fn element(values: &[Tensor], operand: &Operand, dtype: DType, index: &[usize]) -> Element {
    match (operand, dtype) {
        (Operand::Value(id), DType::F32) => Element::Float(values[id.0 as usize].broadcast_at(index)),
        (Operand::Value(id), DType::I64) => Element::Integer(values[id.0 as usize].integer_at(index)),
        (Operand::Scalar(number), DType::F32) => Element::Float(*number),
        (Operand::Scalar(number), DType::I64) => Element::Integer(*number as i64),
    }
}

/// The type of two operands: that of the values among them.
fn type_of(values: &[Tensor], operands: [&Operand; 2]) -> DType {
    let integer = |operand: &Operand| match operand {
        Operand::Value(id) => matches!(values[id.0 as usize].data, Data::Integer(_)),
        Operand::Scalar(_) => false,
    };
    if operands.into_iter().any(integer) { DType::I64 } else { DType::F32 }
}

type F64Fn<'f> = &'f dyn Fn(f64, f64) -> f64;
type I64Fn<'f> = &'f dyn Fn(i64, i64) -> i64;

/// Two operands of the type of `out`.
pub fn binary(out: &Value, values: &[Tensor], a: &Operand, b: &Operand, float: F64Fn<'_>, integer: I64Fn<'_>) -> Tensor {
    let mut floats = Vec::new();
    let mut integers = Vec::new();
    for index in indices(&out.shape) {
        match (element(values, a, out.dtype, &index), element(values, b, out.dtype, &index)) {
            (Element::Float(a), Element::Float(b)) => floats.push(float(a, b)),
            (Element::Integer(a), Element::Integer(b)) => integers.push(integer(a, b)),
            _ => unreachable!("two operands of one type"),
        }
    }
    of_type(out, floats, integers)
}

/// 1 where the comparison holds.
pub fn compare(out: &Value, values: &[Tensor], cmp: Comparison, a: &Operand, b: &Operand) -> Tensor {
    let dtype = type_of(values, [a, b]);
    let truths = indices(&out.shape).map(|index| {
        let holds = match (element(values, a, dtype, &index), element(values, b, dtype, &index)) {
            (Element::Float(a), Element::Float(b)) => cmp.holds(a, b),
            (Element::Integer(a), Element::Integer(b)) => cmp.holds(a, b),
            _ => unreachable!("two operands of one type"),
        };
        i64::from(holds)
    });
    Tensor::of_integers(&out.shape, truths.collect())
}

/// Of truth values.
pub fn logic(out: &Value, function: LogicFn, a: &Tensor, b: &Tensor) -> Tensor {
    let truths = indices(&out.shape).map(|index| {
        let (a, b) = (a.integer_at(&index) != 0, b.integer_at(&index) != 0);
        i64::from(match function {
            LogicFn::And => a && b,
            LogicFn::Or => a || b,
            LogicFn::Xor => a != b,
        })
    });
    Tensor::of_integers(&out.shape, truths.collect())
}

/// The one operand or the other.
pub fn choose(out: &Value, values: &[Tensor], cond: &Tensor, a: &Operand, b: &Operand) -> Tensor {
    let mut floats = Vec::new();
    let mut integers = Vec::new();
    for index in indices(&out.shape) {
        let taken = if cond.integer_at(&index) != 0 { a } else { b };
        match element(values, taken, out.dtype, &index) {
            Element::Float(x) => floats.push(x),
            Element::Integer(x) => integers.push(x),
        }
    }
    of_type(out, floats, integers)
}

fn of_type(out: &Value, floats: Vec<f64>, integers: Vec<i64>) -> Tensor {
    match out.dtype {
        DType::F32 => Tensor::of_floats(&out.shape, floats),
        DType::I64 => Tensor::of_integers(&out.shape, integers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_matches_published_values() {
        // Abramowitz and Stegun, table 7.1; the last from 1 - 1.5375e-12.
        for (x, expected) in [(0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9), (2.0, 0.995_322_265_018_952_7)] {
            assert!((erf(x) - expected).abs() < 1e-15, "{x}: {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!((erf(0.0), erf(9.0), erf(f64::NEG_INFINITY)), (0.0, 1.0, -1.0));
        assert!((erf(5.0) - (1.0 - 1.537_459_794_428_035e-12)).abs() < 1e-15 && erf(f64::NAN).is_nan());
    }

    #[test]
    fn remainders_have_the_sign_of_the_divisor() {
        for (a, b, expected) in [(7, 3, 1), (-7, 3, 2), (7, -3, -2), (-7, -3, -1), (5, 0, 0), (i64::MIN, -1, 0), (6, -3, 0)] {
            assert_eq!(integer_modulo(a, b), expected, "{a} {b}");
            if b != 0 && a != i64::MIN {
                assert_eq!(modulo(a as f64, b as f64), expected as f64, "{a} {b}");
            }
        }
        assert_eq!(modulo(-1.0, f64::INFINITY), f64::INFINITY);
    }
}
