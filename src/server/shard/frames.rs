//! Whole frames: what each kind is answered with at once, and refusals.

use std::fmt::Write as _;

use gavel_protocol::{Code, DescribeView, Header, HelloAnswerBody, HelloView, Kind, PING_BYTES_MAX, VERSION};

use super::Shard;
use super::admission::Refusal;
use crate::connection::Phase;
use crate::metrics::Outcome;
use crate::units::Instant;
use crate::wire::{Close, ConnectionId, Wire};

impl Shard {
    /// Handles one whole frame. What is answered at once lies in `reply` afterwards.
    pub(super) fn frame(&mut self, id: ConnectionId, header: &Header, body: &[u8], now: Instant, unsent: usize) -> Answer {
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

    pub(super) fn hello(&mut self, id: ConnectionId, header: &Header, body: &[u8], now: Instant) -> Answer {
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
    pub(super) fn describe(&mut self, header: &Header, body: &[u8]) -> Answer {
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

    pub(super) fn cancel(&mut self, number: u32) -> Answer {
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
    pub(super) fn refuse(&mut self, wire: &mut impl Wire, id: ConnectionId, request_id: u64, refusal: Refusal, now: Instant) {
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

    pub(super) fn send_reply(&mut self, wire: &mut impl Wire, id: ConnectionId) {
        self.cells.sent_bytes.add(self.reply.len() as u64);
        if wire.send(id, &self.reply).is_err() {
            // Reading is held long before this: a client that gets here has not read for all that time.
            wire.close(id, Close::Now);
        }
    }
}

/// What a frame is answered with at once.
pub(super) enum Answer {
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
pub(super) fn keep(reply: &mut Vec<u8>, frame: &[u8]) {
    reply.clear();
    reply.extend_from_slice(frame);
}
