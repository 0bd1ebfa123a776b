//! A slot with everything that a batch in it needs on the device, and the graphs that run it.
//!
//! ```text
//!   host, registered   [control: header | done] of each slot, [slot: inputs .. scores] of each: one arena
//!   device             staged inputs   kept   work   scratch   blocks done
//!   graphs             one per bucket of candidates: (copies,) kernels
//! ```

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{iter, ptr};

use super::buckets::{Shape, buckets, shape};
use super::calls::{Call, LaunchShape};
use super::driver::{DeviceMemory, DriverError, Graph, RegisteredMemory, Stream};
use super::inputs::{Copy, Inputs, Placed, copied_bytes};
use super::job::{DevicePointer, Header, Job, WORK_ROWS_ALIGN};
use super::loaded::Loaded;
use crate::batch::{Arena, Piece, Slot, SlotLimits};
use crate::engine::EngineError;
use crate::engine::slots::no_memory;

/// One slot. Fields are dropped in this order: nothing runs any more when memory goes, and what is registered goes before what holds it.
pub struct CudaSlot {
    stream: Stream,
    buckets: Vec<Bucket>,
    _device_memory: Vec<DeviceMemory>,
    control: Control,
    /// Shared with the slots that were made with it.
    _registered: Rc<RegisteredMemory>,
    slot: Slot,
    loaded: Arc<Loaded>,
}

/// What runs batches of up to so many candidates.
struct Bucket {
    rows: usize,
    graph: Graph,
    /// What the graph was recorded from, for launches without it.
    parts: Parts,
}

/// A graph's copies and launches.
struct Parts {
    copied: Vec<Placed>,
    job: Job,
    calls: Vec<Call>,
    workspace: DevicePointer,
}

impl CudaSlot {
    /// Makes so many slots, with memory on the device and graphs. Their host memory is one arena, registered as a whole.
    pub fn make(loaded: &Arc<Loaded>, limits: SlotLimits, count: usize) -> Result<Vec<CudaSlot>, EngineError> {
        let (device, layout) = (loaded.device(), &loaded.program().layout);
        // Headers and words lie side by side, before the rows.
        let controls = iter::repeat_n(CONTROL_BYTES, count);
        let sizes = controls.chain(iter::repeat_n(Slot::bytes(layout, limits), count));
        let (arena, mut controls) = Arena::share_out(sizes).map_err(no_memory(layout, limits, count))?;
        let slots = controls.split_off(count);
        arena.prefer_huge_pages();
        let (memory, bytes) = arena.memory();
        // SAFETY: each slot holds a piece of the arena and drops it after its share of the registration. Rust code touches it through slots, which the
        // engine hands out only while the device does not work on them, and word by word through `Control`.
        let registered = unsafe { RegisteredMemory::new(device.context(), memory, bytes) }
            .map_err(device.error(format!("{count} slots of {} candidates: {bytes} bytes of host memory", limits.rows)))?;
        let registered = Rc::new(registered);
        let made = controls.into_iter().zip(slots).map(|(control, slot)| {
            let control = Control { address: registered.address() + control.offset() as u64, memory: control, expected: 0 };
            CudaSlot::new(loaded, limits, &registered, control, slot)
        });
        made.collect()
    }

