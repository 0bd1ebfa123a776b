//! From packed blocks to a slot: measure first, then check and copy in one pass.
//!
//! Blocks are little-endian and unaligned; their row order is the layout's. The usual model (fixed u32 ids, plain dense values) takes the
//! short way: one copy and one branch-free comparison per id. Only when that finds something odd, or the layout has hashes, bags, weights or
//! integers, does the long way look at each value.

use super::layout::{DenseRun, IdField, IdTarget, Layout, ScopeLayout};
use super::slot::{Counts, Draft, Need, RowsMut};
use super::{NO_ROW, status};
use crate::model::{DenseTransform, Hash, HashFn, MissingRule, NanRule, RangeRule};

/// The packed rows of one scope.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blocks<'a> {
    /// f32, `[rows][dense_width]`.
    pub dense: &'a [u8],
    /// u32 or u64.
    pub ids: &'a [u8],
    /// u16, [rows][variable features].
    pub lengths: &'a [u8],
    /// f32, parallel to the ids of weighted features.
    pub weights: &'a [u8],
}

/// Everything of a request that goes into a slot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// One row.
    pub context: Blocks<'a>,
    /// `candidates` rows.
    pub candidate: Blocks<'a>,
    /// N.
    pub candidates: usize,
    /// One byte per candidate, 1 = eligible; `None` = all.
    pub mask: Option<&'a [u8]>,
    /// i64 per candidate.
    pub bids: Option<&'a [u8]>,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of fault.
    pub kind: FaultKind,
    /// Where: the model's feature, if it is about one.
    pub feature: Option<u16>,
}

/// Kinds of [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A block is not as long as layout, rows and lengths demand.
    BlockSize,
    /// A bag longer than its feature's limit.
    LengthTooLarge,
    /// An id ≥ rows without a rule.
    IdOutOfRange,
    /// A missing id without a rule.
    IdMissing,
    /// NaN without a rule, or NaN in a weight.
    ValueNan,
    /// The mask's length or a byte of it.
    MaskInvalid,
    /// The bids' length.
    BidsInvalid,
}

impl FaultKind {
    const fn here(self) -> Fault {
        Fault { kind: self, feature: None }
    }
    const fn at(self, feature: usize) -> Fault {
        Fault { kind: self, feature: Some(feature as u16) }
    }
}

/// Checks every size that can be known without looking at values, and says how much room the request needs.
pub fn measure(layout: &Layout, request: &Request<'_>) -> Result<Need, Fault> {
    let context_ids = measure_scope(&layout.context, &request.context, 1)?;
    let candidate_ids = measure_scope(&layout.candidate, &request.candidate, request.candidates)?;
    let rows = match request.mask {
        None => request.candidates,
        Some(mask) if mask.len() != request.candidates || mask.iter().any(|byte| *byte > 1) => return Err(FaultKind::MaskInvalid.here()),
        Some(mask) => mask.iter().map(|byte| usize::from(*byte)).sum(),
    };
    if request.bids.is_some_and(|bids| bids.len() != request.candidates * size_of::<i64>()) {
        return Err(FaultKind::BidsInvalid.here());
    }
    Ok(Need { rows, context_ids, candidate_ids })
}

/// Number of table ids on the wire (integers not counted).
fn measure_scope(layout: &ScopeLayout, blocks: &Blocks<'_>, rows: usize) -> Result<usize, Fault> {
    if blocks.dense.len() != rows * layout.dense_width * 4 || blocks.lengths.len() != rows * layout.variable * 2 {
        return Err(FaultKind::BlockSize.here());
    }
    let mut ids = rows * layout.fixed_ids;
    let mut weights = rows * layout.fixed_weighted;
    if layout.variable > 0 {
        for row in blocks.lengths.chunks_exact(layout.variable * 2) {
            for (length, field) in row.chunks_exact(2).zip(layout.variable_fields()) {
                let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
                if length > field.max_len {
                    return Err(FaultKind::LengthTooLarge.at(field.feature));
                }
                ids += length;
                weights += if field.is_weighted() { length } else { 0 };
            }
        }
    }
    if blocks.ids.len() != ids * layout.id_bytes || blocks.weights.len() != weights * 4 {
        return Err(FaultKind::BlockSize.here());
    }
    Ok(ids - rows * layout.int_width)
}

