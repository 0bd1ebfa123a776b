//! Features' rules are written twice, in `batch` for requests and in `reference` for the judge: both make the same of every value.

mod bundle_writer;

use std::sync::Arc;

use bundle_writer::{Draft, Tensor, f32s, f64s, i64s};
use gavel::batch::{Blocks, Fault, Layout, NO_ROW, Request, Slot, SlotLimits, admit, measure, status};
use gavel::model::{Cell, FeatureKind, FeatureRows, Field, Model};
use gavel::reference;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Rows of the table.
const ROWS: u32 = 10;
/// An id that every rule takes, and that none of them replaces.
const PLAIN: i64 = 4;

/// Hash, missing, padding and range rules in every combination that a manifest may have. Without `odd` ones those of ids that are copied as
/// they lie.
fn rules(odd: bool) -> Vec<Value> {
    let mut all = Vec::new();
    for hash in [None, Some("identity"), Some("fnv1a64"), Some("splitmix64")] {
        for missing in [json!("error"), json!({"row": 0}), json!("skip")] {
            for padding in [None, Some(0), Some(3)] {
                for range in [None, Some(0), Some(7)] {
                    if (hash.is_some() && range.is_some()) || (!odd && (hash.is_some() || padding.is_some())) {
                        continue;
                    }
                    let mut rule = json!({"missing": missing});
                    if let Some(hash) = hash {
                        // Rows 1 to 9: row 0 is for the rules.
                        rule["hash"] = json!({"fn": hash, "mod": ROWS - 1, "add": 1});
                    }
                    if let Some(padding) = padding {
                        rule["padding"] = json!(padding);
                    }
                    if let Some(row) = range {
                        rule["out_of_range"] = json!({"row": row});
                    }
                    all.push(rule);
                }
            }
        }
    }
    all
}

/// A model with one feature per rule. `bits` of the ids: 32, 64, or a mixture (0).
fn model_of_ids(rules: &[Value], bits: u32, bag: bool) -> Model {
    let mut features = Vec::new();
    let mut selftest: Vec<Tensor> = vec![f64s("out.y", &[1], &[0.0])];
    for (i, rule) in rules.iter().enumerate() {
        let (name, wide) = (format!("f{i}"), bits == 64 || (bits == 0 && i % 2 == 0));
        let mut feature =
            json!({"name": name, "kind": "sparse", "scope": "candidate", "table": "t", "id_type": if wide { "u64" } else { "u32" }});
        if bag {
            feature["max_len"] = json!(3);
            selftest.push(i64s(&format!("in.{name}.lengths"), &[1], &[1]));
        }
        for (key, value) in rule.as_object().expect("rules") {
            feature[key] = value.clone();
        }
        features.push(feature);
        selftest.push(i64s(&format!("in.{name}"), &[1], &[PLAIN]));
    }
    let graph = json!([{"op": "lookup", "feature": "f0", "out": "y"}]);
    let tables = json!([{"name": "t", "rows": ROWS, "dim": 1}]);
    model(json!(features), tables, graph, vec![f32s("t", &[ROWS as usize, 1], &[0.0; ROWS as usize])], selftest)
}

fn model(features: Value, tables: Value, graph: Value, weights: Vec<Tensor>, selftest: Vec<Tensor>) -> Model {
    let outputs = json!([{"name": "y", "value": "y", "kind": "value"}]);
    let manifest =
        json!({"format": "gavel/1", "name": "rules", "tables": tables, "features": features, "graph": graph, "outputs": outputs});
    Draft { manifest, weights, selftest }.load().1.unwrap_or_else(|error| panic!("{error}"))
}

/// A slot that took row 0 of `rows`, or why it did not.
fn admitted(model: &Model, rows: &FeatureRows) -> Result<Slot, Fault> {
    let layout = Arc::new(Layout::new(&model.features, 1));
    let mut slot = Slot::new(layout.clone(), SlotLimits { contexts: 1, rows: 1, ids: 1000 }).expect("memory");
    let block = rows.encode_candidates(&[0]);
    let candidate = Blocks { dense: &block.dense, ids: &block.ids, lengths: &block.lengths, weights: &block.weights };
    let request = Request { candidate, candidates: 1, ..Request::default() };
    let need = measure(&layout, &request)?;
    let draft = slot.reserve(need).expect("room");
    let counts = admit(&layout, &request, draft)?;
    slot.commit(0, counts);
    Ok(slot)
}

/// One row where feature `odd` has `ids`, and every other one [`PLAIN`].
fn row(model: &Model, odd: usize, ids: &[i64]) -> FeatureRows {
    let fields: Vec<Field> = model.features.iter().map(Field::from).collect();
    let mut rows = FeatureRows::new(fields);
    let cells: Vec<Cell<'_>> =
        (0..model.features.len()).map(|at| Cell::Ids { ids: if at == odd { ids } else { &[PLAIN] }, weights: &[] }).collect();
    rows.push_row(&cells).expect("ids that the wire carries");
    rows
}

