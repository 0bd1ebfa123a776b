//! The rules of features, as `docs/bundle.md` states them, written a second time: `batch` has its own, and tests compare the two.
//!
//! An id, in this order: missing (all ones) → its rule; hash; out of range → its rule; the padding row is absent.
//! A dense value: NaN → its rule; then the transform.

use crate::model::{Cell, DenseTransform, Feature, FeatureKind, FeatureRows, Hash, HashFn, IdType, MissingRule, Model, NanRule, RangeRule};

use super::row::{Entry, RowInputs};

/// A value that a rule refuses.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("row {row}, feature {feature:?}: {problem}")]
pub struct Refused {
    /// Which row.
    pub row: usize,
    /// Which feature.
    pub feature: String,
    /// What is wrong.
    pub problem: String,
}

/// Row `row` of `rows` (whose features are the model's) as the graph sees it.
pub fn admit(model: &Model, rows: &FeatureRows, row: usize) -> Result<RowInputs, Refused> {
    let mut inputs = RowInputs::empty(model.features.len());
    for (index, feature) in model.features.iter().enumerate() {
        let refused = |problem: String| Refused { row, feature: feature.name.clone(), problem };
        match (&feature.kind, rows.cell(index, row)) {
            (FeatureKind::Dense { transform, nan }, Cell::Dense(values)) => {
                for value in values {
                    inputs.dense[index].push(dense(*value, *nan, *transform).map_err(refused)?);
                }
            }
            (FeatureKind::Integer, Cell::Ids { ids, .. }) => inputs.integers[index] = ids.to_vec(),
            (FeatureKind::Sparse { .. }, Cell::Ids { ids, weights }) => {
                for (i, id) in ids.iter().enumerate() {
                    let weight = weights.get(i).copied().unwrap_or(1.0);
                    if weight.is_nan() {
                        return Err(refused("a weight is NaN".into()));
                    }
                    inputs.bags[index].push(Entry { row: table_row(feature, *id).map_err(refused)?, weight: f64::from(weight) });
                }
            }
            _ => return Err(refused("a value of another kind".into())),
        }
    }
    Ok(inputs)
}

fn dense(value: f32, nan: NanRule, transform: DenseTransform) -> Result<f64, String> {
    let value = match nan {
        NanRule::Error if value.is_nan() => return Err("NaN".into()),
        NanRule::Value(other) if value.is_nan() => other,
        NanRule::Keep if value.is_nan() => return Ok(f64::NAN),
        _ => value,
    };
    Ok(match transform {
        DenseTransform::None => f64::from(value),
        DenseTransform::Log1pClamp0 => f64::from(value).max(0.0).ln_1p(),
    })
}

/// The table row behind an id; None = absent.
fn table_row(feature: &Feature, id: i64) -> Result<Option<u32>, String> {
    let FeatureKind::Sparse { rows, hash, padding, missing, out_of_range, .. } = &feature.kind else {
        return Err("no ids".into());
    };
    let row = if id == -1 {
        match missing {
            MissingRule::Error => return Err("missing".into()),
            MissingRule::Skip => return Ok(None),
            MissingRule::Row(row) => *row,
        }
    } else {
        let id = match feature.id_type {
            IdType::U32 => u64::from(u32::try_from(id).map_err(|_| format!("the id {id} has more than 32 bits"))?),
            IdType::U64 => id as u64,
        };
        match (hash, out_of_range) {
            (Some(hash), _) => hashed(hash, id),
            (None, _) if id < u64::from(*rows) => id as u32,
            (None, RangeRule::Row(row)) => *row,
            (None, RangeRule::Error) => return Err(format!("the id {id}, expected one below {rows}")),
        }
    };
    Ok(Some(row).filter(|row| Some(*row) != *padding))
}

/// `add + fn(id) % mod`: the row of an id that a feature hashes.
pub fn hashed(hash: &Hash, id: u64) -> u32 {
    let value = match hash.function {
        HashFn::Identity => id,
        HashFn::Fnv1a64 => fnv1a64(id),
        HashFn::Splitmix64 => splitmix64(id),
    };
    hash.add + (value % hash.modulus) as u32
}

