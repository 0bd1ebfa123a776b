//! Lookups of every format, pool and width, against the oracle and, bit by bit, against what torch and fbgemm computed
//! (`tests/tables/README.md`).

use std::path::Path;
use std::sync::Arc;

use crate::batch::NO_ROW;
use crate::model::*;
use crate::units::Instant;

use super::batches::{self, Cell, Request};
use super::builder::ModelBuilder;
use super::kernels::check_op;
use super::{Bench, Simd, levels};

#[test]
fn every_format_pool_and_width() {
    for (seed, dim) in [1u32, 2, 3, 4, 5, 7, 8, 12, 13, 16, 17, 31, 32, 40, 64, 100, 128, 130, 272].into_iter().enumerate() {
        for (at, (_, dtype)) in TableDType::ALL.into_iter().enumerate() {
            for (pool, weighted) in [
                (Pool::Sum, false),
                (Pool::Sum, true),
                (Pool::Mean, false),
                (Pool::Mean, true),
                (Pool::Max, false),
                (Pool::None, false),
                (Pool::None, true),
            ] {
                // All at once would take long: every width meets every format and pool, in one of three shapes of bag.
                let (width, max_len) = [(1, 1), (0, 9), (3, 3)][(seed + at) % 3];
                check_op((seed * 9 + at) as u64, &[if seed % 2 == 0 { 5 } else { 66 }], |model| {
                    let table = model.table_of(dtype, 20, dim);
                    let feature = model.sparse(Scope::Candidate, width, max_len, table, weighted);
                    let x = model.op(Op::Lookup { feature, table, pool });
                    // The first, the last and some in between.
                    let len = model.shape(x).iter().product::<usize>();
                    let flat = model.op_as(Op::Reshape { x }, vec![len], DType::F32);
                    let indices = (0..len).filter(|i| i % (1 + len / 20) == 0 || *i + 3 > len).collect();
                    model.op(Op::GatherConst { x: flat, axis: 0, indices })
                });
            }
        }
    }
}

/// A file of tensors beside the tests.
pub fn golden(name: &str) -> TensorFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tables").join(name);
    TensorFile::parse(&path, std::fs::read(&path).expect("a committed file")).expect("a safetensors file")
}

pub fn floats(file: &TensorFile, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap_or_else(|| panic!("no tensor {name}")).f32s().expect("floats")
}

/// The bags of a case, as ids and weights.
pub fn bags(file: &TensorFile, prefix: &str, weights: &[f32], padding: Option<u32>) -> Vec<Cell> {
    let integers = |name: &str| file.tensor(&format!("{prefix}{name}")).expect("a tensor").i64s().expect("integers");
    let ids: Vec<u32> =
        integers("indices").into_iter().map(|id| id as u32).map(|id| if Some(id) == padding { NO_ROW } else { id }).collect();
    let mut at = 0;
    let cell = |length: &i64| {
        let range = at..at + *length as usize;
        at = range.end;
        let weights = if weights.is_empty() { vec![1.0; range.len()] } else { weights[range.clone()].to_vec() };
        Cell { ids: ids[range].to_vec(), weights, ..Cell::default() }
    };
    integers("lengths").iter().map(cell).collect()
}

/// What the engine makes of bags: a row each.
fn looked_up(simd: Simd, table: Table, bags: &[Cell], pool: Pool, weighted: bool) -> Vec<f32> {
    let mut model = ModelBuilder::new(1);
    let (dim, id) = (table.dim as usize, TableId(0));
    model.weights.tables.push(table);
    let max_len = bags.iter().map(|bag| bag.ids.len()).max().unwrap_or(0) as u32;
    let feature = model.sparse(Scope::Candidate, 0, max_len, id, weighted);
    let x = model.op(Op::Lookup { feature, table: id, pool });
    let outputs: Vec<ValueId> = (0..dim).map(|at| model.op(Op::Slice { x, axis: 0, start: at, end: at + 1, step: 1 })).collect();
    let model: Arc<Model> = model.finish(&outputs);
    let requests =
        [Request { context: vec![Cell::default()], candidates: bags.iter().map(|bag| vec![bag.clone()]).collect(), dead: false }];
    Bench::new(&model, simd, batches::limits(&requests)).run(&requests, Instant::NEVER).0.concat()
}

fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(found == expected, "{what}: element {at} is {found:?}, expected {expected:?}");
    }
}

