//! What is done with the numbers of rows, a few registers at a time: copied, summed, compared.

use crate::engine::cpu::lanes::Lanes;

use super::format::Format;

/// A table as kernels see it: `rows` rows of `row_bytes` bytes from `base` on.
#[derive(Clone, Copy)]
pub struct Rows<F> {
    /// First byte of row 0.
    pub base: *const u8,
    /// Bytes from row to row.
    pub row_bytes: usize,
    /// Ids at or above are absent.
    pub rows: u32,
    /// Numbers per row.
    pub dim: usize,
    /// Of the rows.
    pub format: F,
}

impl<F: Format> Rows<F> {
    /// The row behind an id; None for absent ones.
    ///
    /// # Safety
    /// The table has `rows` rows from `base` on.
    #[inline(always)]
    pub unsafe fn row(&self, id: u32) -> Option<*const u8> {
        // SAFETY: within the table.
        (id < self.rows).then(|| unsafe { self.base.add(id as usize * self.row_bytes) })
    }
}

/// Ids with their weights.
#[derive(Clone, Copy)]
pub struct Bag<'a> {
    /// Absent ones are at or above the table's rows.
    pub ids: &'a [u32],
    /// Parallel to `ids`; None: 1 each.
    pub weights: Option<&'a [f32]>,
}

impl Bag<'_> {
    #[inline(always)]
    fn weight(&self, at: usize) -> f32 {
        self.weights.map_or(1.0, |weights| weights[at])
    }
}

/// Work on some columns of the output.
///
/// # Safety
/// Of `block`: the table and the output have the columns, and the caller is compiled for the instructions of `V`.
trait Columns<V: Lanes> {
    /// Columns `column .. column + count`, which fill `N` registers, the last one perhaps in part.
    unsafe fn block<const N: usize>(&mut self, column: usize, count: usize);
}

/// All columns: `N` registers if `N` > 0, which are then `dim` numbers; else whatever `dim` takes, eight registers at a time.
///
/// # Safety
/// As for [`Columns::block`].
#[inline(always)]
unsafe fn each_block<V: Lanes, const N: usize>(mut work: impl Columns<V>, dim: usize) {
    // SAFETY: the caller's promise; blocks cover columns below `dim`.
    unsafe {
        if N > 0 {
            return work.block::<N>(0, N * V::COUNT);
        }
        let mut column = 0;
        while column < dim {
            let left = dim - column;
            match left.div_ceil(V::COUNT) {
                1 => work.block::<1>(column, left),
                2..4 => work.block::<2>(column, left.min(2 * V::COUNT)),
                4..8 => work.block::<4>(column, left.min(4 * V::COUNT)),
                _ => work.block::<8>(column, left.min(8 * V::COUNT)),
            }
            column += match left.div_ceil(V::COUNT) {
                1 => 1,
                2..4 => 2,
                4..8 => 4,
                _ => 8,
            } * V::COUNT;
        }
    }
}

/// Writes register `at` of a block of `count` columns.
///
/// # Safety
/// `out` starts the block.
#[inline(always)]
unsafe fn put<V: Lanes>(out: *mut f32, at: usize, count: usize, value: V) {
    let left = count - at * V::COUNT;
    // SAFETY: the caller's promise: `count` columns.
    unsafe {
        let to = out.add(at * V::COUNT);
        if left >= V::COUNT { value.store(to) } else { value.store_first(to, left) }
    }
}

struct Copied<'a, F> {
    rows: &'a Rows<F>,
    row: Option<*const u8>,
    weight: Option<f32>,
    out: *mut f32,
}

impl<V: Lanes, F: Format> Columns<V> for Copied<'_, F> {
    #[inline(always)]
    unsafe fn block<const N: usize>(&mut self, column: usize, count: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let out = self.out.add(column);
            let Some(row) = self.row else {
                (0..N).for_each(|at| put(out, at, count, V::splat(0.0)));
                return;
            };
            let header = self.rows.format.header::<V>(row);
            for at in 0..N {
                let value = self.rows.format.read::<V>(row, header, column + at * V::COUNT, count - at * V::COUNT);
                let value = match self.weight {
                    Some(weight) => value.mul(V::splat(weight)),
                    None => value,
                };
                put(out, at, count, value);
            }
        }
    }
}

