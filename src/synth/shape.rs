//! The shapes: tables, bag sizes, layers. No numbers yet.

/// A published model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// DLRM in its Criteo Kaggle configuration (Naumov et al. 2019, arXiv:1906.00091): 26 tables of 16 columns, dot interaction.
    DlrmKaggle,
    /// DLRM with a low-rank cross network, as MLPerf runs it (Wang et al. 2020, arXiv:2008.13535): 26 tables of 128 columns, 214 ids a row.
    DlrmDcnv2,
}

impl Family {
    /// As the command line names it.
    pub const fn name(self) -> &'static str {
        match self {
            Family::DlrmKaggle => "dlrm-kaggle",
            Family::DlrmDcnv2 => "dlrm-dcnv2",
        }
    }

    /// The cap of a table's rows that fits a laptop and leaves the large tables out of every cache.
    pub const fn usual_rows_cap(self) -> u32 {
        match self {
            Family::DlrmKaggle => 100_000,
            Family::DlrmDcnv2 => 40_000,
        }
    }
}

/// How embeddings and dense features meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interaction {
    /// Dot products of all pairs of vectors: [vectors * (vectors - 1) / 2], beside the bottom's vector.
    Dot,
    /// x = x0 * (W (V x) + b) + x, so many times, over all vectors side by side.
    Cross {
        /// How often.
        layers: usize,
        /// Rows of V.
        rank: usize,
    },
}

/// Which features belong to the request rather than to the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextShare {
    /// None: every feature is the candidate's.
    None,
    /// All dense features, and the first half of the sparse ones.
    Half,
}

/// A model without its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Which model.
    pub family: Family,
    /// Dense features.
    pub dense: usize,
    /// Columns of every table, and of the bottom's last layer.
    pub dim: usize,
    /// Rows of each table.
    pub rows: Vec<u32>,
    /// Ids per row of each table's feature, summed up.
    pub hots: Vec<usize>,
    /// Widths of the layers over the dense features; relu behind each.
    pub bottom: Vec<usize>,
    /// What joins them with the embeddings.
    pub interaction: Interaction,
    /// Widths of the layers behind the interaction; relu between, sigmoid at the end.
    pub top: Vec<usize>,
}

impl Shape {
    /// A family's shape, no table with more than `rows_cap` rows.
    pub fn new(family: Family, rows_cap: u32) -> Shape {
        let capped = |rows: &[u32]| rows.iter().map(|rows| (*rows).min(rows_cap)).collect();
        match family {
            Family::DlrmKaggle => Shape {
                family,
                dense: 13,
                dim: 16,
                rows: capped(&KAGGLE_ROWS),
                hots: vec![1; KAGGLE_ROWS.len()],
                bottom: vec![512, 256, 64, 16],
                interaction: Interaction::Dot,
                top: vec![512, 256, 1],
            },
            Family::DlrmDcnv2 => Shape {
                family,
                dense: 13,
                dim: 128,
                rows: capped(&DCNV2_ROWS),
                hots: DCNV2_HOTS.to_vec(),
                bottom: vec![512, 256, 128],
                interaction: Interaction::Cross { layers: 3, rank: 512 },
                top: vec![1024, 1024, 512, 256, 1],
            },
        }
    }

    /// Vectors that interact: one per table, and the bottom's.
    pub fn vectors(&self) -> usize {
        self.rows.len() + 1
    }

    /// Ids per row over all features.
    pub fn ids(&self) -> usize {
        self.hots.iter().sum()
    }

    /// Width of what the top's first layer reads.
    pub fn top_in(&self) -> usize {
        match self.interaction {
            Interaction::Dot => self.dim + self.vectors() * (self.vectors() - 1) / 2,
            Interaction::Cross { .. } => self.dim * self.vectors(),
        }
    }

    /// Elements of all tables.
    pub fn table_elements(&self) -> u64 {
        self.rows.iter().map(|rows| u64::from(*rows) * self.dim as u64).sum()
    }

    /// Rows of all tables.
    pub fn table_rows(&self) -> u64 {
        self.rows.iter().map(|rows| u64::from(*rows)).sum()
    }

    /// Places of the dot products that are kept, in the flat [vectors, vectors] matrix: below the diagonal, row by row.
    pub fn pairs(&self) -> Vec<usize> {
        let count = self.vectors();
        (0..count).flat_map(|i| (0..i).map(move |j| i * count + j)).collect()
    }

    /// Sparse features that are the context's: the first so many.
    pub fn context_tables(&self, share: ContextShare) -> usize {
        match share {
            ContextShare::None => 0,
            ContextShare::Half => self.rows.len() / 2,
        }
    }
}

/// Distinct values of the 26 categorical columns of the Criteo Kaggle log.
const KAGGLE_ROWS: [u32; 26] = [
    1460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5683, 8_351_593, 3194, 27, 14_992, 5_461_306, 10, 5652, 2173, 4,
    7_046_547, 18, 15, 286_181, 105, 142_572,
];

/// Table sizes of MLPerf's DLRM-DCNv2.
const DCNV2_ROWS: [u32; 26] = [
    40_000_000, 39_060, 17_295, 7424, 20_265, 3, 7122, 1543, 63, 40_000_000, 3_067_956, 405_282, 10, 2209, 11_938, 155, 4, 976, 14,
    40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36,
];

/// Ids per row of MLPerf's multi-hot data set.
const DCNV2_HOTS: [usize; 26] = [3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_published_ones() {
        for (family, cap, ids, top_in, elements) in
            [(Family::DlrmKaggle, 100_000, 26, 367, 840_543 * 16), (Family::DlrmDcnv2, 40_000, 214, 3456, 441_198 * 128)]
        {
            let shape = Shape::new(family, cap);
            assert_eq!((shape.ids(), shape.top_in(), shape.table_elements()), (ids, top_in, elements), "{family:?}");
            assert_eq!(shape.bottom.last(), Some(&shape.dim));
            assert_eq!(shape.pairs().len(), 351);
        }
    }
}
