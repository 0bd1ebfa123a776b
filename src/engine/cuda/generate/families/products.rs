//! Products of two computed matrices (`kernels/products.cuh`), attention (`kernels/attention.cuh`).

use std::fmt::Write;

use crate::engine::cpu::plan::generic::attention::{Attention, Hiding};
use crate::engine::cpu::plan::task::ValueIndex;
use crate::engine::cpu::walk::{broadcast, row_major};

use crate::engine::cuda::generate::elementwise::index_expression;
use crate::engine::cuda::generate::emitter::{Emitter, literal};
use crate::engine::cuda::generate::families::BLOCK_THREADS;

impl Emitter<'_, '_> {
    pub(in super::super) fn matmul(&mut self, a: ValueIndex, b: ValueIndex, transpose_a: bool, transpose_b: bool) {
        // As in numpy, a vector on the left is one row, on the right one column, and the axis so made is dropped from the result.
        let (mut a_shape, mut b_shape) = (self.value(a).shape.clone(), self.value(b).shape.clone());
        let mut out_shape = self.out().shape.clone();
        let (turned_a, turned_b) = (transpose_a && a_shape.len() > 1, transpose_b && b_shape.len() > 1);
        if b_shape.len() == 1 {
            b_shape.push(1);
            out_shape.push(1);
        }
        if a_shape.len() == 1 {
            a_shape.insert(0, 1);
            out_shape.insert(out_shape.len() - 1, 1);
        }
        let (batch, matrix) = out_shape.split_at(out_shape.len() - 2);
        let (a_batch, a_matrix) = a_shape.split_at(a_shape.len() - 2);
        let b_batch = &b_shape[..b_shape.len() - 2];
        let (m, n, k) = (matrix[0], matrix[1], a_matrix[usize::from(!turned_a)]);
        let steps = |strides: Vec<usize>, elements: usize| strides.iter().map(|stride| stride * elements).collect();
        let steps = [steps(row_major(batch), m * n), steps(broadcast(a_batch, batch), m * k), steps(broadcast(b_batch, batch), k * n)];
        let batches: usize = batch.iter().product();
        let batch = self.offsets("Batch", batch, &["out", "a", "b"], &steps);

        let threads = |down: usize, across: usize| self.places.tile * batches * m.div_ceil(down) * n.div_ceil(across);
        let tiles = [(4, 4), (2, 4), (4, 2), (2, 2), (1, 2), (2, 1)];
        let fits = |&(down, across): &(usize, usize)| down <= m && across <= n && threads(down, across) >= BLOCK_THREADS;
        let (down, across) = tiles.into_iter().find(fits).unwrap_or((1, 1));
        let lanes = lanes_for(threads(down, across), 1, k.next_power_of_two());
        let (a, b, out) = (self.view(a), self.view(b), self.out_view());
        self.step(format!(
            "matmul<{a}, {b}, {out}, {batch}, {batches}, {m}, {n}, {k}, {turned_a}, {turned_b}, {down}, {across}, {lanes}>(b);"
        ));
    }

    pub(super) fn attention(&mut self, attention: &Attention) {
        let Attention { lead, q, k, v, mask, shape, .. } = attention;
        let sizes: Vec<usize> = lead.iter().map(|dim| dim.size).collect();
        let heads: usize = sizes.iter().product();
        let steps: [Vec<usize>; 5] = std::array::from_fn(|operand| lead.iter().map(|dim| dim.strides[operand]).collect());
        let head = self.offsets("Head", &sizes, &["out", "q", "k", "v", "mask"], &steps);

        let (rows, keys, width, values) = (shape.rows, shape.keys, shape.width, shape.values);
        let items = |queries: usize| self.places.tile * heads * rows.div_ceil(queries);
        let most = keys.max(values).next_power_of_two().clamp(4, WARP);
        let queries = [4, 2].into_iter().find(|&queries| queries <= rows && items(queries) * most >= BLOCK_THREADS).unwrap_or(1);
        let lanes = lanes_for(items(queries), most, WARP);
        let room = self.block_room(BLOCK_THREADS / lanes * queries * keys * size_of::<f32>());

        let (hiding, hidden) = match mask.as_ref().map(|mask| mask.hiding) {
            None => ("HIDES_NOTHING", 0.0),
            Some(Hiding::Added) => ("ADDED", 0.0),
            Some(Hiding::Truth { hides_zero: true, score }) => ("ZERO_HIDES", score),
            Some(Hiding::Truth { hides_zero: false, score }) => ("OTHERS_HIDE", score),
        };
        let (mask_row, mask_key) = mask.as_ref().map_or((0, 0), |mask| (mask.row_step, mask.key_step));
        let mask = mask.as_ref().map_or_else(|| "None".to_owned(), |mask| self.view_from(mask.value, mask.first));
        let [q, k, v] = [q, k, v].map(|&(value, first)| self.view_from(value, first));
        let (out, [out_step, q_step, k_step, v_step]) = (self.out_view(), shape.steps);
        let walked = [q_step, k_step].into_iter().chain(steps[1..3].iter().flatten().copied());
        let in_quads = width > 0 && width % 4 == 0 && walked.into_iter().all(|step| step % 4 == 0);
        let (causal, nan_without_keys) = (shape.causal, shape.nan_without_keys);
        let (scale, hidden) = (literal(shape.scale), literal(hidden));
        self.step(format!(
            "attention<{q}, {k}, {v}, {mask}, {out}, {room}, {head}, {heads}, {rows}, {keys}, {width}, {values}, {out_step}, {q_step}, \
             {k_step}, {v_step}, {hiding}, {mask_row}, {mask_key}, {causal}, {nan_without_keys}, {in_quads}, {queries}, {lanes}>(b, {scale}, {hidden});"
        ));
    }

    /// A struct with a function for each of `names`: where element `e` of `sizes` (row-major) lies at these steps. Gives its name.
    fn offsets(&mut self, kind: &str, sizes: &[usize], names: &[&str], steps: &[Vec<usize>]) -> String {
        let name = format!("{kind}{}", self.number);
        let mut text = format!("struct {name} {{\n");
        for (of, steps) in names.iter().zip(steps) {
            let index = index_expression(sizes, steps, 0);
            let _ = writeln!(text, "    DEV static int {of}(int e) {{ return (void)e, {index}; }}");
        }
        text.push_str("};");
        self.define(&text);
        name
    }
}

/// Lanes for each of `items`: from `least` on as many as busy all threads of a block, at most `most` and a warp.
fn lanes_for(items: usize, least: usize, most: usize) -> usize {
    let mut lanes = least;
    while items * lanes < BLOCK_THREADS && lanes < most.min(WARP) {
        lanes *= 2;
    }
    lanes
}

/// Threads of a warp.
const WARP: usize = 32;
