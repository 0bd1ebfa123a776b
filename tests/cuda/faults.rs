//! Errors of the driver, one at every call: told with their cause, nothing leaks, nothing panics, nothing hangs.

use std::sync::Arc;

use gavel::engine::cuda::compile::{Arch, CompileOptions, CubinFolder, Key, headers};
use gavel::engine::cuda::driver::{DeviceMemory, open};
use gavel::engine::cuda::{Device, DeviceOptions, load};
use gavel::engine::{CudaEngine, Engine, EngineError, Prepared, Step};
use gavel::units::{Clock, Instant};

use crate::emulator;
use crate::rig::{Ids, LIMITS, Rig, code, cubins_in, engine, fill, scores, wait};

/// Copies of large buckets, so that every kind of call is made.
const OPTIONS: DeviceOptions = DeviceOptions { ordinal: 0, in_flight_per_shard: 2, in_flight_per_device: 4, copy_from_bytes: 1 << 10 };

/// What opening calls, loading calls, attaching calls; and a word of the error.
const OPENING: [&str; 3] = ["cuDeviceGetCount", "cuDeviceTotalMem_v2", "cuDevicePrimaryCtxRetain"];
const LOADING: [&str; 7] = [
    "cuMemGetInfo_v2",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuFuncGetAttribute",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuMemAlloc_v2",
    "cuMemcpyHtoD_v2",
];
const ATTACHING: [&str; 11] = [
    "cuMemHostRegister_v2",
    "cuMemHostGetDevicePointer_v2",
    "cuMemAlloc_v2",
    "cuMemsetD8_v2",
    "cuStreamCreate",
    "cuStreamBeginCapture_v2",
    "cuLaunchKernel",
    "cuMemcpyHtoDAsync_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphUpload",
];

/// CUDA_ERROR_OUT_OF_MEMORY, which leaves the device as it was.
const OUT_OF_MEMORY: i32 = 2;
/// CUDA_ERROR_ILLEGAL_ADDRESS, which does not.
const ILLEGAL_ADDRESS: i32 = 700;

#[test]
fn opening_says_why_not() {
    let Some(_rig) = Rig::emulated(OPTIONS) else { return };
    for call in OPENING {
        emulator::fail(&format!("{call}:1:{OUT_OF_MEMORY}"));
        let error = Device::open(OPTIONS).expect_err(call).to_string();
        assert!(error.ends_with(": the driver answers CUDA_ERROR_OUT_OF_MEMORY"), "{call}: {error}");
    }
    let error = Device::open(DeviceOptions { ordinal: 3, ..OPTIONS }).expect_err("no such GPU").to_string();
    assert_eq!(error, "there is no GPU number 3: the driver shows 1");
}

/// Codes that are newer than this gavel, or no codes at all: told as numbers, wherever they come from.
#[test]
fn codes_that_nobody_knows_are_told() {
    for odd in [36, 227, 919, 123_456, i32::MAX, i32::MIN, -1] {
        let Some(rig) = Rig::emulated(OPTIONS) else { return };
        let image = code(&rig.device, Ids::Two);
        let answer = format!(": the driver answers code {odd}");
        emulator::fail(&format!("cuDeviceGetCount:1:{odd}"));
        let error = Device::open(OPTIONS).expect_err("refused").to_string();
        assert_eq!(error, format!("counting GPUs{answer}"));
        for call in LOADING {
            emulator::fail(&format!("{call}:1:{odd}"));
            let error = rig.load_code(Ids::Two, &image).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(&answer), "{call}: {error}");
        }
        emulator::fail("");
        let prepared = rig.load_code(Ids::Two, &image).unwrap();
        let (mut engine, slots) = engine(&prepared, 1);
        fill(engine.slot(slots[0]), Ids::Two, &[20], 1);
        emulator::fail(&format!("kernel:scores:1:{odd}"));
        engine.start(slots[0]);
        assert_eq!(wait(&mut engine), Step::Failed(slots[0]));
        let fault = rig.device.fault().expect("a fault");
        assert!(fault.ends_with(&answer), "{fault}");
    }
    let Some(_rig) = Rig::emulated(OPTIONS) else { return };
    emulator::fail("cuDeviceGetCount:1:34");
    let error = Device::open(OPTIONS).expect_err("a stub").to_string();
    assert!(error.contains("unusable (a stub"), "{error}");
}

