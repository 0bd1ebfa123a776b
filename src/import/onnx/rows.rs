//! Rows for the selftest: from a file, under the names of the graph's inputs (what the graph was run on) or of the features (what requests
//! carry); or made up.

use std::f64::consts::TAU;
use std::path::Path;

use crate::limits::SELFTEST_ROWS_MAX;
use crate::model::{TensorFile, TensorRef};

use super::emit::Emitted;
use super::error::{ImportError, Problem, problem};
use super::features::{Feature, FeatureKind};
use super::graph::Converted;

/// Rows of inputs, and what other runtimes made of them.
#[derive(Debug)]
pub struct Rows {
    /// How many.
    pub count: usize,
    /// Per feature: [count × width].
    pub columns: Vec<Column>,
    /// Per output of the bundle, if the file has them.
    pub expected: Option<Vec<Vec<f64>>>,
    /// Tensors of the file that nobody asked for.
    pub ignored: Vec<String>,
    /// Features whose values are not the file's, but some that the rules map onto them.
    pub raw: Vec<String>,
}

/// Values of a feature.
#[derive(Debug)]
pub enum Column {
    /// Of dense features.
    Dense(Vec<f32>),
    /// Of the others.
    Ids(Vec<i64>),
}

/// Rows that are made up where no file gives some.
const MADE_UP: usize = 32;

impl Rows {
    /// Reads the content `bytes` of `file`.
    pub fn read(file: &Path, bytes: Vec<u8>, graph: &Converted, emitted: &Emitted) -> Result<Rows, ImportError> {
        let fault = |place: String, problem: Problem| ImportError::File { file: file.to_owned(), place, problem };
        let tensors = TensorFile::parse(file, bytes)
            .map_err(|error| fault("file".into(), problem(error.to_string(), "Write the rows with safetensors")))?;
        let mut used = Vec::new();
        let mut count: Option<usize> = None;
        let mut columns = Vec::new();
        let mut raw = Vec::new();
        for feature in &emitted.plan.features {
            let input = &graph.inputs[feature.input];
            let own = tensors.tensor(&feature.name).filter(|_| feature.name != input.name);
            let of_input = own.is_none();
            let (tensor, width, start) = match (own, tensors.tensor(&input.name)) {
                (Some(tensor), _) => (tensor, feature.width(), 0),
                (None, Some(tensor)) => (tensor, input.len(), feature.start),
                (None, None) => {
                    let what = format!("no tensor {:?} and no tensor {:?}", input.name, feature.name);
                    return Err(fault("rows".into(), problem(what, "Save the graph's inputs under their names, or values per feature")));
                }
            };
            let place = || format!("tensor {:?}", tensor.name());
            used.push(tensor.name().to_owned());
            let rows = tensor.shape().first().copied().unwrap_or(0);
            let elements: Option<usize> = tensor.shape().iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
            if rows == 0 || rows > SELFTEST_ROWS_MAX || elements != rows.checked_mul(width) {
                let what =
                    format!("shape {:?}, expected [rows, ..] with {width} elements per row, 1 to {SELFTEST_ROWS_MAX} rows", tensor.shape());
                return Err(fault(place(), problem(what, "Save the inputs as the graph takes them")));
            }
            if *count.get_or_insert(rows) != rows {
                return Err(fault(place(), problem(format!("{rows} rows, other tensors have others"), "Save the same rows everywhere")));
            }
            let mut column = column(&tensor, feature, width, start).map_err(|problem| fault(place(), problem))?;
            if of_input && !feature.changes().is_empty() {
                let of_feature = |problem| fault(format!("{}, feature {:?}", place(), feature.name), problem);
                column = feature.raw(column).map_err(of_feature)?;
                raw.push(feature.name.clone());
            }
            columns.push(column);
        }
        let count = count.unwrap_or(0);
        let expected = expected(&tensors, graph, emitted, count, &mut used).map_err(|(place, problem)| fault(place, problem))?;
        let ignored = tensors.names().filter(|name| !used.iter().any(|used| used == name)).map(str::to_owned).collect();
        Ok(Rows { count, columns, expected, ignored, raw })
    }

