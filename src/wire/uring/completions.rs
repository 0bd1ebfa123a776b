//! What the kernel gives back: completions become events.

use io_uring::cqueue;

use super::operation::Operation;
use super::{UringWire, link::Receive, link::Sending};
use crate::wire::shown::Shown;
use crate::wire::{ConnectionId, Event};

impl UringWire {
    /// Moves what the shard left in a provided buffer to the connection's own memory, and gives the buffer back.
    pub(super) fn settle(&mut self) {
        if let Some(Shown { index, buffer, start, end }) = self.shown.take() {
            if start < end {
                let kept = self.table.at(index).line.inbox.append(self.pool.bytes(buffer, start, end));
                assert!(kept, "an empty inbox holds a provided buffer");
            }
            self.pool.give(buffer);
        }
    }

    pub(super) fn completed(&mut self, entry: cqueue::Entry) -> Option<Event> {
        let operation = Operation::unpack(entry.user_data());
        match operation {
            Some(Operation::Receive(id)) => self.receive_completed(id, &entry),
            Some(Operation::Send(id)) => self.send_completed(id, entry.result()),
            Some(Operation::Timer) => {
                self.timer_at = None;
                None
            }
            Some(Operation::Cancel | Operation::TimerChange) | None => None,
        }
    }

    fn receive_completed(&mut self, id: ConnectionId, entry: &cqueue::Entry) -> Option<Event> {
        let index = id.index;
        let buffer = cqueue::buffer_select(entry.flags());
        let ended = !cqueue::more(entry.flags());
        let link = self.table.at(index);
        debug_assert!(link.line.socket.is_some(), "a completion of a free slot");
        if ended {
            link.receive = Receive::Idle;
            self.under_way -= 1;
            self.attention.push(index);
        }
        let mut told = None;
        match usize::try_from(entry.result()) {
            Ok(0) => {
                (link.line.ended, link.end_untold) = (true, true);
                if link.line.reading && link.line.close.is_none() && link.line.failed.is_none() {
                    link.end_untold = false;
                    told = Some(Event::Finished(id));
                }
            }
            Ok(_) if link.line.close.is_some() || link.line.failed.is_some() => {}
            Ok(bytes) => {
                match buffer {
                    Some(buffer) if link.line.inbox.is_empty() && link.line.reading => {
                        self.shown = Some(Shown { index, buffer, start: 0, end: bytes });
                        return Some(Event::Received(id));
                    }
                    Some(buffer) => {
                        let kept = link.line.inbox.append(self.pool.bytes(buffer, 0, bytes));
                        assert!(kept, "a full inbox has room for all provided buffers");
                    }
                    None => link.line.inbox.filled(bytes),
                }
                if link.line.inbox.len() >= self.limits.receive_bytes_max {
                    self.attention.push(index);
                }
                link.unannounced |= !link.line.reading;
                told = (link.line.reading && link.line.is_worth_telling()).then_some(Event::Received(id));
            }
            Err(_) => match -entry.result() {
                // The pool was empty; it is whole again when the next receive is armed. Or: the kernel wants it asked again.
                libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
                errno => link.line.failed = link.line.failed.or(Some(errno)),
            },
        }
        if let Some(buffer) = buffer {
            self.pool.give(buffer);
        }
        told
    }

    fn send_completed(&mut self, id: ConnectionId, result: i32) -> Option<Event> {
        self.under_way -= 1;
        let link = self.table.at(id.index);
        link.send = Sending::Idle;
        match usize::try_from(result) {
            Ok(bytes) => link.line.outbox.sent(bytes),
            Err(_) if matches!(-result, libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
            Err(_) => link.line.failed = link.line.failed.or(Some(-result)),
        }
        if link.line.outbox.is_empty() && link.line.close.is_none() && link.line.failed.is_none() {
            return Some(Event::Sent(id));
        }
        self.attention.push(id.index);
        None
    }

    pub(super) fn announced(&mut self, index: u32) -> Option<Event> {
        let id = self.table.id(index);
        let link = self.table.at(index);
        let line = &link.line;
        if line.socket.is_none() || !line.reading || line.close.is_some() || line.failed.is_some() {
            return None;
        }
        if std::mem::take(&mut link.unannounced) && link.line.is_worth_telling() {
            if link.end_untold {
                self.announce.push(index);
            }
            return Some(Event::Received(id));
        }
        std::mem::take(&mut link.end_untold).then_some(Event::Finished(id))
    }
}
