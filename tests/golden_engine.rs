//! Every golden bundle through the CPU engine: its recorded float64 outputs are the judge.

use std::path::Path;
use std::sync::Arc;

use gavel::engine::{EngineKind, prepare, selftest};
use gavel::model::{LoadOptions, discover, load};

#[test]
fn golden_bundles_pass_their_selftests() {
    let bundles = discover(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles")).expect("bundles");
    assert!(bundles.len() >= 19, "all golden bundles are there");
    for bundle in bundles {
        let options = LoadOptions { name: Some(bundle.name.clone()), version: bundle.version };
        let model = Arc::new(load(&bundle.path, &options, &mut |_| {}).expect("a good bundle"));
        let prepared = prepare(EngineKind::Cpu, &model).expect("prepared");
        let report = selftest::replay(&prepared, &model).unwrap_or_else(|error| panic!("{}: {error}", bundle.name));
        println!("{:24} {report}; in a batch and alone differ by {:.1e}", bundle.name, report.alone);
    }
}