#[test]
fn loading_leaks_nothing() {
    let Some(rig) = Rig::emulated(OPTIONS) else { return };
    let code = code(&rig.device, Ids::Two);
    let before = emulator::held();
    for call in LOADING {
        for nth in 1.. {
            emulator::fail(&format!("{call}:{nth}:{OUT_OF_MEMORY}"));
            match rig.load_code(Ids::Two, &code) {
                Ok(_) => break,
                // Of tables.
                Err(EngineError::DeviceTooSmall { .. }) if call == "cuMemAlloc_v2" || call == "cuMemcpyHtoD_v2" => {}
                Err(error) => told(call, &error),
            }
            assert_eq!(emulator::held(), before, "{call}");
            assert!(nth < 50, "{call} is called a few times");
        }
        emulator::fail("");
    }
    drop(rig.load_code(Ids::Two, &code).unwrap());
    assert_eq!(emulator::held(), before);
}

#[test]
fn attaching_leaks_nothing_and_goes_on() {
    let Some(rig) = Rig::emulated(OPTIONS) else { return };
    let prepared = rig.load(Ids::Two).unwrap();
    let (mut engine, slots) = engine(&prepared, 1);
    let before = emulator::held();
    for call in ATTACHING {
        let mut failures = 0;
        for nth in [1, 2, 3, 5, 8, 13, 21] {
            emulator::fail(&format!("{call}:{nth}:{OUT_OF_MEMORY}"));
            match engine.attach(&prepared, 2, LIMITS) {
                Ok(made) => engine.detach(&made),
                Err(error) => {
                    told(call, &error);
                    failures += 1;
                }
            }
            emulator::fail("");
            assert_eq!(emulator::held(), before, "{call}");
        }
        assert!(failures > 0, "{call} is called");
    }
    let expected = fill(engine.slot(slots[0]), Ids::Two, &[50], 1);
    engine.start(slots[0]);
    assert_eq!((wait(&mut engine), scores(engine.slot(slots[0]))), (Step::Done(slots[0]), expected));
    drop(engine);
    drop(prepared);
    assert_eq!(rig.device.fault(), None);
}

/// The device, what was being made, what the driver was asked, its answer, what to do.
fn told(call: &str, error: &EngineError) {
    let text = error.to_string();
    assert!(text.starts_with("cuda engine on GPU 0 (gavel emulator): "), "{call}: {text}");
    assert!(text.contains(": the driver answers CUDA_ERROR_OUT_OF_MEMORY; lower limits.batch_rows"), "{call}: {text}");
}

#[test]
fn a_launch_that_fails_loses_the_device() {
    let Some(rig) = Rig::emulated(OPTIONS) else { return };
    let prepared = rig.load(Ids::Two).unwrap();
    let (mut engine, slots) = engine(&prepared, 2);
    for slot in &slots {
        fill(engine.slot(*slot), Ids::Two, &[20], 1);
    }
    emulator::fail(&format!("cuGraphLaunch:1:{ILLEGAL_ADDRESS}"));
    engine.start(slots[0]);
    engine.start(slots[1]);
    assert_eq!(wait(&mut engine), Step::Failed(slots[0]));
    assert_eq!(wait(&mut engine), Step::Failed(slots[1]), "fast, without a launch");
    assert_eq!(
        rig.device.fault(),
        Some("GPU 0 (gavel emulator) is lost to this process: launching a graph: the driver answers CUDA_ERROR_ILLEGAL_ADDRESS")
    );
    assert_eq!(engine.in_flight(), 0);
}

