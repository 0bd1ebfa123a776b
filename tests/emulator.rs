//! The emulator's driver and compiler, through cudarc: what the engine's tests stand on.
#![allow(unsafe_code, clippy::unwrap_used)]

#[path = "support/emulator.rs"]
mod emulator;

use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::sys::{CUdeviceptr, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaModule, result, sys};
use cudarc::nvrtc::Ptx;
use emulator::Cuda;

const RT: (&str, &str) = ("rt.cuh", include_str!("../kernels/rt.cuh"));

const SOURCE: &str = r#"
#include "rt.cuh"

struct Work {
    const float* from;
    float* to;
    uint32_t count;
    uint32_t* done;
};

// to[i] = from[i] + the sum over i's block of 64.
KERNEL(64) add_sums(Work work) {
    DYN_SMEM(memory);
    float* values = (float*)memory;
    for (uint32_t first = block_x() * 64; first < work.count; first += blocks_x() * 64) {
        uint32_t i = first + thread_x();
        cp_async4(values + thread_x(), work.from + (i < work.count ? i : 0), i < work.count ? 4 : 0);
        cp_async_commit();
        cp_async_wait<0>();
        sync_block();
        float sum = 0;
        for (uint32_t j = 0; j < 64; j++) {
            sum += values[j];
        }
        if (i < work.count) {
            work.to[i] = values[thread_x()] + sum;
        }
        sync_block();
    }
    if (block_x() == 0 && thread_x() == 0) {
        st_release_sys(work.done, 7);
    }
}

KERNEL(64) stuck(Work work) {
    if (warp() == 0) {
        sync_block();
    }
}

KERNEL(32) wild(Work work) {
    work.to[thread_x()] = *(volatile float*)16;
}

namespace inner {
KERNEL(32) several(uint32_t* to, uint32_t a, float b, uint64_t c) {
    to[thread_x()] = a + (uint32_t)b + (uint32_t)(c >> 32);
}
} // namespace inner
"#;

#[repr(C)]
#[derive(Clone, Copy)]
struct Work {
    from: CUdeviceptr,
    to: CUdeviceptr,
    count: u32,
    done: CUdeviceptr,
}

/// Tests of one process share the device, and some break it.
fn device() -> Option<(MutexGuard<'static, ()>, Arc<CudaContext>, Arc<CudaModule>)> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if emulator::cuda()? != Cuda::Emulated {
        println!("skipped: these are the emulator's own tests");
        return None;
    }
    emulator::reset();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: no slice of cudarc's is made.
    unsafe { context.disable_event_tracking() };
    let image = emulator::compile(SOURCE, &[RT], "sm_80").unwrap();
    let module = context.load_module(Ptx::from_binary(image)).unwrap();
    Some((turn, context, module))
}

fn upload(values: &[f32]) -> CUdeviceptr {
    // SAFETY: fresh memory of that size.
    unsafe {
        let address = result::malloc_sync(size_of_val(values)).unwrap();
        result::memcpy_htod_sync(address, values).unwrap();
        address
    }
}

fn launch(
    module: &Arc<CudaModule>,
    stream: &cudarc::driver::CudaStream,
    name: &str,
    threads: u32,
    shared: u32,
    work: &Work,
) -> Result<(), CUresult> {
    let function = module.load_function(name).unwrap();
    let mut arguments = [std::ptr::from_ref(work).cast::<c_void>().cast_mut()];
    // SAFETY: the one argument is of the kernel's type.
    unsafe { result::launch_kernel(function.cu_function(), (2, 1, 1), (threads, 1, 1), shared, stream.cu_stream(), &mut arguments) }
        .map_err(|error| error.0)
}

fn expected(values: &[f32]) -> Vec<f32> {
    values.chunks(64).flat_map(|block| block.iter().map(|value| value + block.iter().sum::<f32>())).collect()
}

fn small_numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 7 % 31) as f32).collect()
}

#[test]
fn kernels_run_and_graphs_replay() {
    let Some((_turn, context, module)) = device() else { return };
    let stream = context.new_stream().unwrap();
    let values = small_numbers(333);
    let mut out = vec![0.0_f32; values.len()];
    let mut done = vec![0_u32; 1024];
    // SAFETY: the memory outlives its registration; kernels get pointers to memory of the sizes that they use.
    unsafe {
        sys::cuMemHostRegister_v2(done.as_mut_ptr().cast(), 4096, 0).result().unwrap();
        let mut done_address = 0;
        sys::cuMemHostGetDevicePointer_v2(&mut done_address, done.as_mut_ptr().cast(), 0).result().unwrap();
        let work = Work { from: upload(&values), to: upload(&out), count: values.len() as u32, done: done_address };

        launch(&module, &stream, "add_sums", 64, 256, &work).unwrap();
        while std::ptr::read_volatile(done.as_ptr()) != 7 {
            std::hint::spin_loop(); // completes without any call of the driver
        }
        stream.synchronize().unwrap();
        result::memcpy_dtoh_sync(&mut out, work.to).unwrap();
        assert_eq!(out, expected(&values));

        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        result::memset_d8_async(work.to, 0, size_of_val(&values[..]), stream.cu_stream()).unwrap();
        launch(&module, &stream, "add_sums", 64, 256, &work).unwrap();
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
        graph.upload().unwrap();
        for round in 0..3 {
            let values: Vec<f32> = values.iter().map(|value| value + round as f32).collect();
            result::memcpy_htod_sync(work.from, &values).unwrap();
            graph.launch().unwrap();
            stream.synchronize().unwrap();
            result::memcpy_dtoh_sync(&mut out, work.to).unwrap();
            assert_eq!(out, expected(&values));
        }
        sys::cuMemHostUnregister(done.as_mut_ptr().cast()).result().unwrap();
    }
}

