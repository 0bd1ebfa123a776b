//! Batches: from a slot that waits to answers, and requests that end without scores.

use gavel_protocol::Code;

use super::Shard;
use crate::batch::status;
use crate::connection::{Connection, NO_TICKET};
use crate::engine::Step;
use crate::metrics::{Outcome, Rule};
use crate::units::{Instant, SlotId, Span};
use crate::wire::{Close, ConnectionId, Wire};

impl Shard {
    /// Starts what waits, works for a step, answers what is done.
    pub(super) fn run_engine(&mut self, wire: &mut impl Wire) {
        // Read anew: what reading took is neither the engine's share of the round nor its work.
        let now = self.clock.now();
        while self.scheduler.has_waiting() && self.engine.in_flight() < self.engine.capacity() {
            let Some(slot) = self.scheduler.take(now) else {
                break;
            };
            self.drop_expired(wire, slot, now);
            self.started.push((slot, now));
            self.engine.start(slot);
        }
        if self.engine.in_flight() == 0 {
            return;
        }
        let until = now + STEP;
        loop {
            match self.engine.step(&self.clock, until) {
                Step::Done(slot) => self.finish(wire, slot, true),
                Step::Failed(slot) => self.finish(wire, slot, false),
                Step::Pending | Step::Idle => break,
            }
            if self.engine.in_flight() == 0 || self.clock.now() >= until {
                break;
            }
        }
    }

    /// Whether batches go on, or begin, only by another turn. What a device computes goes on without; what waits for its capacity begins when it is
    /// done with what it has, or now if another shard made room meanwhile.
    pub(super) fn engine_needs_turns(&self) -> bool {
        match self.engine.in_flight() {
            0 => self.scheduler.has_waiting(),
            in_flight => self.engine.works_in_steps() || (self.scheduler.has_waiting() && in_flight < self.engine.capacity()),
        }
    }

    /// Requests whose budget is spent before their batch starts are answered now and not computed.
    pub(super) fn drop_expired(&mut self, wire: &mut impl Wire, slot: SlotId, now: Instant) {
        for segment in 0..self.engine.slot(slot).segments().len() {
            let number = self.engine.slot(slot).segments()[segment].ticket;
            let ticket = *self.tickets.get(number);
            if ticket.live && now >= ticket.deadline {
                self.answer_error(wire, number, Code::DeadlineExceeded, now);
                self.engine.slot(slot).drop_segment(segment);
            }
        }
    }

    /// A batch is done: every request in it that still owes an answer gets it.
    pub(super) fn finish(&mut self, wire: &mut impl Wire, slot: SlotId, well: bool) {
        let done = self.clock.now();
        let place = self.started.iter().position(|(known, _)| *known == slot);
        let started = place.map_or(done, |place| self.started.swap_remove(place).1);
        let rows = self.engine.slot(slot).rows();
        for segment in 0..self.engine.slot(slot).segments().len() {
            let number = self.engine.slot(slot).segments()[segment].ticket;
            let ticket = *self.tickets.get(number);
            if segment == 0 {
                let cells = self.cells.model(self.models.get(ticket.model).published.cells);
                cells.batch.observe(rows as u64);
                cells.engine_ns.add(done.since(started).0);
            }
            if ticket.live {
                let now = self.clock.now();
                if !well {
                    self.answer_error(wire, number, Code::EngineFailed, now);
                } else if now >= ticket.deadline {
                    self.answer_error(wire, number, Code::DeadlineExceeded, now);
                } else {
                    self.answer_scores(wire, number, slot, started, done, now);
                }
            }
            self.tickets.release(number);
        }
        self.engine.slot(slot).clear();
        self.scheduler.finished(slot, well.then_some(rows as u32), done);
        self.cells.in_flight.set(self.tickets.len() as u64);
        self.cells.queued_candidates.set(u64::from(self.scheduler.rows_waiting()));
    }

    pub(super) fn answer_scores(&mut self, wire: &mut impl Wire, number: u32, slot: SlotId, started: Instant, done: Instant, now: Instant) {
        let ticket = *self.tickets.get(number);
        let published = &self.models.get(ticket.model).published;
        let slot = self.engine.slot(slot);
        let frame = self.answers.scores(&ticket, published, slot, started, done, now);
        let bytes = frame.len() as u64;
        let sent = wire.send(ticket.connection, frame);
        let cells = self.cells.model(published.cells);
        cells.outcome(Outcome::OK).inc();
        cells.candidates.add(u64::from(ticket.candidates));
        cells.latency.observe(now.since(ticket.arrived).0);
        self.cells.sent_bytes.add(bytes);
        count_rules(cells, slot.context_status(ticket.segment as usize), slot.status(ticket.segment as usize));
        self.settle(wire, number, sent.is_ok(), now);
    }

    pub(super) fn answer_error(&mut self, wire: &mut impl Wire, number: u32, code: Code, now: Instant) {
        let ticket = *self.tickets.get(number);
        let frame = self.answers.encoder.error(ticket.request_id, code, code.name(), 0);
        let sent = wire.send(ticket.connection, frame);
        self.cells.sent_bytes.add(frame.len() as u64);
        self.cells.model(self.models.get(ticket.model).published.cells).outcome(Outcome::from(code)).inc();
        self.settle(wire, number, sent.is_ok(), now);
    }

    /// The answer of a live ticket is queued (or its connection is lost with it).
    pub(super) fn settle(&mut self, wire: &mut impl Wire, number: u32, sent: bool, now: Instant) {
        let id = self.tickets.get(number).connection;
        let Some(Some((_, connection))) = self.connections.get_mut(id.index as usize) else {
            return;
        };
        self.tickets.settle(number, connection);
        if !sent {
            wire.close(id, Close::Now);
        }
        self.end_if_over(wire, id, now);
    }

    /// Nobody will take the answers to what is in flight on this connection.
    pub(super) fn give_up_all(&mut self, id: ConnectionId) {
        let Some(mut connection) = self.connection(id).copied() else {
            return;
        };
        while connection.first_ticket != NO_TICKET {
            let number = connection.first_ticket;
            self.give_up(number, &mut connection, Outcome::from(Code::Cancelled));
        }
        if let Some(place) = self.connection(id) {
            *place = connection;
        }
    }

    /// Settles a request without scores; its rows need not be computed.
    pub(super) fn give_up(&mut self, number: u32, connection: &mut Connection, outcome: Outcome) {
        let ticket = *self.tickets.get(number);
        self.tickets.settle(number, connection);
        self.cells.model(self.models.get(ticket.model).published.cells).outcome(outcome).inc();
        if !self.started.iter().any(|(slot, _)| *slot == ticket.slot) {
            self.engine.slot(ticket.slot).drop_segment(ticket.segment as usize);
        }
    }
}

/// Counts, per rule, the rows (and the context) in which it fired.
fn count_rules(cells: &crate::metrics::ModelCells, context: u8, rows: &[u8]) {
    if context == 0 && rows.iter().all(|row| *row == 0) {
        return;
    }
    for (rule, bit) in [(Rule::OutOfRange, status::OUT_OF_RANGE), (Rule::Missing, status::MISSING), (Rule::Nan, status::NAN)] {
        let fired = rows.iter().chain([&context]).filter(|row| **row & bit != 0).count();
        cells.rule(rule).add(fired as u64);
    }
}

/// The engine works so long between two looks at the wire.
const STEP: Span = Span::from_us(200);
