//! What an import did, for people.

use std::fmt;

/// Where the expected outputs of the selftest come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// Of a file: another runtime made them, and the imported graph reproduces them.
    Given {
        /// Largest difference.
        worst: f64,
    },
    /// Of the reference interpreter on inputs of a file: nobody else has computed them.
    Computed,
    /// Of the reference interpreter on made-up inputs.
    MadeUp,
}

/// A feature of the bundle.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureLine {
    /// Name.
    pub name: String,
    /// `dense`, `sparse` or `integer`.
    pub kind: &'static str,
    /// `context` or `candidate`.
    pub scope: String,
    /// Values per row.
    pub width: usize,
    /// Its table, if it has one.
    pub table: Option<String>,
    /// Columns of the graph's input.
    pub from: String,
    /// NaN is handed on to the graph.
    pub keeps_nan: bool,
}

/// The report.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Who wrote the file.
    pub producer: String,
    /// Nodes of the file that scores need, by op.
    pub ops: Vec<(String, usize)>,
    /// Nodes that no score needs.
    pub dead: usize,
    /// Nodes computed at import.
    pub folded: usize,
    /// Steps of the bundle, by op.
    pub steps: Vec<(String, usize)>,
    /// Features.
    pub features: Vec<FeatureLine>,
    /// Tables: name, rows, dim.
    pub tables: Vec<(String, usize, usize)>,
    /// Numbers in dense tensors.
    pub parameters: usize,
    /// Outputs: name and kind.
    pub outputs: Vec<(String, String)>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Rows of the selftest.
    pub rows: usize,
    /// Where its outputs come from.
    pub expected: Expected,
}

fn counts(counts: &[(String, usize)]) -> String {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = |counts: &[(String, usize)]| counts.iter().map(|(_, count)| count).sum::<usize>();
        if !self.producer.is_empty() {
            writeln!(f, "written by   {}", self.producer)?;
        }
        writeln!(f, "nodes        {} ({})", total(&self.ops), counts(&self.ops))?;
        writeln!(f, "             {} computed at import, {} that no score needs", self.folded, self.dead)?;
        writeln!(f, "steps        {} ({})", total(&self.steps), counts(&self.steps))?;
        let rows: usize = self.tables.iter().map(|(_, rows, _)| rows).sum();
        let elements: usize = self.tables.iter().map(|(_, rows, dim)| rows * dim).sum();
        writeln!(f, "parameters   {} dense, {elements} in {} tables of {rows} rows", self.parameters, self.tables.len())?;
        writeln!(f, "features     {}", self.features.len())?;
        for line in &self.features {
            let table = line.table.as_ref().map_or(String::new(), |table| format!(", table {table}"));
            let nan = if line.keeps_nan { ", NaN is kept" } else { "" };
            writeln!(f, "  {}: {} {}, width {}{table}{nan} (input {})", line.name, line.scope, line.kind, line.width, line.from)?;
        }
        for (name, kind) in &self.outputs {
            writeln!(f, "output       {name}: {kind}")?;
        }
        for note in &self.notes {
            writeln!(f, "note         {note}")?;
        }
        match self.expected {
            Expected::Given { worst } => writeln!(
                f,
                "selftest     {} rows with the outputs of the rows' file, which the imported graph reproduces (largest difference \
                 {worst:.1e}); each row was scored alone",
                self.rows
            ),
            Expected::Computed => writeln!(
                f,
                "selftest     {} rows of the file; their outputs come from gavel's own reference interpreter, no other runtime has \
                 confirmed them",
                self.rows
            ),
            Expected::MadeUp => writeln!(
                f,
                "selftest     {} made-up rows; their outputs come from gavel's own reference interpreter, no other runtime has confirmed \
                 them: give --rows with outputs of the trainer",
                self.rows
            ),
        }
    }
}
