//! `gavel inspect`: what a loaded model is, as text: features, tables, graph, parameters, bytes and FLOPs per candidate and per request.
//!
//! Counts are of the graph as written, before an engine folds, fuses or hoists: what is context-scoped is counted once per request, the
//! rest once per candidate. A multiply-add is two FLOPs; bytes are those of table rows that a full row touches.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::exit::{Exit, Failure};
use super::{loading, plan, print};
use crate::engine::cpu::Program;
use crate::model::{
    DType, DenseTransform, Feature, FeatureKind, IdType, LoadOptions, MissingRule, Model, NanRule, Node, Op, OutputKind, Pool, RangeRule,
    Reduction, Scope, Value, ValueScope,
};

/// Shows what is in a bundle
///
/// Features with their rules, tables, the graph, parameters, and what a request and each candidate cost in bytes and FLOPs. The bundle is loaded
/// and checked on the way; nothing is computed.
#[derive(Args, Clone, Debug)]
pub struct InspectArgs {
    /// Folder of the bundle
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,

    /// Also plans the model for this CPU, and shows what the engine makes of it
    ///
    /// Every step with its shape, FLOPs and bytes, once per request or once per candidate; what was fused into it, what was hoisted
    /// from candidates to the request, and what stayed generic and why.
    #[arg(long)]
    pub plan: bool,

    /// Prints the plan alone, as JSON
    #[arg(long, requires = "plan")]
    pub json: bool,
}

/// Prints the report.
pub fn run(args: &InspectArgs) -> Result<Exit, Failure> {
    let model = loading::load(&args.bundle, &LoadOptions::default()).map_err(Failure::new)?;
    let mut text = report(&model);
    if args.plan {
        let program = Program::new(&model).map_err(Failure::new)?;
        if args.json {
            return print(&format!("{:#}\n", plan::json(&program)));
        }
        text.push_str(&plan::text(&program));
    }
    print(&text)
}

/// Work of some nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes of table rows read, bags full.
    pub table_bytes: u64,
}

/// Work of a model, split as the graph's scopes split it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Once per model: values of weights alone.
    pub constant: Work,
    /// Once per request.
    pub request: Work,
    /// Once per candidate.
    pub candidate: Work,
}

/// The work of the nodes that outputs depend on.
pub fn cost(model: &Model) -> Cost {
    let live = live(model);
    let mut cost = Cost::default();
    for node in model.graph.nodes.iter().filter(|node| live[node.out.0 as usize]) {
        let work = work(model, node);
        let total = match model.graph.value(node.out).scope {
            ValueScope::Constant => &mut cost.constant,
            ValueScope::Context => &mut cost.request,
            ValueScope::Candidate => &mut cost.candidate,
        };
        total.flops += work.flops;
        total.table_bytes += work.table_bytes;
    }
    cost
}

