//! How long a connection may keep the server waiting.

use super::{Connection, Phase};
use crate::units::{Instant, Span};

/// Limits of time, zero = none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept to a whole hello.
    pub hello: Span,
    /// With nothing in flight and no frame.
    pub idle: Span,
    /// From the first to the last byte of a frame.
    pub receive: Span,
    /// Unsent answers without any progress.
    pub send: Span,
}

/// Timers of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    opened: Instant,
    /// The last whole frame.
    frame: Instant,
    /// Bytes of an incomplete frame lie there since.
    partial: Option<Instant>,
    /// Unsent bytes, and since when they have not become fewer.
    unsent: usize,
    unsent_since: Instant,
}

/// Why patience ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// No hello.
    Hello,
    /// Nothing to do.
    Idle,
    /// A frame that never ended.
    Receive,
    /// A client that does not read.
    Send,
    /// A client that does not close its side.
    Closing,
}

impl Patience {
    /// Starts all timers.
    pub fn new(now: Instant) -> Patience {
        Patience { opened: now, frame: now, partial: None, unsent: 0, unsent_since: now }
    }

    /// A whole frame came.
    pub fn frame(&mut self, now: Instant) {
        self.frame = now;
        self.partial = None;
    }

    /// Part of a frame lies there.
    pub fn partial(&mut self, now: Instant) {
        self.partial.get_or_insert(now);
    }

    /// Bytes not yet taken by the socket, as of now.
    pub fn unsent(&mut self, bytes: usize, now: Instant) {
        if bytes < self.unsent || (self.unsent == 0 && bytes > 0) {
            self.unsent_since = now;
        }
        self.unsent = bytes;
    }
}

impl Connection {
    /// Whether one of the timeouts has passed.
    pub fn expired(&self, timeouts: &Timeouts, now: Instant) -> Option<Expired> {
        let over = |since: Instant, limit: Span| limit != Span::ZERO && now.since(since) >= limit;
        let patience = &self.patience;
        if let Phase::Closing(since) = self.phase {
            // Answers that still leave are given the time that progress deserves; then the peer has a moment to close.
            let late = if patience.unsent > 0 {
                over(patience.unsent_since, timeouts.send)
            } else {
                over(since.max(patience.unsent_since), CLOSE_LINGER)
            };
            return late.then_some(Expired::Closing);
        }
        if patience.unsent > 0 && over(patience.unsent_since, timeouts.send) {
            return Some(Expired::Send);
        }
        if self.phase == Phase::AwaitsHello {
            return over(patience.opened, timeouts.hello).then_some(Expired::Hello);
        }
        // While reading is held, the rest of a frame may lie in the socket: that is not the client's stall.
        if !self.held && patience.partial.is_some_and(|since| over(since, timeouts.receive)) {
            return Some(Expired::Receive);
        }
        (self.in_flight == 0 && patience.unsent == 0 && over(patience.frame, timeouts.idle)).then_some(Expired::Idle)
    }
}

/// A connection that is being closed is cut off after this: long enough for the last answers to cross any network in use.
const CLOSE_LINGER: Span = Span::from_ms(2_000);

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts { hello: Span(10), idle: Span(100), receive: Span(20), send: Span(30) };

    fn open(now: u64) -> Connection {
        Connection { phase: Phase::Open, ..Connection::new(Instant(now)) }
    }

    #[test]
    fn each_timer_alone() {
        let waiting = Connection::new(Instant(0));
        assert_eq!(waiting.expired(&TIMEOUTS, Instant(9)), None);
        assert_eq!(waiting.expired(&TIMEOUTS, Instant(10)), Some(Expired::Hello));

        let mut idle = open(0);
        idle.patience.frame(Instant(50));
        assert_eq!(idle.expired(&TIMEOUTS, Instant(149)), None);
        assert_eq!(idle.expired(&TIMEOUTS, Instant(150)), Some(Expired::Idle));
        idle.in_flight = 1;
        assert_eq!(idle.expired(&TIMEOUTS, Instant(1_000)), None, "work in flight is not idleness");

        let mut partial = open(0);
        partial.patience.partial(Instant(5));
        partial.patience.partial(Instant(15));
        assert_eq!(partial.expired(&TIMEOUTS, Instant(24)), None);
        assert_eq!(
            partial.expired(&TIMEOUTS, Instant(25)),
            Some(Expired::Receive),
            "counted from the first byte, however slowly more drip in"
        );
        partial.patience.frame(Instant(26));
        assert_eq!(partial.expired(&TIMEOUTS, Instant(60)), None);

        let mut slow = open(0);
        slow.patience.unsent(100, Instant(1));
        slow.patience.unsent(100, Instant(20));
        assert_eq!(slow.expired(&TIMEOUTS, Instant(30)), None);
        assert_eq!(slow.expired(&TIMEOUTS, Instant(31)), Some(Expired::Send));
        slow.patience.unsent(99, Instant(31));
        assert_eq!(slow.expired(&TIMEOUTS, Instant(60)), None, "progress, however small, is progress");
    }

    #[test]
    fn closing_is_bounded() {
        let mut connection = open(0);
        connection.phase = Phase::Closing(Instant(5));
        assert_eq!(connection.expired(&TIMEOUTS, Instant(1_000)), None);
        assert_eq!(connection.expired(&TIMEOUTS, Instant(5) + CLOSE_LINGER), Some(Expired::Closing));
        // A client that reads slowly keeps the connection while it makes progress.
        let mut now = Instant(5);
        for unsent in (1..100).rev() {
            connection.patience.unsent(unsent, now);
            now = now + Span(TIMEOUTS.send.0 - 1);
            assert_eq!(connection.expired(&TIMEOUTS, now), None);
        }
        assert_eq!(connection.expired(&TIMEOUTS, now + Span(1)), Some(Expired::Closing));
        connection.patience.unsent(0, now);
        assert_eq!(connection.expired(&TIMEOUTS, now + Span(1)), None);
        assert_eq!(connection.expired(&TIMEOUTS, now + CLOSE_LINGER), Some(Expired::Closing));
    }

    #[test]
    fn zero_is_never() {
        let never = Timeouts { hello: Span::ZERO, idle: Span::ZERO, receive: Span::ZERO, send: Span::ZERO };
        let mut connection = open(0);
        connection.patience.partial(Instant(0));
        connection.patience.unsent(1, Instant(0));
        assert_eq!(connection.expired(&never, Instant(u64::MAX)), None);
    }
}
