//! Bytes of a connection that the shard is shown where they were received, before they are the connection's own.

use super::ConnectionId;

/// Which connection's bytes lie in a buffer of the wire, and which of them the shard has left.
#[derive(Debug)]
pub struct Shown<B> {
    /// The connection's.
    pub index: u32,
    /// Which buffer.
    pub buffer: B,
    /// First unconsumed byte.
    pub start: usize,
    /// Behind the last one.
    pub end: usize,
}

impl<B> Shown<B> {
    /// Whether they are this connection's, which lives.
    pub fn is_of(&self, connection: ConnectionId) -> bool {
        self.index == connection.index
    }

    /// The shard is done with the first `bytes`.
    pub fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.end - self.start, "more consumed than received");
        self.start += bytes;
    }
}
