//! Embedding lookups (`kernels/lookup_pool.cuh`): those of a scope that stand side by side are one step. Lookups of one kind are one call, with a
//! descriptor each in the weights; calls of a step follow each other without a barrier, each on the threads that the one before left idle.

use std::fmt::Write;

use crate::engine::cpu::plan::task::{Task, ValueIndex, Work};
use crate::engine::cuda::program::DeviceTable;
use crate::model::{Pool, Scope, TableDType, TableId};

use super::THREADS;
use super::emitter::Emitter;
use super::place::{Place, Region};

/// What lookups of one call have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    rows: Rows,
    reading: Reading,
    chunk: Chunk,
    weighted: bool,
    scope: Scope,
    /// Bytes of a number of the results.
    element: usize,
}

/// A table's rows on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rows {
    dtype: TableDType,
    dim: usize,
    stride: usize,
}

/// What becomes of a bag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Rows one behind the other, as many as a bag has at most.
    Gather { len: usize },
    /// One row of all. `split`: groups of lanes that share a bag; `unroll`: ids that each reads at once.
    Pool { pool: Pool, split: usize, unroll: usize },
}

/// What a thread works on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    /// Numbers of a row.
    numbers: usize,
    /// Bytes that it may write at once.
    align: usize,
}

/// A lookup of a call.
struct Part {
    out: ValueIndex,
    place: Place,
    /// Table, its rows, which bag or id, ids of a bag: `Lookup` in the kernel.
    descriptor: [u32; 4],
    /// Whether all bags have as many ids as the descriptor says.
    fixed: bool,
}

impl Emitter<'_, '_> {
    /// The step of lookups that read the same scope's features for the same rows.
    pub(super) fn lookups(&mut self, tasks: &[Task]) {
        let mut kinds: Vec<(Kind, Vec<Part>)> = Vec::new();
        let lowered = self.lowered;
        for task in tasks.iter().filter(|task| lowered.values[task.out].len() > 0) {
            let (kind, part) = self.part(task);
            match kinds.iter_mut().find(|(other, _)| *other == kind) {
                Some((_, parts)) => parts.push(part),
                None => kinds.push((kind, vec![part])),
            }
        }
        // The longest first: what is short fills the threads that they leave.
        kinds.sort_by_key(|(kind, _)| match kind.reading {
            Reading::Pool { split, unroll, .. } => (0, std::cmp::Reverse(split * unroll)),
            Reading::Gather { .. } => (1, std::cmp::Reverse(0)),
        });
        let (mut from, mut calls) = (0, Vec::new());
        for (at, (kind, mut parts)) in kinds.into_iter().enumerate() {
            parts.sort_by_key(|part| (part.place.region as u8, part.place.stride, part.place.offset, part.place.first));
            let outs = self.outs(at, kind.element, &parts);
            let (call, lanes) = self.call(&kind, &parts, &outs, from);
            from = (from + lanes.next_multiple_of(WARP)) % THREADS as usize;
            calls.push(call);
        }
        if !calls.is_empty() {
            self.step(calls.join("\n        "));
        }
    }

    /// A lookup, and which kind it is of.
    fn part(&mut self, task: &Task) -> (Kind, Part) {
        let Work::Lookup { feature, table, pool } = task.work else { unreachable!("the caller picked lookups") };
        let declared = &self.model.features[feature];
        let layout = self.layout.scope(declared.scope);
        let bag = layout.bag_of(feature).expect("the shape pass lets sparse features alone be looked up");
        let width = declared.width as usize;
        let (index, rows) = self.table(table);
        let element = if self.places.is_narrow(task.out) { size_of::<u16>() } else { size_of::<f32>() };
        let (place, most) = (self.places.of(task.out, element), declared.max_len as usize);
        let is_gather = pool == Pool::None || most == 1;
        let (reading, chunk) = if is_gather {
            // As many rows as there is room for.
            (Reading::Gather { len: self.value(task.out).len() / rows.dim }, Chunk::of_rows(&rows, element, alignment(&place, element)))
        } else {
            let chunk = Chunk::of_sums(&rows, element, alignment(&place, element));
            let lanes = rows.dim.div_ceil(chunk.numbers).next_power_of_two();
            let mut split = 1;
            while split * 2 * lanes <= WARP && most >= split * 2 * SPLIT_IDS {
                split *= 2;
            }
            (Reading::Pool { pool, split, unroll: most.div_ceil(split).min(UNROLL_MAX) }, chunk)
        };
        let weighted = declared.is_weighted() && pool != Pool::Max;
        let first = if layout.bag_stride.is_some() { layout.bag_offsets[bag] } else { bag };
        let descriptor = [index as u32, self.model.weights.table(table).rows, first as u32, width as u32];
        let kind = Kind { rows, reading, chunk, weighted, scope: declared.scope, element };
        (kind, Part { out: task.out, place, descriptor, fixed: !declared.is_variable() })
    }

