//! Lookups alone: tables, their bags side by side, and one sum over all of it, so that there is something to answer; beside it random rows of
//! the same bytes, read by a loop that does nothing else.
//!
//! `cargo bench --bench lookup` measures; `cargo test --benches` runs everything once, tiny.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use gavel::model::{
    DType, Feature, FeatureKind, Graph, IdType, Model, Node, Op, Output, OutputKind, Pool, Scope, Table, TableArena, TableDType, TableId,
    Value, ValueId, ValueScope, Weights,
};

use support::{BATCHES, bench_model, measuring};

fn main() {
    let mut criterion = Criterion::default().configure_from_args().without_plots();
    let mut group = criterion.benchmark_group("lookup");
    let rows = |rows: u32| if measuring() { rows } else { 50 };
    for (name, dtype) in TableDType::ALL {
        let tables = Tables { rows: rows(100_000), dim: 16, dtype, bags: vec![1; 26] };
        bench_model(&mut group, &format!("26 tables of 16, {name}"), &tables.model());
    }
    for (name, dtype) in [("f32", TableDType::F32), ("int8_tbe", TableDType::Int8Tbe)] {
        let tables = Tables { rows: rows(40_000), dim: 128, dtype, bags: MULTI_HOT.to_vec() };
        bench_model(&mut group, &format!("26 tables of 128, 214 ids, {name}"), &tables.model());
    }
    bench_reads(&mut group, "rows of 64 bytes, read alone", rows(26 * 100_000) as usize, 64, 26);
    bench_reads(&mut group, "rows of 512 bytes, read alone", rows(26 * 40_000) as usize, 512, 214);
    group.finish();
    criterion.final_summary();
}

/// Ids per bag of the 26 features of MLPerf's DLRM-DCNv2.
const MULTI_HOT: [u32; 26] = [3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1];

/// Equal tables, a feature each.
struct Tables {
    rows: u32,
    dim: u32,
    dtype: TableDType,
    /// Ids of each feature.
    bags: Vec<u32>,
}

impl Tables {
    fn model(&self) -> Arc<Model> {
        let dim = self.dim as usize;
        // Rows of codes as torchrec pads them. Which numbers they hold does not matter; 0x1c1c.. is finite in every format.
        let row_bytes = match self.dtype.coding(dim) {
            Some(_) => self.dtype.row_bytes(dim).next_multiple_of(16),
            None => self.dtype.row_bytes(dim),
        };
        let mut arena = TableArena::zeroed(self.bags.iter().map(|_| self.rows as usize * row_bytes)).expect("memory");
        (0..self.bags.len()).for_each(|table| arena.table_mut(table).fill(0x1c));
        let table = |data| Table { name: String::new(), rows: self.rows, dim: self.dim, dtype: self.dtype, data };
        let weights = Weights { tensors: vec![], tables: arena.into_tables().into_iter().map(table).collect() };
        let features = self.bags.iter().enumerate().map(|(at, width)| self.feature(at, *width)).collect();
        let mut graph = Graph::default();
        let mut push = |op, shape| {
            let out = ValueId(graph.values.len() as u32);
            graph.values.push(Value { name: format!("v{}", out.0), shape, dtype: DType::F32, scope: ValueScope::Candidate });
            graph.nodes.push(Node { out, op });
            out
        };
        let lookup = |at| Op::Lookup { feature: at, table: TableId(at as u16), pool: Pool::Sum };
        let xs = (0..self.bags.len()).map(|at| push(lookup(at), vec![dim])).collect();
        let x = push(Op::Concat { xs, axis: 0 }, vec![dim * self.bags.len()]);
        let value = push(Op::ReduceSum { x, axes: vec![0], keep: true }, vec![1]);
        graph.outputs = vec![Output { name: "sum".into(), kind: OutputKind::Value, value }];
        Arc::new(Model::new("lookup", features, graph, weights))
    }

    fn feature(&self, at: usize, width: u32) -> Feature {
        let kind = FeatureKind::sparse(TableId(at as u16), self.rows);
        Feature { name: format!("f{at}"), scope: Scope::Candidate, width, max_len: width, id_type: IdType::U32, kind }
    }
}

/// `ids` random rows per candidate out of `rows`, added up: what reading them takes where nothing else is done.
fn bench_reads(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, rows: usize, row_bytes: usize, ids: usize) {
    let mut arena = TableArena::zeroed([rows * row_bytes]).expect("memory");
    arena.table_mut(0).fill(0x1c);
    let tables = arena.into_tables();
    let table: &[f32] = bytemuck::cast_slice(&tables[0]);
    let width = row_bytes / 4;
    let mut state = 1_u32;
    for batch in if measuring() { &BATCHES[..] } else { &BATCHES[..2] } {
        let mut places = vec![0_usize; batch * ids];
        group.throughput(Throughput::Elements(*batch as u64));
        group.bench_function(BenchmarkId::new(name, batch), |bench| {
            bench.iter_custom(|turns| {
                let mut spent = Duration::ZERO;
                for _ in 0..turns {
                    for place in &mut places {
                        state ^= state << 13;
                        state ^= state >> 17;
                        state ^= state << 5;
                        *place = state as usize % rows * width;
                    }
                    let start = Instant::now();
                    let mut sums = [0.0_f32; 16];
                    for place in &places {
                        for line in table[*place..*place + width].as_chunks::<16>().0 {
                            sums.iter_mut().zip(line).for_each(|(sum, value)| *sum += value);
                        }
                    }
                    black_box(sums);
                    spent += start.elapsed();
                }
                spent
            });
        });
    }
}
