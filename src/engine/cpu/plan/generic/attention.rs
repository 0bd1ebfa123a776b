//! Attention over rows that lie anywhere in their values.

use crate::engine::cpu::kernels::attention::AttentionShape;
use crate::engine::cpu::plan::strides::{Loop, Strided};
use crate::engine::cpu::plan::task::{PlanValue, ValueIndex};
use crate::engine::cpu::walk::Dim;
use crate::model::DType;

/// An attention as its kernel runs it.
#[derive(Debug)]
pub struct Attention {
    /// Loops over heads: steps of (out, q, k, v, mask).
    pub lead: Vec<Dim<5>>,
    /// Queries: whose elements, and the first one.
    pub q: (ValueIndex, usize),
    /// Keys.
    pub k: (ValueIndex, usize),
    /// Values.
    pub v: (ValueIndex, usize),
    /// Which keys count.
    pub mask: Option<PlacedMask>,
    /// Sizes and steps.
    pub shape: AttentionShape,
    /// Room for the kernel.
    pub room: ValueIndex,
}

impl Attention {
    /// The values it reads, and its room.
    pub fn inputs(&self) -> Vec<ValueIndex> {
        let mask = self.mask.as_ref().map(|mask| mask.value);
        [self.q.0, self.k.0, self.v.0, self.room].into_iter().chain(mask).collect()
    }
}

/// A mask, and where it lies.
#[derive(Debug)]
pub struct PlacedMask {
    /// Whose elements.
    pub value: ValueIndex,
    /// The first one.
    pub first: usize,
    /// Elements from query to query.
    pub row_step: usize,
    /// Elements from key to key.
    pub key_step: usize,
    /// What it does.
    pub hiding: Hiding,
}

/// What a mask's element does to a score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hiding {
    /// It is added.
    Added,
    /// If it is 0 (or is not), the score is this one.
    #[allow(missing_docs)]
    Truth { hides_zero: bool, score: f32 },
}

/// An operand: a matrix per head in its value's last two axes, or those exchanged.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// The value.
    pub value: ValueIndex,
    /// Whether its axes are exchanged.
    pub turned: bool,
}

/// A mask that broadcasts to the scores.
#[derive(Clone, Debug)]
pub struct Hidden {
    /// The value.
    pub value: ValueIndex,
    /// What it does.
    pub hiding: Hiding,
    /// The shape that it broadcasts to, if not that of the scores: the same rows of keys.
    pub to: Option<Vec<usize>>,
}

impl Hidden {
    /// The `sdpa` op's.
    pub fn of_op(value: ValueIndex, dtype: DType) -> Hidden {
        let hiding = match dtype {
            DType::F32 => Hiding::Added,
            DType::I64 => Hiding::Truth { hides_zero: true, score: f32::NEG_INFINITY },
        };
        Hidden { value, hiding, to: None }
    }
}

/// An attention before it is known where its operands lie.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Queries.
    pub q: Matrix,
    /// Keys.
    pub k: Matrix,
    /// Values.
    pub v: Matrix,
    /// Which keys count.
    pub mask: Option<Hidden>,
    /// Shape of the scores, if not that of the result but for the last axis: the same rows.
    pub scores: Option<Vec<usize>>,
    /// Factor of a score.
    pub scale: f32,
    /// Whether a query attends to no key behind its own place.
    pub causal: bool,
    /// See [`AttentionShape::nan_without_keys`].
    pub nan_without_keys: bool,
}

/// Where an operand's rows lie.
struct Rows {
    value: ValueIndex,
    first: usize,
    factor: f32,
    lead: Vec<Loop>,
    row_step: usize,
    column_step: usize,
}