    /// Which of the job's tables this one is, and how its rows lie.
    fn table(&mut self, id: TableId) -> (usize, Rows) {
        let table = self.model.weights.table(id);
        let index = self.tables.iter().position(|placed| placed.id == id).unwrap_or_else(|| {
            self.tables.push(DeviceTable::new(id, table));
            self.tables.len() - 1
        });
        (index, Rows { dtype: table.dtype, dim: table.dim as usize, stride: self.tables[index].row_stride })
    }

    /// A struct with `at(b, r, f)`: where the result of lookup `f` of row `r` goes; gives its name.
    fn outs(&mut self, call: usize, element: usize, parts: &[Part]) -> String {
        let name = format!("Lookups{}_{call}", self.number);
        let number = if element == size_of::<f32>() { "float" } else { "Bf16" };
        let mut text = format!("struct {name} {{\n    DEV static {number}* at(const Block& b, int r, int f) {{\n");
        let mut first = 0;
        while first < parts.len() {
            // Results at equal distances are one case.
            let start = &parts[first].place;
            let distance = parts.get(first + 1).and_then(|next| next_to(start, &next.place, element)).unwrap_or(0);
            let run = parts[first..].windows(2).take_while(|pair| next_to(&pair[0].place, &pair[1].place, element) == Some(distance));
            let end = first + 1 + run.count();
            let view = self.view(parts[first].out);
            let case = if end == parts.len() { "        ".to_owned() } else { format!("        if (f < {end}) ") };
            let _ = match end - first {
                1 => writeln!(text, "{case}return {view}::row(b, r);"),
                _ => writeln!(text, "{case}return {view}::row(b, r) + (f - {first}) * {distance};"),
            };
            first = end;
        }
        text.push_str("    }\n};");
        self.define(&text);
        name
    }

    /// A call for lookups of one kind, and how many threads it takes, one item each.
    fn call(&mut self, kind: &Kind, parts: &[Part], outs: &str, from: usize) -> (String, usize) {
        let Kind { rows, reading, chunk: Chunk { numbers, align }, weighted, scope, .. } = *kind;
        let (layout, map, of_candidates) = self.feature_rows(scope);
        let (stride, bags) = (layout.bag_stride.unwrap_or(0), layout.bags);
        let fixed = stride > 0 || parts.iter().all(|part| part.fixed);
        let ids = format!("BagIds<{of_candidates}, {map}, {stride}, {bags}, {fixed}, {weighted}>");
        let descriptors: Vec<u32> = parts.iter().flat_map(|part| part.descriptor).collect();
        let list = self.blob.add(&descriptors);
        let (count, chunks, rows) = (parts.len(), rows.dim.div_ceil(numbers), rows.text());
        match reading {
            Reading::Gather { len } => {
                let threads = self.places.tile * count * len * chunks;
                let unroll = unroll(threads);
                let arguments = format!("{rows}, {ids}, {outs}, {count}, {len}, {numbers}, {align}, {unroll}, {from}, {list}");
                (format!("gather_rows<{arguments}>(b);"), threads)
            }
            Reading::Pool { pool, split, unroll } => {
                let pool = match pool {
                    Pool::Sum => "POOL_SUM",
                    Pool::Mean => "POOL_MEAN",
                    Pool::Max => "POOL_MAX",
                    Pool::None => unreachable!("sequences are gathered"),
                };
                let lanes = if split > 1 { chunks.next_power_of_two() * split } else { chunks };
                let arguments = format!("{rows}, {ids}, {outs}, {pool}, {count}, {numbers}, {align}, {split}, {unroll}, {from}, {list}");
                (format!("pool_bags<{arguments}>(b);"), self.places.tile * count * lanes)
            }
        }
    }

