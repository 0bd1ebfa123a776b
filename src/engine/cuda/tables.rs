//! A program's tables on their way to a device: whether they fit, and how they get there.

use std::sync::Arc;

use super::device::Device;
use super::driver::{Context, DeviceMemory, DriverError};
use super::program::{DeviceTable, Program};
use crate::engine::EngineError;
use crate::model::Table;

/// Uploads all tables of a program, in the order of [`Program::tables`]. Errors: the driver's; too little memory for them and the weights, before
/// anything is uploaded.
pub fn upload_tables(device: &Device, program: &Program) -> Result<Vec<DeviceMemory>, EngineError> {
    let room = Room::ask(device, program)?;
    if room.needed() > room.free_bytes as u64 {
        return Err(room.too_little(device));
    }
    let one = |placed: &DeviceTable| {
        let table = program.model.weights.table(placed.id);
        let what = format!("table {} of {} bytes", table.name, placed.bytes(table));
        // Free memory in pieces that are too small, or taken by somebody else meanwhile.
        upload(device.context(), placed, table).map_err(|source| match source.is_out_of_memory() {
            true => room.too_little(device),
            false => device.error(what)(source),
        })
    };
    program.tables.iter().map(one).collect()
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
