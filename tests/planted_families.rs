//! Bugs planted into the families of `kernels/` and into generated sources: on the emulator, the scores of golden bundles must show each.
#![allow(clippy::unwrap_used)]

#[path = "support/emulator.rs"]
mod emulator;

use std::path::Path;
use std::sync::Arc;

use emulator::Cuda;
use gavel::engine::cuda::compile::{Arch, CompileOptions, Header, Nvrtc, headers};
use gavel::engine::cuda::{Device, DeviceOptions, Loaded, Numbers, Program, Target};
use gavel::engine::{Prepared, selftest};
use gavel::model::{LoadOptions, Model, discover, load};

/// The source that is generated, among the files of `kernels/`.
const GENERATED: &str = "generated";

struct Bug {
    bundle: &'static str,
    numbers: Numbers,
    /// `Target::wide_from`: 1 makes every layer a kernel of its own.
    wide_from: Option<usize>,
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const fn bug(
    bundle: &'static str,
    numbers: Numbers,
    wide_from: Option<usize>,
    file: &'static str,
    from: &'static str,
    to: &'static str,
) -> Bug {
    Bug { bundle, numbers, wide_from, file, from, to }
}

use Numbers::{Bf16, F32};

const BUGS: &[Bug] = &[
    bug("dlrm", F32, None, GENERATED, "        sync_block();\n", ""),
    bug("dlrm_scoped", F32, None, GENERATED, "        sync_block();\n", ""),
    bug("mmoe", F32, None, GENERATED, "        sync_block();\n", ""),
    bug("dlrm", F32, None, "mlp.cuh", "x[m] = X::row(b, p / INNER)", "x[m] = X::row(b, p0 / INNER)"),
    bug("dlrm", F32, None, "mlp.cuh", "const int p = p0 + m < last ? p0 + m : last;", "const int p = p0 + m < last ? p0 + m : 0;"),
    bug(
        "dlrm",
        F32,
        None,
        "tile.cuh",
        "DEV static int of(const Block& b, int r) { return b.first + r; }",
        "DEV static int of(const Block&, int r) { return r; }",
    ),
    bug("dlrm_scoped", F32, None, "tile.cuh", "job.row_context[b.first + (r < b.rows ? r : 0)]", "job.row_context[r < b.rows ? r : 0]"),
    bug(
        "dlrm_multihot",
        F32,
        None,
        "lookup_pool.cuh",
        "k < (int)bag.y ? load_nc4(inputs(b).ids + bag.x + k) : NO_ROW",
        "load_nc4(inputs(b).ids + bag.x + k)",
    ),
    bug("deepfm", F32, None, "fm.cuh", "squares = sum_lanes<L>(squares);", ""),
    bug("deepfm", Bf16, None, "mlp_bf16.cuh", "    sync_block();\n", ""),
    bug("deepfm", Bf16, Some(1), "wide.cuh", "cp_async_wait<STAGES - 2>();", "cp_async_wait<STAGES - 1>();"),
    bug("deepfm", Bf16, Some(1), "wide.cuh", "cp_async_wait<STAGES - 2>();\n            sync_block();", "cp_async_wait<STAGES - 2>();"),
    bug("deepfm", F32, Some(1), "wide.cuh", "cp_async_wait<0>();\n            sync_block();", "sync_block();"),
    bug("deepfm", F32, Some(1), "wide.cuh", "cp_async_wait<0>();\n            sync_block();", "cp_async_wait<0>();"),
    // Tails of wide layers: the wrong column, the wrong row, the wrong neighbour, a context's row for another one's candidate.
    bug("dcn_matrix", F32, Some(1), "wide.cuh", "VIEW::row(b, r < b.rows ? r : 0) + at;", "VIEW::row(b, r < b.rows ? r : 0);"),
    bug("dcn_matrix", Bf16, Some(1), "wide.cuh", "VIEW::row(b, r < b.rows ? r : 0) + at;", "VIEW::row(b, 0) + at;"),
    bug("dcn_matrix", F32, Some(1), GENERATED, "held.x0.y", "held.x0.x"),
    bug("dcn_matrix_scoped", F32, Some(1), "wide.cuh", "job.row_context[b.first + (r < b.rows ? r : 0)]", "job.row_context[b.first]"),
    bug(
        "dcn_matrix",
        F32,
        Some(1),
        "wide.cuh",
        "held[i] = END::load(b, pair.row, pair.column);",
        "held[0] = END::load(b, pair.row, pair.column);",
    ),
];

fn model(name: &str) -> Arc<Model> {
    let bundles = discover(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles")).unwrap();
    let bundle = bundles.into_iter().find(|bundle| bundle.name == name).unwrap();
    let options = LoadOptions { name: Some(bundle.name), version: bundle.version };
    Arc::new(load(&bundle.path, &options, &mut |_| {}).unwrap())
}

/// Scores the bundle's selftest with or without the bug; gives the largest error.
fn judge(device: &Arc<Device>, bug: &Bug, planted: bool) -> Result<f64, String> {
    let model = model(bug.bundle);
    let mut target = Target::new(device.gpu().shared_bytes_max, bug.numbers);
    target.wide_from = bug.wide_from.unwrap_or(target.wide_from);
    let mut program = Program::new(&model, &target).unwrap();
    let mut places = 0;
    let mut plant = |text: &str| {
        places += text.matches(bug.from).count();
        text.replace(bug.from, bug.to)
    };
    if planted && bug.file == GENERATED {
        program.source = plant(&program.source);
    }
    let texts: Vec<(&str, String)> = headers()
        .iter()
        .map(|header| (header.name, if planted && header.name == bug.file { plant(header.text) } else { header.text.to_string() }))
        .collect();
    assert!(!planted || places > 0, "{}: nowhere to plant {:?}", bug.file, bug.from);
    let headers: Vec<Header> = texts.iter().map(|(name, text)| Header { name, text }).collect();

    let nvrtc = Nvrtc::open(emulator::compiler().as_deref()).unwrap();
    let (major, minor) = device.gpu().capability;
    let arch = Arch::of_device(major, minor).unwrap();
    let compiled = nvrtc.compile(&program.source, &headers, arch, &CompileOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let loaded = Loaded::new(device, Arc::new(program), &compiled.cubin).unwrap();
    let scores =
        selftest::score_rows(&Prepared::Cuda(Arc::new(loaded)), &model, &model.selftest.inputs).map_err(|error| error.to_string())?;
    let allowed = if bug.numbers == Bf16 { 3e-3 } else { 2e-6 };
    let outputs = model.selftest.expected.len();
    let mut worst = 0_f64;
    for (at, found) in scores.iter().enumerate() {
        let (row, output) = (at / outputs, at % outputs);
        let expected = model.selftest.expected[output][row];
        let error = (f64::from(*found) - expected).abs();
        if error.is_nan() || error > allowed {
            return Err(format!("row {row}: {found} for {expected}"));
        }
        worst = worst.max(error);
    }
    Ok(worst)
}

#[test]
fn every_bug_is_noticed() {
    if emulator::cuda() != Some(Cuda::Emulated) {
        return;
    }
    let mut unnoticed = Vec::new();
    for bug in BUGS {
        let name = format!("{} {:?}, {}: {:?} -> {:?}", bug.bundle, bug.numbers, bug.file, bug.from, bug.to);
        emulator::reset();
        let device = Device::open(DeviceOptions::default()).unwrap();
        match judge(&device, bug, false) {
            Ok(worst) => println!("{} {:?} without a bug: off by {worst:.1e}", bug.bundle, bug.numbers),
            Err(error) => panic!("{} without a bug: {error} {}", bug.bundle, emulator::fault()),
        }
        match judge(&device, bug, true) {
            Ok(worst) => unnoticed.push(format!("{name}: off by {worst:.1e}")),
            Err(error) => println!("{name}: {error}"),
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
}
