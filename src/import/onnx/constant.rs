//! Constants: tensors whose elements are known.

use std::rc::Rc;

use crate::model::DType;

use super::error::{Checked, problem};
use super::nd::{Move, Nd};

/// Element type in the file. A graph computes in f32 and i64: wider and narrower types are widened or rounded to these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Elem {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
}

impl Elem {
    /// By its number in the file.
    pub fn of(number: i64) -> Checked<Elem> {
        Ok(match number {
            1 => Elem::F32,
            2 => Elem::U8,
            3 => Elem::I8,
            4 => Elem::U16,
            5 => Elem::I16,
            6 => Elem::I32,
            7 => Elem::I64,
            9 => Elem::Bool,
            10 => Elem::F16,
            11 => Elem::F64,
            12 => Elem::U32,
            13 => Elem::U64,
            16 => Elem::BF16,
            8 => return Err(problem("strings", "Map strings to numbers before the model: gavel ranks numbers and ids")),
            14 | 15 => return Err(problem("complex numbers", "Export a model of real numbers")),
            _ => return Err(problem(format!("element type {number}"), "Export the model with float32 weights")),
        })
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Elem::F32 | Elem::F16 | Elem::BF16 | Elem::F64)
    }

    /// Bits of an integer type of fewer than 64, and whether it has a sign.
    pub fn narrow(self) -> Option<(i32, bool)> {
        Some(match self {
            Elem::I8 => (8, true),
            Elem::U8 => (8, false),
            Elem::I16 => (16, true),
            Elem::U16 => (16, false),
            Elem::I32 => (32, true),
            Elem::U32 => (32, false),
            _ => return None,
        })
    }

    /// Whether it holds every integer of another type of fewer than 64 bits.
    pub fn holds(self, other: Elem) -> bool {
        let (Some((own, signed)), Some((bits, other_signed))) = (self.narrow(), other.narrow()) else { return self == other };
        if signed == other_signed { bits <= own } else { signed && bits < own }
    }

    /// An integer as the type holds it: its lowest bits.
    pub fn wrapped(self, x: i64) -> i64 {
        match self {
            Elem::I8 => i64::from(x as i8),
            Elem::U8 => i64::from(x as u8),
            Elem::I16 => i64::from(x as i16),
            Elem::U16 => i64::from(x as u16),
            Elem::I32 => i64::from(x as i32),
            Elem::U32 => i64::from(x as u32),
            _ => x,
        }
    }

    /// What a graph computes it in.
    pub fn dtype(self) -> DType {
        if self.is_float() { DType::F32 } else { DType::I64 }
    }
}

/// Elements.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Of f16, bf16 and f32.
    F32(Vec<f32>),
    /// Of f64.
    F64(Vec<f64>),
    /// Of integers and truth values.
    I64(Vec<i64>),
}

/// A constant tensor; cheap to copy.
#[derive(Clone, Debug)]
pub struct Const {
    /// For the tensor's name in the bundle.
    pub name: Rc<str>,
    /// Element type.
    pub elem: Elem,
    /// Full shape.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub data: Rc<Data>,
}

impl Const {
    /// Integers; those that the type does not hold wrap around.
    pub fn integers(name: &str, elem: Elem, values: Nd<i64>) -> Const {
        let data = values.data.into_iter().map(|x| elem.wrapped(x)).collect();
        Const { name: name.into(), elem, shape: values.shape, data: Rc::new(Data::I64(data)) }
    }

    /// Numbers of a type: floats are rounded to it, integers truncated; what the type does not hold wraps around.
    pub fn numbers(name: &str, elem: Elem, shape: Vec<usize>, values: Vec<f64>) -> Const {
        let data = match elem {
            Elem::F64 => Data::F64(values),
            Elem::F16 => Data::F32(values.into_iter().map(|x| half::f16::from_f64(x).to_f32()).collect()),
            Elem::BF16 => Data::F32(values.into_iter().map(|x| half::bf16::from_f64(x).to_f32()).collect()),
            Elem::F32 => Data::F32(values.into_iter().map(|x| x as f32).collect()),
            _ => Data::I64(values.into_iter().map(|x| elem.wrapped(x as i64)).collect()),
        };
        Const { name: name.into(), elem, shape, data: Rc::new(data) }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match &*self.data {
            Data::F32(values) => values.len(),
            Data::F64(values) => values.len(),
            Data::I64(values) => values.len(),
        }
    }

    /// Element `index` as a number.
    pub fn at(&self, index: usize) -> f64 {
        match &*self.data {
            Data::F32(values) => f64::from(values[index]),
            Data::F64(values) => values[index],
            Data::I64(values) => values[index] as f64,
        }
    }

    /// All elements as numbers.
    pub fn to_f64(&self) -> Vec<f64> {
        (0..self.len()).map(|i| self.at(i)).collect()
    }

    /// All elements as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        match &*self.data {
            Data::F32(values) => values.clone(),
            _ => (0..self.len()).map(|i| self.at(i) as f32).collect(),
        }
    }

    /// The integers, if it holds integers.
    pub fn as_integers(&self) -> Option<&[i64]> {
        match &*self.data {
            Data::I64(values) => Some(values),
            _ => None,
        }
    }

    /// The integers with their shape.
    pub fn integer_nd(&self) -> Option<Nd<i64>> {
        Some(Nd { shape: self.shape.clone(), data: self.as_integers()?.to_vec() })
    }

    /// The number, if there is one only.
    pub fn number(&self) -> Option<f64> {
        (self.len() == 1).then(|| self.at(0))
    }

    /// Whether f64 holds every element as it is: integers beyond 2^53 may be lost in it.
    pub fn fits_f64(&self) -> bool {
        self.as_integers().is_none_or(|values| values.iter().all(|x| x.unsigned_abs() <= 1 << 53))
    }

    /// Same elements, other shape of as many.
    pub fn reshaped(&self, shape: Vec<usize>) -> Const {
        Const { shape, ..self.clone() }
    }

    /// Elements moved.
    pub fn moved(&self, by: &Move) -> Const {
        if by.is_identity(&self.shape) {
            return self.clone();
        }
        let shape = by.shape(&self.shape);
        if matches!(by, Move::Reshape(_)) {
            return self.reshaped(shape);
        }
        let places = by.places(&self.shape);
        self.picked(shape, &places)
    }

    /// The elements at `places`.
    pub fn picked(&self, shape: Vec<usize>, places: &[usize]) -> Const {
        let data = match &*self.data {
            Data::F32(values) => Data::F32(places.iter().map(|i| values[*i]).collect()),
            Data::F64(values) => Data::F64(places.iter().map(|i| values[*i]).collect()),
            Data::I64(values) => Data::I64(places.iter().map(|i| values[*i]).collect()),
        };
        Const { name: self.name.clone(), elem: self.elem, shape, data: Rc::new(data) }
    }

    /// Whether both share their elements.
    pub fn is_same(&self, other: &Const) -> bool {
        Rc::ptr_eq(&self.data, &other.data) && self.shape == other.shape
    }

    /// Transposed over the two axes that it has.
    pub fn transposed(&self) -> Const {
        self.moved(&Move::Transpose(vec![1, 0]))
    }
}
