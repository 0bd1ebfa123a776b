//! Constants computed at import: elementwise ops on constants, and on sizes that may hold the number of rows.

use super::super::constant::{Const, Elem};
use super::super::error::{Checked, problem};
use super::super::nd::{Move, Nd, broadcast_shapes};
use super::super::node::Node;
use super::super::value::{Size, Value};
use super::Lower;

/// The function of an elementwise op of one number.
fn unary(op: &str) -> Option<fn(f64) -> f64> {
    Some(match op {
        "Neg" => |x| -x,
        "Abs" => f64::abs,
        "Exp" => f64::exp,
        "Log" => f64::ln,
        "Sqrt" => f64::sqrt,
        "Reciprocal" => |x| 1.0 / x,
        "Tanh" => f64::tanh,
        "Sigmoid" => |x| 1.0 / (1.0 + (-x).exp()),
        "Relu" => |x| if x < 0.0 { 0.0 } else { x },
        "Floor" => f64::floor,
        "Ceil" => f64::ceil,
        "Round" => f64::round_ties_even,
        "Sign" => |x| {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        },
        "Sin" => f64::sin,
        "Cos" => f64::cos,
        "Not" => |x| f64::from(x == 0.0),
        "IsNaN" => |x| f64::from(x.is_nan()),
        "IsInf" => |x| f64::from(x.is_infinite()),
        _ => return None,
    })
}

/// The function of an elementwise op of two numbers.
fn binary(op: &str) -> Option<fn(f64, f64) -> f64> {
    Some(match op {
        "Add" | "Sum" | "add" => |a, b| a + b,
        "Sub" | "sub" => |a, b| a - b,
        "Mul" | "mul" => |a, b| a * b,
        "Div" | "div" => |a, b| a / b,
        "Pow" | "pow" => f64::powf,
        "Min" | "min" => |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) },
        "Max" | "max" => |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) },
        "Mod" | "mod" => |a, b| a - (a / b).floor() * b,
        "Equal" => |a, b| f64::from(a == b),
        "Greater" => |a, b| f64::from(a > b),
        "Less" => |a, b| f64::from(a < b),
        "GreaterOrEqual" => |a, b| f64::from(a >= b),
        "LessOrEqual" => |a, b| f64::from(a <= b),
        "And" => |a, b| f64::from(a != 0.0 && b != 0.0),
        "Or" => |a, b| f64::from(a != 0.0 || b != 0.0),
        "Xor" => |a, b| f64::from((a != 0.0) != (b != 0.0)),
        _ => return None,
    })
}

/// The function of an op of two integers, where floats would not be exact.
fn integer(op: &str, fmod: bool) -> Option<fn(i64, i64) -> Option<i64>> {
    Some(match op {
        "Add" | "Sum" | "add" => |a, b| Some(a.wrapping_add(b)),
        "Sub" | "sub" => |a, b| Some(a.wrapping_sub(b)),
        "Mul" | "mul" => |a, b| Some(a.wrapping_mul(b)),
        "Div" | "div" => |a, b| a.checked_div(b),
        "Mod" | "mod" if fmod => |a, b| a.checked_rem(b),
        "Mod" | "mod" => |a, b| a.checked_rem(b).map(|rest| if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }),
        "Min" | "min" => |a, b| Some(a.min(b)),
        "Max" | "max" => |a, b| Some(a.max(b)),
        "Equal" => |a, b| Some(i64::from(a == b)),
        "Greater" => |a, b| Some(i64::from(a > b)),
        "Less" => |a, b| Some(i64::from(a < b)),
        "GreaterOrEqual" => |a, b| Some(i64::from(a >= b)),
        "LessOrEqual" => |a, b| Some(i64::from(a <= b)),
        "And" => |a, b| Some(i64::from(a != 0 && b != 0)),
        "Or" => |a, b| Some(i64::from(a != 0 || b != 0)),
        "Xor" => |a, b| Some(i64::from((a != 0) != (b != 0))),
        _ => return None,
    })
}

fn is_truth(op: &str) -> bool {
    matches!(op, "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" | "Xor" | "Not" | "IsNaN" | "IsInf")
}

