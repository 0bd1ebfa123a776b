//! Every wrapper of `kernels/rt.cuh` against scalar code: on the emulator, and with `GAVEL_CUDA=real` on the machine's GPU.
#![allow(clippy::unwrap_used)]

#[path = "support/emulator.rs"]
mod emulator;
#[path = "support/kernels.rs"]
mod kernels;
#[path = "support/tiny_model.rs"]
mod tiny_model;

use half::{bf16, f16};
use kernels::Kernels;

const SOURCE: &str = include_str!("../kernels/selftest.cu");
const HEADERS: &[(&str, &str)] = &[("rt.cuh", include_str!("../kernels/rt.cuh"))];

fn open() -> Option<Kernels> {
    Kernels::open(SOURCE, HEADERS)
}

/// Numbers without a pattern.
fn random(count: usize) -> Vec<u32> {
    let mut state = 12345_u64;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    (0..count).map(step).collect()
}

#[test]
fn warps_exchange() {
    let Some(kernels) = open() else { return };
    let values: Vec<u32> = random(64).iter().map(|v| v & 0x7f7f_ffff).collect();
    let out = kernels.zeros::<u32>(11 * 64);
    kernels.run("exchanges", (1, 1), 64, 0, &[&kernels.upload(&values), &out]);
    let out = kernels.download::<u32>(&out);
    for thread in 0..64 {
        let (warp, lane) = (&values[thread / 32 * 32..][..32], thread % 32);
        let down = |by: usize| *warp.get(lane + by).unwrap_or(&warp[lane]);
        let bits = warp.iter().enumerate().map(|(i, v)| u32::from(v % 3 == 0) << i).sum();
        let expected = [
            warp[lane ^ 1],
            warp[lane ^ 21],
            warp[lane ^ 16],
            warp[(thread * 5 + 3) % 32],
            warp[31],
            down(3),
            down(16),
            bits,
            u32::from(warp.contains(&values[0])),
            u32::from(warp.iter().all(|v| *v >= values[32])),
            warp[lane].count_ones(),
        ];
        let got: Vec<u32> = (0..11).map(|k| out[k * 64 + thread]).collect();
        assert_eq!(got, expected, "thread {thread}");
    }
}

#[test]
fn threads_know_their_place() {
    let Some(kernels) = open() else { return };
    let out = kernels.zeros::<u32>(3 * 2 * 64 * 8);
    kernels.run("places", (3, 2), 64, 0, &[&out]);
    let primes = [2, 3, 5, 7, 11, 13, 17, 19];
    let places = (0..6).flat_map(|block| (0..64).map(move |thread| (block, thread)));
    let expected: Vec<u32> = places.flat_map(|(b, t)| [t, 64, b % 3, b / 3, 302, t % 32, t / 32, primes[t as usize % 8]]).collect();
    assert_eq!(kernels.download::<u32>(&out), expected);
}

#[test]
fn narrow_floats_round_to_even() {
    let Some(kernels) = open() else { return };
    let mut values: Vec<f32> = random(20_000).iter().map(|bits| f32::from_bits(*bits)).filter(|v| !v.is_nan()).collect();
    values.extend([
        0.0,
        -0.0,
        1.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN_POSITIVE,
        65504.0,
        65519.9,
        65520.0,
        1e-8,
        5.97e-8,
        2.98e-8,
    ]);
    // Halfway between neighbours, and one bit to each side.
    for bits in (0..0x7c00_u16).step_by(37) {
        let (low, high) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
        let middle = (low + high) / 2.0;
        values.extend([middle, f32::from_bits(middle.to_bits() + 1), f32::from_bits(middle.to_bits().saturating_sub(1)), -middle]);
    }
    for bits in (0..0x7f80_u32).step_by(41) {
        let middle = bits << 16 | 0x8000;
        values.extend([middle, middle + 1, middle - 1].map(f32::from_bits));
    }
    let count = values.len();
    let out = kernels.zeros::<u32>(5 * count);
    kernels.run("conversions", (4, 1), 256, 0, &[&kernels.upload(&values), &out, &(count as u32)]);
    let out = kernels.download::<u32>(&out);
    for (i, v) in values.iter().enumerate() {
        let next = values[(i + 1) % count];
        let bf = |v: f32| u32::from(bf16::from_f32(v).to_bits());
        let fp = |v: f32| u32::from(f16::from_f32(v).to_bits());
        let tf = (v.to_bits().wrapping_add(0x1000)) & !0x1fff;
        let got: Vec<u32> = (0..5).map(|k| out[k * count + i]).collect();
        let tf = if v.is_infinite() { v.to_bits() } else { tf };
        assert_eq!(got, [bf(*v), bf(*v) | bf(next) << 16, fp(*v), fp(*v) | fp(next) << 16, tf], "{v} = {:#x}, then {next}", v.to_bits());
    }
}

