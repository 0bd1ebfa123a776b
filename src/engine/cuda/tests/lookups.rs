//! Lookups of every format, pool and width: against the oracle, and against what torch and fbgemm computed (`tests/tables/README.md`).

use std::sync::Arc;

use crate::engine::cpu::tests::Random;
use crate::engine::cpu::tests::batches::{self, Cell, Request};
use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::kernels::elements;
use crate::engine::cpu::tests::tables::{CODED_ROWS, bags, floats, golden};
use crate::engine::cuda::{Numbers, Program, Target};
use crate::model::*;

use super::{check, emulator, run, run_batch, targets};

/// What is done with a bag, with weights or without.
const POOLS: [(Pool, bool); 7] = [
    (Pool::Sum, false),
    (Pool::Sum, true),
    (Pool::Mean, false),
    (Pool::Mean, true),
    (Pool::Max, false),
    (Pool::None, false),
    (Pool::None, true),
];

/// All elements of these values as outputs; requests that fill tiles and that end in one.
fn check_all(mut model: ModelBuilder, values: &[ValueId], rows: &[usize]) {
    let outputs: Vec<ValueId> = values.iter().flat_map(|&x| elements(&mut model, x)).collect();
    let model = model.finish(&outputs);
    let mut random = Random::new(outputs.len() as u64);
    let requests: Vec<_> = rows.iter().map(|&rows| batches::request(&model, &mut random, rows)).collect();
    check(&model, &requests, 3e-6);
}

#[test]
fn every_format_pool_and_width() {
    for (seed, dim) in [1u32, 2, 3, 4, 8, 13, 33].into_iter().enumerate() {
        let mut model = ModelBuilder::new(seed as u64);
        let mut values = Vec::new();
        // All at once would be too much of a model: each format meets each pool in one of three widths, one of four shapes of bag.
        let shapes = [(Scope::Candidate, 1, 1), (Scope::Candidate, 0, 9), (Scope::Context, 3, 3), (Scope::Candidate, 0, 1)];
        for (at, (_, dtype)) in TableDType::ALL.into_iter().enumerate() {
            for (pool, weighted) in POOLS.into_iter().skip((at + seed) % 3).step_by(3) {
                let (scope, width, max_len) = shapes[values.len() % 4];
                let table = model.table_of(dtype, 20, dim);
                let feature = model.sparse(scope, width, max_len, table, weighted);
                values.push(model.op(Op::Lookup { feature, table, pool }));
            }
        }
        check_all(model, &values, &[1, 15 + seed]);
    }
}

#[test]
fn single_ids_of_fixed_rows() {
    // Without listed bags, a row's ids lie side by side; results one behind the other, on boundaries of 4, 8 and 16 bytes.
    for (seed, dims) in [[16, 16, 16], [4, 8, 12], [1, 16, 3], [6, 64, 130]].into_iter().enumerate() {
        let mut model = ModelBuilder::new(seed as u64);
        let mut values = Vec::new();
        for (_, dtype) in TableDType::ALL.into_iter().skip(seed % 2).step_by(2) {
            for dim in dims {
                let table = model.table_of(dtype, 5, dim);
                let feature = model.sparse(Scope::Candidate, 1, 1, table, false);
                values.push(model.op(Op::Lookup { feature, table, pool: Pool::Sum }));
            }
        }
        let joined = model.op(Op::Concat { xs: values, axis: 0 });
        check_all(model, &[joined], &[1, 16, 47]);
    }
}

#[test]
fn long_bags_are_shared_out() {
    for (seed, (max_len, dims)) in [(15, [4, 16]), (16, [4, 33]), (40, [16, 130]), (100, [3, 64])].into_iter().enumerate() {
        let mut model = ModelBuilder::new(seed as u64);
        let mut values = Vec::new();
        for (dim, dtype) in dims.into_iter().zip([TableDType::F32, TableDType::Bf16]) {
            for (pool, weighted) in &POOLS[..5] {
                for (dtype, width) in [(dtype, 0), (TableDType::Int8Rowwise, max_len)] {
                    let table = model.table_of(dtype, 50, dim);
                    let feature = model.sparse(Scope::Candidate, width, max_len, table, *weighted);
                    values.push(model.op(Op::Lookup { feature, table, pool: *pool }));
                }
            }
        }
        check_all(model, &values, &[1, 17]);
    }
}

/// Models that a bundle cannot hold: ids of a feature reach beyond one of its tables. No kernel reads there, and no such score is answered.
#[test]
fn an_unknown_id_fails_its_batch() {
    if emulator::cuda().is_none() {
        return;
    }
    for (width, pool) in [(1, Pool::Sum), (0, Pool::Mean), (0, Pool::Max), (0, Pool::None)] {
        for (scope, rows, fails) in [(Scope::Candidate, 3, true), (Scope::Context, 3, true), (Scope::Candidate, 40, false)] {
            let mut model = ModelBuilder::new(3);
            let (named, table) = (model.table(40, 6), model.table(rows, 6));
            let feature = model.sparse(scope, width, width.max(5), named, false);
            let x = model.op(Op::Lookup { feature, table, pool });
            let outputs = elements(&mut model, x);
            let model = model.finish(&outputs);
            let mut random = Random::new(5);
            let requests: Vec<Request> = (0..12).map(|_| batches::request(&model, &mut random, 2)).collect();
            let target = targets(Numbers::F32)[0];
            let scores = run_batch(&model, &target, 0, &requests).expect("kernels");
            assert_eq!(scores.is_none(), fails, "{pool:?} of {scope:?}, {rows} rows");
        }
    }
}

