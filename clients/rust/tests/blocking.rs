//! The blocking client against a server that misbehaves in every way.

mod fake;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fake::{Blocks, Peer, Server, description};
use gavel_client::blocking::{Client, Connection};
use gavel_client::{Call, Code, Error, Layout, Options, Request, RequestBuilder, Scores};
use gavel_protocol::{Kind, RankView};

fn options() -> Options {
    Options { connect_timeout: Duration::from_secs(5), backoff_max: Duration::from_millis(50), ..Options::default() }
}

fn connect(server: &Server) -> Connection {
    Connection::connect(&server.address, &options()).expect("the fake listens")
}

#[test]
fn describe_build_rank() {
    let path = std::env::temp_dir().join(format!("gavel-client-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    for server in [Server::start(|_, peer| peer.behave()), Server::start_unix(&path, |_, peer| peer.behave())] {
        let client = Client::connect(std::slice::from_ref(&server.address), options()).expect("the fake listens");
        let layout = client.describe("ctr").expect("a model");
        assert_eq!(*layout.description(), description());
        assert!(Arc::ptr_eq(&layout, &client.describe("ctr").expect("a model")));
        assert_eq!(client.describe("other").expect_err("no model").code(), Some(Code::ModelUnknown));

        let mut builder = RequestBuilder::new(&layout);
        builder.context().id("user", 1).expect("good");
        for (ad, price) in [(1, 0.25), (2, 0.75), (3, 0.5)] {
            builder.add_candidate().and_then(|mut row| row.id("ad", ad)?.dense("price", price).map(drop)).expect("good");
        }
        let scores = client.rank(&builder.finish().expect("good"), &Call::default()).expect("scores");
        assert_eq!((scores.scores(), scores.winners(), scores.rows(), scores.outputs()), (&[0.25, 0.75, 0.5][..], None, 3, 1));
        builder.top_k(2);
        let scores = client.rank(&builder.finish().expect("good"), &Call::within(Duration::from_secs(9))).expect("scores");
        assert_eq!((scores.scores(), scores.winners()), (&[0.75, 0.5][..], Some(&[1, 2][..])));
        assert_eq!((scores.row(1), scores.status(1), scores.timings.total_us, scores.model_version), (&[0.5][..], 0, 3, 3));
        assert_eq!(server.accepted(), 1);
    }
    let _ = std::fs::remove_file(&path);
}

#[test]
fn answers_in_any_order() {
    let server = Server::start(|_, peer| {
        peer.hello();
        let mut held = Vec::new();
        while let Some(frame) = peer.next() {
            held.push(frame);
            if held.len() == 10 {
                // Two in the middle first, then back to front.
                held.swap(9, 4);
                while let Some((header, body)) = held.pop() {
                    peer.answer(&header, &body);
                }
            }
        }
    });
    let layout = Layout::new(description());
    let mut connection = connect(&server);
    let mut scores = Scores::default();
    let mut expected = std::collections::HashMap::new();
    for _round in 0..3 {
        for number in 0..10 {
            let blocks = Blocks::new(&vec![number as f32; number + 1]);
            let request = Request::from_blocks(&layout, number as u32 + 1, blocks.body()).expect("good");
            let id = connection.send(&request, &Call::default()).expect("room");
            assert!(expected.insert(id, number).is_none(), "an id in flight is not given again");
        }
        for _ in 0..10 {
            let (id, result) = connection.recv(&mut scores, None).expect("an answer");
            result.expect("scores");
            let number = expected.remove(&id).expect("an id that was sent");
            assert_eq!(scores.scores(), vec![number as f32; number + 1]);
        }
    }
    assert_eq!(connection.in_flight(), 0);
    assert!(matches!(connection.recv(&mut scores, None), Err(Error::Closed { .. })));
}

#[test]
fn the_server_limit_is_kept() {
    let server = Server::start(Peer::behave_numbered);
    let layout = Layout::new(description());
    let blocks = Blocks::new(&[1.0]);
    let request = Request::from_blocks(&layout, 1, blocks.body()).expect("good");
    let mut connection = connect(&server);
    for _ in 0..fake::IN_FLIGHT_MAX {
        connection.send(&request, &Call::default()).expect("room");
    }
    assert!(matches!(connection.send(&request, &Call::default()), Err(Error::Saturated { in_flight: 16 })));
    connection.recv(&mut Scores::default(), None).expect("an answer").1.expect("scores");
    connection.send(&request, &Call::default()).expect("room again");

    let large = Blocks::new(&[0.0; 64]);
    let layout = Layout::new(gavel_client::Description { candidates_max: 1 << 20, ids_max: u32::MAX, ..description() });
    let many = Blocks::new(&vec![0.0; 10_000]);
    let request = Request::from_blocks(&layout, 10_000, many.body()).expect("good");
    let error = connection.rank(&request, &Call::default(), &mut Scores::default()).expect_err("64 KiB at most");
    assert!(matches!(error, Error::TooLarge { bytes_max: 65_536, .. }), "{error}");
    let request = Request::from_blocks(&layout, 64, large.body()).expect("good");
    connection.rank(&request, &Call::default(), &mut Scores::default()).expect("scores");
}

impl Peer {
    fn behave_numbered(_: usize, peer: &mut Peer) {
        peer.behave();
    }
}

#[test]
fn budgets_and_deadlines() {
    let (seen, headers) = mpsc::channel();
    let server = Server::start(move |_, peer| {
        peer.hello();
        let mut ranks = 0;
        while let Some((header, body)) = peer.next() {
            seen.send(header).expect("the test listens");
            match header.kind {
                Kind::Rank => {
                    ranks += 1;
                    // The first is never answered in time.
                    if ranks > 1 {
                        peer.answer(&header, &body);
                    }
                }
                Kind::Cancel => peer.error(header.request_id, Code::Cancelled, 0),
                _ => {}
            }
        }
    });
    let layout = Layout::new(description());
    let blocks = Blocks::new(&[4.0]);
    let request = Request::from_blocks(&layout, 1, blocks.body()).expect("good");
    let mut connection = connect(&server);
    let mut scores = Scores::default();
    let began = Instant::now();
    let call = Call { priority: 9, ..Call::within(Duration::from_millis(60)) };
    assert!(matches!(connection.rank(&request, &call, &mut scores), Err(Error::Deadline)));
    assert!(began.elapsed() >= Duration::from_millis(60));
    let header = headers.recv().expect("the rank");
    assert!(header.priority == 9 && (30_000..=60_000).contains(&header.budget_us), "{header:?}");
    let cancel = headers.recv().expect("the cancel");
    assert_eq!((cancel.kind, cancel.request_id), (Kind::Cancel, header.request_id));
    // The connection goes on; the late answer finds nobody.
    connection.rank(&request, &Call::default(), &mut scores).expect("scores");
    assert_eq!((scores.scores(), headers.recv().expect("the rank").budget_us), (&[4.0][..], 0));
    assert_eq!(connection.in_flight(), 0);
    let past = Call::until(Instant::now());
    assert!(matches!(connection.rank(&request, &past, &mut scores), Err(Error::Deadline)));
}

#[test]
fn refusals_are_typed() {
    let server = Server::start(|number, peer| {
        peer.hello();
        let Some((header, _)) = peer.next() else { return };
        match number {
            0 => peer.error(header.request_id, Code::SignatureUnknown, 0),
            1 => peer.error(header.request_id, Code::Overloaded, 1500),
            _ => {
                let mut frame = peer.encoder.error(header.request_id, Code::Internal, "new", 0).to_vec();
                let code = frame.windows(2).rposition(|w| w == (Code::Internal as u16).to_le_bytes()).expect("the code");
                frame[code..code + 2].copy_from_slice(&999_u16.to_le_bytes());
                peer.write(&frame);
            }
        }
        peer.next();
    });
    let layout = Layout::new(description());
    let blocks = Blocks::new(&[4.0]);
    let request = Request::from_blocks(&layout, 1, blocks.body()).expect("good");
    let ask = || connect(&server).rank(&request, &Call::default(), &mut Scores::default()).expect_err("refused");
    let error = ask();
    assert!(error.is_layout_unknown() && !error.may_retry(), "{error}");
    let error = ask();
    assert!(error.may_retry());
    assert!(
        matches!(&error, Error::Refused { code: Code::Overloaded, retry_after: Some(after), message } if after.as_micros() == 1500 && message == "said the fake"),
        "{error}"
    );
    let error = ask();
    assert!(matches!(error, Error::RefusedUnknown { number: 999, .. }), "{error}");
}

#[test]
fn a_broken_server_is_an_error_and_nothing_worse() {
    type Script = fn(&mut Peer);
    let scripts: [(&str, Script); 11] = [
        ("closes at once", |_| {}),
        ("garbage for a hello", |peer| peer.write(&[0xa5; 200])),
        ("an error for a hello", |peer| {
            let id = peer.next().map_or(0, |(header, _)| header.request_id);
            peer.error(id, Code::Unauthorized, 0);
        }),
        ("a connection limit before any frame", |peer| peer.error(0, Code::ConnectionLimit, 0)),
        ("garbage for scores", |peer| {
            peer.hello();
            peer.next();
            peer.write(&[0; 48]);
        }),
        ("an answer to nothing", |peer| {
            peer.hello();
            peer.next();
            let frame = peer.encoder.pong(123 << 32, &[]).to_vec();
            peer.write(&frame);
        }),
        ("another kind of answer", |peer| {
            peer.hello();
            let (header, _) = peer.next().expect("a rank");
            let frame = peer.encoder.pong(header.request_id, &[]).to_vec();
            peer.write(&frame);
        }),
        ("rows too few", |peer| {
            peer.hello();
            let (header, _) = peer.next().expect("a rank");
            let blocks = Blocks::new(&[1.0]);
            let frame = peer.encoder.rank(&header, &blocks.body()).to_vec();
            peer.scores(&gavel_protocol::Header { candidates: 1, ..header }, &frame[48..]);
        }),
        ("half an answer", |peer| {
            peer.hello();
            let (header, _) = peer.next().expect("a rank");
            let frame = peer.encoder.error(header.request_id, Code::Internal, "", 0).to_vec();
            peer.write(&frame[..frame.len() - 1]);
        }),
        ("two answers", |peer| {
            peer.hello();
            let (header, body) = peer.next().expect("a rank");
            peer.answer(&header, &body);
            peer.answer(&header, &body);
        }),
        ("a frame that only clients send", |peer| {
            peer.hello();
            peer.next();
            let frame = peer.encoder.cancel(1).to_vec();
            peer.write(&frame);
        }),
    ];
    let layout = Layout::new(description());
    let blocks = Blocks::new(&[4.0, 5.0]);
    let request = Request::from_blocks(&layout, 2, blocks.body()).expect("good");
    for (case, script) in scripts {
        let server = Server::start(move |_, peer| script(peer));
        let call = Call::within(Duration::from_secs(5));
        let attempt = || -> Result<(), Error> {
            let mut connection = Connection::connect(&server.address, &options())?;
            connection.rank(&request, &call, &mut Scores::default())?;
            connection.rank(&request, &call, &mut Scores::default())
        };
        let error = attempt().expect_err(case);
        assert!(!matches!(error, Error::Deadline), "{case}: {error}");
    }
}

#[test]
fn an_idle_connection_that_was_closed_is_replaced() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let server = Server::start(move |_, peer| {
        // One request per connection, then it is closed.
        peer.hello();
        if let Some((header, body)) = peer.next() {
            count.fetch_add(1, Ordering::SeqCst);
            peer.answer(&header, &body);
        }
    });
    let client = Client::connect(std::slice::from_ref(&server.address), options()).expect("the fake listens");
    let layout = Layout::new(description());
    let blocks = Blocks::new(&[4.0]);
    let request = Request::from_blocks(&layout, 1, blocks.body()).expect("good");
    for _ in 0..5 {
        client.rank(&request, &Call::default()).expect("scores");
    }
    assert_eq!(served.load(Ordering::SeqCst), 5);
}

