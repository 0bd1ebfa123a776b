//! Batches of every size get their scores, read in place or copied first.

use std::collections::HashMap;

use gavel::batch::{Full, Need};
use gavel::engine::cuda::DeviceOptions;
use gavel::engine::{Engine, Replay, Step};

use crate::rig::{Ids, LIMITS, Rig, engine, fill, scores, wait};

/// Ends of buckets, of tiles and of variants; requests without candidates; the slot's limit.
const BATCHES: [&[usize]; 14] =
    [&[1], &[0], &[0, 3], &[15], &[16], &[17], &[20, 12], &[33], &[64], &[65], &[100, 0, 28], &[128, 1], &[199], &[25; 8]];

/// Inputs all read in place, copied for large buckets, all copied.
const COPY_FROM: [usize; 3] = [1 << 30, 2 << 10, 0];

#[test]
fn every_size_is_scored() {
    for copy_from_bytes in COPY_FROM {
        let Some(rig) = Rig::new(DeviceOptions { copy_from_bytes, ..DeviceOptions::default() }) else { return };
        for ids in [Ids::Two, Ids::Listed] {
            let prepared = rig.load(ids).unwrap();
            let (mut engine, slots) = engine(&prepared, 1);
            for (seed, requests) in BATCHES.iter().enumerate() {
                let expected = fill(engine.slot(slots[0]), ids, requests, seed);
                engine.start(slots[0]);
                assert_eq!(wait(&mut engine), Step::Done(slots[0]));
                assert_eq!(scores(engine.slot(slots[0])), expected, "{ids:?} {requests:?}, copied from {copy_from_bytes} bytes");
            }
            assert_eq!(wait(&mut engine), Step::Idle);
        }
    }
}

#[test]
fn slots_in_flight_do_not_disturb_each_other() {
    let Some(rig) = Rig::new(DeviceOptions { in_flight_per_shard: 3, ..DeviceOptions::default() }) else { return };
    let (two, listed) = (rig.load(Ids::Two).unwrap(), rig.load(Ids::Listed).unwrap());
    let (mut engine, mut slots) = engine(&two, 3);
    let kinds: HashMap<_, _> = slots.iter().map(|slot| (*slot, Ids::Two)).collect();
    slots.extend(engine.attach(&listed, 2, LIMITS).unwrap());
    let mut expected = HashMap::new();
    let mut free = slots.clone();
    let mut done = 0;
    for seed in 0.. {
        while engine.in_flight() < engine.capacity() && seed < 60 {
            let slot = free.remove(seed % free.len());
            let ids = kinds.get(&slot).copied().unwrap_or(Ids::Listed);
            expected.insert(slot, fill(engine.slot(slot), ids, &[seed % 7, 1 + seed * 5 % 90, seed % 3], seed));
            engine.start(slot);
        }
        if engine.in_flight() == 0 {
            break;
        }
        let Step::Done(slot) = wait(&mut engine) else { panic!("nothing fails") };
        assert_eq!(scores(engine.slot(slot)), expected[&slot]);
        free.push(slot);
        done += 1;
    }
    assert!(done >= 60, "{done}");
    assert_eq!(rig.device.fault(), None);
}

#[test]
fn a_full_slot_takes_no_more_and_a_cancelled_request_changes_nothing() {
    let Some(rig) = Rig::emulated(DeviceOptions::default()) else { return };
    let prepared = rig.load(Ids::Two).unwrap();
    let (mut engine, slots) = engine(&prepared, 2);
    let expected = fill(engine.slot(slots[0]), Ids::Two, &[10, 20, 170], 1);
    assert_eq!(engine.slot(slots[0]).reserve(Need { rows: 1, context_ids: 0, candidate_ids: 2 }).err(), Some(Full));
    // Given up before it starts: not computed by engines that can leave it out, not read by anyone.
    engine.slot(slots[0]).drop_segment(1);
    rig.shut();
    engine.start(slots[0]);
    // The next batch gathers meanwhile.
    let next = fill(engine.slot(slots[1]), Ids::Two, &[7], 2);
    assert_eq!(engine.step(&gavel::units::Clock::start(), gavel::units::Instant::NEVER), Step::Pending);
    rig.open();
    assert_eq!(wait(&mut engine), Step::Done(slots[0]));
    let slot = engine.slot(slots[0]);
    assert_eq!((slot.scores(0), slot.scores(2)), (&expected[..20], &expected[60..]));
    engine.start(slots[1]);
    assert_eq!(wait(&mut engine), Step::Done(slots[1]));
    assert_eq!(scores(engine.slot(slots[1])), next);
}

#[test]
#[should_panic(expected = "a slot in flight belongs to the engine")]
fn a_slot_in_flight_is_nobodys() {
    let Some(rig) = Rig::emulated(DeviceOptions::default()) else { panic!("a slot in flight belongs to the engine: skipped") };
    let prepared = rig.load(Ids::Two).unwrap();
    let (mut engine, slots) = engine(&prepared, 1);
    fill(engine.slot(slots[0]), Ids::Two, &[10], 1);
    engine.start(slots[0]);
    engine.slot(slots[0]);
}

#[test]
fn slots_are_given_back_and_made_again() {
    let Some(rig) = Rig::new(DeviceOptions::default()) else { return };
    let prepared = rig.load(Ids::Two).unwrap();
    let (mut engine, first) = engine(&prepared, 2);
    for _ in 0..3 {
        let second = engine.attach(&prepared, 2, LIMITS).unwrap();
        assert!(second.iter().all(|slot| !first.contains(slot)));
        let expected = fill(engine.slot(second[1]), Ids::Two, &[40], 3);
        engine.start(second[1]);
        assert_eq!(wait(&mut engine), Step::Done(second[1]));
        assert_eq!(scores(engine.slot(second[1])), expected);
        engine.detach(&second);
    }
}

#[test]
fn replay_drives_it() {
    let Some(rig) = Rig::new(DeviceOptions::default()) else { return };
    let mut replay = Replay::new(&rig.load(Ids::Listed).unwrap(), LIMITS).unwrap();
    let mut expected = Vec::new();
    let mut left = vec![5, 17, 0];
    let found = replay
        .collect(|slot| {
            if let Some(rows) = left.pop() {
                expected.extend(fill(slot, Ids::Listed, &[rows], rows));
            }
            Ok::<(), gavel::engine::BatchFailed>(())
        })
        .unwrap();
    assert_eq!(found, expected);
}

#[test]
fn kernels_tell_what_they_take() {
    let Some(rig) = Rig::new(DeviceOptions::default()) else { return };
    let gavel::engine::Prepared::Cuda(loaded) = rig.load(Ids::Two).unwrap() else { panic!("for another engine") };
    let names: Vec<String> = loaded.kernels().into_iter().map(|kernel| kernel.name).collect();
    assert_eq!(names, ["candidates", "contexts", "scores"]);
}