#[test]
fn bags_are_those_of_torch() {
    let file = golden("ops_embedding_bag.safetensors");
    for dim in [4_u32, 8, 13, 64] {
        let tensor = |name: &str| floats(&file, &format!("d{dim}.{name}"));
        let (data, weights) = (tensor("table"), tensor("weights"));
        let cases = [
            ("sum", Pool::Sum, false, None),
            ("mean", Pool::Mean, false, None),
            ("max", Pool::Max, false, None),
            ("weighted_sum", Pool::Sum, true, None),
            ("sum_pad7", Pool::Sum, false, Some(7)),
            ("mean_pad7", Pool::Mean, false, Some(7)),
        ];
        for (name, pool, weighted, padding) in cases {
            let bags = bags(&file, &format!("d{dim}."), if weighted { &weights } else { &[] }, padding);
            for simd in levels() {
                let table = Table { name: "t".into(), rows: 300, dim, dtype: TableDType::F32, data: data.clone().into() };
                let (found, expected) = (looked_up(simd, table, &bags, pool, weighted), tensor(name));
                let what = format!("d{dim}.{name}, {:?}", simd.level());
                if weighted && simd.level() == super::super::SimdLevel::Portable {
                    // Without FMA a product is rounded before it is added.
                    let far = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(far <= 2e-5, "{what}: {far}");
                } else {
                    assert_same(&found, &expected, &what);
                }
            }
        }
    }
}

/// Of `quant_rowwise`: tensor of rows, format, what to compare with: each row by itself, or sums of bags.
pub(in crate::engine) const CODED_ROWS: [(&str, TableDType, &str); 7] = [
    ("fused_int8_sbfloat", TableDType::Int8Rowwise, "fused_int8_sbfloat.dequant"),
    ("fused_int4_sbhalf", TableDType::Int4Rowwise, "fused_int4_sbhalf.dequant"),
    ("fused_int2_sbhalf", TableDType::Int2Rowwise, "fused_int2_sbhalf.dequant"),
    ("tbe_int8.row_bytes", TableDType::Int8Tbe, "tbe_int8.pooled_sum"),
    ("tbe_int4.row_bytes", TableDType::Int4Tbe, "tbe_int4.pooled_sum"),
    ("tbe_int2.row_bytes", TableDType::Int2Tbe, "tbe_int2.pooled_sum"),
    ("tbe_fp16.row_bytes", TableDType::F16, "tbe_fp16.pooled_sum"),
];

#[test]
fn coded_rows_are_those_of_fbgemm() {
    let file = golden("quant_rowwise.safetensors");
    for dim in [8_u32, 16, 64] {
        let single: Vec<Cell> = (0..64).map(|id| Cell { ids: vec![id], weights: vec![1.0], ..Cell::default() }).collect();
        let bags = bags(&file, "", &[], None);
        for (rows, dtype, expected) in CODED_ROWS {
            let bags = if expected.ends_with("dequant") { &single } else { &bags };
            let what = format!("d{dim}.{rows}");
            let bytes: Vec<u8> = file.tensor(&what).expect("a tensor").i64s().expect("bytes").into_iter().map(|byte| byte as u8).collect();
            let table = Table { name: "t".into(), rows: 64, dim, dtype, data: bytes.as_slice().into() };
            let expected = floats(&file, &format!("d{dim}.{expected}"));
            if bags.len() == 64 {
                let values: Vec<f32> = (0..64)
                    .flat_map(|row| (0..dim as usize).map(move |column| (row, column)))
                    .map(|(row, column)| table.value(row, column))
                    .collect();
                assert_same(&values, &expected, &format!("{what}, as the format defines it"));
            }
            for simd in levels() {
                let found = looked_up(simd, table.clone(), bags, Pool::Sum, false);
                assert_same(&found, &expected, &format!("{what}, {:?}", simd.level()));
            }
        }
    }
}

#[test]
fn a_row_reader_reads_every_format() {
    for (seed, dim) in [1u32, 6, 16, 45].into_iter().enumerate() {
        for (_, dtype) in TableDType::ALL {
            let mut model = ModelBuilder::new(seed as u64);
            let id = model.table_of(dtype, 7, dim);
            let table = model.weights.table(id);
            let expected: Vec<f32> = (0..dim as usize).map(|column| table.value(6, column)).collect();
            for simd in levels() {
                let reader = super::super::kernels::lookup::RowReader::new(simd, table);
                let mut found = vec![9.0; dim as usize];
                reader.read(6, &mut found);
                assert_same(&found, &expected, &format!("{dtype:?} {dim}, {:?}", simd.level()));
                reader.read(7, &mut found);
                assert!(found.iter().all(|&x| x == 0.0), "no such row");
            }
        }
    }
}
