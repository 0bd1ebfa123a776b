//! Can this process use io_uring as the wire does? Tried, not guessed: a ring with the wire's flags, its operations, provided buffers, and one
//! byte through a multishot receive.

use std::io::{Error, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use io_uring::{Probe, opcode};

use super::setup::make_ring;
use super::{RingKind, UringOptions, UringWire};
use crate::units::Span;
use crate::wire::{Event, Waker, Wire, WireLimits};

/// Where the probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeStep {
    /// Making the ring.
    Setup,
    /// An operation that the wire needs is missing.
    Operation(&'static str),
    /// Registering buffers and the eventfd.
    Register,
    /// Receiving a byte.
    Receive,
}

/// What the kernel said, and at which step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeFailure {
    /// Where.
    pub step: ProbeStep,
    /// The errno.
    pub errno: i32,
}

/// Tries everything that the wire on io_uring needs. Touches nothing outside this call, and no executor.
pub fn probe() -> Result<RingKind, ProbeFailure> {
    // A thread of its own: a ring with SINGLE_ISSUER belongs to its thread, and a thread's end proves that it can be torn down.
    std::thread::spawn(attempt).join().unwrap_or(Err(ProbeFailure { step: ProbeStep::Setup, errno: libc::EFAULT }))
}

fn attempt() -> Result<RingKind, ProbeFailure> {
    let at = |step| move |error: Error| ProbeFailure { step, errno: error.raw_os_error().unwrap_or(libc::EINVAL) };
    let options = UringOptions { buffers: 8, buffer_bytes: 4096, entries: 8, completions: 16 };
    {
        let (ring, _) = make_ring(options.entries, options.completions).map_err(at(ProbeStep::Setup))?;
        let mut operations = Probe::new();
        ring.submitter().register_probe(&mut operations).map_err(at(ProbeStep::Register))?;
        for (name, code) in OPERATIONS {
            if !operations.is_supported(code) {
                return Err(ProbeFailure { step: ProbeStep::Operation(name), errno: libc::EOPNOTSUPP });
            }
        }
    }
    let limits = WireLimits { connections_max: 1, receive_bytes_max: 4096, send_bytes_max: 4096 };
    let waker = Waker::new().map_err(at(ProbeStep::Register))?;
    let mut wire = UringWire::new(limits, options, waker).map_err(at(ProbeStep::Register))?;
    let (mut near, far) = UnixStream::pair().map_err(at(ProbeStep::Receive))?;
    let connection = wire.adopt(OwnedFd::from(far)).map_err(at(ProbeStep::Receive))?;
    near.write_all(&[BYTE]).map_err(at(ProbeStep::Receive))?;
    for _ in 0..TURNS_MAX {
        wire.wait(Some(Span::from_ms(10))).map_err(at(ProbeStep::Receive))?;
        while let Some(event) = wire.next() {
            match event {
                Event::Received(id) if id == connection && wire.received(id) == [BYTE] => return Ok(wire.kind()),
                Event::Closed(_, super::super::Cause::Error(errno)) => return Err(ProbeFailure { step: ProbeStep::Receive, errno }),
                _ => {}
            }
        }
    }
    Err(ProbeFailure { step: ProbeStep::Receive, errno: libc::ETIMEDOUT })
}

/// What the wire submits.
const OPERATIONS: [(&str, u8); 5] = [
    ("RECV", opcode::Recv::CODE),
    ("SEND", opcode::Send::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    ("TIMEOUT", opcode::Timeout::CODE),
    ("TIMEOUT_REMOVE", opcode::TimeoutUpdate::CODE),
];

const BYTE: u8 = 0x67;
const TURNS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_passes_or_names_its_step() {
        match probe() {
            Ok(kind) => println!("io_uring works here: {kind:?}"),
            Err(failure) => println!("skipped: io_uring is refused here: {failure:?}"),
        }
    }
}
