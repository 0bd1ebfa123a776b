//! How another thread wakes a shard that sleeps on its sockets.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Wakes a shard from any thread: a flag that a busy shard looks at, and an eventfd that a sleeping one waits on. Made before the shard, shared by
/// its mailboxes, kept by whoever may have news for it. A wake is never lost: the flag is up before the eventfd is written.
///
/// On io_uring the same eventfd is the one that the ring signals. A second one, read through the ring, would not do: a ring that is woken by the
/// write to one eventfd signals its own later and, on the kernel measured (6.18), only the first time.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    eventfd: File,
}

impl Waker {
    /// A new eventfd. Error: no descriptor left.
    pub fn new() -> io::Result<Waker> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above just returned this descriptor; nobody else owns it.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Waker(Arc::new(Bell { rung: AtomicBool::new(false), eventfd: File::from(owned) })))
    }

    /// Wakes the shard, now or, if it does not sleep, at its next turn. What was written before is seen by the shard afterwards.
    pub fn wake(&self) {
        self.0.rung.store(true, Ordering::Release);
        // Cannot fail short of 2^64 - 1 unread wakes.
        let _ = (&self.0.eventfd).write(&1u64.to_ne_bytes());
    }

    /// Whether it was used since the last call. One read of a line that only senders write.
    pub(super) fn take(&self) -> bool {
        self.0.rung.load(Ordering::Acquire) && self.0.rung.swap(false, Ordering::AcqRel)
    }

    /// Whether it was used.
    pub(super) fn is_rung(&self) -> bool {
        self.0.rung.load(Ordering::Acquire)
    }

    /// The eventfd under another descriptor, as the kind of file that an executor reads.
    pub(super) fn duplicate<F: FromRawFd>(&self) -> io::Result<F> {
        let duplicate = self.0.eventfd.try_clone()?;
        // SAFETY: the duplicate was just made and is handed over.
        Ok(unsafe { F::from_raw_fd(duplicate.into_raw_fd()) })
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.eventfd.as_fd()
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.0.eventfd.as_raw_fd()
    }
}
