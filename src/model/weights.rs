//! Tensors in memory, and all numbers of a model.

use serde::{Deserialize, Serialize};

use super::table::{Table, TableId};

/// Index into [`Weights::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorId(pub u32);

/// Element type of a tensor in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TensorDType {
    /// 32-bit float.
    F32,
    /// 64-bit signed integer.
    I64,
}

/// A dense tensor, row-major. No float is NaN, and only what `const` alone reads may be infinite (checked at load).
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name in the weights file.
    pub name: String,
    /// Full shape.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: TensorData,
}

/// Elements of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// Floats.
    F32(Vec<f32>),
    /// Integers.
    I64(Vec<i64>),
}

impl Tensor {
    /// Bytes of its elements.
    pub fn bytes(&self) -> usize {
        match &self.data {
            TensorData::F32(values) => size_of_val(values.as_slice()),
            TensorData::I64(values) => size_of_val(values.as_slice()),
        }
    }
    /// The floats, if it holds floats.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            TensorData::F32(values) => Some(values),
            TensorData::I64(_) => None,
        }
    }
}

/// All numbers of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    /// Dense tensors.
    pub tensors: Vec<Tensor>,
    /// Embedding tables.
    pub tables: Vec<Table>,
}

impl Weights {
    /// The tensor behind an id.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0 as usize]
    }
    /// The table behind an id.
    pub fn table(&self, id: TableId) -> &Table {
        &self.tables[id.0 as usize]
    }
}
