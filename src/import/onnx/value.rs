//! What an ONNX value is to the importer: a constant, sizes that may hold the number of rows N, or a value of each row.
//!
//! The proof that no op mixes rows rests on [`Batch`]: every row value says at which axis of its ONNX shape the rows lie. An op that would
//! touch that axis is refused. Exporters merge the rows with a neighbouring axis and part them again (`[N, 5, 8]` as `[N·5, 8]`), so
//! the axis may hold `outer · N · inner` elements, where outer and inner are axes of the row.

use std::rc::Rc;

use crate::model::DType;

use super::constant::{Const, Elem};
use super::error::{Checked, problem};
use super::ir::IrId;
use super::nd::Nd;

/// `rows · N + fixed`: a size that may depend on the number of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Multiples of the number of rows.
    pub rows: i64,
    /// The rest.
    pub fixed: i64,
}

impl Size {
    /// A number.
    pub fn fixed(fixed: i64) -> Size {
        Size { rows: 0, fixed }
    }
    /// The number, unless it depends on the rows.
    pub fn known(self) -> Option<i64> {
        (self.rows == 0).then_some(self.fixed)
    }
}

/// Where the rows lie in an ONNX shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The axis.
    pub at: usize,
    /// An axis of the row that was merged into it from the left; 1 = none.
    pub outer: usize,
    /// An axis of the row that was merged into it from the right; 1 = none.
    pub inner: usize,
}

impl Batch {
    /// At an axis, nothing merged.
    pub fn at(at: usize) -> Batch {
        Batch { at, outer: 1, inner: 1 }
    }
    /// The row's axes that are merged into it.
    pub fn merged(&self) -> Vec<usize> {
        [self.outer, self.inner].into_iter().filter(|size| *size != 1).collect()
    }
}

/// An element of a graph input's row, as an id: column (row-major) plus a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Atom {
    /// Which graph input.
    pub input: u32,
    /// Which element of its row.
    pub column: u32,
    /// Added to it.
    pub offset: i64,
}

/// Where the elements of a row value come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Repr {
    /// A step of the graph.
    Ir(IrId),
    /// Elements of inputs that were only moved: ids may become lookups.
    Atoms {
        /// Row-major over the row's shape.
        atoms: Rc<Vec<Atom>>,
        /// They were made integers on the way.
        integer: bool,
    },
    /// `per` times the number of the row, plus `rest`: it takes elements of values of each row, nothing else.
    Numbers {
        /// Multiples of the row's number.
        per: i64,
        /// An integer of the row.
        rest: Option<IrId>,
    },
    /// Computed from numbers of rows: only its shape may be read.
    Shape,
}

/// A value of each row, or (without `batch`) a computed value that is the same for all rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Where the rows lie in the ONNX shape.
    pub batch: Option<Batch>,
    /// Shape per row.
    pub shape: Vec<usize>,
    /// ONNX element type.
    pub elem: Elem,
    /// Its elements.
    pub repr: Repr,
}

impl Row {
    /// Axes of its ONNX shape.
    pub fn rank(&self) -> usize {
        match self.batch {
            Some(batch) => self.shape.len() + 1 - batch.merged().len(),
            None => self.shape.len(),
        }
    }

    /// Its ONNX shape.
    pub fn dims(&self) -> Vec<Size> {
        let mut dims: Vec<Size> = self.shape.iter().map(|size| Size::fixed(*size as i64)).collect();
        if let Some(batch) = self.batch {
            let merged = batch.merged().len();
            let size = Size { rows: (batch.outer * batch.inner) as i64, fixed: 0 };
            dims.splice(batch.at..batch.at + merged, [size]);
        }
        dims
    }

    /// The axis of the row that is axis `axis` of the ONNX shape; None where the rows lie.
    pub fn axis(&self, axis: usize) -> Option<usize> {
        match self.batch {
            Some(batch) if axis == batch.at => None,
            Some(batch) if axis > batch.at => Some(axis - 1 + batch.merged().len()),
            _ => Some(axis),
        }
    }

    /// [`Row::axis`], or a complaint about an op that does `what` along the rows.
    pub fn own_axis(&self, axis: usize, what: &str) -> Checked<usize> {
        self.axis(axis).ok_or_else(|| mixes(what))
    }

    /// What a graph computes it in.
    pub fn dtype(&self) -> DType {
        self.elem.dtype()
    }
}

/// The complaint about an op that does `what` over the axis of the rows.
pub fn mixes(what: &str) -> super::error::Problem {
    problem(
        format!("it {what} along the axis that holds the rows, so that a row's score would depend on the rows beside it"),
        "gavel scores every row by itself: give the model's inputs the batch as axis 0, and use no op over it",
    )
}

