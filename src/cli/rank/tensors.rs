//! Inputs as safetensors.
//!
//! ```text
//!   NAME               [rows] or [rows, width]     one tensor per feature: floats for dense, integers for ids
//!   NAME, NAME.lengths [ids], [rows]               a feature of variable length: its ids row after row, and how many per row
//!   NAME.weights       as NAME                     weights of a weighted feature
//!   NAME for NAME.3, NAME.5-8  [rows, width]       columns of a matrix that became features of their own, as importers name them; whole numbers may be floats
//!   dense              [rows, sum of widths]       all dense features without a tensor of their own, in the order of the description
//!   sparse             [rows, sum of widths]       all id features of fixed length without one
//!   values, lengths    [ids], [features × rows]    jagged: the id features that are left, feature after feature; `weights` parallel to values
//! ```
//! The first four may bear the prefix `in.`, as in a bundle's selftest, which so is a file of inputs too. Tensors that the model does not take
//! are ignored with a note.

use std::collections::BTreeSet;

use gavel_protocol::{DescribedFeature, Description, FeatureKind};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::columns::{Column, InputError, Inputs, Notes};
use super::json::check_id;

/// Reads a whole file.
pub fn read(description: &Description, bytes: &[u8]) -> Result<(Inputs, Notes), InputError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| InputError(format!("no safetensors file: {error}")))?;
    let mut reader = Reader { file: &file, used: BTreeSet::new(), rows: None };
    let columns = reader.columns(description).map_err(InputError)?;
    let notes = file.names().into_iter().filter(|name| !reader.used.contains(*name)).collect::<BTreeSet<_>>();
    let notes = notes.into_iter().map(|name| format!("tensor {name}: not taken by the model, ignored")).collect();
    Ok((Inputs { columns, rows: reader.rows.map_or(0, |(rows, _)| rows), contexts: None }, notes))
}

struct Reader<'a> {
    file: &'a SafeTensors<'a>,
    used: BTreeSet<String>,
    /// How many, and which tensor said so.
    rows: Option<(usize, String)>,
}

/// A two-dimensional tensor: rows of `width` elements.
struct Matrix<T> {
    name: String,
    width: usize,
    values: Vec<T>,
}

