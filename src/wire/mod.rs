//! Sockets of one shard, behind one small interface with two implementations: `uring` and `epoll`.
//!
//! A wire moves bytes and knows nothing of frames beyond their length: the shard says through [`Wire::need`] how long the frame under way is,
//! and gets its bytes contiguous. Memory: one region per wire of address space reserved at start, `connections_max` × (`receive_bytes_max` +
//! `send_bytes_max` + what the kernel may still deliver when reading stops), touched page by page; nothing is allocated between a readable
//! socket and a written reply.
//!
//! Both wires behave alike and pass the same table of tests. Absent on purpose: accepting (the acceptor deals descriptors), TLS, clocks, frames.
//!
//! Event loop of a shard, on both wires:
//!
//! ```text
//! loop {
//!     wire.turn()                       // one entry into the kernel: sends what is queued, takes what came
//!     while let Some(event) = wire.next() { .. wire.received(c) .. wire.consume(c, n) .. wire.send(c, bytes) .. }
//!     .. engine steps ..
//!     if nothing to do { wait() for an event, a wake or a timer, or on uring prepare_sleep() and await the eventfd }
//! }
//! ```

#![allow(unsafe_code)] // the ring, socket calls and the memory lent to them

use std::io;
use std::os::fd::OwnedFd;

use crate::units::Span;

mod epoll;
mod fifo;
mod inbox;
mod line;
mod outbox;
mod region;
mod shown;
mod uring;
mod wake;

pub use epoll::EpollWire;
pub use uring::{ProbeFailure, ProbeStep, RingKind, UringOptions, UringWire, probe};
pub use wake::Waker;

/// A connection of this wire: index and generation, so that an event of a closed connection never reaches its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// Below `connections_max`; reused.
    pub index: u32,
    /// Grows with each use of the index.
    pub generation: u32,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// New bytes: see [`Wire::received`]. Given again only when more arrive.
    Received(ConnectionId),
    /// Everything queued was handed to the kernel.
    Sent(ConnectionId),
    /// The peer sends no more (half-close). What is queued is still sent; the shard closes when it has answered everything. Unconsumed bytes
    /// stay in [`Wire::received`].
    Finished(ConnectionId),
    /// The connection is gone: by an error or by [`Wire::close`]. The id is dead from here on. Exactly one per adopted connection, and after
    /// [`Wire::close`] the only event of it.
    Closed(ConnectionId, Cause),
    /// The [`Waker`] was used: look into the mailboxes.
    Woken,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// [`Wire::close`] while the peer was still able to send.
    Local,
    /// Orderly: the peer finished first, then [`Wire::close`].
    Peer,
    /// Reset or another error of the socket (errno).
    Error(i32),
}

/// How to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Sends what is queued, then half-closes and throws away what the peer still sends until it closes too: were unread bytes left at the end,
    /// the kernel would answer them with a reset that destroys the last replies on their way. The shard bounds how long it waits, then says `Now`.
    AfterSends,
    /// At once; queued bytes are lost.
    Now,
}

/// [`Wire::send`] found no room: the connection's unsent bytes would exceed `send_bytes_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendFull;

/// Limits of a wire, fixed at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireLimits {
    /// Connections at once.
    pub connections_max: usize,
    /// Contiguous unconsumed bytes per connection: the largest frame.
    pub receive_bytes_max: usize,
    /// Unsent bytes per connection.
    pub send_bytes_max: usize,
}

/// Sockets of one shard. Used by one thread.
pub trait Wire {
    /// Takes a connected, non-blocking-capable stream socket (TCP or Unix). Errors: no free index, or the kernel refused.
    fn adopt(&mut self, socket: OwnedFd) -> io::Result<ConnectionId>;
    /// One entry into the kernel, without waiting: sends what is queued, takes what came. Errors are fatal to the shard.
    fn turn(&mut self) -> io::Result<()>;
    /// The next event of this turn; the shard takes them until there is none. What `received` showed for the previous event's connection is
    /// kept (unless consumed) but may move.
    fn next(&mut self) -> Option<Event>;
    /// All unconsumed bytes of a connection, contiguous. Empty for a dead id.
    fn received(&self, connection: ConnectionId) -> &[u8];
    /// The first `bytes` of `received` are done with.
    fn consume(&mut self, connection: ConnectionId, bytes: usize);
    /// The frame at the start of `received` is `bytes` long (≤ `receive_bytes_max`): no event is needed before so many are there.
    fn need(&mut self, connection: ConnectionId, bytes: usize);
    /// Stops taking bytes from this connection (back-pressure on a client that does not read its answers) or goes on. While it is stopped there
    /// is no `Received` and no `Finished`; what was on its way is kept, and announced when reading goes on.
    fn set_reading(&mut self, connection: ConnectionId, reading: bool);
    /// Queues bytes, all or none; they leave at the next turn. In order, each byte once. On a dead or closing id they are dropped.
    fn send(&mut self, connection: ConnectionId, bytes: &[u8]) -> Result<(), SendFull>;
    /// Bytes queued or in the kernel's hands, not yet taken by the socket.
    fn unsent(&self, connection: ConnectionId) -> usize;
    /// Ends a connection; `Closed` follows. Harmless on a dead id.
    fn close(&mut self, connection: ConnectionId, how: Close);
    /// Whether events are waiting or sends are queued, so that the loop must not sleep.
    fn is_busy(&self) -> bool;
    /// A `turn` that, with no event at hand, blocks the thread until one comes or `timeout` has passed (`None`: for ever). May end early. (A
    /// shard on `uring` sleeps through its executor instead, on the eventfd of the ring.)
    fn wait(&mut self, timeout: Option<Span>) -> io::Result<()>;
    /// Live connections.
    fn connections(&self) -> usize;
}
