//! Convolutions and pools (`kernels/window.cuh`).

use crate::engine::cpu::tests::kernels::array;
use crate::model::{Op, Window};

use super::check_values;

#[test]
fn convolutions_of_every_shape() {
    type Case = (Vec<usize>, usize, Vec<usize>, Vec<usize>, Vec<usize>, Vec<(usize, usize)>, usize);
    // x, outputs, kernel, strides, dilations, pads, groups.
    let cases: [Case; 11] = [
        (vec![4, 19], 6, vec![3], vec![1], vec![1], vec![(1, 1)], 2),
        (vec![1, 26, 8], 3, vec![6, 1], vec![1, 1], vec![1, 1], vec![(5, 0), (0, 0)], 1),
        (vec![2, 7, 9], 2, vec![3, 2], vec![2, 3], vec![2, 1], vec![(1, 2), (0, 1)], 2),
        (vec![3, 4, 5, 6], 2, vec![2, 3, 2], vec![1, 2, 2], vec![1, 1, 2], vec![(0, 1), (1, 0), (1, 1)], 1),
        (vec![2, 3, 2, 2, 2], 6, vec![2, 2, 2], vec![1, 1, 1], vec![1, 1, 1], vec![(1, 1), (0, 0), (0, 1)], 3),
        (vec![4, 3, 3], 4, vec![1, 1], vec![2, 2], vec![1, 1], vec![(0, 0), (0, 0)], 4),
        // Positions around four per thread, outputs around four.
        (vec![3, 5], 3, vec![2], vec![1], vec![1], vec![(0, 0)], 1),
        (vec![3, 18], 4, vec![2], vec![1], vec![1], vec![(0, 0)], 1),
        (vec![3, 32], 5, vec![2], vec![1], vec![1], vec![(1, 1)], 1),
        (vec![2, 66], 9, vec![3], vec![1], vec![1], vec![(1, 1)], 1),
        (vec![4, 3], 2, vec![3], vec![1], vec![1], vec![(0, 0)], 1),
    ];
    for (seed, cases) in cases.chunks(6).enumerate() {
        check_values(seed as u64, &[4, 13, 1], |model| {
            let mut values = Vec::new();
            for (at, (shape, outputs, kernel, strides, dilations, pads, groups)) in cases.iter().enumerate() {
                let x = array(model, shape);
                let channels = shape[shape.len() - kernel.len() - 1];
                let sizes = [&[*outputs, channels / groups][..], kernel].concat();
                let weight = model.tensor(&sizes, 1.0 / sizes[1..].iter().product::<usize>() as f64);
                let bias = (at % 2 == 0).then(|| model.tensor(&[*outputs], 1.0));
                let window = Window { kernel: kernel.clone(), strides: strides.clone(), dilations: dilations.clone(), pads: pads.clone() };
                values.push(model.op(Op::Conv { x, weight, bias, window, groups: *groups }));
            }
            values
        });
    }
}

#[test]
fn pools_of_every_shape() {
    let cases = [
        (vec![3, 20], vec![2], vec![2], vec![1], vec![(0, 0)]),
        (vec![2, 5, 7], vec![3, 2], vec![1, 2], vec![1, 1], vec![(1, 1), (0, 1)]),
        (vec![2, 9, 7], vec![3, 2], vec![2, 1], vec![2, 3], vec![(1, 1), (1, 1)]),
        (vec![1, 3, 4, 5], vec![2, 2, 2], vec![2, 1, 3], vec![1, 1, 1], vec![(1, 0), (0, 0), (1, 1)]),
    ];
    check_values(0, &[4, 17], |model| {
        let mut values = Vec::new();
        for (shape, kernel, strides, dilations, pads) in &cases {
            let x = array(model, shape);
            let window = Window { kernel: kernel.clone(), strides: strides.clone(), dilations: dilations.clone(), pads: pads.clone() };
            values.push(model.op(Op::MaxPool { x, window: window.clone() }));
            values.push(model.op(Op::AvgPool { x, window: window.clone(), count_include_pad: true }));
            values.push(model.op(Op::AvgPool { x, window, count_include_pad: false }));
        }
        values
    });
}
