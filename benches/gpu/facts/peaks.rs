//! Arithmetic from registers and shared memory: what no layer can pass.

use gavel::engine::cuda::driver::{DriverError, Grid};

use crate::report::Report;
use crate::rig::{Probe, Rig};

/// Operations a second, a multiply-add being two.
pub fn run(rig: &Rig, report: &mut Report) -> Result<(), DriverError> {
    let turns = rig.size(5, 1);
    let blocks = rig.gpu.multiprocessors;
    let warps = 256 / 32;
    let warpgroup_bytes = 10 << 10;
    // Name, kernel, blocks of a multiprocessor, turns of its loop, operations of a block's turn.
    let kinds = [
        ("products in bf16 by warps (mma.sync)", "multiply_bf16", 4, rig.size(20_000, 2), warps * 8 * 4096, 0),
        ("products in bf16 by warpgroups (wgmma)", "multiply_warpgroups", 1, rig.size(10_000, 2), 2 * 4 * 524_288, warpgroup_bytes),
        ("multiply-adds in f32", "multiply_f32", 8, rig.size(20_000, 2), 256 * 16 * 2, 0),
    ];
    for (name, kernel, resident, count, operations, shared_bytes) in kinds {
        if kernel == "multiply_warpgroups" && rig.gpu.capability != (9, 0) {
            report.note(name, "only compute capability 9.0 has them");
            continue;
        }
        let grid = Grid { shared_bytes, ..rig.blocks(if rig.measuring { blocks * resident } else { 1 }) };
        let mut best = 0.0_f64;
        for _ in 0..turns {
            // SAFETY: the kernel uses no pointer but `to`, which the rig fills in.
            let took = unsafe { rig.timed(kernel, grid, &Probe { count: count as u64, ..Probe::default() })? };
            best = best.max(f64::from(grid.blocks) * (count * operations) as f64 / took.as_secs_f64());
        }
        report.figure(name, best / 1e12, "TFLOP/s");
    }
    Ok(())
}
