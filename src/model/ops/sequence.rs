//! Sequences: attention and recurrent layers.

use crate::model::arguments::{Gru, GruKind};
use crate::model::graph::{DType, ValueId};
use crate::model::json::{At, Object, quote};
use crate::model::manifest::choice;
use crate::model::op::Op;
use crate::model::resolve::{Builder, scalar};
use crate::model::shape;

use super::{Checked, Made, flag};

impl Builder<'_> {
    pub(super) fn sdpa(&mut self, object: &Object<'_>) -> Checked<Made> {
        let part = |key| object.required(key).and_then(|at| self.float(&at));
        let (q, k, v) = (part("q")?, part("k")?, part("v")?);
        let shapes = [q, k, v].map(|id| self.value(id).shape.as_slice());
        let [[q_lead @ .., rows, width], [k_lead @ .., keys, k_width], [v_lead @ .., v_keys, v_width]] = shapes else {
            return Err(object.at.fault(shapes_of(shapes), SDPA, "Give each at least two axes"));
        };
        let lead = shape::broadcast(q_lead, k_lead).and_then(|lead| shape::broadcast(&lead, v_lead));
        let Some(lead) = lead.filter(|_| width == k_width && keys == v_keys) else {
            return Err(object.at.fault(shapes_of(shapes), SDPA, "Transpose or reshape them"));
        };
        let scores = [&lead[..], &[*rows, *keys]].concat();
        let shape = [&lead[..], &[*rows, *v_width]].concat();
        let width = *width;
        let mask = object.optional("mask").map(|at| self.mask(&at, &scores)).transpose()?;
        let scale = match object.optional("scale") {
            Some(at) => scalar(&at, at.number()?)?,
            None => 1.0 / (width as f64).sqrt(),
        };
        let causal = flag(object, "causal", false)?;
        Ok((Op::Sdpa { q, k, v, mask, scale, causal }, shape, DType::F32))
    }

    fn mask(&self, at: &At<'_>, scores: &[usize]) -> Checked<ValueId> {
        let mask = self.input(at)?;
        let value = self.value(mask);
        if shape::broadcast(&value.shape, scores).as_deref() != Some(scores) {
            let found = format!("value {:?} of shape {:?}", value.name, value.shape);
            return Err(at.fault(found, format!("one that broadcasts to [.., L, S] = {scores:?}"), "Reshape it"));
        }
        Ok(mask)
    }

    pub(super) fn gru(&mut self, object: &Object<'_>) -> Checked<Made> {
        let in_at = object.required("in")?;
        let x = self.float(&in_at)?;
        let [steps, inputs] = self.value(x).shape[..] else {
            let found = format!("value {:?} of shape {:?}", self.value(x).name, self.value(x).shape);
            return Err(in_at.fault(found, "a sequence [T, I]", "Shapes are per row, without the batch"));
        };
        let hh_at = object.required("w_hh")?;
        let w_hh = self.tensor(&hh_at)?;
        let hidden = match self.tensor_use(w_hh).shape[..] {
            [gates, hidden] if hidden.checked_mul(3) == Some(gates) => hidden,
            _ => {
                let found = format!("tensor {} has shape {:?}", quote(hh_at.text()?), self.tensor_use(w_hh).shape);
                return Err(hh_at.fault(found, "[3 * H, H]", "Three gates, one below the other: r, z, n"));
            }
        };
        let w_ih = self.tensor_of(&object.required("w_ih")?, &[3 * hidden, inputs])?;
        let b_ih = object.optional("b_ih").map(|at| self.tensor_of(&at, &[3 * hidden])).transpose()?;
        let b_hh = object.optional("b_hh").map(|at| self.tensor_of(&at, &[3 * hidden])).transpose()?;
        let h0 = object.optional("h0").map(|at| self.float(&at).and_then(|id| self.shaped(&at, id, &[hidden]))).transpose()?;
        let length = object.optional("length").map(|at| self.integers(&at).and_then(|id| self.shaped(&at, id, &[]))).transpose()?;
        let attention = object.optional("attention").map(|at| self.float(&at).and_then(|id| self.shaped(&at, id, &[steps]))).transpose()?;
        let kind = object.optional("kind").map_or(Ok(GruKind::Gru), |at| choice(&at, &GruKind::NAMES))?;
        if attention.is_some() != (kind != GruKind::Gru) {
            let found = if attention.is_some() { "attention, and kind \"gru\"" } else { "no attention" };
            let expected = "attention with the kinds \"agru\" and \"augru\", and with no other";
            return Err(object.at.fault(found, expected, "Correct kind, or attention"));
        }
        let reset_after = flag(object, "reset_after", true)?;
        let (reverse, last) = (flag(object, "reverse", false)?, flag(object, "last", false)?);
        let shape = if last { vec![hidden] } else { vec![steps, hidden] };
        let gru = Gru { x, w_ih, w_hh, b_ih, b_hh, h0, length, attention, kind, reset_after, reverse, last };
        Ok((Op::Gru(gru), shape, DType::F32))
    }

    /// The value `id`, which must have this shape.
    fn shaped(&self, at: &At<'_>, id: ValueId, shape: &[usize]) -> Checked<ValueId> {
        let value = self.value(id);
        if value.shape == shape {
            return Ok(id);
        }
        Err(at.fault(format!("value {:?} of shape {:?}", value.name, value.shape), format!("shape {shape:?}"), "Reshape it"))
    }
}

fn shapes_of([q, k, v]: [&[usize]; 3]) -> String {
    format!("q {q:?}, k {k:?}, v {v:?}")
}

const SDPA: &str = "q [.., L, E], k [.., S, E], v [.., S, V], leading axes that broadcast";
