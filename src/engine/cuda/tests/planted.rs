//! Bugs planted into families that no golden bundle has (`tests/planted_families.rs` has the others): a score that differs from the oracle's, or a
//! fault, must show each.

use std::sync::Arc;

use crate::engine::cpu::tests::batches::{self, Request};
use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::kernels::{array, elements};
use crate::engine::cpu::tests::{Random, oracle};
use crate::engine::cuda::compile::{CompileOptions, Header, Nvrtc, headers};
use crate::engine::cuda::{Numbers, Program, Target};
use crate::model::{DType, GruKind, Model, Op, ValueId};

use super::emulator::{self, Cuda};
use super::mixtures::mixture;
use super::products::{SHAPES, masked};
use super::recurrent::layer;
use super::trees::{stumps, with_nan};
use super::{Ended, SHARED_BYTES, run_code};

/// Off by more than a sum in another order.
const TOLERANCE: f64 = 1e-4;

/// In one file of `kernels/`.
struct Bug {
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const fn bug(file: &'static str, from: &'static str, to: &'static str) -> Bug {
    Bug { file, from, to }
}

/// The first difference, in batches of the smallest and the largest tiles.
fn judge(model: &Arc<Model>, bug: Option<&Bug>) -> Result<(), String> {
    let texts: Vec<(&str, String)> = headers()
        .iter()
        .map(|header| match bug.filter(|bug| bug.file == header.name) {
            Some(bug) => {
                assert!(header.text.contains(bug.from), "{}: nowhere to plant {:?}", bug.file, bug.from);
                (header.name, header.text.replace(bug.from, bug.to))
            }
            None => (header.name, header.text.to_string()),
        })
        .collect();
    let headers: Vec<Header> = texts.iter().map(|(name, text)| Header { name, text }).collect();
    let program = || Program::new(model, &Target::new(SHARED_BYTES, Numbers::F32)).expect("memory");
    let nvrtc = Nvrtc::open(emulator::compiler().as_deref()).expect("the stand-in compiler");
    let arch = "sm_80".parse().expect("an architecture");
    let compiled = nvrtc.compile(&program().source, &headers, arch, &CompileOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    for (variant, rows) in (0..program().variants.len()).flat_map(|variant| [(variant, 13), (variant, 70)]) {
        let mut program = program();
        program.variants.swap(0, variant);
        program.variants.truncate(1);
        program.variants[0].rows_from = 0;
        let mut random = Random::new(variant as u64);
        let requests: Vec<Request> = vec![batches::request(model, &mut random, rows), batches::request(model, &mut random, 3)];
        let scores = match run_code(program, &compiled.cubin, &requests, None, "").unwrap_or_else(|error| panic!("{error}")).0 {
            Ended::Done(scores) => scores,
            Ended::Failed => return Err(format!("a batch of {rows} failed")),
            Ended::Lost(fault) => return Err(fault),
        };
        let expected = oracle::scores(model, &requests);
        for (at, (found, expected)) in scores.iter().flatten().zip(expected.iter().flatten()).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            // NaN, too, is off, unless it is expected.
            if !(error <= TOLERANCE * expected.abs().max(1.0) || (found.is_nan() && expected.is_nan())) {
                return Err(format!("score {at} in batches of {rows}: {found} for {expected}"));
            }
        }
    }
    Ok(())
}

fn each_is_noticed(make: impl FnOnce(&mut ModelBuilder) -> Vec<ValueId>, bugs: &[Bug]) {
    if emulator::cuda() != Some(Cuda::Emulated) {
        return;
    }
    let mut model = ModelBuilder::new(7);
    let values = make(&mut model);
    let outputs: Vec<ValueId> = values
        .into_iter()
        .flat_map(|x| {
            let len = model.shape(x).iter().product();
            let flat = model.op_as(Op::Reshape { x }, vec![len], DType::F32);
            let few = if len > 8 { model.linear(flat, 5) } else { flat };
            elements(&mut model, few)
        })
        .collect();
    let model = model.finish(&outputs);
    assert_eq!(judge(&model, None), Ok(()), "nothing planted");
    let mut unnoticed = Vec::new();
    for bug in bugs {
        match judge(&model, Some(bug)) {
            Ok(()) => unnoticed.push(format!("{}: {:?} -> {:?}", bug.file, bug.from, bug.to)),
            Err(found) => println!("{}: {:?} -> {:?}: {found}", bug.file, bug.from, bug.to),
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
}

#[test]
fn of_attention() {
    const FILE: &str = "attention.cuh";
    let bugs = [
        // Masks.
        bug(FILE, "is_zero == (HIDING == ZERO_HIDES) ? hidden : score", "score"),
        bug(FILE, "mask[queries[i] * MASK_ROW + key * MASK_KEY] == 0", "mask[key * MASK_KEY] == 0"),
        bug(FILE, "score = CAUSAL && key > queries[i] ? lowest : score;", ""),
        bug(FILE, "CAUSAL && key > queries[i]", "CAUSAL && key > first"),
        // The next item writes scores that other lanes still read. (Before the sums, the emulator has lanes meet where they add up, too.)
        bug(
            FILE,
            "                }\n            }\n        }\n        sync_warp();\n    });",
            "                }\n            }\n        }\n    });",
        ),
        // Tails and places.
        bug(FILE, "column < VALUES && first + i < COUNT", "column < VALUES"),
        bug(FILE, "at = at + STEP == WIDTH ? 0 : at + STEP;", "at = at + STEP;"),
        bug(FILE, "for (int mask = LANES / 2; mask >= COLUMNS; mask /= 2)", "for (int mask = LANES / 2; mask > COLUMNS; mask /= 2)"),
        bug(FILE, "weights = room + slot * QUERIES * KEYS;", "weights = room;"),
        // The softmax without its largest score, and without its sum.
        bug(FILE, "has_keys ? 1.0f / sum : 1.0f", "1.0f"),
        bug(FILE, "HEAD::v(e)", "HEAD::v(0)"),
    ];
    let masks = [(1, false), (4, false), (3, false), (5, true), (0, true)];
    each_is_noticed(
        |model| {
            let of = |(shape, (mask, causal)): (&usize, &(usize, bool))| (SHAPES[*shape], *mask, *causal);
            [1, 2, 4, 5, 6].iter().zip(&masks).map(of).map(|(shapes, mask, causal)| masked(model, shapes, mask, causal)).collect()
        },
        &bugs,
    );
}

#[test]
fn of_recurrent_layers() {
    const FILE: &str = "recurrent.cuh";
    let bugs = [
        // The state that this turn reads is written in this turn.
        bug(FILE, "const int next = PADDED - now;", "const int next = now;"),
        bug(FILE, "            sync_block();\n            for (int item", "            for (int item"),
        bug(FILE, "        sync_block();\n    }\n\n    // ---- the last state", "    }\n\n    // ---- the last state"),
        bug(FILE, "    sync_block();\n\n    // ---- steps", "    // ---- steps"),
        // Sequences of other lengths, directions and beginnings.
        bug(FILE, "return turn >= taken ? -1", "return turn >= STEPS ? -1"),
        bug(FILE, "REVERSE ? taken - 1 - turn : turn", "REVERSE ? STEPS - 1 - turn : turn"),
        bug(FILE, "return length < 0 ? 0 : length > STEPS ? STEPS : (int)length;", "return length < 0 ? 0 : (int)length;"),
        bug(FILE, "state = e < HIDDEN ? FIRST::row(b, r)[e] : 0.0f;", "state = 0.0f;"),
        bug(FILE, "return fma_(share, n, (1.0f - share) * state);", "return fma_(z, n, (1.0f - z) * state);"),
        bug(FILE, "            now = next;\n", ""),
        bug(FILE, "else if (e >= steps_taken<LENGTH, STEPS>(b, r) * HIDDEN)", "else if (e > steps_taken<LENGTH, STEPS>(b, r) * HIDDEN)"),
    ];
    each_is_noticed(
        |model| {
            let kinds =
                [(GruKind::Gru, 0), (GruKind::Gru, 1), (GruKind::Agru, 2), (GruKind::Augru, 7), (GruKind::Augru, 4), (GruKind::Gru, 6)];
            kinds.into_iter().map(|(kind, flags)| layer(model, [5, 3, 21], kind, flags)).collect()
        },
        &bugs,
    );
}

#[test]
fn of_trees() {
    const FILE: &str = "trees.cuh";
    let bugs = [
        bug(FILE, "    sync_block();\n\n    // ---- their sums", "    // ---- their sums"),
        bug(FILE, "goes[i] = tree + i * PARTS < TREES;", "goes[i] = tree + (i + 1) * PARTS < TREES;"),
        bug(FILE, "x == threshold ? EQUAL", "x == threshold ? LESS"),
        bug(FILE, "x > threshold ? GREATER : MISSING", "GREATER"),
        bug(FILE, "double* sums = room + (part * TILE + r) * TARGETS;", "double* sums = room + (part * TILE + r % 8) * TARGETS;"),
        bug(FILE, "(double)leaves[leaf[i] + t]", "(double)leaves[leaf[i]]"),
        bug(FILE, "const int r = item % b.rows, part = item / b.rows;", "const int r = item % TILE, part = item / TILE;"),
        bug(FILE, "tree += PARTS * SIDE_BY_SIDE", "tree += PARTS"),
    ];
    each_is_noticed(
        |model| {
            let x = array(model, &[5]);
            let x = with_nan(model, x);
            let forests = [(65, 1), (300, 2), (7, 7)].map(|(count, targets)| stumps(model, x, count, targets));
            let y = array(model, &[6]);
            let y = with_nan(model, y);
            let own = (0..6).map(|_| {
                let trees = crate::engine::cpu::tests::random::ensemble(model, y, 6);
                model.op(Op::Trees(trees))
            });
            forests.into_iter().chain(own.collect::<Vec<_>>()).collect()
        },
        &bugs,
    );
}

#[test]
fn of_mixtures() {
    const FILE: &str = "experts.cuh";
    let bugs = [
        bug(FILE, "SOFTMAX ? shfl_idx(weights[v / LANES], Strips::lane_of(v % LANES)) : gate[v]", "SOFTMAX ? weights[v / LANES] : gate[v]"),
        bug(FILE, "weights[h] = v < COUNT ? gate[v] : bits_f32(0xff800000u);", "weights[h] = v < COUNT ? gate[v] : 0.0f;"),
        bug(FILE, "most = max_lanes<Strips>(most);", ""),
        bug(FILE, "factor = 1.0f / sum_lanes<Strips>(sum);", "factor = 1.0f / sum;"),
        bug(FILE, "const float* vector = VECTORS::at(b, r, v);", "const float* vector = VECTORS::at(b, r, 0);"),
        bug(FILE, "const int first = strip * STRIP + Strips::part();", "const int first = Strips::part();"),
        bug(FILE, "weights[v / LANES]", "weights[0]"),
        bug(FILE, "if (first + c * LANES < DIM) {", "{"),
    ];
    each_is_noticed(
        |model| {
            let cases = [(5, 7, true, false), (9, 33, false, false), (33, 12, true, true), (3, 300, true, true), (8, 8, false, true)];
            cases.into_iter().map(|(count, dim, softmax, side_by_side)| mixture(model, count, dim, softmax, side_by_side)).collect()
        },
        &bugs,
    );
}

/// A read that changes no score: the address sanitizer alone sees it, also in kernels that were generated. In processes of their own, with the
/// sanitizer preloaded.
#[test]
fn of_addresses() {
    const CHILD: &str = "GAVEL_PLANTED";
    const FROM: &str = "const float* vector = VECTORS::at(b, r, v);";
    const TO: &str = "(void)*(volatile const uint32_t*)(b.job.weights - 4); const float* vector = VECTORS::at(b, r, v);";
    if let Ok(planted) = std::env::var(CHILD) {
        let mut model = ModelBuilder::new(7);
        let value = mixture(&mut model, 3, 8, true, false);
        let outputs = elements(&mut model, value);
        let model = model.finish(&outputs);
        assert_eq!(judge(&model, (planted == "bug").then_some(&bug("experts.cuh", FROM, TO))), Ok(()));
        return;
    }
    if emulator::cuda() != Some(Cuda::Emulated) {
        return;
    }
    for (planted, cuda, is_seen) in [("nothing", "asan", false), ("bug", "asan", true), ("bug", "", false)] {
        let Some(mut command) = emulator::sanitized("engine::cuda::tests::planted::of_addresses") else { return };
        let output = command.envs([(CHILD, planted), ("GAVEL_CUDA", cuda)]).output().expect("a process");
        let report = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.success(), report.contains("heap-buffer-overflow")), (!is_seen, is_seen), "{planted} {cuda:?}: {report}");
        assert!(is_seen || String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{planted} {cuda:?}");
    }
}