/// Integers that go up in equal steps along the axis of the rows, the same in every line of the axes before it: offsets of bags, and (with
/// step 0) a constant spread over the rows. Element j of a line is start + j · step.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// Element type; floats hold whole numbers.
    pub elem: Elem,
    /// Axes before.
    pub lead: Vec<usize>,
    /// Elements of a line.
    pub count: Size,
    /// Axes of size 1 behind.
    pub tail: usize,
    /// The first element.
    pub start: i64,
    /// From one element to the next.
    pub step: i64,
}

impl Steps {
    /// Its ONNX shape.
    pub fn dims(&self) -> Vec<Size> {
        let lead = self.lead.iter().map(|size| Size::fixed(*size as i64));
        lead.chain([self.count]).chain((0..self.tail).map(|_| Size::fixed(1))).collect()
    }
}

/// What only few ops may read: it speaks of all rows at once.
#[derive(Clone, Debug)]
pub enum Held {
    /// Integers over the rows.
    Steps(Steps),
    /// A sequence without elements.
    Empty,
    /// A sequence of one value per row, in the order of the rows.
    Bags(Row),
    /// Indices along the first axes of a value, side by side on a last axis; some of them numbers of rows.
    Places(Vec<Row>),
}

/// An ONNX value.
#[derive(Clone, Debug)]
pub enum Value {
    /// An optional input or output that is not there.
    Absent,
    /// Known elements.
    Const(Const),
    /// Integers of which some depend on the number of rows.
    Sizes(Nd<Size>),
    /// Computed.
    Row(Row),
    /// Of all rows at once.
    Held(Held),
}

impl Value {
    /// Sizes; a constant if none depends on the rows.
    pub fn sizes(name: &str, sizes: Nd<Size>) -> Value {
        match sizes.data.iter().map(|size| size.known()).collect::<Option<Vec<i64>>>() {
            Some(data) => Value::Const(Const::integers(name, Elem::I64, Nd { shape: sizes.shape, data })),
            None => Value::Sizes(sizes),
        }
    }

    /// Axes of its ONNX shape.
    pub fn rank(&self) -> usize {
        match self {
            Value::Absent => 0,
            Value::Const(value) => value.shape.len(),
            Value::Sizes(sizes) => sizes.shape.len(),
            Value::Row(row) => row.rank(),
            Value::Held(_) => self.dims().len(),
        }
    }

    /// Its ONNX shape.
    pub fn dims(&self) -> Vec<Size> {
        let fixed = |shape: &[usize]| shape.iter().map(|size| Size::fixed(*size as i64)).collect();
        match self {
            Value::Absent => vec![],
            Value::Const(value) => fixed(&value.shape),
            Value::Sizes(sizes) => fixed(&sizes.shape),
            Value::Row(row) => row.dims(),
            Value::Held(Held::Steps(steps)) => steps.dims(),
            Value::Held(_) => vec![],
        }
    }

    /// Element type.
    pub fn elem(&self) -> Elem {
        match self {
            Value::Const(value) => value.elem,
            Value::Row(row) => row.elem,
            Value::Held(Held::Steps(steps)) => steps.elem,
            Value::Held(Held::Bags(row)) => row.elem,
            Value::Sizes(_) | Value::Absent | Value::Held(Held::Empty | Held::Places(_)) => Elem::I64,
        }
    }

    /// The constant, if it is one.
    pub fn constant(&self) -> Option<&Const> {
        match self {
            Value::Const(value) => Some(value),
            _ => None,
        }
    }

    /// Whether it is there.
    pub fn is_there(&self) -> bool {
        !matches!(self, Value::Absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_of_rows() {
        let row = |batch, shape: &[usize]| Row { batch, shape: shape.to_vec(), elem: Elem::F32, repr: Repr::Ir(IrId(0)) };
        let n = |rows| Size { rows, fixed: 0 };
        let k = Size::fixed;
        let cases = [
            (row(Some(Batch::at(0)), &[3, 4]), vec![n(1), k(3), k(4)], vec![None, Some(0), Some(1)]),
            (row(Some(Batch::at(1)), &[3, 4]), vec![k(3), n(1), k(4)], vec![Some(0), None, Some(1)]),
            (row(Some(Batch { at: 0, outer: 1, inner: 3 }), &[3, 4]), vec![n(3), k(4)], vec![None, Some(1)]),
            (row(Some(Batch { at: 0, outer: 2, inner: 3 }), &[2, 3, 4]), vec![n(6), k(4)], vec![None, Some(2)]),
            (row(None, &[3, 4]), vec![k(3), k(4)], vec![Some(0), Some(1)]),
            (row(Some(Batch::at(0)), &[]), vec![n(1)], vec![None]),
        ];
        for (row, dims, axes) in cases {
            assert_eq!(row.dims(), dims, "{row:?}");
            assert_eq!(row.rank(), dims.len(), "{row:?}");
            assert_eq!((0..dims.len()).map(|axis| row.axis(axis)).collect::<Vec<_>>(), axes, "{row:?}");
        }
    }
}
