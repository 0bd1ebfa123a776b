//! Rows of inputs: ids uniform over each table's rows, dense values as logarithms of counts.

use std::collections::BTreeSet;

use super::Recipe;
use super::random::Stream;
use super::tensors::table_name;

/// Inputs of the selftest, feature by feature.
pub struct SelftestRows {
    /// [dense features][rows].
    pub dense: Vec<Vec<f32>>,
    /// [sparse features][rows × ids of the feature].
    pub ids: Vec<Vec<i64>>,
}

impl SelftestRows {
    /// The rows of a recipe.
    pub fn new(recipe: &Recipe) -> SelftestRows {
        let (shape, rows) = (&recipe.shape, recipe.selftest_rows);
        let stream = Stream::new(recipe.seed, "selftest.dense");
        // ln(1 + count), counts exponentially distributed around ten.
        let value = |n: usize| (1.0 - 10.0 * stream.unit(n as u64).ln()).ln() as f32;
        let dense = (0..shape.dense).map(|feature| (0..rows).map(|row| value(row * shape.dense + feature)).collect()).collect();
        let ids = |(feature, (table_rows, hot)): (usize, (&u32, &usize))| {
            let stream = Stream::new(recipe.seed, &format!("selftest.{}", table_name(feature)));
            (0..rows * hot).map(|n| i64::from(stream.below(n as u64, *table_rows))).collect()
        };
        SelftestRows { dense, ids: shape.rows.iter().zip(&shape.hots).enumerate().map(ids).collect() }
    }

    /// Per table, the rows that are read, ascending.
    pub fn touched(&self) -> Vec<Vec<u32>> {
        let of = |ids: &Vec<i64>| ids.iter().map(|id| *id as u32).collect::<BTreeSet<u32>>().into_iter().collect();
        self.ids.iter().map(of).collect()
    }

    /// The same rows over tables that hold the touched rows only.
    pub fn over(&self, touched: &[Vec<u32>]) -> SelftestRows {
        // Every id is among the touched ones, which are sorted.
        let place = |rows: &[u32], id: i64| rows.partition_point(|row| i64::from(*row) < id) as i64;
        let ids = self.ids.iter().zip(touched).map(|(ids, rows)| ids.iter().map(|id| place(rows, *id)).collect()).collect();
        SelftestRows { dense: self.dense.clone(), ids }
    }
}
