//! What is over a limit is answered with its code, and nothing else suffers.

use std::time::Duration;

use gavel_protocol::{Code, Encoder, Header, Kind};

use crate::support::config;
use crate::support::raw::Raw;
use crate::support::traffic::{Case, Random, good, header, ping};
use crate::{each_backend, serve};

/// The good single-candidate requests among some.
fn small(models: &[std::sync::Arc<gavel::model::Model>]) -> Case {
    good(models, 1, &mut Random(1)).swap_remove(0)
}

/// Sends `count` small requests at once and counts the answers: scores, and those with `code`.
fn burst(client: &mut Raw, case: &Case, count: u64, code: Code) -> (u64, u64) {
    let bytes: Vec<u8> = (0..count).flat_map(|number| case.frame(100 + number)).collect();
    client.send(&bytes).unwrap();
    let mut seen = vec![false; count as usize];
    let (mut scores, mut refused) = (0, 0);
    for _ in 0..count {
        let frame = client.frame();
        let place = (frame.header.request_id - 100) as usize;
        assert!(!std::mem::replace(&mut seen[place], true), "answered twice");
        match frame.code() {
            None => scores += 1,
            Some(found) if found == code => refused += 1,
            Some(other) => panic!("{other}"),
        }
    }
    (scores, refused)
}

#[test]
fn requests_in_flight_are_bounded_per_connection_and_per_shard() {
    each_backend(|backend| {
        for (per_connection, per_shard, code) in [(4, 1000, Code::InFlightLimit), (1000, 4, Code::Overloaded)] {
            let mut config = config();
            config.limits.in_flight_per_connection = per_connection;
            config.limits.in_flight_per_shard = per_shard;
            let (server, models) = serve(backend, 1, config);
            let case = small(&models);
            let mut client = server.connect();
            let mut others = server.connect();
            for _ in 0..20 {
                let (scores, refused) = burst(&mut client, &case, 24, code);
                assert!(scores >= 4 && refused > 0, "{scores} answered, {refused} refused");
            }
            let (scores, _) = burst(&mut client, &case, 4, code);
            assert_eq!(scores, 4, "as many as are allowed");
            assert_eq!(burst(&mut others, &case, 1, code), (1, 0));
            server.end((client, others));
        }
    });
}

#[test]
fn what_is_too_large_is_named() {
    each_backend(|backend| {
        let mut config = config();
        config.limits.candidates_per_request = 10;
        config.limits.frame_bytes = 8192;
        let (server, models) = serve(backend, 1, config);
        let mut client = server.connect();
        assert_eq!(client.describe("dlrm").candidates_max, 10);
        let cases = good(&models[..1], 6, &mut Random(2));
        for (request_id, case) in (100..).zip(&cases) {
            let frame = case.frame(request_id);
            let (candidates, bytes) = (u32::from_le_bytes(*frame[32..].first_chunk().unwrap()), frame.len());
            client.send(&frame).unwrap();
            let answer = client.frame();
            let expected = match (bytes, candidates) {
                (8193.., _) => Some(Code::FrameTooLarge),
                (_, 11..) => Some(Code::CandidatesInvalid),
                _ => None,
            };
            assert_eq!(answer.code(), expected, "{candidates} candidates in {bytes} bytes");
            if expected == Some(Code::FrameTooLarge) {
                assert!(client.until_closed().0.is_empty(), "the last frame of its connection");
                client = server.connect();
            }
        }
        server.end(client);
    });
}

#[test]
fn an_id_in_flight_twice_ends_the_connection() {
    each_backend(|backend| {
        let (server, models) = serve(backend, 1, config());
        let case = small(&models);
        let (mut client, mut other) = (server.connect(), server.connect());
        client.send(&[case.frame(5), case.frame(5), case.frame(6)].concat()).unwrap();
        let (frames, _) = client.until_closed();
        let last = frames.last().expect("an answer");
        assert_eq!((last.header.request_id, last.code()), (5, Some(Code::BadRequest)));
        assert!(frames.len() <= 2, "at most the scores of the first came before");
        assert_eq!(burst(&mut other, &case, 1, Code::BadRequest), (1, 0));
        server.end((client, other));
    });
}

#[test]
fn framing_faults_end_the_connection_with_their_code() {
    each_backend(|backend| {
        let (server, models) = serve(backend, 1, config());
        let case = small(&models);
        let rank = header(&models[0], 1);
        let spoiled = |offset: usize, value: u8| {
            let mut bytes = rank.to_bytes().to_vec();
            bytes[offset] = value;
            bytes
        };
        let too_large = Header { body_len: u32::MAX, ..rank }.to_bytes().to_vec();
        let faults = [
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Code::BadMagic),
            (spoiled(4, 9), Code::VersionUnsupported),
            (spoiled(5, 0x77), Code::KindUnknown),
            (spoiled(5, Kind::Scores as u8), Code::KindUnknown),
            (spoiled(6, 1), Code::HeaderMalformed),
            (spoiled(47, 1), Code::HeaderMalformed),
            (too_large, Code::FrameTooLarge),
            (Encoder::new().hello(3, "again", None).to_vec(), Code::HelloRequired),
        ];
        let mut other = server.connect();
        for (bytes, code) in faults {
            let mut client = server.connect();
            client.send(&bytes).unwrap();
            let (frames, took) = client.until_closed();
            assert_eq!(frames.iter().map(|frame| frame.code()).collect::<Vec<_>>(), [Some(code)]);
            assert!(took < Duration::from_secs(10));
            assert_eq!(burst(&mut other, &case, 1, code), (1, 0), "the neighbour goes on");
        }
        // Nothing before a hello.
        let mut client = Raw::connect(&server.server.addresses()[0]).unwrap();
        client.send(&ping().frame(8)).unwrap();
        let (frames, _) = client.until_closed();
        assert_eq!((frames[0].header.request_id, frames[0].code()), (8, Some(Code::HelloRequired)));
        server.end((client, other));
    });
}

#[test]
fn a_full_server_refuses_connections_until_there_is_room() {
    each_backend(|backend| {
        let mut config = config();
        config.limits.connections_per_shard = 2;
        let (server, models) = serve(backend, 2, config);
        let case = small(&models);
        let mut clients: Vec<Raw> = (0..4).map(|_| server.connect()).collect();
        for _ in 0..5 {
            let mut refused = Raw::connect(&server.server.addresses()[0]).unwrap();
            let (frames, _) = refused.until_closed();
            assert_eq!(
                frames.iter().map(|frame| (frame.header.request_id, frame.code())).collect::<Vec<_>>(),
                [(0, Some(Code::ConnectionLimit))]
            );
        }
        for client in &mut clients {
            assert_eq!(burst(client, &case, 1, Code::Overloaded), (1, 0));
        }
        // Room again, once the server has noticed.
        drop(clients.pop());
        let mut successor = None;
        crate::until("room for a successor", || {
            let mut client = Raw::connect(&server.server.addresses()[0]).unwrap();
            let hello = client.encoder.hello(1, "test", None).to_vec();
            let _ = client.send(&hello);
            let served = client.recv().is_ok_and(|frame| frame.is_some_and(|frame| frame.header.kind == Kind::HelloAnswer));
            successor = served.then_some(client);
            served
        });
        assert_eq!(burst(successor.as_mut().unwrap(), &case, 1, Code::Overloaded), (1, 0));
        server.end((clients, successor));
    });
}
