//! Rows of inputs by feature: what a selftest holds, what the command line reads, what a test sends.
//!
//! Every row has values for all features, context and candidate alike; [`super::blocks`] packs them for the wire. Columns are described by
//! [`Field`]s, which both a loaded model and a server's `Describe` can give.

use super::feature::{Feature, FeatureKind, IdType, Scope};

/// What a feature looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldKind {
    /// f32 values.
    Dense,
    /// Ids of table rows, or to be hashed.
    Sparse,
    /// Signed integers.
    Integer,
}

/// A feature as a client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: FieldKind,
    /// Scope.
    pub scope: Scope,
    /// Values per row; 0 = variable.
    pub width: u32,
    /// Most ids per row; equals `width` where that is not 0.
    pub max_len: u32,
    /// Element type of its ids.
    pub id_type: IdType,
    /// Each id has a weight.
    pub weighted: bool,
}

impl From<&Feature> for Field {
    fn from(feature: &Feature) -> Field {
        Field {
            name: feature.name.clone(),
            kind: match feature.kind {
                FeatureKind::Dense { .. } => FieldKind::Dense,
                FeatureKind::Sparse { .. } => FieldKind::Sparse,
                FeatureKind::Integer => FieldKind::Integer,
            },
            scope: feature.scope,
            width: feature.width,
            max_len: feature.max_len,
            id_type: feature.id_type,
            weighted: feature.is_weighted(),
        }
    }
}

/// The values of a feature for all rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Column {
    /// [rows × width].
    Dense(Vec<f32>),
    Ids {
        /// All rows, one after the other. Missing is −1.
        ids: Vec<i64>,
        /// [rows + 1]: where each row begins.
        starts: Vec<usize>,
        /// Parallel to `ids` if the feature is weighted, else empty.
        weights: Vec<f32>,
    },
}

/// One row's value of one feature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// `width` values.
    Dense(&'a [f32]),
    /// Ids or integers; weights are empty unless the feature is weighted.
    Ids {
        /// Missing is −1; u64 ids in two's complement.
        ids: &'a [i64],
        /// Parallel to `ids`.
        weights: &'a [f32],
    },
}

/// Why a row was not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("row {row}, feature {feature:?}: {problem}")]
pub struct RowError {
    /// Which row.
    pub row: usize,
    /// Which feature.
    pub feature: String,
    /// What is wrong, and what is expected.
    pub problem: String,
}

/// Rows of inputs, column by column.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FeatureRows {
    fields: Vec<Field>,
    rows: usize,
    columns: Vec<Column>,
}

impl FeatureRows {
    /// No rows yet.
    pub fn new(fields: Vec<Field>) -> FeatureRows {
        let columns = fields.iter().map(|field| Column::empty(field.kind)).collect();
        FeatureRows { fields, rows: 0, columns }
    }

    /// Of columns that agree on the number of rows.
    pub(super) fn of_columns(fields: Vec<Field>, rows: usize, columns: Vec<Column>) -> FeatureRows {
        FeatureRows { fields, rows, columns }
    }

