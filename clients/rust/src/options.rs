//! Settings of a client, and of one call.

use std::time::{Duration, Instant};

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections per address. One suffices for thousands of requests in flight; more spread the load over the server's shards.
    pub connections: usize,
    /// Name and version of the caller, for the server's operator; cut at 128 bytes.
    pub client: String,
    /// Shared secret, where the server asks for one.
    pub token: Option<Vec<u8>>,
    /// How long connecting and the hello may take together, and how long a call without deadline waits for a connection.
    pub connect_timeout: Duration,
    /// Wait before the second attempt to connect; doubled by each further one. A random part of it is taken, so that the clients of a server
    /// that went away do not return together.
    pub backoff_min: Duration,
    /// Longest wait between attempts.
    pub backoff_max: Duration,
    /// Largest answer that is taken; a larger one is a fault of the server.
    pub answer_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connections: 1,
            client: concat!("gavel-client ", env!("CARGO_PKG_VERSION")).to_owned(),
            token: None,
            connect_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(2),
            answer_bytes_max: 64 << 20,
        }
    }
}

/// Settings of one call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    /// The answer is of no use later. What is left of it when the frame is written is the budget that the server sees.
    pub deadline: Option<Instant>,
    /// Like a deadline that so long lies ahead when the call begins. With both, the earlier counts.
    pub budget: Option<Duration>,
    /// 0 = normal; under pressure higher is served first.
    pub priority: u8,
}

impl Call {
    /// A call that ends after so long.
    pub fn within(budget: Duration) -> Call {
        Call { budget: Some(budget), ..Call::default() }
    }

    /// A call that ends at a moment.
    pub fn until(deadline: Instant) -> Call {
        Call { deadline: Some(deadline), ..Call::default() }
    }

    /// When a call that begins `now` ends.
    pub(crate) fn end(&self, now: Instant) -> Option<Instant> {
        let budget = self.budget.and_then(|budget| now.checked_add(budget));
        match (self.deadline, budget) {
            (Some(deadline), Some(budget)) => Some(deadline.min(budget)),
            (deadline, budget) => deadline.or(budget),
        }
    }
}

/// The wire's form of what is left: at least 1 µs, because 0 means no budget. None if nothing is left.
pub(crate) fn budget_us(end: Option<Instant>, now: Instant) -> Option<u32> {
    let Some(end) = end else { return Some(0) };
    let left = end.checked_duration_since(now).filter(|left| !left.is_zero())?;
    Some(u32::try_from(left.as_micros()).unwrap_or(u32::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_end_counts() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        for (deadline, budget, expected) in [
            (None, None, None),
            (Some(5), None, Some(5)),
            (None, Some(7), Some(7)),
            (Some(5), Some(7), Some(5)),
            (Some(9), Some(7), Some(7)),
        ] {
            let call = Call { deadline: deadline.map(|d| now + ms(d)), budget: budget.map(ms), priority: 0 };
            assert_eq!(call.end(now), expected.map(|e| now + ms(e)), "{deadline:?} {budget:?}");
        }
    }

    #[test]
    fn budgets() {
        let now = Instant::now();
        for (left, expected) in [
            (None, Some(0)),
            (Some(Duration::ZERO), None),
            (Some(Duration::from_nanos(1)), Some(1)),
            (Some(Duration::from_micros(1500)), Some(1500)),
            (Some(Duration::from_secs(10_000)), Some(u32::MAX)),
        ] {
            assert_eq!(budget_us(left.map(|left| now + left), now), expected, "{left:?}");
        }
        assert_eq!(budget_us(Some(now), now + Duration::from_micros(1)), None);
    }
}
