//! From what the graph reads back to what requests carry: numbers and ids that a feature's `transform` and `hash` map onto given ones.
//!
//! Rows under the name of a graph's input hold what the graph was run on. A bundle's selftest holds what clients send, and every engine
//! replays it through the rules.

use std::collections::HashMap;

use crate::model::Hash;
use crate::reference::hashed;

use super::error::{Problem, problem};
use super::features::{Feature, FeatureKind};
use super::rows::Column;

/// Ids that are tried for each row of a table that is to be reached.
const TRIES: u64 = 1 << 27;

/// The missing id.
const MISSING: i64 = -1;

impl Feature {
    /// The rules that change every value, in words.
    pub fn changes(&self) -> Vec<&'static str> {
        let transformed = self.rule.transform.as_ref().is_some_and(|transform| transform == "log1p_clamp0");
        let named = [(transformed && self.kind == FeatureKind::Dense, "transform"), (self.hash().is_some(), "hash")];
        named.into_iter().filter(|(given, _)| *given).map(|(_, name)| name).collect()
    }

    /// Its hash, if it has one that a manifest may have: of any other the loader complains.
    fn hash(&self) -> Option<Hash> {
        let FeatureKind::Sparse { .. } = self.kind else { return None };
        let hash: Hash = serde_json::from_value(self.rule.hash.clone()?).ok()?;
        (hash.modulus > 0 && u64::from(hash.add).checked_add(hash.modulus)? <= u64::from(u32::MAX)).then_some(hash)
    }

    /// Values that the feature's rules map onto `read`. Error: a value that they map nothing onto.
    pub fn raw(&self, read: Column) -> Result<Column, Problem> {
        match (read, self.hash()) {
            (Column::Ids(rows), Some(hash)) => Ok(Column::Ids(self.unhashed(&hash, rows)?)),
            (Column::Dense(values), _) if !self.changes().is_empty() => {
                Ok(Column::Dense(values.into_iter().map(|value| self.untransformed(value)).collect::<Result<_, _>>()?))
            }
            (read, _) => Ok(read),
        }
    }

    /// eʸ − 1, the inverse of ln(1 + max(x, 0)).
    fn untransformed(&self, value: f32) -> Result<f32, Problem> {
        let raw = f64::from(value).exp_m1() as f32;
        if value < 0.0 || raw.is_infinite() != value.is_infinite() {
            let what = format!("{value}, which the transform log1p_clamp0 makes of no number");
            return Err(problem(what, self.remedy("transform")));
        }
        Ok(raw)
    }

    fn unhashed(&self, hash: &Hash, mut rows: Vec<i64>) -> Result<Vec<i64>, Problem> {
        let first = i64::from(hash.add);
        let end = first + hash.modulus as i64;
        let missing = self.rule.missing.as_ref().and_then(|rule| rule["row"].as_i64());
        let mut ids: HashMap<i64, Option<i64>> = HashMap::new();
        for row in rows.iter().copied().filter(|row| *row != MISSING) {
            if (first..end).contains(&row) {
                ids.insert(row, None);
            } else if missing == Some(row) {
                ids.insert(row, Some(MISSING));
            } else {
                let what = format!("{row}, where the hash gives rows {first} to {}", end - 1);
                return Err(problem(what, self.remedy("hash")));
            }
        }
        find(hash, &mut ids);
        for row in rows.iter_mut().filter(|row| **row != MISSING) {
            let Some(id) = ids.get(row).copied().flatten() else {
                let what = format!("{row}, which the hash makes of none of the ids below {TRIES}");
                return Err(problem(
                    what,
                    format!("Give ids as requests carry them, under a name of the feature's own ({})", self.own_name()),
                ));
            };
            *row = id;
        }
        Ok(rows)
    }

    fn remedy(&self, rule: &str) -> String {
        format!(
            "Under the name of a graph's input stands what the graph was run on, after the rules. Correct the {rule}, or give values as \
             requests carry them, under a name of the feature's own ({})",
            self.own_name()
        )
    }

    fn own_name(&self) -> String {
        format!("now {:?}, set by `name` in features.toml", self.name)
    }
}

