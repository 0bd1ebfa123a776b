//! The CPU engine against this machine: matrix products as a share of what one core can multiply, and a whole DLRM. Running does not allocate.
//!
//! `cargo bench --bench engine` measures; `cargo test --benches` runs everything once, tiny.

#![allow(unsafe_code)] // the loop that finds the core's peak, the counting allocator

#[path = "support/random.rs"]
mod random;

use std::alloc::{GlobalAlloc, Layout, System};
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use gavel::batch::{Counts, Need, Slot, SlotLimits};
use gavel::engine::cpu::{Hoist, Options, Program, Simd, SimdLevel};
use gavel::engine::{Prepared, Replay};
use gavel::model::{
    DType, Feature, FeatureKind, Graph, IdType, Model, Node, Op, Output, OutputKind, Pool, Scope, Table, TableDType, TableId, Tensor,
    TensorData, TensorId, Value, ValueId, ValueScope, Weights,
};
use random::Random;

/// Counts what is allocated.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn main() {
    // cargo passes --bench when it wants figures.
    let measuring = std::env::args().any(|argument| argument == "--bench");
    let size = if measuring { Size::Full } else { Size::Tiny };
    shares_of_peak(size);
    stacks(size);
    passes(size);
    let mut criterion = Criterion::default().configure_from_args().without_plots();
    layers(&mut criterion, size);
    dlrm(&mut criterion, size);
    criterion.final_summary();
}

#[derive(Clone, Copy, PartialEq)]
enum Size {
    Full,
    Tiny,
}

/// Layer shapes (k, n): DLRM's top layer, its widest square one, a small one, and one that leaves the second-level cache.
const LAYERS: [(usize, usize); 4] = [(367, 512), (512, 256), (256, 64), (3456, 512)];
const ROWS: [usize; 3] = [1, 7, 64];

fn shapes(size: Size) -> &'static [(usize, usize)] {
    if size == Size::Full { &LAYERS } else { &LAYERS[2..3] }
}

/// Prints, per instruction set: multiply-adds of a chain of layers as a share of the register-to-register peak, both measured in turns.
fn shares_of_peak(size: Size) {
    let (rounds, time) = if size == Size::Full { (7, Duration::from_millis(60)) } else { (1, Duration::ZERO) };
    println!("matrix products, one core, median of {rounds} interleaved rounds: GFLOP/s (share of this core's peak)");
    for simd in Simd::available() {
        for &(k, n) in shapes(size) {
            for rows in ROWS {
                let (mut replay, flops) = chain(simd, k, n, rows);
                let (mut shares, mut speeds) = (vec![], vec![]);
                for _ in 0..rounds {
                    let peak = speed(time, || peak_flops(simd));
                    let layers = speed(time, || {
                        black_box(replay.run().expect("the engine runs").rows());
                        flops
                    });
                    shares.push(layers / peak);
                    speeds.push(layers);
                }
                let name = simd.level().name();
                println!("{name:>9} {rows:>3} rows, {k:>4} -> {n:<4} {:7.1}  ({:4.1} %)", median(speeds), 100.0 * median(shares));
            }
        }
    }
}

/// Widths of the dense layers of the published DLRMs, one behind the other: 1.9 MB of weights, and 64 MB.
const STACKS: [(&str, &[usize]); 2] = [
    ("dlrm-kaggle", &[13, 512, 256, 64, 16, 367, 512, 256, 1]),
    ("dlrm-dcnv2", &[13, 512, 256, 128, 3456, 512, 3456, 512, 3456, 512, 3456, 1024, 1024, 512, 256, 1]),
];

