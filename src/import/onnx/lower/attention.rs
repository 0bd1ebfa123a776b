//! Attention (opset 23): softmax(Q · Kᵀ · scale + mask) · V of each row.

use serde_json::json;

use crate::model::DType;

use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId, Step};
use super::super::nd::Move;
use super::super::node::Node;
use super::super::value::{Batch, Row, Size, Value, mixes};
use super::Lower;
use super::ops::{input, optional};
use super::steps::number;

const INCONSISTENT: &str = "Export the model again: the graph is not consistent";

impl Lower {
    /// Attention of queries, keys and values [N, heads, L, E], or [N, L, heads · E] with the heads as attributes.
    pub fn attention(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        if (4..inputs.len()).any(|at| optional(inputs, at).is_some()) || (1..4).any(|output| node.wants(output)) {
            let what = "attention with past keys and values, lengths of keys, or its scores as an output";
            return Err(problem(what, "Export the model without a cache: a request brings the whole history"));
        }
        if node.float("softcap", 0.0) != 0.0 {
            return Err(problem("attention with a softcap", "Write the attention out: matmul, tanh, softmax, matmul"));
        }
        let flat = input(inputs, 0)?.rank() == 3;
        let q = self.heads(node, input(inputs, 0)?, "q_num_heads")?;
        let k = self.heads(node, input(inputs, 1)?, "kv_num_heads")?;
        let v = self.heads(node, input(inputs, 2)?, "kv_num_heads")?;
        let ([heads, queries, width], [kv_heads, keys, k_width], [v_heads, v_keys, v_width]) = (&q.shape[..], &k.shape[..], &v.shape[..])
        else {
            return Err(problem("queries, keys or values that are not [N, heads, length, width]", INCONSISTENT));
        };
        if width != k_width || keys != v_keys || kv_heads != v_heads {
            return Err(problem(format!("queries {:?}, keys {:?} and values {:?} per row", q.shape, k.shape, v.shape), INCONSISTENT));
        }
        if heads != kv_heads {
            return Err(problem(format!("{heads} heads of queries for {kv_heads} of keys"), "Repeat the keys and values for every head"));
        }
        if node.flag("is_causal") && queries > keys {
            return Err(problem(format!("causal attention of {queries} queries to {keys} keys"), "Give a mask instead of is_causal"));
        }
        let mut step_inputs = vec![("q", Arg::Value(self.ir(&q)?)), ("k", Arg::Value(self.ir(&k)?)), ("v", Arg::Value(self.ir(&v)?))];
        if let Some(mask) = optional(inputs, 3) {
            step_inputs.push(("mask", Arg::Value(self.attention_mask(mask)?)));
        }
        let mut args = Vec::new();
        if node.has("scale") {
            args.push(("scale", number(node.float("scale", 1.0))));
        }
        if node.flag("is_causal") {
            args.push(("causal", json!(true)));
        }
        let shape = vec![*heads, *queries, *v_width];
        let id = self.step(Step { op: "sdpa", inputs: step_inputs, args, ..Step::default() }, shape.clone(), DType::F32)?;
        let result = Lower::row_of(Some(Batch::at(0)), q.elem, shape.clone(), id);
        if !flat {
            return Ok(vec![result]);
        }
        let sides = self.permuted(&result, &[0, 2, 1, 3])?;
        let f = |size: usize| Size::fixed(size as i64);
        Ok(vec![self.shaped(&sides, &[Size { rows: 1, fixed: 0 }, f(shape[1]), f(shape[0] * shape[2])], true)?])
    }

    /// [heads, L, E] per row.
    fn heads(&mut self, node: &Node<'_>, value: &Value, count: &str) -> Checked<Row> {
        let row = match value.rank() {
            4 => self.batch_first(value, "attends")?,
            3 => {
                let row = self.batch_first(value, "attends")?;
                let heads = usize::try_from(node.int(count, 0)).unwrap_or(0);
                let ([length, width], true) = (&row.shape[..], row.batch.is_some()) else { return Err(mixes("attends")) };
                if heads == 0 || width % heads != 0 {
                    return Err(problem(format!("{width} elements for {heads} heads"), INCONSISTENT));
                }
                let apart = self.move_row(&row, &Move::Reshape(vec![*length, heads, width / heads]))?;
                self.move_row(&apart, &Move::Transpose(vec![1, 0, 2]))?
            }
            _ => return Err(problem("queries, keys or values that are not [N, heads, length, width]", INCONSISTENT)),
        };
        match row.batch {
            Some(batch) if batch == Batch::at(0) => Ok(row),
            _ => Err(mixes("attends")),
        }
    }

    /// A mask that broadcasts to [heads, L, S] per row: what holds the rows must be its first axis of four.
    fn attention_mask(&mut self, mask: &Value) -> Checked<IrId> {
        let row = self.row(mask)?;
        match row.batch {
            Some(batch) if batch == Batch::at(0) && row.rank() == 4 => self.ir(&row),
            None if row.rank() < 4 => self.ir(&row),
            None if row.rank() == 4 && row.shape[0] == 1 => {
                let own = self.move_row(&row, &Move::Reshape(row.shape[1..].to_vec()))?;
                self.ir(&own)
            }
            _ => Err(mixes("masks")),
        }
    }
}
