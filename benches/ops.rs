//! The patterns that ranking models are made of, each alone: a graph of the ops that exporters write, from dense inputs to one value a row. What the
//! planner recognises it fuses; what it does not shows here.
//!
//! `cargo bench --bench ops` measures; `cargo test --benches` runs everything once, tiny.

#[path = "../tests/bundle_writer/mod.rs"]
mod bundle_writer;
#[path = "support/patterns.rs"]
mod patterns;
mod support;

use std::sync::Arc;

use criterion::Criterion;

use patterns::{Given, patterns};
use support::{Random, bench_model};

fn main() {
    let mut criterion = Criterion::default().configure_from_args().without_plots();
    let mut group = criterion.benchmark_group("ops");
    for pattern in patterns() {
        bench_model(&mut group, pattern.name, &Arc::new(pattern.model(Given::Dense)));
    }
    group.finish();
    criterion.final_summary();
}
