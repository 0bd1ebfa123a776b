//! What both wires know about a connection, and the table of all of them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::inbox::Inbox;
use super::outbox::Outbox;
use super::region::{PAGE_BYTES, Pages, Region};
use super::shown::Shown;
use super::{Cause, Close, ConnectionId, SendFull, WireLimits};

/// One connection, as far as both wires agree. A free slot has no socket.
#[derive(Debug)]
pub struct Line {
    generation: u32,
    /// The socket while the connection lives.
    pub socket: Option<OwnedFd>,
    /// Unconsumed bytes.
    pub inbox: Inbox,
    /// Unsent bytes.
    pub outbox: Outbox,
    /// See [`super::Wire::set_reading`].
    pub reading: bool,
    /// The peer has finished sending.
    pub ended: bool,
    /// What the shard asked for.
    pub close: Option<Close>,
    /// Our own half-close is done.
    pub half_closed: bool,
    /// Errno that ended it.
    pub failed: Option<i32>,
}

impl Line {
    /// The descriptor; −1 for a free slot (the kernel refuses it).
    pub fn fd(&self) -> RawFd {
        self.socket.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Whether nothing but the end is left: a failure or `Close::Now`.
    pub fn is_over(&self) -> bool {
        self.failed.is_some() || self.close == Some(Close::Now)
    }

    /// What `Closed` will say.
    pub fn cause(&self) -> Cause {
        match (self.failed, self.ended) {
            (Some(errno), _) => Cause::Error(errno),
            (None, false) => Cause::Local,
            (None, true) => Cause::Peer,
        }
    }

    /// Tells the peer that no more will come, once.
    pub fn half_close(&mut self) {
        if !std::mem::replace(&mut self.half_closed, true) {
            // SAFETY: no pointers; an error (already reset) shows at the next operation.
            unsafe { libc::shutdown(self.fd(), libc::SHUT_WR) };
        }
    }

    /// Whether the frame that the shard waits for is complete, or any byte is there when it has not said.
    pub fn is_worth_telling(&self) -> bool {
        self.inbox.len() >= self.inbox.need().max(1)
    }
}

/// All connections of a wire: a fixed array of slots.
#[derive(Debug)]
pub struct Table<L> {
    links: Vec<L>,
    free: Vec<u32>,
}

/// A wire's own view of a connection wraps the common one.
pub trait HasLine {
    /// The common part.
    fn line(&self) -> &Line;
    /// The common part, to change.
    fn line_mut(&mut self) -> &mut Line;
}

impl<L: HasLine> Table<L> {
    /// Reserves memory for `limits` (`slack` further bytes behind each inbox) and makes all slots with `wrap`. The region must outlive the table
    /// and every operation of the kernel on it.
    pub fn new(limits: WireLimits, slack: usize, wrap: impl Fn(Line) -> L) -> io::Result<(Table<L>, Region)> {
        let too_many = || io::Error::new(io::ErrorKind::InvalidInput, "the wire's limits exceed the address space");
        let connections = u32::try_from(limits.connections_max).ok().filter(|&count| count < 1 << 28).ok_or_else(too_many)?;
        let receive_bytes = limits.receive_bytes_max.checked_add(slack).ok_or_else(too_many)?.next_multiple_of(PAGE_BYTES);
        let send_bytes = limits.send_bytes_max.next_multiple_of(PAGE_BYTES);
        let stride = receive_bytes.checked_add(send_bytes).ok_or_else(too_many)?;
        let region = Region::reserve(stride.checked_mul(limits.connections_max).ok_or_else(too_many)?, Pages::Small)?;
        let links = (0..limits.connections_max)
            .map(|index| {
                // SAFETY: disjoint page-aligned parts of the region, which the caller keeps alive.
                let (inbox, outbox) = unsafe {
                    let base = region.at(index * stride);
                    (Inbox::new(base, receive_bytes), Outbox::new(base.add(receive_bytes), limits.send_bytes_max))
                };
                wrap(Line {
                    generation: 0,
                    socket: None,
                    inbox,
                    outbox,
                    reading: true,
                    ended: false,
                    close: None,
                    half_closed: false,
                    failed: None,
                })
            })
            .collect();
        // The lowest index is handed out first, so that few pages are touched.
        Ok((Table { links, free: (0..connections).rev().collect() }, region))
    }

