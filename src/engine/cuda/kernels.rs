//! Kernels on a device: loaded from compiled code, with what their launches need.

use std::collections::HashMap;
use std::sync::Arc;

use super::device::Device;
use super::driver::{Function, Module};
use super::image::Image;
use super::program::{Launch, Program};
use crate::engine::EngineError;

/// A kernel with what its launches need.
#[derive(Debug)]
pub struct Kernel {
    /// Of the module that was loaded.
    pub function: Function,
    /// Blocks that the device runs at once; `None` if the kernel has no scratch memory and nobody needs to know.
    pub blocks_max: Option<usize>,
    /// For reports.
    pub facts: KernelFacts,
}

/// What the compiler made of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// Its name.
    pub name: String,
    /// Registers of a thread.
    pub registers: usize,
    /// Bytes of a thread that did not fit into registers.
    pub local_bytes: usize,
    /// Dynamic shared memory of a block, the most of its launches.
    pub shared_bytes: u32,
}

/// Loads a program's kernels, by name. Errors: code that is none, or none for this device; a kernel that is not in it.
pub fn load_kernels(device: &Device, program: &Program, image: &[u8]) -> Result<HashMap<String, Kernel>, EngineError> {
    let image = Image::new(image).map_err(|reason| EngineError::Unavailable {
        engine: "cuda",
        reason: format!("the compiled kernels of {} are {reason}", program.model.name),
        remedy: "compile them again with `gavel compile`".into(),
    })?;
    let module = Module::load(device.context(), image).map_err(device.error("kernels"))?;
    let load = |(name, launches): (&str, Vec<&Launch>)| Ok((name.to_owned(), Kernel::new(device, &module, name, &launches)?));
    launches_by_kernel(program).into_iter().map(load).collect()
}

impl Kernel {
    fn new(device: &Device, module: &Arc<Module>, name: &str, launches: &[&Launch]) -> Result<Kernel, EngineError> {
        let what = || format!("kernel {name}");
        let function = module.function(name).map_err(device.error(what()))?;
        let shared_bytes = launches.iter().map(|launch| launch.shared_bytes).max().unwrap_or(0);
        if shared_bytes > SHARED_BYTES_UNASKED {
            function
                .allow_shared(shared_bytes)
                .map_err(device.error(format!("kernel {name} with {shared_bytes} bytes of shared memory")))?;
        }
        let mut blocks_max = None;
        for launch in launches.iter().filter(|launch| launch.scratch_bytes > 0) {
            let resident = function.resident_blocks(launch.threads, launch.shared_bytes).map_err(device.error(what()))?;
            let blocks = (resident * device.gpu().multiprocessors).max(1);
            blocks_max = Some(blocks_max.map_or(blocks, |known: usize| known.min(blocks)));
        }
        let registers = function.registers().map_err(device.error(what()))?;
        let local_bytes = function.local_bytes().map_err(device.error(what()))?;
        Ok(Kernel { function, blocks_max, facts: KernelFacts { name: name.to_owned(), registers, local_bytes, shared_bytes } })
    }
}

fn launches_by_kernel(program: &Program) -> HashMap<&str, Vec<&Launch>> {
    let mut kernels: HashMap<&str, Vec<&Launch>> = HashMap::new();
    for launch in program.kernels() {
        kernels.entry(&launch.kernel).or_default().push(launch);
    }
    kernels
}

/// Dynamic shared memory that any kernel may have without asking.
const SHARED_BYTES_UNASKED: u32 = 48 << 10;
