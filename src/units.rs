//! Newtypes for units and numbers. Only the arithmetic that makes sense.

use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The memory of a batch, by the number that its engine gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u16);

/// A model version on a shard: its place in the order of publication, the same on every shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelNumber(pub u16);

/// A moment: nanoseconds on the monotonic clock since the process's [`Clock`] was made. Passed in as an argument everywhere; only the
/// shard's loop reads a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

/// A span of time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub u64);

impl Span {
    /// No time.
    pub const ZERO: Span = Span(0);
    /// From microseconds.
    pub const fn from_us(us: u64) -> Span {
        Span(us * 1_000)
    }
    /// From milliseconds.
    pub const fn from_ms(ms: u64) -> Span {
        Span(ms * 1_000_000)
    }
    /// Whole microseconds, saturating at `u32::MAX`: the form of the wire.
    pub fn as_us(self) -> u32 {
        u32::try_from(self.0 / 1_000).unwrap_or(u32::MAX)
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Span {
        Span(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Duration {
        Duration::from_nanos(span.0)
    }
}

impl Instant {
    /// The far future: no deadline.
    pub const NEVER: Instant = Instant(u64::MAX);

    /// So much earlier, not before zero.
    pub const fn before(self, span: Span) -> Instant {
        Instant(self.0.saturating_sub(span.0))
    }

    /// Time since `earlier`; zero if it is later.
    pub const fn since(self, earlier: Instant) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Span> for Instant {
    type Output = Instant;
    fn add(self, span: Span) -> Instant {
        Instant(self.0.saturating_add(span.0))
    }
}

impl Sub<Instant> for Instant {
    type Output = Span;
    fn sub(self, earlier: Instant) -> Span {
        self.since(earlier)
    }
}

/// Source of [`Instant`]s.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Source);

#[derive(Clone, Copy, Debug)]
enum Source {
    /// The system's monotonic clock, since this moment.
    System(std::time::Instant),
    /// Whatever a simulation says, in nanoseconds.
    Manual(&'static AtomicU64),
}

impl Clock {
    /// A clock that reads zero now.
    pub fn start() -> Clock {
        Clock(Source::System(std::time::Instant::now()))
    }
    /// A clock that a simulation moves, in nanoseconds.
    pub const fn manual(nanoseconds: &'static AtomicU64) -> Clock {
        Clock(Source::Manual(nanoseconds))
    }
    /// The present.
    pub fn now(&self) -> Instant {
        match self.0 {
            Source::System(start) => Instant(Span::from(start.elapsed()).0),
            Source::Manual(nanoseconds) => Instant(nanoseconds.load(Ordering::Relaxed)),
        }
    }
}
