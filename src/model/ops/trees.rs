//! Ensembles of decision trees.

use crate::model::arguments::Trees;
use crate::model::graph::DType;
use crate::model::json::{At, Object, quote};
use crate::model::op::Op;
use crate::model::resolve::Builder;
use crate::model::weights::TensorId;

use super::{Checked, Made};

impl Builder<'_> {
    pub(super) fn trees(&mut self, object: &Object<'_>) -> Checked<Made> {
        let in_at = object.required("in")?;
        let x = self.float(&in_at)?;
        if self.value(x).shape.len() != 1 {
            let found = format!("value {:?} of shape {:?}", self.value(x).name, self.value(x).shape);
            return Err(in_at.fault(found, "features side by side: [F]", "Concat or reshape them"));
        }
        let mode_at = object.required("mode")?;
        let mode = self.integer_tensor(&mode_at)?;
        let [nodes] = self.tensor_use(mode).shape[..] else {
            return Err(self.misshapen(&mode_at, mode, "[nodes]")?);
        };
        let threshold = self.tensor_of(&object.required("threshold")?, &[nodes])?;
        let feature = self.per_node(&object.required("feature")?, nodes)?;
        let (yes, no) = (self.per_node(&object.required("yes")?, nodes)?, self.per_node(&object.required("no")?, nodes)?);
        let missing_yes = object.optional("missing_yes").map(|at| self.per_node(&at, nodes)).transpose()?;
        let roots_at = object.required("roots")?;
        let roots = self.integer_tensor(&roots_at)?;
        if self.tensor_use(roots).shape.len() != 1 {
            return Err(self.misshapen(&roots_at, roots, "[trees]")?);
        }
        let leaves_at = object.required("leaves")?;
        let leaves = self.tensor(&leaves_at)?;
        let [_, targets] = self.tensor_use(leaves).shape[..] else {
            return Err(self.misshapen(&leaves_at, leaves, "[leaves, targets]")?);
        };
        let trees = Trees { x, feature, threshold, mode, yes, no, missing_yes, roots, leaves };
        self.require_order(trees, &object.at);
        Ok((Op::Trees(trees), vec![targets], DType::F32))
    }

    fn per_node(&mut self, at: &At<'_>, nodes: usize) -> Checked<TensorId> {
        let id = self.integer_tensor(at)?;
        if self.tensor_use(id).shape == [nodes] {
            return Ok(id);
        }
        Err(self.misshapen(at, id, &format!("[{nodes}], one per node as in mode"))?)
    }

    fn misshapen(&self, at: &At<'_>, id: TensorId, expected: &str) -> Checked<Box<crate::model::error::Fault>> {
        let found = format!("tensor {} has shape {:?}", quote(at.text()?), self.tensor_use(id).shape);
        Ok(at.fault(found, expected, "Export the trees again"))
    }
}