impl Lower {
    /// The value of an elementwise op of constants; None where the op is not computed here.
    pub fn fold(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Option<Value>> {
        let constants: Option<Vec<&Const>> = inputs.iter().map(Value::constant).collect();
        let Some(constants) = constants else { return self.fold_sizes(node, inputs) };
        let op = node.proto.op_type.as_str();
        match constants[..] {
            [one] => {
                let Some(f) = unary(op) else { return Ok(None) };
                self.spend(one.len())?;
                let elem = if is_truth(op) { Elem::Bool } else { one.elem };
                if let (Some(values), "Neg" | "Abs") = (one.as_integers(), op) {
                    let f = if op == "Neg" { i64::wrapping_neg } else { i64::wrapping_abs };
                    let data = values.iter().map(|x| f(*x)).collect();
                    return Ok(Some(Value::Const(Const::integers(&self.label, elem, Nd { shape: one.shape.clone(), data }))));
                }
                Ok(Some(self.made(elem, one.shape.clone(), one.to_f64().into_iter().map(f).collect())))
            }
            [first, ref rest @ ..]
                if !rest.is_empty() && (binary(op).is_some() && (rest.len() == 1 || matches!(op, "Sum" | "Min" | "Max"))) =>
            {
                let mut result = first.clone();
                for next in rest {
                    result = self.fold_two(node, op, &result, next)?;
                }
                Ok(Some(Value::Const(result)))
            }
            [cond, a, b] if op == "Where" => {
                let shape = broadcast_shapes(&[&cond.shape, &a.shape, &b.shape])?;
                self.spend(super::super::nd::count(&shape).unwrap_or(usize::MAX))?;
                let to = Move::Broadcast(shape.clone());
                let [cond, a, b] = [cond, a, b].map(|value| value.moved(&to));
                let elem = a.elem;
                if let (Some(x), Some(y), Some(cond)) = (a.as_integers(), b.as_integers(), cond.as_integers()) {
                    let data = cond.iter().zip(x.iter().zip(y)).map(|(c, (x, y))| if *c != 0 { *x } else { *y }).collect();
                    return Ok(Some(Value::Const(Const::integers(&self.label, elem, Nd { shape, data }))));
                }
                let data = (0..cond.len()).map(|i| if cond.at(i) != 0.0 { a.at(i) } else { b.at(i) }).collect();
                Ok(Some(self.made(elem, shape, data)))
            }
            _ => Ok(None),
        }
    }

    /// One op, by its name in either format, of two constants.
    pub fn fold_two(&mut self, node: &Node<'_>, op: &str, a: &Const, b: &Const) -> Checked<Const> {
        let shape = broadcast_shapes(&[&a.shape, &b.shape])?;
        self.spend(super::super::nd::count(&shape).unwrap_or(usize::MAX))?;
        let elem = if is_truth(op) { Elem::Bool } else { a.elem };
        let to = Move::Broadcast(shape.clone());
        let (a, b) = (a.moved(&to), b.moved(&to));
        if let (Some(x), Some(y), Some(f)) = (a.as_integers(), b.as_integers(), integer(op, node.flag("fmod"))) {
            let data: Option<Vec<i64>> = x.iter().zip(y).map(|(x, y)| f(*x, *y)).collect();
            let data = data.ok_or_else(|| problem("arithmetic on constants that divides by 0", "Export the model again"))?;
            return Ok(Const::integers(&self.label, elem, Nd { shape, data }));
        }
        let f = binary(op).ok_or_else(|| problem("no op of this name", "Express it with other ops"))?;
        let f = if matches!(op, "Mod" | "mod") && node.flag("fmod") { |a: f64, b: f64| a % b } else { f };
        let data = (0..a.len()).map(|i| f(a.at(i), b.at(i))).collect();
        Ok(Const::numbers(&self.label, elem, shape, data))
    }

    /// Arithmetic on sizes.
    fn fold_sizes(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Option<Value>> {
        if !inputs.iter().any(|input| matches!(input, Value::Sizes(_))) {
            return Ok(None);
        }
        let op = node.proto.op_type.as_str();
        if integer(op, false).is_none() && op != "Where" {
            return Ok(None);
        }
        let sizes: Option<Vec<Nd<Size>>> = inputs.iter().map(as_sizes).collect();
        let Some(sizes) = sizes else { return Ok(None) };
        let shape = broadcast_shapes(&sizes.iter().map(|sizes| sizes.shape.as_slice()).collect::<Vec<_>>())?;
        self.spend(super::super::nd::count(&shape).unwrap_or(usize::MAX))?;
        let all: Vec<Nd<Size>> = sizes.iter().map(|sizes| sizes.moved(&Move::Broadcast(shape.clone()))).collect();
        let unclear = || {
            problem(
                "arithmetic on the number of rows whose result depends on it",
                "gavel scores every row by itself: export the model so that the batch size is used for shapes alone",
            )
        };
        let elements: Option<Vec<Size>> = match (op, &all[..]) {
            ("Where", [cond, a, b]) => {
                (0..cond.data.len()).map(|i| cond.data[i].known().map(|cond| if cond != 0 { a.data[i] } else { b.data[i] })).collect()
            }
            (_, [a, b]) => a.data.iter().zip(&b.data).map(|(a, b)| size_op(op, *a, *b)).collect(),
            _ => return Ok(None),
        };
        let data = elements.ok_or_else(unclear)?;
        Ok(Some(Value::sizes(&self.label, Nd { shape, data })))
    }
}

/// Integers as sizes.
pub fn as_sizes(value: &Value) -> Option<Nd<Size>> {
    match value {
        Value::Sizes(sizes) => Some(sizes.clone()),
        Value::Const(constant) => {
            let Nd { shape, data } = constant.integer_nd()?;
            Some(Nd { shape, data: data.into_iter().map(Size::fixed).collect() })
        }
        _ => None,
    }
}

/// An op on sizes, for every number of rows from 1; None where the result depends on that number otherwise than linearly.
fn size_op(op: &str, a: Size, b: Size) -> Option<Size> {
    let truth = |known: Option<bool>| known.map(|known| Size::fixed(i64::from(known)));
    let both = |f: fn(i64, i64) -> Option<i64>| Some(Size { rows: f(a.rows, b.rows)?, fixed: f(a.fixed, b.fixed)? });
    // a - b is at least this, where it grows with the rows; and the same for b - a.
    let difference = Size { rows: a.rows.checked_sub(b.rows)?, fixed: a.fixed.checked_sub(b.fixed)? };
    let least = difference.rows.checked_add(difference.fixed)?;
    let order = match difference.rows {
        0 => Some(difference.fixed.cmp(&0)),
        1.. if least > 0 => Some(std::cmp::Ordering::Greater),
        ..0 if least < 0 => Some(std::cmp::Ordering::Less),
        _ => None,
    };
    match op {
        "Add" => both(i64::checked_add),
        "Sub" => both(i64::checked_sub),
        "Mul" => match (a.known(), b.known()) {
            (Some(k), _) => Some(Size { rows: b.rows.checked_mul(k)?, fixed: b.fixed.checked_mul(k)? }),
            (_, Some(k)) => Some(Size { rows: a.rows.checked_mul(k)?, fixed: a.fixed.checked_mul(k)? }),
            _ => None,
        },
        "Div" => match b.known() {
            Some(k) if k != 0 && a.rows % k == 0 && a.fixed % k == 0 => Some(Size { rows: a.rows / k, fixed: a.fixed / k }),
            None if a.rows % b.rows == 0 && a.fixed == 0 && b.fixed == 0 => Some(Size::fixed(a.rows / b.rows)),
            _ => None,
        },
        "Max" => order.map(|order| if order.is_lt() { b } else { a }),
        "Min" => order.map(|order| if order.is_gt() { b } else { a }),
        "Equal" => truth(order.map(|order| order.is_eq())),
        "Greater" => truth(order.map(|order| order.is_gt())),
        "Less" => truth(order.map(|order| order.is_lt())),
        "GreaterOrEqual" => truth(order.map(|order| order.is_ge())),
        "LessOrEqual" => truth(order.map(|order| order.is_le())),
        "And" => truth(Some(a.known()? != 0 && b.known()? != 0)),
        "Or" => truth(Some(a.known()? != 0 || b.known()? != 0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_every_number_of_rows() {
        let n = |rows, fixed| Size { rows, fixed };
        let k = Size::fixed;
        let cases = [
            ("Add", n(1, 0), k(2), Some(n(1, 2))),
            ("Mul", n(1, 0), k(4), Some(n(4, 0))),
            ("Mul", n(1, 0), n(1, 0), None),
            ("Div", n(4, 0), k(2), Some(n(2, 0))),
            ("Div", n(4, 0), n(1, 0), Some(k(4))),
            ("Div", n(3, 0), k(2), None),
            ("Equal", n(1, 0), k(-1), Some(k(0))),
            ("Equal", n(1, 0), k(1), None),
            ("Equal", n(1, 0), n(1, 0), Some(k(1))),
            ("Less", k(0), n(1, 0), Some(k(1))),
            ("Less", n(1, 0), n(2, 0), Some(k(1))),
            ("Less", n(1, 0), k(5), None),
        ];
        for (op, a, b, expected) in cases {
            assert_eq!(size_op(op, a, b), expected, "{op} {a:?} {b:?}");
        }
    }
}
