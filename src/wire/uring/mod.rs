//! The wire on io_uring: one ring per shard, one entry into the kernel per turn.
//!
//! - **Receiving.** A connection starts with one multishot receive: the kernel picks a provided buffer when bytes arrive. A frame inside one
//!   buffer is shown where it lies; what the shard leaves is copied to the connection's own memory at the next event, and the buffer goes back:
//!   no buffer is held across turns, so the pool is whole again at every entry and an exhausted pool (`ENOBUFS`) is only a pause.
//! - **Large frames.** A connection that has announced a frame larger than a provided buffer switches to single receives into its own memory,
//!   `MSG_WAITALL` where the missing length is known. The multishot is cancelled first and seen off: its last completions carry bytes too, and
//!   they come before those of the single receive.
//! - **Sending.** One send per connection is under way; its completion is always seen, a short one is continued. More is queued behind it.
//! - **Slots.** An index is free again only after the terminal completion of everything that the kernel had of it.
//! - **Sleeping.** The ring's eventfd is silent while the shard is busy and signals completions once [`UringWire::prepare_sleep`] said yes.
//!
//! Needs Linux 6.0 (multishot receive, provided-buffer rings); with 6.1 completions are deferred to our own entries.

mod completions;
mod entries;
mod link;
mod operation;
mod pool;
mod probe;
mod setup;
mod sleep;
mod teardown;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

use io_uring::IoUring;
use io_uring::types::Timespec;

use self::link::{Link, Sending};
use self::pool::Pool;
use self::sleep::read_eventfd;
use super::fifo::Fifo;
use super::line::Table;
use super::region::Region;
use super::shown::Shown;
use super::{Close, ConnectionId, Event, SendFull, Waker, Wire, WireLimits};
use crate::limits::RECEIVE_SLACK_BYTES;
use crate::units::Span;

pub use self::probe::{ProbeFailure, ProbeStep, probe};
pub use self::setup::{RingKind, make_ring};

/// Sizes of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UringOptions {
    /// Provided buffers, a power of two ≤ 32,768. More: fewer pauses under bursts. Fewer: they stay in cache.
    pub buffers: u16,
    /// Bytes per provided buffer: the largest frame that is read in place.
    pub buffer_bytes: usize,
    /// Submission entries; a turn that needs more enters the kernel more often.
    pub entries: u32,
    /// Completion entries. Rings are charged to `RLIMIT_MEMLOCK` (16 bytes each).
    pub completions: u32,
}

impl Default for UringOptions {
    fn default() -> UringOptions {
        UringOptions { buffers: (RECEIVE_SLACK_BYTES / BUFFER_BYTES) as u16, buffer_bytes: BUFFER_BYTES, entries: 256, completions: 2048 }
    }
}

/// Sockets of one shard on io_uring. Made and used by one thread.
pub struct UringWire {
    ring: IoUring,
    kind: RingKind,
    pool: Pool,
    waker: Waker,
    limits: WireLimits,
    table: Table<Link>,
    /// The provided buffer whose bytes the shard is looking at.
    shown: Option<Shown<u16>>,
    /// Connections whose next operation must be decided: arm, send, cancel or end.
    attention: Fifo,
    /// Connections with news that no completion brings: reading went on again.
    announce: Fifo,
    /// Connections that ended in `turn`.
    ended: Fifo,
    /// Completions that belong to this turn.
    turn_left: usize,
    /// The ring signals its eventfd, which is the waker's.
    signals: bool,
    /// The waker was used; the shard does not know yet.
    woken: bool,
    /// When the timer under way fires.
    timer_at: Option<Instant>,
    /// The kernel reads it by address while it takes a timer's entry; boxed so that it stays in place.
    time: Box<Timespec>,
    /// Operations of connections under way: what must be over before memory is unmapped.
    under_way: usize,
    _region: Region,
}

impl UringWire {
    /// A wire woken by `waker`, on a ring of its own that belongs to the calling thread. Errors: as the server's preflight explains them.
    pub fn new(limits: WireLimits, options: UringOptions, waker: Waker) -> io::Result<UringWire> {
        let (ring, kind) = make_ring(options.entries, options.completions)?;
        let pool = Pool::new(&ring, options.buffers, options.buffer_bytes)?;
        // What a cancelled multishot may still deliver fits behind a full inbox.
        let slack = (usize::from(options.buffers) * options.buffer_bytes).max(CHUNK_BYTES);
        let (table, region) = Table::new(limits, slack, Link::new)?;
        ring.submitter().register_eventfd(waker.as_raw_fd())?;
        let mut wire = UringWire {
            ring,
            kind,
            pool,
            waker,
            limits,
            shown: None,
            attention: Fifo::new(table.capacity()),
            announce: Fifo::new(table.capacity()),
            ended: Fifo::new(table.capacity()),
            table,
            turn_left: 0,
            signals: true,
            woken: false,
            timer_at: None,
            time: Box::default(),
            under_way: 0,
            _region: region,
        };
        wire.set_signals(false);
        Ok(wire)
    }

