//! One shard's CUDA engine: slots with their graphs, batches under way.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::device::Device;
use super::driver::DriverError;
use super::slot::CudaSlot;
use crate::batch::{Slot, SlotLimits};
use crate::engine::slots::Slots;
use crate::engine::{Engine, EngineError, Prepared, SlotId, Step, Wake};
use crate::units::{Clock, Instant, Span};

/// Launches batches and looks for their scores. Of all models of an engine, one device is the first's: they share it.
pub struct CudaEngine {
    slots: Slots<CudaSlot>,
    /// In the order in which they were started. Never more than `limit`.
    flights: Vec<Flight>,
    device: Option<Arc<Device>>,
    limit: usize,
    /// At one place in memory, because the driver is given its address. Dropped after the slots, whose streams are waited for.
    wake: Option<Box<Wake>>,
}

/// A batch under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flight {
    slot: SlotId,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No permit yet.
    Waiting,
    /// On the device.
    Running {
        /// When the driver is asked whether it still runs, and when it has run for too long; unknown before the first look.
        times: Option<(Instant, Instant)>,
        /// A call of [`ring`] is queued behind it.
        rings: bool,
    },
    /// Nothing to compute.
    Empty,
    /// The device is lost.
    Failed,
}

impl CudaEngine {
    /// An engine without models.
    pub fn new() -> CudaEngine {
        CudaEngine { slots: Slots::new(), flights: Vec::new(), device: None, limit: 1, wake: None }
    }

    fn is_in_flight(&self, id: SlotId) -> bool {
        self.flights.iter().any(|flight| flight.slot == id)
    }

    /// Launches a batch if there is a permit for it.
    fn launch(slots: &mut Slots<CudaSlot>, id: SlotId) -> Phase {
        let slot = slots.get(id);
        let device = Arc::clone(slot.loaded().device());
        if device.fault().is_some() {
            return Phase::Failed;
        }
        if slot.slot().rows() == 0 {
            return Phase::Empty;
        }
        if !device.permits().take() {
            return Phase::Waiting;
        }
        match slot.launch() {
            Ok(()) => Phase::Running { times: None, rings: false },
            Err(error) => {
                device.fail(&error);
                device.permits().give();
                Phase::Failed
            }
        }
    }

    /// What became of a batch; `None` while it is under way.
    fn look(&mut self, at: usize, now: Instant) -> Option<Step> {
        let Flight { slot: id, phase } = self.flights[at];
        match phase {
            Phase::Empty => Some(Step::Done(id)),
            Phase::Failed => Some(Step::Failed(id)),
            Phase::Waiting => {
                self.flights[at].phase = CudaEngine::launch(&mut self.slots, id);
                None
            }
            Phase::Running { mut times, rings } => {
                let slot = self.slots.get(id);
                let device = slot.loaded().device();
                if slot.has_scores() {
                    device.permits().give();
                    return Some(CudaEngine::end(slot, id));
                }
                let (check_at, end_at) = *times.get_or_insert((now + CHECK_EVERY, now + RUNS_AT_MOST));
                if now < check_at && device.fault().is_none() {
                    self.flights[at].phase = Phase::Running { times, rings };
                    return None;
                }
                match slot.stream().is_done() {
                    Ok(false) if device.fault().is_none() && now < end_at => {
                        self.flights[at].phase = Phase::Running { times: Some((now + CHECK_EVERY, end_at)), rings };
                        return None;
                    }
                    // The word may have come between the two questions.
                    Ok(true) if slot.has_scores() => {
                        device.permits().give();
                        return Some(CudaEngine::end(slot, id));
                    }
                    Ok(true) => device.fail(&"kernels ended without saying that scores are there"),
                    Ok(false) if device.fault().is_none() => device.fail(&"a batch has run for 10 s: its kernels do not end"),
                    Ok(false) => {}
                    Err(error) => device.fail(&error),
                }
                // What may still run is not waited for: it could be for ever. The device is lost, so no slot's scores are read any more.
                device.permits().give();
                Some(Step::Failed(id))
            }
        }
    }

    /// What a batch whose kernels are through came to.
    fn end(slot: &CudaSlot, id: SlotId) -> Step {
        if slot.takes_unknown_ids() {
            slot.loaded().report_unknown_ids();
            return Step::Failed(id);
        }
        Step::Done(id)
    }