    /// Rows of a table whose numbers the graph computes.
    pub(super) fn embedding(&mut self, index: ValueIndex, table: TableId) {
        let (place, count) = (self.places.of(self.task.out, size_of::<f32>()), self.value(index).len());
        let (at, rows) = self.table(table);
        let Chunk { numbers, align } = Chunk::of_rows(&rows, size_of::<f32>(), alignment(&place, size_of::<f32>()));
        let unroll = unroll(self.places.tile * count * rows.dim.div_ceil(numbers));
        let (index, out, rows) = (self.view(index), self.out_view(), rows.text());
        let known = self.model.weights.table(table).rows;
        self.step(format!("table_rows<{rows}, {index}, {out}, {count}, {numbers}, {align}, {unroll}, {at}, {known}u>(b);"));
    }
}

impl Rows {
    /// The type in C++.
    fn text(&self) -> String {
        let Rows { dtype, dim, stride } = *self;
        match dtype.coding(dim) {
            None => {
                let (format, bits) = match dtype {
                    TableDType::F32 => ("ROWS_F32", 32),
                    TableDType::F16 => ("ROWS_F16", 16),
                    _ => ("ROWS_BF16", 16),
                };
                format!("TableRows<{format}, {bits}, {dim}, {stride}>")
            }
            Some(coding) => {
                let (bits, codes, scale, half) = (coding.bits, coding.codes, coding.scale, coding.half);
                format!("TableRows<ROWS_CODED, {bits}, {dim}, {stride}, {codes}, {scale}, {half}>")
            }
        }
    }

    /// 16 bytes of floats; of narrower numbers as many as two vectors of f32.
    fn most_numbers(&self) -> usize {
        if self.dtype == TableDType::F32 { 4 } else { 8 }
    }
}

impl Chunk {
    /// Of rows that are written as they are: as many numbers as can be written 16 bytes at a time, else two, so that few threads write to the
    /// same bank of shared memory.
    fn of_rows(rows: &Rows, element: usize, align: usize) -> Chunk {
        let mut numbers = rows.most_numbers();
        while numbers > 2 && (!rows.dim.is_multiple_of(numbers) || align < 4 * element) {
            numbers /= 2;
        }
        Chunk::new(numbers, rows, element, align)
    }

    /// Of sums, which are written seldom: as many numbers as a row has.
    fn of_sums(rows: &Rows, element: usize, align: usize) -> Chunk {
        Chunk::new(rows.most_numbers(), rows, element, align)
    }

    fn new(mut numbers: usize, rows: &Rows, element: usize, align: usize) -> Chunk {
        while numbers > 1 && numbers / 2 >= rows.dim {
            numbers /= 2;
        }
        let is_whole = rows.dim.is_multiple_of(numbers);
        Chunk { numbers, align: if is_whole { align.min(numbers * element) } else { element } }
    }
}

/// Boundary that all rows of a value lie on: an element's bytes or more, at most 16.
fn alignment(place: &Place, element: usize) -> usize {
    let first = place.first * element;
    let at = match place.region {
        // Rows of `Kept` and `Work` start on lines.
        Region::Work => first,
        Region::Kept => place.offset + first,
        Region::Shared | Region::Scratch => (place.offset + first) | (place.stride * element),
    };
    1 << at.trailing_zeros().min(4)
}

/// Elements between the same rows of two values, if they lie in rows of the same memory, the second behind the first.
fn next_to(first: &Place, second: &Place, element: usize) -> Option<usize> {
    let bytes = |place: &Place| place.offset + place.first * element;
    if (first.region, first.stride) != (second.region, second.stride) || first.region == Region::Work && first.offset != second.offset {
        return None;
    }
    Some(bytes(second).checked_sub(bytes(first))? / element)
}

/// How many of so many items a thread reads at once.
fn unroll(items: usize) -> usize {
    let each = items.div_ceil(THREADS as usize);
    each.div_ceil(each.div_ceil(UNROLL_MAX))
}

/// Lanes that exchange sums.
const WARP: usize = 32;
/// Reads under way per thread: 256 threads with 8 reads of 16 bytes keep a multiprocessor's share of the memory busy (25 bytes per ns for 0.7 us).
const UNROLL_MAX: usize = 8;
/// Groups of lanes share a bag if each has so many ids.
const SPLIT_IDS: usize = 8;