/// Both agree on the rows that the ids of every feature become, and on what is refused.
fn agree(model: &Model, ids: &[i64], bag: bool) {
    for odd in 0..model.features.len() {
        let feature = &model.features[odd];
        let narrow = feature.id_type == gavel::model::IdType::U32;
        // A feature of 32 bits takes the ids that fit.
        let ids: Vec<i64> = ids.iter().map(|id| if narrow && *id != -1 { id.rem_euclid(i64::from(u32::MAX)) } else { *id }).collect();
        for ids in if bag { vec![&ids[..]] } else { ids.iter().map(std::slice::from_ref).collect() } {
            let rows = row(model, odd, ids);
            let (judged, slot) = (reference::admit(model, &rows, 0), admitted(model, &rows));
            let at = format!("{feature:?}, ids {ids:?}");
            let (Ok(judged), Ok(mut slot)) = (judged.as_ref(), slot) else {
                let slot = admitted(model, &rows).err();
                assert!(judged.is_err() && slot.is_some_and(|fault| fault.feature == Some(odd as u16)), "{at}: {judged:?}, {slot:?}");
                continue;
            };
            let expected: Vec<Vec<u32>> =
                judged.bags.iter().map(|bag| bag.iter().map(|entry| entry.row.unwrap_or(NO_ROW)).collect()).collect();
            let (inputs, _) = slot.run();
            let found: Vec<Vec<u32>> =
                (0..model.features.len()).map(|feature| inputs.candidates.ids[inputs.candidates.bag(0, feature)].to_vec()).collect();
            assert_eq!(found, expected, "{at}");
            let FeatureKind::Sparse { hash, .. } = &feature.kind else { panic!("{at}") };
            let missing = if ids.contains(&-1) { status::MISSING } else { 0 };
            let beyond = ids.iter().any(|id| *id != -1 && *id as u64 >= u64::from(ROWS)) && hash.is_none();
            let expected = missing | if beyond { status::OUT_OF_RANGE } else { 0 };
            assert_eq!(slot.status(0), [expected], "{at}");
        }
    }
}

/// Ids at every border.
const IDS: [i64; 16] = [0, 1, 2, 3, 7, 9, 10, 11, 255, 256, 0x7fff_ffff, 0xffff_fffe, 0x1_0000_0003, i64::MAX, i64::MIN, -2];

#[test]
fn ids_become_the_same_rows() {
    for (bits, bag) in [(32, false), (64, false), (0, false), (32, true), (64, true), (0, true)] {
        for odd in [true, false] {
            let model = model_of_ids(&rules(odd), bits, bag);
            for id in IDS.iter().chain(&[-1]) {
                agree(&model, &[*id], bag);
            }
            agree(&model, &[-1, 0, 3], bag);
            if bag {
                agree(&model, &[], bag);
            }
        }
    }
}

#[test]
fn every_rule_is_there() {
    let all = rules(true);
    let with = |key: &str| all.iter().filter(|rule| rule.get(key).is_some()).count();
    assert_eq!((all.len(), with("hash"), with("padding"), with("out_of_range")), (54, 27, 36, 18));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_id_becomes_the_same_row(ids in prop::collection::vec(prop_oneof![any::<i64>(), -2_i64..12], 1..4), bits in prop_oneof![Just(32), Just(64), Just(0)]) {
        for bag in [false, true] {
            agree(&model_of_ids(&rules(true), bits, bag), &ids, bag);
        }
    }
}

/// Numbers: every NaN rule with every transform.
#[test]
fn numbers_become_the_same() {
    let mut features = Vec::new();
    let mut selftest = vec![f64s("out.y", &[1], &[0.0])];
    for nan in [json!("error"), json!("keep"), json!({"value": -2.0}), json!({"value": 0.5})] {
        for transform in ["none", "log1p_clamp0"] {
            let name = format!("f{}", features.len());
            selftest.push(f32s(&format!("in.{name}"), &[1], &[0.0]));
            features.push(json!({"name": name, "kind": "dense", "scope": "candidate", "nan": nan, "transform": transform}));
        }
    }
    let graph = json!([{"op": "dense", "features": ["f0"], "out": "y"}]);
    let model = model(json!(features), json!([]), graph, vec![f32s("unused", &[1], &[0.0])], selftest);
    let values = [0.0, -0.0, 1.0, -1.5, 1e-20, 3e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN];
    for odd in 0..model.features.len() {
        for value in values {
            let mut rows = FeatureRows::new(model.features.iter().map(Field::from).collect());
            let cells: Vec<Cell<'_>> =
                (0..model.features.len()).map(|at| Cell::Dense(if at == odd { std::slice::from_ref(&value) } else { &[1.0] })).collect();
            rows.push_row(&cells).expect("numbers");
            let at = format!("{:?}, {value}", model.features[odd]);
            let (Ok(judged), Ok(mut slot)) = (reference::admit(&model, &rows, 0), admitted(&model, &rows)) else {
                assert!(reference::admit(&model, &rows, 0).is_err() && admitted(&model, &rows).is_err(), "{at}");
                assert!(value.is_nan() && odd < 2, "{at}");
                continue;
            };
            let found = slot.run().0.candidates.dense.to_vec();
            for (judged, found) in judged.dense.iter().flatten().zip(found) {
                let close = (judged - f64::from(found)).abs() <= 2e-7 * judged.abs();
                assert!(close || *judged == f64::from(found) || (judged.is_nan() && found.is_nan()), "{at}: {judged} {found}");
            }
            assert_eq!(judged.dense[odd][0].is_nan(), value.is_nan() && (2..4).contains(&odd), "{at}: kept is kept");
            assert_eq!(slot.status(0), [if value.is_nan() { status::NAN } else { 0 }], "{at}");
        }
    }
}
