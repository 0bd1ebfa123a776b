//! An import from file to bundle.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use crate::import::bundle_files::{FileData, FileTensor, write_tensors};
use crate::limits::{ONNX_BYTES_MAX, SELFTEST_BYTES_MAX};
use crate::model::{FORMAT, LoadOptions, MANIFEST, Model, RowsOrigin, Tolerance, load};
use crate::reference;

use super::constant::Data;
use super::draft::{Draft, Partial};
use super::emit::{Emitted, emit};
use super::error::{ImportError, problem};
use super::features::FeatureKind;
use super::graph::{Converted, convert};
use super::names::plain;
use super::report::{Expected, FeatureLine, Report};
use super::rows::{Column, Rows};
use super::rules::Rules;

/// How to import.
#[derive(Clone, Debug)]
pub struct Options {
    /// The ONNX file.
    pub model: PathBuf,
    /// What is said of inputs and outputs.
    pub rules: Rules,
    /// Inputs for the selftest, possibly with outputs.
    pub rows: Option<PathBuf>,
    /// Sizes of named axes other than the batch.
    pub sizes: Vec<(String, usize)>,
    /// How close the imported graph, and later every engine, must come to the outputs.
    pub tolerance: Tolerance,
    /// The folder to write; it must not exist.
    pub out: PathBuf,
}

const WEIGHTS: &str = "weights.safetensors";
const SELFTEST: &str = "selftest.safetensors";

/// Imports. The bundle stands beside its place, until it is published.
pub fn import(options: &Options) -> Result<Draft, ImportError> {
    let Options { model: file, rules, out, .. } = options;
    if out.exists() {
        let problem = problem("it exists already", "Choose another folder, or remove it");
        return Err(ImportError::File { file: out.clone(), place: "output folder".into(), problem });
    }
    let bytes = read(file, ONNX_BYTES_MAX)?;
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut graph = convert(file, &bytes, &options.sizes, Some(folder))?;
    drop(bytes);
    let mut emitted = emit(&graph, rules, &[])?;
    let given = options.rows.as_ref().map(|file| Rows::read(file, read(file, SELFTEST_BYTES_MAX)?, &graph, &emitted)).transpose()?;
    let wide = given.as_ref().map(|rows| rows.wide(&emitted.plan.features)).unwrap_or_default();
    if !wide.is_empty() {
        let names: Vec<&str> = wide.iter().map(|feature| emitted.plan.features[*feature].name.as_str()).collect();
        graph.notes.push(format!("rows hold ids of more than 32 bits in {}: id_type is \"u64\" there", names.join(", ")));
        emitted = emit(&graph, rules, &wide)?;
    }
    let mut draft = out.clone().into_os_string();
    draft.push(".part");
    let draft = PathBuf::from(draft);
    let io_error = |path: &Path, doing| {
        let file = path.to_owned();
        move |source| ImportError::Io { file, doing, source }
    };
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(io_error(&draft, "cannot be removed"))?;
    }
    let draft = Partial(draft);
    fs::create_dir_all(&draft.0).map_err(io_error(&draft.0, "cannot be made"))?;
    let report = fill(options, &graph, &emitted, given, &draft.0)?;
    Ok(Draft::new(draft, out.clone(), report))
}

fn read(file: &Path, most: u64) -> Result<Vec<u8>, ImportError> {
    let io_error = |source| ImportError::Io { file: file.to_owned(), doing: "cannot be read", source };
    let mut bytes = Vec::new();
    File::open(file).and_then(|opened| opened.take(most + 1).read_to_end(&mut bytes)).map_err(io_error)?;
    if bytes.len() as u64 > most {
        return Err(io_error(io::Error::other(format!("more than {most} bytes"))));
    }
    Ok(bytes)
}

