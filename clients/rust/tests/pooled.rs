//! The async client against a server that misbehaves in every way.

mod fake;

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use fake::{Blocks, Server, description};
use gavel_client::{Call, Client, Code, Error, Layout, Options, Request, RequestBuilder, Scores};
use gavel_protocol::Kind;

fn options() -> Options {
    Options { connect_timeout: Duration::from_secs(5), backoff_max: Duration::from_millis(50), ..Options::default() }
}

async fn connect(server: &Server, connections: usize) -> Client {
    Client::connect(std::slice::from_ref(&server.address), Options { connections, ..options() }).await.expect("the fake listens")
}

#[tokio::test]
async fn describe_build_rank() {
    let path = std::env::temp_dir().join(format!("gavel-client-async-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    for server in [Server::start(|_, peer| peer.behave()), Server::start_unix(&path, |_, peer| peer.behave())] {
        let client = connect(&server, 1).await;
        let layout = client.describe("ctr").await.expect("a model");
        assert_eq!(*layout.description(), description());
        assert!(Arc::ptr_eq(&layout, &client.describe("ctr").await.expect("a model")));
        assert_eq!(client.describe("other").await.expect_err("no model").code(), Some(Code::ModelUnknown));
        let mut builder = RequestBuilder::new(&layout);
        builder.context().id("user", 1).expect("good");
        for (ad, price) in [(1, 0.25), (2, 0.75)] {
            builder.add_candidate().and_then(|mut row| row.id("ad", ad)?.dense("price", price).map(drop)).expect("good");
        }
        builder.top_k(1);
        let scores = client.rank(&builder.finish().expect("good"), &Call::within(Duration::from_secs(5))).await.expect("scores");
        assert_eq!((scores.scores(), scores.winners()), (&[0.75][..], Some(&[1][..])));
    }
    let _ = std::fs::remove_file(&path);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_share_few_connections_and_answers_come_in_any_order() {
    let server = Server::start(|_, peer| {
        peer.hello();
        let mut held = Vec::new();
        while let Some(frame) = peer.next() {
            held.push(frame);
            if held.len() == 4 {
                while let Some((header, body)) = held.pop() {
                    peer.answer(&header, &body);
                }
            }
        }
    });
    let client = connect(&server, 2).await;
    let layout = Layout::new(description());
    // More than two connections with 16 in flight each can hold, and a multiple of what the fake holds back.
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..400 {
        let (client, layout) = (client.clone(), Arc::clone(&layout));
        tasks.spawn(async move {
            let prices = vec![number as f32; number % 5 + 1];
            let blocks = Blocks::new(&prices);
            let request = Request::from_blocks(&layout, prices.len() as u32, blocks.body()).expect("good");
            let mut scores = Scores::default();
            // The fake holds the last few of a connection back for ever.
            let call = Call::within(Duration::from_secs(3));
            match client.rank_into(&request, &call, &mut scores).await {
                Ok(()) => assert_eq!(scores.scores(), prices),
                Err(error) => return matches!(error, Error::Deadline),
            }
            true
        });
    }
    let mut late = 0;
    while let Some(result) = tasks.join_next().await {
        late += usize::from(!result.expect("no panic"));
    }
    assert!(late <= 6, "{late} of 400 were late, at most three per connection are held back");
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn dropping_a_call_cancels_its_request() {
    let (seen, frames) = mpsc::channel();
    let server = Server::start(move |_, peer| {
        peer.hello();
        while let Some((header, body)) = peer.next() {
            seen.send(header).expect("the test listens");
            match header.kind {
                Kind::Cancel => peer.error(header.request_id, Code::Cancelled, 0),
                Kind::Rank if header.priority == 0 => {}
                _ => peer.answer(&header, &body),
            }
        }
    });
    let client = connect(&server, 1).await;
    let layout = Layout::new(description());
    let blocks = Blocks::new(&[4.0]);
    let request = Request::from_blocks(&layout, 1, blocks.body()).expect("good");
    let next = || frames.recv_timeout(Duration::from_secs(5)).expect("a frame");

    // A deadline of the caller's own.
    let error = client.rank(&request, &Call::within(Duration::from_millis(40))).await.expect_err("never answered");
    assert!(matches!(error, Error::Deadline));
    let rank = next();
    assert!(rank.budget_us > 10_000 && rank.budget_us <= 40_000);
    tokio::task::yield_now().await;
    assert_eq!((next().kind, rank.kind), (Kind::Cancel, Kind::Rank));

    // A future that is dropped before it is done.
    {
        let call = Call::default();
        let pending = client.rank(&request, &call);
        tokio::pin!(pending);
        tokio::select! {
            _ = &mut pending => panic!("never answered"),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    let rank = next();
    tokio::task::yield_now().await;
    let cancel = next();
    assert_eq!((cancel.kind, cancel.request_id), (Kind::Cancel, rank.request_id));

    // One that was sent and is not awaited.
    drop(client.send(&request, &Call::default()).await.expect("sent"));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!((next().kind, next().kind), (Kind::Rank, Kind::Cancel));

    let scores = client.rank(&request, &Call { priority: 1, ..Call::default() }).await.expect("scores");
    assert_eq!(scores.scores(), [4.0]);
    let pending = client.send(&request, &Call { priority: 1, ..Call::default() }).await.expect("sent");
    assert_eq!(pending.await.expect("scores").scores(), [4.0]);
}

#[tokio::test]
async fn a_lost_connection_fails_its_calls_and_comes_back() {
    let server = Server::start(|number, peer| {
        if number == 0 {
            peer.hello();
            peer.next();
            peer.next();
            return;
        }
        peer.behave();
    });
    let client = connect(&server, 1).await;
    let layout = Layout::new(description());
    let blocks = Blocks::new(&[4.0]);
    let request = Request::from_blocks(&layout, 1, blocks.body()).expect("good");
    let call = Call::within(Duration::from_secs(5));
    let (first, second) = tokio::join!(client.rank(&request, &call), client.rank(&request, &call));
    for result in [first, second] {
        let error = result.expect_err("closed in flight");
        assert!(matches!(error, Error::Closed { .. } | Error::Io { .. }) && error.may_retry(), "{error}");
    }
    assert_eq!(client.rank(&request, &call).await.expect("reconnected").scores(), [4.0]);
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_draining_server_finishes_what_is_in_flight_and_gets_nothing_new() {
    let (tell, told) = mpsc::channel();
    let server = Server::start(move |number, peer| {
        if number > 0 {
            return peer.behave();
        }
        peer.hello();
        let held = peer.next().expect("a rank");
        peer.drain();
        // Whatever comes behind the drain: the answer to it, and at most a request that had left already.
        while let Some((header, _)) = peer.next() {
            if header.kind == Kind::DrainAnswer {
                break;
            }
            peer.error(header.request_id, Code::Draining, 0);
        }
        tell.send("drained").expect("the test listens");
        std::thread::sleep(Duration::from_millis(100));
        peer.answer(&held.0, &held.1);
        peer.next();
    });
    let client = connect(&server, 1).await;
    let layout = Layout::new(description());
    let blocks = Blocks::new(&[4.0]);
    let request = Request::from_blocks(&layout, 1, blocks.body()).expect("good");
    let held = client.send(&request, &Call::default()).await.expect("sent");
    let wait = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        client.rank(&request, &Call::within(Duration::from_secs(5))).await
    };
    let (held, moved) = tokio::join!(held, wait);
    assert_eq!(held.expect("finished").scores(), [4.0]);
    assert_eq!(moved.expect("on a new connection").scores(), [4.0]);
    assert_eq!((told.recv(), server.accepted()), (Ok("drained"), 2));
}

#[tokio::test]
async fn garbage_fails_the_calls_and_the_client_lives() {
    let server = Server::start(|number, peer| {
        if number > 0 {
            return peer.behave();
        }
        peer.hello();
        peer.next();
        peer.write(&[0x5a; 48]);
        peer.next();
    });
    let client = connect(&server, 1).await;
    let layout = Layout::new(description());
    let blocks = Blocks::new(&[4.0]);
    let request = Request::from_blocks(&layout, 1, blocks.body()).expect("good");
    let call = Call::within(Duration::from_secs(5));
    let error = client.rank(&request, &call).await.expect_err("garbage");
    assert!(matches!(error, Error::Protocol { .. }) && !error.may_retry(), "{error}");
    client.rank(&request, &call).await.expect("a new connection");
}

#[tokio::test]
async fn a_stale_layout_is_described_again() {
    let server = Server::start(|_, peer| {
        peer.hello();
        while let Some((header, body)) = peer.next() {
            match header.kind {
                Kind::Rank => peer.error(header.request_id, Code::SignatureUnknown, 0),
                _ => peer.answer(&header, &body),
            }
        }
    });
    let client = connect(&server, 1).await;
    let layout = client.describe("ctr").await.expect("a model");
    let blocks = Blocks::new(&[4.0]);
    let request = Request::from_blocks(&layout, 1, blocks.body()).expect("good");
    let error = client.rank(&request, &Call::default()).await.expect_err("unknown");
    assert!(error.is_layout_unknown());
    // The cached one was dropped.
    assert!(!Arc::ptr_eq(&layout, &client.describe("ctr").await.expect("a model")));
}

#[tokio::test]
async fn an_idle_connection_is_kept_alive() {
    let (seen, pings) = mpsc::channel();
    let server = Server::start(move |_, peer| {
        peer.hello_with(4, 60);
        while let Some((header, body)) = peer.next() {
            seen.send(header.kind).expect("the test listens");
            peer.answer(&header, &body);
        }
    });
    let client = connect(&server, 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let count = pings.try_iter().filter(|kind| *kind == Kind::Ping).count();
    assert!((3..=12).contains(&count), "{count} pings in 300 ms, one is due every 30");
    drop(client);
}

#[tokio::test]
async fn nobody_listens_and_late_servers_are_found() {
    let address = fake::nobody();
    let short = Options { connect_timeout: Duration::from_millis(150), ..options() };
    let began = Instant::now();
    let error = Client::connect(std::slice::from_ref(&address), short.clone()).await.expect_err("nobody there");
    assert!(matches!(&error, Error::Unavailable { last, .. } if last.contains("refused")), "{error}");
    assert!(began.elapsed() >= Duration::from_millis(150));

    // One of two addresses is dead: the other serves.
    let server = Server::start(|_, peer| peer.behave());
    let client = Client::connect(&[address, server.address.clone()], short).await.expect("one listens");
    let layout = client.describe("ctr").await.expect("a model");
    let blocks = Blocks::new(&[4.0]);
    let request = Request::from_blocks(&layout, 1, blocks.body()).expect("good");
    for _ in 0..10 {
        client.rank(&request, &Call::default()).await.expect("scores");
    }
}

#[tokio::test]
async fn the_last_clone_ends_the_connections() {
    let (gone, ended) = mpsc::channel();
    let server = Server::start(move |_, peer| {
        peer.behave();
        gone.send(()).expect("the test listens");
    });
    let client = connect(&server, 1).await;
    let layout = Layout::new(description());
    let blocks = Blocks::new(&[4.0]);
    let request = Request::from_blocks(&layout, 1, blocks.body()).expect("good");
    let clone = client.clone();
    drop(client);
    clone.rank(&request, &Call::default()).await.expect("scores");
    drop(clone);
    tokio::time::sleep(Duration::from_millis(20)).await;
    ended.recv_timeout(Duration::from_secs(5)).expect("the socket was closed");
}
