//! Batches for benches: the slots that the engine has, with each launch to be had alone and timed by the device's own clock.

use std::sync::Arc;
use std::time::Duration;

use super::calls::LaunchShape;
use super::driver::{DriverError, Event, Stream};
use super::loaded::Loaded;
use super::slot::CudaSlot;
use crate::batch::{Slot, SlotLimits};
use crate::engine::EngineError;

/// Slots of one size that take turns, so that no launch finds the inputs and values of the one before in the caches.
pub struct Batches {
    slots: Vec<CudaSlot>,
    stream: Stream,
    events: [Event; 2],
}

impl Batches {
    /// So many slots.
    pub fn new(loaded: &Arc<Loaded>, limits: SlotLimits, count: usize) -> Result<Batches, EngineError> {
        let device = loaded.device();
        let failed = || device.error("slots to be timed");
        let context = device.context();
        context.bind().map_err(failed())?;
        let slots = CudaSlot::make(loaded, limits, count.max(1))?;
        let stream = Stream::new(context).map_err(failed())?;
        let events = [Event::new(context).map_err(failed())?, Event::new(context).map_err(failed())?];
        Ok(Batches { slots, stream, events })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// A slot, to be filled. Nothing runs in it: every call here waits for what it launched.
    pub fn slot(&mut self, at: usize) -> &mut Slot {
        self.slots[at].slot()
    }

    /// The launches of the batch in the first slot, in order.
    pub fn launches(&self) -> Vec<LaunchShape> {
        self.slots[0].launches()
    }

    /// Runs the batch of every slot once and waits: each has then everything that its launches read.
    pub fn run(&mut self) -> Result<(), DriverError> {
        self.slots.iter_mut().try_for_each(|slot| slot.launch_in(&self.stream))?;
        self.stream.wait()
    }

    /// How long the device takes for a batch, `turns` of them one behind the other: copies, launches and what is between them.
    pub fn time_batches(&mut self, turns: usize) -> Result<Duration, DriverError> {
        self.time(turns, |slot, stream| slot.launch_in(stream))
    }

    /// How long the device takes for one launch, `turns` of it one behind the other.
    pub fn time_launch(&mut self, at: usize, turns: usize) -> Result<Duration, DriverError> {
        self.time(turns, |slot, stream| slot.launch_alone(at, stream))
    }

    /// How long the device takes to copy the inputs of a batch; zero if kernels read them where they lie.
    pub fn time_copies(&mut self, turns: usize) -> Result<Duration, DriverError> {
        self.time(turns, |slot, stream| slot.copy_alone(stream))
    }

    fn time(
        &mut self,
        turns: usize,
        mut launch: impl FnMut(&mut CudaSlot, &Stream) -> Result<(), DriverError>,
    ) -> Result<Duration, DriverError> {
        let turns = turns.max(1);
        let count = self.slots.len();
        self.events[0].record(&self.stream)?;
        for turn in 0..turns {
            launch(&mut self.slots[turn % count], &self.stream)?;
        }
        self.events[1].record(&self.stream)?;
        self.stream.wait()?;
        Ok(self.events[1].since(&self.events[0])? / turns as u32)
    }
}