/// Writes the bundle into `folder`.
fn fill(options: &Options, graph: &Converted, emitted: &Emitted, rows: Option<Rows>, folder: &Path) -> Result<Report, ImportError> {
    let weights = write_weights(emitted, folder)?;
    let mut rows = rows.unwrap_or_else(|| Rows::made_up(emitted, false));
    let mut scores = score(options, emitted, &weights, &rows, folder)?;
    if options.rows.is_none() && scores.iter().flatten().any(|score| !score.is_finite()) {
        rows = Rows::made_up(emitted, true);
        scores = score(options, emitted, &weights, &rows, folder)?;
    }
    for (row, row_scores) in scores.iter().enumerate() {
        if let Some(output) = row_scores.iter().position(|score| !score.is_finite()) {
            let what = format!("output {} of row {row} is {}", emitted.outputs[output]["name"], row_scores[output]);
            let remedy = "Give rows of real inputs (--rows FILE.safetensors) for which every output is a number";
            let file = options.rows.clone().unwrap_or_else(|| options.model.clone());
            return Err(ImportError::File { file, place: "selftest".into(), problem: problem(what, remedy) });
        }
    }
    let expected = match &rows.expected {
        Some(expected) => Expected::Given { worst: compare(options, emitted, &scores, expected)? },
        None if options.rows.is_some() => Expected::Computed,
        None => Expected::MadeUp,
    };
    let recorded: Vec<Vec<f64>> = match &rows.expected {
        Some(expected) => expected.clone(),
        None => (0..emitted.outputs.len()).map(|output| scores.iter().map(|row| row[output]).collect()).collect(),
    };
    write(options, emitted, &weights, &rows, &recorded, folder)?;
    Ok(report(graph, emitted, &rows, expected))
}

fn write_weights(emitted: &Emitted, folder: &Path) -> Result<Json, ImportError> {
    let table_names: Vec<String> = emitted.plan.tables.iter().map(|table| format!("table:{}", table.name)).collect();
    let rounded: Vec<Option<Vec<f32>>> = emitted
        .plan
        .tables
        .iter()
        .map(|table| if let Data::F32(_) = &*table.constant.data { None } else { Some(table.constant.to_f32()) })
        .collect();
    let datas: Vec<_> = emitted.tensors.iter().map(|tensor| tensor.data()).collect();
    let mut tensors = Vec::new();
    for ((table, name), rounded) in emitted.plan.tables.iter().zip(&table_names).zip(&rounded) {
        let all: &[f32] = match (&*table.constant.data, rounded) {
            (Data::F32(values), _) => values,
            (_, Some(values)) => values,
            _ => &[],
        };
        let dim = table.dim();
        let data = FileData::F32(&all[table.start * dim..table.end * dim]);
        tensors.push(FileTensor { name, shape: vec![table.rows(), dim], data });
    }
    for (tensor, data) in emitted.tensors.iter().zip(&datas) {
        let data = match &**data {
            Data::F32(values) => FileData::F32(values),
            Data::I64(values) => FileData::I64(values),
            Data::F64(_) => continue,
        };
        tensors.push(FileTensor { name: &tensor.name, shape: tensor.constant.shape.clone(), data });
    }
    write_tensors(folder, WEIGHTS, &tensors).map_err(|source| ImportError::Io {
        file: folder.join(WEIGHTS),
        doing: "cannot be written",
        source,
    })
}

