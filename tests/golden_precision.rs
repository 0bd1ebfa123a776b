//! Golden bundles in reduced precision: how far answers move from the recorded float64 outputs.

use std::path::Path;
use std::sync::Arc;

use gavel::engine::cpu::{Hoist, Options, PrecisionOptions, Program, Simd};
use gavel::engine::precision::{Precision, PrecisionReport, Shift, ShiftLimits};
use gavel::engine::selftest::SelftestError;
use gavel::engine::{EngineKind, PrepareOptions, Prepared, prepare_with, selftest};
use gavel::model::{LoadOptions, Model, OutputKind, discover, load};

fn golden(mut each: impl FnMut(&str, &Arc<Model>)) {
    golden_models(|name, model| each(name, &Arc::new(model)));
}

fn golden_models(mut each: impl FnMut(&str, Model)) {
    let bundles = discover(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles")).expect("bundles");
    assert!(bundles.len() >= 17, "all golden bundles are there");
    for bundle in bundles {
        let options = LoadOptions { name: Some(bundle.name.clone()), version: bundle.version };
        each(&bundle.name, load(&bundle.path, &options, &mut |_| {}).expect("a good bundle"));
    }
}

/// Largest difference of a probability (or a plain value, as a share of its range), and of the AUC.
fn shift(report: &PrecisionReport) -> (f64, f64) {
    let Shift { probability, value, auc } = report.shift;
    (probability.unwrap_or_default().max(value.unwrap_or_default()), auc.unwrap_or_default())
}

/// Golden models are small: layers are reduced even where that gains nothing.
fn options(precision: Precision, limits: ShiftLimits) -> PrepareOptions {
    PrepareOptions { precision: PrecisionOptions { precision, limits, even_small: true }, ..PrepareOptions::default() }
}

#[test]
fn golden_bundles_stay_within_the_limits_in_int8() {
    golden(|name, model| {
        let prepared =
            prepare_with(EngineKind::Cpu, model, &options(Precision::Int8, ShiftLimits::default())).expect("a plan within the limits");
        let report = prepared.precision().expect("what was decided");
        println!("{name:24} {report}, {} plans", report.measured);
        report
            .layers
            .iter()
            .for_each(|layer| println!("    {} {}x{} {}: {}", layer.name, layer.k, layer.n, layer.precision.name(), layer.reason));
        let (probability, auc) = shift(report);
        assert!(probability <= 5e-3 && auc <= 2e-3, "{name}: {}", report.shift);
        assert!(report.reduced() * 2 >= report.layers.len(), "{name}: {report}");
        let replayed = selftest::replay(&prepared, model).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(replayed.alone, 0.0, "{name}: a row's score does not depend on its neighbours");
    });
}

#[test]
fn everything_reduced() {
    let endless = ShiftLimits { probability: f64::INFINITY, auc: f64::INFINITY };
    golden(|name, model| {
        let prepared = prepare_with(EngineKind::Cpu, model, &options(Precision::Int8, endless)).expect("a plan");
        let report = prepared.precision().expect("what was decided");
        println!("{name:24} {report}");
        assert_eq!((report.reduced(), report.measured), (report.layers.len(), 2), "one look at sizes, one plan");
        assert!(shift(report).0 < 0.05, "{name}: {}", report.shift);
    });
}

#[test]
fn what_is_not_allowed_to_move_stays_in_f32() {
    let none = ShiftLimits { probability: 1e-9, auc: 1e-9 };
    golden(|name, model| {
        if name != "dlrm" {
            return;
        }
        let prepared = prepare_with(EngineKind::Cpu, model, &options(Precision::Int8, none)).expect("a plan");
        let report = prepared.precision().expect("what was decided");
        assert_eq!(report.reduced(), 0);
        assert!(report.layers.iter().all(|layer| layer.reason.starts_with("alone it moves answers by")), "{report:?}");
        // Not even f32 is as close as that, but nothing is reduced: the bundle's tolerance judges.
        let replayed = selftest::replay(&prepared, model).expect("as good as f32");
        assert!(replayed.worst() > none.probability && replayed.worst() <= 2e-6, "{replayed}");
    });
}

/// An output whose range is rounding noise: no reduced layer is as exact as that, and f32 is all that can be asked for.
#[test]
fn values_that_hardly_differ_are_served_in_f32() {
    golden_models(|name, mut model| {
        if name != "wdl" {
            return;
        }
        let noise = [-1e-7, 0.0, 1e-7];
        model.selftest.inputs = model.selftest.inputs.subset(&noise.map(|_| 0));
        model.selftest.expected = vec![noise.map(|noise| model.selftest.expected[0][0] + noise).to_vec()];
        model.selftest.labels.clear();
        model.graph.outputs[0].kind = OutputKind::Value;
        let model = Arc::new(model);
        for limits in [ShiftLimits::default(), ShiftLimits { probability: 0.0, auc: 0.0 }] {
            let prepared = prepare_with(EngineKind::Cpu, &model, &options(Precision::Int8, limits)).expect("a plan");
            let report = prepared.precision().expect("what was decided");
            assert_eq!((report.reduced(), report.shift), (0, Shift { value: Some(0.0), ..Shift::default() }));
            let replayed = selftest::replay(&prepared, &model).expect("f32 serves it");
            assert_eq!(replayed.shifts, Some(vec![report.shift]));
        }
        // Beyond the tolerance it is refused, as in f32.
        let mut other = Arc::into_inner(model).expect("nobody else's");
        other.selftest.expected[0][1] += 1e-3;
        let other = Arc::new(other);
        let prepared = prepare_with(EngineKind::Cpu, &other, &options(Precision::Int8, ShiftLimits::default())).expect("a plan");
        assert!(matches!(selftest::replay(&prepared, &other), Err(SelftestError::Mismatch { row: 1, .. })));
    });
}

#[test]
fn weights_of_16_bits_hardly_move_anything() {
    golden(|name, model| {
        let prepared = match prepare_with(EngineKind::Cpu, model, &options(Precision::F16, ShiftLimits::default())) {
            Ok(prepared) => prepared,
            Err(error) => return assert!(error.to_string().contains("F16C"), "{error}"),
        };
        let report = prepared.precision().expect("what was decided");
        println!("{name:24} {report}");
        assert_eq!((report.reduced(), report.measured), (report.layers.len(), 1));
        assert!(shift(report).0 < 1e-3, "{name}: {}", report.shift);
        let replayed = selftest::replay(&prepared, model).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(replayed.alone, 0.0, "{name}: a row's score does not depend on its neighbours");
    });
}

#[test]
fn every_instruction_set_and_every_way_of_hoisting() {
    golden(|name, model| {
        for simd in Simd::available() {
            for hoist in [Hoist::Nothing, Hoist::Everything] {
                let precision = options(Precision::Int8, ShiftLimits::default()).precision;
                let program = Program::planned(model, &Options { hoist, precision, ..Options::new(simd) }).expect("a plan");
                let prepared = Prepared::Cpu(Arc::new(program));
                let at = format!("{name} {} {hoist:?}", simd.level().name());
                let replayed = selftest::replay(&prepared, model).unwrap_or_else(|error| panic!("{at}: {error}"));
                assert_eq!(replayed.alone, 0.0, "{at}");
                assert!(prepared.precision().is_some_and(|report| report.reduced() > 0), "{at}");
            }
        }
    });
}

/// The AUC against what happened in these rows, not what was to be expected.
#[test]
fn measured_auc_stays_within_the_limit() {
    let labels: Vec<[&str; 3]> = include_str!("golden_labels.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| <[&str; 3]>::try_from(line.split(' ').collect::<Vec<_>>()).expect("bundle, output, labels"))
        .collect();
    let mut judged = 0;
    golden_models(|name, mut model| {
        let of = |output: &str| labels.iter().find(|[bundle, column, _]| *bundle == name.trim_end_matches("_scoped") && *column == output);
        let Some(known) = model.graph.outputs.iter().map(|output| of(&output.name)).collect::<Option<Vec<_>>>() else {
            return;
        };
        let digits = |labels: &str| labels.bytes().map(|digit| f64::from(digit - b'0')).collect::<Vec<f64>>();
        model.selftest.labels = known.iter().map(|[_, _, labels]| Some(digits(labels))).collect();
        let model = Arc::new(model);
        let prepared = prepare_with(EngineKind::Cpu, &model, &options(Precision::Int8, ShiftLimits::default())).expect("a plan");
        let report = prepared.precision().expect("what was decided");
        println!("{name:24} {report}");
        let (probability, auc) = shift(report);
        assert!(auc <= 2e-3 && probability <= 5e-3, "{name}: {}", report.shift);
        assert!(report.reduced() > 0, "{name}");
        judged += 1;
    });
    assert!(judged >= 16, "trained models with labels");
}