/// FNV-1a over the 8 bytes, lowest first. Source: Fowler, Noll, Vo; draft-eastlake-fnv.
fn fnv1a64(id: u64) -> u64 {
    let mut state = 14_695_981_039_346_656_037_u64;
    for shift in (0..64).step_by(8) {
        state ^= (id >> shift) & 0xff;
        state = state.wrapping_mul(1_099_511_628_211);
    }
    state
}

/// Source: Steele, Lea, Flood 2014, doi:10.1145/2714064.2660195; constants of Stafford's variant 13.
fn splitmix64(id: u64) -> u64 {
    let x = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Pool, Scope, TableId};

    fn feature(id_type: IdType, hash: Option<Hash>, padding: Option<u32>, missing: MissingRule, out_of_range: RangeRule) -> Feature {
        let kind =
            FeatureKind::Sparse { table: TableId(0), rows: 10, pool: Pool::Sum, weighted: false, hash, padding, missing, out_of_range };
        Feature { name: "f".into(), scope: Scope::Candidate, width: 1, max_len: 1, id_type, kind }
    }

    #[test]
    fn ids_become_rows() {
        use MissingRule as M;
        use RangeRule as R;
        let identity = Some(Hash { function: HashFn::Identity, modulus: 7, add: 2 });
        let cases = [
            (feature(IdType::U32, None, None, M::Error, R::Error), 9, Ok(Some(9))),
            (feature(IdType::U32, None, None, M::Error, R::Error), 10, Err("the id 10, expected one below 10".into())),
            (feature(IdType::U32, None, None, M::Error, R::Row(3)), 10, Ok(Some(3))),
            (feature(IdType::U32, None, Some(3), M::Error, R::Row(3)), 10, Ok(None)),
            (feature(IdType::U32, None, Some(9), M::Error, R::Error), 9, Ok(None)),
            (feature(IdType::U32, None, None, M::Error, R::Row(3)), -1, Err("missing".into())),
            (feature(IdType::U32, None, None, M::Skip, R::Error), -1, Ok(None)),
            (feature(IdType::U32, None, None, M::Row(4), R::Error), -1, Ok(Some(4))),
            (feature(IdType::U64, identity, None, M::Row(0), R::Error), -1, Ok(Some(0))),
            (feature(IdType::U64, identity, None, M::Error, R::Error), 20, Ok(Some(2 + 6))),
            (feature(IdType::U64, identity, None, M::Error, R::Error), -2, Ok(Some(2 + ((u64::MAX - 1) % 7) as u32))),
            (feature(IdType::U32, identity, Some(8), M::Error, R::Error), 20, Ok(None)),
        ];
        for (feature, id, expected) in cases {
            assert_eq!(table_row(&feature, id), expected, "{feature:?} {id}");
        }
    }

    #[test]
    fn hashes_match_published_values() {
        // FNV-1a of eight zero bytes and of the bytes 1 0 0 0 0 0 0 0, by hand from the definition; SplitMix64's first outputs for seed 0
        // are the finaliser of multiples of the golden gamma.
        assert_eq!(fnv1a64(0), 0xa8c7_f832_281a_39c5);
        assert_eq!(splitmix64(0x9e37_79b9_7f4a_7c15), 0xe220_a839_7b1d_cdaf);
        assert_eq!(splitmix64(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(2)), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn dense_values() {
        assert_eq!(dense(f32::NAN, NanRule::Error, DenseTransform::None), Err("NaN".into()));
        assert_eq!(dense(f32::NAN, NanRule::Value(1.0), DenseTransform::Log1pClamp0), Ok(2_f64.ln()));
        for transform in [DenseTransform::None, DenseTransform::Log1pClamp0] {
            assert!(dense(f32::NAN, NanRule::Keep, transform).is_ok_and(f64::is_nan), "{transform:?}");
        }
        assert_eq!(dense(1.0, NanRule::Keep, DenseTransform::Log1pClamp0), Ok(2_f64.ln()));
        assert_eq!(dense(-5.0, NanRule::Error, DenseTransform::Log1pClamp0), Ok(0.0));
        assert_eq!(dense(0.5, NanRule::Error, DenseTransform::None), Ok(0.5));
    }
}
