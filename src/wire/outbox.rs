//! Unsent bytes of one connection: a ring in its own part of the [`super::region::Region`]. The front part may be in the kernel's hands while
//! more is queued behind it.

use super::SendFull;
use super::region::give_back;

/// The send side of a connection. Does not own its memory: the wire that made it keeps the region alive longer.
#[derive(Debug)]
pub struct Outbox {
    base: *mut u8,
    capacity: usize,
    head: usize,
    len: usize,
    touched: usize,
}

impl Outbox {
    /// An empty outbox.
    ///
    /// # Safety
    /// - `base` .. `base + capacity` is readable and writable for as long as the outbox is used, and nobody else's.
    pub unsafe fn new(base: *mut u8, capacity: usize) -> Outbox {
        Outbox { base, capacity, head: 0, len: 0, touched: 0 }
    }

    /// Bytes not yet taken by the socket.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is unsent.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Queues bytes, all or none.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SendFull> {
        if bytes.len() > self.capacity - self.len {
            return Err(SendFull);
        }
        let tail = (self.head + self.len) % self.capacity.max(1);
        let first = bytes.len().min(self.capacity - tail);
        // SAFETY: `tail + first` ≤ capacity and the rest fits in front of `head`: the free part of the ring, which the kernel does not read;
        // `bytes` is borrowed from elsewhere.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(tail), first);
            std::ptr::copy_nonoverlapping(bytes.as_ptr().add(first), self.base, bytes.len() - first);
        }
        self.len += bytes.len();
        self.touched = self.touched.max(tail + first);
        Ok(())
    }

    /// The oldest unsent bytes, as many as lie in one piece.
    pub fn front(&self) -> &[u8] {
        let bytes = self.len.min(self.capacity - self.head);
        // SAFETY: inside the ring; these bytes were written by `push`.
        unsafe { std::slice::from_raw_parts(self.base.add(self.head), bytes) }
    }

    /// The socket took the first `bytes`. Once empty, the ring starts at its first page again, so that few pages are touched.
    pub fn sent(&mut self, bytes: usize) {
        assert!(bytes <= self.len, "more sent than queued");
        self.len -= bytes;
        self.head = if self.len == 0 { 0 } else { (self.head + bytes) % self.capacity };
    }

    /// Empties the outbox and gives back the pages beyond the first `keep` bytes.
    pub fn reset(&mut self, keep: usize) {
        // SAFETY: the range is this outbox's own, page-aligned, and the wire resets only when no operation of the kernel is under way.
        unsafe { give_back(self.base, keep, self.touched) };
        (self.head, self.len) = (0, 0);
        self.touched = self.touched.min(keep);
    }
}

#[cfg(test)]
mod tests {
    use super::super::region::{Pages, Region};
    use super::*;

    #[test]
    fn the_ring_keeps_order_and_bound() {
        let region = Region::reserve(4096, Pages::Small).expect("region");
        for capacity in [1usize, 7, 64, 4096] {
            // SAFETY: the region outlives the outbox and is used by it alone.
            let mut outbox = unsafe { Outbox::new(region.at(0), capacity) };
            let (mut wrote, mut read) = (0usize, 0usize);
            for round in 0..3_000usize {
                let piece: Vec<u8> = (0..(round * 7) % 90).map(|at| ((wrote + at) % 251) as u8).collect();
                match outbox.push(&piece) {
                    Ok(()) => wrote += piece.len(),
                    Err(SendFull) => assert!(outbox.len() + piece.len() > capacity),
                }
                let take = outbox.front().len().min((round * 11) % 70);
                for (at, byte) in outbox.front()[..take].iter().enumerate() {
                    assert_eq!(*byte, ((read + at) % 251) as u8);
                }
                outbox.sent(take);
                read += take;
            }
            assert_eq!(outbox.len(), wrote - read);
        }
    }
}
