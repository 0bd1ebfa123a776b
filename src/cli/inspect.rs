//! `gavel inspect`: what a loaded model is, as text: features, tables, graph, parameters, bytes and FLOPs per candidate and per request.
//!
//! Counts are of the graph as written, before an engine folds, fuses or hoists: what is context-scoped is counted once per request, the
//! rest once per candidate. A multiply-add is two FLOPs; bytes are those of table rows that a full row touches.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::cost::{cost, live, work};
use super::exit::{Exit, Failure};
use super::precision::{self, PrecisionArgs};
use super::{loading, plan, print};
use crate::engine::EngineKind;
use crate::engine::cpu::{Options, Program, Simd};
use crate::engine::precision::Precision;
use crate::model::{
    DType, DenseTransform, Feature, FeatureKind, IdType, LoadOptions, MissingRule, Model, NanRule, Node, Op, OutputKind, RangeRule,
    RowsOrigin, Scope, ValueScope,
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
    /// from candidates to the request, what stayed generic and why, and in what numbers dense layers are computed.
    #[arg(long)]
    pub plan: bool,

    /// Prints the plan alone, as JSON
    #[arg(long, requires = "plan")]
    pub json: bool,

    /// Of dense layers in the plan
    #[command(flatten)]
    pub precision: PrecisionArgs,
}

/// Prints the report. Errors: the first fault of the bundle; a plan that cannot be made.
pub fn run(args: &InspectArgs) -> Result<Exit, Failure> {
    let options = args.precision.options(&EngineKind::Cpu.into())?;
    if !args.plan && options.precision.precision != Precision::F32 {
        return Err(Failure::usage("--precision is about the plan: say --plan too"));
    }
    let model = loading::load(&args.bundle, &LoadOptions::default()).map_err(Failure::new)?;
    let mut text = report(&model);
    if args.plan {
        let options = Options { precision: options.precision, ..Options::new(Simd::detect()) };
        let program = Program::planned(&model, &options).map_err(Failure::new)?;
        program.precision().iter().for_each(|decided| precision::warn(&model, decided));
        if args.json {
            return print(&format!("{:#}\n", plan::json(&program)));
        }
        text.push_str(&plan::text(&program));
    }
    print(&text)
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
    let origin = match model.selftest.origin {
        RowsOrigin::Given => "",
        RowsOrigin::Mixed => ", some mixed from others or drawn at random",
        RowsOrigin::MadeUp => ", made up",
    };
    let _ = writeln!(text, "selftest   {} rows{origin}, tolerance {:e}", model.selftest.rows(), model.selftest.tolerance.atol);

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
