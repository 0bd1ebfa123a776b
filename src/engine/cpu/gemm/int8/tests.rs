//! Products of codes against exact sums, and quantised layers against real ones.

use super::block::{Dot, Scale, product};
use super::pack::{Int8Matrix, RANGE_MAX, ranges};
use super::quantize::quantize_row;
use crate::engine::cpu::gemm::layer::Block;
use crate::engine::cpu::simd::Simd;

struct Random(u64);

impl Random {
    /// −1 to 1.
    fn number(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A layer with its quantised operands.
struct Layer {
    dot: Dot,
    matrix: Int8Matrix,
    bias: Vec<f32>,
    rows: usize,
    words_per_row: usize,
    quantised: Vec<f32>,
}

impl Layer {
    fn new(simd: Simd, dot: Dot, sizes: &[usize], n: usize, rows: usize, x: &[f32], weight: impl Fn(usize, usize) -> f32) -> Layer {
        let matrix = Int8Matrix::new(dot.level(), ranges(sizes.iter().copied()), n, weight).unwrap();
        let mut bias: Vec<f32> = (0..n).map(|column| column as f32 * 0.25 - 1.0).collect();
        bias.resize(matrix.padded, f32::NAN);
        let words_per_row = matrix.row_bytes() / 4 + 3;
        let mut quantised = vec![0.0f32; rows * words_per_row];
        for (x, out) in x.chunks(matrix.k.max(1)).zip(quantised.chunks_mut(words_per_row)) {
            quantize_row(
                simd,
                x,
                &vec![1.0; x.len()],
                &matrix.ranges,
                dot.levels(),
                &mut bytemuck::cast_slice_mut(out)[..matrix.row_bytes()],
            );
        }
        Layer { dot, matrix, bias, rows, words_per_row, quantised }
    }

    /// Rows `first .. first + m`, columns from a panel on.
    fn run(&self, first: usize, m: usize, panel: usize, addend: Option<&[f32]>, relu: bool) -> Vec<f32> {
        let column = panel * self.matrix.panel;
        let n = self.matrix.n - column;
        let mut out = vec![f32::NAN; m * (n + 1)];
        let addends: Vec<*const f32> =
            addend.map_or(vec![], |addend| (0..m).map(|row| addend[row * self.matrix.n + column..].as_ptr()).collect());
        let block = Block {
            m,
            n,
            a: self.quantised[first * self.words_per_row..].as_ptr(),
            a_stride: self.words_per_row,
            weights: self.matrix.codes_from(panel),
            bias: self.bias[column..].as_ptr(),
            addends: if addends.is_empty() { std::ptr::null() } else { addends.as_ptr() },
            c: out.as_mut_ptr(),
            c_stride: n + 1,
            relu,
        };
        assert!(first + m <= self.rows);
        // SAFETY: the operands were made for each other above.
        unsafe { product(self.dot, &block) };
        assert!(out.chunks(n + 1).all(|row| row[n].is_nan()), "nothing is written behind a row");
        out.chunks(n + 1).flat_map(|row| row[..n].to_vec()).collect()
    }

    fn scales(&self, row: usize) -> &[Scale] {
        bytemuck::cast_slice(&self.quantised[row * self.words_per_row..][..self.matrix.ranges.len() * 2])
    }

    fn codes(&self, row: usize) -> &[u8] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.quantised[row * self.words_per_row..][..self.words_per_row]);
        &bytes[self.matrix.ranges.len() * 8..]
    }

    /// What codes, scales and bias come to, and how large the terms are.
    fn exact(&self, row: usize, column: usize) -> (f64, f64) {
        let (mut sum, mut size) = (f64::from(self.bias[column]), f64::from(self.bias[column]).abs());
        for (at, range) in self.matrix.ranges.iter().enumerate() {
            let (mut products, mut weights) = (0i64, 0i64);
            for k in 0..range.len {
                let weight = i64::from(self.matrix.code(range.first + k, column));
                products += i64::from(self.codes(row)[range.quad * 4 + k]) * weight;
                weights += weight;
            }
            let Scale { scale, low } = self.scales(row)[at];
            let factor = f64::from(self.matrix.scales[at * self.matrix.padded + column]);
            let (high, low) = (products as f64 * f64::from(scale) * factor, weights as f64 * f64::from(low) * factor);
            sum += high + low;
            size += high.abs() + low.abs();
        }
        (sum, size)
    }
}