/// Checks every value and copies the eligible rows into the draft. `request` was measured; `draft` has the room that [`measure`] named.
pub fn admit(layout: &Layout, request: &Request<'_>, draft: Draft<'_>) -> Result<Counts, Fault> {
    let Draft { context, candidates, origin, bids } = draft;
    let mut writer = Writer::new(&layout.context, request.context, context);
    writer.copy(1)?;
    let context_ids = writer.ids_written;

    let mut writer = Writer::new(&layout.candidate, request.candidate, candidates);
    let mut rows = 0;
    match request.mask {
        None => {
            writer.copy(request.candidates)?;
            rows = request.candidates;
            for (row, origin) in origin.iter_mut().enumerate() {
                *origin = row as u32;
            }
        }
        Some(mask) => {
            let mut at = 0;
            for run in mask.chunk_by(|a, b| a == b) {
                if run[0] == 0 {
                    writer.skip(run.len());
                } else {
                    writer.copy(run.len())?;
                    for candidate in at..at + run.len() {
                        origin[rows] = candidate as u32;
                        rows += 1;
                    }
                }
                at += run.len();
            }
        }
    }
    if let Some(block) = request.bids {
        for (bid, origin) in bids.iter_mut().zip(origin.iter()) {
            *bid = i64::from_le_bytes(read(block, *origin as usize));
        }
    }
    Ok(Counts { rows, context_ids, candidate_ids: writer.ids_written })
}

/// Element `index` of a packed array of `N`-byte elements. Panics past the end: sizes were measured.
fn read<const N: usize>(block: &[u8], index: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&block[index * N..][..N]);
    bytes
}

/// Copies rows of one scope, in order.
struct Writer<'l, 'a> {
    layout: &'l ScopeLayout,
    from: Blocks<'a>,
    to: RowsMut<'a>,
    /// Rows read and rows written.
    row: usize,
    rows_written: usize,
    /// Ids and weights read and written.
    id: usize,
    ids_written: usize,
    weight: usize,
}

impl<'l, 'a> Writer<'l, 'a> {
    fn new(layout: &'l ScopeLayout, from: Blocks<'a>, to: RowsMut<'a>) -> Writer<'l, 'a> {
        Writer { layout, from, to, row: 0, rows_written: 0, id: 0, ids_written: 0, weight: 0 }
    }

    /// Passes over `rows` masked rows: their values are not looked at.
    fn skip(&mut self, rows: usize) {
        for row in self.row..self.row + rows {
            self.id += self.layout.fixed_ids;
            self.weight += self.layout.fixed_weighted;
            for (index, field) in self.layout.variable_fields().enumerate() {
                let length = self.length(row, index);
                self.id += length;
                self.weight += if field.is_weighted() { length } else { 0 };
            }
        }
        self.row += rows;
    }

    fn copy(&mut self, rows: usize) -> Result<(), Fault> {
        self.to.status[self.rows_written..][..rows].fill(0);
        self.copy_dense(rows)?;
        if !self.copy_plain_ids(rows) {
            for row in 0..rows {
                self.copy_ids(self.row + row, self.rows_written + row)?;
            }
        }
        self.row += rows;
        self.rows_written += rows;
        Ok(())
    }

    /// The `index`-th variable feature's length in `row`.
    fn length(&self, row: usize, index: usize) -> usize {
        usize::from(u16::from_le_bytes(read(self.from.lengths, row * self.layout.variable + index)))
    }

    fn copy_dense(&mut self, rows: usize) -> Result<(), Fault> {
        let width = self.layout.dense_width;
        if width == 0 {
            return Ok(());
        }
        let from = &self.from.dense[self.row * width * 4..][..rows * width * 4];
        let to = &mut self.to.dense[self.rows_written * width..][..rows * width];
        bytemuck::cast_slice_mut::<f32, u8>(to).copy_from_slice(from);
        let any_nan = to.iter().fold(false, |nan, value| nan | value.is_nan());
        if any_nan || self.layout.dense_transformed {
            for (row, values) in to.chunks_exact_mut(width).enumerate() {
                for run in &self.layout.dense {
                    treat(run, &mut values[run.column..][..run.width], &mut self.to.status[self.rows_written + row])?;
                }
            }
        }
        Ok(())
    }

    /// The short way. False: the long way has to look (nothing is lost, it writes the same places again).
    fn copy_plain_ids(&mut self, rows: usize) -> bool {
        let Some(bounds) = &self.layout.plain_bounds else {
            return false;
        };
        let width = bounds.len();
        if width == 0 {
            return true;
        }
        let from = &self.from.ids[self.id * 4..][..rows * width * 4];
        let to = &mut self.to.ids[self.ids_written..][..rows * width];
        bytemuck::cast_slice_mut::<u32, u8>(to).copy_from_slice(from);
        let mut legal = true;
        for row in to.chunks_exact(width) {
            for (id, bound) in row.iter().zip(bounds) {
                legal &= id < bound;
            }
        }
        if legal {
            self.id += rows * width;
            self.ids_written += rows * width;
        }
        legal
    }

