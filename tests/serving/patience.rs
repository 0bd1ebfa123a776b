//! Clients that keep the server waiting are waited for, but not for ever; their neighbours notice nothing.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use gavel_protocol::{Code, Kind};

use crate::support::config;
use crate::support::raw::{PATIENCE, Raw};
use crate::support::traffic::{Case, Random, good, ping};
use crate::{each_backend, serve, until};

/// Sends describes, whose answers are many times their size, until the server reads no more, or has had enough. Gives how many were sent, the one
/// that is cut included: its rest goes out as soon as there is room.
fn flood(client: &Raw, describe: &[u8]) -> usize {
    client.socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let many = describe.repeat(1000);
    let mut sent_bytes = 0;
    loop {
        match (&client.socket).write(&many[sent_bytes % describe.len()..]) {
            Ok(bytes) => sent_bytes += bytes,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return sent_bytes / describe.len(),
            Err(error) => panic!("{error}"),
        }
        assert!(sent_bytes < 64 << 20, "the server reads on although nobody takes its answers");
    }
    client.socket.set_write_timeout(Some(PATIENCE)).unwrap();
    let rest = describe[sent_bytes % describe.len()..].to_vec();
    if rest.len() < describe.len() {
        let mut socket = client.socket.try_clone().unwrap();
        std::thread::spawn(move || {
            let _ = socket.write_all(&rest);
        });
    }
    sent_bytes.div_ceil(describe.len())
}

#[test]
fn a_slow_reader_is_held_and_loses_nothing() {
    each_backend(|backend| {
        let mut config = config();
        config.limits.send_bytes = 64 << 10;
        config.timeouts.send_ms = 60_000;
        let (server, models) = serve(backend, 1, config);
        let case = good(&models, 1, &mut Random(1)).swap_remove(0);
        let mut slow = server.connect();
        let mut other = server.connect();
        let describe = slow.encoder.describe(7, "dlrm").to_vec();
        let sent = flood(&slow, &describe);
        ranks(&mut other, &case);
        let mut answers = 0;
        while answers < sent {
            let frame = slow.frame();
            assert_eq!((frame.header.kind, frame.header.request_id), (Kind::Description, 7));
            answers += 1;
        }
        println!("{backend}: {sent} descriptions were held up and came");
        slow.send(&ping().frame(8)).unwrap();
        assert_eq!(slow.frame().header.kind, Kind::Pong, "each was answered once");
        server.end((slow, other));
    });
}

#[test]
fn a_client_that_never_reads_is_disconnected() {
    each_backend(|backend| {
        let mut config = config();
        config.limits.send_bytes = 64 << 10;
        config.timeouts.send_ms = 700;
        let (server, models) = serve(backend, 1, config);
        let case = good(&models, 1, &mut Random(1)).swap_remove(0);
        let mut other = server.connect();
        let mut silent = server.connect();
        let describe = silent.encoder.describe(7, "dlrm").to_vec();
        flood(&silent, &describe);
        until("the silent client is disconnected", || {
            ranks(&mut other, &case);
            server.registry.snapshot().shards[0].connections == 1
        });
        server.end((silent, other));
    });
}

fn ranks(client: &mut Raw, case: &Case) {
    client.send(&case.frame(100)).unwrap();
    case.judge(&client.frame(), false);
}

#[test]
fn timeouts() {
    each_backend(|backend| {
        let mut config = config();
        config.timeouts.hello_ms = 400;
        config.timeouts.idle_ms = 2_000;
        config.timeouts.receive_ms = 400;
        let (server, models) = serve(backend, 2, config);
        let address = &server.server.addresses()[0];
        let case = good(&models, 6, &mut Random(1)).swap_remove(5);
        let frame = case.frame(100);
        let hello = gavel_protocol::Encoder::new().hello(1, "test", None).to_vec();
        type Prepare<'a> = &'a (dyn Fn() -> Raw + Sync);
        let fresh = || Raw::connect(address).unwrap();
        let half_a_hello = || {
            let mut client = fresh();
            client.send(&hello[..30]).unwrap();
            client
        };
        let idle = || Raw::open(address);
        let used = || {
            let mut client = Raw::open(address);
            ranks(&mut client, &case);
            client
        };
        let half_a_header = || {
            let mut client = Raw::open(address);
            client.send(&frame[..17]).unwrap();
            client
        };
        let half_a_body = || {
            let mut client = Raw::open(address);
            client.send(&frame[..frame.len() - 1]).unwrap();
            client
        };
        let silences: [(&str, Prepare<'_>, u64); 6] = [
            ("no hello", &fresh, 400),
            ("half a hello", &half_a_hello, 400),
            ("nothing after the hello", &idle, 2_000),
            ("nothing after a request", &used, 2_000),
            ("half a header", &half_a_header, 400),
            ("half a body", &half_a_body, 400),
        ];
        std::thread::scope(|scope| {
            for (name, prepare, limit_ms) in silences {
                scope.spawn(move || {
                    let began = Instant::now();
                    let (frames, _) = prepare().until_closed();
                    let took = began.elapsed();
                    assert!(frames.is_empty(), "{name}: {frames:?}");
                    assert!(took >= Duration::from_millis(limit_ms * 9 / 10), "{name}: closed after {took:?} already");
                });
            }
            // A ping now and then keeps a connection.
            scope.spawn(move || {
                let mut client = Raw::open(address);
                for _ in 0..12 {
                    std::thread::sleep(Duration::from_millis(250));
                    client.send(&ping().frame(1)).unwrap();
                    client.frame();
                }
            });
        });
        server.end(());
    });
}

/// A frame that drips in byte by byte is taken as long as it takes less than `receive_ms`.
#[test]
fn a_dripping_client_is_served() {
    each_backend(|backend| {
        let mut config = config();
        config.timeouts.receive_ms = 60_000;
        let (server, models) = serve(backend, 1, config);
        // Of all sizes: below and above what one receive takes.
        let cases = good(&models, 6, &mut Random(5));
        let mut client = Raw::connect(&server.server.addresses()[0]).unwrap();
        for byte in client.encoder.hello(1, "test", None).to_vec() {
            client.send(&[byte]).unwrap();
        }
        assert_eq!(client.frame().header.kind, Kind::HelloAnswer);
        for (request_id, case) in (100..).zip(&cases) {
            let frame = case.frame(request_id);
            for drop in frame.chunks(1 + frame.len() / 90) {
                client.send(drop).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
            case.judge(&client.frame(), false);
        }
        client.send(b"x").unwrap();
        assert_eq!(client.frame().code(), Some(Code::BadMagic), "told at the first byte");
        server.end(client);
    });
}