#[test]
fn rows_of_computed_ids() {
    for (seed, dim) in [1u32, 7, 16, 20].into_iter().enumerate() {
        let mut model = ModelBuilder::new(seed as u64);
        // −4 .. 5: rows that there are, and that there are not.
        let feature = model.integer(Scope::Candidate, 5);
        let index = model.op(Op::Integer { feature });
        let mut values = Vec::new();
        for (_, dtype) in TableDType::ALL {
            let table = model.table_of(dtype, 3, dim);
            let x = model.op(Op::Embedding { index, table });
            let lost = model.op(Op::Compare { cmp: Comparison::Ne, a: Operand::Value(x), b: Operand::Value(x) });
            values.push(model.op(Op::Where { cond: lost, a: Operand::Scalar(9.0), b: Operand::Value(x) }));
        }
        check_all(model, &values, &[20]);
    }
}

/// What the engine makes of bags: a row each, in every plan and every size of tile.
fn looked_up(table: Table, bags: &[Cell], pool: Pool, weighted: bool) -> Vec<Vec<f32>> {
    let mut model = ModelBuilder::new(1);
    let id = TableId(0);
    model.weights.tables.push(table);
    let max_len = bags.iter().map(|bag| bag.ids.len()).max().unwrap_or(0) as u32;
    let feature = model.sparse(Scope::Candidate, 0, max_len, id, weighted);
    let x = model.op(Op::Lookup { feature, table: id, pool });
    let outputs = elements(&mut model, x);
    let model: Arc<Model> = model.finish(&outputs);
    let candidates = bags.iter().map(|bag| vec![bag.clone()]).collect();
    let requests = [Request { context: vec![Cell::default()], candidates, dead: false }];
    let plans = targets(Numbers::F32).into_iter().flat_map(|target| {
        let variants = Program::new(&model, &target).expect("memory").variants.len();
        (0..variants).map(move |variant| (target, variant))
    });
    plans.map(|(target, variant)| run(&model, &target, variant, &requests).expect("kernels").concat()).collect()
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let far = (found - expected).abs();
        assert!(far <= tolerance * expected.abs().max(1.0), "{what}: element {at} is {found:?}, expected {expected:?}");
    }
}

#[test]
fn bags_are_those_of_torch() {
    if emulator::cuda().is_none() {
        return;
    }
    let file = golden("ops_embedding_bag.safetensors");
    for dim in [4_u32, 13, 64] {
        let tensor = |name: &str| floats(&file, &format!("d{dim}.{name}"));
        let (data, weights) = (tensor("table"), tensor("weights"));
        let cases = [
            ("mean", Pool::Mean, false, None),
            ("max", Pool::Max, false, None),
            ("weighted_sum", Pool::Sum, true, None),
            ("sum_pad7", Pool::Sum, false, Some(7)),
        ];
        for (name, pool, weighted, padding) in cases {
            let bags = bags(&file, &format!("d{dim}."), if weighted { &weights } else { &[] }, padding);
            let table = Table { name: "t".into(), rows: 300, dim, dtype: TableDType::F32, data: data.clone().into() };
            for found in looked_up(table, &bags, pool, weighted) {
                // Of up to 100 ids, which are added up in parts.
                let tolerance = if pool == Pool::Max { 0.0 } else { 3e-6 };
                assert_close(&found, &tensor(name), tolerance, &format!("d{dim}.{name}"));
            }
        }
    }
}

#[test]
fn coded_rows_are_those_of_fbgemm() {
    if emulator::cuda().is_none() {
        return;
    }
    let file = golden("quant_rowwise.safetensors");
    for dim in [8_u32, 64] {
        let single: Vec<Cell> = (0..64).map(|id| Cell { ids: vec![id], weights: vec![1.0], ..Cell::default() }).collect();
        let bags = bags(&file, "", &[], None);
        for (rows, dtype, expected) in CODED_ROWS {
            let bags = if expected.ends_with("dequant") { &single } else { &bags };
            let what = format!("d{dim}.{rows}");
            let bytes: Vec<u8> = file.tensor(&what).expect("a tensor").i64s().expect("bytes").into_iter().map(|byte| byte as u8).collect();
            let table = Table { name: "t".into(), rows: 64, dim, dtype, data: bytes.as_slice().into() };
            for found in looked_up(table, bags, Pool::Sum, false) {
                assert_close(&found, &floats(&file, &format!("d{dim}.{expected}")), 0.0, &what);
            }
        }
    }
}

#[test]
fn lookups_of_a_kind_are_one_call() {
    let mut model = ModelBuilder::new(1);
    let mut values = Vec::new();
    for _ in 0..26 {
        let table = model.table_of(TableDType::F16, 5, 16);
        let feature = model.sparse(Scope::Candidate, 1, 1, table, false);
        values.push(model.op(Op::Lookup { feature, table, pool: Pool::Sum }));
    }
    let joined = model.op(Op::Concat { xs: values, axis: 0 });
    let outputs = elements(&mut model, joined);
    let program = Program::new(&model.finish(&outputs), &Target::new(99 << 10, Numbers::F32)).expect("memory");
    let tiles = program.variants.len();
    assert_eq!(program.source.matches("gather_rows<").count(), tiles, "{}", program.source);
    // Results side by side are one case.
    assert!(!program.source.contains("if (f <"), "{}", program.source);
    assert_eq!(program.tables.len(), 26);
}
