//! What a request costs beside the engine: verifying its body, measuring and copying its rows into a slot, encoding the answer.
//!
//! Bytes per iteration are the request's (or the answer's), so that the throughput can be held against the machine's copy bandwidth.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gavel::batch::{Blocks, Layout, Request, Slot, SlotLimits, admit, measure};
use gavel::model::{LoadOptions, Model, load};
use gavel_protocol::{Encoder, HEADER_BYTES, Header, Kind, RankBody, RankView, ScoresBody};

/// Plain fixed ids, and bags of variable length with a context.
const MODELS: [&str; 2] = ["dlrm", "dlrm_multihot_scoped"];
const CANDIDATES: [usize; 3] = [1, 64, 512];

fn model(name: &str) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(name);
    load(&path, &LoadOptions::default(), &mut |_| {}).unwrap()
}

/// A whole rank frame of `count` candidates.
fn frame(model: &Model, count: usize) -> Vec<u8> {
    let rows: Vec<usize> = (0..count).map(|row| row % model.selftest.rows()).collect();
    let (context, candidates) = (model.selftest.inputs.encode_context(0), model.selftest.inputs.encode_candidates(&rows));
    let body = RankBody {
        context_dense: &context.dense,
        context_ids: &context.ids,
        context_lengths: &context.lengths,
        context_weights: &context.weights,
        dense: &candidates.dense,
        ids: &candidates.ids,
        lengths: &candidates.lengths,
        weights: &candidates.weights,
        ..RankBody::default()
    };
    let header = Header { signature: 1, candidates: count as u32, ..Header::new(Kind::Rank, 1) };
    Encoder::new().rank(&header, &body).to_vec()
}

fn request<'a>(view: &RankView<'a>, candidates: usize) -> Request<'a> {
    Request {
        context: Blocks { dense: view.context_dense, ids: view.context_ids, lengths: view.context_lengths, weights: view.context_weights },
        candidate: Blocks { dense: view.dense, ids: view.ids, lengths: view.lengths, weights: view.weights },
        candidates,
        mask: None,
        bids: None,
    }
}

fn requests(criterion: &mut Criterion) {
    for name in MODELS {
        let model = model(name);
        let layout = Arc::new(Layout::new(&model.features, model.graph.outputs.len()));
        let ids = layout.candidate.ids_max.max(layout.context.ids_max) * 512;
        let mut slot = Slot::new(Arc::clone(&layout), SlotLimits { contexts: 1, rows: 512, ids }).unwrap();
        for count in CANDIDATES {
            let frame = frame(&model, count);
            let body = &frame[HEADER_BYTES..];
            let mut group = criterion.benchmark_group("verify");
            group.throughput(Throughput::Bytes(frame.len() as u64));
            group.bench_function(BenchmarkId::new(name, count), |bencher| bencher.iter(|| RankView::parse(black_box(body)).unwrap()));
            group.finish();

            let view = RankView::parse(body).unwrap();
            let mut group = criterion.benchmark_group("admit and copy");
            group.throughput(Throughput::Bytes(frame.len() as u64));
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| {
                    let request = request(black_box(&view), count);
                    slot.clear();
                    let need = measure(&layout, &request).unwrap();
                    let counts = admit(&layout, &request, slot.reserve(need).unwrap()).unwrap();
                    slot.commit(0, counts)
                });
            });
            group.finish();
        }
    }
}

fn replies(criterion: &mut Criterion) {
    let mut encoder = Encoder::with_capacity(1 << 16);
    let mut group = criterion.benchmark_group("reply");
    for count in CANDIDATES {
        let scores: Vec<f32> = (0..count).map(|row| row as f32).collect();
        let body = ScoresBody {
            model_version: 1,
            outputs: 1,
            scores: &scores,
            status: None,
            winners: None,
            context_status: 0,
            queue_us: 10,
            compute_us: 20,
            total_us: 30,
        };
        group.throughput(Throughput::Bytes(count as u64 * 4));
        group.bench_function(BenchmarkId::new("scores", count), |bencher| bencher.iter(|| encoder.scores(1, 1, black_box(&body)).len()));
    }
    group.finish();
}

criterion_group!(benches, requests, replies);
criterion_main!(benches);
