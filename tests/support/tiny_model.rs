//! `tiny_model` of `kernels/tiny_model.cu` and what it must answer.
#![allow(dead_code, clippy::unwrap_used)]

use half::bf16;

use super::kernels::Kernels;

const IDS: usize = 4;
const WIDTH: usize = 64;
const UNITS: usize = 64;
const TABLE_ROWS: usize = 50;

pub const SOURCE: &str = include_str!("../../kernels/tiny_model.cu");

/// Shared memory of a block.
pub const SHARED: usize = (IDS * 16 * 72 + 16 * 72 + 2 * 64 * 24) * 2 + 4 * 16 * 4 + 64 * 4;

/// Runs it on so many rows; the error says what is wrong.
pub fn check(kernels: &Kernels, rows: usize) -> Result<(), String> {
    let mut state = 99_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut small = |count: usize| -> Vec<f32> { (0..count).map(|_| (next() % 33) as f32 / 16.0 - 1.0).collect() };
    let table: Vec<bf16> = small(TABLE_ROWS * WIDTH).into_iter().map(bf16::from_f32).collect();
    let weights: Vec<bf16> = small(UNITS * WIDTH).into_iter().map(|v| bf16::from_f32(v / 4.0)).collect();
    let (bias, last) = (small(UNITS), small(UNITS));
    let mut ids: Vec<u32> = (0..rows * IDS).map(|_| next() % TABLE_ROWS as u32).collect();
    ids.iter_mut().step_by(7).for_each(|id| *id = u32::MAX);

    let bits = |values: &[bf16]| kernels.upload(&values.iter().map(|v| v.to_bits()).collect::<Vec<u16>>());
    let scores = kernels.upload(&vec![-1.0_f32; rows]);
    let (table_bits, weight_bits, id_bits) = (bits(&table), bits(&weights), kernels.upload(&ids));
    let (bias_bits, last_bits) = (kernels.upload(&bias), kernels.upload(&last));
    let counts = (TABLE_ROWS as u32, rows as u32);
    let arguments: [&dyn super::kernels::Argument; 8] =
        [&table_bits, &counts.0, &id_bits, &weight_bits, &bias_bits, &last_bits, &scores, &counts.1];
    kernels.try_run("tiny_model", (3, 1), 128, SHARED, &arguments).map_err(|error| format!("{error:?}"))?;

    for (row, got) in kernels.download::<f32>(&scores).into_iter().enumerate() {
        let present = || ids[row * IDS..][..IDS].iter().filter(|id| **id != u32::MAX);
        let pooled = |k: usize| bf16::from_f32(present().map(|id| table[*id as usize * WIDTH + k].to_f32()).sum()).to_f64();
        let unit = |u: usize| (0..WIDTH).map(|k| weights[u * WIDTH + k].to_f64() * pooled(k)).sum::<f64>() + f64::from(bias[u]);
        let z: f64 = (0..UNITS).map(|u| unit(u).max(0.0) * f64::from(last[u])).sum();
        let expected = 1.0 / (1.0 + (-z).exp());
        let error = (f64::from(got) - expected).abs();
        if error.is_nan() || error > 1e-4 {
            return Err(format!("row {row}: {got} for {expected}"));
        }
    }
    Ok(())
}