    /// Made-up rows: ids in range, numbers of a normal distribution, one in eight missing where the graph deals with that. The same at every
    /// import. `calm`: small numbers.
    pub fn made_up(emitted: &Emitted, calm: bool) -> Rows {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut columns = Vec::new();
        for feature in &emitted.plan.features {
            let len = MADE_UP * feature.width();
            columns.push(match feature.kind {
                FeatureKind::Dense => {
                    let missing = feature.takes_nan && feature.rule.nan.as_ref().is_some_and(|rule| rule == "keep");
                    let mut number = || match missing && random.below(8) == 0 {
                        true => f32::NAN,
                        false => random.normal(if calm { 0.1 } else { 1.0 }) as f32,
                    };
                    Column::Dense((0..len).map(|_| number()).collect())
                }
                FeatureKind::Integer => {
                    let bound = feature.bound.unwrap_or(if calm { 2 } else { 4 });
                    Column::Ids((0..len).map(|_| random.below(bound)).collect())
                }
                FeatureKind::Sparse { table } => {
                    let rows = emitted.plan.tables[table].rows();
                    Column::Ids((0..len).map(|_| random.below(rows)).collect())
                }
            });
        }
        Rows { count: MADE_UP, columns, expected: None, ignored: Vec::new(), raw: Vec::new() }
    }
}

fn column(tensor: &TensorRef<'_>, feature: &Feature, width: usize, start: usize) -> Result<Column, Problem> {
    let own = |line: usize| start + line % feature.width() + line / feature.width() * width;
    let total = tensor.shape().first().map_or(0, |rows| rows * feature.width());
    if feature.kind == FeatureKind::Dense {
        let values = match tensor.f32s() {
            Ok(values) => values,
            Err(_) => integers(tensor)?.into_iter().map(|x| x as f32).collect(),
        };
        return Ok(Column::Dense((0..total).filter_map(|line| values.get(own(line)).copied()).collect()));
    }
    let values = integers(tensor)?;
    Ok(Column::Ids((0..total).filter_map(|line| values.get(own(line)).copied()).collect()))
}

/// Integers, of floats that hold them.
fn integers(tensor: &TensorRef<'_>) -> Result<Vec<i64>, Problem> {
    if let Ok(values) = tensor.i64s() {
        return Ok(values);
    }
    let values = tensor.f64s().map_err(|error| problem(error.to_string(), "Save it as I64, F32 or F64"))?;
    values
        .into_iter()
        .map(|x| if x.is_finite() { Ok(x.trunc() as i64) } else { Err(problem(format!("{x} as an id"), "Ids are integers")) })
        .collect()
}

type Placed<T> = Result<T, (String, Problem)>;

/// Outputs under the names of the graph's outputs, or of the bundle's.
fn expected(
    tensors: &TensorFile,
    graph: &Converted,
    emitted: &Emitted,
    rows: usize,
    used: &mut Vec<String>,
) -> Placed<Option<Vec<Vec<f64>>>> {
    let mut all = Vec::new();
    let mut missing = None;
    for (at, (output, element)) in emitted.columns.iter().enumerate() {
        let name = emitted.outputs[at]["name"].as_str().unwrap_or_default();
        let graph_name = graph.outputs[*output].as_str();
        let siblings = emitted.columns.iter().filter(|(other, _)| other == output).count();
        let (tensor, width, element) = match (tensors.tensor(graph_name), tensors.tensor(name)) {
            (Some(tensor), _) => (tensor, siblings, *element),
            (None, Some(tensor)) => (tensor, 1, 0),
            (None, None) => {
                missing = Some(name.to_owned());
                continue;
            }
        };
        used.push(tensor.name().to_owned());
        let place = || format!("tensor {:?}", tensor.name());
        let values = tensor.f64s().map_err(|error| (place(), problem(error.to_string(), "Save outputs as F32 or F64")))?;
        if Some(values.len()) != rows.checked_mul(width) {
            let what = format!("shape {:?} for {rows} rows of {width}", tensor.shape());
            return Err((place(), problem(what, "Save the outputs of the same rows")));
        }
        all.push((0..rows).map(|row| values[row * width + element]).collect());
    }
    match missing {
        None => Ok(Some(all)),
        Some(_) if all.is_empty() => Ok(None),
        Some(name) => Err(("rows".into(), problem(format!("outputs, but none for {name:?}"), "Save all outputs, or none"))),
    }
}

/// xorshift64*: the same rows at every import.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> i64 {
        (self.next() >> 11) as i64 % (bound.max(1) as i64)
    }

    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn normal(&mut self, deviation: f64) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (TAU * self.unit()).cos() * deviation
    }
}