/// Finds an id for every row that has none yet: the least.
fn find(hash: &Hash, ids: &mut HashMap<i64, Option<i64>>) {
    let mut left = ids.values().filter(|id| id.is_none()).count();
    // Most ids belong to no row that is wanted: a table of bits says so soonest.
    let bit = |row: i64| (row as usize) % (1 << 16);
    let mut wanted = vec![false; 1 << 16];
    ids.keys().for_each(|row| wanted[bit(*row)] = true);
    for id in 0..TRIES {
        if left == 0 {
            return;
        }
        let row = i64::from(hashed(hash, id));
        if wanted[bit(row)]
            && let Some(found @ None) = ids.get_mut(&row)
        {
            *found = Some(id as i64);
            left -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::onnx::rules::FeatureRule;
    use crate::model::HashFn;
    use serde_json::{Value as Json, json};

    fn feature(kind: FeatureKind, hash: Option<Json>, transform: Option<Json>) -> Feature {
        let rule = FeatureRule { hash, transform, missing: Some(json!({"row": 0})), ..FeatureRule::default() };
        Feature { name: "f".into(), input: 0, start: 0, end: 1, kind, rule, bound: None, takes_nan: false }
    }

    #[test]
    fn ids_hash_to_the_rows() {
        let rows = vec![3, 1, MISSING, 0, 100, 3];
        for (name, function) in [("identity", HashFn::Identity), ("fnv1a64", HashFn::Fnv1a64), ("splitmix64", HashFn::Splitmix64)] {
            let rule = json!({"fn": name, "mod": 100, "add": 1});
            let Ok(Column::Ids(ids)) = feature(FeatureKind::Sparse { table: 0 }, Some(rule), None).raw(Column::Ids(rows.clone())) else {
                panic!("{name}: no ids")
            };
            let hash = Hash { function, modulus: 100, add: 1 };
            for (row, id) in rows.iter().zip(&ids) {
                match row {
                    0 | -1 => assert_eq!(*id, MISSING, "{name}"),
                    row => assert_eq!(i64::from(hashed(&hash, *id as u64)), *row, "{name}"),
                }
            }
        }
    }

    #[test]
    fn numbers_transform_to_what_was_read() {
        let feature = feature(FeatureKind::Dense, None, Some(json!("log1p_clamp0")));
        let read = [0.0, 1e-6, 0.3, 12.5, 80.0, f32::INFINITY, f32::NAN];
        let Ok(Column::Dense(raw)) = feature.raw(Column::Dense(read.to_vec())) else { panic!("no numbers") };
        for (read, raw) in read.into_iter().zip(raw) {
            let again = if raw.is_nan() { raw } else { f64::from(raw).max(0.0).ln_1p() as f32 };
            assert!((again - read).abs() <= 2e-7 * read || again == read || (again.is_nan() && read.is_nan()), "{read}: {again}");
        }
        for read in [-0.5, 100.0, f32::NEG_INFINITY] {
            let Err(problem) = feature.raw(Column::Dense(vec![read])) else { panic!("{read}") };
            assert!(problem.what.contains("log1p_clamp0"), "{problem}");
        }
    }

    #[test]
    fn rows_that_no_id_reaches_are_named() {
        let rule = json!({"fn": "fnv1a64", "mod": 10, "add": 1});
        let feature = feature(FeatureKind::Sparse { table: 0 }, Some(rule), None);
        let Err(problem) = feature.raw(Column::Ids(vec![2, 11])) else { panic!("11 is behind the end") };
        assert!(problem.to_string().starts_with("11, where the hash gives rows 1 to 10. Under the name of a graph's input"), "{problem}");
    }
}