impl Wanted {
    /// Places it: `out` is the result `[lead.., rows, values]`, which is written as `written` says (`None`: as it is). `values` knows values;
    /// `lies(value, attempt)` says where one lies: at best (attempt 0), or as it is. None if operands do not lie in rows.
    pub fn placed(
        &self,
        out: ValueIndex,
        written: Option<&Strided>,
        values: &dyn Fn(ValueIndex) -> PlanValue,
        lies: &dyn Fn(ValueIndex, usize) -> Strided,
    ) -> Option<Attention> {
        let result = values(out).shape;
        let (lead, &[rows, columns]) = result.split_last_chunk::<2>()?;
        let of = |matrix: Matrix| {
            let mut shape = values(matrix.value).shape;
            let rank = shape.len();
            (rank >= 2).then(|| {
                if matrix.turned {
                    shape.swap(rank - 1, rank - 2);
                }
                shape
            })
        };
        let (k_shape, v_shape) = (of(self.k)?, of(self.v)?);
        let &[keys, width] = k_shape.last_chunk::<2>()?;
        if *v_shape.last_chunk::<2>()? != [keys, columns] || of(self.q)?.last_chunk::<2>()? != &[rows, width] {
            return None;
        }
        // Where the scores have another shape than the result, their rows are the same, and their leading axes as many.
        let scores = self.scores.clone().unwrap_or_else(|| [lead, &[rows, keys]].concat());
        let (scores_lead, &[scores_rows, scores_keys]) = scores.split_last_chunk::<2>()?;
        if [scores_rows, scores_keys] != [rows, keys] || scores_lead.iter().product::<usize>() != lead.iter().product::<usize>() {
            return None;
        }
        let find = |matrix: Matrix, to: &[usize], [rows, columns]: [usize; 2], any_factor: bool| {
            (0..2).find_map(|attempt| {
                let lying = lies(matrix.value, attempt);
                if lying.factor != 1.0 && !any_factor {
                    return None;
                }
                let own = values(matrix.value).shape;
                let found = Rows::new(&lying, own, matrix.turned, &[to, &[rows, columns]].concat(), &[lead, &[rows, columns]].concat())?;
                (columns == 1 || found.column_step == 1).then_some(found)
            })
        };
        let q = find(self.q, scores_lead, [rows, width], true)?;
        let k = find(self.k, scores_lead, [keys, width], true)?;
        let v = find(self.v, lead, [keys, columns], false)?;
        let out = written.cloned().unwrap_or_else(|| Strided::whole(out, result.iter().product()));
        let out = Rows::new(&out, result.clone(), false, &result, &result)?;
        if columns > 1 && out.column_step != 1 {
            return None;
        }
        let mut hidden = None;
        if let Some(mask) = &self.mask {
            let to = mask.to.as_ref().unwrap_or(&scores);
            let found = (0..2).find_map(|attempt| {
                let lying = Some(lies(mask.value, attempt)).filter(|lying| lying.factor == 1.0)?;
                Rows::new(&lying, values(mask.value).shape, false, to, &[lead, &[rows, keys]].concat())
            });
            hidden = Some((found?, mask.hiding));
        }
        let mask_lead = hidden.as_ref().map_or(vec![(lead.iter().product(), 0)], |(mask, _)| mask.lead.clone());
        let shape = AttentionShape {
            rows,
            keys,
            width,
            values: columns,
            steps: [out.row_step, q.row_step, k.row_step, v.row_step],
            scale: self.scale * q.factor * k.factor,
            causal: self.causal,
            nan_without_keys: self.nan_without_keys,
        };
        Some(Attention {
            lead: common([out.lead, q.lead, k.lead, v.lead, mask_lead])?,
            q: (q.value, q.first),
            k: (k.value, k.first),
            v: (v.value, v.first),
            mask: hidden.map(|(mask, hiding)| PlacedMask {
                value: mask.value,
                first: mask.first,
                row_step: mask.row_step,
                key_step: mask.column_step,
                hiding,
            }),
            shape,
            room: usize::MAX,
        })
    }
}

impl Rows {
    /// `lying`: elements of shape `own`, its last axes exchanged if `turned`, spread to `to`; seen as `[lead.., rows, columns]`.
    fn new(lying: &Strided, mut own: Vec<usize>, turned: bool, to: &[usize], seen: &[usize]) -> Option<Rows> {
        let mut axes = lying.axes(&own)?;
        if turned {
            let rank = own.len();
            axes.swap(rank - 1, rank - 2);
            own.swap(rank - 1, rank - 2);
        }
        let mut axes = lying.spread(axes, &own, to)?.axes(seen)?;
        let step = |loops: Vec<Loop>| match loops[..] {
            [] => Some(0),
            [(_, step)] => Some(step),
            _ => None,
        };
        let (column_step, row_step) = (step(axes.pop()?)?, step(axes.pop()?)?);
        let lead = axes.into_iter().flatten().collect();
        Some(Rows { value: lying.value, first: lying.first, factor: lying.factor, lead, row_step, column_step })
    }
}

/// Loops that walk all of these side by side, if some do.
fn common(mut lists: [Vec<Loop>; 5]) -> Option<Vec<Dim<5>>> {
    lists.iter_mut().for_each(|list| list.retain(|&(turns, _)| turns != 1));
    let mut dims = Vec::new();
    while lists.iter().any(|list| !list.is_empty()) {
        let size = lists.iter().map(|list| list.last().map(|&(turns, _)| turns)).min()??;
        let mut strides = [0; 5];
        for (list, stride) in lists.iter_mut().zip(&mut strides) {
            let (turns, step) = list.pop()?;
            *stride = step;
            if turns % size != 0 {
                return None;
            }
            if turns > size {
                list.push((turns / size, step * size));
            }
        }
        dims.insert(0, Dim { size, strides });
    }
    Some(dims)
}
