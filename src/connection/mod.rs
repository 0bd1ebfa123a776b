//! One client as a state machine without I/O: bytes in, frames out, time as an argument.
//!
//! It decides what a connection may do next (hello first, how many unanswered requests, how much unsent answer) and when its patience ends.
//! Absent on purpose: sockets, engines, models, the requests themselves.

mod frame;
mod patience;

pub use frame::{Frame, next_frame};
pub use patience::{Expired, Patience, Timeouts};

use gavel_protocol::{Code, Kind};

use crate::units::Instant;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing but a hello is taken.
    AwaitsHello,
    /// Serving.
    Open,
    /// The client said that it sends no more requests, or half-closed: ends when nothing is in flight.
    Finishing,
    /// The last bytes are leaving, since this moment.
    Closing(Instant),
}

/// State of one connection. Plain numbers: a shard holds them in an array.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Where it is in its life.
    pub phase: Phase,
    /// Rank requests not yet answered.
    pub in_flight: u32,
    /// Bytes that the answers in flight may take at most.
    pub reserved_bytes: usize,
    /// When the header of the frame under way arrived, if its body is not complete yet.
    pub header_arrived: Option<Instant>,
    /// When bytes last arrived: the arrival of headers that lie in the buffer and have not had their turn.
    pub received_at: Instant,
    /// Whole frames wait for the shard's next round.
    pub queued: bool,
    /// Reading is stopped because the client does not take its answers.
    pub held: bool,
    /// Timers.
    pub patience: Patience,
    /// First of its tickets in flight (see the shard's tickets).
    pub first_ticket: u32,
}

/// No ticket.
pub const NO_TICKET: u32 = u32::MAX;

impl Connection {
    /// Just accepted.
    pub fn new(now: Instant) -> Connection {
        Connection {
            phase: Phase::AwaitsHello,
            in_flight: 0,
            reserved_bytes: 0,
            header_arrived: None,
            received_at: now,
            queued: false,
            held: false,
            patience: Patience::new(now),
            first_ticket: NO_TICKET,
        }
    }

    /// Whether a frame of this kind may come now. An error here ends the connection.
    pub fn permits(&self, kind: Kind) -> Result<(), Code> {
        match (self.phase, kind) {
            (_, kind) if !kind.from_client() => Err(Code::KindUnknown),
            (Phase::AwaitsHello, Kind::Hello) => Ok(()),
            (Phase::AwaitsHello, _) | (_, Kind::Hello) => Err(Code::HelloRequired),
            _ => Ok(()),
        }
    }

    /// A rank request was taken, whose answer takes at most `answer_bytes`.
    pub fn taken(&mut self, answer_bytes: usize) {
        self.in_flight += 1;
        self.reserved_bytes += answer_bytes;
    }

    /// A rank request was answered.
    pub fn answered(&mut self, answer_bytes: usize) {
        assert!(self.in_flight > 0 && self.reserved_bytes >= answer_bytes, "every request is answered once");
        self.in_flight -= 1;
        self.reserved_bytes -= answer_bytes;
    }

    /// Whether its end has begun: nothing it sends is looked at any more.
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing(_))
    }

    /// Whether it should be closed once its last bytes are out.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Finishing && self.in_flight == 0
    }
}