/// The report.
pub fn report(model: &Model) -> String {
    let mut text = String::new();
    let weights = &model.weights;
    let table_parameters: u64 = weights.tables.iter().map(|table| u64::from(table.rows) * u64::from(table.dim)).sum();
    let table_bytes: usize = weights.tables.iter().map(|table| table.bytes()).sum();
    let tensor_bytes: usize = weights.tensors.iter().map(|tensor| tensor.bytes()).sum();
    let tensor_parameters: usize = weights.tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();

    // Writing to a String cannot fail: the results of `writeln!` are dropped.
    let _ = writeln!(text, "model      {} version {}", model.name, model.version);
    let _ = writeln!(text, "digest     {}", model.digest);
    let _ = writeln!(
        text,
        "parameters {} in {} tables ({}), {} in {} tensors ({})",
        count(table_parameters),
        weights.tables.len(),
        bytes(table_bytes as u64),
        count(tensor_parameters as u64),
        weights.tensors.len(),
        bytes(tensor_bytes as u64),
    );
    let _ = writeln!(text, "selftest   {} rows, tolerance {:e}", model.selftest.rows(), model.selftest.tolerance.atol);

    let cost = cost(model);
    for (name, work) in [("candidate", cost.candidate), ("request", cost.request)] {
        let _ = writeln!(text, "per {name:<9} {} FLOPs, {} of table rows", count(work.flops), bytes(work.table_bytes));
    }

    section(
        &mut text,
        "features",
        &["name", "kind", "scope", "values", "table", "pool", "rules"],
        model.features.iter().map(|f| feature_row(model, f)),
    );
    section(
        &mut text,
        "tables",
        &["name", "rows", "dim", "type", "bytes"],
        weights.tables.iter().map(|table| {
            let dtype = table.dtype.name().into();
            vec![table.name.clone(), table.rows.to_string(), table.dim.to_string(), dtype, bytes(table.bytes() as u64)]
        }),
    );
    let live = live(model);
    section(
        &mut text,
        "graph",
        &["value", "op", "shape", "scope", "FLOPs", "from"],
        model.graph.nodes.iter().map(|node| node_row(model, node, live[node.out.0 as usize])),
    );
    section(
        &mut text,
        "outputs",
        &["name", "kind", "value"],
        model.graph.outputs.iter().map(|output| {
            let kind = match output.kind {
                OutputKind::Probability => "probability",
                OutputKind::Logit => "logit",
                OutputKind::Value => "value",
            };
            vec![output.name.clone(), kind.into(), model.graph.value(output.value).name.clone()]
        }),
    );
    text
}

fn feature_row(model: &Model, feature: &Feature) -> Vec<String> {
    let scope = match feature.scope {
        Scope::Context => "context",
        Scope::Candidate => "candidate",
    };
    let id = match feature.id_type {
        IdType::U32 => "u32",
        IdType::U64 => "u64",
    };
    let range = if feature.is_variable() { format!("0..{}", feature.max_len) } else { feature.width.to_string() };
    let mut rules = Vec::new();
    let (kind, values, table, pool) = match &feature.kind {
        FeatureKind::Dense { transform, nan } => {
            if *transform == DenseTransform::Log1pClamp0 {
                rules.push("log1p_clamp0".into());
            }
            match nan {
                NanRule::Error => {}
                NanRule::Value(value) => rules.push(format!("nan={value}")),
                NanRule::Keep => rules.push("nan=keep".into()),
            }
            ("dense", format!("{range} f32"), String::new(), "")
        }
        FeatureKind::Integer => ("integer", format!("{range} {id}"), String::new(), ""),
        FeatureKind::Sparse { table, pool, weighted, hash, padding, missing, out_of_range, .. } => {
            if *weighted {
                rules.push("weighted".into());
            }
            if let Some(hash) = hash {
                rules.push(format!("row={}+{:?}%{}", hash.add, hash.function, hash.modulus).to_lowercase());
            }
            if let Some(padding) = padding {
                rules.push(format!("padding={padding}"));
            }
            match missing {
                MissingRule::Error => {}
                MissingRule::Row(row) => rules.push(format!("missing={row}")),
                MissingRule::Skip => rules.push("missing=skip".into()),
            }
            if let RangeRule::Row(row) = out_of_range {
                rules.push(format!("out_of_range={row}"));
            }
            ("sparse", format!("{range} {id}"), model.weights.table(*table).name.clone(), pool.name())
        }
    };
    vec![feature.name.clone(), kind.into(), scope.into(), values, table, pool.into(), rules.join(" ")]
}

fn node_row(model: &Model, node: &Node, live: bool) -> Vec<String> {
    let value = model.graph.value(node.out);
    let dtype = match value.dtype {
        DType::F32 => "",
        DType::I64 => " i64",
    };
    let scope = match value.scope {
        _ if !live => "unused",
        ValueScope::Constant => "constant",
        ValueScope::Context => "context",
        ValueScope::Candidate => "candidate",
    };
    let flops = work(model, node).flops;
    let flops = if flops == 0 { String::new() } else { count(flops) };
    vec![value.name.clone(), node.op.name().into(), format!("{:?}{dtype}", value.shape), scope.into(), flops, sources(model, &node.op)]
}

