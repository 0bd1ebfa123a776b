//! Integers in the body of a loop over bags: the number of the iteration, the number of rows, and what is computed from both.

use std::cmp::Ordering;

use super::super::constant::{Const, Elem};
use super::super::error::Checked;
use super::super::nd::Nd;
use super::super::node::Node;
use super::super::value::{Held, Size, Value};
use super::bags::{Body, Local, foreign};
use super::fold::as_sizes;
use super::held::never_negative;
use super::ops::{axis_of, ints_or, known};

/// `bag · i + size`, for the iteration i.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affine {
    /// Multiples of the iteration's number.
    pub bag: i64,
    /// The rest.
    pub size: Size,
}

impl Affine {
    /// Without the iteration's number.
    pub fn size(size: Size) -> Affine {
        Affine { bag: 0, size }
    }

    /// With `sign` times another.
    pub fn plus(self, other: Affine, sign: i64) -> Option<Affine> {
        let sum = |a: i64, b: i64| a.checked_add(b.checked_mul(sign)?);
        let size = Size { rows: sum(self.size.rows, other.size.rows)?, fixed: sum(self.size.fixed, other.size.fixed)? };
        Some(Affine { bag: sum(self.bag, other.bag)?, size })
    }

    /// In the last iteration, i is N − 1.
    pub fn in_last(self, last: bool) -> Option<Affine> {
        if !last {
            return Some(self);
        }
        let Size { rows, fixed } = self.size;
        Some(Affine::size(Size { rows: rows.checked_add(self.bag)?, fixed: fixed.checked_sub(self.bag)? }))
    }

    /// Its values in the first and the last iteration; all others lie between them.
    fn ends(self) -> Option<[Size; 2]> {
        Some([self.size, self.in_last(true)?.size])
    }

    pub fn never_negative(self) -> bool {
        self.ends().is_some_and(|ends| ends.into_iter().all(never_negative))
    }

    /// How it compares with 0, if that is the same in every iteration for every number of rows.
    fn sign(self) -> Option<Ordering> {
        let of = |size: Size| match size.rows {
            0 => Some(size.fixed.cmp(&0)),
            1.. if size.rows.checked_add(size.fixed)? > 0 => Some(Ordering::Greater),
            ..0 if size.rows.checked_add(size.fixed)? < 0 => Some(Ordering::Less),
            _ => None,
        };
        let [a, b] = self.ends()?;
        of(a).filter(|sign| of(b) == Some(*sign))
    }
}

/// An integer of one element, and whether it is a list.
pub fn affine(local: &Local) -> Option<(Affine, bool)> {
    match local {
        Local::Int(value, list) => Some((*value, *list)),
        Local::Value(value) => match as_sizes(value)? {
            Nd { shape, data } if shape.len() <= 1 && data.len() == 1 && !matches!(value.elem(), Elem::Bool) => {
                Some((Affine::size(data[0]), shape.len() == 1))
            }
            _ => None,
        },
        _ => None,
    }
}

