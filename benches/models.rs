//! Whole models: the synthetic DLRMs, every feature in every row, and half of them in the context.
//!
//! `cargo bench --bench models` measures; `cargo test --benches` runs everything once, tiny. Against other engines, and as shares of what the
//! machine can do: `benches/compare`.

mod support;

use std::sync::Arc;

use criterion::Criterion;
use gavel::model::{LoadOptions, Model, load};
use gavel::synth::{ContextShare, Family, Interaction, Recipe, Shape, TableFormat, write_bundle};

use support::{bench_model, measuring};

fn main() {
    let mut criterion = Criterion::default().configure_from_args().without_plots();
    for (family, rows_cap) in [(Family::DlrmKaggle, 20_000), (Family::DlrmDcnv2, 4_000)] {
        let mut group = criterion.benchmark_group(family.name());
        for (name, context) in [("all candidate", ContextShare::None), ("half context", ContextShare::Half)] {
            bench_model(&mut group, name, &model(family, rows_cap, context));
        }
        group.finish();
    }
    criterion.final_summary();
}

fn model(family: Family, rows_cap: u32, context: ContextShare) -> Arc<Model> {
    let mut shape = Shape::new(family, if measuring() { rows_cap } else { 20 });
    if let (Interaction::Cross { layers, .. }, false) = (shape.interaction, measuring()) {
        // The published layers would take a test's time.
        shape.interaction = Interaction::Cross { layers, rank: 16 };
        shape.top = vec![32, 1];
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bundle = folder.path().join("bundle");
    write_bundle(&Recipe { shape, seed: 1, context, tables: TableFormat::F32, selftest_rows: 1 }, &bundle, &mut |_, _| {})
        .expect("a bundle");
    Arc::new(load(&bundle, &LoadOptions::default(), &mut |_| {}).expect("it loads"))
}
