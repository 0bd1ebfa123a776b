//! Reduced precision of dense layers against f32, on the synthetic DLRMs: how much faster, and how far answers move.
//!
//! Plans take turns on the same rows, in slices of a few milliseconds of the thread's own CPU time; printed are medians of the rounds' ratios with
//! their spread. `cargo bench --bench precision` measures; `cargo test --benches` runs everything once, tiny.

#![allow(unsafe_code)] // the clock of a thread's CPU time

// Both are shared with other benches, which use the rest.
#[allow(dead_code)]
#[path = "compare/clock.rs"]
mod clock;
#[allow(dead_code)]
mod support;

use std::sync::Arc;

use gavel::engine::cpu::PrecisionOptions;
use gavel::engine::precision::Precision;
use gavel::engine::{EngineKind, PrepareOptions, Prepared, prepare_with};
use gavel::model::{LoadOptions, Model, load};
use gavel::synth::{ContextShare, Family, Interaction, Recipe, Shape, TableFormat, write_bundle};

use support::{Requests, measuring};

use clock::Moment;

const REDUCED: [Precision; 2] = [Precision::Int8, Precision::F16];

fn main() {
    for (family, rows_cap) in [(Family::DlrmKaggle, 100_000), (Family::DlrmDcnv2, 40_000)] {
        let rows_cap = if measuring() { rows_cap } else { 20 };
        let model = model(family, rows_cap);
        let exact = plan(&model, Precision::F32);
        let reduced = REDUCED.map(|precision| plan(&model, precision));
        println!("{}, tables of at most {rows_cap} rows:", family.name());
        for plan in &reduced {
            let decided = plan.precision().expect("what was decided");
            println!("  {decided}; {} plans measured", decided.measured);
        }
        let names = REDUCED.map(|precision| format!("{:>4}: times as fast (spread)", precision.name()));
        println!("  rows     f32 µs  {}", names.join("  "));
        for rows in if measuring() { &[1, 4, 16, 64, 256, 1024][..] } else { &[3][..] } {
            race(&exact, &reduced, *rows);
        }
    }
}

fn plan(model: &Arc<Model>, precision: Precision) -> Prepared {
    let options = PrepareOptions {
        precision: PrecisionOptions { precision, even_small: !measuring(), ..PrecisionOptions::default() },
        ..PrepareOptions::default()
    };
    prepare_with(EngineKind::Cpu, model, &options).expect("a plan")
}

/// The plans in turns.
fn race(exact: &Prepared, reduced: &[Prepared], rows: usize) {
    let (rounds, slice_ns) = if measuring() { (9, 20_000_000) } else { (1, 0) };
    let mut requests: Vec<Requests> = std::iter::once(exact).chain(reduced).map(|plan| Requests::to(plan, rows)).collect();
    let mut times = vec![Vec::new(); requests.len()];
    for _ in 0..rounds {
        for (requests, times) in requests.iter_mut().zip(&mut times) {
            times.push(nanoseconds(requests, slice_ns));
        }
    }
    let ratios = times[1..].iter().map(|reduced| {
        let ratios = sorted(times[0].iter().zip(reduced).map(|(exact, reduced)| exact / reduced).collect());
        format!("{:>14.2} ({:.2} to {:.2})", ratios[ratios.len() / 2], ratios[0], ratios[ratios.len() - 1])
    });
    let ratios: Vec<String> = ratios.collect();
    println!("  {rows:>4} {:>10.1}  {}", sorted(times[0].clone())[rounds / 2] / 1e3, ratios.join("  "));
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// CPU time of a request, over fresh ones.
fn nanoseconds(requests: &mut Requests, slice_ns: u64) -> f64 {
    let (mut spent, mut runs) = (0, 0u64);
    while runs == 0 || spent < slice_ns {
        requests.fill();
        let began = Moment::now();
        requests.run();
        spent += began.elapsed().cpu_ns;
        runs += 1;
    }
    spent as f64 / runs as f64
}

fn model(family: Family, rows_cap: u32) -> Arc<Model> {
    let mut shape = Shape::new(family, rows_cap);
    if let (Interaction::Cross { layers, .. }, false) = (shape.interaction, measuring()) {
        // The published layers would take a test's time.
        shape.interaction = Interaction::Cross { layers, rank: 16 };
        shape.top = vec![32, 1];
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bundle = folder.path().join("bundle");
    let recipe = Recipe { shape, seed: 1, context: ContextShare::None, tables: TableFormat::F32, selftest_rows: 64 };
    write_bundle(&recipe, &bundle, &mut |_, _| {}).expect("a bundle");
    Arc::new(load(&bundle, &LoadOptions::default(), &mut |_| {}).expect("it loads"))
}