/// One row of the table, times a weight if there is one; zeros for an absent one.
///
/// # Safety
/// - `rows` describes a table; `out` has room for `dim` numbers.
/// - The caller is compiled for the instructions of `V`; `N` is 0, or `N` registers are `dim` numbers.
#[inline(always)]
pub unsafe fn copy<V: Lanes, F: Format, const N: usize>(rows: &Rows<F>, id: u32, weight: Option<f32>, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { each_block::<V, N>(Copied { rows, row: rows.row(id), weight, out }, rows.dim) };
}

struct Summed<'a, F, A> {
    rows: &'a Rows<F>,
    bag: Bag<'a>,
    mean: bool,
    ahead: A,
    out: *mut f32,
}

impl<V: Lanes, F: Format, A: FnMut()> Columns<V> for Summed<'_, F, A> {
    #[inline(always)]
    unsafe fn block<const N: usize>(&mut self, column: usize, count: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [V::splat(0.0); N];
            let mut counted = 0;
            for (position, &id) in self.bag.ids.iter().enumerate() {
                if column == 0 {
                    (self.ahead)();
                }
                let Some(row) = self.rows.row(id) else { continue };
                counted += 1;
                let weight = V::splat(self.bag.weight(position));
                let header = self.rows.format.header::<V>(row);
                for (at, sum) in sums.iter_mut().enumerate() {
                    let value = self.rows.format.read::<V>(row, header, column + at * V::COUNT, count - at * V::COUNT);
                    *sum = value.mul_add(weight, *sum);
                }
            }
            if self.mean && counted > 1 {
                let divisor = V::splat(counted as f32);
                sums.iter_mut().for_each(|sum| *sum = sum.div(divisor));
            }
            let out = self.out.add(column);
            sums.iter().enumerate().for_each(|(at, &sum)| put(out, at, count, sum));
        }
    }
}

/// Sum of the rows of a bag, times their weights, in the order of its ids; with `mean` divided by the number of ids that are not absent.
/// `ahead` is called once per id.
///
/// # Safety
/// As for [`copy`].
#[inline(always)]
pub unsafe fn sum<V: Lanes, F: Format, const N: usize>(rows: &Rows<F>, bag: Bag, mean: bool, ahead: impl FnMut(), out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { each_block::<V, N>(Summed { rows, bag, mean, ahead, out }, rows.dim) };
}

struct Largest<'a, F, A> {
    rows: &'a Rows<F>,
    ids: &'a [u32],
    ahead: A,
    out: *mut f32,
}

impl<V: Lanes, F: Format, A: FnMut()> Columns<V> for Largest<'_, F, A> {
    #[inline(always)]
    unsafe fn block<const N: usize>(&mut self, column: usize, count: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut largest = [V::splat(f32::NEG_INFINITY); N];
            let mut any = false;
            for &id in self.ids {
                if column == 0 {
                    (self.ahead)();
                }
                let Some(row) = self.rows.row(id) else { continue };
                any = true;
                let header = self.rows.format.header::<V>(row);
                for (at, largest) in largest.iter_mut().enumerate() {
                    let value = self.rows.format.read::<V>(row, header, column + at * V::COUNT, count - at * V::COUNT);
                    *largest = value.max(*largest);
                }
            }
            if !any {
                largest = [V::splat(0.0); N];
            }
            let out = self.out.add(column);
            largest.iter().enumerate().for_each(|(at, &value)| put(out, at, count, value));
        }
    }
}

/// Elementwise maximum of the rows of a bag; zeros if all ids are absent. `ahead` is called once per id.
///
/// # Safety
/// As for [`copy`].
#[inline(always)]
pub unsafe fn max<V: Lanes, F: Format, const N: usize>(rows: &Rows<F>, ids: &[u32], ahead: impl FnMut(), out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { each_block::<V, N>(Largest { rows, ids, ahead, out }, rows.dim) };
}
