//! Memory of programs and workspaces: blocks, and row views into them.
//!
//! A plan gives every value a [`Place`]; kernels see places as [`Source`] and [`Target`]: a base, a row stride and, where a candidate
//! reads a context value, the index of the context of each row. A context value is thus computed once per request and read in place.

use std::marker::PhantomData;

use bytemuck::Pod;
use memmap2::MmapMut;

use crate::engine::EngineError;

/// Zeroed memory of its own, on a page boundary; pages are taken when first written.
pub struct Block {
    memory: MmapMut,
    /// Where it starts in the mapping: on a boundary of huge pages, if it may have some.
    start: usize,
    bytes: usize,
}

impl Block {
    /// `bytes` of zeros for `what` (named in the error).
    pub fn zeroed(what: &str, bytes: usize) -> Result<Block, EngineError> {
        // Whole huge pages, and room to begin at one.
        let is_huge = cfg!(target_os = "linux") && bytes >= HUGE_FROM_BYTES;
        let size = if is_huge { bytes.next_multiple_of(HUGE_PAGE_BYTES) + HUGE_PAGE_BYTES } else { bytes.max(1) };
        let memory = MmapMut::map_anon(size).map_err(|source| EngineError::Memory { what: what.to_owned(), bytes, source })?;
        let address = memory.as_ptr().addr();
        let start = if is_huge { address.next_multiple_of(HUGE_PAGE_BYTES) - address } else { 0 };
        #[cfg(target_os = "linux")]
        if is_huge {
            // A wish: where there are no huge pages, small ones do.
            let _ = memory.advise_range(memmap2::Advice::HugePage, start, bytes.next_multiple_of(HUGE_PAGE_BYTES));
        }
        Ok(Block { memory, start, bytes })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// All of it as elements.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        let count = self.bytes / size_of::<T>();
        bytemuck::cast_slice(&self.memory[self.start..][..count * size_of::<T>()])
    }

    /// All of it as elements.
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        let count = self.bytes / size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.memory[self.start..][..count * size_of::<T>()])
    }
}

/// Which memory a value lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// The program's constants: one row, the same for all.
    Constant,
    /// Context values that candidates read: one row per context of the batch.
    Context,
    /// The tile under way: one row per row of the tile.
    Tile,
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which memory.
    pub region: Region,
    /// First byte of the first row.
    pub offset: usize,
    /// Elements from row to row; 0 for constants.
    pub stride: usize,
    /// Elements per row.
    pub len: usize,
}

impl Place {
    /// The same memory, read as other rows: `len` elements from element `first` on, elements of `bytes` bytes.
    pub fn part(self, first: usize, len: usize, bytes: usize) -> Place {
        Place { offset: self.offset + first * bytes, len, ..self }
    }
}

/// Rows to read.
#[derive(Clone, Copy)]
pub struct Source<'a, T> {
    base: *const T,
    stride: usize,
    len: usize,
    rows: usize,
    index: Option<&'a [u32]>,
    life: PhantomData<&'a [T]>,
}

impl<'a, T: Pod> Source<'a, T> {
    /// Rows `base + i * stride` (or `base + index[i] * stride`), `len` elements each, for `i` below `rows`.
    ///
    /// # Safety
    /// - All those rows are initialised memory that lives for `'a`, aligned for `T`.
    /// - While `'a` lasts, nothing writes those elements.
    pub unsafe fn new(base: *const T, stride: usize, len: usize, rows: usize, index: Option<&'a [u32]>) -> Source<'a, T> {
        debug_assert!(index.is_none_or(|index| index.len() == rows));
        Source { base, stride, len, rows, index, life: PhantomData }
    }

    /// Elements per row.
    pub fn width(&self) -> usize {
        self.len
    }

    /// Address of a row's first element.
    #[inline]
    pub fn row_ptr(&self, row: usize) -> *const T {
        debug_assert!(row < self.rows);
        let row = match self.index {
            Some(index) => index[row] as usize,
            None => row,
        };
        self.base.wrapping_add(row * self.stride)
    }

    /// One row.
    #[inline]
    pub fn row(&self, row: usize) -> &'a [T] {
        assert!(row < self.rows, "row of the tile");
        // SAFETY: a row below `rows`, which `new`'s caller vouched for.
        unsafe { std::slice::from_raw_parts(self.row_ptr(row), self.len) }
    }
}

/// Rows to write.
pub struct Target<'a, T> {
    base: *mut T,
    stride: usize,
    len: usize,
    rows: usize,
    life: PhantomData<&'a mut [T]>,
}

impl<'a, T: Pod> Target<'a, T> {
    /// Rows `base + i * stride`, `len` elements each, for `i` below `rows`.
    ///
    /// # Safety
    /// - All those rows are initialised memory that lives for `'a`, aligned for `T`; rows do not overlap.
    /// - While `'a` lasts, nothing else reads or writes those elements.
    pub unsafe fn new(base: *mut T, stride: usize, len: usize, rows: usize) -> Target<'a, T> {
        debug_assert!(rows <= 1 || stride >= len);
        Target { base, stride, len, rows, life: PhantomData }
    }

    /// Address of a row's first element.
    #[inline]
    pub fn row_ptr(&mut self, row: usize) -> *mut T {
        debug_assert!(row < self.rows);
        self.base.wrapping_add(row * self.stride)
    }

    /// One row.
    #[inline]
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row of the tile");
        // SAFETY: a row below `rows`, which `new`'s caller vouched for; `&mut self` keeps other rows of this target away.
        unsafe { std::slice::from_raw_parts_mut(self.row_ptr(row), self.len) }
    }
}

/// Size of a huge page on x86-64 and most arm64 systems.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Smaller blocks stay on small pages: a huge one would mostly be empty.
const HUGE_FROM_BYTES: usize = 1 << 20;
