//! The wire on epoll: edge-triggered, one `recv` per connection and turn, one `send` per connection that has something to say. For places where
//! io_uring is forbidden.
//!
//! Bytes of a connection without a partial frame are read into one scratch buffer of the wire and shown there; what the shard leaves is copied
//! to the connection's own memory. A connection that has announced a frame larger than the scratch buffer reads straight into its own memory
//! from then on.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::fifo::Fifo;
use super::line::{HasLine, Line, Table};
use super::region::Region;
use super::{Close, ConnectionId, Event, SendFull, Waker, Wire, WireLimits};
use crate::units::Span;

/// Sockets of one shard on epoll.
pub struct EpollWire {
    epoll: OwnedFd,
    waker: Waker,
    limits: WireLimits,
    table: Table<Link>,
    scratch: Box<[u8]>,
    shown: Option<Shown>,
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

/// Which connection's bytes lie in the scratch buffer.
struct Shown {
    index: u32,
    start: usize,
    end: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum TimeoutKind {
    /// `epoll_pwait2`, Linux 5.11.
    Nanoseconds,
    /// `epoll_wait`.
    Milliseconds,
}

/// What a receive gave.
enum Taken {
    Bytes(usize),
    Nothing,
    End,
    Failed(i32),
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

    fn watch(&self, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: `event` lives through the call.
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
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

    /// Asks the kernel what is ready, waiting at most for `timeout` (`None`: for ever).
    fn collect(&mut self, timeout: Option<Span>) -> io::Result<()> {
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
        if let Some(Shown { index, start, end }) = self.shown.take()
            && start < end
        {
            let kept = self.table.at(index).line.inbox.append(&self.scratch[start..end]);
            assert!(kept, "an empty inbox holds a scratch buffer");
        }
    }

    /// One look at a connection of this turn.
    fn examine(&mut self, index: u32) -> Option<Event> {
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
                self.shown = Some(Shown { index, start: 0, end: bytes });
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
        match (self.table.open(connection), &self.shown) {
            (Some(_), Some(shown)) if shown.index == connection.index => &self.scratch[shown.start..shown.end],
            (Some(link), _) => link.line.inbox.bytes(),
            (None, _) => &[],
        }
    }

    fn consume(&mut self, connection: ConnectionId, bytes: usize) {
        let Some(link) = self.table.open_mut(connection) else { return };
        match &mut self.shown {
            Some(shown) if shown.index == connection.index => {
                assert!(bytes <= shown.end - shown.start, "more consumed than received");
                shown.start += bytes;
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
        let Some(link) = self.table.open_mut(connection) else { return Ok(()) };
        link.line.outbox.push(bytes)?;
        if link.writable {
            self.dirty.push(connection.index);
        }
        Ok(())
    }

    fn unsent(&self, connection: ConnectionId) -> usize {
        self.table.get(connection).map_or(0, |link| link.line.outbox.len())
    }

    fn close(&mut self, connection: ConnectionId, how: Close) {
        let Some(link) = self.table.get_mut(connection) else { return };
        if link.line.close != Some(Close::Now) {
            link.line.close = Some(how);
        }
        if matches!(&self.shown, Some(shown) if shown.index == connection.index) {
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

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;
const HANGUP: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;

/// `epoll_event.u64` of the waker; no connection has this index.
const WAKE: u64 = u64::MAX;

/// Ready descriptors taken per turn; more come next turn.
const READY_MAX: usize = 256;

/// Bytes read at once. Larger frames are read straight into the connection's memory.
const SCRATCH_BYTES: usize = 64 << 10;

/// How far beyond the frame under way a direct read may go: the next frame's start comes along, and a short read says that nothing is left.
const AHEAD_BYTES: usize = 16 << 10;
