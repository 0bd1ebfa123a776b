//! How many batches a device is given at once, over all shards that feed it.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A count of free permits: the one line that all shards write. While none is free, requests gather into larger batches.
#[derive(Debug)]
#[repr(align(128))]
pub struct Permits(AtomicUsize);

impl Permits {
    /// So many, all free.
    pub fn new(count: usize) -> Permits {
        Permits(AtomicUsize::new(count))
    }

    /// Whether one was free a moment ago.
    pub fn is_any_free(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Takes one if one is free.
    pub fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, |free| free.checked_sub(1)).is_ok()
    }

    /// Gives one back.
    pub fn give(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_never_hold_more_than_there_are() {
        let (permits, held) = (Permits::new(3), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if permits.take() {
                            assert!(held.fetch_add(1, Ordering::AcqRel) < 3);
                            held.fetch_sub(1, Ordering::AcqRel);
                            permits.give();
                        }
                    }
                });
            }
        });
        assert!((0..3).all(|_| permits.take()) && !permits.take() && !permits.is_any_free());
    }
}
