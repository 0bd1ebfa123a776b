//! A shard on io_uring: the main task of a glommio executor turns the wire's own ring and does not await while it is busy. Idle, it awaits the
//! ring's eventfd through the executor, whose other tasks run meanwhile; busy, it lets them run if there are any ([`Reactor::shares_executor`]).

use std::io::{self, Error};

use glommio::io::BufferedFile;
use glommio::{LocalExecutorBuilder, Placement};

use super::{Reactor, ShardOptions, Spin, Turn, timeout};
use crate::units::Span;
use crate::wire::{UringWire, Waker, Wire};

/// Runs the shard on the calling thread until it stops. The preflight has passed: glommio would panic with a wrong reason otherwise. The thread
/// is pinned by us, not by glommio, which knows only the machine's CPUs and not the process's.
pub fn run<R: Reactor<UringWire> + 'static>(
    options: ShardOptions,
    waker: Waker,
    make: impl FnOnce() -> io::Result<R>,
    started: impl FnOnce(),
) -> io::Result<()> {
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name(&format!("shard-{}", options.shard))
        .io_memory(IO_MEMORY_BYTES)
        .make()
        .map_err(|error| Error::other(format!("the glommio executor did not start: {error}")))?;
    executor.run(async move {
        let mut wire = UringWire::new(options.limits, options.uring, waker)?;
        let bell = Bell::new(&wire)?;
        let mut reactor = make()?;
        started();
        let outcome = drive(&options, &mut wire, &mut reactor, &bell).await;
        bell.close().await;
        outcome
    })
}

async fn drive<R: Reactor<UringWire>>(options: &ShardOptions, wire: &mut UringWire, reactor: &mut R, bell: &Bell) -> io::Result<()> {
    let mut spin = Spin::new(options.spin);
    let mut entered = false;
    let mut rounds = 0u32;
    loop {
        if !std::mem::take(&mut entered) {
            wire.turn()?;
        }
        let now = options.clock.now();
        match reactor.turn(wire, now) {
            Turn::Stop => return Ok(()),
            Turn::Busy => spin.reset(),
            Turn::IdleUntil(until) => {
                let timeout = timeout(until, now);
                if timeout != Some(Span::ZERO) && spin.is_over(now) && reactor.may_sleep() {
                    spin.reset();
                    // Sends what is queued and looks once more; what it found is the next round's.
                    if wire.prepare_sleep(timeout)? {
                        reactor.sleeps();
                        bell.rung().await?;
                    } else {
                        entered = true;
                    }
                } else if wire.is_busy() {
                    spin.reset();
                }
            }
        }
        rounds = rounds.wrapping_add(1);
        if rounds.is_multiple_of(ROUNDS_PER_LOOK) && reactor.shares_executor() {
            glommio::executor().yield_if_needed().await;
        }
    }
}

/// The ring's eventfd as a file of the executor.
struct Bell(BufferedFile);

impl Bell {
    fn new(wire: &UringWire) -> io::Result<Bell> {
        Ok(Bell(wire.waiter_as()?))
    }

    /// Waits for a completion of the wire's ring.
    async fn rung(&self) -> io::Result<()> {
        match self.0.read_at(0, size_of::<u64>()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::other(format!("reading the eventfd of the ring: {error}"))),
        }
    }

    async fn close(self) {
        let _ = self.0.close().await;
    }
}

/// Memory that glommio registers for direct I/O; the shard does none, and each registered byte counts against `RLIMIT_MEMLOCK`.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// Rounds between looks at whether the executor wants to run something else. Its own time slice is 100 ms; a round is microseconds.
const ROUNDS_PER_LOOK: u32 = 64;