#[test]
fn narrow_floats_widen() {
    let Some(kernels) = open() else { return };
    let out = kernels.zeros::<f32>(6 * 65536);
    kernels.run("widenings", (8, 1), 256, 0, &[&out]);
    let out = kernels.download::<f32>(&out);
    for k in 0..6 {
        for bits in 0..=u16::MAX {
            let expected = if matches!(k, 1 | 4 | 5) { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() };
            let got = out[k * 65536 + usize::from(bits)];
            assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(), "{k}: {bits:#x}: {got} for {expected}");
        }
    }
}

#[test]
fn functions_are_accurate() {
    let Some(kernels) = open() else { return };
    let mut values: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.00577).collect();
    values.extend([1e-30, 1e-8, 1e-4, 1e4, 1e30, -1e-8, -1e-4, 88.0, -88.0, 0.5, 1.5, 2.5, -0.5, -1.5]);
    let count = values.len();
    let out = kernels.zeros::<f32>(19 * count);
    kernels.run("functions", (4, 1), 256, 0, &[&kernels.upload(&values), &out, &(count as u32)]);
    let out = kernels.download::<f32>(&out);
    // Largest error in units of the last place, as CUDA's manual has it for the device; 0 is exact.
    type Function = fn(f64) -> f64;
    let functions: [(&str, f64, Function); 19] = [
        ("exp", 2.0, f64::exp),
        ("expm1", 2.0, f64::exp_m1),
        ("log", 2.0, f64::ln),
        ("log1p", 2.0, f64::ln_1p),
        ("tanh", 2.0, f64::tanh),
        ("sqrt", 0.5, f64::sqrt),
        ("rsqrt", 2.0, |v| 1.0 / v.sqrt()),
        ("pow", 8.0, |v| v.powf(f64::from(1.7_f32))),
        ("erf", 2.0, libm_erf),
        ("sin", 2.0, f64::sin),
        ("cos", 2.0, f64::cos),
        ("floor", 0.0, f64::floor),
        ("ceil", 0.0, f64::ceil),
        ("trunc", 0.0, f64::trunc),
        ("round", 0.0, f64::round_ties_even),
        ("abs", 0.0, f64::abs),
        ("fma", 0.5, |v| v * v - 1.0),
        ("min", 0.0, |v| v.min(0.5)),
        ("max", 0.0, |v| v.max(0.5)),
    ];
    for (k, (name, ulps, function)) in functions.iter().enumerate() {
        for (i, v) in values.iter().enumerate() {
            let (got, exact) = (out[k * count + i], function(f64::from(*v)));
            if exact.is_nan() {
                assert!(got.is_nan(), "{name}({v}) = {got}");
                continue;
            }
            let nearest = exact as f32;
            if nearest.is_infinite() || got == nearest {
                assert_eq!(got, nearest, "{name}({v})");
                continue;
            }
            let unit = f64::from(f32::from_bits(nearest.abs().to_bits() + 1)) - f64::from(nearest.abs());
            let error = (f64::from(got) - exact).abs() / unit;
            assert!(error <= *ulps + 0.001, "{name}({v}) = {got}, off {exact} by {error} units of its last place");
        }
    }
}

/// By its series, and by its continued fraction where that is faster.
fn libm_erf(v: f64) -> f64 {
    let x = v.abs();
    let two_over_root_pi = std::f64::consts::FRAC_2_SQRT_PI;
    let erf = if x < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        two_over_root_pi * sum
    } else {
        let mut fraction = 0.0;
        for n in (1..60).rev() {
            fraction = f64::from(n) / 2.0 / (x + fraction);
        }
        1.0 - (-x * x).exp() * two_over_root_pi / 2.0 / (x + fraction)
    };
    erf.copysign(v)
}