#[test]
fn a_draining_server_is_left() {
    let leaving = Server::start(|_, peer| {
        peer.hello();
        while let Some((header, _)) = peer.next() {
            if header.kind == Kind::Rank {
                peer.drain();
                peer.error(header.request_id, Code::Draining, 0);
            }
        }
    });
    let staying = Server::start(|_, peer| peer.behave());
    let client = Client::connect(&[leaving.address.clone(), staying.address.clone()], options()).expect("both listen");
    let layout = Layout::new(description());
    let blocks = Blocks::new(&[4.0]);
    let request = Request::from_blocks(&layout, 1, blocks.body()).expect("good");
    for _ in 0..4 {
        client.rank(&request, &Call::default()).expect("the other one answers");
    }
}

#[test]
fn nobody_listens() {
    let began = Instant::now();
    let options = Options { connect_timeout: Duration::from_millis(200), ..options() };
    let error = Client::connect(&[fake::nobody()], options).expect_err("nobody there");
    assert!(matches!(&error, Error::Unavailable { last, .. } if last.contains("refused")), "{error}");
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(matches!(Client::connect(&[], Options::default()), Err(Error::Unavailable { .. })));
}

#[test]
fn threads_share_a_client() {
    let server = Server::start(|_, peer| peer.behave());
    let client = Client::connect(std::slice::from_ref(&server.address), Options { connections: 3, ..options() }).expect("the fake listens");
    let layout = Layout::new(description());
    thread::scope(|scope| {
        for thread in 0..8 {
            let (client, layout) = (&client, &layout);
            scope.spawn(move || {
                let mut scores = Scores::default();
                for number in 0..50 {
                    let price = (thread * 1000 + number) as f32;
                    let blocks = Blocks::new(&[price]);
                    let request = Request::from_blocks(layout, 1, blocks.body()).expect("good");
                    client.rank_into(&request, &Call::default(), &mut scores).expect("scores");
                    assert_eq!(scores.scores(), [price]);
                }
            });
        }
    });
    assert!(server.accepted() <= 3);
}

#[test]
fn neither_side_waits_for_the_other_for_ever() {
    // The fake reads nothing until the client has written far more than sockets hold, answering as it goes.
    let server = Server::start(|_, peer| {
        peer.hello_with(100_000, 0);
        let mut answers = 0;
        while let Some((header, body)) = peer.next() {
            RankView::parse(&body).expect("a rank");
            peer.answer(&header, &body);
            answers += 1;
            if answers == 20_000 {
                return;
            }
        }
    });
    let layout = Layout::new(description());
    let blocks = Blocks::new(&[4.0; 64]);
    let request = Request::from_blocks(&layout, 64, blocks.body()).expect("good");
    let mut connection = connect(&server);
    for _ in 0..20_000 {
        connection.send(&request, &Call::default()).expect("room");
    }
    let mut scores = Scores::default();
    for _ in 0..20_000 {
        connection.recv(&mut scores, Some(Instant::now() + Duration::from_secs(20))).expect("an answer").1.expect("scores");
    }
}
