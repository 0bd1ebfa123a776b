//! The provided buffers: memory that the kernel picks from when bytes arrive, so that an idle connection costs no buffer.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::wire::region::{Pages, Region};

/// Buffers of one shard and the ring through which they go to the kernel.
#[derive(Debug)]
pub struct Pool {
    entries: Region,
    data: Region,
    count: u16,
    buffer_bytes: usize,
    /// From one buffer to the next: odd in cache lines, so that the first lines of all buffers do not compete for the same few sets of a cache.
    stride: usize,
    tail: u16,
}

impl Pool {
    /// `count` (a power of two) buffers, registered as group [`GROUP`]. The pool must live as long as the ring.
    pub fn new(ring: &IoUring, count: u16, buffer_bytes: usize) -> io::Result<Pool> {
        if !count.is_power_of_two() || buffer_bytes == 0 || u32::try_from(buffer_bytes).is_err() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the number of provided buffers must be a power of two, their size not zero",
            ));
        }
        let entries = Region::reserve(usize::from(count) * size_of::<BufRingEntry>(), Pages::Small)?;
        let stride = (buffer_bytes.div_ceil(CACHE_LINE_BYTES) | 1) * CACHE_LINE_BYTES;
        let data = Region::reserve(usize::from(count) * stride, Pages::Huge)?;
        let mut pool = Pool { entries, data, count, buffer_bytes, stride, tail: 0 };
        for buffer in 0..count {
            pool.give(buffer);
        }
        pool.publish();
        // SAFETY: page-aligned memory of `count` entries that lives as long as the ring (the wire drops the ring first).
        unsafe { ring.submitter().register_buf_ring_with_flags(pool.entries.at(0) as u64, count, GROUP, 0)? };
        Ok(pool)
    }

    /// Lets go of the memory without unmapping it: the kernel may still write there.
    pub fn leak(&mut self) {
        std::mem::forget(std::mem::replace(&mut self.entries, Region::nothing()));
        std::mem::forget(std::mem::replace(&mut self.data, Region::nothing()));
    }

    /// Bytes per buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// The part `start..end` of a buffer that the kernel filled and handed to us.
    pub fn bytes(&self, buffer: u16, start: usize, end: usize) -> &[u8] {
        assert!(buffer < self.count && start <= end && end <= self.buffer_bytes, "not a provided buffer");
        // SAFETY: inside the data region; the kernel does not write a buffer between its completion and `give`.
        unsafe { std::slice::from_raw_parts(self.data.at(usize::from(buffer) * self.stride + start), end - start) }
    }

    /// Gives a buffer back; the kernel sees it at the next [`Pool::publish`].
    pub fn give(&mut self, buffer: u16) {
        assert!(buffer < self.count, "not a provided buffer");
        let slot = usize::from(self.tail & (self.count - 1));
        // SAFETY: an entry of the ring beyond the published tail, which the kernel does not read yet; entries are plain integers, and the tail
        // overlaps only a field that the setters leave alone.
        let entry = unsafe { &mut *self.entries.at(slot * size_of::<BufRingEntry>()).cast::<BufRingEntry>() };
        entry.set_addr(self.data.at(usize::from(buffer) * self.stride) as u64);
        entry.set_len(self.buffer_bytes as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel all buffers given back so far.
    pub fn publish(&mut self) {
        // SAFETY: the tail field of the ring's first entry, aligned, written atomically by us alone.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.at(0).cast()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

const CACHE_LINE_BYTES: usize = 64;

/// The one buffer group of a ring.
pub const GROUP: u16 = 0;