    /// Has the driver ring when the batches that run are done; false if one of them is done or cannot be waited for.
    fn arm(&mut self) -> Result<bool, (Arc<Device>, DriverError)> {
        if self.flights.is_empty() {
            return Ok(true);
        }
        let Some(wake) = &self.wake else { return Ok(false) };
        let argument = (&raw const **wake).cast::<c_void>();
        for flight in &mut self.flights {
            let Phase::Running { rings, .. } = &mut flight.phase else { return Ok(false) };
            let slot = self.slots.get(flight.slot);
            if slot.has_scores() {
                return Ok(false);
            }
            if !*rings {
                // SAFETY: `ring` takes a `Wake`, which lives until the slots, whose streams are waited for, are gone.
                unsafe { slot.stream().call(ring, argument) }.map_err(|error| (Arc::clone(slot.loaded().device()), error))?;
                *rings = true;
            }
        }
        Ok(true)
    }
}

impl Default for CudaEngine {
    fn default() -> CudaEngine {
        CudaEngine::new()
    }
}

impl Engine for CudaEngine {
    fn attach(&mut self, model: &Prepared, slots: usize, limits: SlotLimits) -> Result<Vec<SlotId>, EngineError> {
        let Prepared::Cuda(loaded) = model else {
            panic!("a model prepared for another engine");
        };
        let device = loaded.device();
        device.context().bind().map_err(device.error("a shard's thread"))?;
        let made = self.slots.take_in(CudaSlot::make(loaded, limits, slots)?);
        if self.device.is_none() {
            self.limit = device.options().in_flight_per_shard.max(1);
            self.flights.reserve(self.limit);
            self.device = Some(Arc::clone(device));
        }
        Ok(made)
    }

    fn detach(&mut self, slots: &[SlotId]) {
        assert!(!slots.iter().any(|slot| self.is_in_flight(*slot)), "a slot in flight stays");
        self.slots.remove(slots);
    }

    fn slot(&mut self, id: SlotId) -> &mut Slot {
        assert!(!self.is_in_flight(id), "a slot in flight belongs to the engine");
        self.slots.get(id).slot()
    }

    fn start(&mut self, id: SlotId) {
        assert!(self.flights.len() < self.limit, "no more than the capacity in flight");
        assert!(!self.is_in_flight(id), "a slot is started once");
        let phase = CudaEngine::launch(&mut self.slots, id);
        self.flights.push(Flight { slot: id, phase });
    }

    fn step(&mut self, clock: &Clock, _: Instant) -> Step {
        if self.flights.is_empty() {
            return Step::Idle;
        }
        let now = clock.now();
        for at in 0..self.flights.len() {
            if let Some(step) = self.look(at, now) {
                self.flights.remove(at);
                return step;
            }
        }
        std::hint::spin_loop();
        Step::Pending
    }

    fn in_flight(&self) -> usize {
        self.flights.len()
    }

    fn capacity(&self) -> usize {
        match &self.device {
            // Requests gather in the open slot while the device is busy with batches of other shards.
            Some(device) if device.fault().is_none() && !device.permits().is_any_free() => self.flights.len(),
            _ => self.limit,
        }
    }

    fn works_in_steps(&self) -> bool {
        false
    }

    fn wake_with(&mut self, wake: Wake) {
        assert!(self.flights.is_empty(), "the driver may hold the address of the last one");
        self.wake = Some(Box::new(wake));
    }

    fn may_sleep(&mut self) -> bool {
        match self.arm() {
            Ok(armed) => armed,
            Err((device, error)) => {
                device.fail(&error);
                false
            }
        }
    }
}

impl Drop for CudaEngine {
    fn drop(&mut self) {
        for flight in self.flights.drain(..) {
            if let Phase::Running { .. } = flight.phase {
                let slot = self.slots.get(flight.slot);
                let _ = slot.stream().wait();
                slot.loaded().device().permits().give();
            }
        }
    }
}

/// Called by the driver when a batch is done.
unsafe extern "C" fn ring(argument: *mut c_void) {
    // SAFETY: `arm` hands out the address of the engine's `Wake`, which outlives the stream's work.
    let wake = unsafe { &*argument.cast::<Wake>() };
    let _ = catch_unwind(AssertUnwindSafe(|| wake()));
}

/// How long a batch may run before the driver is asked whether it still does: a call takes about a microsecond, and answers only after a fault.
const CHECK_EVERY: Span = Span::from_ms(1);
/// A batch that takes longer will never end.
const RUNS_AT_MOST: Span = Span::from_ms(10_000);