/// Writes selftest and manifest.
fn write(
    options: &Options,
    emitted: &Emitted,
    weights: &Json,
    rows: &Rows,
    expected: &[Vec<f64>],
    folder: &Path,
) -> Result<(), ImportError> {
    let io_error = |name: &str| {
        let file = folder.join(name);
        move |source| ImportError::Io { file, doing: "cannot be written", source }
    };
    let inputs: Vec<String> = emitted.plan.features.iter().map(|feature| format!("in.{}", feature.name)).collect();
    let outputs: Vec<String> =
        emitted.outputs.iter().map(|output| format!("out.{}", output["name"].as_str().unwrap_or_default())).collect();
    let mut tensors = Vec::new();
    for ((feature, name), column) in emitted.plan.features.iter().zip(&inputs).zip(&rows.columns) {
        let data = match column {
            Column::Dense(values) => FileData::F32(values),
            Column::Ids(values) => FileData::I64(values),
        };
        tensors.push(FileTensor { name, shape: vec![rows.count, feature.width()], data });
    }
    for (name, values) in outputs.iter().zip(expected) {
        tensors.push(FileTensor { name, shape: vec![rows.count], data: FileData::F64(values) });
    }
    // F64 and I64 before F32, so that each lies at a multiple of its size.
    tensors.sort_by_key(|tensor| matches!(tensor.data, FileData::F32(_)));
    let mut selftest = write_tensors(folder, SELFTEST, &tensors).map_err(io_error(SELFTEST))?;
    selftest["atol"] = json!(options.tolerance.atol);
    if options.tolerance.rtol != 0.0 {
        selftest["rtol"] = json!(options.tolerance.rtol);
    }
    if options.rows.is_none() {
        selftest["rows"] = json!(RowsOrigin::MadeUp.name());
    }
    let name = options.rules.name.clone().unwrap_or_else(|| model_name(&options.out));
    let mut manifest = json!({"format": FORMAT, "name": name});
    if let Some(description) = &options.rules.description {
        manifest["description"] = json!(description);
    }
    for (key, value) in [
        ("weights", json!([weights])),
        ("tables", json!(emitted.tables)),
        ("features", json!(emitted.features)),
        ("graph", json!(emitted.graph)),
        ("outputs", json!(emitted.outputs)),
        ("selftest", selftest),
    ] {
        manifest[key] = value;
    }
    fs::write(folder.join(MANIFEST), pretty(&manifest)).map_err(io_error(MANIFEST))
}

/// JSON with one line per feature, table, step and output.
fn pretty(manifest: &Json) -> String {
    let mut lines = Vec::new();
    for (key, value) in manifest.as_object().into_iter().flatten() {
        let text = match value {
            Json::Array(items) if !items.is_empty() => {
                let items: Vec<String> = items.iter().map(|item| format!("    {item}")).collect();
                format!("[\n{}\n  ]", items.join(",\n"))
            }
            other => other.to_string(),
        };
        lines.push(format!("  {}: {text}", json!(key)));
    }
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// The folder's name, or that of the folder around it where it is a version.
fn model_name(out: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let own = name(out);
    let own = if own.bytes().all(|byte| byte.is_ascii_digit()) { out.parent().map(name).unwrap_or_default() } else { own };
    let mut own: String = plain(&own).chars().map(|c| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '_' }).collect();
    own.truncate(crate::limits::MODEL_NAME_BYTES_MAX);
    let own = own.trim_start_matches('.');
    if own.is_empty() { "model".into() } else { own.into() }
}

/// Scores of all rows by the reference interpreter: each row alone.
fn score(options: &Options, emitted: &Emitted, weights: &Json, rows: &Rows, folder: &Path) -> Result<Vec<Vec<f64>>, ImportError> {
    let zeros = vec![vec![0.0; rows.count]; emitted.outputs.len()];
    write(options, emitted, weights, rows, &zeros, folder)?;
    let model: Model = load(folder, &LoadOptions::default(), &mut |_| {})?;
    reference::score_rows(&model, &model.selftest.inputs).map_err(|refused| {
        let file = options.rows.clone().unwrap_or_else(|| options.model.clone());
        let remedy = "Correct the rows, or give the feature a rule for such values (--features)";
        ImportError::File { file, place: "rows".into(), problem: problem(refused.to_string(), remedy) }
    })
}