/// Prints, for all dense layers of a model: multiply-adds as a share of the peak, and time as a multiple of that of reading as many bytes as
/// the weights have, each measured in turns.
fn stacks(size: Size) {
    let (rounds, time) = if size == Size::Full { (7, Duration::from_millis(60)) } else { (1, Duration::ZERO) };
    println!(
        "all dense layers of a model, one core, median of {rounds} interleaved rounds: share of peak, times a plain read of the weights"
    );
    for (name, widths) in if size == Size::Full { &STACKS[..] } else { &STACKS[..1] } {
        let weights: usize = widths.windows(2).map(|pair| pair[0] * pair[1]).sum();
        let mut buffer = memmap2::MmapMut::map_anon(weights * 4).expect("memory");
        #[cfg(target_os = "linux")]
        let _ = buffer.advise(memmap2::Advice::HugePage);
        buffer.fill(1);
        for simd in Simd::available().filter(|simd| simd.level() > SimdLevel::Portable) {
            for rows in [1, 4, 7, 16, 64, 256] {
                let mut replay = stack(simd, widths, rows);
                let (mut shares, mut reads, mut spent) = (vec![], vec![], vec![]);
                for _ in 0..rounds {
                    let peak = speed(time, || peak_flops(simd));
                    let read = speed(time, || {
                        black_box(read(simd, &buffer));
                        1
                    });
                    let layers = speed(time, || {
                        black_box(replay.run().expect("the engine runs").rows());
                        1
                    });
                    shares.push(layers * (2 * rows * weights) as f64 / peak);
                    reads.push(read / layers);
                    spent.push(1e-3 / layers);
                }
                let level = simd.level().name();
                let [spent, share, reads] = [spent, shares, reads].map(median);
                println!("{name:>12} {level:>7} {rows:>3} rows {spent:9.1} µs  {:5.1} %  {reads:6.2} x", 100.0 * share);
            }
        }
    }
}

/// Reads all bytes.
fn read(simd: Simd, bytes: &[u8]) -> u64 {
    match simd.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `Simd` of these levels exists only where the CPU has AVX2.
        SimdLevel::Avx2 | SimdLevel::Avx512 => unsafe { read_avx2(bytes) },
        _ => read_body(bytes),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn read_avx2(bytes: &[u8]) -> u64 {
    read_body(bytes)
}

/// Four lines at a time, so that the loop is vectorised and does not wait for its sums.
#[inline(always)]
fn read_body(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 32];
    for lines in bytes.chunks_exact(256) {
        for (sum, word) in sums.iter_mut().zip(lines.chunks_exact(8)) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(word.try_into().expect("eight bytes")));
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

/// Prints what hoisting and fusion save: the DLRM with the dense features and 13 of 26 ids in the context, one request of 64 candidates, against
/// the same with every value computed per candidate, and that against matrix products and gathers instead of fused interactions.
fn passes(size: Size) {
    let (rounds, time, table_rows) = if size == Size::Full { (41, Duration::from_millis(4), 100_000) } else { (1, Duration::ZERO, 50) };
    let model = dlrm_model(13, table_rows);
    println!("dlrm 13-512-256-64-16, 26 x 16, 512-256-1, half of the features of the context: median of {rounds} interleaved rounds");
    for simd in Simd::available() {
        for rows in [1, 16, 64, 256] {
            let usual = Options::new(simd);
            let plans = [usual, Options { hoist: Hoist::Nothing, ..usual }, Options { hoist: Hoist::Nothing, fuse: false, ..usual }];
            let mut replays = plans.map(|options| replay_of(&model, &options, rows, table_rows));
            let (mut hoisting, mut fusion, mut spent) = (vec![], vec![], vec![]);
            for _ in 0..rounds {
                // Fresh ids every time; filling the slot does not count.
                let [usual, unhoisted, plain] = replays.each_mut().map(|replay| {
                    let mut random = Random(rows as u32);
                    let (mut spent, mut done) = (Duration::ZERO, 0);
                    while spent <= time {
                        fill(replay, &mut random, rows, table_rows);
                        let start = Instant::now();
                        done += black_box(replay.run().expect("the engine runs").rows());
                        spent += start.elapsed();
                    }
                    done as f64 / spent.as_nanos().max(1) as f64
                });
                hoisting.push(usual / unhoisted);
                fusion.push(unhoisted / plain);
                spent.push(1.0 / usual);
            }
            println!(
                "{:>9} {rows:>3} candidates: {:7.2} µs a candidate; {:.2} times as fast as unhoisted, which is {:.2} times as fast as unfused",
                simd.level().name(),
                median(spent) / 1000.0,
                median(hoisting),
                median(fusion)
            );
        }
    }
}

/// Floating-point operations per nanosecond of `work`, which says how many it did.
fn speed(time: Duration, mut work: impl FnMut() -> usize) -> f64 {
    work();
    let (start, mut flops) = (Instant::now(), 0);
    loop {
        for _ in 0..8 {
            flops += work();
        }
        let spent = start.elapsed();
        if spent >= time {
            return flops as f64 / spent.as_nanos().max(1) as f64;
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Multiply-adds that never leave the registers. Returns their number of operations.
fn peak_flops(simd: Simd) -> usize {
    match simd.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `Simd` of this level exists only where the CPU has its instructions.
        SimdLevel::Avx512 => unsafe { peak_avx512() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        SimdLevel::Avx2 => unsafe { peak_avx2() },
        _ => peak_portable(),
    }
}

const PEAK_TURNS: usize = 2000;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn peak_avx512() -> usize {
    use std::arch::x86_64::*;
    let mut sums = [_mm512_set1_ps(black_box(1.0)); 24];
    let (x, y) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(1e-3)));
    for _ in 0..PEAK_TURNS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, x, y);
        }
    }
    black_box(sums);
    PEAK_TURNS * 24 * 32
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn peak_avx2() -> usize {
    use std::arch::x86_64::*;
    let mut sums = [_mm256_set1_ps(black_box(1.0)); 12];
    let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
    for _ in 0..PEAK_TURNS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, x, y);
        }
    }
    black_box(sums);
    PEAK_TURNS * 12 * 16
}

