//! Sleeping: the ring's eventfd signals, or a timer on the ring does.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use io_uring::types::Timespec;
use io_uring::{opcode, squeue};

use super::UringWire;
use super::entries::tolerate;
use super::operation::Operation;
use crate::units::Span;
use crate::wire::Wire;

impl UringWire {
    /// What signals a completion after [`UringWire::prepare_sleep`], and a wake: the waker's eventfd. Whoever waits reads it (8 bytes).
    pub fn waiter(&self) -> RawFd {
        self.waker.as_raw_fd()
    }

    /// A duplicate of [`UringWire::waiter`], as the kind of file that an executor reads.
    pub fn waiter_as<F: FromRawFd>(&self) -> io::Result<F> {
        self.waker.duplicate()
    }

    /// Before a sleep on [`UringWire::waiter`]: hands everything to the kernel, arms a timer for `timeout`, lets the eventfd signal. False if there
    /// is something to do already. After the sleep: `turn`.
    pub fn prepare_sleep(&mut self, timeout: Option<Span>) -> io::Result<bool> {
        if let Some(span) = timeout {
            self.arm_timer(span)?;
        }
        // Silently: what completes at once, such as the send of the last reply, shall not end the sleep before it began.
        self.enter(true)?;
        if self.is_busy() {
            return Ok(false);
        }
        self.set_signals(true);
        // What came meanwhile gave no signal. The fence pairs with the kernel's: it posts or flags first and looks at our switch then.
        fence(Ordering::SeqCst);
        let may_sleep = !self.is_busy() && !self.ring.submission().taskrun() && self.ring.completion().is_empty();
        if !may_sleep {
            self.set_signals(false);
        }
        Ok(may_sleep)
    }

    pub(super) fn set_signals(&mut self, on: bool) {
        if self.signals != on {
            self.signals = on;
            let completions = self.ring.completion();
            if on { completions.enable_eventfd() } else { completions.disable_eventfd() }
        }
    }

    /// Makes the ring complete something within `span`. A timer that fires earlier (or hardly later) is left alone: waking once too often costs less than
    /// changing it at every sleep.
    fn arm_timer(&mut self, span: Span) -> io::Result<()> {
        let Some(at) = Instant::now().checked_add(Duration::from(span)) else { return Ok(()) };
        if self.timer_at.is_some_and(|armed| armed <= at + TIMER_SLACK) {
            return Ok(());
        }
        if !self.has_room()? {
            return Err(io::Error::other("the kernel takes no entries from an empty turn"));
        }
        *self.time = Timespec::from(Duration::from(span));
        let time: *const Timespec = &*self.time;
        let entry = if self.timer_at.is_some() {
            // Only a failure is told (the timer has just fired): the completion of each change would end the sleep that it was made for.
            let change = opcode::TimeoutUpdate::new(Operation::Timer.pack(), time).build();
            change.flags(squeue::Flags::SKIP_SUCCESS).user_data(Operation::TimerChange.pack())
        } else {
            opcode::Timeout::new(time).build().user_data(Operation::Timer.pack())
        };
        self.timer_at = Some(at);
        // SAFETY: the kernel copies the time while it takes the entry; the box stays in place and is not written before the entry is taken,
        // because every arming is followed by an entry into the kernel.
        unsafe { self.push(entry) };
        Ok(())
    }
}

/// Waits until the eventfd is readable, then empties it. Returns early when interrupted.
pub fn read_eventfd(fd: RawFd, timeout: Option<Span>) -> io::Result<()> {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let time = timeout.map(|span| libc::timespec { tv_sec: (span.0 / 1_000_000_000) as i64, tv_nsec: (span.0 % 1_000_000_000) as i64 });
    let time: *const libc::timespec = time.as_ref().map_or(std::ptr::null(), |time| time);
    // SAFETY: one descriptor and a time that live through the call; no signal mask.
    let ready = unsafe { libc::ppoll(&mut poll, 1, time, std::ptr::null()) };
    if ready < 0 {
        return tolerate(Err(io::Error::last_os_error()));
    }
    let mut count = 0u64;
    // SAFETY: eight writable bytes; the descriptor is readable, so that this does not block.
    if ready > 0 && unsafe { libc::read(fd, (&raw mut count).cast(), size_of::<u64>()) } < 0 {
        return tolerate(Err(io::Error::last_os_error()));
    }
    Ok(())
}

/// A timer may be so late: timers of a shard are in milliseconds, and moving one costs an entry.
const TIMER_SLACK: Duration = Duration::from_millis(1);