/// What a node reads: features, tensors, values.
fn sources(model: &Model, op: &Op) -> String {
    let feature = |index: &usize| model.features[*index].name.clone();
    let tensor = |id| model.weights.tensor(id).name.clone();
    let mut names: Vec<String> = op.inputs().iter().map(|id| model.graph.value(*id).name.clone()).collect();
    match op {
        Op::Dense { features } => names.extend(features.iter().map(feature)),
        Op::Integer { feature: index } | Op::Length { feature: index } => names.push(feature(index)),
        Op::Lookup { feature: index, table, pool } => {
            names.extend([feature(index), model.weights.table(*table).name.clone(), pool.name().into()]);
        }
        Op::Embedding { table, .. } => names.push(model.weights.table(*table).name.clone()),
        _ => names.extend(op.tensors().into_iter().map(tensor)),
    }
    match names.as_slice() {
        [first, .., last] if names.len() > 6 => format!("{first} .. {last} ({})", names.len()),
        _ => names.join(" "),
    }
}

/// Which values some output depends on.
fn live(model: &Model) -> Vec<bool> {
    let mut live = vec![false; model.graph.values.len()];
    for output in &model.graph.outputs {
        live[output.value.0 as usize] = true;
    }
    for node in model.graph.nodes.iter().rev() {
        if live[node.out.0 as usize] {
            node.op.inputs().iter().for_each(|input| live[input.0 as usize] = true);
        }
    }
    live
}

