//! Several shards on one device: permits, sleep, and no allocation on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant as SystemInstant};

use gavel::engine::cuda::{CudaEngine, DeviceOptions};
use gavel::engine::{Engine, Step};
use gavel::units::{Clock, Instant};
use gavel::wire::Waker;

use crate::allocator;
use crate::rig::{Ids, Rig, engine, fill, scores, wait};

#[test]
fn batches_gather_while_the_device_is_busy() {
    let options = DeviceOptions { in_flight_per_shard: 3, in_flight_per_device: 2, ..DeviceOptions::default() };
    let Some(rig) = Rig::emulated(options) else { return };
    let prepared = rig.load(Ids::Two).unwrap();
    let (mut first, slots) = engine(&prepared, 3);
    let (mut second, others) = engine(&prepared, 2);
    rig.shut();
    for slot in &slots {
        fill(first.slot(*slot), Ids::Two, &[20], 1);
    }
    fill(second.slot(others[0]), Ids::Two, &[9], 2);
    assert_eq!((first.capacity(), second.capacity()), (3, 3));
    first.start(slots[0]);
    first.start(slots[1]);
    // Both permits are taken: neither shard starts more, and requests gather in open slots.
    assert_eq!((first.capacity(), second.capacity()), (2, 0));
    // A shard that asked a moment too early is not refused: its batch waits for a permit, and the shard must not sleep over it.
    second.start(others[0]);
    let clock = Clock::start();
    assert_eq!((second.step(&clock, Instant::NEVER), second.in_flight(), second.may_sleep()), (Step::Pending, 1, false));
    rig.open();
    assert!(matches!((wait(&mut first), wait(&mut first)), (Step::Done(_), Step::Done(_))));
    assert_eq!(wait(&mut second), Step::Done(others[0]));
    assert_eq!((first.capacity(), second.capacity()), (3, 3));
}

#[test]
fn shards_share_permits() {
    let options = DeviceOptions { in_flight_per_device: 2, ..DeviceOptions::default() };
    let Some(rig) = Rig::new(options) else { return };
    let prepared = rig.load(Ids::Listed).unwrap();
    std::thread::scope(|scope| {
        for shard in 0..3 {
            let prepared = prepared.clone();
            scope.spawn(move || {
                let (mut engine, slots) = engine(&prepared, 2);
                let mut expected = vec![Vec::new(); 2];
                let (mut started, mut done) = (0, 0);
                let clock = Clock::start();
                let mut free = vec![0, 1];
                while done < 40 {
                    while started < 40 && engine.in_flight() < engine.capacity() {
                        let at = free.pop().expect("two slots for two batches");
                        expected[at] = fill(engine.slot(slots[at]), Ids::Listed, &[started % 5, 1 + shard * 7], started);
                        engine.start(slots[at]);
                        started += 1;
                    }
                    match engine.step(&clock, Instant::NEVER) {
                        Step::Done(slot) => {
                            let at = slots.iter().position(|known| *known == slot).unwrap();
                            assert_eq!(scores(engine.slot(slot)), expected[at]);
                            free.push(at);
                            done += 1;
                        }
                        Step::Failed(slot) => panic!("{slot:?}"),
                        Step::Pending | Step::Idle => std::thread::yield_now(),
                    }
                }
            });
        }
    });
    assert_eq!(rig.device.fault(), None);
}

/// An engine that counts how often it wakes its shard.
fn counted(engine: &mut CudaEngine) -> Arc<AtomicUsize> {
    let wakes = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&wakes);
    engine.wake_with(Arc::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    wakes
}

#[test]
fn a_shard_that_sleeps_is_woken_once() {
    let Some(rig) = Rig::emulated(DeviceOptions::default()) else { return };
    let prepared = rig.load(Ids::Two).unwrap();
    let (mut engine, slots) = engine(&prepared, 2);
    fill(engine.slot(slots[0]), Ids::Two, &[20], 1);
    // Nobody to wake: it may not sleep.
    rig.shut();
    engine.start(slots[0]);
    assert!(!engine.may_sleep());
    rig.open();
    assert_eq!(wait(&mut engine), Step::Done(slots[0]));
    assert!(engine.may_sleep(), "nothing in flight");

    let wakes = counted(&mut engine);
    rig.shut();
    engine.start(slots[0]);
    assert!(!engine.works_in_steps() && engine.may_sleep() && engine.may_sleep());
    assert_eq!(wakes.load(Ordering::SeqCst), 0);
    rig.open();
    let until = SystemInstant::now() + Duration::from_secs(20);
    while wakes.load(Ordering::SeqCst) == 0 && SystemInstant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(wakes.load(Ordering::SeqCst), 1, "once, however often it was asked");
    // Woken, the shard looks, and must not go back to sleep over what is done.
    assert!(!engine.may_sleep());
    assert_eq!(wait(&mut engine), Step::Done(slots[0]));
}

#[test]
fn a_batch_without_candidates_needs_no_wake() {
    let Some(rig) = Rig::new(DeviceOptions::default()) else { return };
    let prepared = rig.load(Ids::Two).unwrap();
    let (mut engine, slots) = engine(&prepared, 1);
    counted(&mut engine);
    fill(engine.slot(slots[0]), Ids::Two, &[0, 0], 1);
    engine.start(slots[0]);
    assert!(!engine.may_sleep());
    assert_eq!(engine.step(&Clock::start(), Instant::NEVER), Step::Done(slots[0]));
}

#[test]
fn the_eventfd_of_a_shard_is_what_rings() {
    let Some(rig) = Rig::emulated(DeviceOptions::default()) else { return };
    let prepared = rig.load(Ids::Two).unwrap();
    let (mut engine, slots) = engine(&prepared, 1);
    let waker = Waker::new().unwrap();
    let bell = waker.clone();
    engine.wake_with(Arc::new(move || bell.wake()));
    fill(engine.slot(slots[0]), Ids::Two, &[20], 1);
    rig.shut();
    engine.start(slots[0]);
    assert!(engine.may_sleep());
    rig.open();
    let mut waiting = [rustix::event::PollFd::new(&waker, rustix::event::PollFlags::IN)];
    let patience = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut waiting, Some(&patience)).unwrap(), 1, "the sleep ends");
    assert_eq!(wait(&mut engine), Step::Done(slots[0]));
}

#[test]
fn nothing_is_allocated_between_start_and_done() {
    let Some(rig) = Rig::new(DeviceOptions { copy_from_bytes: 1 << 10, ..DeviceOptions::default() }) else { return };
    let prepared = rig.load(Ids::Two).unwrap();
    let (mut engine, slots) = engine(&prepared, 2);
    counted(&mut engine);
    for seed in 0..20 {
        for slot in &slots {
            fill(engine.slot(*slot), Ids::Two, &[seed * 9 % 170, 20], seed);
        }
        let allocations = allocator::counted(|| {
            engine.start(slots[0]);
            engine.start(slots[1]);
            engine.may_sleep();
            assert!(matches!((wait(&mut engine), wait(&mut engine)), (Step::Done(_), Step::Done(_))));
            engine.slot(slots[0]).clear();
        });
        assert_eq!(allocations, 0, "batch {seed}");
    }
}
