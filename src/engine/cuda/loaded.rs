//! A program on a device: kernels, weights and tables, once for all shards.

use std::collections::HashMap;
use std::sync::{Arc, Once, OnceLock};

use super::DevicePointer;
use super::buckets::buckets;
use super::choice::{Chosen, LayerChoice, Trial};
use super::device::Device;
use super::driver::{Context, DeviceMemory, DriverError, Function, Gpu, Matmul, Module};
use super::image::Image;
use super::inputs::copied_bytes;
use super::program::{DeviceTable, Launch, Product, Program, Way};
use crate::batch::SlotLimits;
use crate::engine::precision::{Precision, PrecisionReport, Shift, ShiftLimits};
use crate::engine::selftest::score_rows;
use crate::engine::{EngineError, Prepared, SizeApart};
use crate::model::Table;

/// What shards launch. Freed when the last of them lets go.
#[derive(Debug)]
pub struct Loaded {
    device: Arc<Device>,
    program: Arc<Program>,
    kernels: HashMap<String, Kernel>,
    weights: DeviceMemory,
    /// Held for their memory.
    _tables: Vec<DeviceMemory>,
    table_addresses: DeviceMemory,
    /// How wide layers are computed, once that was measured; until then by the kernels that judge the others.
    chosen: OnceLock<Chosen>,
    /// How far reduced precision moves answers, once it was measured.
    precision: OnceLock<PrecisionReport>,
    unknown_ids: Once,
}

/// A kernel with what its launches need.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) function: Function,
    /// Blocks that the device runs at once; `None` if the kernel has no scratch memory and nobody needs to know.
    pub(super) blocks_max: Option<usize>,
    facts: KernelFacts,
}

