//! `gavel serve` as a process: its admin pages, its end, and addresses that it cannot have.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gavel_protocol::{Code, DrainView, Kind};
use rustix::process::Signal;

use crate::support::process::{Serving, lines, run, serve};
use crate::support::raw::Raw;
use crate::support::traffic::{Random, good, ping, refused};
use crate::support::{bundles, models, usable};
use crate::{each_backend, until};

/// A models folder with two of the golden bundles.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    std::fs::create_dir(&models).unwrap();
    for name in MODELS {
        std::os::unix::fs::symlink(bundles().join(name), models.join(name)).unwrap();
    }
    (folder, models)
}

const MODELS: [&str; 2] = ["dlrm", "mmoe_scoped"];

fn start(models: &Path, io: &str, more: &[&str]) -> Serving {
    Serving::start(serve(models).args(["--io", io]).args(more))
}

/// A client that asks for much and takes nothing: the drain has to wait for it, though not for ever.
fn stalled(serving: &Serving) -> Raw {
    let mut client = Raw::open(&serving.addresses[0]);
    let describe = client.encoder.describe(7, "dlrm").to_vec();
    client.socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while client.send(&describe).is_ok() {}
    client
}

#[test]
fn pages_tell_the_truth() {
    let (_folder, path) = folder();
    each_backend(|backend| {
        let serving = start(&path, backend.name(), &[]);
        assert_eq!(serving.page("/readyz"), (200, "ready\n[+] models\n[+] shards\n[+] listeners\n[+] not_draining\n".into()));
        let (status, text) = serving.page("/livez");
        assert_eq!(status, 200);
        assert!(text.contains("[+] shard 0: last sign of life") && text.contains("[+] shard 1:"), "{text}");

        let models = models(|name| MODELS.contains(&name));
        let mut random = Random(11);
        let (good, bad) = (good(&models, 10, &mut random), refused(&models, &mut random));
        let mut client = Raw::open(&serving.addresses[0]);
        for (request_id, case) in (100..).zip(good.iter().chain(&bad)) {
            client.send(&case.frame(request_id)).unwrap();
            case.judge(&client.frame(), false);
        }
        let (status, text) = serving.page("/metrics");
        assert_eq!(status, 200);
        for line in [
            "gavel_requests_total{model=\"dlrm\",version=\"1\",outcome=\"ok\"} 10",
            "gavel_requests_total{model=\"mmoe_scoped\",version=\"1\",outcome=\"ok\"} 10",
            "gavel_requests_total{model=\"dlrm\",version=\"1\",outcome=\"id_out_of_range\"} 1",
            "gavel_requests_total{model=\"dlrm\",version=\"1\",outcome=\"candidates_invalid\"} 2",
            "gavel_requests_total{model=\"dlrm\",version=\"1\",outcome=\"body_malformed\"} 1",
            "gavel_protocol_errors_total{code=\"signature_unknown\"} 2",
            "gavel_request_duration_seconds_count{model=\"dlrm\",version=\"1\"} 10",
            "gavel_batch_candidates_count{model=\"dlrm\",version=\"1\"} 10",
            "gavel_connections_opened_total 1",
            "gavel_in_flight_requests 0",
            "gavel_queued_candidates 0",
            &format!("gavel_io_backend_info{{backend=\"{backend}\"}} 1"),
            &format!("gavel_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
            "gavel_log_lines_dropped_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
        let sum = |name: &str| -> f64 {
            text.lines().filter(|line| line.starts_with(name)).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
        };
        assert_eq!(sum("gavel_connections{"), 1.0);
        assert!(sum("gavel_received_bytes_total") > 1000.0 && sum("gavel_sent_bytes_total") > 1000.0, "{text}");
        assert!(sum("gavel_engine_seconds_total") > 0.0 && sum("gavel_shard_sleeps_total") > 0.0, "{text}");
        assert!(sum("process_open_fds") > 3.0 && sum("process_resident_memory_bytes") > 1e6, "{text}");
    });
}

#[test]
fn sigterm_drains() {
    let (_folder, path) = folder();
    each_backend(|backend| {
        let mut serving = start(&path, backend.name(), &["--set", "timeouts.drain_ms=8000"]);
        let models = models(|name| MODELS.contains(&name));
        let cases = good(&models, 24, &mut Random(5));
        let _stalled = stalled(&serving);
        let mut client = Raw::open(&serving.addresses[0]);
        // The first answer says that the server is at it.
        let bytes: Vec<u8> = (100..).zip(&cases).flat_map(|(request_id, case)| case.frame(request_id)).collect();
        let mut writer = client.socket.try_clone().unwrap();
        let writing = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes).unwrap());
        let mut answered = vec![false; cases.len()];
        let (mut scores, mut told, mut drain_told) = (0, None, None);
        while told.is_none() || answered.contains(&false) {
            let frame = client.frame();
            if frame.header.kind == Kind::Drain {
                assert!(told.is_none(), "told once");
                drain_told = Some(Instant::now());
                told = Some(DrainView::parse(&frame.body).unwrap().deadline_ms);
                continue;
            }
            if scores == 0 {
                serving.signal(Signal::TERM);
            }
            let place = (frame.header.request_id - 100) as usize;
            assert!(!std::mem::replace(&mut answered[place], true), "answered twice");
            // What came after the drain began is refused; what was in flight has its scores.
            if frame.code() == Some(Code::Draining) {
                continue;
            }
            cases[place].judge(&frame, false);
            scores += 1;
        }
        writing.join().unwrap();
        assert!(told.is_some_and(|deadline_ms| (4000..=8000).contains(&deadline_ms)), "{told:?}");
        println!("{backend}: {scores} of {} were in flight", cases.len());

        // A connection with nothing in flight is closed a second after the drain began: this machine may be slower.
        let refused = client.send(&cases[0].frame(100)).and_then(|()| client.recv());
        match refused {
            Ok(Some(frame)) => assert_eq!(frame.code(), Some(Code::Draining), "no new requests"),
            _ => assert!(drain_told.is_some_and(|told| told.elapsed() > Duration::from_millis(900)), "closed too soon"),
        }
        assert_eq!(serving.page("/readyz"), (503, "not ready\n[+] models\n[+] shards\n[+] listeners\n[-] not_draining\n".into()));
        assert_eq!(serving.page("/livez").0, 200, "draining is no illness");
        let refused = Raw::connect(&serving.addresses[0]).err().expect("nobody listens any more");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

        let began = Instant::now();
        let (status, stderr) = serving.end();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
        assert!(began.elapsed() < Duration::from_secs(15), "within its time, with a client that never reads");
        let drained = serving.log().iter().find(|line| line["message"] == "drained").unwrap();
        assert_eq!(drained["well"], true);
    });
}