impl Reader<'_> {
    fn columns(&mut self, description: &Description) -> Result<Vec<Column>, String> {
        let mut columns: Vec<Option<Column>> = Vec::new();
        for feature in &description.features {
            let name = ["", SELFTEST_PREFIX].map(|prefix| format!("{prefix}{}", feature.name));
            let own = name.iter().find(|name| self.file.tensor(name).is_ok());
            let column = match own {
                Some(name) => Some(self.own(feature, name)?),
                None => self.part_of_matrix(feature)?,
            };
            columns.push(column);
        }
        let features = &description.features;
        let left = |columns: &[Option<Column>], wanted: &dyn Fn(&DescribedFeature) -> bool| -> Vec<usize> {
            (0..features.len()).filter(|&i| columns[i].is_none() && wanted(&features[i])).collect()
        };
        let dense = left(&columns, &|feature| feature.kind == FeatureKind::Dense);
        if !dense.is_empty() && self.file.tensor("dense").is_ok() {
            self.packed_dense(features, &dense, &mut columns)?;
        }
        let fixed = left(&columns, &|feature| feature.kind != FeatureKind::Dense && !feature.is_variable());
        if !fixed.is_empty() && self.file.tensor("sparse").is_ok() {
            self.packed_ids(features, &fixed, &mut columns)?;
        }
        let jagged = left(&columns, &|feature| feature.kind != FeatureKind::Dense);
        if !jagged.is_empty() && self.file.tensor("values").is_ok() && self.file.tensor("lengths").is_ok() {
            self.jagged(features, &jagged, &mut columns)?;
        }
        let absent: Vec<&str> =
            features.iter().zip(&columns).filter(|(_, column)| column.is_none()).map(|(feature, _)| feature.name.as_str()).collect();
        if !absent.is_empty() {
            return Err(format!(
                "no tensor for {} of the model's {} features: {} (name tensors like features, or pack them as dense, sparse, values + lengths)",
                absent.len(),
                features.len(),
                first_few(&absent)
            ));
        }
        Ok(columns.into_iter().flatten().collect())
    }

    /// A tensor of the feature's own.
    fn own(&mut self, feature: &DescribedFeature, name: &str) -> Result<Column, String> {
        let width = feature.width as usize;
        if feature.kind == FeatureKind::Dense {
            let matrix = self.floats(name)?;
            self.check_rows(&matrix, width)?;
            return Ok(Column::Dense { width, values: matrix.values });
        }
        let ids = self.ids(name)?;
        let ends = if feature.is_variable() {
            let lengths = self.integers(&format!("{name}.lengths"))?;
            self.check_rows(&lengths, 1)?;
            ends(&lengths.name, &lengths.values, ids.values.len())?
        } else {
            self.check_rows(&ids, width)?;
            (1..=ids.values.len() / width).map(|row| row * width).collect()
        };
        let weights = if feature.is_weighted() { self.floats(&format!("{name}.weights"))?.values } else { Vec::new() };
        column(feature, ends, &ids.values, weights)
    }

    /// Columns of the matrix that a feature like `NAME.3` or `NAME.5-8` was a part of, if there is one.
    fn part_of_matrix(&mut self, feature: &DescribedFeature) -> Result<Option<Column>, String> {
        let Some((matrix, first, count)) = part_of(&feature.name) else { return Ok(None) };
        let name = ["", SELFTEST_PREFIX].map(|prefix| format!("{prefix}{matrix}"));
        let Some(name) = name.iter().find(|name| self.file.tensor(name).is_ok()) else { return Ok(None) };
        let width = feature.width as usize;
        let tensor = self.tensor(name)?;
        let dtype = tensor.dtype();
        let &[_, total] = tensor.shape() else {
            return Err(format!("tensor {name}: expected the shape [rows, width], found {:?}", tensor.shape()));
        };
        if feature.is_variable() || feature.is_weighted() || width != count || first + count > total {
            return Err(format!("tensor {name}: {total} columns, {} is none or some of them: give it a tensor of its own", feature.name));
        }
        let floats = matches!(dtype, Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::BF16);
        if feature.kind == FeatureKind::Dense {
            let matrix = self.floats(name)?;
            self.check_rows(&matrix, total)?;
            let values = matrix.values.chunks_exact(total).flat_map(|row| &row[first..first + count]).copied().collect();
            return Ok(Some(Column::Dense { width, values }));
        }
        let ids: Vec<i128> = if floats {
            let matrix = self.floats(name)?;
            self.check_rows(&matrix, total)?;
            let ids = matrix.values.chunks_exact(total).flat_map(|row| &row[first..first + count]);
            let whole = |(at, &id): (usize, &f32)| match id {
                id if id.fract() == 0.0 && id.abs() < WHOLE_FLOATS => Ok(id as i128),
                id => Err(format!("tensor {name}, row {}: {id} is no id: ids in floats are whole, and below 2^24", at / count)),
            };
            ids.enumerate().map(whole).collect::<Result<_, _>>()?
        } else {
            let matrix = self.ids(name)?;
            self.check_rows(&matrix, total)?;
            matrix.values.chunks_exact(total).flat_map(|row| &row[first..first + count]).copied().collect()
        };
        let ends = (1..=ids.len() / width).map(|row| row * width).collect();
        column(feature, ends, &ids, Vec::new()).map(Some)
    }

    fn packed_dense(&mut self, features: &[DescribedFeature], which: &[usize], columns: &mut [Option<Column>]) -> Result<(), String> {
        let matrix = self.floats("dense")?;
        let total = which.iter().map(|&i| features[i].width as usize).sum();
        self.check_rows(&matrix, total)?;
        let mut at = 0;
        for &i in which {
            let width = features[i].width as usize;
            let values = matrix.values.chunks_exact(total).flat_map(|row| &row[at..at + width]).copied().collect();
            columns[i] = Some(Column::Dense { width, values });
            at += width;
        }
        Ok(())
    }

    fn packed_ids(&mut self, features: &[DescribedFeature], which: &[usize], columns: &mut [Option<Column>]) -> Result<(), String> {
        if let Some(&weighted) = which.iter().find(|&&i| features[i].is_weighted()) {
            return Err(format!("{}: weighted, and `sparse` has no weights: give it a tensor of its own", features[weighted].name));
        }
        let matrix = self.ids("sparse")?;
        let total = which.iter().map(|&i| features[i].width as usize).sum();
        self.check_rows(&matrix, total)?;
        let mut at = 0;
        for &i in which {
            let width = features[i].width as usize;
            let ids: Vec<i128> = matrix.values.chunks_exact(total).flat_map(|row| &row[at..at + width]).copied().collect();
            let ends = (1..=ids.len() / width).map(|row| row * width).collect();
            columns[i] = Some(column(&features[i], ends, &ids, Vec::new())?);
            at += width;
        }
        Ok(())
    }

    fn jagged(&mut self, features: &[DescribedFeature], which: &[usize], columns: &mut [Option<Column>]) -> Result<(), String> {
        let ids = self.ids("values")?.values;
        let lengths = self.integers("lengths")?.values;
        if lengths.len() % which.len() != 0 {
            return Err(format!("tensor lengths: {} entries are no multiple of the {} id features", lengths.len(), which.len()));
        }
        let rows = lengths.len() / which.len();
        self.set_rows(rows, "lengths")?;
        let ends = ends("lengths", &lengths, ids.len())?;
        let weighted = which.iter().any(|&i| features[i].is_weighted());
        let weights = if weighted { self.floats("weights")?.values } else { Vec::new() };
        if weighted && weights.len() != ids.len() {
            return Err(format!("tensor weights: {} entries for {} values", weights.len(), ids.len()));
        }
        let mut start = 0;
        for (k, &i) in which.iter().enumerate() {
            let mine = &ends[k * rows..(k + 1) * rows];
            let end = mine.last().copied().unwrap_or(start);
            let own = mine.iter().map(|end| end - start).collect();
            let weights = if features[i].is_weighted() { weights[start..end].to_vec() } else { Vec::new() };
            columns[i] = Some(column(&features[i], own, &ids[start..end], weights)?);
            start = end;
        }
        Ok(())
    }

    fn tensor(&mut self, name: &str) -> Result<TensorView<'_>, String> {
        self.used.insert(name.into());
        self.file.tensor(name).map_err(|_| format!("no tensor {name}"))
    }

    fn floats(&mut self, name: &str) -> Result<Matrix<f32>, String> {
        let tensor = self.tensor(name)?;
        let width = width(name, tensor.shape())?;
        let data = tensor.data();
        let values = match tensor.dtype() {
            Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Dtype::F64 => data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
            Dtype::F16 => data.as_chunks().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect(),
            Dtype::BF16 => data.as_chunks().0.iter().map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32()).collect(),
            other => return Err(format!("tensor {name}: expected floats, found {other:?}")),
        };
        Ok(Matrix { name: name.into(), width, values })
    }

    fn ids(&mut self, name: &str) -> Result<Matrix<i128>, String> {
        self.integers(name)
    }

    fn integers(&mut self, name: &str) -> Result<Matrix<i128>, String> {
        let tensor = self.tensor(name)?;
        let width = width(name, tensor.shape())?;
        let data = tensor.data();
        let values = match tensor.dtype() {
            Dtype::I64 => data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes).into()).collect(),
            Dtype::U64 => data.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes).into()).collect(),
            Dtype::I32 => data.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect(),
            Dtype::U32 => data.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes).into()).collect(),
            Dtype::I16 => data.as_chunks().0.iter().map(|bytes| i16::from_le_bytes(*bytes).into()).collect(),
            Dtype::U16 => data.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes).into()).collect(),
            Dtype::I8 => data.iter().map(|byte| byte.cast_signed().into()).collect(),
            Dtype::U8 => data.iter().map(|byte| (*byte).into()).collect(),
            other => return Err(format!("tensor {name}: expected integers, found {other:?} (ids are never floats here)")),
        };
        Ok(Matrix { name: name.into(), width, values })
    }

    /// The tensor has `width` elements per row and as many rows as the others.
    fn check_rows<T>(&mut self, matrix: &Matrix<T>, width: usize) -> Result<(), String> {
        if matrix.width != width {
            return Err(format!("tensor {}: expected {width} per row, found {}", matrix.name, matrix.width));
        }
        self.set_rows(matrix.values.len() / width.max(1), &matrix.name)
    }

    fn set_rows(&mut self, rows: usize, name: &str) -> Result<(), String> {
        match &self.rows {
            Some((before, first)) if *before != rows => Err(format!("tensor {name} has {rows} rows, tensor {first} has {before}")),
            Some(_) => Ok(()),
            None => {
                self.rows = Some((rows, name.into()));
                Ok(())
            }
        }
    }
}

