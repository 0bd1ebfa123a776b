//! How another thread wakes a shard that sleeps on its sockets.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Wakes a shard from any thread: an eventfd that the shard's wire watches. Made before the shard, shared by its mailboxes, kept by whoever may
/// have news for it. A wake is never lost: one given while the shard is busy makes its next turn report [`super::Event::Woken`].
#[derive(Clone, Debug)]
pub struct Waker(Arc<File>);

impl Waker {
    /// A new eventfd. Error: no descriptor left.
    #[allow(unsafe_code)]
    pub fn new() -> io::Result<Waker> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above just returned this descriptor; nobody else owns it.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Waker(Arc::new(File::from(owned))))
    }

    /// Wakes the shard, now or, if it does not sleep, at its next turn.
    pub fn wake(&self) {
        // Cannot fail short of 2^64 - 1 unread wakes.
        let _ = (&*self.0).write(&1u64.to_ne_bytes());
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