/// The work of one node on one row.
fn work(model: &Model, node: &Node) -> Work {
    let out = model.graph.value(node.out);
    let value = |id| -> &Value { model.graph.value(id) };
    let len = out.len() as u64;
    let flops = match &node.op {
        Op::Dense { .. }
        | Op::Integer { .. }
        | Op::Length { .. }
        | Op::Const { .. }
        | Op::Fill { .. }
        | Op::Iota { .. }
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Broadcast { .. }
        | Op::GatherConst { .. }
        | Op::Cast { .. }
        | Op::Where { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::TakeAlong { .. }
        | Op::OneHot { .. } => 0,
        Op::Lookup { feature, table, pool } => {
            let feature = &model.features[*feature];
            let table = model.weights.table(*table);
            let (ids, dim) = (u64::from(feature.max_len), u64::from(table.dim));
            // One id is copied; each further one is combined, each weighted one multiplied; codes are scaled and shifted.
            let combined = if *pool == Pool::None { 0 } else { (ids - 1) * dim };
            let decoded = if table.dtype.coding(table.dim as usize).is_some() { 2 * ids * dim } else { 0 };
            let flops = decoded + combined + if feature.is_weighted() { ids * dim } else { 0 } + if *pool == Pool::Mean { dim } else { 0 };
            return Work { flops, table_bytes: ids * table.row_bytes() as u64 };
        }
        Op::Linear { weight, bias, .. } => {
            let inputs = model.weights.tensor(*weight).shape[1] as u64;
            2 * inputs * len + if bias.is_some() { len } else { 0 }
        }
        Op::MatMul { a, transpose_a, .. } => {
            let shape = &value(*a).shape;
            let inner = shape[shape.len() - if *transpose_a { 2 } else { 1 }] as u64;
            2 * inner * len
        }
        Op::Add { .. }
        | Op::Sub { .. }
        | Op::Mul { .. }
        | Op::Div { .. }
        | Op::Pow { .. }
        | Op::Min { .. }
        | Op::Max { .. }
        | Op::Mod { .. }
        | Op::Compare { .. }
        | Op::Logic { .. }
        | Op::Not { .. }
        | Op::Unary { .. }
        | Op::Relu { .. } => len,
        Op::Clamp { .. } | Op::Prelu { .. } => 2 * len,
        Op::ReduceSum { x, .. } => value(*x).len() as u64 - len,
        Op::Reduce { x, function: Reduction::Mean, .. } => value(*x).len() as u64,
        Op::Reduce { x, .. } => value(*x).len() as u64 - len,
        Op::CumSum { .. } => len,
        // Comparisons of a selection that keeps k.
        Op::TopK { x, .. } | Op::ArgTopK { x, .. } => value(*x).len() as u64,
        Op::Embedding { table, .. } => {
            let row = size_of::<f32>() as u64 * u64::from(model.weights.table(*table).dim);
            return Work { flops: 0, table_bytes: len / u64::from(model.weights.table(*table).dim) * row };
        }
        Op::LayerNorm { .. } => 7 * len,
        Op::Conv { weight, bias, .. } => {
            let taps: usize = model.weights.tensor(*weight).shape[1..].iter().product();
            2 * taps as u64 * len + if bias.is_some() { len } else { 0 }
        }
        Op::MaxPool { window, .. } | Op::AvgPool { window, .. } => window.kernel.iter().product::<usize>() as u64 * len,
        Op::Sdpa { q, k, .. } => {
            let (width, keys) = (value(*q).shape[value(*q).shape.len() - 1] as u64, value(*k).shape[value(*k).shape.len() - 2] as u64);
            let rows = len / out.shape[out.shape.len() - 1] as u64;
            2 * rows * keys * width + 5 * rows * keys + 2 * keys * len
        }
        Op::Gru(gru) => {
            let (steps, inputs) = (value(gru.x).shape[0] as u64, value(gru.x).shape[1] as u64);
            let hidden = model.weights.tensor(gru.w_hh).shape[1] as u64;
            steps * hidden * (6 * inputs + 6 * hidden + 20)
        }
        // One leaf per tree is added; the comparisons on the way depend on the row.
        Op::Trees(trees) => model.weights.tensor(trees.roots).shape[0] as u64 * len,
        // exp, add, divide; softmax also finds and subtracts the largest.
        Op::Sigmoid { .. } => 3 * len,
        Op::Softmax { .. } => 5 * len,
        Op::BatchNorm { .. } => 4 * len,
        Op::L2Norm { .. } => 3 * len,
    };
    Work { flops, table_bytes: 0 }
}

/// A titled table with aligned columns.
pub(super) fn section(text: &mut String, title: &str, header: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let rows: Vec<Vec<String>> = std::iter::once(header.iter().map(|cell| (*cell).to_owned()).collect()).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let _ = writeln!(text, "\n{title} ({})", rows.len() - 1);
    for row in &rows {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, " {cell:<width$} ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// `12,345,678`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `355.1 KiB`.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{LoadOptions, load};

    fn open(name: &str) -> Model {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(name);
        load(&path, &LoadOptions::default(), &mut |_| {}).unwrap()
    }

    #[test]
    fn counts_the_work_of_dlrm() {
        // MLPs 13-64-32-16 and 367-64-32-1 with biases and relu (top: sigmoid last), 27 x 27 dots of 16.
        let layer = |inputs: u64, outputs: u64| (2 * inputs + 1) * outputs;
        let bottom = layer(13, 64) + layer(64, 32) + layer(32, 16) + 64 + 32 + 16;
        let top = layer(367, 64) + layer(64, 32) + layer(32, 1) + 64 + 32 + 3;
        let expected = Work { flops: bottom + top + 2 * 16 * 27 * 27, table_bytes: 26 * 16 * 4 };
        assert_eq!(cost(&open("dlrm")), Cost { candidate: expected, ..Cost::default() });

        let scoped = cost(&open("dlrm_scoped"));
        assert_eq!(scoped.request.flops, bottom);
        assert_eq!(scoped.request.table_bytes, 13 * 16 * 4);
        assert_eq!(scoped.candidate.flops + scoped.request.flops, expected.flops);
    }

    #[test]
    fn reports_every_part() {
        for name in ["wire_vectors", "dlrm_multihot_scoped", "mmoe", "wdl"] {
            let model = open(name);
            let report = report(&model);
            for feature in &model.features {
                assert!(report.contains(&feature.name), "{name}: {}", feature.name);
            }
            for value in &model.graph.values {
                assert!(report.contains(&value.name), "{name}: {}", value.name);
            }
            assert!(report.contains(&model.digest.to_string()));
        }
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1234567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1023, 1024, 1 << 40].map(bytes), ["0 B", "1023 B", "1.0 KiB", "1.0 TiB"]);
    }
}
