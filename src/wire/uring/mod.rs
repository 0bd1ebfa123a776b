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

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

mod operation;
mod pool;
mod probe;
mod setup;

use self::operation::Operation;
use self::pool::Pool;
use super::fifo::Fifo;
use super::line::{HasLine, Line, Table};
use super::region::Region;
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
    shown: Option<Shown>,
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

struct Link {
    line: Line,
    receive: Receive,
    send: Sending,
    /// Frames are larger than a provided buffer: single receives.
    large: bool,
    /// The length of the last large frame: what a receive between frames asks for.
    frame_bytes: usize,
    /// Bytes came while reading was off.
    unannounced: bool,
    /// The peer's end came while reading was off: the shard does not know yet.
    end_untold: bool,
}

impl HasLine for Link {
    fn line(&self) -> &Line {
        &self.line
    }
    fn line_mut(&mut self) -> &mut Line {
        &mut self.line
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receive {
    Idle,
    Multishot,
    Single,
    /// A cancel is on its way; more bytes may come first.
    Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Idle,
    UnderWay,
    Ending,
}

/// A provided buffer whose bytes the shard is looking at.
struct Shown {
    index: u32,
    buffer: u16,
    start: usize,
    end: usize,
}

impl UringWire {
    /// A wire woken by `waker`, on a ring of its own that belongs to the calling thread. Errors: as the server's preflight explains them.
    pub fn new(limits: WireLimits, options: UringOptions, waker: Waker) -> io::Result<UringWire> {
        let (ring, kind) = make_ring(options.entries, options.completions)?;
        let pool = Pool::new(&ring, options.buffers, options.buffer_bytes)?;
        // What a cancelled multishot may still deliver fits behind a full inbox.
        let slack = (usize::from(options.buffers) * options.buffer_bytes).max(CHUNK_BYTES);
        let (table, region) = Table::new(limits, slack, |line| Link {
            line,
            receive: Receive::Idle,
            send: Sending::Idle,
            large: false,
            frame_bytes: 0,
            unannounced: false,
            end_untold: false,
        })?;
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

    /// What signals a completion after [`UringWire::prepare_sleep`], and a wake: the waker's eventfd. Whoever waits reads it (8 bytes).
    pub fn waiter(&self) -> RawFd {
        self.waker.as_raw_fd()
    }

    /// A duplicate of [`UringWire::waiter`], as the kind of file that an executor reads.
    pub fn waiter_as<F: FromRawFd>(&self) -> io::Result<F> {
        self.waker.duplicate()
    }

    /// How the ring was set up.
    pub fn kind(&self) -> RingKind {
        self.kind
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

    fn set_signals(&mut self, on: bool) {
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

    /// Puts an entry into the submission queue, which has room: see [`UringWire::has_room`].
    ///
    /// # Safety
    /// - Memory that the entry names stays in place, and untouched as the operation demands, until its completion.
    unsafe fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: the caller's promise.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        assert!(pushed.is_ok(), "an entry was pushed without looking for room");
    }

    /// Whether the submission queue takes [`ENTRIES_AT_ONCE`] more; a full one is handed to the kernel first.
    fn has_room(&mut self) -> io::Result<bool> {
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
    fn enter(&mut self, force: bool) -> io::Result<()> {
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

    /// Moves what the shard left in a provided buffer to the connection's own memory, and gives the buffer back.
    fn settle(&mut self) {
        if let Some(Shown { index, buffer, start, end }) = self.shown.take() {
            if start < end {
                let kept = self.table.at(index).line.inbox.append(self.pool.bytes(buffer, start, end));
                assert!(kept, "an empty inbox holds a provided buffer");
            }
            self.pool.give(buffer);
        }
    }

    fn completed(&mut self, entry: cqueue::Entry) -> Option<Event> {
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

    fn announced(&mut self, index: u32) -> Option<Event> {
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

impl Wire for UringWire {
    fn adopt(&mut self, socket: OwnedFd) -> io::Result<ConnectionId> {
        // On a non-blocking socket the ring would report EAGAIN instead of waiting.
        set_blocking(socket.as_raw_fd())?;
        let id = self.table.insert(socket)?;
        let link = self.table.at(id.index);
        (link.receive, link.send, link.large, link.frame_bytes) = (Receive::Idle, Sending::Idle, false, 0);
        (link.unannounced, link.end_untold) = (false, false);
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
        match (self.table.open(connection), &self.shown) {
            (Some(_), Some(shown)) if shown.index == connection.index => self.pool.bytes(shown.buffer, shown.start, shown.end),
            (Some(link), _) => link.line.inbox.bytes(),
            (None, _) => &[],
        }
    }

    fn consume(&mut self, connection: ConnectionId, bytes: usize) {
        let full_bytes = self.limits.receive_bytes_max;
        let Some(link) = self.table.open_mut(connection) else { return };
        match &mut self.shown {
            Some(shown) if shown.index == connection.index => {
                assert!(bytes <= shown.end - shown.start, "more consumed than received");
                shown.start += bytes;
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
        let Some(link) = self.table.open_mut(connection) else { return Ok(()) };
        link.line.outbox.push(bytes)?;
        if link.send == Sending::Idle {
            self.attention.push(connection.index);
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
        self.attention.push(connection.index);
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

impl Drop for UringWire {
    /// Ends every operation before the memory that it uses goes away. Should the kernel not give something back in time, that memory is leaked.
    fn drop(&mut self) {
        let until = Instant::now() + DROP_PATIENCE;
        while self.under_way > 0 && Instant::now() < until {
            let _ = self.ring.submit();
            let cancelled =
                self.ring.submitter().register_sync_cancel(Some(Timespec::from(Duration::from_millis(10))), CancelBuilder::any());
            // SAFETY: no argument is passed.
            let _ = unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 0, ENTER_GETEVENTS, None) };
            while let Some(entry) = self.ring.completion().next() {
                let is_last = match Operation::unpack(entry.user_data()) {
                    Some(Operation::Receive(_)) => !cqueue::more(entry.flags()),
                    Some(Operation::Send(_)) => true,
                    _ => false,
                };
                self.under_way -= usize::from(is_last);
            }
            if cancelled.is_err() {
                std::thread::yield_now();
            }
        }
        if self.under_way > 0 {
            std::mem::forget(std::mem::replace(&mut self._region, Region::nothing()));
            self.pool.leak();
        }
    }
}

/// Outcomes of an entry that are no failure: interrupted, timed out, or the completion queue must be drained first.
fn tolerate(entered: io::Result<()>) -> io::Result<()> {
    match entered {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN)) => Ok(()),
        other => other,
    }
}

/// Waits until the eventfd is readable, then empties it. Returns early when interrupted.
fn read_eventfd(fd: RawFd, timeout: Option<Span>) -> io::Result<()> {
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

fn set_blocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: no pointers.
    if flags < 0 || (flags & libc::O_NONBLOCK != 0 && unsafe { libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK) } < 0) {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Entries that one connection may need in a turn: a send and a receive, or two cancels; with some to spare.
const ENTRIES_AT_ONCE: usize = 4;

/// `IORING_ENTER_GETEVENTS`.
const ENTER_GETEVENTS: u32 = 1;

/// The usual size of a provided buffer; how many there are follows from [`RECEIVE_SLACK_BYTES`].
const BUFFER_BYTES: usize = 16 << 10;

/// What a single receive asks for when it does not know the length of the frame.
const CHUNK_BYTES: usize = 64 << 10;

/// Length of one send; the kernel takes an `i32`.
const SEND_BYTES_MAX: usize = 1 << 30;

/// How long a wire waits for the kernel when it is dropped.
const DROP_PATIENCE: Duration = Duration::from_secs(2);

/// A timer may be so late: timers of a shard are in milliseconds, and moving one costs an entry.
const TIMER_SLACK: Duration = Duration::from_millis(1);
