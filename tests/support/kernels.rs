//! A source of kernels, compiled and loaded for the emulator or for the machine's GPU: buffers and launches for tests.
#![allow(dead_code, unsafe_code, clippy::unwrap_used)]

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use bytemuck::Pod;
use cudarc::driver::sys::{CUdeviceptr, CUfunction_attribute_enum};
use cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, result};
use cudarc::nvrtc::Ptx;

use super::emulator::{self, Cuda};

/// Compiled kernels on a device. Tests of one process take turns: some break the device.
pub struct Kernels {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    _turn: MutexGuard<'static, ()>,
}

/// Compiles, once per source and process.
fn compile(source: &str, headers: &[(&str, &str)], architecture: &str) -> Result<Vec<u8>, String> {
    type Images = HashMap<(String, String), Vec<u8>>;
    static IMAGES: LazyLock<Mutex<Images>> = LazyLock::new(Mutex::default);
    let texts: String = headers.iter().map(|header| header.1).chain([source]).collect();
    let key = (texts, architecture.to_string());
    if let Some(image) = IMAGES.lock().unwrap().get(&key) {
        return Ok(image.clone());
    }
    let image = emulator::compile(source, headers, architecture)?;
    IMAGES.lock().unwrap().insert(key, image.clone());
    Ok(image)
}

/// Device memory of a test.
pub struct Buffer {
    pub address: CUdeviceptr,
    bytes: usize,
}

impl Kernels {
    /// `None`, with the reason printed, where there is no CUDA of either kind.
    pub fn open(source: &str, headers: &[(&str, &str)]) -> Option<Self> {
        Some(Self::try_open(source, headers)?.unwrap_or_else(|log| panic!("{log}")))
    }

    /// The error is the compiler's log.
    pub fn try_open(source: &str, headers: &[(&str, &str)]) -> Option<Result<Self, String>> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if emulator::cuda()? == Cuda::Emulated {
            emulator::reset();
        }
        let context = CudaContext::new(0).unwrap();
        // SAFETY: no slice of cudarc's is made.
        unsafe { context.disable_event_tracking() };
        let architecture = match context.compute_capability().unwrap() {
            (9, 0) => "sm_90a".into(),
            (major, minor) => format!("sm_{major}{minor}"),
        };
        let image = match compile(source, headers, &architecture) {
            Ok(image) => image,
            Err(log) => return Some(Err(log)),
        };
        let module = context.load_module(Ptx::from_binary(image)).unwrap();
        let stream = context.new_stream().unwrap();
        Some(Ok(Self { context, stream, module, _turn: turn }))
    }

    pub fn upload<T: Pod>(&self, values: &[T]) -> Buffer {
        let bytes = size_of_val(values);
        // SAFETY: fresh memory of that size.
        unsafe {
            let address = result::malloc_sync(bytes).unwrap();
            result::memcpy_htod_sync(address, values).unwrap();
            // Such a copy may return before it is done, and the stream does not wait for it.
            result::stream::synchronize(std::ptr::null_mut()).unwrap();
            Buffer { address, bytes }
        }
    }

    pub fn zeros<T: Pod>(&self, count: usize) -> Buffer {
        self.upload(&vec![T::zeroed(); count])
    }

    pub fn download<T: Pod>(&self, buffer: &Buffer) -> Vec<T> {
        let mut values = vec![T::zeroed(); buffer.bytes / size_of::<T>()];
        // SAFETY: the buffer has that many bytes.
        unsafe { result::memcpy_dtoh_sync(&mut values, buffer.address) }.unwrap();
        values
    }

    /// Launches. Arguments in the order and of the types of the kernel.
    pub fn launch(
        &self,
        name: &str,
        blocks: (u32, u32),
        threads: u32,
        shared: usize,
        arguments: &[&dyn Argument],
    ) -> Result<(), DriverError> {
        let function = self.module.load_function(name).unwrap();
        if shared > 48 * 1024 {
            let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, i32::try_from(shared).unwrap())?;
        }
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(|argument| argument.pointer()).collect();
        let (grid, block, shared) = ((blocks.0, blocks.1, 1), (threads, 1, 1), u32::try_from(shared).unwrap());
        // SAFETY: the test's kernels stay within the buffers that it gives them.
        unsafe { result::launch_kernel(function.cu_function(), grid, block, shared, self.stream.cu_stream(), &mut pointers) }
    }

    /// Launches and waits.
    pub fn try_run(
        &self,
        name: &str,
        blocks: (u32, u32),
        threads: u32,
        shared: usize,
        arguments: &[&dyn Argument],
    ) -> Result<(), DriverError> {
        self.launch(name, blocks, threads, shared, arguments)?;
        self.stream.synchronize()
    }

    pub fn run(&self, name: &str, blocks: (u32, u32), threads: u32, shared: usize, arguments: &[&dyn Argument]) {
        self.try_run(name, blocks, threads, shared, arguments).unwrap();
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: launches were waited for; a broken device keeps its memory.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// Something to hand to a kernel.
pub trait Argument {
    fn pointer(&self) -> *mut c_void;
}

impl<T: Pod> Argument for T {
    fn pointer(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast::<c_void>().cast_mut()
    }
}

impl Argument for Buffer {
    fn pointer(&self) -> *mut c_void {
        self.address.pointer()
    }
}
