//! Unconsumed bytes of one connection, contiguous, in its own part of the [`super::region::Region`].
//!
//! ```text
//! base        start           end            capacity
//! |  consumed |  unconsumed   |  free        |
//! ```
//!
//! Bytes are added at `end` by copying or by the kernel writing into [`Inbox::space`]; they move to the front only when that costs no more
//! than was consumed since ([`Inbox::settle`]), and never while the kernel holds the space.

use super::region::give_back;

/// The receive side of a connection. Does not own its memory: the wire that made it keeps the region alive longer.
#[derive(Debug)]
pub struct Inbox {
    base: *mut u8,
    capacity: usize,
    start: usize,
    end: usize,
    need: usize,
    touched: usize,
}

impl Inbox {
    /// An empty inbox.
    ///
    /// # Safety
    /// - `base` .. `base + capacity` is readable and writable for as long as the inbox is used, and nobody else's.
    pub unsafe fn new(base: *mut u8, capacity: usize) -> Inbox {
        Inbox { base, capacity, start: 0, end: 0, need: 0, touched: 0 }
    }

    /// All unconsumed bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: start ≤ end ≤ capacity (kept by every method); bytes below `end` were written by `append` or by the kernel before `filled`.
        unsafe { std::slice::from_raw_parts(self.base.add(self.start), self.end - self.start) }
    }

    /// How many bytes are unconsumed.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is unconsumed.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Length of the frame at the start, where it is known; else 0.
    pub fn need(&self) -> usize {
        self.need
    }

    /// See [`super::Wire::need`].
    pub fn set_need(&mut self, bytes: usize) {
        self.need = bytes;
    }

    /// Room behind the unconsumed bytes.
    pub fn room(&self) -> usize {
        self.capacity - self.end
    }

    /// The free space for the kernel to write into; report with [`Inbox::filled`].
    pub fn space(&self) -> *mut u8 {
        // SAFETY: end ≤ capacity.
        unsafe { self.base.add(self.end) }
    }

    /// The kernel wrote `bytes` at [`Inbox::space`].
    pub fn filled(&mut self, bytes: usize) {
        assert!(bytes <= self.room(), "more received than there was room for");
        self.end += bytes;
        self.touched = self.touched.max(self.end);
    }

    /// Copies bytes in, moving what is there to the front if that makes the room. False if there is no room (nothing is copied then).
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.room() {
            self.compact();
            if bytes.len() > self.room() {
                return false;
            }
        }
        // SAFETY: the room was checked; `bytes` is a provided buffer or a scratch buffer, never this inbox's memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.space(), bytes.len()) };
        self.filled(bytes.len());
        true
    }

    /// The first `bytes` unconsumed bytes are done with; the length of the next frame is unknown again.
    pub fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.len(), "more consumed than received");
        self.start += bytes;
        self.need = 0;
    }

    /// Makes room for `wanted` further bytes if that is cheap or necessary. Not while the kernel writes into [`Inbox::space`].
    pub fn settle(&mut self, wanted: usize) {
        if self.is_empty() || self.start >= self.len() || self.room() < wanted {
            self.compact();
        }
    }

    /// Empties the inbox and gives back the pages beyond the first `keep` bytes.
    pub fn reset(&mut self, keep: usize) {
        // SAFETY: the range is this inbox's own, page-aligned, and the wire resets only when no operation of the kernel is under way.
        unsafe { give_back(self.base, keep, self.touched) };
        (self.start, self.end, self.need) = (0, 0, 0);
        self.touched = self.touched.min(keep);
    }

    fn compact(&mut self) {
        if self.start > 0 {
            let bytes = self.len();
            // SAFETY: both ranges are inside the inbox; `copy` allows overlap.
            unsafe { std::ptr::copy(self.base.add(self.start), self.base, bytes) };
            (self.start, self.end) = (0, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::region::{Pages, Region};
    use super::*;

    #[test]
    fn bytes_stay_in_order_through_wrap_and_compaction() {
        let region = Region::reserve(8192, Pages::Small).expect("region");
        // SAFETY: the region outlives the inbox and is used by it alone.
        let mut inbox = unsafe { Inbox::new(region.at(0), 8192) };
        let (mut wrote, mut read) = (0u32, 0u32);
        for round in 0..2_000usize {
            let count = (round * 37) % 300 / 4;
            for _ in 0..count {
                if !inbox.append(&wrote.to_le_bytes()) {
                    break;
                }
                wrote += 1;
            }
            inbox.settle((round * 13) % 900);
            let take = (inbox.len() / 4).min((round * 53) % 200);
            for _ in 0..take {
                assert_eq!(inbox.bytes()[..4], read.to_le_bytes());
                inbox.consume(4);
                read += 1;
            }
        }
        assert!(read > 10_000, "{read}");
        assert_eq!(inbox.len(), (wrote - read) as usize * 4);
        inbox.reset(4096);
        assert!(inbox.is_empty() && inbox.append(&[1; 8192]) && !inbox.append(&[1]));
    }
}
