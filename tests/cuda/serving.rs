//! Requests through sockets to a device and back: shards sleep meanwhile and are woken, and a lost device is an answer.

use std::collections::HashMap;
use std::sync::Arc;

use gavel::config::{Address, Config};
use gavel::engine::cuda::DeviceOptions;
use gavel::engine::{EngineKind, PrepareOptions};
use gavel::server::preflight::IoBackend;
use gavel_protocol::Code;

use crate::emulator;
use crate::rig::{Rig, cubins};
use crate::support::raw::{Frame, Raw};
use crate::support::traffic::{Case, Random, good};
use crate::support::{self, BACKENDS, TestServer, start_with, usable};

/// A plain model, and one whose context is computed once per request.
const MODELS: [&str; 2] = ["wdl", "deepfm_scoped"];

fn serve(rig: &Rig, backend: IoBackend, shards: usize) -> TestServer {
    let mut config: Config = support::config();
    config.limits.candidates_per_request = 128;
    config.limits.batch_rows = 256;
    config.limits.batch_requests = 64;
    let prepare = PrepareOptions { device: Some(Arc::clone(&rig.device)), cubins: cubins(), ..PrepareOptions::default() };
    start_with(backend, EngineKind::Cuda, prepare, shards, config, &support::models(|name| MODELS.contains(&name)))
}

fn cases(seed: u64) -> Vec<Case> {
    good(&support::models(|name| MODELS.contains(&name)), 6, &mut Random(seed))
}

/// Sends all at once and takes what comes, in any order.
fn ask(address: &Address, cases: &[Case], mut judge: impl FnMut(&Case, &Frame)) {
    let mut client = Raw::open(address);
    let mut waiting: HashMap<u64, &Case> = HashMap::new();
    for (request_id, case) in (100..).zip(cases) {
        client.send(&case.frame(request_id)).unwrap();
        waiting.insert(request_id, case);
    }
    while !waiting.is_empty() {
        let frame = client.frame();
        let case = waiting.remove(&frame.header.request_id).expect("asked for, and not answered before");
        judge(case, &frame);
    }
}

#[test]
fn requests_are_ranked_by_a_device() {
    for backend in BACKENDS {
        let Some(rig) = Rig::new(DeviceOptions { in_flight_per_device: 2, ..DeviceOptions::default() }) else { return };
        if !usable(backend) {
            continue;
        }
        let server = serve(&rig, backend, 2);
        let address: Address = server.server.addresses()[0].clone();
        std::thread::scope(|scope| {
            for seed in 0..3 {
                let address = address.clone();
                scope.spawn(move || ask(&address, &cases(seed), |case, frame| case.judge(frame, false)));
            }
        });
        let snapshot = server.registry.snapshot();
        let sleeps: u64 = snapshot.shards.iter().map(|shard| shard.sleeps).sum();
        println!("{backend}: {sleeps} sleeps");
        assert!(sleeps > 0, "shards sleep");
        assert_eq!(server.server.failure(), None);
        assert!(server.server.drain());
    }
}

#[test]
fn a_lost_device_is_an_answer_and_the_end_of_the_server() {
    for backend in BACKENDS {
        let Some(rig) = Rig::emulated(DeviceOptions::default()) else { return };
        if !usable(backend) {
            continue;
        }
        let server = serve(&rig, backend, 1);
        let address: Address = server.server.addresses()[0].clone();
        ask(&address, &cases(1), |case, frame| case.judge(frame, false));
        emulator::fail("cuGraphLaunch:1:719");
        for seed in 2..4 {
            ask(&address, &cases(seed), |_, frame| assert_eq!(frame.code(), Some(Code::EngineFailed)));
        }
        let reason = server.server.failure().expect("the server cannot go on");
        assert_eq!(
            reason,
            "GPU 0 (gavel emulator) is lost to this process: launching a graph: the driver answers CUDA_ERROR_LAUNCH_FAILED"
        );
        assert!(server.server.drain(), "and ends well all the same");
    }
}
