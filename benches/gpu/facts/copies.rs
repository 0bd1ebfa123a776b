//! Inputs read where they lie in host memory, against inputs that the copy engine brings: by size, in plain and in write-combined memory.

use std::time::Instant;

use gavel::engine::cuda::driver::{DeviceMemory, DriverError, HostMemory};

use super::launches::microseconds;
use crate::report::Report;
use crate::rig::{Probe, Rig};

const SIZES: [usize; 10] = [256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];

/// Each size: a copy and a kernel that reads the copy, against a kernel that reads in place. Both ways end with a wait for the stream, which a single
/// empty launch needs, too.
pub fn run(rig: &Rig, report: &mut Report) -> Result<(), DriverError> {
    let most = rig.size(64 << 20, 64 << 10);
    let device = DeviceMemory::new(&rig.context, most)?;
    for write_combined in [false, true] {
        let kind = if write_combined { "write-combined" } else { "plain" };
        let host = HostMemory::new(&rig.context, most, write_combined)?;
        let began = Instant::now();
        // SAFETY: all bytes of memory that is ours; nothing on the device uses it now.
        unsafe { std::ptr::write_bytes(host.as_ptr(), 1, most) };
        report.figure(&format!("filling {kind} memory by one thread"), most as f64 / began.elapsed().as_secs_f64() / 1e9, "GB/s");
        let mut crossover = None;
        for bytes in SIZES.into_iter().filter(|bytes| *bytes <= most) {
            let turns = rig.size(if bytes > 1 << 20 { 20 } else { 300 }, 2);
            let grid = rig.blocks((bytes / 16).div_ceil(256).min(rig.gpu.multiprocessors * 8));
            let reading = |from: u64| Probe { from, count: bytes as u64 / 16, value: 1, ..Probe::default() };
            let (mut copy, mut both, mut in_place) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..turns {
                let began = Instant::now();
                // SAFETY: both ranges have so many bytes and live until the stream is waited for.
                unsafe { rig.stream.copy(host.as_ptr(), device.address(), bytes)? };
                rig.stream.wait()?;
                copy.push(microseconds(began));

                let began = Instant::now();
                // SAFETY: as above, and the kernel reads what was copied.
                unsafe {
                    rig.stream.copy(host.as_ptr(), device.address(), bytes)?;
                    rig.launch("read_stream", grid, &reading(device.address()))?;
                }
                rig.stream.wait()?;
                both.push(microseconds(began));

                let began = Instant::now();
                // SAFETY: the kernel reads so many bytes of the host memory, which lives until the stream is waited for.
                unsafe { rig.launch("read_stream", grid, &reading(host.address()))? };
                rig.stream.wait()?;
                in_place.push(microseconds(began));
            }
            let copy = report.times(&format!("{kind}: copy of {bytes} bytes"), copy).p50;
            let both = report.times(&format!("{kind}: copy of {bytes} bytes, then a kernel reads it"), both).p50;
            let in_place = report.times(&format!("{kind}: a kernel reads {bytes} bytes in place"), in_place).p50;
            report.figure(&format!("{kind}: copy of {bytes} bytes, rate"), bytes as f64 / copy / 1e3, "GB/s");
            report.figure(&format!("{kind}: {bytes} bytes in place, rate"), bytes as f64 / in_place / 1e3, "GB/s");
            if both < in_place && crossover.is_none() {
                crossover = Some(bytes);
            } else if both >= in_place {
                crossover = None;
            }
        }
        match crossover {
            Some(bytes) => report.figure(&format!("{kind}: copying wins from this size on"), bytes as f64, "bytes"),
            None => report.note(&format!("{kind}: copying wins from this size on"), "never, up to the largest size"),
        }
    }
    Ok(())
}
