//! The published models at their full size: tables of many gigabytes that exist on the device alone.

use std::sync::Arc;

use gavel::engine::cuda::compile::Arch;
use gavel::engine::cuda::driver::{Context, DeviceMemory};
use gavel::engine::cuda::{Numbers, Program, Target};
use gavel::model::{FeatureKind, LoadOptions, Model, TableArena, TableDType, load};
use gavel::synth::{ContextShare, Family, Recipe, Shape, TableFormat, write_bundle};

use crate::rig::{Probe, Rig, text};

/// A model to be timed, and in what numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub family: Family,
    pub tables: TableFormat,
    pub numbers: Numbers,
}

/// In the order of importance.
pub const CASES: [Case; 4] = [
    Case { family: Family::DlrmKaggle, tables: TableFormat::F32, numbers: Numbers::Bf16 },
    Case { family: Family::DlrmDcnv2, tables: TableFormat::Bf16, numbers: Numbers::Bf16 },
    Case { family: Family::DlrmKaggle, tables: TableFormat::F32, numbers: Numbers::F32 },
    Case { family: Family::DlrmDcnv2, tables: TableFormat::Bf16, numbers: Numbers::F32 },
];

/// No table of the brief runs has more rows.
pub const BRIEF_ROWS: u32 = 100;

impl Case {
    pub fn name(&self) -> String {
        let numbers = match self.numbers {
            Numbers::F32 => "f32",
            Numbers::Bf16 => "bf16",
        };
        format!("{} in {numbers}", self.family.name())
    }

    /// The model with tables of at most `rows_cap` rows, whose numbers are nowhere: rows are zeros that take no memory.
    pub fn model(&self, rows_cap: u32) -> Result<Arc<Model>, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("a temporary folder: {error}"))?;
        let bundle = folder.path().join(self.family.name());
        let small = Recipe {
            shape: Shape::new(self.family, BRIEF_ROWS),
            seed: 1,
            context: ContextShare::None,
            tables: self.tables,
            selftest_rows: 1,
        };
        write_bundle(&small, &bundle, &mut |_, _| {}).map_err(|error| error.to_string())?;
        let mut model = load(&bundle, &LoadOptions::default(), &mut |_| {}).map_err(|error| error.to_string())?;
        let rows = Shape::new(self.family, rows_cap).rows;
        for feature in &mut model.features {
            if let FeatureKind::Sparse { table, rows: known, .. } = &mut feature.kind {
                *known = rows[table.0 as usize];
            }
        }
        let sizes: Vec<usize> = model.weights.tables.iter().zip(&rows).map(|(table, rows)| table.row_bytes() * *rows as usize).collect();
        let memory = TableArena::unwritten(sizes).map_err(|error| format!("room for tables: {error}"))?;
        for ((table, rows), data) in model.weights.tables.iter_mut().zip(rows).zip(memory.into_tables()) {
            (table.rows, table.data) = (rows, data);
        }
        model.folder = None;
        Ok(Arc::new(model))
    }

    /// The kernels for devices of an architecture.
    pub fn program(&self, model: &Arc<Model>, arch: Arch) -> Result<Program, String> {
        Program::new(model, &self.target(arch)).map_err(|error| error.to_string())
    }

    pub fn target(&self, arch: Arch) -> Target {
        Target::of(arch, self.numbers)
    }
}

/// Tables of a program, made on the device of a seed: small numbers, each row another.
pub fn generate(rig: &Rig, context: &Arc<Context>, program: &Program, seed: u32) -> Result<Vec<DeviceMemory>, String> {
    let mut made = Vec::with_capacity(program.tables.len());
    for (number, placed) in program.tables.iter().enumerate() {
        let table = program.model.weights.table(placed.id);
        let format = match table.dtype {
            TableDType::F32 => 0,
            TableDType::Bf16 => 1,
            TableDType::F16 => 2,
            coded => return Err(format!("table {}: no numbers are generated in {}", table.name, coded.name())),
        };
        let bytes = placed.bytes(table);
        let memory = DeviceMemory::new(context, bytes).map_err(|error| format!("table {} of {bytes} bytes: {error}", table.name))?;
        let probe = Probe {
            to: memory.address(),
            count: bytes as u64 / 4,
            value: format,
            seed: seed.wrapping_mul(1_000_003).wrapping_add(number as u32),
            ..Probe::default()
        };
        // SAFETY: the kernel writes the memory from end to end; it lives until the stream was waited for.
        unsafe { rig.launch("fill", rig.full(), &probe) }.map_err(text)?;
        made.push(memory);
    }
    rig.stream.wait().map_err(text)?;
    Ok(made)
}
