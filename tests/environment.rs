//! Where io_uring is refused, the server still serves: `--io auto` says so and takes epoll, `--io epoll` never asks, the demo works. What cannot be
//! had is refused in one line. (That `--io uring` ends with 78 is tests/preflight's matter; here it is the same filter as for the others.)
#![allow(clippy::unwrap_used)]

#[path = "preflight/seccomp.rs"]
mod seccomp;
mod support;

use gavel::engine::cuda::{GpuUnavailable, probe};
use std::collections::HashMap;

use support::process::{Serving, gavel, lines, run, serve};
use support::raw::Raw;
use support::traffic::{Case, Random, good};
use support::{bundles, models};

const RING_CALLS: [i64; 3] = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// As container runtimes refuse it: Docker and containerd with EPERM, Podman with ENOSYS.
const REFUSALS: [(&str, i32); 2] = [("EPERM", libc::EPERM), ("ENOSYS", libc::ENOSYS)];

/// Ranks on two connections, and judges.
fn ranks(serving: &Serving) {
    let models = models(|name| ["dlrm_scoped", "mmoe", "wire_vectors"].contains(&name));
    let cases = good(&models, 12, &mut Random(7));
    for _ in 0..2 {
        let mut client = Raw::open(&serving.addresses[0]);
        let mut waiting: HashMap<u64, &Case> = HashMap::new();
        for (request_id, case) in (100..).zip(&cases) {
            client.send(&case.frame(request_id)).unwrap();
            waiting.insert(request_id, case);
        }
        while !waiting.is_empty() {
            let frame = client.frame();
            waiting.remove(&frame.header.request_id).expect("answered once").judge(&frame, false);
        }
    }
}

#[test]
fn uring_that_is_refused_ends_with_78_and_one_line() {
    for (name, errno) in REFUSALS {
        let mut command = serve(&bundles());
        command.args(["--io", "uring"]);
        seccomp::refuse(&mut command, &RING_CALLS, errno);
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(78));
        let expected = format!(
            "error: a seccomp filter refuses io_uring_setup ({name}): allow io_uring_setup, io_uring_enter and io_uring_register \
             (container default profiles do not), or run without the filter"
        );
        assert_eq!(lines(&output.stderr), [expected]);
        assert!(output.stdout.is_empty(), "nothing was started: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn auto_warns_and_serves_through_epoll() {
    for (name, errno) in REFUSALS {
        let mut command = serve(&bundles());
        command.args(["--io", "auto"]);
        seccomp::refuse(&mut command, &RING_CALLS, errno);
        let mut serving = Serving::start(&mut command);
        let warning = serving.await_log("io: epoll instead of io_uring, because a seccomp filter refuses io_uring_setup");
        assert_eq!(warning["severity"], "WARNING");
        assert!(warning["message"].as_str().unwrap().contains(name), "{warning}");
        assert_eq!(serving.await_log("listening")["io"], "epoll");
        ranks(&serving);
        assert!(serving.page("/metrics").1.contains("gavel_io_backend_info{backend=\"epoll\"} 1"));
        serving.signal(rustix::process::Signal::TERM);
        let (status, stderr) = serving.end();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
    }
}

#[test]
fn epoll_never_asks_for_a_ring() {
    let mut command = serve(&bundles());
    command.args(["--io", "epoll"]);
    seccomp::forbid(&mut command, &RING_CALLS);
    let mut serving = Serving::start(&mut command);
    ranks(&serving);
    assert!(serving.log().iter().all(|line| line["severity"] == "INFO"), "nothing to warn of: {:#?}", serving.log());
    serving.signal(rustix::process::Signal::TERM);
    assert_eq!(serving.end().0.code(), Some(0));
}

#[test]
fn the_demo_works_without_a_ring() {
    for (name, errno) in REFUSALS {
        let mut command = gavel(["demo", "--io", "auto", "--impressions", "200"]);
        seccomp::refuse(&mut command, &RING_CALLS, errno);
        let output = run(&mut command);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(stdout.contains("warning: io: epoll instead of io_uring") && stdout.contains(name), "{stdout}");
        assert!(stdout.contains("requests") && stdout.contains("candidates/s"), "{stdout}");
    }
    // And refuses where the ring was insisted on.
    let mut command = gavel(["demo", "--io", "uring", "--impressions", "200"]);
    seccomp::refuse(&mut command, &RING_CALLS, libc::EPERM);
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(lines(&output.stderr).len(), 1);
}

#[test]
fn a_missing_engine_is_one_line_and_78() {
    if probe() != Err(GpuUnavailable::NoDriver) {
        return println!("skipped: this machine has a driver for GPUs");
    }
    let mut command = gavel(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--engine", "cuda"]);
    let output = run(command.arg("--models").arg(bundles()));
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        lines(&output.stderr),
        [
            "error: engine cuda: no NVIDIA driver library (libcuda.so.1) was found; install NVIDIA's driver, or give the container the GPU (docker \
             --gpus all; in Kubernetes the limit nvidia.com/gpu: 1), or take --engine cpu or --engine auto"
        ]
    );
}
