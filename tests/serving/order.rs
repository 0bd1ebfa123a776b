//! Pipelined requests: answers in any order, each exactly once; cancels; budgets; a client that sends no more.

use std::collections::HashMap;

use gavel_protocol::{Code, Header, Kind, ScoresView};

use crate::support::Packed;
use crate::support::config;
use crate::support::raw::Raw;
use crate::support::traffic::{Case, Random, good, header, ping};
use crate::{each_backend, serve};

/// A rank request for so many candidates, whatever they are.
fn large(model: &gavel::model::Model, candidates: usize, request_id: u64, budget_us: u32) -> Vec<u8> {
    let rows: Vec<usize> = (0..candidates).map(|row| row % model.selftest.rows()).collect();
    let packed = Packed::new(&model.selftest.inputs, 0, &rows);
    let header = Header { request_id, budget_us, ..header(model, candidates) };
    gavel_protocol::Encoder::new().rank(&header, &packed.body()).to_vec()
}

#[test]
fn a_short_answer_overtakes_a_long_one() {
    each_backend(|backend| {
        let (server, models) = serve(backend, 1, config());
        let mut client = server.connect();
        for round in 0..20 {
            let [first, second] = [10 + 2 * round, 11 + 2 * round];
            let mut bytes = large(&models[0], 4096, first, 0);
            bytes.extend(ping().frame(second));
            client.send(&bytes).unwrap();
            let order = [client.frame(), client.frame()].map(|frame| (frame.header.request_id, frame.header.kind));
            assert_eq!(order, [(second, Kind::Pong), (first, Kind::Scores)], "a ping does not wait for an engine");
        }
        server.end(client);
    });
}

#[test]
fn pipelined_requests_are_answered_once_each() {
    each_backend(|backend| {
        let (server, models) = serve(backend, 2, config());
        let cases = good(&models, 60, &mut Random(3));
        // The rest of a half-closed conversation is answered too.
        for half_closes in [false, true] {
            let mut client = server.connect();
            let mut waiting: HashMap<u64, &Case> = HashMap::new();
            let mut bytes = Vec::new();
            for (request_id, case) in (100..).zip(&cases) {
                bytes.extend(case.frame(request_id));
                waiting.insert(request_id, case);
            }
            let mut writer = client.socket.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(move || std::io::Write::write_all(&mut writer, &bytes).unwrap());
                while waiting.len() > 20 {
                    let frame = client.frame();
                    waiting.remove(&frame.header.request_id).expect("answered once").judge(&frame, false);
                }
            });
            if half_closes {
                client.finish();
            }
            while !waiting.is_empty() {
                let frame = client.frame();
                waiting.remove(&frame.header.request_id).expect("answered once").judge(&frame, false);
            }
            if half_closes {
                assert!(client.recv().unwrap().is_none(), "then the server closes");
            } else {
                the_next_answer_is_a_pong(&mut client);
            }
        }
        server.end(());
    });
}

fn the_next_answer_is_a_pong(client: &mut Raw) {
    client.send(&ping().frame(9_999_999)).unwrap();
    assert_eq!(client.frame().header.request_id, 9_999_999, "nothing was left over");
}

#[test]
fn a_cancel_yields_one_answer() {
    each_backend(|backend| {
        let (server, models) = serve(backend, 1, config());
        let mut client = server.connect();
        let mut cancelled = 0;
        for round in 0..50 {
            // What is cancelled waits, computes, or is done, as it comes.
            let size = [1, 700, 4096][round % 3];
            let mut bytes = large(&models[1], size, 1, 0);
            bytes.extend(large(&models[0], size, 2, 0));
            bytes.extend_from_slice(client.encoder.cancel(2));
            bytes.extend_from_slice(client.encoder.cancel(2));
            bytes.extend_from_slice(client.encoder.cancel(77));
            client.send(&bytes).unwrap();
            let mut answers = HashMap::new();
            for _ in 0..2 {
                let frame = client.frame();
                assert!(answers.insert(frame.header.request_id, frame.code()).is_none(), "one answer each");
            }
            assert_eq!(answers[&1], None, "the neighbour has its scores");
            match answers[&2] {
                None => {}
                Some(Code::Cancelled) => cancelled += 1,
                Some(other) => panic!("{other} after a cancel"),
            }
            the_next_answer_is_a_pong(&mut client);
        }
        println!("{backend}: {cancelled} of 50 cancels came in time");
        assert!(cancelled > 0);
        let outcomes = &server.registry.snapshot();
        let counted: u64 = outcomes.models.iter().map(|(_, totals)| totals.outcome(Code::Cancelled.into())).sum();
        assert_eq!(counted, cancelled);
        server.end(client);
    });
}

#[test]
fn a_late_answer_is_an_error() {
    each_backend(|backend| {
        let (server, models) = serve(backend, 1, config());
        let mut client = server.connect();
        let mut late = 0;
        for round in 0..60u64 {
            let budget_us = [1, 50, 400, 1_000_000][round as usize % 4];
            let mut bytes = large(&models[0], 2048, 1, 0);
            bytes.extend(large(&models[1], 64, 2, budget_us));
            client.send(&bytes).unwrap();
            for _ in 0..2 {
                let frame = client.frame();
                match (frame.header.request_id, frame.code()) {
                    (_, None) => {
                        let answer = ScoresView::parse(&frame.body).unwrap();
                        assert!(frame.header.request_id == 1 || answer.total_us <= budget_us, "late and yet answered");
                    }
                    (2, Some(Code::DeadlineExceeded | Code::Overloaded)) => late += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        println!("{backend}: {late} of 60 were late");
        assert!(late >= 15, "a budget of 1 µs cannot be met");
        server.end(client);
    });
}
