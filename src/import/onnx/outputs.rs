//! Outputs of the graph as columns of the answer: one number each.

use super::error::{Checked, problem};
use super::ir::{Arg, IrId, Kind, Node};
use super::lower::{Lower, show};
use super::value::{Batch, Value};
use crate::limits::OUTPUTS_MAX;
use crate::model::{DType, OutputKind};

/// A column of the answer.
#[derive(Clone, Debug)]
pub struct Column {
    /// Which output of the graph.
    pub output: usize,
    /// Which element of it.
    pub element: usize,
    /// Name: the output's, with `.J` where it has several elements.
    pub name: String,
    /// What it is.
    pub kind: OutputKind,
    /// Its value, one element.
    pub id: IrId,
}

/// Whether a value can only be between 0 and 1, by how it is made.
fn is_probability(nodes: &[Node], id: IrId, depth: usize) -> bool {
    let Kind::Step(step) = &nodes[id.0].kind else { return false };
    let arg = |at: usize| step.inputs.get(at).map(|(_, arg)| arg);
    let of = |arg: Option<&Arg>| match arg {
        Some(Arg::Value(id)) => depth < 64 && is_probability(nodes, *id, depth + 1),
        Some(Arg::List(ids)) => depth < 64 && ids.iter().all(|id| is_probability(nodes, *id, depth + 1)),
        Some(Arg::Number(number)) => (0.0..=1.0).contains(number),
        None => false,
    };
    match step.op {
        "sigmoid" | "softmax" => true,
        "reshape" | "slice" | "transpose" | "concat" | "gather_const" | "broadcast" | "reduce_max" | "reduce_min" | "reduce_mean" => {
            of(arg(0))
        }
        "clamp" => {
            let bound = |key: &str| step.args.iter().find(|(name, _)| *name == key).and_then(|(_, value)| value.as_f64());
            of(arg(0)) || (bound("min").is_some_and(|min| min >= 0.0) && bound("max").is_some_and(|max| max <= 1.0))
        }
        "mul" | "min" | "max" => of(arg(0)) && of(arg(1)),
        "sub" => arg(0) == Some(&Arg::Number(1.0)) && of(arg(1)),
        _ => false,
    }
}

impl Lower {
    /// The columns of an output. Error: one that is not a number or a list of numbers for each row.
    pub fn columns(&mut self, output: usize, name: &str, value: &Value) -> Checked<Vec<Column>> {
        let row = match value {
            Value::Row(row) if row.batch.is_some() => row.clone(),
            _ => {
                return Err(problem("it does not depend on the inputs", "Remove the output, or give it an axis for the batch"));
            }
        };
        if row.batch != Some(Batch::at(0)) {
            let what = format!("its shape is {}: the rows are not its first axis alone", show(&row.dims()));
            return Err(problem(what, "Give outputs as [N] or [N, m]"));
        }
        let elements: usize = row.shape.iter().product();
        if elements > OUTPUTS_MAX {
            let what = format!("{elements} numbers per row");
            return Err(problem(what, format!("At most {OUTPUTS_MAX}: an answer is scores, not vectors; score them in the model")));
        }
        let id = self.ir(&row)?;
        let id = self.cast(id, DType::F32)?;
        let kind = if is_probability(&self.nodes, id, 0) { OutputKind::Probability } else { OutputKind::Value };
        if elements == 1 {
            let id = if row.shape.len() > 1 { self.reshaped(id, &[1])? } else { id };
            return Ok(vec![Column { output, element: 0, name: name.to_owned(), kind, id }]);
        }
        let flat = self.reshaped(id, &[elements])?;
        (0..elements)
            .map(|element| {
                let id = self.picked(flat, 0, &[element])?;
                Ok(Column { output, element, name: format!("{name}.{element}"), kind, id })
            })
            .collect()
    }
}
