//! Wall time, and the CPU time of the calling thread: on a machine that does other work too, only the latter says what a computation took.

use std::time::Instant;

/// Two clocks at one moment.
#[derive(Clone, Copy)]
pub struct Moment {
    wall: Instant,
    cpu_ns: u64,
}

/// Time on both clocks, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub wall_ns: u64,
    pub cpu_ns: u64,
}

impl Moment {
    pub fn now() -> Moment {
        let cpu_ns = thread_cpu_ns();
        Moment { wall: Instant::now(), cpu_ns }
    }

    /// Time since then.
    pub fn elapsed(&self) -> Spent {
        let wall_ns = self.wall.elapsed().as_nanos() as u64;
        Spent { wall_ns, cpu_ns: thread_cpu_ns() - self.cpu_ns }
    }
}

fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0, "Linux has this clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
