//! One connection without I/O: requests in flight, bytes to send, frames that came. The async and the blocking client share it.
//!
//! A request id is a slot's index and generation. A slot is freed when its answer was taken, so an id is never used twice while its answer may still
//! come; the slot keeps its `Scores`, so that answers allocate nothing once slots are warm.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use gavel_protocol::{Code, Description, Encoder, ErrorView, HEADER_BYTES, Header, HelloAnswerView, Kind, ScoresView};

use crate::error::Error;
use crate::options::Options;
use crate::request::Request;
use crate::scores::Scores;

/// Ids of slots are larger (their generation is ≥ 1).
const HELLO_ID: u64 = 1;
const KEEPALIVE_ID: u64 = 2;
/// FlatBuffers end at 2 GiB; half of that is more than any server reads.
const FRAME_BYTES_MAX: usize = 1 << 30;

/// What the server allows, from its hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Name and version of the server.
    pub server: String,
    /// Largest frame that it reads.
    pub frame_bytes_max: usize,
    /// Most candidates of a request, over all models.
    pub candidates_max: u32,
    /// Requests that may be unanswered on a connection.
    pub in_flight_max: usize,
    /// It closes a connection with nothing in flight after so long without a frame.
    pub idle_timeout: Option<Duration>,
}

/// What a frame meant.
#[derive(Debug)]
pub(crate) enum Received {
    /// The hello was answered: the connection may be used.
    Ready,
    /// The server goes away: no new requests.
    Draining,
    /// A request has its answer; whoever waits for it is woken by the caller, outside of its lock.
    Answered(u64, Option<Waker>),
    /// Nothing for anybody.
    Nothing,
}

/// What a call got, beside its scores.
#[derive(Debug)]
pub(crate) enum Outcome {
    Scores,
    Description(Box<Description>),
    Pong,
    Failed(Error),
}

#[derive(Clone, Copy, Debug)]
enum Expected {
    Scores { candidates: u32, top_k: u32 },
    Description,
    Pong,
}

#[derive(Debug)]
enum State {
    Free,
    Waiting(Option<Waker>),
    /// Given up; freed by its answer.
    Abandoned,
    Done(Outcome),
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
    expected: Expected,
    scores: Scores,
}

#[derive(Debug)]
pub(crate) struct Session {
    address: Arc<str>,
    encoder: Encoder,
    /// Bytes to send; the first `sent` are gone already.
    outgoing: Vec<u8>,
    sent: usize,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Requests without an answer, abandoned ones too.
    in_flight: usize,
    limits: Option<ServerLimits>,
    draining: bool,
    failed: bool,
    /// A keep-alive ping has no answer yet: its id must not be used again.
    keepalive_in_flight: bool,
}

impl Session {
    /// A session that says hello first.
    pub fn new(address: Arc<str>, options: &Options) -> Session {
        let mut encoder = Encoder::new();
        let mut client = options.client.as_str();
        if client.len() > gavel_protocol::CLIENT_NAME_BYTES_MAX {
            let cut = (0..=gavel_protocol::CLIENT_NAME_BYTES_MAX).rev().find(|cut| client.is_char_boundary(*cut));
            client = &client[..cut.unwrap_or(0)];
        }
        let outgoing = encoder.hello(HELLO_ID, client, options.token.as_deref()).to_vec();
        Session {
            address,
            encoder,
            outgoing,
            sent: 0,
            slots: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            limits: None,
            draining: false,
            failed: false,
            keepalive_in_flight: false,
        }
    }

    pub fn address(&self) -> &Arc<str> {
        &self.address
    }

