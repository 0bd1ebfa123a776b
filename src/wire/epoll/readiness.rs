//! What the kernel says is ready.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::{EpollWire, errno};
use crate::units::Span;
use crate::wire::ConnectionId;

/// How a wait is told how long it may be.
#[derive(Clone, Copy, PartialEq)]
pub enum TimeoutKind {
    /// `epoll_pwait2`, Linux 5.11.
    Nanoseconds,
    /// `epoll_wait`.
    Milliseconds,
}

impl EpollWire {
    pub(super) fn watch(&self, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: `event` lives through the call.
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Asks the kernel what is ready, waiting at most for `timeout` (`None`: for ever).
    pub(super) fn collect(&mut self, timeout: Option<Span>) -> io::Result<()> {
        let count = match self.poll(timeout) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        for at in 0..count {
            let (events, data) = (self.ready[at].events, self.ready[at].u64);
            if data == WAKE {
                continue;
            }
            let id = ConnectionId { index: data as u32, generation: (data >> 32) as u32 };
            let Some(link) = self.table.get_mut(id) else { continue };
            if events & (IN | HANGUP) != 0 {
                link.readable = true;
                link.hangup |= events & HANGUP != 0;
                self.attention.push(id.index);
            }
            if events & (OUT | HANGUP) != 0 {
                link.writable = true;
                if !link.line.outbox.is_empty() {
                    self.dirty.push(id.index);
                }
            }
        }
        Ok(())
    }

    fn poll(&mut self, timeout: Option<Span>) -> io::Result<usize> {
        let (epoll, ready, max) = (self.epoll.as_raw_fd(), self.ready.as_mut_ptr(), READY_MAX as i32);
        if let (Some(span), TimeoutKind::Nanoseconds) = (timeout, self.timeout_kind)
            && span > Span::ZERO
        {
            let time = libc::timespec { tv_sec: (span.0 / 1_000_000_000) as i64, tv_nsec: (span.0 % 1_000_000_000) as i64 };
            // SAFETY: `ready` has room for `max` events and `time` lives through the call; no signal mask.
            let count = unsafe { libc::syscall(libc::SYS_epoll_pwait2, epoll, ready, max, &time, std::ptr::null::<libc::c_void>(), 0) };
            match usize::try_from(count) {
                Ok(count) => return Ok(count),
                Err(_) if matches!(errno(), libc::ENOSYS | libc::EPERM) => self.timeout_kind = TimeoutKind::Milliseconds,
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
        let timeout_ms = timeout.map_or(-1, |span| i32::try_from(span.0.div_ceil(1_000_000)).unwrap_or(i32::MAX));
        // SAFETY: `ready` has room for `max` events.
        let count = unsafe { libc::epoll_wait(epoll, ready, max, timeout_ms) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

pub const IN: u32 = libc::EPOLLIN as u32;
pub const OUT: u32 = libc::EPOLLOUT as u32;
pub const HANGUP: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;

/// `epoll_event.u64` of the waker; no connection has this index.
pub const WAKE: u64 = u64::MAX;

/// Ready descriptors taken per turn; more come next turn.
pub const READY_MAX: usize = 256;
