//! What the machine can do at best: launches, flags, sleep, host memory, copies, gathers, bandwidth, arithmetic.
//!
//! The figures that the design of the engine rests on: whether kernels read inputs in place or the copy engine brings them, how a shard learns that
//! scores are there, what a kernel costs before it does anything, and the ceilings that kernels are measured against.

mod bandwidth;
mod copies;
mod host_memory;
mod launches;
mod peaks;
mod waking;

use crate::arguments::Arguments;
use crate::report::Report;
use crate::rig::{Rig, text};
use gavel::engine::cuda::driver::DriverError;

/// Everything, in the order of importance; a part that fails is named, and the rest goes on.
pub fn run(arguments: &Arguments) -> Result<Report, String> {
    let mut report = Report::new("facts");
    let rig = Rig::new(arguments)?;
    describe(&rig, &mut report).map_err(text)?;
    let parts: [Part; 7] = [
        ("launches", launches::run),
        ("waking", waking::run),
        ("copies", copies::run),
        ("bandwidth", bandwidth::run),
        ("peaks", peaks::run),
        ("host memory", host_memory::run),
        ("a resident kernel", launches::resident),
    ];
    let mut failed = Vec::new();
    for (name, part) in parts {
        if let Err(error) = part(&rig, &mut report) {
            println!("FAILED: {name}: {error}");
            report.note(&format!("{name} failed"), &error.to_string());
            failed.push(name);
        }
    }
    report.say("failed", failed.join(", "));
    Ok(report)
}

type Part = (&'static str, fn(&Rig, &mut Report) -> Result<(), DriverError>);

fn describe(rig: &Rig, report: &mut Report) -> Result<(), DriverError> {
    let known = rig.context.properties()?;
    report.say("device", rig.gpu.name.as_str());
    report.say("compute capability", format!("{}.{}", rig.gpu.capability.0, rig.gpu.capability.1));
    report.say("multiprocessors", rig.gpu.multiprocessors);
    report.say("device memory, bytes", rig.gpu.memory_bytes);
    report.say("free device memory, bytes", rig.context.free_bytes()?);
    report.say("L2, bytes", known.l2_bytes);
    report.say("shared memory of a multiprocessor, bytes", known.shared_bytes_multiprocessor);
    report.say("CUDA of the driver", format!("{}.{}", known.driver_version / 1000, known.driver_version % 1000 / 10));
    report.say("highest clock, MHz", known.clock_khz / 1000);
    report.say("highest memory clock, MHz", known.memory_clock_khz / 1000);
    report.say("memory bus, bits", known.memory_bus_bits);
    report.say("copy engines", known.copy_engines);
    report.say("PCI address", known.pci.as_str());
    for (name, file) in [("PCIe speed", "current_link_speed"), ("PCIe lanes", "current_link_width")] {
        // Not every container shows the bus.
        if let Ok(value) = std::fs::read_to_string(format!("/sys/bus/pci/devices/{}/{file}", known.pci)) {
            report.say(name, value.trim());
        }
    }
    report.say("registers memory for reading alone", known.registers_read_only);
    report.figure("making the context", rig.opened_in.as_secs_f64() * 1e3, "ms");
    report.figure("loading kernels", rig.loaded_in.as_secs_f64() * 1e3, "ms");
    Ok(())
}