/// Elements per row of a shape of one or two dimensions.
fn width(name: &str, shape: &[usize]) -> Result<usize, String> {
    match shape {
        [_] => Ok(1),
        [_, width] if *width > 0 => Ok(*width),
        _ => Err(format!("tensor {name}: expected the shape [rows] or [rows, width], found {shape:?}")),
    }
}

/// Ends from lengths; their sum must be `total`.
fn ends(name: &str, lengths: &[i128], total: usize) -> Result<Vec<usize>, String> {
    let mut sum = 0usize;
    let mut ends = Vec::with_capacity(lengths.len());
    for &length in lengths {
        let length = usize::try_from(length).map_err(|_| format!("tensor {name}: {length} is no length"))?;
        sum =
            sum.checked_add(length).filter(|sum| *sum <= total).ok_or_else(|| format!("tensor {name}: the sum exceeds the {total} ids"))?;
        ends.push(sum);
    }
    if sum != total {
        return Err(format!("tensor {name}: the sum is {sum}, there are {total} ids"));
    }
    Ok(ends)
}

fn column(feature: &DescribedFeature, ends: Vec<usize>, values: &[i128], weights: Vec<f32>) -> Result<Column, String> {
    let row_of = |position: usize| ends.partition_point(|&end| end <= position);
    let mut ids = Vec::with_capacity(values.len());
    for (position, &value) in values.iter().enumerate() {
        // i128 holds every i64 and u64: the cast keeps two's complement.
        let id = check_id(feature, value as u64, value < 0);
        ids.push(id.map_err(|message| format!("row {}: {}: {message}", row_of(position), feature.name))?);
    }
    if feature.is_weighted() && weights.len() != ids.len() {
        return Err(format!("{}: {} ids and {} weights", feature.name, ids.len(), weights.len()));
    }
    if !feature.is_variable() {
        let width = feature.width as usize;
        let wrong = ends.iter().enumerate().find(|(row, end)| **end != (row + 1) * width);
        if let Some((row, _)) = wrong {
            return Err(format!("row {row}: {}: expected {width} ids", feature.name));
        }
    }
    Ok(Column::Ids { ends, ids, weights })
}

/// The matrix, first column and number of columns behind a name like `NAME.3` or `NAME.5-8`.
fn part_of(name: &str) -> Option<(&str, usize, usize)> {
    let (matrix, columns) = name.rsplit_once('.')?;
    let (first, last) = columns.split_once('-').unwrap_or((columns, columns));
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then(|| (matrix, first, last - first + 1))
}

/// f32 holds every whole number below 2^24.
const WHOLE_FLOATS: f32 = 16_777_216.0;

/// What inputs are called in a selftest.
const SELFTEST_PREFIX: &str = "in.";

fn first_few(names: &[&str]) -> String {
    const FEW: usize = 8;
    let more = if names.len() > FEW { ", .." } else { "" };
    format!("{}{more}", names[..names.len().min(FEW)].join(", "))
}