fn peak_portable() -> usize {
    // Twelve registers of the baseline; the compiler makes one instruction of each inner loop.
    let mut sums = [[black_box(1.0f32); 4]; 12];
    let (x, y) = ([black_box(0.999f32); 4], [black_box(1e-3f32); 4]);
    for _ in 0..PEAK_TURNS {
        for sum in &mut sums {
            for lane in 0..4 {
                sum[lane] = sum[lane] * x[lane] + y[lane];
            }
        }
    }
    black_box(sums);
    PEAK_TURNS * 48 * 2
}

fn layers(criterion: &mut Criterion, size: Size) {
    let mut group = criterion.benchmark_group("layer");
    for &(k, n) in shapes(size) {
        for rows in ROWS {
            let (mut replay, flops) = chain(Simd::detect(), k, n, rows);
            group.throughput(Throughput::Elements(flops as u64));
            group.bench_function(BenchmarkId::new(format!("{k}x{n}"), rows), |bench| {
                bench.iter(|| replay.run().expect("the engine runs").rows());
            });
        }
    }
    group.finish();
}

/// 13 dense features through 512-256-64-16, 26 embeddings of 16, their dot products, 512-256-1, sigmoid.
fn dlrm(criterion: &mut Criterion, size: Size) {
    let rows_per_table = if size == Size::Full { 20_000 } else { 50 };
    let mut group = criterion.benchmark_group("dlrm");
    let mut random = Random(1);
    for (name, context_features) in [("all candidate", 0), ("half context", 13)] {
        let model = dlrm_model(context_features, rows_per_table);
        for rows in [1, 64, 256] {
            let mut replay = replay(&model, Simd::detect(), rows, rows_per_table);
            group.throughput(Throughput::Elements(rows as u64));
            // Fresh ids every time, so that embeddings come from where they would come from in service.
            group.bench_function(BenchmarkId::new(name, rows), |bench| {
                bench.iter_custom(|turns| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..turns {
                        fill(&mut replay, &mut random, rows, rows_per_table);
                        let start = Instant::now();
                        black_box(replay.run().expect("the engine runs").rows());
                        spent += start.elapsed();
                    }
                    spent
                });
            });
        }
    }
    group.finish();
}

