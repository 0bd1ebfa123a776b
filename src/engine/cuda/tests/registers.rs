//! What NVIDIA's compiler makes of families that no golden bundle has: every kernel keeps its values in registers, on every architecture.
//!
//! `tools/compile-kernels` runs each family in a process of its own, with `GAVEL_COMPILE_KERNELS=sm_80,...` and `GAVEL_NVRTC`; without the first,
//! these tests are skipped. The models are small where size decides nothing of a kernel's registers.

use std::sync::Arc;

use crate::engine::cpu::tests::attention;
use crate::engine::cpu::tests::builder::ModelBuilder;
use crate::engine::cpu::tests::kernels::array;
use crate::engine::cpu::tests::random::ensemble;
use crate::engine::cuda::compile::{Arch, CompileOptions, Nvrtc, Resources, headers};
use crate::engine::cuda::{Numbers, Program, Target};
use crate::model::*;

use super::axes::mixed;
use super::mixtures::mixture;
use super::products::{SHAPES, masked};
use super::recurrent::layer;
use super::trees::{stumps, with_nan};

/// The architectures that are asked for; none, with the reason printed, where the environment asks for none.
fn archs() -> Vec<Arch> {
    let Ok(names) = std::env::var("GAVEL_COMPILE_KERNELS") else {
        println!("skipped: GAVEL_COMPILE_KERNELS names no architectures");
        return vec![];
    };
    names.split(',').map(|name| name.parse().unwrap_or_else(|error| panic!("GAVEL_COMPILE_KERNELS: {error}"))).collect()
}

