//! Memory of embedding tables: one anonymous arena per model, tables on page boundaries, in huge pages where the kernel gives them.
//!
//! Rows of 16 f32 fill a cache line each; in memory of the allocator, which starts 16 bytes behind a line's beginning, every row
//! would touch two. One arena for all tables, so that small ones share huge pages, and no table ends in a huge page of its own.
//! Never a mapped file: a file that is truncated while it is served would kill the process.

use std::fmt;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

use memmap2::{MmapMut, MmapOptions};

/// Bytes of a table, aligned to a page. Dereferences to `[u8]`; [`TableMemory::SLACK`] more bytes may be read behind them. Clones share it.
#[derive(Clone)]
pub struct TableMemory {
    arena: Arc<MmapMut>,
    range: Range<usize>,
}

/// Memory for the tables of a model, while it is filled.
pub struct TableArena {
    memory: MmapMut,
    ranges: Vec<Range<usize>>,
}

impl TableArena {
    /// Zeros for tables of these sizes, in order. Pages are taken when they are first written.
    pub fn zeroed(sizes: impl IntoIterator<Item = usize>) -> io::Result<TableArena> {
        let mut end = 0_usize;
        let mut ranges = Vec::new();
        for size in sizes {
            let start = end.checked_next_multiple_of(PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
            end = start.checked_add(size).ok_or(io::ErrorKind::OutOfMemory)?;
            ranges.push(start..end);
        }
        end = end.checked_add(TableMemory::SLACK).ok_or(io::ErrorKind::OutOfMemory)?;
        let huge = end >= HUGE_PAGE;
        // The kernel need not start a mapping on a huge page's boundary: room to start there ourselves, and for the last one to be whole.
        let bytes = if huge { end.checked_add(2 * HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)? } else { end };
        let memory = MmapMut::map_anon(bytes)?;
        if huge {
            let first = memory.as_ptr().addr().wrapping_neg() % HUGE_PAGE;
            ranges.iter_mut().for_each(|range| *range = range.start + first..range.end + first);
            // Fewer TLB misses per lookup; a kernel without huge pages refuses, and nothing is lost.
            #[cfg(target_os = "linux")]
            let _ = memory.advise_range(memmap2::Advice::HugePage, first, end.next_multiple_of(HUGE_PAGE));
        }
        Ok(TableArena { memory, ranges })
    }

    /// Zeros that nobody is going to write, for tables whose rows are elsewhere (on a device, in benches): takes no memory, whatever the size.
    pub fn unwritten(sizes: impl IntoIterator<Item = usize>) -> io::Result<TableArena> {
        let mut arena = TableArena::zeroed(std::iter::empty())?;
        let mut end = 0_usize;
        for size in sizes {
            let start = end.checked_next_multiple_of(PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
            end = start.checked_add(size).ok_or(io::ErrorKind::OutOfMemory)?;
            arena.ranges.push(start..end);
        }
        let bytes = end.checked_add(TableMemory::SLACK).ok_or(io::ErrorKind::OutOfMemory)?;
        arena.memory = MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
        Ok(arena)
    }

    /// The bytes of a table.
    pub fn table_mut(&mut self, table: usize) -> &mut [u8] {
        &mut self.memory[self.ranges[table].clone()]
    }

    /// All tables, in order.
    pub fn into_tables(self) -> Vec<TableMemory> {
        let arena = Arc::new(self.memory);
        self.ranges.into_iter().map(|range| TableMemory { arena: Arc::clone(&arena), range }).collect()
    }
}

impl TableMemory {
    /// Initialised bytes behind a table's end: a kernel may load whole registers from the end of the last row.
    pub const SLACK: usize = 64;

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self
    }
}

impl Deref for TableMemory {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.arena[self.range.clone()]
    }
}

impl From<&[u8]> for TableMemory {
    /// A copy. Panics if the system has no memory: for tables made by hand.
    fn from(bytes: &[u8]) -> TableMemory {
        let arena = TableArena::zeroed([bytes.len()]);
        let mut arena = arena.unwrap_or_else(|error| panic!("memory for {} bytes: {error}", bytes.len()));
        arena.table_mut(0).copy_from_slice(bytes);
        arena.into_tables().remove(0)
    }
}