/// Sizes of ranges, columns, rows.
const SHAPES: [(&[usize], usize, usize); 12] = [
    (&[1], 1, 1),
    (&[3], 7, 2),
    (&[13], 16, 3),
    (&[16, 351], 33, 15),
    (&[64], 64, 4),
    (&[5, 1, 2], 31, 29),
    (&[128, 128, 37], 130, 5),
    (&[300], 17, 64),
    (&[67], 129, 14),
    (&[4; 27], 48, 13),
    (&[31], 100, 1),
    (&[33], 200, 2),
];

fn each_dot(mut check: impl FnMut(Simd, Dot)) {
    for simd in Simd::available() {
        for dot in Dot::all(simd) {
            check(simd, dot);
        }
    }
}

#[test]
fn products_are_the_exact_sums_of_codes() {
    each_dot(|simd, dot| {
        for (sizes, n, rows) in SHAPES {
            let mut random = Random(7);
            let k: usize = sizes.iter().sum();
            let x: Vec<f32> = (0..rows * k).map(|_| random.number() * 3.0).collect();
            let weights: Vec<f32> = (0..n * k).map(|_| random.number()).collect();
            let addend: Vec<f32> = (0..rows * n).map(|_| random.number()).collect();
            let layer = Layer::new(simd, dot, sizes, n, rows, &x, |at, column| weights[column * k + at]);
            for (addend, relu) in [(None, false), (Some(&addend[..]), true)] {
                for (at, found) in layer.run(0, rows, 0, addend, relu).into_iter().enumerate() {
                    let (exact, size) = layer.exact(at / n, at % n);
                    let exact = exact + addend.map_or(0.0, |addend| f64::from(addend[at]));
                    let exact = if relu { exact.max(0.0) } else { exact };
                    let error = (f64::from(found) - exact).abs();
                    assert!(error <= 1e-6 * (size + 1.0), "{} {sizes:?} {n} {at}: {found} for {exact}", dot.name());
                }
            }
        }
    });
}

#[test]
fn quantised_layers_are_close_to_real_ones() {
    each_dot(|simd, dot| {
        for (sizes, n, rows) in SHAPES {
            let mut random = Random(3);
            let k: usize = sizes.iter().sum();
            // Every range has its own size: with one scale for all, small ones would vanish.
            let size_of = |at: usize| {
                let range = sizes.iter().scan(0, |end, size| Some((*end += size, *end).1)).position(|end| at < end).unwrap();
                [1.0, 0.01, 30.0][range % 3]
            };
            let x: Vec<f32> = (0..rows * k).map(|at| random.number() * size_of(at % k)).collect();
            let weights: Vec<f32> = (0..n * k).map(|at| random.number() / size_of(at % k)).collect();
            let layer = Layer::new(simd, dot, sizes, n, rows, &x, |at, column| weights[column * k + at]);
            let mut worst = 0.0f64;
            for (at, found) in layer.run(0, rows, 0, None, false).into_iter().enumerate() {
                let (row, column) = (at / n, at % n);
                let products = (0..k).map(|at| f64::from(x[row * k + at]) * f64::from(weights[column * k + at]));
                worst = worst.max((products.sum::<f64>() + f64::from(layer.bias[column]) - f64::from(found)).abs());
            }
            // Half a step of x (2 / levels) and of w (2 / 254) for each product of numbers below 1; errors add like √k, with room.
            let allowed = (k as f64).sqrt() * (1.0 / f64::from(dot.levels()) + 1.0 / 254.0) * 4.0;
            assert!(worst <= allowed, "{} {sizes:?} {n}: {worst} > {allowed}", dot.name());
        }
    });
}

