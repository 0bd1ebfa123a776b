//! The wire on epoll: edge-triggered, one `recv` per connection and turn, one `send` per connection that has something to say. For places where
//! io_uring is forbidden.
//!
//! Bytes of a connection without a partial frame are read into one scratch buffer of the wire and shown there; what the shard leaves is copied
//! to the connection's own memory. A connection that has announced a frame larger than the scratch buffer reads straight into its own memory
//! from then on.

mod readiness;
mod receive;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use self::readiness::{HANGUP, IN, OUT, READY_MAX, TimeoutKind, WAKE};
use super::fifo::Fifo;
use super::line::{HasLine, Line, Table};
use super::region::Region;
use super::shown::Shown;
use super::{Close, ConnectionId, Event, SendFull, Waker, Wire, WireLimits};
use crate::units::Span;

/// Sockets of one shard on epoll.
pub struct EpollWire {
    epoll: OwnedFd,
    waker: Waker,
    limits: WireLimits,
    table: Table<Link>,
    scratch: Box<[u8]>,
    shown: Option<Shown<()>>,
    /// Connections with bytes to send on a socket that takes them.
    dirty: Fifo,
    /// Connections whose queue ran empty.
    sent: Fifo,
    /// Connections with something to read, to tell or to end.
    attention: Fifo,
    /// How many of `attention` belong to this turn.
    turn_left: usize,
    woken: bool,
    ready: Box<[libc::epoll_event]>,
    timeout_kind: TimeoutKind,
    /// Memory of `table`; dropped after it.
    _region: Region,
}

struct Link {
    line: Line,
    /// The socket may have bytes, its end or an error.
    readable: bool,
    /// The socket may take bytes.
    writable: bool,
    /// The kernel announced the end of the stream: a short read does not mean that nothing is left.
    hangup: bool,
    /// Frames are larger than the scratch buffer.
    large: bool,
    /// As many bytes are unconsumed as may be.
    stalled: bool,
}

impl HasLine for Link {
    fn line(&self) -> &Line {
        &self.line
    }
    fn line_mut(&mut self) -> &mut Line {
        &mut self.line
    }
}

impl EpollWire {
    /// A wire woken by `waker`. Errors: no descriptor or no address space left.
    pub fn new(limits: WireLimits, waker: Waker) -> io::Result<EpollWire> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just returned by the kernel, owned by nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let (table, region) = Table::new(limits, SCRATCH_BYTES, |line| Link {
            line,
            readable: false,
            writable: false,
            hangup: false,
            large: false,
            stalled: false,
        })?;
        let wire = EpollWire {
            epoll,
            waker,
            limits,
            scratch: vec![0; SCRATCH_BYTES].into(),
            shown: None,
            dirty: Fifo::new(table.capacity()),
            sent: Fifo::new(table.capacity()),
            attention: Fifo::new(table.capacity()),
            table,
            turn_left: 0,
            woken: false,
            ready: vec![libc::epoll_event { events: 0, u64: 0 }; READY_MAX].into(),
            timeout_kind: TimeoutKind::Nanoseconds,
            _region: region,
        };
        // Edge-triggered: the eventfd is never read, each write is an edge.
        wire.watch(wire.waker.as_raw_fd(), libc::EPOLLIN as u32 | libc::EPOLLET as u32, WAKE)?;
        Ok(wire)
    }

    /// Sends what is queued where the socket takes it.
    fn flush(&mut self) {
        while let Some(index) = self.dirty.pop() {
            if !self.table.is_live(index) {
                continue;
            }
            let link = self.table.at(index);
            if link.line.is_over() {
                continue;
            }
            while link.writable && !link.line.outbox.is_empty() {
                let front = link.line.outbox.front();
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                // SAFETY: `front` is initialised memory that lives through the call.
                let taken = unsafe { libc::send(link.line.fd(), front.as_ptr().cast(), front.len(), flags) };
                if let Ok(taken) = usize::try_from(taken) {
                    link.writable = taken == front.len();
                    link.line.outbox.sent(taken);
                    continue;
                }
                match errno() {
                    libc::EINTR => {}
                    libc::EAGAIN => link.writable = false,
                    failed => {
                        link.line.failed = Some(failed);
                        self.attention.push(index);
                        break;
                    }
                }
            }
            if link.line.outbox.is_empty() && link.line.failed.is_none() {
                if link.line.close == Some(Close::AfterSends) {
                    link.line.half_close();
                    self.attention.push(index);
                } else {
                    self.sent.push(index);
                }
            }
        }
    }

    fn enter(&mut self, timeout: Option<Span>) -> io::Result<()> {
        self.settle();
        self.flush();
        let timeout = if self.waker.is_rung() || !self.sent.is_empty() || !self.attention.is_empty() { Some(Span::ZERO) } else { timeout };
        self.collect(timeout)?;
        self.woken |= self.waker.take();
        self.flush();
        self.turn_left = self.attention.len();
        Ok(())
    }

    /// Moves what the shard left in the scratch buffer to the connection's own memory.
    fn settle(&mut self) {
        if let Some(Shown { index, start, end, .. }) = self.shown.take()
            && start < end
        {
            let kept = self.table.at(index).line.inbox.append(&self.scratch[start..end]);
            assert!(kept, "an empty inbox holds a scratch buffer");
        }
    }
}