#[test]
fn a_kernel_that_faults_fails_every_batch_under_way() {
    let Some(rig) = Rig::emulated(OPTIONS) else { return };
    let prepared = rig.load(Ids::Two).unwrap();
    let (mut engine, slots) = engine(&prepared, 3);
    let (mut other, others) = crate::rig::engine(&prepared, 1);
    rig.shut();
    for slot in &slots {
        fill(engine.slot(*slot), Ids::Two, &[20], 1);
    }
    fill(other.slot(others[0]), Ids::Two, &[30], 1);
    emulator::fail(&format!("kernel:scores:1:{ILLEGAL_ADDRESS}"));
    engine.start(slots[0]);
    engine.start(slots[1]);
    other.start(others[0]);
    rig.open();
    // Which of them the device takes first is its own affair; one at most was done before the fault.
    let steps = [wait(&mut engine), wait(&mut engine), wait(&mut other)];
    assert!(steps.iter().filter(|step| matches!(step, Step::Failed(_))).count() >= 2, "{steps:?}");
    let fault = rig.device.fault().expect("a fault");
    assert!(fault.ends_with("running kernels: the driver answers CUDA_ERROR_ILLEGAL_ADDRESS"), "{fault}");

    // From now on everything fails at once, in every engine; and nothing hangs when it goes.
    engine.start(slots[2]);
    assert_eq!(wait(&mut engine), Step::Failed(slots[2]));
    assert!(engine.attach(&prepared, 1, LIMITS).is_err());
    drop((engine, other, prepared));
}

#[test]
fn kernels_that_never_say_so_are_found_out() {
    let Some(rig) = Rig::emulated(OPTIONS) else { return };
    let mut program = crate::rig::program(Ids::Two, rig.gate);
    for variant in &mut program.variants {
        variant.launches.last_mut().unwrap().kernel = "silent".into();
    }
    let prepared = rig.load_program(program).unwrap();
    let (mut engine, slots) = engine(&prepared, 1);
    fill(engine.slot(slots[0]), Ids::Two, &[20], 1);
    engine.start(slots[0]);
    assert_eq!(wait(&mut engine), Step::Failed(slots[0]));
    let fault = rig.device.fault().expect("a fault");
    assert!(fault.ends_with("kernels ended without saying that scores are there"), "{fault}");
}

#[test]
fn an_engine_may_go_while_batches_run() {
    let Some(rig) = Rig::emulated(DeviceOptions { in_flight_per_device: 1, ..OPTIONS }) else { return };
    let prepared = rig.load(Ids::Two).unwrap();
    let before = emulator::held();
    let (mut first, slots) = engine(&prepared, 2);
    for slot in &slots {
        fill(first.slot(*slot), Ids::Two, &[20], 1);
    }
    first.start(slots[0]);
    first.start(slots[1]);
    drop(first);
    assert_eq!(emulator::held(), before);
    // Its permit came back.
    let (mut engine, slots) = engine(&prepared, 1);
    assert_eq!(engine.capacity(), 2);
    fill(engine.slot(slots[0]), Ids::Two, &[20], 1);
    engine.start(slots[0]);
    assert_eq!(wait(&mut engine), Step::Done(slots[0]));
}

#[test]
fn a_model_for_another_engine_is_a_mistake() {
    let mut engine = CudaEngine::new();
    assert_eq!((engine.in_flight(), engine.capacity(), engine.may_sleep()), (0, 1, true));
    assert_eq!(engine.step(&Clock::start(), Instant::NEVER), Step::Idle);
    let model = crate::support::models(|name| name == "wdl").remove(0);
    let prepared = gavel::engine::prepare(gavel::engine::EngineKind::Null, &model).unwrap();
    assert!(matches!(prepared, Prepared::Null(_)));
    let attached = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.attach(&prepared, 1, LIMITS).is_ok()));
    assert!(attached.is_err());
}

