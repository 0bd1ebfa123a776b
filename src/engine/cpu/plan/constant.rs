//! Values that depend on weights alone: computed once, by the same kernels, while the program is made.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::batch::{Inputs, Layout, Rows, Starts};
use crate::engine::EngineError;
use crate::engine::cpu::gemm::Packer;
use crate::engine::cpu::memory::{Block, Place, Region};
use crate::engine::cpu::program::Step;
use crate::engine::cpu::simd::Simd;
use crate::engine::cpu::tile::{Memory, Tile};
use crate::model::{DType, Model, Tensor, TensorData, ValueScope};

use super::emit::emit;
use super::place::{ConstantBlock, Placing};
use super::task::{PlanValue, Task, ValueIndex};

/// Elements of a constant value; a tensor's are borrowed.
#[derive(Clone, Debug, PartialEq)]
pub enum Constant<'a> {
    /// Floats.
    F32(Cow<'a, [f32]>),
    /// Integers.
    I64(Cow<'a, [i64]>),
}

impl<'a> Constant<'a> {
    /// A tensor of the weights.
    pub fn of_tensor(tensor: &'a Tensor) -> Constant<'a> {
        match &tensor.data {
            TensorData::F32(values) => Constant::F32(values.into()),
            TensorData::I64(values) => Constant::I64(values.into()),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Constant::F32(values) => bytemuck::cast_slice(values),
            Constant::I64(values) => bytemuck::cast_slice(values),
        }
    }
}

/// Runs one task whose inputs are constants.
pub fn evaluate<'a>(
    task: &Task,
    values: &[PlanValue],
    constants: &HashMap<ValueIndex, Constant<'a>>,
    model: &Model,
    layout: &Layout,
    simd: Simd,
) -> Result<Constant<'a>, EngineError> {
    let out = &values[task.out];
    let mut places = ConstantsOnly { values, constants, block: ConstantBlock::default(), out: (task.out, 0) };
    places.out.1 = places.block.reserve(out.len() * out.element_bytes());
    let (mut steps, mut packer) = (Vec::new(), Packer::new(simd));
    if out.len() > 0 {
        emit(task, values, &mut places, &mut packer, layout, model, &mut steps);
    }
    let packed = packer.pack()?;
    let at = places.out.1;
    let mut block = places.block.into_block("constants")?;
    let none = Rows {
        count: 0,
        dense_width: 0,
        dense: &[],
        ids: &[],
        starts: Starts::Fixed { stride: 0, offsets: &[] },
        weights: &[],
        int_width: 0,
        ints: &[],
    };
    let scratch_bytes = steps.iter().map(Step::scratch_bytes).max().unwrap_or(0);
    let mut scratch = Block::zeroed("scratch memory", scratch_bytes)?;
    let memory = block.as_mut_slice::<u8>().as_mut_ptr();
    let tile = Tile {
        simd,
        scope: ValueScope::Constant,
        first: 0,
        rows: 1,
        tile_row: 0,
        inputs: Inputs { contexts: none, candidates: none, row_context: &[], segments: &[] },
        weights: &model.weights,
        packed: packed.as_slice(),
        memory: Memory {
            constants: memory,
            contexts: std::ptr::null_mut(),
            tile: std::ptr::null_mut(),
            scratch: scratch.as_mut_slice::<u8>().as_mut_ptr(),
            scratch_bytes,
        },
    };
    for step in &steps {
        step.run_all(&tile);
    }
    let bytes = &block.as_slice::<u8>()[at..at + out.len() * out.element_bytes()];
    Ok(match out.dtype {
        DType::F32 => Constant::F32(bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned::<f32>).collect::<Vec<_>>().into()),
        DType::I64 => Constant::I64(bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned::<i64>).collect::<Vec<_>>().into()),
    })
}

/// Everything in one block: the task's inputs, copied in when asked for, and its output.
struct ConstantsOnly<'c, 'a> {
    values: &'c [PlanValue],
    constants: &'c HashMap<ValueIndex, Constant<'a>>,
    block: ConstantBlock,
    out: (ValueIndex, usize),
}

impl Placing for ConstantsOnly<'_, '_> {
    fn of(&mut self, value: ValueIndex) -> Place {
        let len = self.values[value].len();
        if value == self.out.0 {
            return Place { region: Region::Constant, offset: self.out.1, stride: 0, len };
        }
        let constant = self.constants.get(&value).expect("a constant's inputs are constants made before it");
        Place { region: Region::Constant, offset: self.block.add(value, constant.bytes()), stride: 0, len }
    }
}
