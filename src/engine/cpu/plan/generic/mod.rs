//! Ops that become one kernel each: no pass looks into them. [`lower`] makes them of graph nodes, [`emit`] makes kernels of them.

pub mod attention;
mod emit;
mod lower;

use crate::engine::cpu::kernels::fold::FoldFn;
use crate::engine::cpu::kernels::gru::GruLayer;
use crate::engine::cpu::kernels::trees::TreeNode;
use crate::engine::cpu::kernels::window::{PoolFn, Shape};
use crate::model::{Comparison, LogicFn, TableId};

use super::task::ValueIndex;

use self::attention::Attention;

/// What such a task does. Shapes are those of the values. `room` is a value of the planner's own that nothing else touches.
#[derive(Debug)]
#[allow(missing_docs)] // arguments are those of `model::Op`
pub enum Generic {
    Compare {
        cmp: Comparison,
        a: ValueIndex,
        b: ValueIndex,
    },
    Logic {
        function: LogicFn,
        a: ValueIndex,
        b: ValueIndex,
    },
    Not {
        x: ValueIndex,
    },
    Where {
        cond: ValueIndex,
        a: ValueIndex,
        b: ValueIndex,
    },
    Fold {
        function: FoldFn,
        x: ValueIndex,
        axes: Vec<usize>,
    },
    CumSum {
        x: ValueIndex,
        axis: usize,
        exclusive: bool,
        reverse: bool,
    },
    Pad {
        x: ValueIndex,
        pads: Vec<(usize, usize)>,
        fill: f64,
    },
    Pick {
        x: ValueIndex,
        index: ValueIndex,
        axis: usize,
    },
    TakeAlong {
        x: ValueIndex,
        index: ValueIndex,
        axis: usize,
    },
    Embedding {
        index: ValueIndex,
        table: TableId,
    },
    OneHot {
        x: ValueIndex,
        on: f32,
        off: f32,
    },
    Top {
        x: ValueIndex,
        axis: usize,
        largest: bool,
        indices: bool,
    },
    LayerNorm {
        x: ValueIndex,
        size: usize,
        weight: Option<Vec<f32>>,
        bias: Option<Vec<f32>>,
        eps: f32,
    },
    Conv {
        x: ValueIndex,
        shape: Shape,
        groups: usize,
        inputs: usize,
        outputs: usize,
        weight: Vec<f32>,
        bias: Vec<f32>,
    },
    Pool {
        function: PoolFn,
        x: ValueIndex,
        shape: Shape,
    },
    Attention(Box<Attention>),
    /// `gates`: the inputs' part. `weights`: of the state, `[3 · hidden][hidden]`; `bias`: of the state's part of n, none or `[hidden]`.
    Gru {
        gates: ValueIndex,
        first: Option<ValueIndex>,
        length: Option<ValueIndex>,
        attention: Option<ValueIndex>,
        weights: Vec<f32>,
        bias: Vec<f32>,
        layer: GruLayer,
    },
    Trees {
        x: ValueIndex,
        room: ValueIndex,
        nodes: Vec<TreeNode>,
        roots: Vec<u32>,
        leaves: Vec<f32>,
    },
}

impl Generic {
    /// Memory that it works in, if it has some: nothing that it is given.
    pub fn room(&self) -> Option<ValueIndex> {
        match self {
            Generic::Attention(attention) => Some(attention.room),
            Generic::Trees { room, .. } => Some(*room),
            Generic::Gru { .. }
            | Generic::Compare { .. }
            | Generic::Logic { .. }
            | Generic::Not { .. }
            | Generic::Where { .. }
            | Generic::Fold { .. }
            | Generic::CumSum { .. }
            | Generic::Pad { .. }
            | Generic::Pick { .. }
            | Generic::TakeAlong { .. }
            | Generic::Embedding { .. }
            | Generic::OneHot { .. }
            | Generic::Top { .. }
            | Generic::LayerNorm { .. }
            | Generic::Conv { .. }
            | Generic::Pool { .. } => None,
        }
    }

    /// The values it reads, and its room: that is memory too.
    pub fn inputs(&self) -> Vec<ValueIndex> {
        match self {
            Generic::Compare { a, b, .. } | Generic::Logic { a, b, .. } => vec![*a, *b],
            Generic::Where { cond, a, b } => vec![*cond, *a, *b],
            Generic::Pick { x, index, .. } | Generic::TakeAlong { x, index, .. } => vec![*x, *index],
            Generic::Embedding { index, .. } => vec![*index],
            Generic::Attention(attention) => attention.inputs(),
            Generic::Gru { gates, first, length, attention, .. } => {
                [Some(*gates), *first, *length, *attention].into_iter().flatten().collect()
            }
            Generic::Trees { x, room, .. } => vec![*x, *room],
            Generic::Not { x }
            | Generic::Fold { x, .. }
            | Generic::CumSum { x, .. }
            | Generic::Pad { x, .. }
            | Generic::OneHot { x, .. }
            | Generic::Top { x, .. }
            | Generic::LayerNorm { x, .. }
            | Generic::Conv { x, .. }
            | Generic::Pool { x, .. } => vec![*x],
        }
    }
}