    /// The features, in signature order.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Value of a feature in a row. Panics if either does not exist.
    pub fn cell(&self, feature: usize, row: usize) -> Cell<'_> {
        match &self.columns[feature] {
            Column::Dense(values) => {
                let width = self.fields[feature].width as usize;
                Cell::Dense(&values[row * width..][..width])
            }
            Column::Ids { ids, starts, weights } => {
                let range = starts[row]..starts[row + 1];
                let weights = if weights.is_empty() { &[] } else { &weights[range.clone()] };
                Cell::Ids { ids: &ids[range], weights }
            }
        }
    }

    /// Adds a row: one cell per feature, in order.
    pub fn push_row(&mut self, cells: &[Cell<'_>]) -> Result<(), RowError> {
        let row = self.rows;
        let error = |field: &Field, problem: String| RowError { row, feature: field.name.clone(), problem };
        if cells.len() != self.fields.len() {
            let problem = format!("{} cells for {} features", cells.len(), self.fields.len());
            return Err(RowError { row, feature: String::new(), problem });
        }
        for (field, cell) in self.fields.iter().zip(cells) {
            field.check(cell).map_err(|problem| error(field, problem))?;
        }
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            match (column, cell) {
                (Column::Dense(values), Cell::Dense(more)) => values.extend_from_slice(more),
                (Column::Ids { ids, starts, weights }, Cell::Ids { ids: more, weights: more_weights }) => {
                    ids.extend_from_slice(more);
                    weights.extend_from_slice(more_weights);
                    starts.push(ids.len());
                }
                _ => unreachable!("Field::check compared the kinds"),
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// The rows named, in that order. Panics if one does not exist.
    pub fn subset(&self, rows: &[usize]) -> FeatureRows {
        self.picked(rows, |_, row| row)
    }

    fn picked(&self, rows: &[usize], source: impl Fn(&Field, usize) -> usize) -> FeatureRows {
        let mut picked = FeatureRows::new(self.fields.clone());
        for row in rows {
            let cell = |(feature, field)| self.cell(feature, source(field, *row));
            let cells: Vec<Cell<'_>> = self.fields.iter().enumerate().map(cell).collect();
            if picked.push_row(&cells).is_err() {
                unreachable!("the rows of a FeatureRows were checked");
            }
        }
        picked
    }

    /// One request spelled out: for each of `candidates`, the context features of row `context` and the candidate features of that row.
    /// Panics if a row does not exist.
    pub fn expanded(&self, context: usize, candidates: &[usize]) -> FeatureRows {
        self.picked(candidates, |field, row| if field.scope == Scope::Context { context } else { row })
    }

    /// Whether two rows agree, bit by bit, in all context features.
    pub fn same_context(&self, a: usize, b: usize) -> bool {
        let context = self.fields.iter().enumerate().filter(|(_, field)| field.scope == Scope::Context);
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        context.into_iter().all(|(feature, _)| match (self.cell(feature, a), self.cell(feature, b)) {
            (Cell::Dense(a), Cell::Dense(b)) => bits(a) == bits(b),
            (Cell::Ids { ids: a, weights: wa }, Cell::Ids { ids: b, weights: wb }) => a == b && bits(wa) == bits(wb),
            _ => false,
        })
    }
}

impl Column {
    fn empty(kind: FieldKind) -> Column {
        match kind {
            FieldKind::Dense => Column::Dense(Vec::new()),
            FieldKind::Sparse | FieldKind::Integer => Column::Ids { ids: Vec::new(), starts: vec![0], weights: Vec::new() },
        }
    }
}

impl Field {
    /// Whether the wire can carry the cell; the problem if not.
    pub(super) fn check(&self, cell: &Cell<'_>) -> Result<(), String> {
        match (self.kind, cell) {
            (FieldKind::Dense, Cell::Dense(values)) if values.len() == self.width as usize => Ok(()),
            (FieldKind::Dense, Cell::Dense(values)) => Err(format!("{} values, expected {}", values.len(), self.width)),
            (FieldKind::Sparse | FieldKind::Integer, Cell::Ids { ids, weights }) => {
                if self.width == 0 && ids.len() > self.max_len as usize {
                    return Err(format!("{} ids, expected at most {}", ids.len(), self.max_len));
                }
                if self.width != 0 && ids.len() != self.width as usize {
                    return Err(format!("{} ids, expected {}", ids.len(), self.width));
                }
                let weights_expected = if self.weighted { ids.len() } else { 0 };
                if weights.len() != weights_expected {
                    return Err(format!("{} weights, expected {weights_expected}", weights.len()));
                }
                match ids.iter().find(|id| !self.carries(**id)) {
                    Some(id) if self.kind == FieldKind::Integer => {
                        Err(format!("{id}, expected an integer of 32 bits (of 64 where the feature's id_type is \"u64\")"))
                    }
                    Some(id) => Err(format!("the id {id}, expected 0 to {}, or -1 for missing", u32::MAX - 1)),
                    None => Ok(()),
                }
            }
            (FieldKind::Dense, _) => Err("ids, expected dense values".into()),
            (_, Cell::Dense(_)) => Err("dense values, expected ids".into()),
        }
    }

    /// Whether an id fits the feature's element type. Missing is −1.
    fn carries(&self, id: i64) -> bool {
        match (self.id_type, self.kind) {
            (IdType::U64, _) => true,
            (IdType::U32, FieldKind::Integer) => i32::try_from(id).is_ok(),
            (IdType::U32, _) => (-1..i64::from(u32::MAX)).contains(&id),
        }
    }
}
