//! Whatever the layout and whatever the order of calls: the builder's blocks, read as PROTOCOL.md says, give the values that were set.

use gavel_client::{
    DescribedFeature, DescribedOutput, Description, FeatureKind, Layout, OutputKind, RankBody, Request, RequestBuilder, Row, Scope,
    feature_flag,
};
use proptest::prelude::*;

/// Values of one feature in one row: dense, or ids with weights (empty if not weighted).
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Dense(Vec<f32>),
    Ids(Vec<u64>, Vec<f32>),
    Integers(Vec<i64>),
}

fn feature() -> impl Strategy<Value = DescribedFeature> {
    (0_u8..3, any::<bool>(), 0_u32..4, 1_u32..6, any::<bool>(), any::<bool>()).prop_map(
        |(kind, candidate, width, length, wide, weighted)| {
            let kind = FeatureKind::from_u8(kind).expect("below 3");
            let dense = kind == FeatureKind::Dense;
            let width = if dense { width.max(1) } else { width };
            DescribedFeature {
                name: String::new(),
                kind,
                scope: if candidate { Scope::Candidate } else { Scope::Context },
                width,
                length_max: if width == 0 { length } else { width },
                id_bytes: if dense {
                    0
                } else if wide {
                    8
                } else {
                    4
                },
                flags: if weighted && kind == FeatureKind::Sparse { feature_flag::WEIGHTED } else { 0 },
                rows: 0,
            }
        },
    )
}

fn description(mut features: Vec<DescribedFeature>) -> Description {
    for (index, feature) in features.iter_mut().enumerate() {
        feature.name = format!("f{index}");
    }
    let bytes = |scope| if features.iter().any(|f| f.scope == scope && f.id_bytes == 8) { 8 } else { 4 };
    Description {
        model: "any".to_owned(),
        model_version: 1,
        signature: 9,
        candidates_max: 100,
        ids_max: 100_000,
        context_id_bytes: bytes(Scope::Context),
        candidate_id_bytes: bytes(Scope::Candidate),
        features,
        outputs: vec![DescribedOutput { name: "y".to_owned(), kind: OutputKind::Value }],
    }
}

/// Values that fit an element of `id_bytes`, from a seed.
fn value(feature: &DescribedFeature, id_bytes: u8, seed: u64) -> Value {
    let mix = |i: u64| (seed ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let length = if feature.width == 0 { seed % (u64::from(feature.length_max) + 1) } else { u64::from(feature.width) };
    let floats = || (0..length).map(|i| (mix(i) >> 40) as f32).collect::<Vec<_>>();
    match feature.kind {
        FeatureKind::Dense => Value::Dense(floats()),
        FeatureKind::Sparse => {
            let ids = (0..length).map(|i| if id_bytes == 8 { mix(i) >> 1 } else { mix(i) >> 33 }).collect();
            Value::Ids(ids, if feature.is_weighted() { floats() } else { Vec::new() })
        }
        FeatureKind::Integer => {
            Value::Integers((0..length).map(|i| if id_bytes == 8 { mix(i) as i64 } else { i64::from(mix(i) as i32) }).collect())
        }
    }
}

fn set(row: &mut Row<'_>, feature: &DescribedFeature, value: &Value) {
    let name = feature.name.as_str();
    match value {
        Value::Dense(values) => row.dense_values(name, values).map(drop),
        Value::Ids(ids, weights) => row.weighted_ids(name, ids, weights).map(drop),
        Value::Integers(values) => row.integers(name, values).map(drop),
    }
    .expect("it fits");
}

/// Reads one scope's blocks, slowly and obviously.
struct Reader<'a> {
    dense: &'a [u8],
    ids: &'a [u8],
    lengths: &'a [u8],
    weights: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(from: &mut &[u8]) -> [u8; N] {
        let (first, rest) = from.split_first_chunk::<N>().expect("the block is long enough");
        *from = rest;
        *first
    }

    fn value(&mut self, feature: &DescribedFeature, id_bytes: u8) -> Value {
        if feature.kind == FeatureKind::Dense {
            return Value::Dense((0..feature.width).map(|_| f32::from_le_bytes(Self::take(&mut self.dense))).collect());
        }
        let length = if feature.width == 0 { u32::from(u16::from_le_bytes(Self::take(&mut self.lengths))) } else { feature.width };
        let signed: Vec<i64> = (0..length)
            .map(|_| match id_bytes {
                8 => i64::from_le_bytes(Self::take(&mut self.ids)),
                _ => i64::from(i32::from_le_bytes(Self::take(&mut self.ids))),
            })
            .collect();
        if feature.kind == FeatureKind::Integer {
            return Value::Integers(signed);
        }
        let ids = signed.iter().map(|id| if id_bytes == 8 { *id as u64 } else { u64::from(*id as u32) }).collect();
        let weights = if feature.is_weighted() { length } else { 0 };
        Value::Ids(ids, (0..weights).map(|_| f32::from_le_bytes(Self::take(&mut self.weights))).collect())
    }

    fn is_empty(&self) -> bool {
        self.dense.is_empty() && self.ids.is_empty() && self.lengths.is_empty() && self.weights.is_empty()
    }
}

fn readers<'a>(body: &RankBody<'a>) -> [Reader<'a>; 2] {
    [
        Reader { dense: body.context_dense, ids: body.context_ids, lengths: body.context_lengths, weights: body.context_weights },
        Reader { dense: body.dense, ids: body.ids, lengths: body.lengths, weights: body.weights },
    ]
}

proptest! {
    #[test]
    fn blocks_hold_what_was_set(
        features in proptest::collection::vec(feature(), 0..8),
        order in any::<u64>(),
        rows in 1_usize..6,
        seed in any::<u64>(),
    ) {
        let description = description(features);
        let layout = Layout::new(description.clone());
        let bytes = [description.context_id_bytes, description.candidate_id_bytes];
        let of = |row: usize, index: usize, feature: &DescribedFeature| {
            value(feature, bytes[feature.scope as usize], seed.wrapping_add((row * 100 + index) as u64).wrapping_mul(0xff51_afd7_ed55_8ccd))
        };
        let mut shuffled: Vec<(usize, &DescribedFeature)> = description.features.iter().enumerate().collect();
        shuffled.sort_by_key(|(index, _)| (*index as u64 ^ order).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut builder = RequestBuilder::new(&layout);
        for _round in 0..2 {
            builder.clear();
            for row in 0..rows {
                let mut candidate = builder.add_candidate().expect("the one before was complete");
                for (index, feature) in shuffled.iter().filter(|(_, feature)| feature.scope == Scope::Candidate) {
                    // A first value that is replaced.
                    set(&mut candidate, feature, &of(row + 7, *index, feature));
                    set(&mut candidate, feature, &of(row, *index, feature));
                }
            }
            let mut context = builder.context();
            for (index, feature) in shuffled.iter().filter(|(_, feature)| feature.scope == Scope::Context) {
                set(&mut context, feature, &of(0, *index, feature));
            }
            let request = builder.finish().expect("complete");
            prop_assert!(Request::from_blocks(&layout, rows as u32, *request.body()).is_ok());
            let mut readers = readers(request.body());
            for row in 0..rows {
                for (index, feature) in description.features.iter().enumerate() {
                    if feature.scope == Scope::Candidate || row == 0 {
                        let scope = feature.scope as usize;
                        prop_assert_eq!(readers[scope].value(feature, bytes[scope]), of(row, index, feature));
                    }
                }
            }
            prop_assert!(readers.iter().all(Reader::is_empty));
        }
    }
}
