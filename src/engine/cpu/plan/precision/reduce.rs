//! The pass that gives layers another precision.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::engine::EngineError;
use crate::engine::cpu::gemm::half::{HalfMatrix, Widening};
use crate::engine::cpu::gemm::int8::{Dot, Int8Matrix, ranges, row_bytes};
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::task::{PlanValue, Task, ValueIndex, Work};
use crate::engine::cpu::simd::Simd;
use crate::model::DType;

use super::balance::Factors;
use super::parts::{Makers, pieces};

/// What becomes of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Stays as it is.
    F32,
    /// 8-bit codes; parts of the inputs are cut into pieces of at most [`PIECES`] of this number.
    Int8(usize),
    /// Weights of 16 bits.
    F16,
}

/// Most inputs that share a scale, from coarse to fine.
pub const PIECES: [usize; 4] = [usize::MAX, 128, 64, 32];

/// A dense layer of the lowered graph.
#[derive(Clone, Debug)]
pub struct Layer {
    /// What it computes.
    pub out: ValueIndex,
    /// Inputs.
    pub k: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs of one source.
    pub parts: Vec<usize>,
}

impl Layer {
    /// Inputs that share a scale.
    pub fn pieces(&self, step: usize) -> Vec<usize> {
        pieces(&self.parts, PIECES[step])
    }
}

/// All dense layers, in order.
pub fn layers(lowered: &Lowered) -> Vec<Layer> {
    let makers = Makers::new(lowered);
    let linear = lowered.tasks.iter().filter_map(|task| match &task.work {
        Work::Linear { x, matrix, .. } if matrix.k > 0 && matrix.n > 0 => {
            Some(Layer { out: task.out, k: matrix.k, n: matrix.n, parts: makers.parts(*x, matrix.k) })
        }
        _ => None,
    });
    linear.collect()
}

/// Reduced weights by layer (and parts): plans that are compared share them.
#[derive(Default)]
pub struct Reduced {
    int8: HashMap<(usize, Vec<usize>), Arc<Int8Matrix>>,
    half: HashMap<usize, Arc<HalfMatrix>>,
}

/// Gives each layer, in the order of [`layers`], its precision.
pub fn reduce(lowered: &mut Lowered, choices: &[Choice], factors: &Factors, simd: Simd, reduced: &mut Reduced) -> Result<(), EngineError> {
    let layers = layers(lowered);
    assert_eq!(layers.len(), choices.len(), "a choice per layer");
    let by_value: HashMap<ValueIndex, usize> = layers.iter().enumerate().map(|(at, layer)| (layer.out, at)).collect();
    let (dot, widening) = (Dot::of(simd), Widening::of(simd));
    // Layers that read the same value share its codes.
    let mut codes: HashMap<(ValueIndex, Vec<usize>), ValueIndex> = HashMap::new();
    for task in std::mem::take(&mut lowered.tasks) {
        let at = by_value.get(&task.out).copied();
        let choice = at.map_or(Choice::F32, |at| choices[at]);
        let (Work::Linear { x, matrix, bias, addend, activation }, Some(at), true) = (&task.work, at, choice != Choice::F32) else {
            lowered.tasks.push(task);
            continue;
        };
        let (bias, addend, activation) = (bias.clone(), *addend, *activation);
        let work = match (choice, widening) {
            (Choice::Int8(step), _) => {
                let (parts, factors) = (layers[at].pieces(step), factors.get(x).map_or_else(|| Arc::new(vec![1.0; matrix.k]), Arc::clone));
                let packed = cached(&mut reduced.int8, (at, parts.clone()), || {
                    Int8Matrix::new(dot.level(), ranges(parts.iter().copied()), matrix.n, |k, n| matrix.at(k, n) * factors[k])
                })?;
                let inner = lowered.values[*x].len() / matrix.k;
                let codes = *codes.entry((*x, parts)).or_insert_with(|| {
                    let shape = vec![inner, row_bytes(&packed.ranges) / size_of::<f32>()];
                    lowered.values.push(PlanValue { shape, dtype: DType::F32, scope: lowered.values[*x].scope });
                    let codes = lowered.values.len() - 1;
                    let factors = Arc::new(factors.iter().map(|factor| 1.0 / factor).collect());
                    lowered.tasks.push(Task::new(codes, Work::Quantize { x: *x, factors, matrix: Arc::clone(&packed), dot }));
                    codes
                });
                Work::Int8Linear { x: codes, matrix: packed, dot, bias, addend, activation }
            }
            (Choice::F16, Some(widening)) => {
                let packed = cached(&mut reduced.half, at, || HalfMatrix::new(widening, matrix.k, matrix.n, |k, n| matrix.at(k, n)))?;
                Work::HalfLinear { x: *x, matrix: packed, bias, addend, activation }
            }
            (Choice::F16 | Choice::F32, _) => unreachable!("f16 is chosen where it can be computed alone"),
        };
        lowered.tasks.push(Task { out: task.out, work, notes: task.notes });
    }
    Ok(())
}

fn cached<K: Hash + Eq, M>(
    known: &mut HashMap<K, Arc<M>>,
    key: K,
    make: impl FnOnce() -> Result<M, EngineError>,
) -> Result<Arc<M>, EngineError> {
    if let Some(made) = known.get(&key) {
        return Ok(Arc::clone(made));
    }
    let made = Arc::new(make()?);
    known.insert(key, Arc::clone(&made));
    Ok(made)
}
