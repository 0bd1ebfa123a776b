//! Rows packed as a request carries them: per scope four blocks of little-endian bytes.
//!
//! ```text
//!   dense    f32  row 0: feature by feature, `width` values each | row 1: ..
//!   ids      u32, or u64 as soon as one id feature of the scope is u64; row by row, inside a row feature by feature:
//!                 `width` ids of a fixed feature, as many as `lengths` says of a variable one
//!   lengths  u16  row by row: one per variable-length feature
//!   weights  f32  parallel to the ids of weighted features
//! ```
//! Missing (−1) is all ones in either element size; integers travel in two's complement.

use super::feature::{IdType, Scope};
use super::rows::{Cell, FeatureRows, Field, FieldKind};

/// The packed rows of one scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedRows {
    /// f32.
    pub dense: Vec<u8>,
    /// u32 or u64.
    pub ids: Vec<u8>,
    /// u16.
    pub lengths: Vec<u8>,
    /// f32.
    pub weights: Vec<u8>,
}

/// Bytes of an element of the scope's ids block.
pub fn id_bytes(fields: &[Field], scope: Scope) -> usize {
    let wide = fields.iter().any(|field| field.scope == scope && field.kind != FieldKind::Dense && field.id_type == IdType::U64);
    if wide { 8 } else { 4 }
}

impl FeatureRows {
    /// The context features of one row.
    pub fn encode_context(&self, row: usize) -> PackedRows {
        self.encode(Scope::Context, &[row])
    }

    /// The candidate features of some rows.
    pub fn encode_candidates(&self, rows: &[usize]) -> PackedRows {
        self.encode(Scope::Candidate, rows)
    }

    fn encode(&self, scope: Scope, rows: &[usize]) -> PackedRows {
        let mut blocks = PackedRows::default();
        let id_bytes = id_bytes(self.fields(), scope);
        for row in rows {
            for (index, field) in self.fields().iter().enumerate().filter(|(_, field)| field.scope == scope) {
                match self.cell(index, *row) {
                    Cell::Dense(values) => blocks.dense.extend(values.iter().flat_map(|value| value.to_le_bytes())),
                    Cell::Ids { ids, weights } => {
                        // Two's complement: the low bytes of the i64 are the element, and −1 is all ones.
                        blocks.ids.extend(ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(id_bytes)));
                        blocks.weights.extend(weights.iter().flat_map(|weight| weight.to_le_bytes()));
                        if field.width == 0 {
                            // At most `BAG_IDS_MAX` ids: checked when the row was taken.
                            blocks.lengths.extend((ids.len() as u16).to_le_bytes());
                        }
                    }
                }
            }
        }
        blocks
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn packs_rows_in_feature_order() {
        let field = |name: &str, kind, scope, width, max_len, id_type, weighted| Field {
            name: name.into(),
            kind,
            scope,
            width,
            max_len,
            id_type,
            weighted,
        };
        let fields = vec![
            field("age", FieldKind::Dense, Scope::Context, 2, 2, IdType::U32, false),
            field("user", FieldKind::Sparse, Scope::Context, 1, 1, IdType::U64, false),
            field("slot", FieldKind::Integer, Scope::Context, 1, 1, IdType::U32, false),
            field("words", FieldKind::Sparse, Scope::Candidate, 0, 3, IdType::U32, true),
            field("ad", FieldKind::Sparse, Scope::Candidate, 1, 1, IdType::U32, false),
        ];
        let mut rows = FeatureRows::new(fields);
        let ids = |ids, weights| Cell::Ids { ids, weights };
        rows.push_row(&[Cell::Dense(&[1., 2.]), ids(&[-1], &[]), ids(&[-2], &[]), ids(&[5, 6], &[0.5, 0.25]), ids(&[9], &[])]).unwrap();
        rows.push_row(&[Cell::Dense(&[1., 2.]), ids(&[-1], &[]), ids(&[-2], &[]), ids(&[], &[]), ids(&[-1], &[])]).unwrap();
        assert!(rows.same_context(0, 1));
        let context = rows.encode_context(1);
        assert_eq!(context.dense, [1_f32.to_le_bytes(), 2_f32.to_le_bytes()].concat());
        assert_eq!(context.ids, [[255; 8], (-2_i64).to_le_bytes()].concat());
        let candidates = rows.encode_candidates(&[0, 1]);
        assert_eq!(candidates.ids, [5_u32, 6, 9, u32::MAX].map(u32::to_le_bytes).concat());
        assert_eq!(candidates.lengths, [2, 0, 0, 0]);
        assert_eq!(candidates.weights, [0.5_f32, 0.25].map(f32::to_le_bytes).concat());
        let too_wide = rows.push_row(&[Cell::Dense(&[1., 2.]), ids(&[0], &[]), ids(&[1 << 31], &[]), ids(&[], &[]), ids(&[0], &[])]);
        assert_eq!(
            too_wide.unwrap_err().to_string(),
            "row 2, feature \"slot\": 2147483648, expected an integer of 32 bits (of 64 where the feature's id_type is \"u64\")"
        );
    }
}