/// What computes one of the program's launches.
#[derive(Debug)]
pub(super) enum Taken<'l> {
    /// The launch itself, or another kernel in its place.
    Kernel(&'l Launch),
    /// A product of a library.
    Product {
        /// What the program says of it.
        product: &'l Product,
        /// For some number of rows.
        matmul: &'l Matmul,
        /// Whether rows are candidates; else contexts.
        per_candidate: bool,
    },
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

impl Loaded {
    /// Loads compiled kernels and uploads weights and tables. Start-up and reload only.
    ///
    /// Errors: the driver's; tables and weights that do not fit into the memory that is free, before anything is uploaded.
    pub fn new(device: &Arc<Device>, program: Arc<Program>, image: &[u8]) -> Result<Loaded, EngineError> {
        let room = Room::ask(device, &program)?;
        if room.needed() > room.free_bytes as u64 {
            return Err(room.too_little(device));
        }
        let mut tables = Vec::with_capacity(program.tables.len());
        for placed in &program.tables {
            let table = program.model.weights.table(placed.id);
            let what = format!("table {} of {} bytes", table.name, placed.bytes(table));
            // Free memory in pieces that are too small, or taken by somebody else meanwhile.
            tables.push(upload(device.context(), placed, table).map_err(|source| match source.is_out_of_memory() {
                true => room.too_little(device),
                false => device.error(what)(source),
            })?);
        }
        Loaded::with_tables(device, program, image, tables)
    }

    /// The same with tables that are on the device already, in the order of [`Program::tables`]: benches make them there. Panics if they are not as
    /// many and as large as the program's.
    pub fn with_tables(
        device: &Arc<Device>,
        program: Arc<Program>,
        image: &[u8],
        tables: Vec<DeviceMemory>,
    ) -> Result<Loaded, EngineError> {
        let bytes = program.tables.iter().map(|placed| placed.bytes(program.model.weights.table(placed.id)));
        assert!(tables.iter().map(DeviceMemory::bytes).eq(bytes), "the program's tables");
        let context = device.context();
        let image = Image::new(image).map_err(|reason| EngineError::Unavailable {
            engine: "cuda",
            reason: format!("the compiled kernels of {} are {reason}", program.model.name),
            remedy: "compile them again with `gavel compile`".into(),
        })?;
        let module = Module::load(context, image).map_err(device.error("kernels"))?;
        let mut kernels = HashMap::new();
        for (name, launches) in launches_by_kernel(&program) {
            let kernel = Kernel::new(device, &module, name, &launches)?;
            kernels.insert(name.to_owned(), kernel);
        }
        let bytes = program.weights.len();
        let weights = DeviceMemory::copy_of(context, &program.weights).map_err(device.error(format!("{bytes} bytes of weights")))?;
        let addresses: Vec<DevicePointer> = tables.iter().map(DeviceMemory::address).collect();
        let table_addresses =
            DeviceMemory::copy_of(context, bytemuck::cast_slice(&addresses)).map_err(device.error("addresses of tables"))?;
        Ok(Loaded {
            device: Arc::clone(device),
            program,
            kernels,
            weights,
            _tables: tables,
            table_addresses,
            chosen: OnceLock::new(),
            precision: OnceLock::new(),
            unknown_ids: Once::new(),
        })
    }

    /// Compares and times the ways to compute each wide layer, and takes the fastest that agrees with the kernel by mma.sync. Once, before slots are
    /// made; programs without such layers take no time. Errors: memory; a kernel that breaks the device, which is then lost to this process.
    pub fn choose_wide_layers(&self, trial: &Trial) -> Result<(), EngineError> {
        let chosen = Chosen::new(self, trial)?;
        // A second measurement is for nothing: slots were made by the first.
        let _ = self.chosen.set(chosen);
        Ok(())
    }

    /// What was found out about wide layers; nothing before that, and where there is one way for each.
    pub fn wide_layers(&self) -> &[LayerChoice] {
        self.chosen.get().map_or(&[], |chosen| &chosen.layers)
    }

    /// What computes a launch of the program.
    pub(super) fn taken<'l>(&'l self, launch: &'l Launch) -> Taken<'l> {
        let layer = launch.layer.as_deref();
        let Some((layer, choice)) = layer.zip(self.chosen.get().and_then(|chosen| chosen.of(&launch.kernel))) else {
            return Taken::Kernel(launch);
        };
        match choice.way.map(|way| &layer.ways[way]) {
            Some(Way::Kernel(launch)) => Taken::Kernel(launch),
            Some(Way::Product(product)) => match &choice.matmul {
                Some(matmul) => Taken::Product { product, matmul, per_candidate: layer.per_candidate },
                None => Taken::Kernel(launch),
            },
            None => Taken::Kernel(launch),
        }
    }

    /// Measures on the selftest's rows how far bf16 moves answers; done once, before anything is served.
    pub fn measure_precision(self: &Arc<Loaded>, limits: ShiftLimits) -> Result<(), EngineError> {
        let model = &self.program.model;
        let scores = score_rows(&Prepared::Cuda(Arc::clone(self)), model, &model.selftest.inputs)
            .map_err(|error| EngineError::Precision { precision: Precision::Bf16.name(), reason: error.to_string() })?;
        let rows: Vec<usize> = (0..model.selftest.rows()).collect();
        let layers = self.program.layers.clone();
        let report = PrecisionReport {
            precision: Precision::Bf16,
            limits,
            shift: Shift::measure(model, &rows, &scores),
            instructions: "tensor cores",
            measured: 1,
            judged: layers.len(),
            layers,
        };
        // A second measurement would say the same.
        let _ = self.precision.set(report);
        Ok(())
    }

    /// What was measured, if precision is reduced.
    pub fn precision(&self) -> Option<&PrecisionReport> {
        self.precision.get()
    }

    /// The device that it is on.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// What was loaded.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// Batches from which on other kernels run, or inputs are copied before they do, ascending.
    pub fn sizes_apart(&self, limits: SlotLimits) -> Vec<SizeApart> {
        let (layout, copy_from) = (&self.program.layout, self.device.options().copy_from_bytes);
        let buckets = buckets(limits.rows, &self.program.variants);
        let means = |rows: usize| (self.program.variant(rows).rows_from, copied_bytes(layout, rows) >= copy_from);
        buckets
            .windows(2)
            .filter(|pair| means(pair[0]) != means(pair[1]))
            .map(|pair| SizeApart { rows: pair[0] + 1, slot_rows: pair[1] })
            .collect()
    }

    /// Logs that a batch held an id that is no row of its table, the first time.
    pub(super) fn report_unknown_ids(&self) {
        self.unknown_ids.call_once(|| {
            let Gpu { ordinal, name, .. } = self.device.gpu();
            tracing::error!(
                model = self.program.model.name,
                "GPU {ordinal} ({name}): kernels met an id that its table does not have, although ids are checked before they come into a batch: \
                 memory went wrong, or gavel did; such batches are answered with engine_failed (this is logged once for a model)"
            );
        });
    }

    /// Each kernel, by name.
    pub fn kernels(&self) -> Vec<KernelFacts> {
        let mut facts: Vec<KernelFacts> = self.kernels.values().map(|kernel| kernel.facts.clone()).collect();
        facts.sort_by(|a, b| a.name.cmp(&b.name));
        facts
    }

    pub(super) fn kernel(&self, launch: &Launch) -> &Kernel {
        self.kernels.get(&launch.kernel).expect("every launch's kernel was loaded")
    }

    pub(super) fn weights(&self) -> DevicePointer {
        self.weights.address()
    }

    pub(super) fn table_addresses(&self) -> DevicePointer {
        self.table_addresses.address()
    }
}

/// What a program's tables and weights take of a device, and what there is.
struct Room {
    model: String,
    tables: usize,
    table_bytes: u64,
    /// Name and size.
    largest: Option<(String, usize)>,
    weight_bytes: usize,
    free_bytes: usize,
}

impl Room {
    fn ask(device: &Device, program: &Program) -> Result<Room, EngineError> {
        let sizes = || {
            program.tables.iter().map(|placed| {
                let table = program.model.weights.table(placed.id);
                (&table.name, placed.bytes(table))
            })
        };
        Ok(Room {
            model: program.model.name.clone(),
            tables: program.tables.len(),
            table_bytes: sizes().map(|(_, bytes)| bytes as u64).sum(),
            largest: sizes().max_by_key(|(_, bytes)| *bytes).map(|(name, bytes)| (name.clone(), bytes)),
            weight_bytes: program.weights.len(),
            free_bytes: device.context().free_bytes().map_err(device.error("its free memory"))?,
        })
    }

    fn needed(&self) -> u64 {
        self.table_bytes + self.weight_bytes as u64
    }

    fn too_little(&self, device: &Device) -> EngineError {
        let Room { model, tables, table_bytes, weight_bytes, free_bytes, .. } = self;
        let largest = self.largest.as_ref().map(|(name, bytes)| format!(", the largest {name} with {bytes}")).unwrap_or_default();
        EngineError::DeviceTooSmall {
            device: device.name(),
            what: format!(
                "{model} takes {} bytes of device memory ({table_bytes} in {tables} tables{largest}; {weight_bytes} of weights), and {free_bytes} are free",
                self.needed()
            ),
        }
    }
}

/// A table on the device, its rows as far apart as kernels expect them: packed piece by piece.
fn upload(context: &Arc<Context>, placed: &DeviceTable, table: &Table) -> Result<DeviceMemory, DriverError> {
    let mut memory = DeviceMemory::new(context, placed.bytes(table))?;
    let rows_at_once = (PIECE_BYTES / placed.row_stride).clamp(1, table.rows as usize);
    let mut piece = vec![0; rows_at_once * placed.row_stride];
    let mut row = 0;
    while row < table.rows {
        let rows = placed.pack(table, row, &mut piece);
        memory.write(row as usize * placed.row_stride, &piece[..rows as usize * placed.row_stride])?;
        row += rows;
    }
    Ok(memory)
}

/// Bytes of a table that are copied at once.
const PIECE_BYTES: usize = 8 << 20;

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
