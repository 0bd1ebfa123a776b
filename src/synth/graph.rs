//! The manifest of a recipe.

use serde_json::{Value, json};

use crate::model::{Digest, FORMAT, RowsOrigin};

use super::shape::{ContextShare, Interaction, Shape};
use super::tensors::{Layer, bottom, cross, dense_name, table_name, top};
use super::{Recipe, TableFormat};

/// A file that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// Plain name.
    pub file: &'static str,
    /// Size.
    pub bytes: u64,
    /// Of the whole file.
    pub digest: Digest,
}

impl Written {
    fn json(&self) -> Value {
        json!({"file": self.file, "bytes": self.bytes, "sha256": self.digest.to_string()})
    }
}

/// The manifest of a bundle with these files, whose tables have these rows.
pub fn manifest(recipe: &Recipe, table_rows: &[u32], weights: &[Written], selftest: &Written) -> Value {
    let Recipe { shape, context, .. } = recipe;
    let mut selftest = selftest.json();
    selftest["atol"] = json!(ATOL);
    selftest["rows"] = json!(RowsOrigin::MadeUp.name());
    let tables = table_rows.iter().enumerate().map(|(i, rows)| {
        let mut table = json!({"name": table_name(i), "rows": rows, "dim": shape.dim});
        if recipe.tables != TableFormat::F32 {
            table["dtype"] = json!(recipe.tables.name());
        }
        table
    });
    json!({
        "format": FORMAT,
        "name": shape.family.name(),
        "description": description(recipe),
        "weights": weights.iter().map(Written::json).collect::<Vec<_>>(),
        "tables": tables.collect::<Vec<_>>(),
        "features": features(shape, *context),
        "graph": steps(shape),
        "outputs": [{"name": "prob", "value": "prob", "kind": "probability"}],
        "selftest": selftest,
    })
}

/// What an f32 engine may be off in a probability.
const ATOL: f64 = 5e-6;

fn description(recipe: &Recipe) -> String {
    let Shape { family, rows, .. } = &recipe.shape;
    let most = rows.iter().max().copied().unwrap_or_default();
    format!(
        "Synthetic {} with tables of up to {most} rows, seed {}: random numbers, not trained. The selftest was computed in float64 by gavel's \
         reference interpreter, not by a training framework.",
        family.name(),
        recipe.seed
    )
}

fn features(shape: &Shape, share: ContextShare) -> Vec<Value> {
    let scope = |context: bool| if context { "context" } else { "candidate" };
    let of_context = shape.context_tables(share);
    let dense_scope = scope(share == ContextShare::Half);
    let dense = (0..shape.dense).map(|i| json!({"name": dense_name(i), "kind": "dense", "scope": dense_scope}));
    let sparse = shape.hots.iter().enumerate().map(|(i, hot)| {
        let mut feature = json!({"name": table_name(i), "kind": "sparse", "scope": scope(i < of_context), "table": table_name(i)});
        if *hot != 1 {
            feature["width"] = json!(hot);
        }
        feature
    });
    dense.chain(sparse).collect()
}

fn steps(shape: &Shape) -> Vec<Value> {
    let mut steps = Steps(vec![]);
    let dense: Vec<String> = (0..shape.dense).map(dense_name).collect();
    steps.push("dense", json!({"op": "dense", "features": dense}));
    let x = steps.layers("dense", &bottom(shape), true);
    let sparse: Vec<String> = (0..shape.rows.len()).map(table_name).collect();
    steps.push("embedded", json!({"op": "lookup", "features": sparse}));
    let x = match shape.interaction {
        Interaction::Dot => {
            let count = shape.vectors();
            steps.push("bottom.row", json!({"op": "reshape", "in": x, "shape": [1, shape.dim]}));
            steps.push("vectors", json!({"op": "concat", "in": ["bottom.row", "embedded"], "axis": 0}));
            steps.push("dots", json!({"op": "matmul", "a": "vectors", "b": "vectors", "transpose_b": true}));
            steps.push("dots.flat", json!({"op": "reshape", "in": "dots", "shape": [count * count]}));
            steps.push("pairs", json!({"op": "gather_const", "in": "dots.flat", "axis": 0, "indices": shape.pairs()}));
            steps.push("interaction", json!({"op": "concat", "in": [x, "pairs"], "axis": 0}))
        }
        Interaction::Cross { .. } => {
            steps.push("embedded.flat", json!({"op": "reshape", "in": "embedded", "shape": [shape.rows.len() * shape.dim]}));
            let x0 = steps.push("x0", json!({"op": "concat", "in": [x, "embedded.flat"], "axis": 0}));
            let mut x = x0.clone();
            for (i, [v, w]) in cross(shape).iter().enumerate() {
                let low = steps.linear(&x, v);
                let high = steps.linear(&low, w);
                let product = steps.push(&format!("cross.{i}.product"), json!({"op": "mul", "a": x0, "b": high}));
                x = steps.push(&format!("cross.{i}"), json!({"op": "add", "a": product, "b": x}));
            }
            x
        }
    };
    let logit = steps.layers(&x, &top(shape), false);
    steps.push("prob", json!({"op": "sigmoid", "in": logit}));
    steps.0
}

struct Steps(Vec<Value>);

impl Steps {
    /// Adds a step that makes `out`.
    fn push(&mut self, out: &str, mut step: Value) -> String {
        step["out"] = json!(out);
        self.0.push(step);
        out.into()
    }

    fn linear(&mut self, x: &str, layer: &Layer) -> String {
        let mut step = json!({"op": "linear", "in": x, "weight": format!("{}.weight", layer.name)});
        if layer.bias {
            step["bias"] = json!(format!("{}.bias", layer.name));
        }
        self.push(&layer.name, step)
    }

    /// Layers with relu between, and behind the last if `relu_last`.
    fn layers(&mut self, x: &str, layers: &[Layer], relu_last: bool) -> String {
        let mut x = x.to_string();
        for (i, layer) in layers.iter().enumerate() {
            x = self.linear(&x, layer);
            if relu_last || i + 1 < layers.len() {
                x = self.push(&format!("{}.relu", layer.name), json!({"op": "relu", "in": x}));
            }
        }
        x
    }
}
