//! Rules, sizes and masks as a table, against a slot read back.

use std::sync::Arc;

use super::*;
use crate::model::{DenseTransform, Feature, FeatureKind, Hash, HashFn, IdType, MissingRule, NanRule, Pool, RangeRule, Scope, TableId};

fn dense(name: &str, scope: Scope, width: u32, transform: DenseTransform, nan: NanRule) -> Feature {
    Feature { name: name.into(), scope, width, max_len: width, id_type: IdType::U32, kind: FeatureKind::Dense { transform, nan } }
}

/// A sparse feature over 10 rows.
fn sparse(name: &str, scope: Scope, width: u32, max_len: u32) -> Feature {
    let kind = FeatureKind::Sparse {
        table: TableId(0),
        rows: 10,
        pool: Pool::Sum,
        weighted: false,
        hash: None,
        padding: None,
        missing: MissingRule::Error,
        out_of_range: RangeRule::Error,
    };
    Feature { name: name.into(), scope, width, max_len, id_type: IdType::U32, kind }
}

fn with(mut feature: Feature, change: impl FnOnce(&mut FeatureKind)) -> Feature {
    change(&mut feature.kind);
    feature
}

fn slot(features: &[Feature]) -> Slot {
    Slot::new(Arc::new(Layout::new(features, 1)), SlotLimits { contexts: 4, rows: 16, ids: 64 }).expect("a small slot")
}

/// Measures, admits and commits.
fn put(slot: &mut Slot, request: &Request<'_>) -> Result<usize, Fault> {
    let layout = slot.layout().clone();
    let need = measure(&layout, request)?;
    let counts = admit(&layout, request, slot.reserve(need).expect("room"))?;
    Ok(slot.commit(7, counts))
}

