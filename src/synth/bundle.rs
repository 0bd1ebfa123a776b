//! A recipe as a bundle.
//!
//! The selftest needs scores, and the scores need a model. So a draft is written first: the layers, and of each table only the rows that the
//! selftest reads. It is loaded as any bundle is, the interpreter scores its rows, and then tables, selftest and manifest are replaced by the
//! real ones. However large the tables are, memory holds the layers and a few megabytes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::model::{Cell, FeatureRows, FieldKind, LoadOptions, MANIFEST, Model, load};
use crate::reference::score_rows;

use super::graph::{Written, manifest};
use super::rows::SelftestRows;
use super::tensor_writer::{Planned, TensorWriter};
use super::tensors::{TableNumbers, Tensor, dense_name, layers, table_name, tables};
use super::{Progress, Recipe, SynthError};

/// Writes the bundle `out`, a folder that does not exist yet. It appears when it is whole.
pub fn write_bundle(recipe: &Recipe, out: &Path, progress: &mut Progress<'_>) -> Result<(), SynthError> {
    if out.exists() {
        return Err(SynthError::Exists(out.to_owned()));
    }
    let name = out.file_name().ok_or_else(|| SynthError::Unnamed(out.to_owned()))?;
    // A name that starts with a dot is no bundle to a server that looks at the folder meanwhile.
    let partial = Partial(out.with_file_name(format!(".{}.partial-{}", name.to_string_lossy(), std::process::id())));
    fs::create_dir_all(&partial.0).map_err(SynthError::io(&partial.0))?;
    write_files(recipe, &partial.0, progress)?;
    fs::rename(&partial.0, out).map_err(SynthError::io(out))
}

/// A folder that is removed if it is still there at the end.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone after the rename; else the error that led here is the one to report.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write_files(recipe: &Recipe, folder: &Path, progress: &mut Progress<'_>) -> Result<(), SynthError> {
    let rows = SelftestRows::new(recipe);
    let tables = tables(recipe);
    let dense = write_layers(&layers(recipe), folder)?;

    let touched = rows.touched();
    let draft_rows = rows.over(&touched);
    let sizes: Vec<u32> = touched.iter().map(|rows| rows.len() as u32).collect();
    let small = write_tables(&tables, &sizes, folder, |table, write| {
        let (mut row, mut stored) = (vec![0.0; tables[table].dim], Vec::new());
        touched[table].iter().try_for_each(|id| {
            tables[table].rows_from(*id, &mut row, &mut stored);
            write(&stored)
        })
    })?;
    let selftest = write_selftest(recipe, &draft_rows, &vec![0.0; recipe.selftest_rows], folder)?;
    write_manifest(&manifest(recipe, &sizes, &[dense.clone(), small], &selftest), folder)?;
    let model = load(folder, &LoadOptions::default(), &mut |_| {})?;
    let expected = score_rows(&model, &feature_rows(&model, &draft_rows, recipe.selftest_rows)?)?;
    let expected: Vec<f64> = expected.into_iter().flatten().collect();
    drop(model);

    let total = tables.iter().map(|table| u64::from(table.rows) * recipe.tables.row_bytes(table.dim) as u64).sum();
    let mut written = 0;
    let sizes: Vec<u32> = tables.iter().map(|table| table.rows).collect();
    let large = write_tables(&tables, &sizes, folder, |table, write| {
        tables[table].pieces(|stored, _| {
            write(stored)?;
            written += stored.len() as u64;
            progress(written, total);
            Ok(())
        })
    })?;
    let selftest = write_selftest(recipe, &rows, &expected, folder)?;
    write_manifest(&manifest(recipe, &sizes, &[dense, large], &selftest), folder)
}

fn write_layers(tensors: &[Tensor], folder: &Path) -> Result<Written, SynthError> {
    let planned = |tensor: &Tensor| f32_tensor(&tensor.name, tensor.shape.clone());
    let planned: Vec<Planned> = tensors.iter().map(planned).collect();
    write_tensors("weights.safetensors", &planned, folder, |file| {
        tensors.iter().try_for_each(|tensor| file.write(bytemuck::cast_slice(&tensor.values)))
    })
}