impl Wire for EpollWire {
    fn adopt(&mut self, socket: OwnedFd) -> io::Result<ConnectionId> {
        let fd = socket.as_raw_fd();
        let id = self.table.insert(socket)?;
        let link = self.table.at(id.index);
        (link.readable, link.writable, link.hangup, link.large, link.stalled) = (false, true, false, false, false);
        if let Err(error) = self.watch(fd, IN | OUT | HANGUP | libc::EPOLLET as u32, u64::from(id.generation) << 32 | u64::from(id.index)) {
            self.table.remove(id.index);
            return Err(error);
        }
        Ok(id)
    }

    fn turn(&mut self) -> io::Result<()> {
        self.enter(Some(Span::ZERO))
    }

    fn wait(&mut self, timeout: Option<Span>) -> io::Result<()> {
        self.enter(timeout)
    }

    fn next(&mut self) -> Option<Event> {
        self.settle();
        if std::mem::take(&mut self.woken) {
            return Some(Event::Woken);
        }
        while let Some(index) = self.sent.pop() {
            if self.table.is_live(index) {
                let line = &self.table.at(index).line;
                if line.outbox.is_empty() && line.close.is_none() && line.failed.is_none() {
                    return Some(Event::Sent(self.table.id(index)));
                }
            }
        }
        while self.turn_left > 0 {
            self.turn_left -= 1;
            let index = self.attention.pop()?;
            if let Some(event) = self.examine(index) {
                return Some(event);
            }
        }
        None
    }

    fn received(&self, connection: ConnectionId) -> &[u8] {
        self.table.received(connection, &self.shown, |shown| &self.scratch[shown.start..shown.end])
    }

    fn consume(&mut self, connection: ConnectionId, bytes: usize) {
        let Some(link) = self.table.open_mut(connection) else { return };
        match &mut self.shown {
            Some(shown) if shown.is_of(connection) => {
                shown.consume(bytes);
                link.line.inbox.set_need(0);
            }
            _ => link.line.inbox.consume(bytes),
        }
        if std::mem::take(&mut link.stalled) {
            self.attention.push(connection.index);
        }
    }

    fn need(&mut self, connection: ConnectionId, bytes: usize) {
        let bytes = bytes.min(self.limits.receive_bytes_max);
        let Some(link) = self.table.open_mut(connection) else { return };
        link.large |= bytes > SCRATCH_BYTES;
        link.line.inbox.set_need(bytes);
    }

    fn set_reading(&mut self, connection: ConnectionId, reading: bool) {
        let Some(link) = self.table.open_mut(connection) else { return };
        link.line.reading = reading;
        if reading && link.readable {
            self.attention.push(connection.index);
        }
    }

    fn send(&mut self, connection: ConnectionId, bytes: &[u8]) -> Result<(), SendFull> {
        if self.table.queue(connection, bytes)?.is_some_and(|link| link.writable) {
            self.dirty.push(connection.index);
        }
        Ok(())
    }

    fn unsent(&self, connection: ConnectionId) -> usize {
        self.table.unsent(connection)
    }

    fn close(&mut self, connection: ConnectionId, how: Close) {
        let Some(link) = self.table.close(connection, how) else { return };
        if self.shown.as_ref().is_some_and(|shown| shown.is_of(connection)) {
            self.shown = None;
        }
        // The end of the stream may have been read already.
        link.readable |= !link.line.ended;
        if link.line.outbox.is_empty() && how == Close::AfterSends {
            link.line.half_close();
        }
        self.attention.push(connection.index);
    }

    fn is_busy(&self) -> bool {
        self.woken || self.waker.is_rung() || !self.attention.is_empty() || !self.sent.is_empty() || !self.dirty.is_empty()
    }

    fn connections(&self) -> usize {
        self.table.len()
    }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Bytes read at once. Larger frames are read straight into the connection's memory.
const SCRATCH_BYTES: usize = 64 << 10;
