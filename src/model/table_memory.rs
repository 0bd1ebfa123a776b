//! Memory of an embedding table: one anonymous mapping, page-aligned, in huge pages where the kernel gives them.
//!
//! Rows of 16 f32 fill a cache line each; in memory of the allocator, which starts 16 bytes behind a line's beginning, every row
//! would touch two. Never a mapped file: a file that is truncated while it is served would kill the process.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::{Advice, MmapMut};

/// `len` f32, aligned to a page. Dereferences to `[f32]`.
pub struct TableMemory {
    /// None while `len` is 0: an empty mapping cannot be made.
    mapping: Option<MmapMut>,
    len: usize,
}

impl TableMemory {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> io::Result<TableMemory> {
        let bytes = len.checked_mul(size_of::<f32>()).ok_or(io::ErrorKind::OutOfMemory)?;
        if bytes == 0 {
            return Ok(TableMemory { mapping: None, len });
        }
        let mapping = MmapMut::map_anon(bytes)?;
        // Fewer TLB misses per lookup; a kernel without huge pages refuses, and nothing is lost.
        let _ = mapping.advise(Advice::HugePage);
        Ok(TableMemory { mapping: Some(mapping), len })
    }

    /// The elements.
    pub fn as_slice(&self) -> &[f32] {
        self
    }
}

impl Deref for TableMemory {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        self.mapping.as_ref().map_or(&[], |mapping| &bytemuck::cast_slice(mapping)[..self.len])
    }
}

impl DerefMut for TableMemory {
    fn deref_mut(&mut self) -> &mut [f32] {
        let len = self.len;
        self.mapping.as_mut().map_or(&mut [], |mapping| &mut bytemuck::cast_slice_mut(mapping)[..len])
    }
}

impl From<&[f32]> for TableMemory {
    /// A copy. Panics if the system has no memory: for tables made by hand.
    fn from(values: &[f32]) -> TableMemory {
        let mut memory = TableMemory::zeroed(values.len()).unwrap_or_else(|error| panic!("memory for {} elements: {error}", values.len()));
        memory.copy_from_slice(values);
        memory
    }
}

impl From<Vec<f32>> for TableMemory {
    /// A copy, as of a slice.
    fn from(values: Vec<f32>) -> TableMemory {
        TableMemory::from(values.as_slice())
    }
}

impl Clone for TableMemory {
    fn clone(&self) -> TableMemory {
        TableMemory::from(self.as_slice())
    }
}

impl PartialEq for TableMemory {
    fn eq(&self, other: &TableMemory) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl fmt::Debug for TableMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TableMemory({} f32)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_page_aligned_and_equal_to_its_source() {
        for len in [0, 1, 1023, 1025] {
            let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let memory = TableMemory::from(values.clone());
            assert_eq!(memory.as_slice(), values);
            assert_eq!(memory.clone(), memory);
            assert!(len == 0 || memory.as_ptr().addr() % 4096 == 0);
        }
    }
}
