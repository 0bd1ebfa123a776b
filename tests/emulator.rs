//! The emulator's driver and compiler, through cudarc: what the engine's tests stand on.
#![allow(unsafe_code, clippy::unwrap_used)]

#[path = "support/emulator.rs"]
mod emulator;

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

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
    let image = emulator::compile(SOURCE, &[RT], &architecture(&context)).unwrap();
    let module = context.load_module(Ptx::from_binary(image)).unwrap();
    Some((turn, context, module))
}

fn architecture(context: &CudaContext) -> String {
    let (major, minor) = context.compute_capability().unwrap();
    format!("sm_{major}{minor}")
}

fn upload(values: &[f32]) -> CUdeviceptr {
    // SAFETY: fresh memory of that size.
    unsafe {
        let address = result::malloc_sync(size_of_val(values)).unwrap();
        copy_in(address, values);
        address
    }
}

/// # Safety
/// - there is memory for so many values.
unsafe fn copy_in(address: CUdeviceptr, values: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { result::memcpy_htod_sync(address, values) }.unwrap();
    settle();
}

/// Waits for what was asked of no stream.
fn settle() {
    // SAFETY: null is the default stream.
    unsafe { result::stream::synchronize(std::ptr::null_mut()) }.unwrap();
}

/// # Safety
/// - there are so many values.
unsafe fn copy_out(address: CUdeviceptr, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    // SAFETY: the caller's promise.
    unsafe { result::memcpy_dtoh_sync(&mut values, address) }.unwrap();
    values
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
            copy_in(work.from, &values);
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

#[test]
fn images_for_other_devices_are_refused() {
    let Some((_turn, context, _)) = device() else { return };
    let elsewhere = if context.compute_capability().unwrap().0 == 9 { "sm_80" } else { "sm_90a" };
    let image = emulator::compile(SOURCE, &[RT], elsewhere).unwrap();
    let load = |image: Vec<u8>| context.load_module(Ptx::from_binary(image)).map(drop).map_err(|error| error.0);
    assert_eq!(load(image), Err(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU));
    assert_eq!(load(vec![7; 100]), Err(CUresult::CUDA_ERROR_INVALID_IMAGE));
}

#[test]
fn streams_wait_for_events() {
    let Some((_turn, context, _)) = device() else { return };
    extern "C" fn count(data: *mut c_void) {
        std::thread::sleep(Duration::from_millis(2));
        // SAFETY: the counter of the test, which outlives the streams.
        unsafe { &*data.cast::<AtomicU32>() }.fetch_add(1, Ordering::SeqCst);
    }
    extern "C" fn twice(data: *mut c_void) {
        // SAFETY: as above.
        let counter = unsafe { &*data.cast::<AtomicU32>() };
        counter.store(counter.load(Ordering::SeqCst) * 10, Ordering::SeqCst);
    }
    let counter = AtomicU32::new(0);
    let data = std::ptr::from_ref(&counter).cast::<c_void>().cast_mut();
    let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let timing = sys::CUevent_flags::CU_EVENT_DEFAULT;
    let (began, ended) = (context.new_event(Some(timing)).unwrap(), context.new_event(Some(timing)).unwrap());
    for round in 0..10 {
        counter.store(round, Ordering::SeqCst);
        began.record(&first).unwrap();
        // SAFETY: functions of the right type; the counter outlives the streams.
        unsafe {
            result::stream::launch_host_function(first.cu_stream(), count, data).unwrap();
            ended.record(&first).unwrap();
            second.wait(&ended).unwrap();
            result::stream::launch_host_function(second.cu_stream(), twice, data).unwrap();
        }
        second.synchronize().unwrap();
        assert_eq!(counter.load(Ordering::SeqCst), (round + 1) * 10);
        let elapsed = began.elapsed_ms(&ended).unwrap();
        assert!((1.9..10_000.0).contains(&elapsed), "{elapsed} ms");
    }
}

#[test]
fn host_memory_is_registered_once() {
    let Some((_turn, _context, _)) = device() else { return };
    let mut memory = vec![0_u8; 8192];
    let (start, middle) = (memory.as_mut_ptr().cast::<c_void>(), memory[4096..].as_mut_ptr().cast::<c_void>());
    let mut address = 0;
    // SAFETY: the memory outlives its registration.
    unsafe {
        assert_eq!(sys::cuMemHostGetDevicePointer_v2(&mut address, start, 0), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemHostRegister_v2(start, 8192, 0), CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuMemHostRegister_v2(middle, 10, 0), CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
        assert_eq!(sys::cuMemHostGetDevicePointer_v2(&mut address, middle, 0), CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuMemHostUnregister(middle), CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
        assert_eq!(sys::cuMemHostUnregister(start), CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuMemHostGetDevicePointer_v2(&mut address, start, 0), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
}

#[test]
fn memory_is_finite_and_poisoned() {
    let Some((_turn, context, _)) = device() else { return };
    let (free, total) = context.mem_get_info().unwrap();
    // SAFETY: memory is read within its size.
    unsafe {
        assert_eq!(result::malloc_sync(free + 1).map_err(|error| error.0), Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
        let address = result::malloc_sync(4096).unwrap();
        assert_eq!(context.mem_get_info().unwrap(), (free - 4096, total));
        let mut fresh = [0.0_f32; 1024];
        result::memcpy_dtoh_sync(&mut fresh, address).unwrap();
        assert!(fresh.iter().all(|value| value.is_nan()));
        let mut beyond = [0.0_f32; 1025];
        assert_eq!(result::memcpy_dtoh_sync(&mut beyond, address).map_err(|error| error.0), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
        result::free_sync(address).unwrap();
        assert_eq!(result::free_sync(address).map_err(|error| error.0), Err(CUresult::CUDA_ERROR_INVALID_VALUE), "twice");
    }
    assert_eq!(context.mem_get_info().unwrap(), (free, total));
}

#[test]
fn threads_need_a_context() {
    let Some((_turn, context, _)) = device() else { return };
    let allocate = || {
        // SAFETY: the memory is not used.
        unsafe { result::malloc_sync(16) }.map_err(|error| error.0)
    };
    let unbound = std::thread::spawn(allocate).join().unwrap();
    assert_eq!(unbound, Err(CUresult::CUDA_ERROR_INVALID_CONTEXT));
    let bound = std::thread::spawn(move || context.bind_to_thread().map_err(|error| error.0).and_then(|()| allocate())).join().unwrap();
    assert!(bound.is_ok());
}

/// What is asked of no stream may be done late, and streams made as "non-blocking" do not wait for it.
#[test]
fn calls_without_a_stream_are_late() {
    let Some((_turn, context, module)) = device() else { return };
    let stream = context.new_stream().unwrap();
    let done = upload(&[0.0]);
    let read = |from, to| {
        launch(&module, &stream, "add_sums", 64, 256, &Work { from, to, count: 64, done }).unwrap();
        stream.synchronize().unwrap();
        // SAFETY: memory of this size.
        unsafe { copy_out(to, 64) }
    };
    // SAFETY: memory of this size everywhere.
    unsafe {
        let (from, to) = (upload(&[1.0; 64]), upload(&[0.0; 64]));
        type Change<'c> = &'c dyn Fn();
        let source = upload(&[3.0; 64]);
        let copied: Change = &|| result::memcpy_htod_sync(from, &[2.0_f32; 64]).unwrap();
        let filled: Change = &|| sys::cuMemsetD32_v2(from, 2.0_f32.to_bits(), 64).result().unwrap();
        let moved: Change = &|| result::memcpy_dtod_sync(from, source, 256).unwrap();
        for (change, expected) in [(copied, 2.0_f32), (filled, 2.0), (moved, 3.0)] {
            copy_in(from, &[1.0; 64]);
            change();
            assert_eq!(read(from, to), [65.0; 64], "the stream did not wait");
            settle();
            assert_eq!(read(from, to), [65.0 * expected; 64]);
        }
        // From pinned memory it is done when the call returns.
        let mut pinned = vec![4.0_f32; 1024];
        sys::cuMemHostRegister_v2(pinned.as_mut_ptr().cast(), 4096, 0).result().unwrap();
        result::memcpy_htod_sync(from, &pinned[..64]).unwrap();
        assert_eq!(read(from, to), [65.0 * 4.0; 64]);
        sys::cuMemHostUnregister(pinned.as_mut_ptr().cast()).result().unwrap();
    }
}

#[test]
fn other_streams_and_the_default_stream_wait_for_each_other() {
    let Some((_turn, _context, _)) = device() else { return };
    let (from, to) = (upload(&[1.0; 64]), upload(&[0.0; 64]));
    // SAFETY: memory of this size; the stream is destroyed once.
    unsafe {
        let stream = result::stream::create(result::stream::StreamKind::Default).unwrap();
        sys::cuMemsetD32_v2(from, 2.0_f32.to_bits(), 64).result().unwrap();
        result::memcpy_dtod_async(to, from, 256, stream).unwrap();
        result::stream::synchronize(stream).unwrap();
        assert_eq!(copy_out(to, 64), [2.0; 64]);
        result::stream::destroy(stream).unwrap();
    }
}

#[test]
fn a_capture_forbids_what_waits_for_the_device() {
    let Some((_turn, context, _)) = device() else { return };
    let address = upload(&[0.0; 64]);
    let stream = context.new_stream().unwrap();
    type Call<'c> = &'c (dyn Fn() -> CUresult + Sync);
    // SAFETY: memory of this size; what is refused does nothing.
    let calls: [(&str, Call); 4] = unsafe {
        [
            ("fill", &|| sys::cuMemsetD8_v2(address, 0, 256)),
            ("copy", &|| sys::cuMemcpyHtoD_v2(address, [0_u8; 4].as_ptr().cast(), 4)),
            ("take", &|| sys::cuMemAlloc_v2(&mut 0, 16)),
            ("wait", &|| sys::cuCtxSynchronize()),
        ]
    };
    use CUstreamCaptureMode::{CU_STREAM_CAPTURE_MODE_GLOBAL as GLOBAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as THREAD_LOCAL};
    for (mode, elsewhere, refused) in [(THREAD_LOCAL, false, true), (THREAD_LOCAL, true, false), (GLOBAL, true, true)] {
        for (name, call) in calls {
            stream.begin_capture(mode).unwrap();
            let code = match elsewhere {
                false => call(),
                true => {
                    let bound = || context.bind_to_thread().map(|()| call()).unwrap();
                    std::thread::scope(|scope| scope.spawn(bound).join().unwrap())
                }
            };
            let ended = stream.end_capture(sys::CUgraphInstantiate_flags(0)).map(drop).map_err(|error| error.0);
            let expected = match refused {
                true => (CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)),
                false => (CUresult::CUDA_SUCCESS, Ok(())),
            };
            assert_eq!((code, ended), expected, "{name} {mode:?} {elsewhere}");
        }
    }
}

/// A graph, a stream and memory that go while work runs: the work goes on, and finds memory that was given back.
#[test]
fn nothing_waits_for_work_when_it_goes() {
    let Some((_turn, context, module)) = device() else { return };
    extern "C" fn slow(_: *mut c_void) {
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: what runs works on memory of its size, or on what was given back: the emulator keeps that until nothing runs.
    unsafe {
        let (from, to, done) = (upload(&[1.0; 64]), upload(&[0.0; 64]), upload(&[0.0]));
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        result::stream::begin_capture(raw, CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        result::stream::launch_host_function(raw, slow, std::ptr::null_mut()).unwrap();
        let work = Work { from, to, count: 64, done };
        let function = module.load_function("add_sums").unwrap();
        let mut arguments = [std::ptr::from_ref(&work).cast::<c_void>().cast_mut()];
        result::launch_kernel(function.cu_function(), (1, 1, 1), (64, 1, 1), 256, raw, &mut arguments).unwrap();
        let template = result::stream::end_capture(raw).unwrap();
        let graph = result::graph::instantiate(template, sys::CUgraphInstantiate_flags(0)).unwrap();
        result::graph::launch(graph, raw).unwrap();
        result::graph::exec_destroy(graph).unwrap();
        result::graph::destroy(template).unwrap();
        result::stream::destroy(raw).unwrap();
        result::free_sync(from).unwrap();
        assert_eq!(copy_out(to, 64), [0.0; 64], "it has not run yet");
        sys::cuCtxSynchronize().result().unwrap();
        assert!(copy_out(to, 64).iter().all(|value| value.is_nan()), "it ran on poison");
    }
    drop(context);
}

#[test]
fn a_copy_of_memory_that_was_given_back_is_a_fault() {
    let Some((_turn, context, _)) = device() else { return };
    let stream = context.new_stream().unwrap();
    let (from, to) = (upload(&[1.0; 64]), upload(&[0.0; 64]));
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    // SAFETY: memory of this size while it is captured; the emulator looks when it runs.
    unsafe {
        result::memcpy_dtod_async(to, from, 256, stream.cu_stream()).unwrap();
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
        result::free_sync(from).unwrap();
        graph.launch().unwrap();
    }
    assert_eq!(stream.synchronize().map_err(|error| error.0), Err(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
    assert!(emulator::fault().contains("given back"), "{}", emulator::fault());
    emulator::reset();
}

#[test]
fn times_between_events_need_both() {
    let Some((_turn, context, _)) = device() else { return };
    let stream = context.new_stream().unwrap();
    let event = |flags| context.new_event(Some(flags)).unwrap();
    let (timed, untimed) = (event(sys::CUevent_flags::CU_EVENT_DEFAULT), event(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING));
    let never = event(sys::CUevent_flags::CU_EVENT_DEFAULT);
    timed.record(&stream).unwrap();
    untimed.record(&stream).unwrap();
    stream.synchronize().unwrap();
    let mut elapsed = 0.0;
    for other in [&untimed, &never] {
        // SAFETY: events that live; a place for a float.
        let code = unsafe { sys::cuEventElapsedTime(&mut elapsed, timed.cu_event(), other.cu_event()) };
        assert_eq!(code, CUresult::CUDA_ERROR_INVALID_HANDLE);
    }
}
