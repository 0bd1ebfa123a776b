//! What turns a shard's loop: a pinned thread with a glommio executor and a ring of its own for the sockets (`uring`), or a plain pinned thread
//! (`epoll`). The shard itself ([`Reactor`]) is the same on both and never sleeps, spawns or awaits.
//!
//! ```text
//! loop {
//!     wire.turn()                        // one entry into the kernel
//!     match reactor.turn(wire, now) {
//!         Busy         => go on at once
//!         IdleUntil(t) => spin for `spin`, then, if reactor.may_sleep(), sleep until an event, a wake, or t
//!         Stop         => end
//!     }
//! }
//! ```
//!
//! A shard that ends, fails or panics says so ([`ShardReport`]) on a channel to the thread that started it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use crate::server::placement::pin_thread;
use crate::server::preflight::IoBackend;
use crate::units::{Clock, Instant, Span};
use crate::wire::{EpollWire, UringOptions, UringWire, Waker, Wire, WireLimits};

mod epoll;
mod uring;

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

    /// Whether the thread may sleep now; else it takes another turn. Asked before every sleep.
    fn may_sleep(&mut self) -> bool {
        true
    }

    /// The thread sleeps now, until an event, a wake or a timer: for those who count.
    fn sleeps(&mut self) {}

    /// Whether other tasks were spawned on the shard's glommio executor. A busy shard then lets them run once per time slice, which costs a few
    /// allocations of glommio's each time; a sleeping one always does. No such executor on epoll.
    fn shares_executor(&self) -> bool {
        false
    }
}

/// How one shard runs.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Number of the shard: names the thread.
    pub shard: usize,
    /// The CPU it is pinned to, if it is.
    pub cpu: Option<usize>,
    /// How long an idle shard looks again before it sleeps. Waking costs tens of microseconds; spinning costs a CPU.
    pub spin: Span,
    /// The process's clock.
    pub clock: Clock,
    /// Limits of its wire.
    pub limits: WireLimits,
    /// Sizes of its ring, where io_uring is the backend.
    pub uring: UringOptions,
}

/// News about a shard for the thread that started it.
#[derive(Debug)]
pub struct ShardReport {
    /// Number of the shard.
    pub shard: usize,
    /// What happened.
    pub state: ShardState,
}

/// What happened to a shard.
#[derive(Debug)]
pub enum ShardState {
    /// Its wire stands and it takes connections.
    Started,
    /// It was told to stop, and did. The last report.
    Stopped,
    /// Its thread is gone because of this: a failed wire or a panic. The last report.
    Failed(String),
}

/// Starts a shard: a thread, pinned if asked, that makes its wire, then its reactor (there, so that memory is touched first where it is used), and
/// runs until [`Turn::Stop`]. Reports follow on `reports`; an error of `make` is one of them. Error: no thread.
pub fn spawn<R>(
    backend: IoBackend,
    options: ShardOptions,
    waker: Waker,
    make: impl FnOnce() -> io::Result<R> + Send + 'static,
    reports: mpsc::Sender<ShardReport>,
) -> io::Result<JoinHandle<()>>
where
    R: Reactor<UringWire> + Reactor<EpollWire> + 'static,
{
    Builder::new().name(format!("shard-{}", options.shard)).spawn(move || {
        let shard = options.shard;
        let started = reports.clone();
        let run = move || -> io::Result<()> {
            if let Some(cpu) = options.cpu {
                pin_thread(cpu)?;
            }
            let started = move || {
                // The parent may have given up meanwhile; the shard then learns it through its mailbox.
                let _ = started.send(ShardReport { shard, state: ShardState::Started });
            };
            match backend {
                IoBackend::Uring => uring::run(options, waker, make, started),
                IoBackend::Epoll => epoll::run(options, waker, make, started),
            }
        };
        let state = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => ShardState::Stopped,
            Ok(Err(error)) => ShardState::Failed(format!("shard {shard}: {error}")),
            Err(panic) => ShardState::Failed(format!("shard {shard} panicked: {}", panic_text(&*panic))),
        };
        let _ = reports.send(ShardReport { shard, state });
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// When an idle shard stops looking and sleeps.
struct Spin {
    limit: Span,
    idle_since: Option<Instant>,
}

impl Spin {
    fn new(limit: Span) -> Spin {
        Spin { limit, idle_since: None }
    }

    /// There was something to do.
    fn reset(&mut self) {
        self.idle_since = None;
    }

    /// Whether an idle shard has looked long enough.
    fn is_over(&mut self, now: Instant) -> bool {
        now.since(*self.idle_since.get_or_insert(now)) >= self.limit
    }
}

/// How long to sleep for a timer at `until`.
fn timeout(until: Option<Instant>, now: Instant) -> Option<Span> {
    until.filter(|&until| until != Instant::NEVER).map(|until| until - now)
}
