//! What is handed to the kernel: which operation a connection needs next, and the entry into the kernel that takes it there.

use std::io;

use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};

use super::link::{Receive, Sending};
use super::operation::Operation;
use super::{CHUNK_BYTES, RingKind, UringWire, pool};
use crate::wire::{Close, ConnectionId};

impl UringWire {
    /// Puts an entry into the submission queue, which has room: see [`UringWire::has_room`].
    ///
    /// # Safety
    /// - Memory that the entry names stays in place, and untouched as the operation demands, until its completion.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: the caller's promise.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        assert!(pushed.is_ok(), "an entry was pushed without looking for room");
    }

    /// Whether the submission queue takes [`ENTRIES_AT_ONCE`] more; a full one is handed to the kernel first.
    pub(super) fn has_room(&mut self) -> io::Result<bool> {
        let room = |ring: &mut IoUring| {
            let submission = ring.submission();
            submission.capacity() - submission.len() >= ENTRIES_AT_ONCE
        };
        if !room(&mut self.ring) {
            tolerate(self.ring.submit().map(drop))?;
        }
        Ok(room(&mut self.ring))
    }

    /// One entry into the kernel without waiting; none if there is nothing to hand over or to take (`force` enters all the same).
    pub(super) fn enter(&mut self, force: bool) -> io::Result<()> {
        self.settle();
        self.advance_all()?;
        self.pool.publish();
        let (waiting, pending) = {
            let submission = self.ring.submission();
            (submission.len(), submission.taskrun() || submission.cq_overflow())
        };
        if force || waiting > 0 || pending || self.kind == RingKind::Plain {
            // SAFETY: no argument is passed. GETEVENTS makes deferred work run although nothing is waited for.
            let entered = unsafe { self.ring.submitter().enter::<libc::sigset_t>(waiting as u32, 0, ENTER_GETEVENTS, None) };
            tolerate(entered.map(drop))?;
        }
        self.turn_left = self.ring.completion().len();
        self.woken |= self.waker.take();
        Ok(())
    }

    fn advance_all(&mut self) -> io::Result<()> {
        for _ in 0..self.attention.len() {
            if !self.has_room()? {
                break;
            }
            let Some(index) = self.attention.pop() else { break };
            if self.table.is_live(index) {
                self.advance(index);
            }
        }
        Ok(())
    }

    /// Decides the next operations of a connection: at most [`ENTRIES_AT_ONCE`].
    fn advance(&mut self, index: u32) {
        let id = self.table.id(index);
        let link = self.table.at(index);
        if link.line.is_over() {
            if link.receive == Receive::Idle && link.send == Sending::Idle {
                self.ended.push(index);
                return;
            }
            self.end_receive(index, id);
            self.end_send(index, id);
            return;
        }
        if link.send == Sending::Idle && !link.line.outbox.is_empty() {
            self.start_send(index, id);
        }
        let link = self.table.at(index);
        if link.line.close == Some(Close::AfterSends) {
            if link.send == Sending::Idle {
                link.line.half_close();
                if link.line.ended && link.receive == Receive::Idle {
                    self.ended.push(index);
                    return;
                }
            }
            self.start_receive(index, id);
            return;
        }
        let full = link.line.inbox.len() >= self.limits.receive_bytes_max;
        match link.receive {
            Receive::Multishot if !link.line.reading || link.large || full => self.end_receive(index, id),
            Receive::Idle if link.line.reading && !full => self.start_receive(index, id),
            _ => {}
        }
    }

    fn start_receive(&mut self, index: u32, id: ConnectionId) {
        let left = self.limits.receive_bytes_max;
        let link = self.table.at(index);
        if link.receive != Receive::Idle || link.line.ended {
            return;
        }
        let fd = Fd(link.line.fd());
        let entry = if link.large {
            if link.line.close.is_some() {
                // Thrown away as it comes.
                link.line.inbox.consume(link.line.inbox.len());
            }
            let have = link.line.inbox.len();
            let missing = link.line.inbox.need().saturating_sub(have);
            let (bytes, flags) = match missing {
                0 => (link.frame_bytes.max(CHUNK_BYTES).min(left - have), 0),
                missing => (missing, libc::MSG_WAITALL),
            };
            link.line.inbox.settle(bytes);
            link.receive = Receive::Single;
            opcode::Recv::new(fd, link.line.inbox.space(), bytes as u32).flags(flags).build()
        } else {
            link.receive = Receive::Multishot;
            opcode::RecvMulti::new(fd, pool::GROUP).build()
        };
        self.under_way += 1;
        // SAFETY: a single receive writes into the inbox's free space, which nobody moves or hands out until its completion; a multishot writes
        // only into provided buffers. The slot is not reused before the terminal completion.
        unsafe { self.push(entry.user_data(Operation::Receive(id).pack())) };
    }

    fn end_receive(&mut self, index: u32, id: ConnectionId) {
        let link = self.table.at(index);
        if !matches!(link.receive, Receive::Multishot | Receive::Single) {
            return;
        }
        link.receive = Receive::Ending;
        let entry = opcode::AsyncCancel::new(Operation::Receive(id).pack()).build().user_data(Operation::Cancel.pack());
        // SAFETY: names no memory.
        unsafe { self.push(entry) };
    }

    fn start_send(&mut self, index: u32, id: ConnectionId) {
        let link = self.table.at(index);
        link.send = Sending::UnderWay;
        let front = link.line.outbox.front();
        let bytes = front.len().min(SEND_BYTES_MAX) as u32;
        let entry = opcode::Send::new(Fd(link.line.fd()), front.as_ptr(), bytes).flags(libc::MSG_NOSIGNAL).build();
        self.under_way += 1;
        // SAFETY: the front of the outbox stays in place and unchanged until `sent`, which the completion calls; pushes go behind it.
        unsafe { self.push(entry.user_data(Operation::Send(id).pack())) };
    }

    fn end_send(&mut self, index: u32, id: ConnectionId) {
        let link = self.table.at(index);
        if link.send != Sending::UnderWay {
            return;
        }
        link.send = Sending::Ending;
        let entry = opcode::AsyncCancel::new(Operation::Send(id).pack()).build().user_data(Operation::Cancel.pack());
        // SAFETY: names no memory.
        unsafe { self.push(entry) };
    }
}

/// Outcomes of an entry that are no failure: interrupted, timed out, or the completion queue must be drained first.
pub fn tolerate(entered: io::Result<()>) -> io::Result<()> {
    match entered {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN)) => Ok(()),
        other => other,
    }
}

/// Entries that one connection may need in a turn: a send and a receive, or two cancels; with some to spare.
const ENTRIES_AT_ONCE: usize = 4;

/// `IORING_ENTER_GETEVENTS`.
pub const ENTER_GETEVENTS: u32 = 1;

/// Length of one send; the kernel takes an `i32`.
const SEND_BYTES_MAX: usize = 1 << 30;