#[test]
fn copies_fill_with_zeros() {
    let Some(kernels) = open() else { return };
    let from: Vec<u8> = (0..512).map(|i| (i % 251 + 1) as u8).collect();
    let out = kernels.zeros::<u32>(17 * 128 + 9 * 64 + 5 * 32);
    kernels.run("filled_copies", (1, 1), 32, 512, &[&kernels.upload(&from), &out]);
    let mut expected = Vec::new();
    for size in [16, 8, 4] {
        for bytes in 0..=size {
            for lane in 0..32 {
                expected.extend((0..size).map(|at| if at < bytes { from[lane * size + at] } else { 0 }));
            }
        }
    }
    assert_eq!(bytemuck::cast_slice::<u32, u8>(&kernels.download::<u32>(&out)), expected);
}

#[test]
fn copies_arrive_when_waited_for() {
    let Some(kernels) = open() else { return };
    for stages in [1_u32, 2, 3, 4, 5, 11] {
        let bytes = stages as usize * 2048;
        let from = random(bytes / 4);
        let out = kernels.zeros::<u32>(bytes / 4);
        kernels.run("ring", (1, 1), 128, 3 * 2048, &[&kernels.upload(&from), &out, &stages]);
        assert_eq!(kernels.download::<u32>(&out), from, "{stages} stages");
    }
}

#[test]
fn tiles_are_spread_over_lanes() {
    let Some(kernels) = open() else { return };
    let rows: Vec<u16> = (0..32 * 8).map(|i| (i * 257 + 3) as u16).collect();
    let out = kernels.zeros::<u32>(13 * 32);
    kernels.run("tiles", (1, 1), 32, 32 * 48, &[&kernels.upload(&rows), &out]);
    let out = kernels.download::<u32>(&out);
    let element = |tile: usize, row: usize, k: usize| u32::from(rows[(tile * 8 + row) * 8 + k]);
    let plain = |tile, lane: usize| element(tile, lane / 4, lane % 4 * 2) | element(tile, lane / 4, lane % 4 * 2 + 1) << 16;
    let across = |tile, lane: usize| element(tile, lane % 4 * 2, lane / 4) | element(tile, lane % 4 * 2 + 1, lane / 4) << 16;
    let expected = [0, 0, 1, 0, 1, 2, 3].iter().flat_map(|tile| (0..32).map(|lane| plain(*tile, lane)));
    let transposed = [0, 1, 0, 1, 2, 3].iter().flat_map(|tile| (0..32).map(|lane| across(*tile, lane)));
    assert_eq!(out, expected.chain(transposed).collect::<Vec<u32>>());
}

#[test]
fn products_are_those_of_matrices() {
    let Some(kernels) = open() else { return };
    // Small integers: exact in every format and order.
    let small = |count, seed: u32| -> Vec<f32> { random(count).iter().map(|v| ((v >> seed) % 17) as f32 - 8.0).collect() };
    type Narrow = fn(f32) -> u16;
    let formats: [(&str, Narrow); 2] = [("product_bf16", |v| bf16::from_f32(v).to_bits()), ("product_f16", |v| f16::from_f32(v).to_bits())];
    for (name, narrow) in formats {
        let (a, b, c) = (small(256, 3), small(128, 7), small(128, 11));
        let bits = |values: &[f32]| values.iter().map(|v| narrow(*v)).collect::<Vec<u16>>();
        let out = kernels.zeros::<f32>(128);
        kernels.run(name, (1, 1), 32, 0, &[&kernels.upload(&bits(&a)), &kernels.upload(&bits(&b)), &kernels.upload(&c), &out]);
        assert_eq!(kernels.download::<f32>(&out), product(&a, &b, Some(&c), 16), "{name}");
    }
    let (a, b) = (small(128, 3), small(64, 7));
    let out = kernels.zeros::<f32>(128);
    kernels.run("product_tf32", (1, 1), 32, 0, &[&kernels.upload(&a), &kernels.upload(&b), &out]);
    assert_eq!(kernels.download::<f32>(&out), product(&a, &b, None, 8), "product_tf32");
}