fn u32s(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
fn u64s(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
fn u16s(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
fn i64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// One candidate with these ids of the single feature.
fn ids_of_one(feature: Feature, ids: &[u32]) -> (Result<usize, Fault>, Vec<u32>, u8) {
    let mut slot = slot(std::slice::from_ref(&feature));
    let lengths = if feature.is_variable() { u16s(&[ids.len() as u16]) } else { vec![] };
    let block = u32s(ids);
    let request =
        Request { candidate: Blocks { ids: &block, lengths: &lengths, ..Blocks::default() }, candidates: 1, ..Request::default() };
    let result = put(&mut slot, &request);
    let (ids, status) = if result.is_ok() { (slot.run().0.candidates.ids.to_vec(), slot.status(0)[0]) } else { (vec![], 0) };
    (result, ids, status)
}

#[test]
fn id_rules() {
    let c = Scope::Candidate;
    let kind_of = |result: Result<usize, Fault>| result.map_err(|fault| (fault.kind, fault.feature));
    // Plain: the short way; a rule that has to act goes the long way.
    assert_eq!(ids_of_one(sparse("a", c, 2, 2), &[0, 9]), (Ok(0), vec![0, 9], 0));
    assert_eq!(kind_of(ids_of_one(sparse("a", c, 1, 1), &[10]).0), Err((FaultKind::IdOutOfRange, Some(0))));
    assert_eq!(kind_of(ids_of_one(sparse("a", c, 1, 1), &[u32::MAX]).0), Err((FaultKind::IdMissing, Some(0))));
    let to_row = |rule_row| {
        move |kind: &mut FeatureKind| {
            if let FeatureKind::Sparse { out_of_range, .. } = kind {
                *out_of_range = RangeRule::Row(rule_row)
            }
        }
    };
    assert_eq!(ids_of_one(with(sparse("a", c, 2, 2), to_row(3)), &[10, 4]), (Ok(0), vec![3, 4], status::OUT_OF_RANGE));
    let missing = |rule| {
        move |kind: &mut FeatureKind| {
            if let FeatureKind::Sparse { missing, .. } = kind {
                *missing = rule
            }
        }
    };
    assert_eq!(ids_of_one(with(sparse("a", c, 1, 1), missing(MissingRule::Row(2))), &[u32::MAX]), (Ok(0), vec![2], status::MISSING));
    assert_eq!(ids_of_one(with(sparse("a", c, 1, 1), missing(MissingRule::Skip)), &[u32::MAX]), (Ok(0), vec![NO_ROW], status::MISSING));
    let padding = |kind: &mut FeatureKind| {
        if let FeatureKind::Sparse { padding, .. } = kind {
            *padding = Some(0)
        }
    };
    assert_eq!(ids_of_one(with(sparse("a", c, 0, 3), padding), &[0, 1, 0]), (Ok(0), vec![NO_ROW, 1, NO_ROW], 0));
    let hash = |kind: &mut FeatureKind| {
        if let FeatureKind::Sparse { hash, .. } = kind {
            *hash = Some(Hash { function: HashFn::Identity, modulus: 9, add: 1 })
        }
    };
    assert_eq!(ids_of_one(with(sparse("a", c, 1, 1), hash), &[4_000_000_000]), (Ok(0), vec![1 + (4_000_000_000u64 % 9) as u32], 0));
    // Bags.
    assert_eq!(ids_of_one(sparse("a", c, 0, 3), &[]), (Ok(0), vec![], 0));
    assert_eq!(ids_of_one(sparse("a", c, 0, 3), &[1, 2, 3]), (Ok(0), vec![1, 2, 3], 0));
    assert_eq!(kind_of(ids_of_one(sparse("a", c, 0, 3), &[1, 2, 3, 4]).0), Err((FaultKind::LengthTooLarge, Some(0))));
}

/// FNV-1a-64 of eight zero bytes, and SplitMix64's first output for seed 0: its finaliser of the golden gamma; from their published definitions.
#[test]
fn hashes() {
    for (function, id, hashed) in [
        (HashFn::Identity, 17, 17),
        (HashFn::Fnv1a64, 0u64, 0xa8c7_f832_281a_39c5u64),
        (HashFn::Splitmix64, 0x9e37_79b9_7f4a_7c15, 0xe220_a839_7b1d_cdaf),
    ] {
        let modulus = 4_294_967_291;
        let kind = |kind: &mut FeatureKind| {
            if let FeatureKind::Sparse { hash, rows, .. } = kind {
                *hash = Some(Hash { function, modulus, add: 2 });
                *rows = u32::MAX;
            }
        };
        let mut feature = with(sparse("a", Scope::Candidate, 1, 1), kind);
        feature.id_type = IdType::U64;
        let mut slot = slot(std::slice::from_ref(&feature));
        let block = u64s(&[id]);
        put(&mut slot, &Request { candidate: Blocks { ids: &block, ..Blocks::default() }, candidates: 1, ..Request::default() })
            .expect("admitted");
        assert_eq!(u64::from(slot.run().0.candidates.ids[0]), 2 + hashed % modulus, "{function:?}");
    }
}

#[test]
fn dense_rules() {
    let features = [
        dense("a", Scope::Candidate, 1, DenseTransform::None, NanRule::Value(0.5)),
        dense("b", Scope::Candidate, 2, DenseTransform::Log1pClamp0, NanRule::Error),
    ];
    let mut slot = slot(&features);
    let block = f32s(&[f32::NAN, -3.0, 1.0, 2.0, 0.0, 0.0]);
    put(&mut slot, &Request { candidate: Blocks { dense: &block, ..Blocks::default() }, candidates: 2, ..Request::default() })
        .expect("admitted");
    assert_eq!(slot.run().0.candidates.dense, [0.5, 0.0, 1f32.ln_1p(), 2.0, 0.0, 0.0]);
    assert_eq!(slot.status(0), [status::NAN, 0]);
    let block = f32s(&[1.0, f32::NAN, 1.0]);
    let refused =
        put(&mut slot, &Request { candidate: Blocks { dense: &block, ..Blocks::default() }, candidates: 1, ..Request::default() });
    assert_eq!(refused, Err(Fault { kind: FaultKind::ValueNan, feature: Some(1) }));
    assert_eq!((slot.rows(), slot.segments().len()), (2, 1), "a refused request leaves nothing behind");
}

/// NaN that is kept passes the transform, which would make 0 of it, and is reported.
#[test]
fn kept_nan() {
    for transform in [DenseTransform::None, DenseTransform::Log1pClamp0] {
        let mut slot = slot(&[dense("a", Scope::Candidate, 2, transform, NanRule::Keep)]);
        let block = f32s(&[0.0, f32::NAN, -f32::NAN, 0.0, 0.0, 0.0]);
        put(&mut slot, &Request { candidate: Blocks { dense: &block, ..Blocks::default() }, candidates: 3, ..Request::default() })
            .expect("admitted");
        let nan: Vec<bool> = slot.run().0.candidates.dense.iter().map(|value| value.is_nan()).collect();
        assert_eq!(nan, [false, true, true, false, false, false], "{transform:?}");
        assert_eq!(slot.status(0), [status::NAN, status::NAN, 0], "{transform:?}");
    }
}

/// Two requests with everything: variable and fixed bags, weights, integers, a mask, bids, both scopes.
#[test]
fn rows_lie_where_the_engine_looks() {
    let weighted = |kind: &mut FeatureKind| {
        if let FeatureKind::Sparse { weighted, .. } = kind {
            *weighted = true
        }
    };
    let integer =
        Feature { name: "n".into(), scope: Scope::Candidate, width: 1, max_len: 1, id_type: IdType::U64, kind: FeatureKind::Integer };
    let features = [
        dense("u", Scope::Context, 1, DenseTransform::None, NanRule::Error),
        sparse("s", Scope::Context, 0, 3),
        sparse("ad", Scope::Candidate, 1, 1),
        integer,
        with(sparse("w", Scope::Candidate, 0, 3), weighted),
    ];
    let mut slot = slot(&features);
    for request in 0..2u64 {
        let context_dense = f32s(&[request as f32]);
        let context_ids = u32s(&[1, 2]);
        let context_lengths = u16s(&[2]);
        // Rows: (ad 3, n -1, w []), (masked, with ids that are out of range), (ad 5, n 7, w [6, 8]).
        let ids = u64s(&[3, u64::MAX, 99, 0, 98, 5, 7, 6, 8]);
        let lengths = u16s(&[0, 1, 2]);
        let weights = f32s(&[f32::NAN, 0.5, 2.0]);
        let bids = i64s(&[10, 20, 30]);
        let request = Request {
            context: Blocks { dense: &context_dense, ids: &context_ids, lengths: &context_lengths, ..Blocks::default() },
            candidate: Blocks { ids: &ids, lengths: &lengths, weights: &weights, ..Blocks::default() },
            candidates: 3,
            mask: Some(&[1, 0, 1]),
            bids: Some(&bids),
        };
        assert_eq!(put(&mut slot, &request), Ok(request_index(&slot) - 1));
    }
    let (inputs, scores) = slot.run();
    assert_eq!(scores.len(), 4);
    assert_eq!((inputs.contexts.count, inputs.candidates.count), (2, 4));
    assert_eq!(inputs.contexts.dense, [0.0, 1.0]);
    assert_eq!(inputs.row_context, [0, 0, 1, 1]);
    assert_eq!(inputs.candidates.ints, [-1, 7, -1, 7]);
    for request in 0..2 {
        assert_eq!(&inputs.contexts.ids[inputs.contexts.bag(request, 0)], [1, 2]);
        assert_eq!(&inputs.candidates.ids[inputs.candidates.bag(2 * request, 0)], [3]);
        assert_eq!(&inputs.candidates.ids[inputs.candidates.bag(2 * request, 1)], [0u32; 0]);
        assert_eq!(&inputs.candidates.ids[inputs.candidates.bag(2 * request + 1, 0)], [5]);
        let bag = inputs.candidates.bag(2 * request + 1, 1);
        assert_eq!(&inputs.candidates.ids[bag.clone()], [6, 8]);
        assert_eq!(&inputs.candidates.weights[bag], [0.5, 2.0]);
    }
    assert_eq!(slot.origin(1), [0, 2]);
    assert_eq!(slot.bids(1), [10, 30]);
    slot.clear();
    assert_eq!((slot.rows(), slot.segments().len()), (0, 0));
}

fn request_index(slot: &Slot) -> usize {
    slot.segments().len()
}

#[test]
fn sizes_and_room() {
    let features = [dense("u", Scope::Context, 1, DenseTransform::None, NanRule::Error), sparse("ad", Scope::Candidate, 2, 2)];
    let layout = Layout::new(&features, 1);
    let (context, ids) = (f32s(&[1.0]), u32s(&[1, 2, 3, 4]));
    let good = Request {
        context: Blocks { dense: &context, ..Blocks::default() },
        candidate: Blocks { ids: &ids, ..Blocks::default() },
        candidates: 2,
        mask: None,
        bids: None,
    };
    assert_eq!(measure(&layout, &good), Ok(Need { rows: 2, context_ids: 0, candidate_ids: 4 }));
    let cases: [(Request<'_>, FaultKind); 8] = [
        (Request { candidates: 3, ..good }, FaultKind::BlockSize),
        (Request { context: Blocks::default(), ..good }, FaultKind::BlockSize),
        (Request { candidate: Blocks { ids: &ids[..15], ..Blocks::default() }, ..good }, FaultKind::BlockSize),
        (Request { candidate: Blocks { ids: &ids, lengths: &[0, 0], ..Blocks::default() }, ..good }, FaultKind::BlockSize),
        (Request { candidate: Blocks { ids: &ids, weights: &[0; 4], ..Blocks::default() }, ..good }, FaultKind::BlockSize),
        (Request { mask: Some(&[1]), ..good }, FaultKind::MaskInvalid),
        (Request { mask: Some(&[1, 2]), ..good }, FaultKind::MaskInvalid),
        (Request { bids: Some(&[0; 15]), ..good }, FaultKind::BidsInvalid),
    ];
    for (request, kind) in cases {
        assert_eq!(measure(&layout, &request).map_err(|fault| fault.kind), Err(kind), "{request:?}");
    }
    let mut slot = slot(&features);
    assert!(slot.has_room(Need { rows: 16, context_ids: 0, candidate_ids: 64 }));
    assert!(!slot.has_room(Need { rows: 17, context_ids: 0, candidate_ids: 34 }));
    assert!(!slot.has_room(Need { rows: 1, context_ids: 0, candidate_ids: 65 }));
    for _ in 0..4 {
        put(&mut slot, &good).expect("room");
    }
    assert!(!slot.has_room(Need { rows: 1, context_ids: 0, candidate_ids: 2 }), "four contexts are all it has");
    let none = Request { mask: Some(&[0, 0]), ..good };
    slot.clear();
    assert_eq!(put(&mut slot, &none), Ok(0));
    assert_eq!(slot.rows(), 0, "a request of masked candidates alone takes a segment without rows");
}

/// A scope that has integers alone has no memory for table ids, and needs none.
#[test]
fn integers_alone() {
    let integer =
        Feature { name: "n".into(), scope: Scope::Candidate, width: 2, max_len: 2, id_type: IdType::U32, kind: FeatureKind::Integer };
    let mut slot = slot(&[integer]);
    let block = u32s(&[1, u32::MAX, 3, 0x8000_0000]);
    let request = Request { candidate: Blocks { ids: &block, ..Blocks::default() }, candidates: 2, ..Request::default() };
    assert_eq!(measure(slot.layout(), &request), Ok(Need { rows: 2, context_ids: 0, candidate_ids: 0 }));
    assert_eq!(put(&mut slot, &request), Ok(0));
    assert_eq!(slot.run().0.candidates.ints, [1, -1, 3, i64::from(i32::MIN)]);
}
