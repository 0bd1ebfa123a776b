//! One mapping that several slots share out: an engine registers it with its device as a whole.
#![allow(unsafe_code)] // pieces of one mapping

use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

use memmap2::{Advice, MmapMut, MmapRaw};

/// Anonymous memory, page by page touched on first use. Unmapped when the last piece of it, and the last handle, are gone.
#[derive(Debug)]
pub struct Arena(MmapRaw);

/// A part of an arena that nobody else has.
#[derive(Debug)]
pub struct Piece {
    arena: Arc<Arena>,
    range: Range<usize>,
}

impl Arena {
    /// Reserves address space for pieces of these sizes, each on a boundary of two cache lines, which are fetched together.
    pub fn share_out(sizes: impl IntoIterator<Item = usize>) -> io::Result<(Arc<Arena>, Vec<Piece>)> {
        let mut end = 0usize;
        let mut place = |bytes: usize| {
            let start = end.next_multiple_of(ALIGN);
            end = start + bytes;
            start..end
        };
        let ranges: Vec<Range<usize>> = sizes.into_iter().map(&mut place).collect();
        let arena = Arc::new(Arena(MmapMut::map_anon(end)?.into()));
        let pieces = ranges.into_iter().map(|range| Piece { arena: Arc::clone(&arena), range }).collect();
        Ok((arena, pieces))
    }

    /// For an engine whose device works on it: start and bytes.
    pub fn memory(&self) -> (*mut u8, usize) {
        (self.0.as_mut_ptr(), self.0.len())
    }

    /// Asks for huge pages where it has not been touched: for memory that is about to be locked. What the system cannot do is left.
    pub fn prefer_huge_pages(&self) {
        let _ = self.0.advise(Advice::HugePage);
    }
}

impl Piece {
    /// Where it begins within its arena, in bytes.
    pub fn offset(&self) -> usize {
        self.range.start
    }

    /// Where it lies. Stays there as long as this lives.
    pub fn as_ptr(&self) -> *mut u8 {
        // SAFETY: the range lies within the mapping.
        unsafe { self.arena.0.as_mut_ptr().add(self.range.start) }
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies within the mapping, which the arena holds, and belongs to this piece alone.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.range.len()) }
    }
}

impl DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.range.len()) }
    }
}

/// Of pieces.
const ALIGN: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_lie_apart() {
        let (arena, mut pieces) = Arena::share_out([1, 0, 300, 128, 4096]).expect("memory");
        let (start, bytes) = arena.memory();
        for (number, piece) in pieces.iter_mut().enumerate() {
            assert_eq!(piece.offset() % ALIGN, 0);
            assert_eq!(piece.as_ptr() as usize - start as usize, piece.offset());
            piece.fill(number as u8 + 1);
        }
        assert_eq!(pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(), [1, 0, 300, 128, 4096]);
        assert!(pieces.last().is_some_and(|last| last.offset() + last.len() == bytes));
        drop(arena);
        for (number, piece) in pieces.iter().enumerate() {
            assert!(piece.iter().all(|&byte| byte == number as u8 + 1), "piece {number}");
        }
    }
}