#[test]
fn a_drain_waits_for_nobody_who_left() {
    let (_folder, path) = folder();
    each_backend(|backend| {
        let mut serving = start(&path, backend.name(), &[]);
        let mut client = Raw::open(&serving.addresses[0]);
        serving.signal(Signal::INT);
        assert_eq!(client.frame().header.kind, Kind::Drain);
        // The promise to send no more lets the server go at once.
        let answer = client.encoder.drain_answer().to_vec();
        client.send(&answer).unwrap();
        assert!(client.recv().unwrap().is_none());
        drop(client);
        assert_eq!(serving.end().0.code(), Some(0));
        assert_eq!(serving.log().iter().find(|line| line["message"] == "draining").unwrap()["reason"], "SIGINT");
    });
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (_folder, path) = folder();
    for (first, second, code) in [(Signal::TERM, Signal::TERM, 143), (Signal::INT, Signal::TERM, 143), (Signal::TERM, Signal::INT, 130)] {
        let mut serving = start(&path, "auto", &["--set", "timeouts.drain_ms=60000", "--set", "timeouts.send_ms=60000"]);
        let _stalled = stalled(&serving);
        serving.signal(first);
        serving.await_log("draining");
        serving.signal(second);
        assert_eq!(serving.end().0.code(), Some(code), "{first:?} {second:?}");
    }
}

#[test]
fn a_signal_while_models_load_is_heard() {
    let mut serving = Serving::launch(serve(&bundles()).args(["--io", "auto"]));
    serving.signal(Signal::TERM);
    assert_eq!(serving.end().0.code(), Some(0));
}

#[test]
fn an_address_in_use_is_named() {
    let (folder, path) = folder();
    let socket = format!("unix:{}", folder.path().join("gavel.sock").display());
    let first = Serving::start(serve(&path).args(["--listen", &socket, "--io", "epoll"]));
    let (tcp, admin) = (first.addresses[0].to_string(), first.admin.to_string());
    let cases = [
        (["--listen", &tcp, "--admin", "127.0.0.1:0"], format!("error: cannot listen on {tcp}: the address is in use;")),
        (["--listen", &socket, "--admin", "127.0.0.1:0"], format!("error: cannot listen on {socket}: another server listens there;")),
        (["--listen", "127.0.0.1:0", "--admin", &admin], format!("error: cannot listen on the admin address {admin}: ")),
    ];
    for (flags, expected) in cases {
        let output =
            run(crate::support::process::gavel(["serve", "--io", "epoll", "--engine", "cpu"]).args(flags).arg("--models").arg(&path));
        let stderr = lines(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr:?}");
        assert!(stderr.len() == 1 && stderr[0].starts_with(&expected), "{stderr:?} lacks {expected:?}");
    }
    // The one that was there first did not suffer, and its socket's file goes with it.
    for address in &first.addresses {
        let mut client = Raw::open(address);
        client.send(&ping().frame(1)).unwrap();
        assert_eq!(client.frame().header.kind, Kind::Pong);
    }
    let mut first = first;
    first.signal(Signal::TERM);
    assert_eq!(first.end().0.code(), Some(0));
    assert!(!folder.path().join("gavel.sock").exists());
}

/// What `auto` takes here, as the process says it.
#[test]
fn io_is_what_was_asked_for() {
    let (_folder, path) = folder();
    let uring = usable(gavel::server::preflight::IoBackend::Uring);
    for (io, backend) in [("epoll", "epoll"), ("auto", if uring { "uring" } else { "epoll" })] {
        let mut serving = start(&path, io, &[]);
        assert_eq!(serving.await_log("listening")["io"], backend);
        until("its metrics say so too", || {
            serving.page("/metrics").1.contains(&format!("gavel_io_backend_info{{backend=\"{backend}\"}} 1"))
        });
    }
}