/// Eight layers k → n → k → n .., relu between, after one of 16 → k; and the operations of one batch.
fn chain(simd: Simd, k: usize, n: usize, rows: usize) -> (Replay, usize) {
    let widths = [16, k, n, k, n, k, n, k, n, k, 1];
    let macs: usize = widths.windows(2).map(|pair| pair[0] * pair[1]).sum();
    (stack(simd, &widths, rows), 2 * rows * macs)
}

/// Layers of these widths, relu behind each.
fn stack(simd: Simd, widths: &[usize], rows: usize) -> Replay {
    let mut builder = Builder::default();
    let dense = builder.feature(Scope::Candidate, widths[0] as u32, FeatureKind::dense());
    let mut x = builder.push(Op::Dense { features: vec![dense] }, vec![widths[0]], ValueScope::Candidate);
    for pair in widths.windows(2) {
        x = builder.layer(x, pair[0], pair[1]);
    }
    replay(&builder.finish(x), simd, rows, 1)
}

fn dlrm_model(context_features: usize, rows: u32) -> Arc<Model> {
    let (dim, fields) = (16, 26);
    let mut builder = Builder::default();
    let scope = |context: bool| if context { Scope::Context } else { Scope::Candidate };
    let value_scope = |context: bool| if context { ValueScope::Context } else { ValueScope::Candidate };
    let dense = builder.feature(scope(context_features > 0), 13, FeatureKind::dense());
    let bottom_scope = value_scope(context_features > 0);
    let mut x = builder.push(Op::Dense { features: vec![dense] }, vec![13], bottom_scope);
    for (k, n) in [(13, 512), (512, 256), (256, 64), (64, 16)] {
        x = builder.layer(x, k, n);
    }
    let mut vectors = vec![x];
    for field in 0..fields {
        let table = builder.table(rows, dim as u32);
        let context = field < context_features;
        let feature = builder.feature(scope(context), 1, FeatureKind::sparse(table, rows));
        vectors.push(builder.push(Op::Lookup { feature, table, pool: Pool::Sum }, vec![dim], value_scope(context)));
    }
    let count = vectors.len();
    let candidate = ValueScope::Candidate;
    let joined = builder.push(Op::Concat { xs: vectors, axis: 0 }, vec![count * dim], candidate);
    let matrix = builder.push(Op::Reshape { x: joined }, vec![count, dim], candidate);
    let product = Op::MatMul { a: matrix, b: matrix, transpose_a: false, transpose_b: true };
    let product = builder.push(product, vec![count, count], candidate);
    let flat = builder.push(Op::Reshape { x: product }, vec![count * count], candidate);
    let indices: Vec<usize> = (0..count).flat_map(|i| (0..i).map(move |j| i * count + j)).collect();
    let pairs = indices.len();
    let pairs_value = builder.push(Op::GatherConst { x: flat, axis: 0, indices }, vec![pairs], candidate);
    let mut x = builder.push(Op::Concat { xs: vec![x, pairs_value], axis: 0 }, vec![dim + pairs], candidate);
    for (k, n) in [(dim + pairs, 512), (512, 256)] {
        x = builder.layer(x, k, n);
    }
    let x = builder.linear(x, 256, 1);
    let x = builder.push(Op::Sigmoid { x }, vec![1], candidate);
    builder.finish(x)
}

/// One request with `rows` candidates, random ids, ready to run; it has run before, and does not allocate from here on.
fn replay(model: &Arc<Model>, simd: Simd, rows: usize, table_rows: u32) -> Replay {
    replay_of(model, &Options::new(simd), rows, table_rows)
}

