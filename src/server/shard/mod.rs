//! A shard: everything between its wire and its engine, on one thread.
//!
//! ```text
//!   wire events ─▶ frames ─▶ admission ─▶ slot ─▶ engine ─▶ answers ─▶ wire
//!                 (connection)  (rank)   (batch)           (answer)
//! ```
//! One round (`Shard::turn`) takes the wire's events, the mail, gives the engine at most `STEP`, and answers what is done.
//! It never blocks, locks or logs, and allocates only when a model is published.

mod admission;
mod answer;
mod batches;
mod endings;
mod frames;
mod models;
mod round;
#[cfg(test)]
mod simulation;
mod tickets;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub use answer::answer_bytes_max;
pub use models::Published;

use answer::Answers;
use models::Models;
use tickets::Tickets;

use crate::connection::{Connection, Timeouts};
use crate::engine::Engine;
use crate::metrics::ShardCells;
use crate::scheduler::Scheduler;
use crate::server::mailbox::MailReceiver;
use crate::units::{Clock, Instant, SlotId, Span};
use crate::wire::ConnectionId;

/// What a shard is told by the control thread.
pub enum News {
    /// Serve this model. The rollout counts the shards that do.
    Publish(Arc<Published>, Arc<Rollout>),
    /// Take no new requests, finish what is in flight, be gone after this span at the latest.
    Drain(Span),
}

/// Counts shards that have done something, and remembers the first that could not.
#[derive(Debug, Default)]
pub struct Rollout {
    done: std::sync::atomic::AtomicUsize,
    failed: std::sync::OnceLock<String>,
}

impl Rollout {
    /// How many shards have done it.
    pub fn done(&self) -> usize {
        self.done.load(std::sync::atomic::Ordering::Acquire)
    }
    /// Why a shard could not.
    pub fn failed(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }
    fn pass(&self) {
        self.done.fetch_add(1, std::sync::atomic::Ordering::Release);
    }
    fn fail(&self, reason: String) {
        let _ = self.failed.set(reason);
    }
}

/// Bounds of a shard, fixed at start.
#[derive(Clone, Copy, Debug)]
pub struct ShardLimits {
    /// Connections at once.
    pub connections_max: usize,
    /// Requests in flight on a connection.
    pub connection_in_flight_max: usize,
    /// Requests in flight on the shard.
    pub in_flight_max: usize,
    /// Header and body.
    pub frame_bytes_max: usize,
    /// Unsent bytes per connection.
    pub send_bytes_max: usize,
    /// Patience with clients.
    pub timeouts: Timeouts,
}

/// What a shard is made of.
pub struct ShardParts {
    /// Runs batches.
    pub engine: Box<dyn Engine>,
    /// From the acceptor: sockets.
    pub sockets: MailReceiver<OwnedFd>,
    /// From the control thread.
    pub news: MailReceiver<News>,
    /// Where it counts.
    pub cells: ShardCells,
    /// Its clock; the same in all threads.
    pub clock: Clock,
    /// Bounds.
    pub limits: ShardLimits,
    /// Told in the answer to a hello.
    pub server_name: String,
}

/// A running shard.
pub struct Shard {
    engine: Box<dyn Engine>,
    sockets: MailReceiver<OwnedFd>,
    news: MailReceiver<News>,
    cells: ShardCells,
    clock: Clock,
    limits: ShardLimits,
    server_name: String,

    scheduler: Scheduler,
    models: Models,
    tickets: Tickets,
    answers: Answers,
    /// By index of the wire's connection ids.
    connections: Vec<Option<(ConnectionId, Connection)>>,
    /// Connections with unread frames whose turn has not come.
    unread: VecDeque<ConnectionId>,
    /// When each slot in the engine was started.
    started: Vec<(SlotId, Instant)>,
    draining: Option<Drain>,
    ticked: Instant,
    message: String,
    /// A small frame about to be sent.
    reply: Vec<u8>,
}

/// A shard that is going away.
#[derive(Clone, Copy, Debug)]
struct Drain {
    since: Instant,
    deadline: Instant,
}

impl Shard {
    /// A shard with no model and no connection. Takes all memory that its bounds allow it to need, but for pages not yet touched.
    pub fn new(parts: ShardParts) -> Shard {
        let limits = parts.limits;
        Shard {
            engine: parts.engine,
            sockets: parts.sockets,
            news: parts.news,
            cells: parts.cells,
            clock: parts.clock,
            limits,
            server_name: parts.server_name,
            scheduler: Scheduler::default(),
            models: Models::default(),
            tickets: Tickets::new(limits.in_flight_max),
            answers: Answers::new(0, 0),
            connections: (0..limits.connections_max).map(|_| None).collect(),
            unread: VecDeque::with_capacity(limits.connections_max),
            started: Vec::with_capacity(16),
            draining: None,
            ticked: Instant(0),
            message: String::with_capacity(256),
            reply: Vec::with_capacity(4096),
        }
    }

    /// Whether nothing is in flight, waiting or connected.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.tickets.is_empty()
            && !self.scheduler.has_waiting()
            && self.engine.in_flight() == 0
            && self.connections.iter().all(Option::is_none)
    }

    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        match self.connections.get_mut(id.index as usize) {
            Some(Some((known, connection))) if *known == id => Some(connection),
            _ => None,
        }
    }
}
