//! A program on a device: kernels, weights and tables, once for all shards.

use std::collections::HashMap;
use std::sync::{Arc, Once, OnceLock};

use super::DevicePointer;
use super::choice::{Chosen, LayerChoice, Matmuls, Trial};
use super::device::Device;
use super::driver::{DeviceMemory, Gpu};
use super::kernels::{Kernel, KernelFacts, load_kernels};
use super::program::{Launch, Product, Program, Way};
use super::tables::upload_tables;
use crate::engine::precision::{Precision, PrecisionReport, Shift, ShiftLimits};
use crate::engine::selftest::score_rows;
use crate::engine::{EngineError, Prepared};

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

/// What computes one of the program's launches.
#[derive(Debug)]
pub(super) enum Taken<'l> {
    /// The launch itself, or another kernel in its place.
    Kernel(&'l Launch),
    /// A product of a library.
    Product {
        /// What the program says of it.
        product: &'l Product,
        /// For any number of candidates, where the library can.
        matmuls: &'l Matmuls,
    },
}

impl Loaded {
    /// Loads compiled kernels, then weights and tables. Start-up and reload only.
    ///
    /// Errors: kernels that are none, or none for this device, and tables and weights that do not fit into the memory that is free, before anything
    /// is uploaded; the driver's.
    pub fn new(device: &Arc<Device>, program: Arc<Program>, image: &[u8]) -> Result<Loaded, EngineError> {
        let kernels = load_kernels(device, &program, image)?;
        let tables = upload_tables(device, &program)?;
        Loaded::of_parts(device, program, kernels, tables)
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
        let kernels = load_kernels(device, &program, image)?;
        Loaded::of_parts(device, program, kernels, tables)
    }

    fn of_parts(
        device: &Arc<Device>,
        program: Arc<Program>,
        kernels: HashMap<String, Kernel>,
        tables: Vec<DeviceMemory>,
    ) -> Result<Loaded, EngineError> {
        let context = device.context();
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
            Some(Way::Product(product)) => match &choice.matmuls {
                Some(matmuls) => Taken::Product { product, matmuls },
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
