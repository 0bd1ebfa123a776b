//! Elementwise ops at the end of wide layers, around the edges of their blocks: 64 and 128 rows and columns.

use std::sync::Arc;

use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::{Random, batches, oracle};
use crate::model::*;

use super::super::{Numbers, Program, Target};
use super::{SHARED_BYTES, compare_on};

/// Every layer of `from` weights or more is a kernel of its own.
fn target(numbers: Numbers, from: usize) -> Target {
    Target { wide_from: from, ..Target::new(SHARED_BYTES, numbers) }
}

/// Runs requests of so many candidates each, in both numbers.
fn check(model: &Arc<Model>, from: usize, batches: &[&[usize]]) {
    for rows in batches {
        let mut random = Random::new(rows.len() as u64);
        let requests: Vec<_> = rows.iter().map(|&rows| batches::request(model, &mut random, rows)).collect();
        let expected = oracle::scores(model, &requests);
        for (numbers, tolerance) in [(Numbers::F32, 1e-5), (Numbers::Bf16, 3e-2)] {
            compare_on(&[target(numbers, from)], model, &requests, &expected, tolerance);
        }
    }
}

/// Kernels that are layers with tails, and all kernels, of the large variant.
fn kernels(model: &Arc<Model>, numbers: Numbers, from: usize) -> (usize, usize) {
    let program = Program::new(model, &target(numbers, from)).expect("memory");
    let launches = &program.variants.last().expect("a variant").launches;
    (launches.iter().filter(|launch| launch.kernel.contains("_tail_")).count(), launches.len())
}

fn dense(model: &mut ModelBuilder, scope: Scope, width: usize) -> ValueId {
    let feature = model.dense(scope, width as u32);
    model.op(Op::Dense { features: vec![feature] })
}

fn mul(model: &mut ModelBuilder, a: ValueId, b: ValueId) -> ValueId {
    model.op(Op::Mul { a: Operand::Value(a), b: Operand::Value(b) })
}

fn add(model: &mut ModelBuilder, a: ValueId, b: ValueId) -> ValueId {
    model.op(Op::Add { a: Operand::Value(a), b: Operand::Value(b) })
}

/// All of a value, as three sums with random factors.
fn sums(model: &mut ModelBuilder, x: ValueId) -> Vec<ValueId> {
    let len = model.graph.value(x).len();
    let flat = model.op_as(Op::Reshape { x }, vec![len], DType::F32);
    let few = model.linear(flat, 3);
    (0..3).map(|at| model.op(Op::Slice { x: few, axis: 0, start: at, end: at + 1, step: 1 })).collect()
}

/// x = x0 * (U (V x)) + x, twice; without V where there is no rank.
fn cross(widths: [usize; 2], rank: Option<usize>) -> Arc<Model> {
    let mut model = ModelBuilder::new(widths[0] as u64);
    let (own, shared) = (dense(&mut model, Scope::Candidate, widths[0]), dense(&mut model, Scope::Context, widths[1]));
    let x0 = model.op(Op::Concat { xs: vec![own, shared], axis: 0 });
    // Sums of products of sums stay of the size of what is given in.
    let x0 = model.op(Op::Unary { function: UnaryFn::Tanh, x: x0 });
    let mut x = x0;
    for _ in 0..2 {
        let inner = rank.map_or(x, |rank| model.linear(x, rank));
        let y = model.linear(inner, widths[0] + widths[1]);
        let product = mul(&mut model, x0, y);
        x = add(&mut model, product, x);
    }
    let outputs = sums(&mut model, x);
    model.finish(&outputs)
}

#[test]
fn cross_layers_end_with_their_products() {
    let batches: [&[&[usize]]; 4] = [&[&[63], &[1, 127]], &[&[64], &[128]], &[&[40, 25], &[100, 29]], &[&[17, 0, 113, 129]]];
    for (at, (widths, rank)) in [([60, 3], None), ([64, 64], Some(9)), ([126, 3], Some(24)), ([50, 15], Some(8))].into_iter().enumerate() {
        let model = cross(widths, rank);
        check(&model, 300, batches[at]);
        for numbers in [Numbers::F32, Numbers::Bf16] {
            // The inputs, two layers for each step or one, the sums.
            let layers = if rank.is_some() { 4 } else { 2 };
            assert_eq!(kernels(&model, numbers, 300), (2, 2 + layers), "{widths:?} {rank:?} {numbers:?}");
        }
    }
}
