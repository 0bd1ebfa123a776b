//! How long a thread that sleeps takes to learn that the device is done.

use std::ffi::c_void;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Instant;

use gavel::engine::cuda::driver::{DriverError, Grid};
use rustix::event::{EventfdFlags, eventfd};

use super::launches::microseconds;
use crate::report::Report;
use crate::rig::{Probe, Rig};

/// An eventfd that the driver's call rings; a thread sleeps in a read of it.
pub fn run(rig: &Rig, report: &mut Report) -> Result<(), DriverError> {
    let turns = rig.size(500, 3);
    let Some((bell, mut sleeper)) = pair() else {
        report.note("waking", "the system gives no eventfd");
        return Ok(());
    };
    let (told, woken) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut count = [0; 8];
        while sleeper.read_exact(&mut count).is_ok() {
            let now = Instant::now();
            if told.send(now).is_err() {
                break;
            }
        }
    });
    let small = Grid { threads: 32, ..rig.blocks(1) };
    let (mut call, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        // Long enough that the other thread sleeps again.
        std::thread::sleep(std::time::Duration::from_micros(200));
        let began = Instant::now();
        // SAFETY: `nothing` uses no pointer.
        unsafe { rig.launch("nothing", small, &Probe::default())? };
        let before = Instant::now();
        // SAFETY: `ring` takes the address of a `File`, which lives until the stream is waited for below.
        unsafe { rig.stream.call(ring, (&raw const bell).cast())? };
        call.push(microseconds(before));
        let Ok(awake) = woken.recv() else { break };
        whole.push((awake - began).as_secs_f64() * 1e6);
    }
    rig.stream.wait()?;
    drop(woken);
    // One more ring, so that the thread sees that nobody listens.
    let _ = (&bell).write_all(&1_u64.to_ne_bytes());
    let _ = thread.join();
    report.times("asking for a call back: CPU until it is submitted", call);
    report.times("launch and call back, until a sleeping thread runs", whole);
    Ok(())
}

/// Two handles of one eventfd.
fn pair() -> Option<(File, File)> {
    let bell = eventfd(0, EventfdFlags::CLOEXEC).ok()?;
    let bell = File::from(bell);
    let sleeper = bell.try_clone().ok()?;
    Some((bell, sleeper))
}

/// Called by the driver.
unsafe extern "C" fn ring(argument: *mut c_void) {
    // SAFETY: the caller above hands out the address of a `File` that outlives the call.
    let mut bell = unsafe { &*argument.cast::<File>() };
    let _ = bell.write_all(&1_u64.to_ne_bytes());
}