    /// How the ring was set up.
    pub fn kind(&self) -> RingKind {
        self.kind
    }
}

impl Wire for UringWire {
    fn adopt(&mut self, socket: OwnedFd) -> io::Result<ConnectionId> {
        // On a non-blocking socket the ring would report EAGAIN instead of waiting.
        set_blocking(socket.as_raw_fd())?;
        let id = self.table.insert(socket)?;
        self.table.at(id.index).begin();
        self.attention.push(id.index);
        Ok(id)
    }

    fn turn(&mut self) -> io::Result<()> {
        self.set_signals(false);
        self.enter(false)
    }

    fn wait(&mut self, timeout: Option<Span>) -> io::Result<()> {
        if self.prepare_sleep(None)? {
            read_eventfd(self.waiter(), timeout)?;
            self.turn()?;
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Event> {
        self.settle();
        if std::mem::take(&mut self.woken) {
            return Some(Event::Woken);
        }
        while self.turn_left > 0 {
            self.turn_left -= 1;
            let entry = self.ring.completion().next()?;
            if let Some(event) = self.completed(entry) {
                return Some(event);
            }
        }
        while let Some(index) = self.announce.pop() {
            if let Some(event) = self.announced(index) {
                return Some(event);
            }
        }
        while let Some(index) = self.ended.pop() {
            if self.table.is_live(index) {
                let event = Event::Closed(self.table.id(index), self.table.at(index).line.cause());
                self.table.remove(index);
                return Some(event);
            }
        }
        None
    }

    fn received(&self, connection: ConnectionId) -> &[u8] {
        self.table.received(connection, &self.shown, |shown| self.pool.bytes(shown.buffer, shown.start, shown.end))
    }

    fn consume(&mut self, connection: ConnectionId, bytes: usize) {
        let full_bytes = self.limits.receive_bytes_max;
        let Some(link) = self.table.open_mut(connection) else { return };
        match &mut self.shown {
            Some(shown) if shown.is_of(connection) => {
                shown.consume(bytes);
                link.line.inbox.set_need(0);
            }
            _ => {
                let was_full = link.line.inbox.len() >= full_bytes;
                link.line.inbox.consume(bytes);
                if was_full {
                    self.attention.push(connection.index);
                }
            }
        }
    }

    fn need(&mut self, connection: ConnectionId, bytes: usize) {
        let bytes = bytes.min(self.limits.receive_bytes_max);
        let buffer_bytes = self.pool.buffer_bytes();
        let Some(link) = self.table.open_mut(connection) else { return };
        link.line.inbox.set_need(bytes);
        if bytes > buffer_bytes {
            link.frame_bytes = bytes;
            if !std::mem::replace(&mut link.large, true) {
                self.attention.push(connection.index);
            }
        }
    }

    fn set_reading(&mut self, connection: ConnectionId, reading: bool) {
        let Some(link) = self.table.open_mut(connection) else { return };
        link.line.reading = reading;
        if reading {
            self.announce.push(connection.index);
        }
        self.attention.push(connection.index);
    }

    fn send(&mut self, connection: ConnectionId, bytes: &[u8]) -> Result<(), SendFull> {
        if self.table.queue(connection, bytes)?.is_some_and(|link| link.send == Sending::Idle) {
            self.attention.push(connection.index);
        }
        Ok(())
    }

    fn unsent(&self, connection: ConnectionId) -> usize {
        self.table.unsent(connection)
    }

    fn close(&mut self, connection: ConnectionId, how: Close) {
        if self.table.close(connection, how).is_some() {
            self.attention.push(connection.index);
        }
    }

    fn is_busy(&self) -> bool {
        self.woken
            || self.waker.is_rung()
            || self.turn_left > 0
            || !self.attention.is_empty()
            || !self.announce.is_empty()
            || !self.ended.is_empty()
    }

    fn connections(&self) -> usize {
        self.table.len()
    }
}

fn set_blocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: no pointers.
    if flags < 0 || (flags & libc::O_NONBLOCK != 0 && unsafe { libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK) } < 0) {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The usual size of a provided buffer; how many there are follows from [`RECEIVE_SLACK_BYTES`].
const BUFFER_BYTES: usize = 16 << 10;

/// What a single receive asks for when it does not know the length of the frame.
const CHUNK_BYTES: usize = 64 << 10;