    pub fn limits(&self) -> Option<&ServerLimits> {
        self.limits.as_ref()
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether a further request may be sent now.
    pub fn has_room(&self) -> bool {
        !self.draining && !self.failed && self.limits.as_ref().is_some_and(|limits| self.in_flight < limits.in_flight_max)
    }

    /// Bytes to send.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// So many of them are gone.
    pub fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent >= self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
        } else if self.sent > self.outgoing.len() / 2 && self.sent > 64 << 10 {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Queues a rank request. Error: nothing was queued.
    pub fn rank(&mut self, request: &Request<'_>, budget_us: u32, priority: u8) -> Result<u64, Error> {
        let bytes_max = self.room()?;
        let blocks = request.body().block_bytes();
        if blocks + HEADER_BYTES > bytes_max {
            return Err(Error::TooLarge { bytes: blocks + HEADER_BYTES, bytes_max });
        }
        let id = self.open(Expected::Scores { candidates: request.candidates(), top_k: request.body().top_k });
        let header =
            Header { signature: request.signature(), candidates: request.candidates(), budget_us, priority, ..Header::new(Kind::Rank, id) };
        let frame = self.encoder.rank(&header, request.body());
        if frame.len() > bytes_max {
            let bytes = frame.len();
            self.close(id);
            return Err(Error::TooLarge { bytes, bytes_max });
        }
        self.outgoing.extend_from_slice(frame);
        Ok(id)
    }

    /// Queues a describe, by public name.
    pub fn describe(&mut self, model: &str) -> Result<u64, Error> {
        self.room()?;
        let id = self.open(Expected::Description);
        self.outgoing.extend_from_slice(self.encoder.describe(id, model));
        Ok(id)
    }

    /// Queues a ping.
    pub fn ping(&mut self) -> Result<u64, Error> {
        self.room()?;
        let id = self.open(Expected::Pong);
        self.outgoing.extend_from_slice(self.encoder.ping(id, &[]));
        Ok(id)
    }

    /// Queues a ping that nobody waits for.
    pub fn keep_alive(&mut self) {
        if !self.keepalive_in_flight {
            self.keepalive_in_flight = true;
            self.outgoing.extend_from_slice(self.encoder.ping(KEEPALIVE_ID, &[]));
        }
    }

    /// Takes the outcome of a request if it is there; scores are exchanged with `scores`. A pending request remembers the waker.
    pub fn poll(&mut self, id: u64, scores: &mut Scores, waker: Option<&Waker>) -> Poll<Outcome> {
        let address = Arc::clone(&self.address);
        let Some(slot) = self.slot(id) else {
            // Never so for an id that this session gave and that was not taken yet.
            return Poll::Ready(Outcome::Failed(Error::Closed { address }));
        };
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Done(outcome) => {
                if matches!(outcome, Outcome::Scores) {
                    std::mem::swap(scores, &mut slot.scores);
                }
                self.release(id);
                Poll::Ready(outcome)
            }
            State::Waiting(old) => {
                let kept = match (old, waker) {
                    (Some(old), Some(new)) if old.will_wake(new) => Some(old),
                    (_, new) => new.cloned(),
                };
                slot.state = State::Waiting(kept);
                Poll::Pending
            }
            state @ (State::Free | State::Abandoned) => {
                slot.state = state;
                Poll::Ready(Outcome::Failed(Error::Closed { address }))
            }
        }
    }