fn replay_of(model: &Arc<Model>, options: &Options, rows: usize, table_rows: u32) -> Replay {
    let prepared = Prepared::Cpu(Arc::new(Program::planned(model, options).expect("memory")));
    let limits = SlotLimits { contexts: 1, rows, ids: rows * 32 };
    let mut replay = Replay::new(&prepared, limits).expect("memory");
    fill(&mut replay, &mut Random(1), rows, table_rows);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..3 {
        replay.run().expect("the engine runs");
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before, "steps do not allocate");
    replay
}

fn fill(replay: &mut Replay, random: &mut Random, rows: usize, table_rows: u32) {
    let write = |slot: &mut Slot| -> Result<(), Infallible> {
        let layout = Arc::clone(slot.layout());
        let need = Need { rows, context_ids: layout.context.ids_max, candidate_ids: rows * layout.candidate.ids_max };
        let draft = slot.reserve(need).expect("the limits were made for this request");
        for part in [draft.context, draft.candidates] {
            part.dense.iter_mut().for_each(|value| *value = random.unit());
            part.ids.iter_mut().for_each(|id| *id = random.next() % table_rows);
        }
        slot.commit(0, Counts { rows, context_ids: need.context_ids, candidate_ids: need.candidate_ids });
        Ok(())
    };
    let Ok(()) = replay.fill(write);
}

/// A model in code, with random weights.
struct Builder {
    features: Vec<Feature>,
    graph: Graph,
    weights: Weights,
    random: Random,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder { features: vec![], graph: Graph::default(), weights: Weights::default(), random: Random(7) }
    }
}

impl Builder {
    fn feature(&mut self, scope: Scope, width: u32, kind: FeatureKind) -> usize {
        let name = format!("f{}", self.features.len());
        self.features.push(Feature { name, scope, width, max_len: width, id_type: IdType::U32, kind });
        self.features.len() - 1
    }

    fn table(&mut self, rows: u32, dim: u32) -> TableId {
        let data: Vec<f32> = (0..rows * dim).map(|_| self.random.unit()).collect();
        self.weights.tables.push(Table { name: String::new(), rows, dim, dtype: TableDType::F32, data: data.into() });
        TableId(self.weights.tables.len() as u16 - 1)
    }

    fn tensor(&mut self, shape: &[usize], scale: f32) -> TensorId {
        let data = (0..shape.iter().product()).map(|_| self.random.unit() * scale).collect();
        self.weights.tensors.push(Tensor { name: String::new(), shape: shape.to_vec(), data: TensorData::F32(data) });
        TensorId(self.weights.tensors.len() as u32 - 1)
    }

    fn push(&mut self, op: Op, shape: Vec<usize>, scope: ValueScope) -> ValueId {
        let out = ValueId(self.graph.values.len() as u32);
        self.graph.values.push(Value { name: format!("v{}", out.0), shape, dtype: DType::F32, scope });
        self.graph.nodes.push(Node { out, op });
        out
    }

    fn linear(&mut self, x: ValueId, k: usize, n: usize) -> ValueId {
        let (weight, bias) = (self.tensor(&[n, k], 1.7 / (k as f32).sqrt()), self.tensor(&[n], 0.1));
        let scope = self.graph.value(x).scope;
        self.push(Op::Linear { x, weight, bias: Some(bias) }, vec![n], scope)
    }

    fn layer(&mut self, x: ValueId, k: usize, n: usize) -> ValueId {
        let scope = self.graph.value(x).scope;
        let x = self.linear(x, k, n);
        self.push(Op::Relu { x }, vec![n], scope)
    }

    fn finish(mut self, output: ValueId) -> Arc<Model> {
        self.graph.outputs = vec![Output { name: "p".into(), kind: OutputKind::Probability, value: output }];
        Arc::new(Model::new("bench", self.features, self.graph, self.weights))
    }
}
