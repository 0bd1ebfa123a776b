//! Every golden bundle through the CUDA engine, on the emulator or, with `GAVEL_CUDA=real`, on a GPU: within the bundle's tolerance in f32, and
//! in bf16 moved no further than the number format explains.

#[path = "support/emulator.rs"]
mod emulator;

use std::path::Path;
use std::sync::Arc;

use gavel::engine::cuda::compile::Cubins;
use gavel::engine::precision::Precision;
use gavel::engine::{EngineKind, PrepareOptions, prepare_with, selftest};
use gavel::model::{LoadOptions, Model, discover, load};

/// How far the golden models' probabilities move if all their weights, tables included, are rounded to bf16 and everything else is exact: largest
/// over their rows, as recorded with the models.
const BF16_SHIFTS: [(&str, f64); 8] = [
    ("dcn", 7.9e-4),
    ("dcn_matrix", 4.3e-4),
    ("deepfm", 4.3e-4),
    ("dlrm", 1.8e-3),
    ("dlrm_multihot", 9.1e-4),
    ("dlrm_torchrec", 5.7e-4),
    ("mmoe", 3.6e-3),
    ("wdl", 6.4e-4),
];

#[test]
fn golden_bundles_pass_their_selftests_in_f32() {
    for model in models() {
        let prepared = prepare_with(EngineKind::Cuda, &model, &options(Precision::F32)).expect("prepared");
        let report = selftest::replay(&prepared, &model).unwrap_or_else(|error| panic!("{}: {error}", model.name));
        println!("{:24} {report}; in a batch and alone differ by {:.1e}", model.name, report.alone);
    }
}

#[test]
fn golden_bundles_move_in_bf16_as_far_as_the_format_explains() {
    let mut faults = Vec::new();
    for model in models() {
        let prepared = prepare_with(EngineKind::Cuda, &model, &options(Precision::Bf16)).expect("prepared");
        if prepared.precision().is_none_or(|report| report.reduced() == 0) {
            println!("{:24} has no dense layer", model.name);
            continue;
        }
        let report = selftest::replay(&prepared, &model).unwrap_or_else(|error| panic!("{}: {error}", model.name));
        let case = BF16_SHIFTS.iter().filter(|(name, _)| model.name.starts_with(name)).max_by_key(|(name, _)| name.len());
        let (case, shift) = case.unwrap_or_else(|| panic!("{}: no case is recorded for it", model.name));
        let worst = report.worst();
        println!("{:24} {report}; {case} moves by {shift:.1e} with its weights in bf16", model.name);
        if worst > *shift || worst == 0.0 {
            faults.push(format!("{}: moved by {worst:.1e}, {case} by {shift:.1e}", model.name));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn options(precision: Precision) -> PrepareOptions {
    let mut options = PrepareOptions::default();
    options.precision.precision = precision;
    // The emulator runs what its own compiler makes, and nothing else does.
    let compiler = emulator::compiler();
    // Where the GPU pack has put kernels of the bundles.
    let folder = if compiler.is_some() { emulator::kernels_folder() } else { "kernels" };
    options.cubins = Cubins::new(Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder)), compiler);
    options
}

/// The golden models; none, with the reason printed, where no CUDA can be reached.
fn models() -> Vec<Arc<Model>> {
    if emulator::cuda().is_none() {
        return Vec::new();
    }
    let bundles = discover(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles")).expect("bundles");
    assert!(bundles.len() >= 19, "all golden bundles are there");
    let read = |bundle: &gavel::model::BundleRef| {
        let options = LoadOptions { name: Some(bundle.name.clone()), version: bundle.version };
        Arc::new(load(&bundle.path, &options, &mut |_| {}).expect("a good bundle"))
    };
    bundles.iter().map(read).collect()
}
