//! Streams and random rows, from device memory, its cache, and host memory.

use gavel::engine::cuda::driver::{DeviceMemory, DriverError, HostMemory};

use crate::report::Report;
use crate::rig::{Probe, Rig};

const ROWS: [(usize, &str); 4] = [(32, "gather_32"), (64, "gather_64"), (128, "gather_128"), (256, "gather_256")];

/// Bytes a second. The table is filled on the device and far larger than its cache.
pub fn run(rig: &Rig, report: &mut Report) -> Result<(), DriverError> {
    let table_bytes = rig.size(32 << 30, 64 << 10).min(rig.context.free_bytes()? / 2) & !0xfff;
    let table = DeviceMemory::new(&rig.context, table_bytes)?;
    let fill = Probe { to: table.address(), count: table_bytes as u64 / 4, seed: 1, ..Probe::default() };
    // SAFETY: the kernel writes the table, all of it.
    let filled = unsafe { rig.timed("fill", rig.full(), &fill)? };
    report.figure(&format!("writing {table_bytes} bytes of device memory"), table_bytes as f64 / filled.as_secs_f64() / 1e9, "GB/s");

    let turns = rig.size(7, 1);
    // Of the whole table, and of what the cache holds, again and again.
    let l2 = usize::try_from(rig.context.properties()?.l2_bytes).unwrap_or(0);
    let streams = [
        ("reading device memory", "read_stream", rig.size(8 << 30, 64 << 10), 1),
        ("reading half of what L2 holds", "read_cached", l2 / 2, rig.size(64, 1)),
        ("reading 8 MiB from L2", "read_cached", 8 << 20, rig.size(256, 1)),
    ];
    for (name, kernel, bytes, rounds) in streams {
        let bytes = bytes.min(table_bytes) & !0xfff;
        let probe = Probe { from: table.address(), count: bytes as u64 / 16, value: rounds as u32, ..Probe::default() };
        let mut best = 0.0_f64;
        for _ in 0..turns {
            // SAFETY: the kernel reads so many bytes of the table.
            let took = unsafe { rig.timed(kernel, rig.full(), &probe)? };
            best = best.max((bytes * rounds) as f64 / took.as_secs_f64() / 1e9);
        }
        report.figure(name, best, "GB/s");
    }

    let host_bytes = rig.size(8 << 30, 64 << 10);
    let host = match HostMemory::new(&rig.context, host_bytes, false) {
        Ok(host) => Some(host),
        Err(error) => {
            report.note("random rows of host memory", &error.to_string());
            None
        }
    };
    if let Some(host) = &host {
        // SAFETY: all bytes of memory that is ours. Pages are there from now on.
        unsafe { std::ptr::write_bytes(host.as_ptr(), 1, host_bytes) };
    }
    let places = [
        ("device memory", Some(table.address()), table_bytes, rig.size(32 << 20, 256)),
        ("host memory", host.as_ref().map(HostMemory::address), host_bytes, rig.size(1 << 20, 256)),
    ];
    for (place, address, bytes, count) in places {
        let Some(from) = address else { continue };
        for (row_bytes, kernel) in ROWS {
            let mut best = 0.0_f64;
            for turn in 0..turns as u32 {
                let probe = Probe { from, count: count as u64, rows: (bytes / row_bytes) as u64, seed: 17 + turn, ..Probe::default() };
                // SAFETY: rows below `rows` lie within the table or the host memory; both live until the launch was waited for.
                let took = unsafe { rig.timed(kernel, rig.full(), &probe)? };
                best = best.max(count as f64 / took.as_secs_f64());
            }
            report.figure(&format!("random rows of {row_bytes} bytes, {place}"), best / 1e6, "million rows/s");
            report.figure(&format!("random rows of {row_bytes} bytes, {place}, rate"), best * row_bytes as f64 / 1e9, "GB/s");
        }
    }
    Ok(())
}