    /// Gives the socket a slot. Error: all are taken.
    pub fn insert(&mut self, socket: OwnedFd) -> io::Result<ConnectionId> {
        let index = self.free.pop().ok_or_else(|| io::Error::other("no free connection slot"))?;
        let line = self.links[index as usize].line_mut();
        line.generation = line.generation.wrapping_add(1);
        line.socket = Some(socket);
        (line.reading, line.ended) = (true, false);
        (line.close, line.half_closed, line.failed) = (None, false, None);
        Ok(ConnectionId { index, generation: line.generation })
    }

    /// Closes the socket and frees the slot. The kernel holds nothing of it any more.
    pub fn remove(&mut self, index: u32) {
        let line = self.links[index as usize].line_mut();
        line.socket = None;
        line.inbox.reset(KEEP_BYTES);
        line.outbox.reset(KEEP_BYTES);
        self.free.push(index);
    }

    /// The id of the live connection at `index`.
    pub fn id(&self, index: u32) -> ConnectionId {
        ConnectionId { index, generation: self.links[index as usize].line().generation }
    }

    /// The connection `id`, if it lives.
    pub fn get(&self, id: ConnectionId) -> Option<&L> {
        self.links.get(id.index as usize).filter(|link| link.line().generation == id.generation && link.line().socket.is_some())
    }

    /// The connection `id`, if it lives.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut L> {
        self.links.get_mut(id.index as usize).filter(|link| link.line().generation == id.generation && link.line().socket.is_some())
    }

    /// The connection `id`, if it lives and the shard has not closed it.
    pub fn open(&self, id: ConnectionId) -> Option<&L> {
        self.get(id).filter(|link| link.line().close.is_none())
    }

    /// The connection `id`, if it lives and the shard has not closed it.
    pub fn open_mut(&mut self, id: ConnectionId) -> Option<&mut L> {
        self.get_mut(id).filter(|link| link.line().close.is_none())
    }

    /// See [`super::Wire::received`]: what is shown of it, given by `bytes`, or its own memory.
    pub fn received<'b, B>(
        &'b self,
        id: ConnectionId,
        shown: &'b Option<Shown<B>>,
        bytes: impl FnOnce(&'b Shown<B>) -> &'b [u8],
    ) -> &'b [u8] {
        match (self.open(id), shown) {
            (Some(_), Some(shown)) if shown.is_of(id) => bytes(shown),
            (Some(link), _) => link.line().inbox.bytes(),
            (None, _) => &[],
        }
    }

    /// See [`super::Wire::send`]; gives the connection that now has something to send.
    pub fn queue(&mut self, id: ConnectionId, bytes: &[u8]) -> Result<Option<&mut L>, SendFull> {
        let Some(link) = self.open_mut(id) else { return Ok(None) };
        link.line_mut().outbox.push(bytes)?;
        Ok(Some(link))
    }

    /// See [`super::Wire::unsent`].
    pub fn unsent(&self, id: ConnectionId) -> usize {
        self.get(id).map_or(0, |link| link.line().outbox.len())
    }

    /// Notes what the shard asked for; gives the connection, if it lives.
    pub fn close(&mut self, id: ConnectionId, how: Close) -> Option<&mut L> {
        let link = self.get_mut(id)?;
        let line = link.line_mut();
        if line.close != Some(Close::Now) {
            line.close = Some(how);
        }
        Some(link)
    }

    /// The slot `index`, which the wire itself has noted.
    pub fn at(&mut self, index: u32) -> &mut L {
        &mut self.links[index as usize]
    }

    /// Whether a connection lives at `index`.
    pub fn is_live(&self, index: u32) -> bool {
        self.links[index as usize].line().socket.is_some()
    }

    /// Live connections.
    pub fn len(&self) -> usize {
        self.links.len() - self.free.len()
    }

    /// Slots in all.
    pub fn capacity(&self) -> usize {
        self.links.len()
    }
}

/// What a closed slot keeps of its memory, for the next connection: per inbox and per outbox.
const KEEP_BYTES: usize = 4 * PAGE_BYTES;
