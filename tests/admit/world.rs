//! Requests made of whatever bytes, and what must hold of a slot that took them. Used by a property test and by a fuzz target.

use std::ops::Range;
use std::sync::Arc;

use gavel::batch::{Blocks, IdTarget, Layout, NO_ROW, Request, Rows, ScopeLayout, Slot, SlotLimits, admit, measure};
use gavel::model::{DenseTransform, Feature, FeatureKind, Hash, HashFn, IdType, MissingRule, NanRule, Pool, RangeRule, Scope, TableId};

/// Makes up to [`REQUESTS_MAX`] requests of `bytes`, puts them into one slot and checks it after each. Panics when something does not hold.
/// Returns how many were taken.
pub fn admit_all(bytes: &[u8]) -> usize {
    let mut source = Source(bytes);
    let layout = Arc::new(Layout::new(&features(source.byte()), 2));
    let mut slot = Slot::new(Arc::clone(&layout), LIMITS).expect("a small slot");
    let mut taken: Vec<Sent> = Vec::new();
    for ticket in 0..REQUESTS_MAX {
        let sent = Sent::new(&layout, &mut source);
        let request = sent.request();
        let Ok(need) = measure(&layout, &request) else { continue };
        if !slot.has_room(need) {
            assert!(slot.reserve(need).is_err(), "no room, and yet a draft");
            continue;
        }
        let draft = slot.reserve(need).expect("there is room");
        let Ok(counts) = admit(&layout, &request, draft) else { continue };
        assert!(counts.rows == need.rows && counts.context_ids == need.context_ids && counts.candidate_ids <= need.candidate_ids);
        assert_eq!(slot.commit(ticket, counts), taken.len());
        taken.push(sent);
        check(&layout, &mut slot, &taken);
    }
    taken.len()
}

/// Every row of the slot is one that an engine may index with.
fn check(layout: &Layout, slot: &mut Slot, taken: &[Sent]) {
    let mut expected = Vec::new();
    for (segment, sent) in taken.iter().enumerate() {
        let origin = slot.origin(segment);
        let eligible: Vec<u32> = (0..sent.candidates as u32).filter(|row| sent.is_eligible(*row as usize)).collect();
        assert_eq!(origin, eligible, "the eligible candidates, in order");
        expected.extend(origin.iter().map(|row| (segment, *row as usize)));
        if let Some(bids) = &sent.bids {
            let sent_bids = origin.iter().map(|row| i64::from_le_bytes(*bids.as_chunks().0.get(*row as usize).expect("a bid for each")));
            assert!(sent_bids.eq(slot.bids(segment).iter().copied()), "bids of the eligible candidates");
        }
    }
    let (inputs, scores) = slot.run();
    assert_eq!(scores.len(), expected.len() * layout.outputs);
    let contexts: Vec<u32> = expected.iter().map(|(segment, _)| *segment as u32).collect();
    assert_eq!(inputs.row_context, contexts);
    let bags = |scope: &ScopeLayout, lengths: &[u16], row: usize| bag_lengths(scope, lengths, row);
    check_rows(&layout.context, &inputs.contexts, taken.iter().map(|sent| bags(&layout.context, &sent.context.lengths, 0)));
    check_rows(
        &layout.candidate,
        &inputs.candidates,
        expected.iter().map(|(segment, row)| bags(&layout.candidate, &taken[*segment].candidate.lengths, *row)),
    );
}

/// `lengths`: of each row, the ids that were sent for each bag.
fn check_rows(layout: &ScopeLayout, rows: &Rows<'_>, lengths: impl ExactSizeIterator<Item = Vec<usize>>) {
    assert_eq!(rows.count, lengths.len());
    assert_eq!(rows.dense.len(), rows.count * layout.dense_width, "dense values");
    for run in layout.dense.iter().filter(|run| run.nan != NanRule::Keep) {
        let values = rows.dense.chunks_exact(layout.dense_width).flat_map(|row| &row[run.column..][..run.width]);
        assert!(values.copied().all(|value| !value.is_nan()), "NaN where no rule keeps it");
    }
    assert!(rows.weights.iter().all(|weight| !weight.is_nan()), "weights");
    assert_eq!(rows.weights.len(), if layout.weighted { rows.ids.len() } else { 0 });
    assert_eq!(rows.ints.len(), rows.count * layout.int_width);
    let mut end = 0;
    for (row, lengths) in lengths.enumerate() {
        let targets = layout.ids.iter().map(|field| &field.target).filter(|target| matches!(target, IdTarget::Bag { .. }));
        for (target, sent) in targets.zip(lengths) {
            let IdTarget::Bag { bag, rows: table, hash, padding, .. } = target else { continue };
            let Range { start, end: next } = rows.bag(row, *bag);
            assert_eq!((start, next), (end, end + sent), "row {row}, bag {bag}: bags follow each other, as long as they were sent");
            end = next;
            for id in rows.ids[start..next].iter().filter(|id| **id != NO_ROW) {
                let least = hash.map_or(0, |hash| hash.add);
                assert!((least..*table).contains(id) || *id == REPLACED, "row {row}, bag {bag}: id {id} of {table} rows");
                assert_ne!(Some(*id), *padding, "padding is no row");
            }
        }
    }
    assert_eq!(end, rows.ids.len(), "no id is outside of all bags");
}