/// What a program's kernels take, or why nothing is known of one.
fn compile(nvrtc: &Nvrtc, program: &Program, arch: Arch) -> Vec<Resources> {
    let compiled = nvrtc.compile(&program.source, headers(), arch, &CompileOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    assert!(compiled.losses().is_empty(), "{arch}: {:#?}", compiled.losses());
    for launch in program.kernels() {
        assert!(compiled.kernels.iter().any(|kernel| kernel.function == launch.kernel), "nothing is known of {}", launch.kernel);
    }
    compiled.kernels
}

/// Prints what each kernel takes; those that do not do with their registers are faults.
fn judge(model: &Arc<Model>) {
    let archs = archs();
    if archs.is_empty() {
        return;
    }
    let nvrtc = Nvrtc::open(None).unwrap_or_else(|missing| panic!("{missing}"));
    let mut faults = Vec::new();
    println!("{:28} {:7} {:13} {:>9} {:>6} {:>7} {:>7}", "kernel", "arch", "numbers", "registers", "stack", "stored", "loaded");
    for arch in archs {
        let usual = |numbers| Target::new(arch.shared_bytes_max(), numbers);
        let by_warpgroups = Target { warpgroups: arch.capability() == (9, 0), ..usual(Numbers::Bf16) };
        let mut known: Vec<String> = Vec::new();
        for (name, target) in [("f32", usual(Numbers::F32)), ("bf16", usual(Numbers::Bf16)), ("by warpgroups", by_warpgroups)] {
            let program = Program::new(model, &target).expect("memory");
            // Without dense layers all numbers are the same, and without wide ones there is nothing for warpgroups.
            if known.contains(&program.source) || (target.warpgroups && !program.source.contains("WideHopper<")) {
                continue;
            }
            for kernel in compile(&nvrtc, &program, arch) {
                let Resources { function, registers, stack_bytes, spill_store_bytes, spill_load_bytes, .. } = &kernel;
                println!(
                    "{function:28} {arch:7} {name:13} {registers:>9} {stack_bytes:>6} {spill_store_bytes:>7} {spill_load_bytes:>7}",
                    arch = arch.to_string()
                );
                faults.extend(kernel.fault().map(|fault| format!("{function} on {arch} in {name} {fault}")));
            }
            known.push(program.source);
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// One that has too few registers is a fault: the gate can fail.
#[test]
fn a_kernel_without_registers_is_noticed() {
    let Some(arch) = archs().first().copied() else { return };
    let nvrtc = Nvrtc::open(None).unwrap_or_else(|missing| panic!("{missing}"));
    let mut program = Program::new(&mixtures_of_experts(), &Target::new(arch.shared_bytes_max(), Numbers::F32)).expect("memory");
    // Six blocks at once leave a thread 40 registers.
    let crowded = program.source.replace("KERNEL(THREADS)", "extern \"C\" __global__ void __launch_bounds__(THREADS, 6)");
    assert_ne!(crowded, program.source);
    program.source = crowded;
    let faults: Vec<String> = compile(&nvrtc, &program, arch).iter().filter_map(Resources::fault).collect();
    assert!(faults.iter().any(|fault| fault.contains("runs out of its 40 registers")), "{faults:?}");
}

/// Sources that are no model's: what a device is measured with, and what wrappers and the host layer are tested with.
#[test]
fn facts_and_tests() {
    let sources = [
        ("facts", include_str!("../../../../kernels/facts.cu")),
        ("selftest", include_str!("../../../../kernels/selftest.cu")),
        ("tiny_model", include_str!("../../../../kernels/tiny_model.cu")),
    ];
    let mut faults = Vec::new();
    for arch in archs() {
        let nvrtc = Nvrtc::open(None).unwrap_or_else(|missing| panic!("{missing}"));
        for (name, source) in sources {
            let compiled =
                nvrtc.compile(source, headers(), arch, &CompileOptions::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
            for kernel in &compiled.kernels {
                println!("{:28} {arch:7} {name:13} {:>9}", kernel.function, kernel.registers, arch = arch.to_string());
                faults.extend(kernel.fault().map(|fault| format!("{} of {name} on {arch} {fault}", kernel.function)));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn model(seed: u64, make: impl FnOnce(&mut ModelBuilder) -> Vec<ValueId>) -> Arc<Model> {
    let mut model = ModelBuilder::new(seed);
    let outputs: Vec<ValueId> = make(&mut model).into_iter().flat_map(|x| mixed(&mut model, x)).collect();
    model.finish(&outputs)
}

fn attention() -> Arc<Model> {
    model(1, |model| {
        let kinds = [(1, 1, true), (2, 5, false), (3, 0, false), (4, 4, false), (5, 2, true), (6, 3, false)];
        kinds.into_iter().map(|(shape, mask, causal)| masked(model, SHAPES[shape], mask, causal)).collect()
    })
}

#[test]
fn attentions() {
    judge(&attention());
}

#[test]
fn attentions_as_models_write_them() {
    for model in attention::samples().into_iter().take(1) {
        judge(&model);
    }
}

#[test]
fn recurrent_layers() {
    judge(&model(2, |model| {
        let kinds = [(21, GruKind::Gru, 1), (32, GruKind::Agru, 2), (64, GruKind::Augru, 4)];
        kinds.map(|(hidden, kind, flags)| layer(model, [6, 8, hidden], kind, flags)).to_vec()
    }));
}

#[test]
fn forests() {
    judge(&model(3, |model| {
        let x = array(model, &[6]);
        let x = with_nan(model, x);
        let trees = ensemble(model, x, 6);
        vec![model.op(Op::Trees(trees)), stumps(model, x, 300, 1), stumps(model, x, 70, 7)]
    }));
}

#[test]
fn windows() {
    judge(&model(4, |model| {
        let window = |model: &mut ModelBuilder, x: ValueId, kernel: &[usize], groups: usize, outputs: usize| {
            let shape = model.shape(x).to_vec();
            let channels = shape[shape.len() - kernel.len() - 1];
            let of = |value: usize| vec![value; kernel.len()];
            let window = Window { kernel: kernel.to_vec(), strides: of(1), dilations: of(1), pads: vec![(1, 1); kernel.len()] };
            let weight = model.tensor(&[&[outputs, channels / groups][..], kernel].concat(), 0.1);
            let pooled = [
                model.op(Op::MaxPool { x, window: window.clone() }),
                model.op(Op::AvgPool { x, window: window.clone(), count_include_pad: true }),
            ];
            [model.op(Op::Conv { x, weight, bias: None, window, groups }), pooled[0], pooled[1]]
        };
        let mut values = Vec::new();
        for (shape, kernel, groups, outputs) in
            [(&[4, 19][..], &[3][..], 2, 6), (&[2, 7, 9], &[3, 2], 1, 9), (&[3, 4, 5, 6], &[2, 3, 2], 1, 2), (&[2, 66], &[3], 1, 5)]
        {
            let feature = model.dense(Scope::Candidate, shape.iter().product::<usize>() as u32);
            let x = model.op(Op::Dense { features: vec![feature] });
            let x = model.op_as(Op::Reshape { x }, shape.to_vec(), DType::F32);
            values.extend(window(model, x, kernel, groups, outputs));
        }
        values
    }));
}

#[test]
fn picks() {
    judge(&model(5, |model| {
        let mut values = Vec::new();
        for (shape, axis) in [(&[40, 16][..], 0), (&[5, 16], 1), (&[300], 0)] {
            let x = array(model, shape);
            let feature = model.integer(Scope::Candidate, 5);
            let index = model.op(Op::Integer { feature });
            values.push(model.op(Op::Gather { x, index, axis }));
            let mut wanted = shape.to_vec();
            wanted[axis] = 2;
            let feature = model.integer(Scope::Candidate, wanted.iter().product::<usize>() as u32);
            let each = model.op(Op::Integer { feature });
            let each = model.op_as(Op::Reshape { x: each }, wanted, DType::I64);
            values.push(model.op(Op::TakeAlong { x, index: each, axis }));
            for k in [1, 4] {
                values.push(model.op(Op::ArgTopK { x, axis, k, largest: true }));
                values.push(model.op(Op::TopK { x, axis, k, largest: false }));
            }
        }
        values
    }));
}

#[test]
fn products() {
    judge(&model(6, |model| {
        let cases = [
            (&[5, 33][..], &[33][..], false, false),
            (&[8, 16], &[8, 16], false, true),
            (&[7, 9], &[7, 5], true, false),
            (&[2, 9, 17], &[3, 9], true, true),
            (&[27, 64], &[64, 27], false, false),
        ];
        let product = |(a, b, transpose_a, transpose_b): (&[usize], &[usize], bool, bool)| {
            let (a, b) = (array(model, a), array(model, b));
            model.op(Op::MatMul { a, b, transpose_a, transpose_b })
        };
        cases.map(product).to_vec()
    }));
}

fn mixtures_of_experts() -> Arc<Model> {
    model(7, |model| {
        let cases = [(5, 7, true, false), (9, 33, false, false), (33, 12, true, true), (64, 3, true, true), (3, 130, true, true)];
        cases.map(|(count, dim, softmax, side_by_side)| mixture(model, count, dim, softmax, side_by_side)).to_vec()
    })
}

#[test]
fn mixtures() {
    judge(&mixtures_of_experts());
}

#[test]
fn lines() {
    judge(&model(8, |model| {
        let mut values = Vec::new();
        for (shape, axis) in [(&[300][..], 0), (&[5, 16], 1), (&[40, 16], 0)] {
            let x = array(model, shape);
            values.push(model.op(Op::Softmax { x, axis }));
            values.push(model.op(Op::L2Norm { x, axis, eps: 1e-12 }));
            let sizes = shape[axis..].to_vec();
            let (weight, bias) = (model.tensor(&sizes, 1.0), model.tensor(&sizes, 1.0));
            values.push(model.op(Op::LayerNorm { x, axes: shape.len() - axis, weight: Some(weight), bias: Some(bias), eps: 0.1 }));
            values.push(model.op(Op::Reduce { function: Reduction::Max, x, axes: vec![axis], keep: false }));
            values.push(model.op(Op::ReduceSum { x, axes: vec![axis], keep: false }));
            values.push(model.op(Op::CumSum { x, axis, exclusive: true, reverse: true }));
        }
        values
    }));
}

/// Every format of tables.
#[test]
fn lookups() {
    judge(&model(9, |model| {
        let mut values = Vec::new();
        let pools = [(Pool::Sum, true), (Pool::Mean, false), (Pool::Max, false), (Pool::None, false)];
        for (at, (_, dtype)) in TableDType::ALL.into_iter().enumerate() {
            let (pool, weighted) = pools[at % 4];
            let table = model.table_of(dtype, 20, [16, 33, 128][at % 3]);
            let feature = model.sparse(Scope::Candidate, 0, 9, table, weighted);
            values.push(model.op(Op::Lookup { feature, table, pool }));
        }
        values
    }));
}

/// Kernels of their own for each layer: strips of columns whole and cut, inputs of any length; and a cross of low rank between them.
#[test]
fn wide_layers() {
    judge(&model(10, |model| {
        let x = array(model, &[1100]);
        let x = model.mlp(x, &[1024, 520]);
        let low = model.linear(x, 512);
        let high = model.linear(low, 520);
        let crossed = model.op(Op::Mul { a: Operand::Value(x), b: Operand::Value(high) });
        let x = model.op(Op::Add { a: Operand::Value(crossed), b: Operand::Value(x) });
        vec![model.mlp(x, &[256, 64])]
    }));
}
