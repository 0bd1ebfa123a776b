//! The numbers of a recipe: layers in memory, tables on demand.

use std::io;

use super::random::Stream;
use super::shape::{Interaction, Shape};
use super::{Recipe, TableFormat};

/// A tensor of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// `bottom.0.weight`.
    pub name: String,
    /// [outputs, inputs], or [outputs].
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

/// A linear layer by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// `bottom.0`: its tensors are `bottom.0.weight` and `bottom.0.bias`.
    pub name: String,
    /// Columns of the weight.
    pub inputs: usize,
    /// Rows of the weight.
    pub outputs: usize,
    /// Has a bias.
    pub bias: bool,
}

/// A table whose rows are computed when asked for.
#[derive(Clone, Debug)]
pub struct TableNumbers {
    /// Name of the table, of its tensor and of its feature: `C1`.
    pub name: String,
    /// Rows.
    pub rows: u32,
    /// Elements per row.
    pub dim: usize,
    /// How rows are stored.
    pub format: TableFormat,
    stream: Stream,
    scale: f32,
}

impl TableNumbers {
    /// Rows `first ..`: as they are stored into `bytes`, and as they are read back into `values`, whole rows.
    pub fn rows_from(&self, first: u32, values: &mut [f32], bytes: &mut Vec<u8>) {
        self.stream.fill_uniform(u64::from(first) * self.dim as u64, self.scale, values);
        bytes.clear();
        self.format.store(values, self.dim, bytes);
    }

    /// All rows, piece by piece: stored, and as they are read back.
    pub fn pieces(&self, mut write: impl FnMut(&[u8], &[f32]) -> io::Result<()>) -> io::Result<()> {
        let rows = (PIECE_ELEMENTS / self.dim).max(1);
        let (mut values, mut bytes) = (vec![0.0; rows * self.dim], Vec::new());
        for first in (0..self.rows).step_by(rows) {
            let values = &mut values[..rows.min((self.rows - first) as usize) * self.dim];
            self.rows_from(first, values, &mut bytes);
            write(&bytes, values)?;
        }
        Ok(())
    }
}

/// Elements that are computed at once: 1 MiB.
const PIECE_ELEMENTS: usize = 1 << 18;

/// Name of sparse feature and table `index`.
pub fn table_name(index: usize) -> String {
    format!("C{}", index + 1)
}

/// Name of dense feature `index`.
pub fn dense_name(index: usize) -> String {
    format!("I{}", index + 1)
}

/// The tables, in the order of their features. A bag's sum varies as much as a single row does: uniform in ±0.6 / √ids.
pub fn tables(recipe: &Recipe) -> Vec<TableNumbers> {
    let Shape { rows, hots, dim, .. } = &recipe.shape;
    let table = |(index, (rows, hot)): (usize, (&u32, &usize))| {
        let name = table_name(index);
        let stream = Stream::new(recipe.seed, &name);
        TableNumbers { name, rows: *rows, dim: *dim, format: recipe.tables, stream, scale: 0.6 / (*hot as f32).sqrt() }
    };
    rows.iter().zip(hots).enumerate().map(table).collect()
}

/// The layers of the bottom.
pub fn bottom(shape: &Shape) -> Vec<Layer> {
    chain("bottom", shape.dense, &shape.bottom)
}

/// The layers of the top.
pub fn top(shape: &Shape) -> Vec<Layer> {
    chain("top", shape.top_in(), &shape.top)
}

/// V and W of each cross layer; none with a dot interaction.
pub fn cross(shape: &Shape) -> Vec<[Layer; 2]> {
    let Interaction::Cross { layers, rank } = shape.interaction else { return vec![] };
    let width = shape.top_in();
    let layer = |name: String, inputs, outputs, bias| Layer { name, inputs, outputs, bias };
    (0..layers).map(|i| [layer(format!("cross.{i}.v"), width, rank, false), layer(format!("cross.{i}.w"), rank, width, true)]).collect()
}

fn chain(name: &str, inputs: usize, widths: &[usize]) -> Vec<Layer> {
    let from = std::iter::once(inputs).chain(widths.iter().copied());
    let layer = |(i, (inputs, outputs))| Layer { name: format!("{name}.{i}"), inputs, outputs, bias: true };
    from.zip(widths.iter().copied()).enumerate().map(layer).collect()
}

/// Weights and biases of all layers: normal, deviations √(2 / (inputs + outputs)) and √(1 / outputs), as DLRM is initialised.
pub fn layers(recipe: &Recipe) -> Vec<Tensor> {
    let shape = &recipe.shape;
    let all = bottom(shape).into_iter().chain(cross(shape).into_iter().flatten()).chain(top(shape));
    let mut tensors = Vec::new();
    for Layer { name, inputs, outputs, bias } in all {
        let mut tensor = |part: &str, shape: Vec<usize>, scale: f64| {
            let name = format!("{name}.{part}");
            let mut values = vec![0.0; shape.iter().product()];
            Stream::new(recipe.seed, &name).fill_normal(scale, &mut values);
            tensors.push(Tensor { name, shape, values });
        };
        tensor("weight", vec![outputs, inputs], (2.0 / (inputs + outputs) as f64).sqrt());
        if bias {
            tensor("bias", vec![outputs], (1.0 / outputs as f64).sqrt());
        }
    }
    tensors
}