/// Ids of each bag of a row, as sent.
fn bag_lengths(layout: &ScopeLayout, lengths: &[u16], row: usize) -> Vec<usize> {
    let mut sent = lengths[row * layout.variable..].iter();
    let fields = layout.ids.iter().map(|field| {
        let length = if field.width > 0 { field.width } else { usize::from(*sent.next().expect("a length")) };
        (length, &field.target)
    });
    fields.filter(|(_, target)| matches!(target, IdTarget::Bag { .. })).map(|(length, _)| length).collect()
}

/// A request, owned.
struct Sent {
    context: Block,
    candidate: Block,
    candidates: usize,
    mask: Option<Vec<u8>>,
    bids: Option<Vec<u8>>,
}

#[derive(Default)]
struct Block {
    dense: Vec<u8>,
    ids: Vec<u8>,
    lengths: Vec<u16>,
    length_bytes: Vec<u8>,
    weights: Vec<u8>,
}

impl Sent {
    fn new(layout: &Layout, source: &mut Source<'_>) -> Sent {
        let candidates = usize::from(source.byte() % 13);
        let (with_mask, with_bids) = (source.byte(), source.byte());
        let mut context = Block::new(&layout.context, 1, source);
        let mut candidate = Block::new(&layout.candidate, candidates, source);
        // One byte of the mask in 64 is neither 0 nor 1.
        let mask_byte = |byte: u8| if byte == 255 || byte % 64 != 63 { byte & 1 } else { byte };
        let mut mask = (with_mask & 1 == 1).then(|| (0..candidates).map(|_| mask_byte(source.byte())).collect::<Vec<u8>>());
        let mut bids = (with_bids & 1 == 1).then(|| source.take(candidates * 8));
        // Now and then something is a few bytes too long or too short.
        let (which, by) = (source.byte(), source.byte());
        let mut nothing = Vec::new();
        let damaged = match which {
            1 => &mut context.dense,
            2 => &mut context.ids,
            3 => &mut context.length_bytes,
            4 => &mut context.weights,
            5 => &mut candidate.dense,
            6 => &mut candidate.ids,
            7 => &mut candidate.length_bytes,
            8 => &mut candidate.weights,
            9 => mask.as_mut().unwrap_or(&mut nothing),
            10 => bids.as_mut().unwrap_or(&mut nothing),
            _ => &mut nothing,
        };
        damaged.resize((damaged.len() + usize::from(by)).saturating_sub(128), 0);
        Sent { context, candidate, candidates, mask, bids }
    }

    fn request(&self) -> Request<'_> {
        Request {
            context: self.context.blocks(),
            candidate: self.candidate.blocks(),
            candidates: self.candidates,
            mask: self.mask.as_deref(),
            bids: self.bids.as_deref(),
        }
    }

    fn is_eligible(&self, row: usize) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask[row] == 1)
    }
}

impl Block {
    /// Sizes fit; values are legal more often than not.
    fn new(layout: &ScopeLayout, rows: usize, source: &mut Source<'_>) -> Block {
        let mut block = Block::default();
        for _ in 0..rows {
            (0..layout.dense_width).for_each(|_| block.dense.extend(source.float().to_le_bytes()));
            for field in &layout.ids {
                let mut count = field.width;
                if count == 0 {
                    let length = u16::from(source.byte());
                    // A bag that is too long, once in a while.
                    let length = if length == 255 { field.max_len as u16 + 1 } else { length % (field.max_len as u16 + 1) };
                    block.lengths.push(length);
                    count = usize::from(length);
                }
                for _ in 0..count {
                    block.ids.extend(&source.id().to_le_bytes()[..layout.id_bytes]);
                    if matches!(field.target, IdTarget::Bag { weighted: true, .. }) {
                        block.weights.extend(source.float().to_le_bytes());
                    }
                }
            }
        }
        block.length_bytes = block.lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
        block
    }