    /// The long way: one row.
    fn copy_ids(&mut self, from_row: usize, to_row: usize) -> Result<(), Fault> {
        let mut variable = 0;
        for field in &self.layout.ids {
            let count = if field.width > 0 {
                field.width
            } else {
                variable += 1;
                self.length(from_row, variable - 1)
            };
            match &field.target {
                IdTarget::Integer { column } => {
                    let to = &mut self.to.ints[to_row * self.layout.int_width + column..][..count];
                    for (index, value) in to.iter_mut().enumerate() {
                        *value = match self.layout.id_bytes {
                            4 => i64::from(i32::from_le_bytes(read(self.from.ids, self.id + index))),
                            _ => i64::from_le_bytes(read(self.from.ids, self.id + index)),
                        };
                    }
                    self.id += count;
                }
                IdTarget::Bag { bag, .. } => {
                    if self.layout.bag_stride.is_none() {
                        self.to.starts[to_row * self.layout.bags + bag] = self.to.ids_base + self.ids_written as u32;
                    }
                    self.copy_bag(field, count, to_row)?;
                }
            }
        }
        Ok(())
    }

    /// The short way for one bag: u32 rows of a table, all legal, nothing to do but copy. False: the long way has to look.
    fn copy_plain_bag(&mut self, field: &IdField, count: usize) -> bool {
        let IdTarget::Bag { rows, hash: None, padding: None, .. } = field.target else {
            return false;
        };
        if self.layout.id_bytes != 4 || self.layout.weighted {
            return false;
        }
        let from = &self.from.ids[self.id * 4..][..count * 4];
        let to = &mut self.to.ids[self.ids_written..][..count];
        let mut legal = true;
        for (to, from) in to.iter_mut().zip(from.as_chunks::<4>().0) {
            *to = u32::from_le_bytes(*from);
            legal &= *to < rows;
        }
        if legal {
            self.id += count;
            self.ids_written += count;
        }
        legal
    }

    fn copy_bag(&mut self, field: &IdField, count: usize, to_row: usize) -> Result<(), Fault> {
        if self.copy_plain_bag(field, count) {
            return Ok(());
        }
        let weighted = field.is_weighted();
        for _ in 0..count {
            let id = match self.layout.id_bytes {
                4 => match u32::from_le_bytes(read(self.from.ids, self.id)) {
                    u32::MAX => None,
                    id => Some(u64::from(id)),
                },
                _ => Some(u64::from_le_bytes(read(self.from.ids, self.id))).filter(|id| *id != u64::MAX),
            };
            self.to.ids[self.ids_written] = resolve(field, id, &mut self.to.status[to_row])?;
            if self.layout.weighted {
                let weight = if weighted { f32::from_le_bytes(read(self.from.weights, self.weight)) } else { 1.0 };
                if weight.is_nan() {
                    return Err(FaultKind::ValueNan.at(field.feature));
                }
                self.to.weights[self.ids_written] = weight;
                self.weight += usize::from(weighted);
            }
            self.id += 1;
            self.ids_written += 1;
        }
        Ok(())
    }
}

/// NaN rule, then transform.
fn treat(run: &DenseRun, values: &mut [f32], row_status: &mut u8) -> Result<(), Fault> {
    for value in values {
        if value.is_nan() {
            *row_status |= status::NAN;
            match run.nan {
                NanRule::Error => return Err(FaultKind::ValueNan.at(run.feature)),
                NanRule::Value(replacement) => *value = replacement,
                // The transform would make a number of it: the maximum of NaN and 0 is 0.
                NanRule::Keep => continue,
            }
        }
        if run.transform == DenseTransform::Log1pClamp0 {
            *value = value.max(0.0).ln_1p();
        }
    }
    Ok(())
}

/// The row of an id (`None`: missing), or [`NO_ROW`].
fn resolve(field: &IdField, id: Option<u64>, row_status: &mut u8) -> Result<u32, Fault> {
    let IdTarget::Bag { rows, hash, padding, missing, out_of_range, .. } = &field.target else {
        return Ok(NO_ROW);
    };
    let row = match (id, hash) {
        (None, _) => {
            *row_status |= status::MISSING;
            match missing {
                MissingRule::Error => return Err(FaultKind::IdMissing.at(field.feature)),
                MissingRule::Row(row) => *row,
                MissingRule::Skip => NO_ROW,
            }
        }
        (Some(id), Some(hash)) => hash_row(hash, id),
        (Some(id), None) if id < u64::from(*rows) => id as u32,
        (Some(_), None) => {
            *row_status |= status::OUT_OF_RANGE;
            match out_of_range {
                RangeRule::Error => return Err(FaultKind::IdOutOfRange.at(field.feature)),
                RangeRule::Row(row) => *row,
            }
        }
    };
    Ok(if *padding == Some(row) { NO_ROW } else { row })
}

/// `add + fn(id) % modulus`: below the table's rows, as the loader checked.
fn hash_row(hash: &Hash, id: u64) -> u32 {
    let hashed = match hash.function {
        HashFn::Identity => id,
        HashFn::Fnv1a64 => {
            id.to_le_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |state: u64, byte| (state ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
        }
        HashFn::Splitmix64 => {
            let mut z = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
    };
    hash.add + (hashed % hash.modulus) as u32
}
