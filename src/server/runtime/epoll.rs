//! A shard on epoll: a plain thread that blocks in `epoll_wait`.

use std::io;

use super::{Reactor, ShardOptions, Spin, Turn, timeout};
use crate::units::Span;
use crate::wire::{EpollWire, Waker, Wire};

/// Runs the shard on the calling thread until it stops.
pub fn run<R: Reactor<EpollWire>>(
    options: ShardOptions,
    waker: Waker,
    make: impl FnOnce() -> io::Result<R>,
    started: impl FnOnce(),
) -> io::Result<()> {
    let mut wire = EpollWire::new(options.limits, waker)?;
    let mut reactor = make()?;
    started();
    let mut spin = Spin::new(options.spin);
    let mut sleep = Some(Span::ZERO);
    loop {
        match sleep {
            Some(Span::ZERO) => wire.turn()?,
            timeout => wire.wait(timeout)?,
        }
        let now = options.clock.now();
        sleep = Some(Span::ZERO);
        match reactor.turn(&mut wire, now) {
            Turn::Stop => return Ok(()),
            Turn::Busy => spin.reset(),
            Turn::IdleUntil(until) => {
                // Queued sends need no turn of their own: `wait` sends before it sleeps.
                let timeout = timeout(until, now);
                if timeout != Some(Span::ZERO) && spin.is_over(now) && reactor.may_sleep() {
                    sleep = timeout;
                    reactor.sleeps();
                    spin.reset();
                } else if wire.is_busy() {
                    spin.reset();
                }
            }
        }
    }
}
