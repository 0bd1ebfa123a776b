//! How long to wait before connecting again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Doubling waits, each cut to a random part between a half and the whole, so that clients do not return together.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    random: RandomState,
    attempts: u64,
}

impl Backoff {
    pub fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { min, max, next: min, random: RandomState::new(), attempts: 0 }
    }

    /// The last attempt succeeded.
    pub fn reset(&mut self) {
        self.next = self.min;
    }

    /// The last attempt failed: how long to wait.
    pub fn wait(&mut self) -> Duration {
        let whole = self.next.min(self.max);
        self.next = whole.saturating_mul(2);
        self.attempts += 1;
        let part = (self.random.hash_one(self.attempts) >> 40) as f64 / (1_u64 << 24) as f64;
        whole.mul_f64(0.5 + part / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_within_bounds() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(10), ms(65));
        for whole in [10, 20, 40, 65, 65, 65] {
            let wait = backoff.wait();
            assert!(wait >= ms(whole) / 2 && wait <= ms(whole), "{wait:?} of {whole} ms");
        }
        backoff.reset();
        assert!(backoff.wait() <= ms(10));
    }
}
