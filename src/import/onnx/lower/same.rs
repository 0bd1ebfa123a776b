//! Whether two values are computed alike: a loop over bags may treat the last one in its own way, to the same end.

use super::super::ir::{Arg, IrId, Kind, Step};
use super::Lower;

impl Lower {
    /// Whether two values are computed by the same steps.
    pub fn same(&self, a: IrId, b: IrId, depth: usize) -> bool {
        if a == b {
            return true;
        }
        let (x, y) = (&self.nodes[a.0], &self.nodes[b.0]);
        let (Kind::Step(p), Kind::Step(q)) = (&x.kind, &y.kind) else { return false };
        let args = |p: &Arg, q: &Arg| match (p, q) {
            (Arg::Value(p), Arg::Value(q)) => self.same(*p, *q, depth + 1),
            (p, q) => p == q,
        };
        depth < 6
            && x.shape == y.shape
            && x.dtype == y.dtype
            && (p.op, &p.args) == (q.op, &q.args)
            && p.tensors.is_empty()
            && q.tensors.is_empty()
            && p.table.is_none()
            && q.table.is_none()
            && p.inputs.len() == q.inputs.len()
            && p.inputs.iter().zip(&q.inputs).all(|(p, q)| p.0 == q.0 && args(&p.1, &q.1))
    }

    /// Whether `sum` is a sum divided by the number of its terms, and `mean` the mean of the same.
    pub fn same_mean(&self, sum: IrId, mean: IrId) -> bool {
        let step = |id: IrId| if let Kind::Step(step) = &self.nodes[id.0].kind { Some(step) } else { None };
        let Some(divided) = step(sum).filter(|step| step.op == "div") else { return false };
        let [(_, Arg::Value(total)), (_, Arg::Number(count))] = divided.inputs[..] else { return false };
        if count == 1.0 && self.same(total, mean, 0) {
            return true;
        }
        let (Some(total), Some(mean)) = (step(total), step(mean)) else { return false };
        let ([(_, Arg::Value(terms))], [(_, Arg::Value(others))]) = (&total.inputs[..], &mean.inputs[..]) else { return false };
        let axes = serde_json::json!([0]);
        let first_axis = |step: &Step| step.args.iter().any(|(key, value)| *key == "axes" && *value == axes);
        total.op == "reduce_sum"
            && mean.op == "reduce_mean"
            && first_axis(total)
            && total.args == mean.args
            && self.shape(*terms).first().is_some_and(|size| *size as f64 == count)
            && self.same(*terms, *others, 0)
    }
}