fn product(a: &[f32], b: &[f32], c: Option<&[f32]>, depth: usize) -> Vec<f32> {
    let element = |i: usize| {
        let (row, column) = (i / 8, i % 8);
        c.map_or(0.0, |c| c[i]) + (0..depth).map(|k| a[row * depth + k] * b[column * depth + k]).sum::<f32>()
    };
    (0..128).map(element).collect()
}

#[test]
fn named_barriers_hold_their_warps() {
    let Some(kernels) = open() else { return };
    let values = random(128);
    let out = kernels.zeros::<u32>(256);
    kernels.run("named", (1, 1), 128, 512, &[&kernels.upload(&values), &out]);
    let near = (0..128).map(|i| values[i / 64 * 64 + (i + 1) % 64]);
    let far = (0..128).map(|i| values[(i + 64) % 128]);
    assert_eq!(kernels.download::<u32>(&out), near.chain(far).collect::<Vec<u32>>());
}

#[test]
fn loads_read_their_words() {
    let Some(kernels) = open() else { return };
    let values: Vec<u32> = random(128).iter().map(|v| v >> 8).collect();
    let out = kernels.zeros::<u32>(192);
    kernels.run("loads", (1, 1), 32, 0, &[&kernels.upload(&values), &out]);
    let sum = |words: usize, lane: usize| (0..words).map(|i| values[lane * words + i] * [1, 3, 5, 7][i]).sum::<u32>();
    let expected: Vec<u32> = [4, 4, 2, 2, 1, 1].iter().flat_map(|words| (0..32).map(|lane| sum(*words, lane))).collect();
    assert_eq!(kernels.download::<u32>(&out), expected);
}

#[test]
fn the_last_block_sees_all_parts() {
    let Some(kernels) = open() else { return };
    for blocks in [1_u32, 2, 7, 32] {
        let values: Vec<u32> = random(5000).iter().map(|v| v >> 16).collect();
        let (parts, total, done) = (kernels.zeros::<u32>(32), kernels.zeros::<u32>(1), kernels.zeros::<u32>(3));
        kernels.run("last_block", (blocks, 1), 64, 8, &[&kernels.upload(&values), &parts, &total, &done, &5000_u32]);
        assert_eq!(kernels.download::<u32>(&total), [values.iter().sum::<u32>()]);
        assert_eq!(kernels.download::<u32>(&done), [blocks, u32::MAX >> (32 - blocks), 1]);
    }
}

#[test]
fn a_flag_hands_over_what_was_written_before() {
    let Some(kernels) = open() else { return };
    let (flag, boxed, out) = (kernels.zeros::<u32>(1), kernels.zeros::<u32>(32), kernels.zeros::<u32>(32));
    kernels.run("handover", (1, 1), 64, 0, &[&flag, &boxed, &out]);
    assert_eq!(kernels.download::<u32>(&out), (0..32).rev().map(|lane| lane * 3 + 1).collect::<Vec<u32>>());
}

#[test]
fn a_trap_stops_the_kernel() {
    let Some(kernels) = open() else { return };
    let calm = kernels.zeros::<u32>(1);
    kernels.run("trapped", (1, 1), 32, 0, &[&calm]);
    assert_eq!(kernels.download::<u32>(&calm), [2]);
    if emulator::cuda() == Some(emulator::Cuda::Emulated) {
        // On a device this would break every test after it.
        let armed = kernels.upload(&[1_u32]);
        assert!(kernels.try_run("trapped", (1, 1), 32, 0, &[&armed]).is_err());
        assert!(emulator::fault().contains("kernel trapped"), "{}", emulator::fault());
    }
}

#[test]
fn a_tiny_model_scores_its_rows() {
    let Some(kernels) = Kernels::open(tiny_model::SOURCE, HEADERS) else { return };
    for rows in [1, 15, 16, 17, 163] {
        assert_eq!(tiny_model::check(&kernels, rows), Ok(()), "{rows} rows");
    }
}
