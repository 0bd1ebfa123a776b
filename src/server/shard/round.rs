//! One round of a shard's loop.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;

use gavel_protocol::{Code, DescribeView, HEADER_BYTES, Header, HelloAnswerBody, HelloView, Kind, PING_BYTES_MAX, VERSION};

use super::admission::Refusal;
use super::{DRAIN_LINGER, Drain, FRAMES_IN_A_ROW, News, STEP, Shard, TICK};
use crate::batch::status;
use crate::connection::{Connection, Expired, Frame, NO_TICKET, Phase, next_frame};
use crate::engine::Step;
use crate::metrics::{Outcome, Rule};
use crate::server::runtime::{Reactor, Turn};
use crate::units::{Instant, SlotId, Span};
use crate::wire::{Close, ConnectionId, Event, Wire};

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
        if busy || self.engine.in_flight() > 0 || self.scheduler.has_waiting() || !self.unread.is_empty() || wire.is_busy() {
            Turn::Busy
        } else {
            Turn::IdleUntil(Some(self.ticked + TICK))
        }
    }

    fn sleeps(&mut self) {
        self.cells.sleeps.inc();
    }
}

impl Shard {
    fn event(&mut self, wire: &mut impl Wire, event: Event, now: Instant) {
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

    fn adopt(&mut self, wire: &mut impl Wire, socket: OwnedFd, now: Instant) {
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
    fn forget(&mut self, id: ConnectionId) {
        if self.connection(id).is_none() {
            return;
        }
        self.give_up_all(id);
        self.connections[id.index as usize] = None;
        // Its place among the unread, if it has one, is passed over when its turn comes.
        self.cells.connections_closed.inc();
    }

    /// Nobody will take the answers to what is in flight on this connection.
    fn give_up_all(&mut self, id: ConnectionId) {
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
    fn give_up(&mut self, number: u32, connection: &mut Connection, outcome: Outcome) {
        let ticket = *self.tickets.get(number);
        self.tickets.settle(number, connection);
        self.cells.model(self.models.get(ticket.model).published.cells).outcome(outcome).inc();
        if !self.started.iter().any(|(slot, _)| *slot == ticket.slot) {
            self.engine.slot(ticket.slot).drop_segment(ticket.segment as usize);
        }
    }

    /// Handles the frames that lie in a connection's buffer.
    fn read(&mut self, wire: &mut impl Wire, id: ConnectionId, now: Instant) {
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

    /// Handles one whole frame. What is answered at once lies in `reply` afterwards.
    fn frame(&mut self, id: ConnectionId, header: &Header, body: &[u8], now: Instant, unsent: usize) -> Answer {
        let Some(connection) = self.connection(id) else {
            return Answer::None;
        };
        connection.patience.frame(now);
        let arrived = connection.header_arrived.take().unwrap_or(connection.received_at);
        if let Err(code) = connection.permits(header.kind) {
            return Answer::Refusal(Refusal::early(code));
        }
        let answered = matches!(header.kind, Kind::Rank | Kind::Describe | Kind::Ping);
        if answered && self.tickets.find(id, header.request_id).is_some() {
            return Answer::Refusal(Refusal::early(Code::BadRequest));
        }
        match header.kind {
            Kind::Rank => match self.admit(id, header, body, arrived, now, unsent) {
                Ok(()) => Answer::None,
                Err(refusal) => Answer::Refusal(refusal),
            },
            Kind::Cancel | Kind::DrainAnswer if !body.is_empty() => Answer::Refusal(Refusal::early(Code::BodyMalformed)),
            Kind::Cancel => match self.tickets.find(id, header.request_id) {
                Some(number) => self.cancel(number),
                None => Answer::None,
            },
            Kind::DrainAnswer => {
                if let Some(connection) = self.connection(id) {
                    connection.phase = Phase::Finishing;
                }
                Answer::None
            }
            Kind::Ping if body.len() > PING_BYTES_MAX => Answer::Refusal(Refusal::early(Code::BodyMalformed)),
            Kind::Ping => {
                keep(&mut self.reply, self.answers.encoder.pong(header.request_id, body));
                Answer::Ready
            }
            Kind::Hello => self.hello(id, header, body, now),
            Kind::Describe => self.describe(header, body),
            // `permits` has refused them.
            Kind::Drain | Kind::HelloAnswer | Kind::Description | Kind::Scores | Kind::Pong | Kind::Error => {
                Answer::Refusal(Refusal::early(Code::KindUnknown))
            }
        }
    }

    fn hello(&mut self, id: ConnectionId, header: &Header, body: &[u8], now: Instant) -> Answer {
        match HelloView::parse(body) {
            Ok(hello) if hello.version_max < VERSION => return Answer::Refusal(Refusal::early(Code::VersionUnsupported)),
            Ok(_) => {}
            Err(code) => return Answer::Refusal(Refusal::early(code)),
        }
        let answer = HelloAnswerBody {
            server: &self.server_name,
            version: VERSION,
            frame_bytes_max: self.limits.frame_bytes_max as u32,
            candidates_max: self.models.candidates_max() as u32,
            in_flight_max: self.limits.connection_in_flight_max as u32,
            idle_timeout_ms: self.limits.timeouts.idle.as_us() / 1_000,
        };
        keep(&mut self.reply, self.answers.encoder.hello_answer(header.request_id, &answer));
        if let Some(drain) = self.draining {
            // The first frame of a connection is the hello's answer; that the server goes away comes second.
            let left_ms = drain.deadline.since(now).as_us() / 1_000;
            self.reply.extend_from_slice(self.answers.encoder.drain(left_ms));
        }
        if let Some(connection) = self.connection(id) {
            connection.phase = Phase::Open;
        }
        Answer::Ready
    }

    /// The description was encoded when the model was published: only the request id is filled in.
    fn describe(&mut self, header: &Header, body: &[u8]) -> Answer {
        let view = match DescribeView::parse(body) {
            Ok(view) => view,
            Err(code) => return Answer::Refusal(Refusal::early(code)),
        };
        let model = match (view.model, header.signature) {
            ("", 0) => Err(Code::ModelUnknown),
            ("", signature) => self.models.by_signature(signature).ok_or(Code::SignatureUnknown),
            (name, _) => self.models.by_name(name).ok_or(Code::ModelUnknown),
        };
        match model {
            Ok(model) => {
                keep(&mut self.reply, &self.models.get(model).published.description);
                self.reply[REQUEST_ID].copy_from_slice(&header.request_id.to_le_bytes());
                Answer::Ready
            }
            Err(code) => Answer::Refusal(Refusal::early(code)),
        }
    }

    fn cancel(&mut self, number: u32) -> Answer {
        let ticket = *self.tickets.get(number);
        let Some(Some((_, mut connection))) = self.connections.get(ticket.connection.index as usize).copied() else {
            return Answer::None;
        };
        self.give_up(number, &mut connection, Outcome::from(Code::Cancelled));
        self.connections[ticket.connection.index as usize] = Some((ticket.connection, connection));
        keep(&mut self.reply, self.answers.encoder.error(ticket.request_id, Code::Cancelled, Code::Cancelled.name(), 0));
        Answer::Ready
    }

    /// Answers with an error, counts it, and ends the connection if the code says so.
    fn refuse(&mut self, wire: &mut impl Wire, id: ConnectionId, request_id: u64, refusal: Refusal, now: Instant) {
        let Refusal { code, model, feature, retry_after_us } = refusal;
        self.message.clear();
        let _ = self.message.write_str(code.name());
        match model {
            Some(model) => {
                let published = &self.models.get(model).published;
                self.cells.model(published.cells).outcome(Outcome::from(code)).inc();
                if let Some(name) = feature.and_then(|feature| published.features.get(usize::from(feature))) {
                    let _ = write!(self.message, ": feature {name}");
                }
            }
            None => self.cells.error(code).inc(),
        }
        keep(&mut self.reply, self.answers.encoder.error(request_id, code, &self.message, retry_after_us));
        self.send_reply(wire, id);
        if code.closes() {
            self.close_after_sends(wire, id, now);
        }
    }

    fn send_reply(&mut self, wire: &mut impl Wire, id: ConnectionId) {
        self.cells.sent_bytes.add(self.reply.len() as u64);
        if wire.send(id, &self.reply).is_err() {
            // Reading is held long before this: a client that gets here has not read for all that time.
            wire.close(id, Close::Now);
        }
    }

    /// Ends a connection after what is queued on it; requests still in flight are given up.
    fn close_after_sends(&mut self, wire: &mut impl Wire, id: ConnectionId, now: Instant) {
        self.give_up_all(id);
        if let Some(connection) = self.connection(id) {
            connection.phase = Phase::Closing(now);
            wire.close(id, Close::AfterSends);
        }
    }

    /// Closes a connection whose client sends no more and has every answer.
    fn end_if_over(&mut self, wire: &mut impl Wire, id: ConnectionId, now: Instant) {
        if self.connection(id).is_some_and(|connection| connection.is_over() && !connection.held && !connection.queued) {
            self.close_after_sends(wire, id, now);
        }
    }

    /// Stops reading from a client that does not take its answers; goes on when they are out.
    fn hold_if_slow(&mut self, wire: &mut impl Wire, id: ConnectionId, now: Instant) {
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

    /// Starts what waits, works for a step, answers what is done.
    fn run_engine(&mut self, wire: &mut impl Wire) {
        // Read anew: what reading took is neither the engine's share of the round nor its work.
        let now = self.clock.now();
        while self.engine.in_flight() < self.engine.capacity() {
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

    /// Requests whose budget is spent before their batch starts are answered now and not computed.
    fn drop_expired(&mut self, wire: &mut impl Wire, slot: SlotId, now: Instant) {
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
    fn finish(&mut self, wire: &mut impl Wire, slot: SlotId, well: bool) {
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

    fn answer_scores(&mut self, wire: &mut impl Wire, number: u32, slot: SlotId, started: Instant, done: Instant, now: Instant) {
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

    fn answer_error(&mut self, wire: &mut impl Wire, number: u32, code: Code, now: Instant) {
        let ticket = *self.tickets.get(number);
        let frame = self.answers.encoder.error(ticket.request_id, code, code.name(), 0);
        let sent = wire.send(ticket.connection, frame);
        self.cells.sent_bytes.add(frame.len() as u64);
        self.cells.model(self.models.get(ticket.model).published.cells).outcome(Outcome::from(code)).inc();
        self.settle(wire, number, sent.is_ok(), now);
    }

    /// The answer of a live ticket is queued (or its connection is lost with it).
    fn settle(&mut self, wire: &mut impl Wire, number: u32, sent: bool, now: Instant) {
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

    fn hear(&mut self, wire: &mut impl Wire, news: News, now: Instant) {
        match news {
            News::Publish(published, rollout) => {
                let outputs = published.layout.outputs;
                let candidates = published.candidates_max;
                match self.models.publish(published, self.engine.as_mut()) {
                    Ok(number) => {
                        let slots = self.models.get(number).slots.clone();
                        self.scheduler.attach(number, slots);
                        self.answers.reserve(candidates, outputs);
                        let description = self.models.get(number).published.description.len();
                        self.reply.reserve(description.saturating_sub(self.reply.len()));
                        rollout.pass();
                    }
                    Err(error) => rollout.fail(error.to_string()),
                }
            }
            News::Drain(limit) => {
                let drain = Drain { since: now, deadline: now + limit };
                self.draining = Some(drain);
                for index in 0..self.connections.len() {
                    if let Some((id, connection)) = self.connections[index]
                        && connection.phase != Phase::AwaitsHello
                    {
                        self.tell_drain(wire, id, drain, now);
                    }
                }
            }
        }
    }

    fn tell_drain(&mut self, wire: &mut impl Wire, id: ConnectionId, drain: Drain, now: Instant) {
        let left_ms = drain.deadline.since(now).as_us() / 1_000;
        keep(&mut self.reply, self.answers.encoder.drain(left_ms));
        self.send_reply(wire, id);
    }

    /// Timers of all connections, the drain, the heartbeat.
    fn tick(&mut self, wire: &mut impl Wire, now: Instant) {
        self.ticked = now;
        self.cells.beat(now);
        for index in 0..self.connections.len() {
            let Some((id, connection)) = &mut self.connections[index] else {
                continue;
            };
            let id = *id;
            connection.patience.unsent(wire.unsent(id), now);
            if let Some(expired) = connection.expired(&self.limits.timeouts, now) {
                let how = if matches!(expired, Expired::Idle | Expired::Hello) { Close::AfterSends } else { Close::Now };
                connection.phase = Phase::Closing(now);
                wire.close(id, how);
                continue;
            }
            if let Some(drain) = self.draining {
                let linger = Span(DRAIN_LINGER.0.min(drain.deadline.since(drain.since).0 / 2));
                if now >= drain.deadline {
                    wire.close(id, Close::Now);
                } else if connection.in_flight == 0 && !connection.is_closing() && now.since(drain.since) >= linger {
                    self.close_after_sends(wire, id, now);
                }
            }
        }
    }
}

/// What a frame is answered with at once.
enum Answer {
    /// Nothing now.
    None,
    /// What lies in `reply`.
    Ready,
    /// An error.
    Refusal(Refusal),
}

/// Where the request id lies in a header.
const REQUEST_ID: std::ops::Range<usize> = 16..24;

/// Copies a small frame out of the encoder, whose memory the next one takes.
fn keep(reply: &mut Vec<u8>, frame: &[u8]) {
    reply.clear();
    reply.extend_from_slice(frame);
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
