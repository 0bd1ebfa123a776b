//! Dot interactions in the forms in which models have them.

use std::sync::Arc;

use crate::model::*;

use super::builder::ModelBuilder;
use super::{Hoist, Options, Program, Random, Simd, batches, check};

/// How pairs are taken from the product.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// Lower triangle, picked from the flat product.
    Lower,
    /// Upper triangle with the diagonal, picked from the flat product.
    UpperAndDiagonal,
    /// Column by column below the diagonal.
    ByColumn,
    /// A slice of every row, joined.
    Slices,
    /// The same, joined together with what stands beside the pairs.
    SlicesBeside,
    /// All of it.
    Whole,
    /// A few, twice, in no order.
    Scattered,
    /// Lower triangle of a product with an explicit transpose.
    Transposed,
}

const FORMS: [Form; 8] =
    [Form::Lower, Form::UpperAndDiagonal, Form::ByColumn, Form::Slices, Form::SlicesBeside, Form::Whole, Form::Scattered, Form::Transposed];

/// Pairs of `count` vectors of `dim`, the first `of_context` of the context; a layer over them, or the pairs themselves as outputs.
fn model(form: Form, [count, of_context, dim]: [usize; 3], layer: bool) -> Arc<Model> {
    let mut model = ModelBuilder::new(count as u64);
    let mut vectors = vec![];
    for at in 0..count {
        let scope = if at * 7 % count < of_context { Scope::Context } else { Scope::Candidate };
        let table = model.table(20, dim as u32);
        let feature = model.sparse(scope, 1, 1, table, false);
        let vector = model.op(Op::Lookup { feature, table, pool: Pool::Sum });
        vectors.push(model.op_as(Op::Reshape { x: vector }, vec![1, dim], DType::F32));
    }
    let x = model.op(Op::Concat { xs: vectors, axis: 0 });
    let product = if form == Form::Transposed {
        let columns = model.op(Op::Transpose { x, perm: vec![1, 0] });
        model.op(Op::MatMul { a: x, b: columns, transpose_a: false, transpose_b: false })
    } else {
        model.op(Op::MatMul { a: x, b: x, transpose_a: false, transpose_b: true })
    };
    let flat = model.op_as(Op::Reshape { x: product }, vec![count * count], DType::F32);
    let below = (0..count).flat_map(|i| (0..i).map(move |j| [i, j]));
    let indices: Vec<usize> = match form {
        Form::Lower | Form::Transposed => below.map(|[i, j]| i * count + j).collect(),
        Form::UpperAndDiagonal => (0..count).flat_map(|i| (i..count).map(move |j| i * count + j)).collect(),
        Form::ByColumn => (0..count).flat_map(|j| (j + 1..count).map(move |i| i * count + j)).collect(),
        Form::Scattered => below.map(|[i, j]| (j * 5 % count) * count + i).chain([1, 1, count]).collect(),
        Form::Slices | Form::SlicesBeside | Form::Whole => vec![],
    };
    let mut beside = vec![];
    let pairs = match form {
        Form::Whole => flat,
        Form::Slices | Form::SlicesBeside => {
            let row = |model: &mut ModelBuilder, i: usize| {
                let row = model.op(Op::Slice { x: product, axis: 0, start: i, end: i + 1, step: 1 });
                let part = model.op(Op::Slice { x: row, axis: 1, start: 0, end: i, step: 1 });
                model.op_as(Op::Reshape { x: part }, vec![i], DType::F32)
            };
            let rows: Vec<ValueId> = (1..count).map(|i| row(&mut model, i)).collect();
            if form == Form::SlicesBeside {
                beside = rows[..].to_vec()
            }
            model.op(Op::Concat { xs: rows, axis: 0 })
        }
        _ => model.op(Op::GatherConst { x: flat, axis: 0, indices }),
    };
    let dense = model.dense(Scope::Candidate, 3);
    let dense = model.op(Op::Dense { features: vec![dense] });
    beside.insert(0, dense);
    if form != Form::SlicesBeside {
        beside.push(pairs);
    }
    let x = model.op(Op::Concat { xs: beside, axis: 0 });
    let x = if layer { model.mlp(x, &[40]) } else { x };
    let len = model.graph.value(x).len();
    let outputs: Vec<_> =
        (0..len).step_by(len.div_ceil(70)).map(|at| model.op(Op::Slice { x, axis: 0, start: at, end: at + 1, step: 1 })).collect();
    model.finish(&outputs)
}

#[test]
fn every_form_agrees_with_f64() {
    let sizes = [[2, 1, 16], [3, 0, 8], [5, 2, 4], [8, 3, 20], [9, 9, 5], [17, 5, 16], [27, 14, 16], [33, 1, 33]];
    for (at, size) in sizes.into_iter().enumerate() {
        for (turn, form) in FORMS.into_iter().enumerate().filter(|(_, form)| *form != Form::Scattered || size[0] > 2) {
            let model = model(form, size, turn % 2 == 0);
            let mut random = Random::new(at as u64);
            let rows = [1, 2, 0, 3, 19, 7];
            let requests: Vec<_> = rows[turn % 5..].iter().map(|&rows| batches::request(&model, &mut random, rows)).collect();
            check(&model, &requests, 1e-5);
        }
    }
}

#[test]
fn matrix_products_do_not_remain() {
    for form in FORMS {
        for hoist in [Hoist::Nothing, Hoist::WherePaying] {
            let options = Options { hoist, ..Options::new(Simd::detect()) };
            let program = Program::planned(&model(form, [27, 14, 16], true), &options).expect("memory");
            let kernels = program.kernels();
            assert!(!kernels.contains("MatMul") && !kernels.contains("Gather"), "{form:?}: {kernels}");
        }
    }
}
