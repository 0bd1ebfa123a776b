//! Embedding lookups (`kernels/lookup_pool.cuh`).

use crate::model::{Pool, TableId};

use super::emitter::Emitter;

impl Emitter<'_, '_> {
    /// A bag of every row, pooled.
    pub(super) fn lookup(&mut self, feature: usize, table: TableId, pool: Pool) {
        let _ = (feature, table, pool);
        unimplemented!()
    }
}
