//! Receiving: one look at each connection that may have something.

use std::os::fd::RawFd;

use super::{EpollWire, errno};
use crate::wire::shown::Shown;
use crate::wire::{Close, Event};

/// What a receive gave.
enum Taken {
    Bytes(usize),
    Nothing,
    End,
    Failed(i32),
}

impl EpollWire {
    /// One look at a connection of this turn.
    pub(super) fn examine(&mut self, index: u32) -> Option<Event> {
        if !self.table.is_live(index) {
            return None;
        }
        let id = self.table.id(index);
        let link = self.table.at(index);
        if link.line.is_over() {
            return Some(self.finish(index));
        }
        if link.line.close == Some(Close::AfterSends) {
            return self.discard(index);
        }
        if !link.line.reading || link.line.ended {
            return None;
        }
        if !link.readable {
            return None;
        }
        let direct = link.large || !link.line.inbox.is_empty();
        let (taken, wanted) = if direct {
            let left = self.limits.receive_bytes_max.saturating_sub(link.line.inbox.len());
            if left == 0 {
                link.stalled = true;
                return None;
            }
            let wanted = (link.line.inbox.need().saturating_sub(link.line.inbox.len()) + AHEAD_BYTES).min(left);
            link.line.inbox.settle(wanted);
            // SAFETY: `settle` made room for `wanted` bytes (the inbox is larger than `receive_bytes_max`) and nobody else writes there.
            (unsafe { receive(link.line.fd(), link.line.inbox.space(), wanted) }, wanted)
        } else {
            // SAFETY: the scratch buffer is this long and shows nobody's bytes any more (`settle` ran).
            (unsafe { receive(link.line.fd(), self.scratch.as_mut_ptr(), self.scratch.len()) }, self.scratch.len())
        };
        match taken {
            Taken::Bytes(bytes) => {
                link.readable = bytes == wanted || link.hangup;
                if link.readable {
                    self.attention.push(index);
                }
                if direct {
                    link.line.inbox.filled(bytes);
                    return link.line.is_worth_telling().then_some(Event::Received(id));
                }
                self.shown = Some(Shown { index, buffer: (), start: 0, end: bytes });
                Some(Event::Received(id))
            }
            Taken::Nothing => {
                link.readable = false;
                None
            }
            Taken::End => {
                link.readable = false;
                link.line.ended = true;
                Some(Event::Finished(id))
            }
            Taken::Failed(errno) => {
                link.line.failed = Some(errno);
                Some(self.finish(index))
            }
        }
    }

    /// A connection that closes after its sends: its input is thrown away until the peer closes too.
    fn discard(&mut self, index: u32) -> Option<Event> {
        let link = self.table.at(index);
        if link.readable && !link.line.ended {
            // SAFETY: the scratch buffer is this long and shows nobody's bytes any more.
            match unsafe { receive(link.line.fd(), self.scratch.as_mut_ptr(), self.scratch.len()) } {
                Taken::Bytes(_) => self.attention.push(index),
                Taken::Nothing => link.readable = false,
                Taken::End => link.line.ended = true,
                Taken::Failed(errno) => link.line.failed = Some(errno),
            }
        }
        let over = link.line.failed.is_some() || (link.line.half_closed && link.line.ended);
        over.then(|| self.finish(index))
    }

    fn finish(&mut self, index: u32) -> Event {
        let id = self.table.id(index);
        let cause = self.table.at(index).line.cause();
        // Closing the only descriptor takes the socket out of the epoll set.
        self.table.remove(index);
        Event::Closed(id, cause)
    }
}

/// One non-blocking receive.
///
/// # Safety
/// - `into` .. `into + bytes` is writable and nobody else's during the call.
unsafe fn receive(fd: RawFd, into: *mut u8, bytes: usize) -> Taken {
    loop {
        // SAFETY: the caller's promise.
        let taken = unsafe { libc::recv(fd, into.cast(), bytes, libc::MSG_DONTWAIT) };
        return match usize::try_from(taken) {
            Ok(0) => Taken::End,
            Ok(taken) => Taken::Bytes(taken),
            Err(_) => match errno() {
                libc::EINTR => continue,
                libc::EAGAIN => Taken::Nothing,
                errno => Taken::Failed(errno),
            },
        };
    }
}

/// How far beyond the frame under way a direct read may go: the next frame's start comes along, and a short read says that nothing is left.
const AHEAD_BYTES: usize = 16 << 10;