#[test]
fn kernels_take_several_arguments() {
    let Some((_turn, context, module)) = device() else { return };
    let stream = context.new_stream().unwrap();
    let to = upload(&[0.0; 32]);
    let (a, b, c) = (3_u32, 4.0_f32, 5_u64 << 32);
    let mut arguments = [
        std::ptr::from_ref(&to).cast::<c_void>().cast_mut(),
        std::ptr::from_ref(&a).cast::<c_void>().cast_mut(),
        std::ptr::from_ref(&b).cast::<c_void>().cast_mut(),
        std::ptr::from_ref(&c).cast::<c_void>().cast_mut(),
    ];
    let function = module.load_function("several").unwrap();
    let mut out = [0_u32; 32];
    // SAFETY: arguments of the kernel's types.
    unsafe {
        result::launch_kernel(function.cu_function(), (1, 1, 1), (32, 1, 1), 0, stream.cu_stream(), &mut arguments).unwrap();
        stream.synchronize().unwrap();
        result::memcpy_dtoh_sync(&mut out, to).unwrap();
    }
    assert_eq!(out, [12; 32]);
}

#[test]
fn kernels_that_do_wrong_are_named() {
    let cases = [
        ("stuck", 64, CUresult::CUDA_ERROR_LAUNCH_FAILED, "kernel stuck, block (", "divergent barrier"),
        ("wild", 32, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "kernel wild, block (", "illegal address"),
    ];
    for (name, threads, code, place, why) in cases {
        let Some((_turn, context, module)) = device() else { return };
        let stream = context.new_stream().unwrap();
        let work = Work { from: upload(&[0.0; 32]), to: upload(&[0.0; 32]), count: 0, done: 0 };
        launch(&module, &stream, name, threads, 0, &work).unwrap();
        assert_eq!(stream.synchronize().map_err(|error| error.0), Err(code));
        let fault = emulator::fault();
        assert!(fault.contains(place) && fault.contains(why), "{fault}");
        assert_eq!(stream.synchronize().map_err(|error| error.0), Err(code), "such an error stays");
        // SAFETY: no memory is given out.
        assert_eq!(unsafe { result::malloc_sync(16) }.map_err(|error| error.0), Err(code), "for every call");
        emulator::reset();
    }
}

#[test]
fn planned_errors_come_at_their_call() {
    let Some((_turn, context, module)) = device() else { return };
    let stream = context.new_stream().unwrap();
    let work = Work { from: upload(&[0.0; 32]), to: upload(&[0.0; 32]), count: 0, done: upload(&[0.0]) };
    emulator::fail("cuMemAlloc_v2:2:2,kernel:add_sums:2:719");
    // SAFETY: the memory is not used.
    let codes: Vec<_> = (0..3).map(|_| unsafe { result::malloc_sync(16) }.map_err(|error| error.0).err()).collect();
    assert_eq!(codes, [None, Some(CUresult::CUDA_ERROR_OUT_OF_MEMORY), None]);
    for expected in [None, Some(CUresult::CUDA_ERROR_LAUNCH_FAILED)] {
        launch(&module, &stream, "add_sums", 64, 256, &work).unwrap();
        assert_eq!(stream.synchronize().map_err(|error| error.0).err(), expected);
    }
    emulator::reset();
}

#[test]
fn the_compiler_says_what_is_wrong() {
    if emulator::cuda() != Some(Cuda::Emulated) {
        return;
    }
    let log = emulator::compile("#include \"rt.cuh\"\nKERNEL(32) broken(uint32_t* to) { *to = nonsense; }", &[RT], "sm_80").unwrap_err();
    assert!(log.contains("kernels.cu:2") && log.contains("nonsense"), "{log}");
}

#[test]
fn launches_over_the_limits_are_refused() {
    let Some((_turn, context, module)) = device() else { return };
    let stream = context.new_stream().unwrap();
    let work = Work { from: 0, to: 0, count: 0, done: upload(&[0.0]) };
    let refused = Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(&module, &stream, "add_sums", 128, 256, &work), refused, "more threads than the kernel is made for");
    assert_eq!(launch(&module, &stream, "add_sums", 64, 48 * 1024 + 1, &work), refused, "the attribute was not raised");
    stream.synchronize().unwrap();
}