/// Compares with what the file records. Gives the largest difference.
fn compare(options: &Options, emitted: &Emitted, scores: &[Vec<f64>], expected: &[Vec<f64>]) -> Result<f64, ImportError> {
    let mut worst = 0.0_f64;
    for (output, values) in expected.iter().enumerate() {
        for (row, wanted) in values.iter().enumerate() {
            let found = scores[row][output];
            if !options.tolerance.accepts(found, *wanted) {
                return Err(ImportError::Mismatch {
                    file: options.rows.clone().unwrap_or_default(),
                    output: emitted.outputs[output]["name"].as_str().unwrap_or_default().to_owned(),
                    row,
                    found,
                    expected: *wanted,
                    allowed: options.tolerance.allowed(*wanted),
                    remedy: remedy(emitted),
                });
            }
            worst = worst.max((found - wanted).abs());
        }
    }
    Ok(worst)
}

/// What may be wrong where outputs differ.
fn remedy(emitted: &Emitted) -> String {
    let ruled: Vec<String> = emitted.plan.features.iter().flat_map(|feature| feature.rule.given(&feature.name)).collect();
    let rules = match ruled.is_empty() {
        true => "or the importer is wrong: please report it".into(),
        false => format!("or a rule of features.toml gives the graph other values than it was run on ({})", ruled.join(", ")),
    };
    format!(
        "The outputs are of another model or of other rows, {rules}. Outputs that were computed in f32 also differ where large numbers cancel \
         (masks of -1e9 that are added to scores): record them in float64, or set the allowed difference with --atol and --rtol"
    )
}

fn report(graph: &Converted, emitted: &Emitted, rows: &Rows, expected: Expected) -> Report {
    let mut steps: BTreeMap<String, usize> = BTreeMap::new();
    for step in &emitted.graph {
        *steps.entry(step["op"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    let mut steps: Vec<(String, usize)> = steps.into_iter().collect();
    steps.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let plan = &emitted.plan;
    let features = plan.features.iter().zip(&emitted.features).map(|(feature, json)| {
        let input = &graph.inputs[feature.input];
        let (kind, table) = match feature.kind {
            FeatureKind::Dense => ("dense", None),
            FeatureKind::Integer => ("integer", None),
            FeatureKind::Sparse { table } => ("sparse", Some(plan.tables[table].name.clone())),
        };
        let from = match (feature.start, feature.end) {
            (0, end) if end == input.len() => input.name.clone(),
            (start, end) if end == start + 1 => format!("{}[{start}]", input.name),
            (start, end) => format!("{}[{start}:{end}]", input.name),
        };
        let scope = json["scope"].as_str().unwrap_or_default().to_owned();
        let keeps_nan = json["nan"] == "keep";
        FeatureLine { name: feature.name.clone(), kind, scope, width: feature.width(), table, from, keeps_nan }
    });
    let mut notes = graph.notes.clone();
    if !plan.unused.is_empty() {
        notes.push(format!("no score needs the inputs {}: they are no features", plan.unused.join(", ")));
    }
    if !rows.raw.is_empty() {
        let names = rows.raw.join(", ");
        notes.push(format!("the selftest holds values of {names} that the features' rules map onto those of the rows' file"));
    }
    if !rows.ignored.is_empty() {
        notes.push(format!("tensors of the rows' file that are neither inputs nor outputs: {}", rows.ignored.join(", ")));
    }
    Report {
        producer: graph.producer.clone(),
        ops: graph.ops.clone(),
        dead: graph.dead,
        folded: graph.folded,
        steps,
        features: features.collect(),
        tables: plan.tables.iter().map(|table| (table.name.clone(), table.rows(), table.dim())).collect(),
        parameters: emitted.tensors.iter().map(|tensor| tensor.constant.len()).sum(),
        outputs: emitted
            .outputs
            .iter()
            .map(|output| [&output["name"], &output["kind"]].map(|text| text.as_str().unwrap_or_default().to_owned()).into())
            .collect(),
        notes,
        rows: rows.count,
        expected,
    }
}