/// Code in the cache that the driver refuses is named in the log and made again, and what is made takes its place.
#[test]
fn refused_code_is_compiled_again() {
    let Some(rig) = Rig::new(OPTIONS) else { return };
    let folder = tempfile::tempdir().unwrap();
    let cubins = cubins_in(folder.path());
    let (major, minor) = rig.device.gpu().capability;
    let (arch, options) = (Arch::of_device(major, minor).unwrap(), CompileOptions::default());
    let program = || rig.program(Ids::Two);
    let key = Key::new(&program().source, headers(), arch, &options);
    let elsewhere = if (major, minor) == (9, 0) { "sm_80" } else { "sm_90a" }.parse().unwrap();
    let foreign = cubins.compile(&program(), elsewhere, &options).unwrap().code;
    CubinFolder::new(folder.path()).store(key, &foreign, "0.0", &[]).unwrap();
    assert_eq!(cubins.find_or_compile(&program(), arch, &options).unwrap().code, foreign);
    let prepared = Prepared::Cuda(Arc::new(load(&rig.device, program(), &cubins).unwrap()));
    let (mut engine, slots) = engine(&prepared, 1);
    let expected = fill(engine.slot(slots[0]), Ids::Two, &[5], 3);
    engine.start(slots[0]);
    assert_eq!(wait(&mut engine), Step::Done(slots[0]));
    assert_eq!(scores(engine.slot(slots[0])), expected);
    assert_ne!(cubins.find_or_compile(&program(), arch, &options).unwrap().code, foreign);
}

/// The driver would read behind its end.
#[test]
fn what_is_no_whole_image_is_not_loaded() {
    let Some(rig) = Rig::new(OPTIONS) else { return };
    let code = code(&rig.device, Ids::Two);
    for cut in [0, 63, 64, code.len() / 2, code.len() - 1] {
        let error = rig.load_code(Ids::Two, &code[..cut]).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with("cuda engine: the compiled kernels of deepfm_scoped are "), "{error}");
        assert!(error.ends_with("; compile them again with `gavel compile`"), "{error}");
    }
}

/// However large the tables are: code is looked at first.
#[test]
fn code_that_is_refused_uploads_nothing() {
    let Some(rig) = Rig::emulated(OPTIONS) else { return };
    let elsewhere = cubins_in(tempfile::tempdir().unwrap().path()).compile(
        &rig.program(Ids::Two),
        "sm_90a".parse().unwrap(),
        &CompileOptions::default(),
    );
    let (_, context) = open(0).unwrap();
    for (code, said) in [(elsewhere.unwrap().code, "kernels"), (vec![0; 64], "the compiled kernels of deepfm_scoped are")] {
        emulator::fail(&format!("cuMemAlloc_v2:1:{OUT_OF_MEMORY}"));
        let error = rig.load_code(Ids::Two, &code).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(said), "{error}");
        assert!(DeviceMemory::new(&context, 16).is_err(), "nobody asked for memory before");
    }
}

/// Said before anything is uploaded, and with what takes how much.
#[test]
fn what_does_not_fit_is_told() {
    let Some(rig) = Rig::emulated(OPTIONS) else { return };
    let code = code(&rig.device, Ids::Two);
    let (_, context) = open(0).unwrap();
    let load = || rig.load_code(Ids::Two, &code).err().map(|error| error.to_string()).unwrap_or_default();
    let program = rig.program(Ids::Two);
    let table = program.model.weights.table(program.tables[0].id);
    let bytes = program.tables[0].bytes(table);
    let needed = bytes + program.weights.len();
    let others = DeviceMemory::new(&context, context.free_bytes().unwrap() - needed + 1).unwrap();
    emulator::fail(&format!("cuMemAlloc_v2:1:{OUT_OF_MEMORY}"));
    let expected = |free: usize| {
        format!(
            "cuda engine on GPU 0 (gavel emulator): deepfm_scoped takes {needed} bytes of device memory ({bytes} in 1 tables, the largest {} with {bytes}; \
             16 of weights), and {free} are free; store tables in fewer bytes (int8 or int4 rows, or f16), free the memory that others hold (a reload \
             holds both versions for a while), take a GPU with more memory, or serve the model with --engine cpu",
            table.name
        )
    };
    assert_eq!(load(), expected(needed - 1));
    assert!(DeviceMemory::new(&context, 16).is_err(), "nobody asked for memory before");
    drop(others);
    // Enough, but not in one piece.
    let free = context.free_bytes().unwrap();
    emulator::fail(&format!("cuMemAlloc_v2:1:{OUT_OF_MEMORY}"));
    assert_eq!(load(), expected(free));
    assert_eq!(load(), "");
}