    /// Nobody waits for this request any more. A rank request in flight is cancelled. Whether bytes are to be sent.
    pub fn abandon(&mut self, id: u64) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        match slot.state {
            State::Waiting(_) => {
                slot.state = State::Abandoned;
                if matches!(slot.expected, Expected::Scores { .. }) {
                    self.outgoing.extend_from_slice(self.encoder.cancel(id));
                    return true;
                }
                false
            }
            State::Done(_) => {
                self.release(id);
                false
            }
            State::Free | State::Abandoned => false,
        }
    }

    /// The connection is lost: every request in flight fails with this error. The wakers of those who wait.
    pub fn fail(&mut self, error: Error) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for slot in &mut self.slots {
            if let State::Waiting(waker) = &mut slot.state {
                wakers.extend(waker.take());
                slot.state = State::Done(Outcome::Failed(error.clone()));
            }
        }
        self.in_flight = 0;
        self.failed = true;
        wakers
    }

    /// Takes a frame. Error: the connection cannot go on.
    pub fn receive(&mut self, header: &Header, body: &[u8]) -> Result<Received, Error> {
        match header.kind {
            Kind::HelloAnswer => self.hello_answer(header, body),
            Kind::Drain => {
                self.draining = true;
                self.outgoing.extend_from_slice(self.encoder.drain_answer());
                Ok(Received::Draining)
            }
            Kind::Pong | Kind::Error if header.request_id == KEEPALIVE_ID => {
                self.keepalive_in_flight = false;
                Ok(Received::Nothing)
            }
            Kind::Error => self.error(header, body),
            Kind::Scores | Kind::Description | Kind::Pong => self.answer(header, body),
            Kind::Hello | Kind::Describe | Kind::Rank | Kind::Cancel | Kind::Ping | Kind::DrainAnswer => {
                Err(Error::protocol(&self.address, format!("it sent a frame that only clients send ({:?})", header.kind)))
            }
        }
    }

    fn hello_answer(&mut self, header: &Header, body: &[u8]) -> Result<Received, Error> {
        if self.limits.is_some() || header.request_id != HELLO_ID {
            return Err(Error::protocol(&self.address, "it answered a hello that was not sent"));
        }
        let view = HelloAnswerView::parse(body).map_err(|fault| Error::answer(&self.address, fault))?;
        if view.version != gavel_protocol::VERSION {
            return Err(Error::protocol(
                &self.address,
                format!("it speaks version {}, this client {}", view.version, gavel_protocol::VERSION),
            ));
        }
        self.limits = Some(ServerLimits {
            server: view.server.to_owned(),
            frame_bytes_max: (view.frame_bytes_max as usize).min(FRAME_BYTES_MAX),
            candidates_max: view.candidates_max,
            in_flight_max: view.in_flight_max as usize,
            idle_timeout: (view.idle_timeout_ms > 0).then(|| Duration::from_millis(u64::from(view.idle_timeout_ms))),
        });
        Ok(Received::Ready)
    }

    fn error(&mut self, header: &Header, body: &[u8]) -> Result<Received, Error> {
        let view = ErrorView::parse(body).map_err(|fault| Error::answer(&self.address, fault))?;
        let message = view.message.to_owned();
        let error = match view.known() {
            None => Error::RefusedUnknown { number: view.code, message },
            Some(code) => Error::Refused {
                code,
                message,
                retry_after: (view.retry_after_us > 0).then(|| Duration::from_micros(u64::from(view.retry_after_us))),
            },
        };
        // An error that belongs to no request is about the connection.
        if matches!(header.request_id, 0 | HELLO_ID) {
            return Err(error);
        }
        self.settle(header.request_id, Outcome::Failed(error), error_closes(view.known()))
    }

    fn answer(&mut self, header: &Header, body: &[u8]) -> Result<Received, Error> {
        let address = Arc::clone(&self.address);
        let answers_nothing = || Error::protocol(&address, format!("it answered {}, which is not in flight", header.request_id));
        let slot = self.slot(header.request_id).ok_or_else(answers_nothing)?;
        let outcome = match (header.kind, slot.expected) {
            (Kind::Scores, Expected::Scores { candidates, top_k }) => {
                let view = ScoresView::parse(body).map_err(|fault| Error::answer(&address, fault))?;
                check_scores(&view, candidates, top_k).map_err(|what| Error::protocol(&address, what))?;
                if matches!(slot.state, State::Waiting(_)) {
                    slot.scores.fill(&view);
                }
                Outcome::Scores
            }
            (Kind::Description, Expected::Description) => {
                Outcome::Description(Box::new(Description::parse(body).map_err(|fault| Error::answer(&address, fault))?))
            }
            (Kind::Pong, Expected::Pong) => Outcome::Pong,
            (kind, expected) => return Err(Error::protocol(&address, format!("it answered {expected:?} with {kind:?}"))),
        };
        self.settle(header.request_id, outcome, false)
    }

    fn settle(&mut self, id: u64, outcome: Outcome, closes: bool) -> Result<Received, Error> {
        let address = Arc::clone(&self.address);
        let slot = self.slot(id).ok_or_else(|| Error::protocol(&address, format!("it answered {id}, which is not in flight")))?;
        let received = match std::mem::replace(&mut slot.state, State::Free) {
            State::Waiting(waker) => {
                slot.state = State::Done(outcome);
                Received::Answered(id, waker)
            }
            State::Abandoned => {
                self.release(id);
                Received::Nothing
            }
            state @ (State::Done(_) | State::Free) => {
                slot.state = state;
                return Err(Error::protocol(&address, format!("it answered {id} twice")));
            }
        };
        self.in_flight = self.in_flight.saturating_sub(1);
        if closes {
            self.draining = true;
        }
        Ok(received)
    }

    /// Why no further request may be sent, or the largest frame.
    fn room(&self) -> Result<usize, Error> {
        match &self.limits {
            Some(limits) if !self.draining && !self.failed => {
                if self.in_flight < limits.in_flight_max {
                    Ok(limits.frame_bytes_max)
                } else {
                    Err(Error::Saturated { in_flight: self.in_flight })
                }
            }
            _ => Err(Error::Closed { address: Arc::clone(&self.address) }),
        }
    }

    fn open(&mut self, expected: Expected) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 1, state: State::Free, expected, scores: Scores::default() });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.expected = expected;
        slot.state = State::Waiting(None);
        self.in_flight += 1;
        u64::from(slot.generation) << 32 | u64::from(index)
    }

    /// Takes back an id whose frame was not queued.
    fn close(&mut self, id: u64) {
        self.in_flight -= 1;
        self.release(id);
    }

    fn release(&mut self, id: u64) {
        if let Some(slot) = self.slot(id) {
            slot.state = State::Free;
            slot.generation = slot.generation.checked_add(1).unwrap_or(1);
            self.free.push(id as u32);
        }
    }

    /// The live slot of an id; none for an id that was not given or was freed.
    fn slot(&mut self, id: u64) -> Option<&mut Slot> {
        self.slots.get_mut(id as u32 as usize).filter(|slot| u64::from(slot.generation) == id >> 32)
    }
}

fn error_closes(code: Option<Code>) -> bool {
    code.is_some_and(Code::closes)
}

/// Whether an answer fits its request.
fn check_scores(view: &ScoresView<'_>, candidates: u32, top_k: u32) -> Result<(), String> {
    let rows = view.rows;
    match (top_k, view.winners()) {
        (0, None) if rows == candidates as usize => Ok(()),
        (0, None) => Err(format!("it gave {rows} rows for {candidates} candidates")),
        (0, Some(_)) => Err("it gave winners where none were asked for".to_owned()),
        (_, None) => Err("it gave no winners".to_owned()),
        (k, Some(_)) if rows > k.min(candidates) as usize => {
            Err(format!("it gave {rows} winners, {k} of {candidates} candidates were asked for"))
        }
        (_, Some(mut winners)) => match winners.find(|winner| *winner >= candidates) {
            Some(winner) => Err(format!("it gave candidate {winner} of {candidates} as a winner")),
            None => Ok(()),
        },
    }
}