    fn blocks(&self) -> Blocks<'_> {
        Blocks { dense: &self.dense, ids: &self.ids, lengths: &self.length_bytes, weights: &self.weights }
    }
}

/// Bytes that never end: zeros follow.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    fn id(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => u64::from(u32::MAX),
            253 => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            252 => u64::from(ROWS),
            byte => u64::from(byte) % u64::from(ROWS),
        }
    }

    fn float(&mut self) -> f32 {
        match self.byte() {
            255 => f32::NAN,
            254 => f32::from_le_bytes(std::array::from_fn(|_| self.byte())),
            253 => f32::NEG_INFINITY,
            byte => f32::from(byte) - 100.0,
        }
    }
}

/// Four layouts: rules and shapes of all kinds together in u64; the same in u32; plain ids that are copied as they lie; plain bags.
fn features(which: u8) -> Vec<Feature> {
    let mut features = Vec::new();
    for scope in [Scope::Context, Scope::Candidate] {
        match which % 4 {
            0 => features.extend(all_kinds(scope, IdType::U64)),
            1 => features.extend(all_kinds(scope, IdType::U32)),
            2 => features.extend([dense(scope, 3, NanRule::Error, DenseTransform::None), sparse(scope, 2), sparse(scope, 1)]),
            _ => features.extend([sparse(scope, 0), sparse(scope, 2), sparse(scope, 0)]),
        }
    }
    features
}

fn all_kinds(scope: Scope, id_type: IdType) -> Vec<Feature> {
    let with = |width: u32, change: fn(&mut FeatureKind)| {
        let mut feature = Feature { id_type, ..sparse(scope, width) };
        change(&mut feature.kind);
        feature
    };
    vec![
        dense(scope, 2, NanRule::Error, DenseTransform::None),
        dense(scope, 1, NanRule::Value(0.5), DenseTransform::Log1pClamp0),
        dense(scope, 1, NanRule::Keep, DenseTransform::Log1pClamp0),
        with(2, |_| {}),
        with(0, |kind| {
            if let FeatureKind::Sparse { weighted, missing, .. } = kind {
                (*weighted, *missing) = (true, MissingRule::Skip);
            }
        }),
        with(1, |kind| {
            if let FeatureKind::Sparse { hash, missing, .. } = kind {
                (*hash, *missing) = (Some(Hash { function: HashFn::Splitmix64, modulus: 7, add: 2 }), MissingRule::Row(REPLACED));
            }
        }),
        Feature { id_type, kind: FeatureKind::Integer, ..sparse(scope, 1) },
        with(0, |kind| {
            if let FeatureKind::Sparse { out_of_range, padding, .. } = kind {
                (*out_of_range, *padding) = (RangeRule::Row(REPLACED), Some(0));
            }
        }),
        with(1, |kind| {
            if let FeatureKind::Sparse { weighted, out_of_range, .. } = kind {
                (*weighted, *out_of_range) = (true, RangeRule::Row(REPLACED));
            }
        }),
    ]
}

fn dense(scope: Scope, width: u32, nan: NanRule, transform: DenseTransform) -> Feature {
    Feature { name: "dense".into(), scope, width, max_len: width, id_type: IdType::U32, kind: FeatureKind::Dense { transform, nan } }
}

/// A sparse feature without rules; `width` 0: bags.
fn sparse(scope: Scope, width: u32) -> Feature {
    let kind = FeatureKind::Sparse {
        table: TableId(0),
        rows: ROWS,
        pool: Pool::Sum,
        weighted: false,
        hash: None,
        padding: None,
        missing: MissingRule::Error,
        out_of_range: RangeRule::Error,
    };
    Feature { name: "ids".into(), scope, width, max_len: if width == 0 { 3 } else { width }, id_type: IdType::U32, kind }
}

/// Rows of every table.
const ROWS: u32 = 10;
/// The row of the rules.
const REPLACED: u32 = 1;
const REQUESTS_MAX: u32 = 5;
const LIMITS: SlotLimits = SlotLimits { contexts: 4, rows: 30, ids: 200 };
