//! Scores, row by row in the order of the inputs, and where they go.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use serde_json::{Map, Value};

use crate::cli::table::TextTable;

/// Scores of all rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs {
    names: Vec<String>,
    rows: usize,
    /// Row-major; NaN where a row was refused.
    scores: Vec<f32>,
    /// Status bits per row.
    status: Vec<u8>,
    /// Why rows have no scores, by first row.
    refused: Vec<Refused>,
}

/// Rows without scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// First row.
    pub row: usize,
    /// How many.
    pub rows: usize,
    /// The error's name where the server gave one.
    pub code: Option<&'static str>,
    /// In words.
    pub message: String,
}

impl Refused {
    /// For stderr.
    pub fn line(&self) -> String {
        let rows = match self.rows {
            1 => format!("row {}", self.row),
            rows => format!("rows {} to {}", self.row, self.row + rows - 1),
        };
        format!("error: {rows}: {}: {}", self.code.unwrap_or("not sent"), self.message)
    }
}

impl Outputs {
    /// All rows refused so far.
    pub fn new(names: Vec<String>, rows: usize) -> Outputs {
        let scores = vec![f32::NAN; rows * names.len()];
        Outputs { names, rows, scores, status: vec![0; rows], refused: Vec::new() }
    }

    /// Scores `[rows][outputs]` and status of the rows from `row` on. What exceeds the inputs is left out.
    pub fn fill(&mut self, row: usize, scores: &[f32], status: impl IntoIterator<Item = u8>) {
        let start = row.saturating_mul(self.names.len());
        for (to, from) in self.scores.iter_mut().skip(start).zip(scores) {
            *to = *from;
        }
        for (to, from) in self.status.iter_mut().skip(row).zip(status) {
            *to = from;
        }
    }

    /// Rows that got no scores.
    pub fn refuse(&mut self, refused: Refused) {
        self.refused.push(refused);
        self.refused.sort_by_key(|refused| refused.row);
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// What was refused, by row.
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// Rows without scores.
    pub fn refused_rows(&self) -> usize {
        self.refused.iter().map(|refused| refused.rows).sum()
    }

    /// Rows in which a rule of the model decided about a value.
    pub fn ruled_rows(&self) -> usize {
        let rules = gavel_protocol::status::OUT_OF_RANGE | gavel_protocol::status::MISSING | gavel_protocol::status::NAN;
        self.status.iter().filter(|&&status| status & rules != 0).count()
    }

    fn row(&self, row: usize) -> &[f32] {
        let width = self.names.len();
        self.scores.get(row * width..(row + 1) * width).unwrap_or_default()
    }

    fn error(&self, row: usize) -> Option<&Refused> {
        let after = self.refused.partition_point(|refused| refused.row <= row);
        self.refused.get(after.checked_sub(1)?).filter(|refused| row < refused.row + refused.rows)
    }

    /// One object per row: the outputs under their names (`null` for NaN and infinities), `status` where it is not zero, `error` where a row
    /// was refused.
    pub fn write_json(&self, into: impl Write) -> io::Result<()> {
        let mut into = BufWriter::new(into);
        for row in 0..self.rows {
            let mut object = Map::new();
            match self.error(row) {
                Some(refused) => {
                    object.insert("error".into(), refused.code.unwrap_or("not_sent").into());
                    object.insert("message".into(), refused.message.as_str().into());
                }
                None => {
                    for (name, &score) in self.names.iter().zip(self.row(row)) {
                        // The shortest text that reads back as the same f32.
                        let text = score.to_string();
                        object.insert(
                            name.clone(),
                            text.parse().ok().and_then(serde_json::Number::from_f64).map_or(Value::Null, Value::Number),
                        );
                    }
                    if let Some(&status) = self.status.get(row).filter(|&&status| status != 0) {
                        object.insert("status".into(), status.into());
                    }
                }
            }
            serde_json::to_writer(&mut into, &object)?;
            into.write_all(b"\n")?;
        }
        into.flush()
    }

    /// One f32 tensor `[rows]` per output, under its name.
    pub fn write_safetensors(&self, path: &Path) -> io::Result<()> {
        let width = self.names.len();
        let columns: Vec<Vec<u8>> = (0..width)
            .map(|column| self.scores.iter().skip(column).step_by(width).flat_map(|score| score.to_le_bytes()).collect())
            .collect();
        let mut tensors = Vec::new();
        for (name, column) in self.names.iter().zip(&columns) {
            tensors.push((name.as_str(), TensorView::new(Dtype::F32, vec![self.rows], column).map_err(io::Error::other)?));
        }
        serialize_to_file(tensors, None, path).map_err(io::Error::other)
    }

    /// Writes where the ending says: `.safetensors`, or JSON lines (`.jsonl`, or `-` for stdout).
    pub fn write(&self, to: &Path) -> io::Result<()> {
        if to.as_os_str() == "-" {
            return self.write_json(io::stdout().lock());
        }
        match Format::of(to) {
            Some(Format::Safetensors) => self.write_safetensors(to),
            _ => self.write_json(File::create(to)?),
        }
    }

    /// The first rows, for eyes.
    pub fn table(&self, rows_max: usize) -> TextTable {
        let mut head = vec!["row".to_owned()];
        head.extend(self.names.iter().cloned());
        head.push(String::new());
        let mut table = TextTable::new(head);
        for row in 0..self.rows.min(rows_max) {
            let mut cells = vec![row.to_string()];
            let error = self.error(row);
            cells.extend(self.row(row).iter().map(|score| if error.is_some() { String::new() } else { format!("{score:.6}") }));
            cells.extend(error.map(|refused| refused.code.unwrap_or("not sent").to_owned()));
            table.row(cells);
        }
        table
    }
}

/// Form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Tensors.
    Safetensors,
    /// JSON lines.
    Json,
}

impl Format {
    /// By the ending of its name.
    pub fn of(path: &Path) -> Option<Format> {
        match path.extension()?.to_str()? {
            "safetensors" => Some(Format::Safetensors),
            "jsonl" | "ndjson" | "json" => Some(Format::Json),
            _ => None,
        }
    }
}
