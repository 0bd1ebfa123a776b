//! The judge: a slow, obvious interpreter of a model's graph in f64, one row at a time.
//!
//! It shares no arithmetic with an engine and optimises nothing. Two ways in: [`score_batch`] takes what engines take (checked
//! rows of a slot), [`score_rows`] takes rows as clients know them and applies the features' rules by itself (`rules`), so
//! that it judges what `batch` does with them too. `ops` computes one node (larger ones in files of their own), `tensor` is the value it computes with.

mod elementwise;
mod ops;
mod pick;
mod reduce;
mod row;
mod rules;
mod sequence;
mod tensor;
mod trees;
mod window;

use crate::batch::{Inputs, Layout};
use crate::model::{FeatureRows, Model};

pub use ops::run as run_node;
pub use row::{Bag, Entry, RowInputs};
pub use rules::{Refused, admit, hashed};
pub use tensor::{Data, Tensor};

/// Scores of one row, in the order of the model's outputs.
pub fn score_row(model: &Model, row: &RowInputs) -> Vec<f64> {
    let mut values: Vec<Tensor> = Vec::with_capacity(model.graph.values.len());
    for node in &model.graph.nodes {
        // Nodes make values in the order of their ids, so `values` is indexed by id.
        let value = ops::run(model, &node.op, model.graph.value(node.out), &values, row);
        values.push(value);
    }
    model.graph.outputs.iter().map(|output| values[output.value.0 as usize].floats()[0]).collect()
}

/// Scores of each candidate row of a batch: `[rows][outputs]`. Rows of dead segments are computed too.
pub fn score_batch(model: &Model, inputs: &Inputs<'_>) -> Vec<Vec<f64>> {
    let layout = Layout::new(&model.features, model.graph.outputs.len());
    (0..inputs.candidates.count).map(|row| score_row(model, &RowInputs::of_batch(model, &layout, inputs, row))).collect()
}

/// Scores of rows as clients know them: `[rows][outputs]`. Every row with its own context. Errors: a value that the rules refuse.
pub fn score_rows(model: &Model, rows: &FeatureRows) -> Result<Vec<Vec<f64>>, Refused> {
    (0..rows.rows()).map(|row| Ok(score_row(model, &admit(model, rows, row)?))).collect()
}
