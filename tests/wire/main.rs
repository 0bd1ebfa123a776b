//! One table of tests, run on both wires. Traffic stays on loopback and socket pairs.
#![allow(clippy::unwrap_used)]

mod alloc;
mod cases;
mod harness;
mod runtimes;

use gavel::wire::{EpollWire, UringOptions, UringWire, Waker, WireLimits, probe};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// Each case once per wire: `cases::NAME(make)`.
macro_rules! on_both_wires {
    ($($name:ident)*) => {
        mod uring {
            use super::*;
            $(
                #[test]
                fn $name() {
                    if let Err(failure) = probe() {
                        println!("skipped: io_uring is refused here: {failure:?}");
                        return;
                    }
                    cases::$name(|limits: WireLimits, waker: Waker| UringWire::new(limits, UringOptions::default(), waker).unwrap());
                }
            )*
        }
        mod epoll {
            use super::*;
            $(
                #[test]
                fn $name() {
                    cases::$name(|limits: WireLimits, waker: Waker| EpollWire::new(limits, waker).unwrap());
                }
            )*
        }
    };
}

on_both_wires! {
    frames_of_awkward_sizes_come_back
    mixed_sizes_pipelined_on_many_connections
    a_slow_reader_is_bounded_and_loses_nothing
    half_close_lets_answers_out
    a_reset_is_an_error
    close_after_sends_delivers_everything
    close_now_is_the_last_event
    ids_of_closed_connections_are_dead
    incomplete_frames_make_no_events
    nothing_is_told_while_reading_is_off
    a_flood_does_not_starve_others
    wakes_and_timeouts_end_a_wait
    memory_of_closed_connections_is_given_back
    ten_thousand_messages_without_allocation
    random_lives_end_exactly_once
}

/// More bytes on their way than the ring has buffers, in buffers that split every frame.
#[test]
fn a_starved_pool_loses_nothing() {
    if probe().is_err() {
        println!("skipped: io_uring is refused here");
        return;
    }
    for (buffers, buffer_bytes) in [(2, 64), (8, 4096), (64, 1000)] {
        let options = UringOptions { buffers, buffer_bytes, entries: 8, completions: 16 };
        cases::mixed_sizes_pipelined_on_many_connections(|limits, waker| UringWire::new(limits, options, waker).unwrap());
        cases::random_lives_end_exactly_once(|limits, waker| UringWire::new(limits, options, waker).unwrap());
    }
}