impl From<&[f32]> for TableMemory {
    /// A copy, as of bytes.
    fn from(values: &[f32]) -> TableMemory {
        TableMemory::from(bytemuck::cast_slice::<f32, u8>(values))
    }
}

impl From<Vec<f32>> for TableMemory {
    /// A copy, as of bytes.
    fn from(values: Vec<f32>) -> TableMemory {
        TableMemory::from(values.as_slice())
    }
}

impl PartialEq for TableMemory {
    fn eq(&self, other: &TableMemory) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl fmt::Debug for TableMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TableMemory({} bytes)", self.len())
    }
}

/// Tables start on multiples of this.
const PAGE: usize = 4096;

/// Size of a huge page on x86-64 and most arm64 systems.
const HUGE_PAGE: usize = 2 << 20;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_page_aligned_and_equal_to_their_source() {
        for sizes in [vec![0], vec![1], vec![4096, 0, 4097, 3], vec![5, HUGE_PAGE - 4096 - TableMemory::SLACK, 7], vec![3 * HUGE_PAGE, 1]] {
            let mut arena = TableArena::zeroed(sizes.iter().copied()).unwrap();
            for (table, &size) in sizes.iter().enumerate() {
                let bytes = arena.table_mut(table);
                assert_eq!(bytes.len(), size);
                bytes.fill(table as u8 + 1);
            }
            let tables = arena.into_tables();
            for (at, (table, &size)) in tables.iter().zip(&sizes).enumerate() {
                assert!(table.len() == size && table.iter().all(|&byte| byte == at as u8 + 1));
                assert!(table.as_ptr().addr().is_multiple_of(PAGE));
                assert!(table.range.end + TableMemory::SLACK <= table.arena.len());
                assert_eq!(&table.clone(), table);
            }
            let total: usize = sizes.iter().sum();
            assert!(total < HUGE_PAGE || tables[0].as_ptr().addr().is_multiple_of(HUGE_PAGE));
        }
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn unwritten_tables_take_no_memory() {
        // Far more than any machine of ours has; what is read of it is zero.
        let tables = TableArena::unwritten([1 << 40, 5, 1 << 40]).unwrap().into_tables();
        assert_eq!(tables.iter().map(|table| table.len()).collect::<Vec<_>>(), [1 << 40, 5, 1 << 40]);
        assert_eq!((tables[0][(1 << 40) - 1], &tables[1][..], tables[2][1 << 39]), (0, &[0; 5][..], 0));
    }

    /// Where the system gives huge pages on advice, tables lie in them. The kernel may have none free: then the test says so.
    #[test]
    #[cfg(target_os = "linux")]
    fn big_tables_lie_in_huge_pages() {
        let mode = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        if !mode.contains("[madvise]") && !mode.contains("[always]") {
            return eprintln!("skipped: transparent huge pages are {:?}", mode.trim());
        }
        let size = 16 * HUGE_PAGE + 12_345;
        let mut arena = TableArena::zeroed([size]).unwrap();
        arena.table_mut(0).fill(1);
        let (start, end) = (arena.table_mut(0).as_ptr().addr(), arena.table_mut(0).as_ptr().addr() + size);
        let (mut inside, mut huge_kib, mut advised) = (false, 0, false);
        for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let address = |text: &str| usize::from_str_radix(text, 16).ok();
            if let Some((Some(first), Some(last))) =
                line.split(' ').next().and_then(|range| range.split_once('-')).map(|(first, last)| (address(first), address(last)))
            {
                inside = first < end && last > start;
            } else if let (true, Some((key, value))) = (inside, line.split_once(':')) {
                match key {
                    "AnonHugePages" => huge_kib += value.trim().trim_end_matches(" kB").parse::<usize>().unwrap(),
                    "VmFlags" => advised |= value.split(' ').any(|flag| flag == "hg"),
                    _ => {}
                }
            }
        }
        assert!(advised, "the range was advised");
        eprintln!("{huge_kib} of {} KiB in huge pages", size / 1024);
        assert!(huge_kib * 1024 <= end.next_multiple_of(HUGE_PAGE) - start, "the kernel counts pages of this range alone");
        if huge_kib == 0 {
            eprintln!("no huge page was free");
        }
    }
}
