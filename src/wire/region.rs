//! Memory of a wire: one anonymous mapping of address space, touched page by page, given back when a connection ends.

use std::io;
use std::ptr::NonNull;

/// Size of a page as the allotments here are rounded; larger real pages only mean that less is given back.
pub const PAGE_BYTES: usize = 4096;

/// Which pages a region is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Never huge: where one byte from an idle client would otherwise cost 2 MiB.
    Small,
    /// Huge where the kernel has some: memory that is used all over.
    Huge,
}

/// A reserved range of zeroed memory. Costs address space (not memory) until touched.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    bytes: usize,
}

impl Region {
    /// Reserves `bytes` of address space. Error: `ENOMEM` (`vm.overcommit_memory = 2`, `RLIMIT_AS`).
    pub fn reserve(bytes: usize, pages: Pages) -> io::Result<Region> {
        let bytes = bytes.max(1).next_multiple_of(PAGE_BYTES);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice; touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let advice = if pages == Pages::Huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // SAFETY: the range was just mapped and is ours. A refusal (kernel without huge pages) is harmless.
        unsafe { libc::madvise(base, bytes, advice) };
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::other("mmap gave address zero"))?;
        Ok(Region { base, bytes })
    }

    /// A region of no bytes.
    pub fn nothing() -> Region {
        Region { base: NonNull::dangling(), bytes: 0 }
    }

    /// Address of byte `offset` (≤ the region's size).
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.bytes, "offset {offset} beyond a region of {} bytes", self.bytes);
        // SAFETY: the offset is inside the mapping (or one past its end), checked above.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        // SAFETY: the mapping is ours alone; whoever holds pointers into it (inboxes, outboxes, the kernel) is gone before: owners drop the
        // region last.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Gives the pages behind the first `keep` bytes of a touched range back to the kernel.
///
/// # Safety
/// - `base` .. `base + touched` lies in one live [`Region`], `base` is page-aligned.
/// - Nobody needs the bytes from `base + keep` on; the kernel has no operation on them.
pub unsafe fn give_back(base: *mut u8, keep: usize, touched: usize) {
    let keep = keep.next_multiple_of(PAGE_BYTES);
    if touched > keep {
        // SAFETY: inside the region as the caller promises; the pages read as zero afterwards.
        unsafe { libc::madvise(base.add(keep).cast(), touched - keep, libc::MADV_DONTNEED) };
    }
}