#[test]
fn a_row_does_not_depend_on_its_neighbours_nor_on_how_columns_are_cut() {
    each_dot(|simd, dot| {
        for (sizes, n, rows) in SHAPES {
            let mut random = Random(11);
            let k: usize = sizes.iter().sum();
            let x: Vec<f32> = (0..rows * k).map(|_| random.number()).collect();
            let layer = Layer::new(simd, dot, sizes, n, rows, &x, |at, column| ((at * 31 + column * 17) % 23) as f32 - 11.0);
            let all = layer.run(0, rows, 0, None, false);
            for row in 0..rows {
                assert_eq!(layer.run(row, 1, 0, None, false), all[row * n..(row + 1) * n], "{} {sizes:?} {n} {row}", dot.name());
            }
            let last = n.div_ceil(layer.matrix.panel) - 1;
            let column = last * layer.matrix.panel;
            let expected: Vec<f32> = all.chunks(n).flat_map(|row| row[column..].to_vec()).collect();
            assert_eq!(layer.run(0, rows, last, None, false), expected);
        }
    });
}

#[test]
fn sums_do_not_saturate() {
    each_dot(|simd, dot| {
        let (k, n) = (RANGE_MAX + 5, 3);
        let x: Vec<f32> = (0..k).map(|at| if at % 64 == 0 { 0.0 } else { 1.0 }).collect();
        let layer = Layer::new(simd, dot, &[k], n, 1, &x, |_, column| [1.0, -1.0, 0.5][column]);
        assert_eq!(layer.matrix.ranges.len(), 2);
        let ones = x.iter().sum::<f32>();
        for (found, (factor, bias)) in layer.run(0, 1, 0, None, false).into_iter().zip([(1.0, -1.0), (-1.0, -0.75), (0.5, -0.5)]) {
            assert!((found - (ones * factor + bias)).abs() < ones * 1e-5, "{}: {found}", dot.name());
        }
    });
}

#[test]
fn what_is_no_number_stays_none() {
    each_dot(|simd, dot| {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 15, 16, 40] {
                let mut x = vec![0.5; 41];
                x[at] = bad;
                let layer = Layer::new(simd, dot, &[41], 5, 1, &x, |_, _| 1.0);
                assert!(layer.run(0, 1, 0, None, true).iter().all(|value| value.is_nan()), "{} {bad} at {at}", dot.name());
            }
        }
    });
}

#[test]
fn flat_and_extreme_rows() {
    each_dot(|simd, dot| {
        for value in [0.0, 1.0, -3.5, 1e-38, 1e37] {
            let layer = Layer::new(simd, dot, &[9], 2, 1, &[value; 9], |_, column| [1.0, 0.0][column]);
            let found = layer.run(0, 1, 0, None, false);
            assert!((found[0] - (value * 9.0 - 1.0)).abs() <= (value * 9.0).abs() * 1e-6 + 1e-6, "{} {value}: {found:?}", dot.name());
            assert_eq!(found[1], -0.75);
        }
    });
}

#[test]
fn levels_agree_on_codes() {
    let mut random = Random(5);
    for len in [1, 7, 16, 31, 33, 64, 100] {
        let x: Vec<f32> = (0..len).map(|_| random.number() * 7.0).collect();
        let ranges = ranges([len]);
        let mut first: Option<Vec<u8>> = None;
        for simd in Simd::available() {
            let mut out = vec![0.0f32; 2 + ranges[0].quads];
            quantize_row(simd, &x, &vec![1.0; len], &ranges, 255, bytemuck::cast_slice_mut(&mut out));
            let bytes = bytemuck::cast_slice::<f32, u8>(&out).to_vec();
            assert_eq!(
                (bytes[8..8 + len].iter().max(), bytes[8..8 + len].iter().min()),
                (Some(if len == 1 { &0 } else { &255 }), Some(&0))
            );
            assert_eq!(first.get_or_insert(bytes.clone()), &bytes, "{len} {:?}", simd.level());
        }
    }
}
