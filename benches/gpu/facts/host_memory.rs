//! Which memory the device and io_uring can share: what slots and tables may lie in.

use std::fs::OpenOptions;
use std::io::Write;

use gavel::engine::cuda::driver::{DriverError, HostMemory, RegisteredMemory};
use io_uring::IoUring;
use memmap2::{MmapMut, MmapOptions};

use crate::report::Report;
use crate::rig::Rig;

const BYTES: usize = 4 << 20;

/// Registers each kind with the driver, and with a ring.
pub fn run(rig: &Rig, report: &mut Report) -> Result<(), DriverError> {
    match gavel::server::preflight::check() {
        Ok(kind) => report.say("io_uring", gavel::server::preflight::kind_text(kind)),
        Err(reason) => report.say("io_uring", format!("refused: {reason}")),
    }
    let driver = HostMemory::new(&rig.context, BYTES, false)?;
    report.note("a ring's buffers in the driver's own memory", &ring_takes(driver.as_ptr()));

    for huge in [false, true] {
        let kind = if huge { "anonymous memory, huge pages advised" } else { "anonymous memory" };
        let Ok(mut memory) = MmapMut::map_anon(BYTES) else { continue };
        if huge && let Err(error) = memory.advise(memmap2::Advice::HugePage) {
            report.note(kind, &format!("the kernel gives no huge pages: {error}"));
        }
        memory.fill(1);
        try_kind(rig, report, kind, memory.as_mut_ptr(), false);
    }

    let mut files = || -> std::io::Result<()> {
        let path = tempfile::NamedTempFile::new()?.into_temp_path();
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        file.write_all(&vec![1; BYTES])?;
        // SAFETY: a file of our own that nobody else changes while it is mapped.
        let mut shared = unsafe { MmapMut::map_mut(&file)? };
        try_kind(rig, report, "a file, shared and writable", shared.as_mut_ptr(), false);
        // SAFETY: as above.
        let mut private = unsafe { MmapOptions::new().map_copy(&file)? };
        try_kind(rig, report, "a file, private", private.as_mut_ptr(), false);
        // SAFETY: as above.
        let read_only = unsafe { MmapOptions::new().map(&file)? };
        try_kind(rig, report, "a file, for reading alone", read_only.as_ptr().cast_mut(), true);
        Ok(())
    };
    if let Err(error) = files() {
        report.note("files", &format!("not tried: {error}"));
    }
    Ok(())
}

fn try_kind(rig: &Rig, report: &mut Report, kind: &str, memory: *mut u8, read_only: bool) {
    // SAFETY: the caller's mapping lives beyond this function; nothing is launched on it.
    let registered = unsafe {
        match read_only {
            true => RegisteredMemory::read_only(&rig.context, memory, BYTES),
            false => RegisteredMemory::new(&rig.context, memory, BYTES),
        }
    };
    report.note(&format!("registering {kind}"), &registered.as_ref().map_or_else(ToString::to_string, |_| "yes".into()));
    report.note(&format!("a ring's buffers in {kind}"), &ring_takes(memory));
}

/// Whether a ring takes `BYTES` bytes there as its buffers.
fn ring_takes(memory: *mut u8) -> String {
    let ring = match IoUring::new(8) {
        Ok(ring) => ring,
        Err(error) => return format!("no ring: {error}"),
    };
    let buffers = [libc::iovec { iov_base: memory.cast(), iov_len: BYTES }];
    // SAFETY: the memory is mapped beyond the ring's life, which ends here; no operation uses it.
    match unsafe { ring.submitter().register_buffers(&buffers) } {
        Ok(()) => "yes".into(),
        Err(error) => format!("no: {error}"),
    }
}
