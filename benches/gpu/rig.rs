//! The device with the kernels of `kernels/facts.cu`, and one launch of any of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::{Pod, Zeroable};
use gavel::engine::cuda::Image;
use gavel::engine::cuda::compile::{Arch, CompileOptions, CubinFolder, Key, Nvrtc, headers};
use gavel::engine::cuda::driver::{Context, DriverError, Event, Function, Gpu, Grid, HostMemory, Module, Stream, open};

use crate::arguments::Arguments;

/// The source; NVRTC compiles it ahead of time ([`cubin`]).
pub const SOURCE: &str = include_str!("../../kernels/facts.cu");

/// The argument of its kernels, byte by byte.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Probe {
    pub from: u64,
    pub to: u64,
    pub flag: u64,
    pub asked: u64,
    pub count: u64,
    pub rows: u64,
    pub value: u32,
    pub seed: u32,
}

/// What measurements need.
pub struct Rig {
    pub gpu: Gpu,
    pub context: Arc<Context>,
    pub stream: Stream,
    /// Figures are wanted.
    pub measuring: bool,
    /// Making the context took so long.
    pub opened_in: Duration,
    /// Loading the kernels took so long.
    pub loaded_in: Duration,
    module: Arc<Module>,
    functions: RefCell<HashMap<&'static str, Function>>,
    /// What kernels that only read would write to.
    sink: HostMemory,
}

impl Rig {
    /// Opens device 0 and loads the kernels. Errors: no device, no kernels for it.
    pub fn new(arguments: &Arguments) -> Result<Rig, String> {
        let began = Instant::now();
        let (gpu, context) = open(0).map_err(|missing| format!("{missing}; {}", missing.remedy()))?;
        context.bind().map_err(text)?;
        let opened_in = began.elapsed();
        let arch = Arch::of_device(gpu.capability.0, gpu.capability.1).map_err(|error| error.to_string())?;
        let code = cubin(SOURCE, arch, &arguments.cubins, arguments.nvrtc.as_deref())?;
        let began = Instant::now();
        let image = Image::new(&code).map_err(|error| error.to_string())?;
        let module = Module::load(&context, image).map_err(text)?;
        let loaded_in = began.elapsed();
        let stream = Stream::new(&context).map_err(text)?;
        let sink = HostMemory::new(&context, 256, false).map_err(text)?;
        let functions = RefCell::default();
        Ok(Rig { gpu, context, stream, measuring: arguments.measuring, opened_in, loaded_in, module, functions, sink })
    }

    /// A number of things: so many when figures are wanted, few otherwise.
    pub fn size(&self, wanted: usize, brief: usize) -> usize {
        if self.measuring { wanted } else { brief }
    }

    /// A kernel by its name.
    pub fn function(&self, name: &'static str) -> Result<Function, DriverError> {
        if let Some(known) = self.functions.borrow().get(name) {
            return Ok(known.clone());
        }
        let function = self.module.function(name)?;
        self.functions.borrow_mut().insert(name, function.clone());
        Ok(function)
    }

    /// Enough blocks to keep the whole device busy.
    pub fn full(&self) -> Grid {
        self.blocks(self.gpu.multiprocessors * self.size(8, 1))
    }

    /// So many blocks of 256 threads.
    pub fn blocks(&self, blocks: usize) -> Grid {
        Grid { blocks: blocks.max(1) as u32, columns: 1, threads: 256, shared_bytes: 0 }
    }

    /// Launches a kernel in the rig's stream.
    ///
    /// # Safety
    /// - the pointers that this kernel uses of `probe` lead to as many bytes as it reads or writes, until the launch is done.
    pub unsafe fn launch(&self, kernel: &'static str, grid: Grid, probe: &Probe) -> Result<(), DriverError> {
        // SAFETY: kernels of the source take a `Probe`; the rest is the caller's promise.
        unsafe { self.launch_in(&self.stream, kernel, grid, probe) }
    }

    /// The same in any stream.
    ///
    /// # Safety
    /// As `launch`.
    pub unsafe fn launch_in(&self, stream: &Stream, kernel: &'static str, grid: Grid, probe: &Probe) -> Result<(), DriverError> {
        let function = self.function(kernel)?;
        let probe = Probe { to: if probe.to == 0 { self.sink.address() } else { probe.to }, ..*probe };
        // SAFETY: as above.
        unsafe { stream.launch(&function, grid, &probe) }
    }

    /// How long the device takes for a launch, by events around it, once after a warm-up.
    ///
    /// # Safety
    /// As `launch`.
    pub unsafe fn timed(&self, kernel: &'static str, grid: Grid, probe: &Probe) -> Result<Duration, DriverError> {
        let (before, after) = (Event::new(&self.context)?, Event::new(&self.context)?);
        // SAFETY: the caller's promise.
        unsafe { self.launch(kernel, grid, probe)? };
        before.record(&self.stream)?;
        // SAFETY: the caller's promise.
        unsafe { self.launch(kernel, grid, probe)? };
        after.record(&self.stream)?;
        self.stream.wait()?;
        after.since(&before)
    }
}

/// Code of a source: from the folder of cubins, else compiled now and kept there.
pub fn cubin(source: &str, arch: Arch, folder: &Option<PathBuf>, nvrtc: Option<&Path>) -> Result<Vec<u8>, String> {
    let options = CompileOptions::default();
    let key = Key::new(source, headers(), arch, &options);
    let folder = folder.as_ref().map(CubinFolder::new);
    if let Some(folder) = &folder
        && let Some(stored) = folder.find(key).map_err(|error| error.to_string())?
    {
        return Ok(stored.cubin);
    }
    let nvrtc = Nvrtc::open(nvrtc).map_err(|missing| format!("no code for {arch} was carried, and {missing}"))?;
    let compiled = nvrtc.compile(source, headers(), arch, &options).map_err(|error| error.to_string())?;
    if let Some(kernel) = compiled.kernels.iter().find(|kernel| kernel.spills()) {
        return Err(format!("{} does not have enough registers on {arch}", kernel.function));
    }
    if let Some(folder) = &folder {
        folder.store(key, &compiled.cubin, &nvrtc.version(), &compiled.kernels).map_err(|error| error.to_string())?;
    }
    Ok(compiled.cubin)
}

/// A refusal of the driver's as text.
pub fn text(error: DriverError) -> String {
    error.to_string()
}