    fn new(
        loaded: &Arc<Loaded>,
        limits: SlotLimits,
        registered: &Rc<RegisteredMemory>,
        control: Control,
        memory: Piece,
    ) -> Result<CudaSlot, EngineError> {
        let (device, program) = (loaded.device(), loaded.program());
        let context = device.context();
        let failed = |what: &str| device.error(format!("a slot of {} candidates: {what}", limits.rows));
        let inputs_at = registered.address() + memory.offset() as u64;
        let slot = Slot::within(memory, Arc::clone(&program.layout), limits);
        let memory = slot.memory();
        let shapes: Vec<Shape> = buckets(limits.rows, &program.variants).into_iter().map(|rows| shape(loaded, rows, limits)).collect();

        let mut device_memory = Vec::new();
        let mut take = |bytes: usize, what: &str| -> Result<DevicePointer, EngineError> {
            let memory = DeviceMemory::zeroed(context, bytes).map_err(failed(&format!("{bytes} bytes of device memory for {what}")))?;
            let address = memory.address();
            device_memory.push(memory);
            Ok(address)
        };
        let work_rows = limits.rows.next_multiple_of(WORK_ROWS_ALIGN);
        let mapped = Inputs::mapped(inputs_at, slot.map());
        let job = Job {
            header: control.address + HEADER_AT as u64,
            contexts: mapped.contexts,
            candidates: mapped.candidates,
            row_context: mapped.row_context,
            weights: loaded.weights(),
            tables: loaded.table_addresses(),
            kept: take(limits.contexts * program.needs.kept_bytes, "kept values")?,
            work: take(work_rows * program.needs.work_bytes, "values between kernels")?,
            work_rows: work_rows as u64,
            scratch: take(shapes.iter().map(|shape| shape.scratch_bytes).max().unwrap_or(0), "scratch memory")?,
            scores: inputs_at + slot.map().scores.start as u64,
            blocks_done: take(BLOCKS_DONE_BYTES, "a counter")?,
            done: control.address + DONE_AT as u64,
        };
        let workspace = take(shapes.iter().map(|shape| shape.workspace_bytes).max().unwrap_or(0), "products of cuBLASLt")?;
        let copy_from = device.options().copy_from_bytes;
        let is_copied = |rows: usize| copied_bytes(&program.layout, rows) >= copy_from;
        let staging = match is_copied(limits.rows) {
            true => take(mapped.copies(slot.map(), &program.layout, limits.rows).iter().map(Copy::room).sum(), "copied inputs")?,
            false => 0,
        };

        let stream = Stream::new(context).map_err(failed("a stream"))?;
        let mut captured = Vec::with_capacity(shapes.len());
        let mut firsts = Vec::new();
        for (number, shape) in shapes.iter().enumerate() {
            if number == 0 || shapes[number - 1].variant != shape.variant {
                firsts.push(number);
            }
            let copies = if is_copied(shape.rows) { mapped.copies(slot.map(), &program.layout, shape.rows) } else { vec![] };
            let inputs = mapped.staged(&copies, staging, &mapped.copies(slot.map(), &program.layout, limits.rows));
            let job = Job { candidates: inputs.candidates, row_context: inputs.row_context, ..job };
            let parts = Parts { copied: inputs.copied, job, calls: shape.calls.clone(), workspace };
            let graph = stream.capture(|stream| parts.record(stream, memory)).map_err(failed("a graph"))?;
            captured.push(Bucket { rows: shape.rows, graph, parts });
        }
        let mut made = CudaSlot {
            stream,
            buckets: captured,
            _device_memory: device_memory,
            control,
            _registered: Rc::clone(registered),
            slot,
            loaded: Arc::clone(loaded),
        };
        for at in firsts {
            made.try_out(at).map_err(failed("a batch without rows"))?;
            if !made.has_scores() {
                return Err(EngineError::Unavailable {
                    engine: "cuda",
                    reason: format!("kernels of {} do not say when they are done", program.model.name),
                    remedy: "this is a defect of gavel: report it, and serve the model with --engine cpu meanwhile".into(),
                });
            }
        }
        Ok(made)
    }

    /// Runs a bucket without rows: code that the driver loads late, and calls that it prepares at first use, are there when serving begins.
    fn try_out(&mut self, at: usize) -> Result<(), DriverError> {
        self.launch_bucket(at, 0, 0)?;
        // SAFETY: the function takes whatever there is, and does nothing.
        unsafe { self.stream.call(nothing, ptr::null())? };
        self.stream.is_done()?;
        self.stream.wait()
    }

    /// What it runs.
    pub fn loaded(&self) -> &Arc<Loaded> {
        &self.loaded
    }

    /// The batch. Only while it is not launched.
    pub fn slot(&mut self) -> &mut Slot {
        &mut self.slot
    }

    /// Hands the batch to the device; it has at least one candidate.
    pub fn launch(&mut self) -> Result<(), DriverError> {
        let at = self.begin();
        self.buckets[at].graph.launch(&self.stream)
    }

    fn launch_bucket(&mut self, at: usize, rows: usize, contexts: usize) -> Result<(), DriverError> {
        self.control.next(rows, contexts);
        self.buckets[at].graph.launch(&self.stream)
    }

    /// Writes the header of the next batch; gives its bucket.
    fn begin(&mut self) -> usize {
        let rows = self.slot.rows();
        self.control.next(rows, self.slot.segments().len());
        self.bucket(rows)
    }

