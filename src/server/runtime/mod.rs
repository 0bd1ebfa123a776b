//! What turns a shard's loop: a pinned glommio executor with its own ring for the sockets ([`uring`]), or a plain pinned thread ([`epoll`]).
//! The shard itself ([`Reactor`]) is the same on both and never sleeps, spawns or awaits.
//!
//! ```text
//! loop {
//!     wire.turn()                        // one entry into the kernel
//!     match reactor.turn(wire, now) {
//!         Busy         => go on at once
//!         IdleUntil(t) => spin for `spin`, then sleep until an event, a wake, or t
//!         Stop         => end
//!     }
//! }
//! ```

use crate::units::Instant;
use crate::wire::Wire;

/// What a shard says at the end of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is more to do: call again at once.
    Busy,
    /// Nothing to do until something comes or this moment arrives.
    IdleUntil(Option<Instant>),
    /// Everything is done: end the thread.
    Stop,
}

/// A shard's work, driven by one of the runtimes of this module.
pub trait Reactor<W: Wire> {
    /// One round: takes all events of the wire's turn (`wire.next()` until `None`), looks into the mailboxes, gives the engine a step, queues
    /// replies. Bounded work; never blocks. `now` was read after `wire.turn()`.
    fn turn(&mut self, wire: &mut W, now: Instant) -> Turn;
}
