//! The end of a wire: the kernel gives back everything it has before the memory goes away.

use std::time::{Duration, Instant};

use io_uring::cqueue;
use io_uring::types::{CancelBuilder, Timespec};

use super::UringWire;
use super::entries::ENTER_GETEVENTS;
use super::operation::Operation;
use crate::wire::region::Region;

impl Drop for UringWire {
    /// Ends every operation before the memory that it uses goes away. Should the kernel not give something back in time, that memory is leaked.
    fn drop(&mut self) {
        let until = Instant::now() + DROP_PATIENCE;
        while self.under_way > 0 && Instant::now() < until {
            let _ = self.ring.submit();
            let cancelled =
                self.ring.submitter().register_sync_cancel(Some(Timespec::from(Duration::from_millis(10))), CancelBuilder::any());
            // SAFETY: no argument is passed.
            let _ = unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 0, ENTER_GETEVENTS, None) };
            while let Some(entry) = self.ring.completion().next() {
                let is_last = match Operation::unpack(entry.user_data()) {
                    Some(Operation::Receive(_)) => !cqueue::more(entry.flags()),
                    Some(Operation::Send(_)) => true,
                    _ => false,
                };
                self.under_way -= usize::from(is_last);
            }
            if cancelled.is_err() {
                std::thread::yield_now();
            }
        }
        if self.under_way > 0 {
            std::mem::forget(std::mem::replace(&mut self._region, Region::nothing()));
            self.pool.leak();
        }
    }
}

/// How long a wire waits for the kernel when it is dropped.
const DROP_PATIENCE: Duration = Duration::from_secs(2);
