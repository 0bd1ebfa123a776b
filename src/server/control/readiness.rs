//! What must be there before the server may be sent requests: one latch each.

use std::sync::atomic::{AtomicBool, Ordering};

/// A condition of readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latch {
    /// Every model of the folder is loaded, its selftest replayed.
    Models,
    /// Every shard runs its loop.
    Shards,
    /// Connections are taken in.
    Listeners,
    /// The server was not told to stop. Set from the start.
    NotDraining,
}

impl Latch {
    /// Every latch.
    pub const ALL: [Latch; 4] = [Latch::Models, Latch::Shards, Latch::Listeners, Latch::NotDraining];

    /// Its name on `/readyz`.
    pub const fn name(self) -> &'static str {
        match self {
            Latch::Models => "models",
            Latch::Shards => "shards",
            Latch::Listeners => "listeners",
            Latch::NotDraining => "not_draining",
        }
    }
}

/// All latches. Shared by whoever brings a condition about and the control thread that tells it.
#[derive(Debug)]
pub struct Readiness([AtomicBool; Latch::ALL.len()]);

impl Default for Readiness {
    fn default() -> Readiness {
        let readiness = Readiness([const { AtomicBool::new(false) }; Latch::ALL.len()]);
        readiness.set(Latch::NotDraining, true);
        readiness
    }
}

impl Readiness {
    /// Closes or opens a latch.
    pub fn set(&self, latch: Latch, holds: bool) {
        self.0[latch as usize].store(holds, Ordering::Release);
    }

    /// Whether the condition holds.
    pub fn holds(&self, latch: Latch) -> bool {
        self.0[latch as usize].load(Ordering::Acquire)
    }

    /// Whether all hold.
    pub fn is_ready(&self) -> bool {
        Latch::ALL.into_iter().all(|latch| self.holds(latch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_must_hold() {
        let readiness = Readiness::default();
        for latch in [Latch::Models, Latch::Shards, Latch::Listeners] {
            assert!(!readiness.is_ready());
            readiness.set(latch, true);
        }
        assert!(readiness.is_ready());
        readiness.set(Latch::NotDraining, false);
        assert!(!readiness.is_ready() && readiness.holds(Latch::Models));
    }
}