/// Arithmetic on the iteration's number; None for other ops.
pub fn integers(node: &Node<'_>, inputs: &[Local], body: &Body<'_>) -> Checked<Option<Local>> {
    let moving = |local: &Local| matches!(local, Local::Int(..) | Local::Value(Value::Sizes(_)));
    let op = node.proto.op_type.as_str();
    if let ("Slice" | "Gather", [Local::Value(Value::Held(Held::Steps(steps))), ..]) = (op, inputs) {
        // Element i + a of an arithmetic progression.
        let place = match (op, &inputs[1..]) {
            ("Gather", [at]) if node.int("axis", 0) == 0 => affine(at),
            ("Slice", [at, end]) => affine(at).zip(affine(end)).and_then(|((at, list), (end, _))| {
                let width = end.plus(at, -1)?;
                (list && width == Affine::size(Size::fixed(1))).then_some((at, true))
            }),
            _ => None,
        };
        let element = || {
            let (at, list) = place?;
            let left = Affine::size(steps.count).plus(at, -1)?.plus(Affine::size(Size::fixed(1)), -1)?;
            if !at.never_negative() || !left.never_negative() || !steps.lead.is_empty() || steps.tail != 0 {
                return None;
            }
            let by = |x: i64| x.checked_mul(steps.step);
            let size = Size { rows: by(at.size.rows)?, fixed: by(at.size.fixed)?.checked_add(steps.start)? };
            Some(Local::Int(Affine { bag: by(at.bag)?, size }, list))
        };
        return element().map(Some).ok_or_else(|| foreign("offsets that are not read one after the other"));
    }
    if !inputs.first().is_some_and(moving) && !inputs.get(1).is_some_and(moving) {
        return Ok(None);
    }
    let no = || foreign(format!("{op} of the number of a bag"));
    let listed = |list: bool, value: Affine| {
        let value = body.here(value).ok_or_else(no)?;
        Ok(Some(match (value.bag, value.size.known()) {
            (0, Some(number)) => {
                let shape = if list { vec![1] } else { vec![] };
                Local::Value(Value::Const(Const::integers(node.output(), Elem::I64, Nd { shape, data: vec![number] })))
            }
            _ => Local::Int(value, list),
        }))
    };
    match (op, inputs) {
        ("Identity", [one]) => Ok(Some(one.clone())),
        ("Reshape", [one, Local::Value(shape)]) if known(shape, "shape").is_ok_and(|shape| shape == [-1] || shape == [1]) => {
            let (value, _) = affine(one).ok_or_else(no)?;
            listed(true, value)
        }
        ("Unsqueeze", [one, rest @ ..]) => {
            let (value, list) = affine(one).ok_or_else(no)?;
            let axes: Vec<Value> =
                rest.iter().filter_map(|local| if let Local::Value(value) = local { Some(value.clone()) } else { None }).collect();
            let axes = ints_or(node, "axes", &axes, 0)?.ok_or_else(no)?;
            if list || axes.len() != 1 || axis_of(axes[0], 1)? != 0 { Err(no()) } else { listed(true, value) }
        }
        ("Cast", [one]) => {
            let (value, list) = affine(one).ok_or_else(no)?;
            if matches!(Elem::of(node.int("to", 1))?, Elem::I64 | Elem::I32) { listed(list, value) } else { Err(no()) }
        }
        // To the type of an integer.
        ("CastLike", [one, like]) => {
            affine(like).ok_or_else(no)?;
            let (value, list) = affine(one).ok_or_else(no)?;
            listed(list, value)
        }
        ("Add" | "Sub" | "Equal" | "Less" | "Greater", [a, b]) => {
            let ((x, x_list), (y, y_list)) = (affine(a).ok_or_else(no)?, affine(b).ok_or_else(no)?);
            let list = x_list || y_list;
            if op == "Add" || op == "Sub" {
                return listed(list, x.plus(y, if op == "Add" { 1 } else { -1 }).ok_or_else(no)?);
            }
            let difference = if op == "Greater" { y.plus(x, -1) } else { x.plus(y, -1) };
            let difference = difference.and_then(|difference| body.here(difference)).ok_or_else(no)?;
            let truth = difference.sign().map(|sign| if op == "Equal" { sign.is_eq() } else { sign.is_lt() });
            Ok(Some(match truth {
                Some(truth) => {
                    let shape = if list { vec![1] } else { vec![] };
                    Local::Value(Value::Const(Const::integers(node.output(), Elem::Bool, Nd { shape, data: vec![i64::from(truth)] })))
                }
                None => Local::Test(difference, op != "Equal"),
            }))
        }
        ("Shape" | "Size" | "Slice", _) => Ok(None),
        _ => Err(no()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_hold_for_every_iteration_and_number_of_rows() {
        let affine = |bag, rows, fixed| Affine { bag, size: Size { rows, fixed } };
        let cases = [
            (affine(0, 0, -5), Some(Ordering::Less)),
            (affine(0, 0, 0), Some(Ordering::Equal)),
            (affine(1, 0, 0), None),
            (affine(1, 0, 1), Some(Ordering::Greater)),
            (affine(1, -1, 0), Some(Ordering::Less)),
            (affine(1, -1, 1), None),
            (affine(2, -2, 0), Some(Ordering::Less)),
            (affine(0, 1, 0), Some(Ordering::Greater)),
            (affine(0, 1, -1), None),
            (affine(-3, 3, 0), Some(Ordering::Greater)),
            (affine(i64::MAX, i64::MAX, 0), None),
        ];
        for (value, expected) in cases {
            assert_eq!(value.sign(), expected, "{value:?}");
        }
        assert_eq!(affine(5, 0, 0).in_last(true), Some(affine(0, 5, -5)));
        assert!(affine(-1, 1, -1).never_negative() && !affine(-1, 1, -2).never_negative());
    }
}
