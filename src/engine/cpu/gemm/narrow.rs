//! Layers of very few columns: one scalar product per element, in sixteen lanes joined pairwise.

use crate::engine::cpu::math;
use crate::engine::cpu::simd::{MulAdd, Simd, multiversion};

use super::Block;

/// # Safety
/// As [`super::product`], except that `b` is `n` columns of `k` elements and the bias not padded; the block is the whole of k.
pub unsafe fn product(simd: Simd, block: &Block) {
    let finish = block.finish.expect("a narrow matrix is one block");
    // SAFETY: `n` columns of `k` elements, `n` numbers of the bias.
    let (columns, bias) = unsafe { (slice(block.b, block.n * block.k), slice(finish.bias, block.n)) };
    for row in 0..block.m {
        // SAFETY: a row of `a`, a row of `c`, which nothing else reads or writes meanwhile, and the addends of this row.
        let (x, out, addends) = unsafe {
            let out = std::slice::from_raw_parts_mut(block.c.add(row * block.c_stride), block.n);
            let addends = if finish.addends.is_null() { None } else { Some(slice(*finish.addends.add(row), block.n)) };
            (slice(block.a.add(row * block.a_stride), block.k), out, addends)
        };
        products(simd, x, columns, bias, out);
        for (at, out) in out.iter_mut().enumerate() {
            *out += addends.map_or(0.0, |addends| addends[at]);
            *out = if finish.relu && *out < 0.0 { 0.0 } else { *out };
        }
    }
}

/// # Safety
/// `count` elements that live as long as the result is used, and that nothing writes meanwhile.
unsafe fn slice<'a>(first: *const f32, count: usize) -> &'a [f32] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(first, count) }
}

multiversion! {
    fn products(x: &[f32], columns: &[f32], bias: &[f32], out: &mut [f32]) = products_body;
}

#[inline(always)]
fn products_body<M: MulAdd>(x: &[f32], columns: &[f32], bias: &[f32], out: &mut [f32]) {
    for (at, (out, bias)) in out.iter_mut().zip(bias).enumerate() {
        *out = math::dot::<M>(x, &columns[at * x.len()..][..x.len()]) + bias;
    }
}
