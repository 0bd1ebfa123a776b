//! One round of a shard's loop: what the wire tells, then mail, engine and timers.

use std::os::fd::OwnedFd;

use gavel_protocol::{Code, HEADER_BYTES};

use super::Shard;
use super::admission::Refusal;
use super::frames::Answer;
use crate::connection::{Connection, Frame, Phase, next_frame};
use crate::server::runtime::{Reactor, Turn};
use crate::units::{Instant, Span};
use crate::wire::{ConnectionId, Event, Wire};

impl<W: Wire> Reactor<W> for Shard {
    fn turn(&mut self, wire: &mut W, now: Instant) -> Turn {
        self.cells.turns.inc();
        let mut busy = false;
        while let Some(event) = wire.next() {
            busy = true;
            self.event(wire, event, now);
        }
        for _ in 0..self.unread.len() {
            busy = true;
            if let Some(id) = self.unread.pop_front() {
                if let Some(connection) = self.connection(id) {
                    connection.queued = false;
                }
                self.read(wire, id, now);
            }
        }
        while let Some(socket) = self.sockets.receive() {
            busy = true;
            self.adopt(wire, socket, now);
        }
        while let Some(news) = self.news.receive() {
            busy = true;
            self.hear(wire, news, now);
        }
        self.run_engine(wire);
        if now.since(self.ticked) >= TICK {
            self.tick(wire, now);
        }
        if self.draining.is_some() && wire.connections() == 0 && self.tickets.is_empty() {
            return Turn::Stop;
        }
        if busy || self.engine_needs_turns() || !self.unread.is_empty() || wire.is_busy() {
            Turn::Busy
        } else {
            Turn::IdleUntil(Some(self.ticked + TICK))
        }
    }

    /// What is in the engine is looked at for a while, and then left to ring.
    fn may_sleep(&mut self) -> bool {
        let now = self.clock.now();
        let is_recent = self.started.iter().any(|(_, since)| now.since(*since) < DEVICE_SPIN);
        !is_recent && self.engine.may_sleep()
    }

    fn sleeps(&mut self) {
        self.cells.sleeps.inc();
    }
}

impl Shard {
    pub(super) fn event(&mut self, wire: &mut impl Wire, event: Event, now: Instant) {
        match event {
            Event::Received(id) => {
                if let Some(connection) = self.connection(id) {
                    connection.received_at = now;
                }
                self.read(wire, id, now);
            }
            Event::Sent(id) => {
                if let Some(connection) = self.connection(id) {
                    connection.patience.unsent(0, now);
                    if std::mem::take(&mut connection.held) {
                        wire.set_reading(id, true);
                        self.read(wire, id, now);
                    }
                }
            }
            Event::Finished(id) => {
                self.read(wire, id, now);
                if let Some(connection) = self.connection(id) {
                    if !connection.is_closing() {
                        connection.phase = Phase::Finishing;
                    }
                    // Frames that still wait for their turn are answered first; what they leave behind never becomes whole.
                    self.end_if_over(wire, id, now);
                }
            }
            Event::Closed(id, _) => {
                self.forget(id);
                self.cells.connections.set(wire.connections() as u64);
            }
            Event::Woken => self.cells.wakes.inc(),
        }
    }

    pub(super) fn adopt(&mut self, wire: &mut impl Wire, socket: OwnedFd, now: Instant) {
        // A refusal (no index, no memory in the kernel) closes the socket; the acceptor counts it as gone.
        match wire.adopt(socket) {
            Ok(id) => {
                self.welcome(id, now);
            }
            Err(_) => {
                self.cells.error(Code::ConnectionLimit).inc();
                self.cells.connections_closed.inc();
            }
        }
        self.cells.connections.set(wire.connections() as u64);
    }

    /// A connection that the wire has taken in.
    pub(super) fn welcome(&mut self, id: ConnectionId, now: Instant) {
        self.connections[id.index as usize] = Some((id, Connection::new(now)));
        self.cells.connections_opened.inc();
    }

    /// The connection is gone: nobody waits for its answers.
    pub(super) fn forget(&mut self, id: ConnectionId) {
        if self.connection(id).is_none() {
            return;
        }
        self.give_up_all(id);
        self.connections[id.index as usize] = None;
        // Its place among the unread, if it has one, is passed over when its turn comes.
        self.cells.connections_closed.inc();
    }

    /// Handles the frames that lie in a connection's buffer.
    pub(super) fn read(&mut self, wire: &mut impl Wire, id: ConnectionId, now: Instant) {
        for _ in 0..FRAMES_IN_A_ROW {
            let Some(connection) = self.connection(id) else {
                return;
            };
            if connection.held || connection.is_closing() {
                return;
            }
            match next_frame(wire.received(id), self.limits.frame_bytes_max) {
                Frame::More { bytes } => {
                    if let Some(connection) = self.connection(id)
                        && !wire.received(id).is_empty()
                    {
                        connection.patience.partial(now);
                        if let Some(bytes) = bytes {
                            connection.header_arrived.get_or_insert(now);
                            wire.need(id, bytes);
                        }
                    }
                    self.end_if_over(wire, id, now);
                    return;
                }
                Frame::Broken { code, request_id } => {
                    self.refuse(wire, id, request_id, Refusal::early(code), now);
                    return;
                }
                Frame::Whole { header, body } => {
                    let bytes = HEADER_BYTES + body.len();
                    let unsent = wire.unsent(id);
                    let answer = self.frame(id, &header, body, now, unsent);
                    self.cells.received_bytes.add(bytes as u64);
                    wire.consume(id, bytes);
                    match answer {
                        Answer::None => {}
                        Answer::Ready => self.send_reply(wire, id),
                        Answer::Refusal(refusal) => self.refuse(wire, id, header.request_id, refusal, now),
                    }
                    self.hold_if_slow(wire, id, now);
                }
            }
        }
        // Its share of this round is used up.
        if !wire.received(id).is_empty()
            && let Some(connection) = self.connection(id)
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.unread.push_back(id);
        }
        self.end_if_over(wire, id, now);
    }

    /// Stops reading from a client that does not take its answers; goes on when they are out.
    pub(super) fn hold_if_slow(&mut self, wire: &mut impl Wire, id: ConnectionId, now: Instant) {
        let unsent = wire.unsent(id);
        let high = self.limits.send_bytes_max / 4;
        if let Some(connection) = self.connection(id) {
            connection.patience.unsent(unsent, now);
            if unsent > high && !connection.held && !connection.is_closing() {
                connection.held = true;
                wire.set_reading(id, false);
            }
        }
    }
}

/// A device is mostly done sooner; to be called back and woken takes about as long.
const DEVICE_SPIN: Span = Span::from_us(50);
/// Timers are looked at so often.
const TICK: Span = Span::from_ms(50);
/// Frames of one connection handled in a row before others have their turn.
const FRAMES_IN_A_ROW: usize = 64;
