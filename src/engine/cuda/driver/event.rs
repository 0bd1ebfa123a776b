//! Marks in a stream: whether it came so far, and how long it took from one to the other.

use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys;

use super::error::check_ready;
use super::{Context, DriverError, Stream, check, functions};

/// A mark with a time of the device's own clock.
#[derive(Debug)]
pub struct Event {
    context: Arc<Context>,
    raw: sys::CUevent,
}

impl Event {
    /// A mark that is nowhere yet.
    pub fn new(context: &Arc<Context>) -> Result<Event, DriverError> {
        context.bind()?;
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` is a place for a handle.
        check(unsafe { functions::cuEventCreate(&mut raw, sys::CUevent_flags::CU_EVENT_DEFAULT as u32) }, "making an event")?;
        Ok(Event { context: Arc::clone(context), raw })
    }

    /// Puts it behind everything that is in the stream now.
    pub fn record(&self, stream: &Stream) -> Result<(), DriverError> {
        // SAFETY: both handles live until they are dropped.
        check(unsafe { functions::cuEventRecord(self.raw, stream.raw()) }, "recording an event")
    }

    /// Whether the stream came so far. Does not block.
    pub fn is_done(&self) -> Result<bool, DriverError> {
        // SAFETY: the handle lives until `drop`.
        check_ready(unsafe { functions::cuEventQuery(self.raw) }, "running what is before an event")
    }

    /// Waits until the stream came so far.
    pub fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the handle lives until `drop`.
        check(unsafe { functions::cuEventSynchronize(self.raw) }, "running what is before an event")
    }

    /// How long the device took from `before` to here. Both were reached.
    pub fn since(&self, before: &Event) -> Result<Duration, DriverError> {
        let mut milliseconds = 0.0_f32;
        // SAFETY: `milliseconds` is a place for a float; both handles live.
        check(unsafe { functions::cuEventElapsedTime(&mut milliseconds, before.raw, self.raw) }, "reading the time between events")?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made in `new`, destroyed once.
            let _ = unsafe { functions::cuEventDestroy_v2(self.raw) };
        }
    }
}
