//! Products with rounded weights against f64.

use half::f16;

use super::{Block, HalfMatrix, Panels, Widening, product};
use crate::engine::cpu::simd::Simd;

const SHAPES: [(usize, usize, usize); 9] =
    [(1, 1, 1), (3, 17, 2), (13, 64, 3), (64, 33, 14), (100, 130, 29), (7, 129, 1), (31, 256, 5), (16, 16, 64), (5, 200, 6)];

#[test]
fn products_are_those_of_the_rounded_weights_and_rows_are_independent() {
    for widening in Simd::available().filter_map(Widening::of) {
        for (k, n, rows) in SHAPES {
            let number = |at: usize, by: usize| ((at * 7919 + by * 104_729) % 2003) as f32 / 1001.5 - 1.0;
            let x: Vec<f32> = (0..rows * k).map(|at| number(at, 3)).collect();
            let weight = |at: usize, column: usize| number(column * k + at, 5);
            let matrix = HalfMatrix::new(widening, k, n, weight).unwrap();
            let mut bias: Vec<f32> = (0..n).map(|column| column as f32 * 0.1).collect();
            bias.resize(matrix.padded, f32::NAN);
            let addend: Vec<f32> = (0..rows * n).map(|at| number(at, 11)).collect();
            let run = |first: usize, m: usize| {
                let addends: Vec<*const f32> = (first..first + m).map(|row| addend[row * n..].as_ptr()).collect();
                let mut out = vec![f32::NAN; m * (n + 1)];
                let block = Block {
                    m,
                    n,
                    a: x[first * k..].as_ptr(),
                    a_stride: k,
                    weights: Panels { k, numbers: matrix.panels_from(0) },
                    c: out.as_mut_ptr(),
                    c_stride: n + 1,
                    bias: bias.as_ptr(),
                    addends: addends.as_ptr(),
                    relu: true,
                };
                // SAFETY: the operands were made for each other above.
                unsafe { product(widening, &block) };
                assert!(out.chunks(n + 1).all(|row| row[n].is_nan()), "nothing is written behind a row");
                out.chunks(n + 1).flat_map(|row| row[..n].to_vec()).collect::<Vec<f32>>()
            };
            let all = run(0, rows);
            for (at, found) in all.iter().enumerate() {
                let (row, column) = (at / n, at % n);
                let rounded = |at: usize| f64::from(f16::from_f32(weight(at, column)).to_f32());
                let sum: f64 = (0..k).map(|at| f64::from(x[row * k + at]) * rounded(at)).sum();
                let exact = (sum + f64::from(bias[column]) + f64::from(addend[at])).max(0.0);
                assert!(
                    (f64::from(*found) - exact).abs() < 1e-5 * (k as f64).sqrt(),
                    "{} {k} {n} {at}: {found} for {exact}",
                    widening.name()
                );
            }
            for row in 0..rows {
                assert_eq!(run(row, 1), all[row * n..(row + 1) * n], "{} {k} {n} {row}", widening.name());
            }
        }
    }
}
