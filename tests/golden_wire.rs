//! Every golden bundle through real sockets, on both wires: requests of 1, 7, 64 and all rows, mixed over several pipelined connections.
//!
//! Judges: for bundles without a context, and at one candidate a request, the recorded float64 outputs; otherwise the float64 interpreter on the
//! rows that a request expands to (golden rows rarely share a context).
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::sync::Arc;

use gavel::engine::EngineKind;
use gavel::model::{Model, Scope};
use gavel::reference;
use gavel_client::blocking::Connection;
use gavel_client::{Call, Layout, Options, Scores};
use support::{BACKENDS, Packed, config, expand, models, start, usable};

const CONNECTIONS: usize = 3;
const IN_FLIGHT: usize = 6;

/// A request: a context row, candidate rows, and the scores [candidate][output] that it must get.
struct Case {
    model: usize,
    context: usize,
    candidates: Vec<usize>,
    expected: Vec<Vec<f64>>,
}

/// Requests of the sizes that the test names, over all rows of a model.
fn cases(index: usize, model: &Model) -> Vec<Case> {
    let rows = model.selftest.rows();
    let scoped = model.features.iter().any(|feature| feature.scope == Scope::Context);
    let recorded = |row: usize| model.selftest.expected.iter().map(|output| output[row]).collect::<Vec<f64>>();
    let mut cases = Vec::new();
    for size in [1, 7, 64, rows] {
        for (number, start) in (0..rows).step_by(size).enumerate() {
            let candidates: Vec<usize> = (start..rows.min(start + size)).collect();
            // At one candidate a request, row and context are the same golden row.
            let context = candidates[number % candidates.len()];
            let expected = if !scoped || size == 1 {
                candidates.iter().map(|row| recorded(*row)).collect()
            } else {
                reference::score_rows(model, &expand(model, &model.selftest.inputs, context, &candidates)).unwrap()
            };
            cases.push(Case { model: index, context, candidates, expected });
        }
    }
    cases
}

#[test]
fn golden_bundles_through_sockets() {
    let models = models(|_| true);
    assert!(models.len() >= 17);
    let mut all: Vec<Case> = models.iter().enumerate().flat_map(|(index, model)| cases(index, model)).collect();
    // Mixed: large and small requests, of all models, side by side.
    let order = |case: &Case| (case.context * 7919 + case.candidates.len() * 104_729 + case.model * 31) % 4099;
    all.sort_by_key(order);
    for backend in BACKENDS {
        if !usable(backend) {
            continue;
        }
        let server = start(backend, EngineKind::Cpu, 2, config(), &models);
        let mut worst = 0f64;
        let mut rows = 0;
        std::thread::scope(|scope| {
            let address = &server.address;
            let (all, models) = (&all, &models);
            let clients: Vec<_> = (0..CONNECTIONS)
                .map(|client| {
                    scope.spawn(move || {
                        let connection = Connection::connect(address, &Options::default()).unwrap();
                        talk(connection, models, all.iter().skip(client).step_by(CONNECTIONS))
                    })
                })
                .collect();
            for client in clients {
                let (most, count) = client.join().unwrap();
                worst = worst.max(most);
                rows += count;
            }
        });
        println!("{backend}: {} requests, {rows} rows, largest difference {worst:.1e}", all.len());
        assert!(server.server.drain(), "drained in time");
    }
}

/// Sends the cases pipelined and judges every answer. Gives the largest difference and the number of rows.
fn talk<'a>(mut connection: Connection, models: &[Arc<Model>], cases: impl Iterator<Item = &'a Case>) -> (f64, usize) {
    let layouts: Vec<Arc<Layout>> = models.iter().map(|model| connection.describe(&model.name, None).unwrap()).collect();
    let mut waiting: HashMap<u64, &Case> = HashMap::new();
    let mut scores = Scores::default();
    let (mut worst, mut rows) = (0f64, 0);
    let mut cases = cases.peekable();
    while cases.peek().is_some() || !waiting.is_empty() {
        while waiting.len() < IN_FLIGHT
            && let Some(case) = cases.next()
        {
            let packed = Packed::new(&models[case.model].selftest.inputs, case.context, &case.candidates);
            let id = connection.send(&packed.request(&layouts[case.model]), &Call::default()).unwrap();
            waiting.insert(id, case);
        }
        let (id, answer) = connection.recv(&mut scores, None).unwrap();
        answer.unwrap();
        let case = waiting.remove(&id).expect("answered once");
        let model = &models[case.model];
        assert_eq!(scores.rows(), case.candidates.len());
        for (row, expected) in case.expected.iter().enumerate() {
            for (output, expected) in expected.iter().enumerate() {
                let found = f64::from(scores.row(row)[output]);
                assert!(
                    model.selftest.tolerance.accepts(found, *expected),
                    "{}: output {output} of candidate {row} of {}: {found} instead of {expected}",
                    model.name,
                    case.candidates.len()
                );
                worst = worst.max((found - expected).abs());
            }
        }
        rows += case.candidates.len();
    }
    (worst, rows)
}
