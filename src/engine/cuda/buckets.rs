//! Numbers of candidates that graphs are recorded for, and the grids of their kernels.

use super::calls::Call;
use super::driver::Grid;
use super::inputs::copied_bytes;
use super::loaded::{Loaded, Taken};
use super::program::{Launch, Over, Product, Variant};
use crate::batch::SlotLimits;
use crate::engine::SizeApart;

/// Largest batches of the buckets, ascending: powers of two from 16, the last before each variant begins, and the slot's limit.
pub fn buckets(rows_max: usize, variants: &[Variant]) -> Vec<usize> {
    let powers = std::iter::successors(Some(BUCKET_MIN), |rows| rows.checked_mul(2)).take_while(|rows| *rows < rows_max);
    let ends = variants.iter().filter_map(|variant| variant.rows_from.checked_sub(1)).filter(|rows| (1..rows_max).contains(rows));
    let mut buckets: Vec<usize> = powers.chain(ends).chain([rows_max]).collect();
    buckets.sort_unstable();
    buckets.dedup();
    buckets
}

/// What a graph is made of.
pub struct Shape<'p> {
    /// Most candidates.
    pub rows: usize,
    /// Its kernels.
    pub variant: &'p Variant,
    /// For each of its launches.
    pub calls: Vec<Call>,
    /// The most of any launch.
    pub scratch_bytes: usize,
    /// The most of any product.
    pub workspace_bytes: usize,
}

/// The launches for up to `rows` candidates.
pub fn shape(loaded: &Loaded, rows: usize, limits: SlotLimits) -> Shape<'_> {
    let variant = loaded.program().variant(rows);
    // A request seldom has no candidate that is eligible; if many have none, blocks take several tiles.
    let contexts = limits.contexts.min(rows);
    let mut scratch_bytes = 0;
    let mut by_kernel = |launch: &Launch| {
        let kernel = loaded.kernel(launch);
        let grid = grid(launch, rows, contexts, kernel.blocks_max);
        scratch_bytes = scratch_bytes.max(launch.scratch_bytes * grid.blocks as usize * grid.columns as usize);
        Call::Kernel { name: launch.kernel.clone(), function: kernel.function.clone(), grid }
    };
    let mut calls = Vec::with_capacity(variant.launches.len());
    for launch in &variant.launches {
        calls.push(match loaded.taken(launch) {
            Taken::Kernel(launch) => by_kernel(launch),
            Taken::Product { product: Product { x, out, .. }, matmuls } => match matmuls.for_rows(rows) {
                Some(matmul) => Call::Product { instead_of: launch.kernel.clone(), matmul, x: *x, out: *out },
                None => by_kernel(launch),
            },
        });
    }
    let workspace_bytes = calls.iter().map(Call::workspace_bytes).max().unwrap_or(0);
    Shape { rows, variant, calls, scratch_bytes, workspace_bytes }
}

/// Batches from which on other kernels run, or inputs are copied before they do, ascending.
pub fn sizes_apart(loaded: &Loaded, limits: SlotLimits) -> Vec<SizeApart> {
    let (program, copy_from) = (loaded.program(), loaded.device().options().copy_from_bytes);
    let buckets = buckets(limits.rows, &program.variants);
    let means = |rows: usize| (program.variant(rows).rows_from, copied_bytes(&program.layout, rows) >= copy_from);
    buckets
        .windows(2)
        .filter(|pair| means(pair[0]) != means(pair[1]))
        .map(|pair| SizeApart { rows: pair[0] + 1, slot_rows: pair[1] })
        .collect()
}

/// Blocks for so many rows; of a kernel with scratch memory, no more than run at once.
pub fn grid(launch: &Launch, rows: usize, contexts: usize, blocks_max: Option<usize>) -> Grid {
    let (tiles, columns) = match launch.over {
        Over::Contexts { tile } => (contexts.div_ceil(tile.max(1)), 1),
        Over::Candidates { tile } => (rows.div_ceil(tile.max(1)), 1),
        Over::Grid { rows: tile, columns } => (rows.div_ceil(tile.max(1)), columns),
    };
    let most = match blocks_max {
        Some(blocks) if launch.scratch_bytes > 0 => (blocks / columns.max(1)).max(1),
        _ => usize::MAX,
    };
    Grid { blocks: tiles.clamp(1, most) as u32, columns: columns.max(1) as u32, threads: launch.threads, shared_bytes: launch.shared_bytes }
}

/// Smaller batches share a graph: their kernels take as long.
const BUCKET_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn variants(from: &[usize]) -> Vec<Variant> {
        from.iter().map(|rows_from| Variant { rows_from: *rows_from, launches: vec![] }).collect()
    }

    #[test]
    fn buckets_end_at_powers_variants_and_the_limit() {
        let cases: [(usize, &[usize], &[usize]); 7] = [
            (1, &[0], &[1]),
            (16, &[0], &[16]),
            (17, &[0], &[16, 17]),
            (100, &[0], &[16, 32, 64, 100]),
            (128, &[0, 1, 2], &[1, 16, 32, 64, 128]),
            (128, &[0, 65], &[16, 32, 64, 128]),
            (128, &[0, 81, 129, 1000], &[16, 32, 64, 80, 128]),
        ];
        for (rows_max, from, expected) in cases {
            assert_eq!(buckets(rows_max, &variants(from)), expected, "{rows_max} {from:?}");
        }
    }

    #[test]
    fn grids_cover_the_rows_or_the_device() {
        let launch =
            |over, scratch_bytes| Launch { kernel: String::new(), over, threads: 128, shared_bytes: 64, scratch_bytes, layer: None };
        let tiles = Over::Candidates { tile: 16 };
        let cases = [
            (launch(tiles, 0), 100, 5, None, (7, 1)),
            (launch(tiles, 0), 100, 5, Some(4), (7, 1)),
            (launch(tiles, 8), 100, 5, Some(4), (4, 1)),
            (launch(Over::Contexts { tile: 4 }, 0), 100, 5, None, (2, 1)),
            (launch(Over::Contexts { tile: 4 }, 0), 100, 0, None, (1, 1)),
            (launch(Over::Grid { rows: 64, columns: 3 }, 0), 100, 5, None, (2, 3)),
            (launch(Over::Grid { rows: 16, columns: 3 }, 8), 100, 5, Some(8), (2, 3)),
            (launch(Over::Grid { rows: 16, columns: 9 }, 8), 100, 5, Some(8), (1, 9)),
        ];
        for (launch, rows, contexts, blocks_max, (blocks, columns)) in cases {
            let expected = Grid { blocks, columns, threads: 128, shared_bytes: 64 };
            assert_eq!(grid(&launch, rows, contexts, blocks_max), expected, "{launch:?}");
        }
    }
}