/// Writes tables of `rows` rows; `fill` writes the stored rows of one of them.
fn write_tables(
    tables: &[TableNumbers],
    rows: &[u32],
    folder: &Path,
    mut fill: impl FnMut(usize, &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>,
) -> Result<Written, SynthError> {
    let planned = tables.iter().zip(rows).map(|(table, rows)| Planned {
        name: table.name.clone(),
        dtype: table.format.tensor_type(),
        shape: vec![*rows as usize, table.format.tensor_columns(table.dim)],
        bytes: u64::from(*rows) * table.format.row_bytes(table.dim) as u64,
    });
    write_tensors("weights-tables.safetensors", &planned.collect::<Vec<_>>(), folder, |file| {
        (0..tables.len()).try_for_each(|table| fill(table, &mut |stored| file.write(stored)))
    })
}

fn write_selftest(recipe: &Recipe, rows: &SelftestRows, expected: &[f64], folder: &Path) -> Result<Written, SynthError> {
    let count = expected.len();
    let tensor = |name: String, dtype, width: usize, element: u64| Planned {
        name,
        dtype,
        shape: if width == 1 { vec![count] } else { vec![count, width] },
        bytes: (count * width) as u64 * element,
    };
    let dense = (0..rows.dense.len()).map(|i| tensor(format!("in.{}", dense_name(i)), "F32", 1, 4));
    let sparse = recipe.shape.hots.iter().enumerate().map(|(i, hot)| tensor(format!("in.{}", table_name(i)), "I64", *hot, 8));
    // Eight-byte elements first: each tensor then lies on a multiple of its element's size.
    let planned: Vec<Planned> = std::iter::once(tensor("out.prob".into(), "F64", 1, 8)).chain(sparse).chain(dense).collect();
    write_tensors("selftest.safetensors", &planned, folder, |file| {
        file.write(bytemuck::cast_slice(expected))?;
        rows.ids.iter().try_for_each(|ids| file.write(bytemuck::cast_slice(ids)))?;
        rows.dense.iter().try_for_each(|values| file.write(bytemuck::cast_slice(values)))
    })
}

fn f32_tensor(name: &str, shape: Vec<usize>) -> Planned {
    let bytes = shape.iter().map(|size| *size as u64).product::<u64>() * 4;
    Planned { name: name.into(), dtype: "F32", shape, bytes }
}

fn write_tensors(
    name: &'static str,
    planned: &[Planned],
    folder: &Path,
    fill: impl FnOnce(&mut TensorWriter) -> io::Result<()>,
) -> Result<Written, SynthError> {
    let path = folder.join(name);
    let write = || {
        let mut file = TensorWriter::create(&path, planned)?;
        fill(&mut file)?;
        file.finish()
    };
    let (bytes, digest) = write().map_err(SynthError::io(&path))?;
    Ok(Written { file: name, bytes, digest })
}

fn write_manifest(manifest: &Value, folder: &Path) -> Result<(), SynthError> {
    let path = folder.join(MANIFEST);
    let text = format!("{manifest:#}\n");
    fs::write(&path, text).map_err(SynthError::io(&path))
}

/// The rows as a client would have them.
fn feature_rows(model: &Model, rows: &SelftestRows, count: usize) -> Result<FeatureRows, SynthError> {
    let fields = model.fields();
    let mut of = FeatureRows::new(fields.clone());
    for row in 0..count {
        let (mut dense, mut ids) = (rows.dense.iter(), rows.ids.iter());
        let cell = |kind| match kind {
            FieldKind::Dense => dense.next().map(|values| Cell::Dense(&values[row..=row])),
            _ => ids.next().map(|ids| {
                let width = ids.len() / count;
                Cell::Ids { ids: &ids[row * width..][..width], weights: &[] }
            }),
        };
        let cells: Vec<Cell<'_>> = fields.iter().map(|field| field.kind).filter_map(cell).collect();
        of.push_row(&cells)?;
    }
    Ok(of)
}
