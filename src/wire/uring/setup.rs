//! Making the ring: which set-up flags this kernel takes.

use std::io;
use std::time::Duration;

use io_uring::IoUring;

/// How completions reach the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingKind {
    /// `SINGLE_ISSUER | DEFER_TASKRUN`: work of the kernel runs only when the shard enters it (Linux 6.1).
    Deferred,
    /// `COOP_TASKRUN`: at the next entry into the kernel, whichever it is (Linux 5.19).
    Cooperative,
    /// No flags: the thread is interrupted.
    Plain,
}

/// Makes a ring with the best flags that the kernel knows; with an `ENOMEM` it waits a little first, because the memory of a predecessor's rings
/// (a restarted pod) is given back late. Must be called by the thread that will use the ring.
///
/// Multishot receive needs Linux 6.0; an older kernel shows it at the first receive (the preflight of the server tries one).
pub fn make_ring(entries: u32, completions: u32) -> io::Result<(IoUring, RingKind)> {
    let mut attempt = 0;
    loop {
        match make_once(entries, completions) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && attempt < ENOMEM_RETRIES => {
                attempt += 1;
                std::thread::sleep(ENOMEM_PAUSE);
            }
            other => return other,
        }
    }
}

fn make_once(entries: u32, completions: u32) -> io::Result<(IoUring, RingKind)> {
    for kind in [RingKind::Deferred, RingKind::Cooperative] {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(completions).setup_taskrun_flag().setup_coop_taskrun();
        if kind == RingKind::Deferred {
            builder.setup_single_issuer().setup_defer_taskrun();
        }
        match builder.build(entries) {
            Ok(ring) => return Ok((ring, kind)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((IoUring::builder().setup_cqsize(completions).build(entries)?, RingKind::Plain))
}

const ENOMEM_RETRIES: u32 = 4;
const ENOMEM_PAUSE: Duration = Duration::from_millis(50);