    fn bucket(&self, rows: usize) -> usize {
        self.buckets.partition_point(|bucket| bucket.rows < rows)
    }

    /// Whether the scores of the batch that was launched are there. Reads one word.
    pub fn has_scores(&self) -> bool {
        self.control.done() == self.control.expected
    }

    /// Whether kernels met an id that its table does not have, in the batch whose scores are there; forgets it. Such scores must not be used.
    pub fn takes_unknown_ids(&self) -> bool {
        let unknown = self.control.unknown();
        let is_this = unknown.load(Ordering::Relaxed) == self.control.expected;
        if is_this {
            unknown.store(0, Ordering::Relaxed);
        }
        is_this
    }

    /// As `launch`, in a stream that benches share among slots.
    pub fn launch_in(&mut self, stream: &Stream) -> Result<(), DriverError> {
        let at = self.begin();
        self.buckets[at].graph.launch(stream)
    }

    /// Only one launch of the batch's, which ran as a whole before.
    pub fn launch_alone(&self, at: usize, stream: &Stream) -> Result<(), DriverError> {
        let parts = &self.buckets[self.bucket(self.slot.rows())].parts;
        // SAFETY: as when the graph was recorded.
        unsafe { parts.calls[at].put(stream, &parts.job, parts.workspace) }
    }

    /// Only the copies of the batch's inputs, if there are any.
    pub fn copy_alone(&mut self, stream: &Stream) -> Result<(), DriverError> {
        let memory = self.slot.memory();
        let parts = &self.buckets[self.bucket(self.slot.rows())].parts;
        // SAFETY: as when the graph was recorded.
        parts.copied.iter().try_for_each(|copy| unsafe { stream.copy(memory.add(copy.from), copy.to, copy.bytes) })
    }

    /// The launches of the batch.
    pub fn launches(&self) -> Vec<LaunchShape> {
        let parts = &self.buckets[self.bucket(self.slot.rows())].parts;
        parts.calls.iter().map(LaunchShape::of).collect()
    }

    /// What the batch runs in.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }
}

impl Parts {
    fn record(&self, stream: &Stream, memory: *const u8) -> Result<(), DriverError> {
        for copy in &self.copied {
            // SAFETY: both ranges belong to the slot that owns the graph. The source lies within the slot's memory; shards do not write there while
            // the graph runs.
            unsafe { stream.copy(memory.add(copy.from), copy.to, copy.bytes)? };
        }
        for call in &self.calls {
            // SAFETY: everything that the job points to, and the workspace, belongs to the slot that owns the graph, or to what is loaded.
            unsafe { call.put(stream, &self.job, self.workspace)? };
        }
        Ok(())
    }
}

/// The header that the device reads and the word that it writes, on cache lines of their own.
struct Control {
    memory: Piece,
    /// Where the device sees it.
    address: DevicePointer,
    expected: u32,
}

impl Control {
    /// Writes the header of the next batch, with the number that is expected back: never 0.
    fn next(&mut self, rows: usize, contexts: usize) {
        self.expected = self.expected.checked_add(1).unwrap_or(1);
        let header = Header { rows: rows as u32, contexts: contexts as u32, sequence: self.expected, reserved: 0 };
        // SAFETY: the header's place in the mapping; the device reads it only while a batch runs, and none does.
        unsafe { ptr::write_volatile(self.memory.as_ptr().add(HEADER_AT).cast::<Header>(), header) };
    }

    /// The last batch whose scores are there.
    fn done(&self) -> u32 {
        self.word(DONE_AT).load(Ordering::Acquire)
    }

    /// The last batch with an id that its table does not have, 0 for none: known once its scores are there.
    fn unknown(&self) -> &AtomicU32 {
        self.word(DONE_AT + size_of::<u32>())
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: an aligned word of the mapping that the device writes while we read; `at` is one of the two above.
        unsafe { AtomicU32::from_ptr(self.memory.as_ptr().add(at).cast::<u32>()) }
    }
}

/// For [`CudaSlot::try_out`].
unsafe extern "C" fn nothing(_: *mut std::ffi::c_void) {}

const CONTROL_BYTES: usize = 512;
const HEADER_AT: usize = 0;
/// Neither the header's cache line nor the one that is fetched along with it.
const DONE_AT: usize = 256;
const BLOCKS_DONE_BYTES: usize = 256;
