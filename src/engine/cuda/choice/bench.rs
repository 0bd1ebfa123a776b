//! Wide layers alone on the device: made-up values between kernels, each way launched, compared and timed.

use std::time::Duration;

use half::bf16;

use crate::engine::EngineError;
use crate::engine::cuda::buckets::grid;
use crate::engine::cuda::calls::Call;
use crate::engine::cuda::device::Device;
use crate::engine::cuda::driver::{DeviceMemory, DriverError, Event, Matmul, MatmulShape, Stream};
use crate::engine::cuda::job::{Header, Job, WORK_ROWS_ALIGN};
use crate::engine::cuda::loaded::Loaded;
use crate::engine::cuda::program::{Launch, Product, RowsAt, RowsMemory, Way, WideLayer, Yardstick};

use super::contestant::{Contestant, decide};
use super::{BY_LIBRARY, Choice, LayerChoice, Trial, name_of};

/// Memory of a slot as wide layers see it: no inputs, no scores.
pub struct Bench<'l> {
    loaded: &'l Loaded,
    trial: Trial,
    contexts: usize,
    job: Job,
    kept: DeviceMemory,
    work: DeviceMemory,
    workspace: Option<DeviceMemory>,
    product_weights: Option<DeviceMemory>,
    /// Numbers from -1 to 1 in bf16, over and over. Two of them side by side are an f32 from -1 to 1, too.
    numbers: Vec<u8>,
    stream: Stream,
    events: [Event; 2],
    /// Held for their memory.
    _counts: [DeviceMemory; 2],
}

impl<'l> Bench<'l> {
    /// Takes device memory for the trial's rows, and the weights of a library's products where there is a library.
    pub fn new(loaded: &'l Loaded, trial: &Trial) -> Result<Bench<'l>, EngineError> {
        let (device, program) = (loaded.device(), loaded.program());
        let context = device.context();
        let failed = |what: &str| device.error(format!("a trial of wide layers with {} candidates: {what}", trial.rows));
        let (rows, contexts) = (trial.rows.max(1), trial.rows.div_ceil(CANDIDATES_OF_A_REQUEST).max(1));
        let work_rows = rows.next_multiple_of(WORK_ROWS_ALIGN);
        let memory = |bytes: usize, what: &str| DeviceMemory::zeroed(context, bytes).map_err(failed(&format!("{bytes} bytes for {what}")));
        let kept = memory(contexts * program.needs.kept_bytes, "kept values")?;
        let work = memory(work_rows * program.needs.work_bytes, "values between kernels")?;
        let header = Header { rows: rows as u32, contexts: contexts as u32, sequence: 0, reserved: 0 };
        let header = DeviceMemory::copy_of(context, bytemuck::bytes_of(&header)).map_err(failed("a header"))?;
        let row_context = memory(rows * size_of::<u32>(), "contexts of candidates")?;
        let job = Job {
            header: header.address(),
            row_context: row_context.address(),
            weights: loaded.weights(),
            kept: kept.address(),
            work: work.address(),
            work_rows: work_rows as u64,
            ..Job::default()
        };
        let weights = device.blas().filter(|_| !program.product_weights.is_empty()).map(|_| &program.product_weights);
        let product_weights = match weights.map(|weights| DeviceMemory::copy_of(context, weights)).transpose() {
            Err(error) if error.is_out_of_memory() => {
                tracing::warn!(
                    model = program.model.name,
                    "cuBLASLt is not tried: its weights take {} bytes: {error}",
                    program.product_weights.len()
                );
                None
            }
            copied => copied.map_err(failed("weights of products"))?,
        };
        let stream = Stream::new(context).map_err(failed("a stream"))?;
        let event = || Event::new(context).map_err(failed("an event"));
        let events = [event()?, event()?];
        let numbers = numbers(work.bytes().max(kept.bytes()));
        let trial = Trial { turns: trial.turns.max(1), launches: trial.launches.max(1), rows, ..*trial };
        let _counts = [header, row_context];
        Ok(Bench { loaded, trial, contexts, job, kept, work, workspace: None, product_weights, numbers, stream, events, _counts })
    }

    /// The weights of products, for as long as one is launched.
    pub fn into_product_weights(self) -> Option<DeviceMemory> {
        self.product_weights
    }

    /// Tries all ways to compute a layer.
    pub fn choose(&mut self, launch: &Launch, layer: &WideLayer) -> Result<(Choice, LayerChoice), EngineError> {
        let rows = if layer.per_candidate { self.trial.rows } else { self.contexts };
        let mut contestants = self.contestants(launch, layer, rows)?;
        self.workspace = self.workspace(launch, layer, &mut contestants)?;
        self.compare(launch, layer, rows, &mut contestants)?;
        self.measure(&launch.kernel, layer, &mut contestants)?;
        Ok(decide(launch, layer, rows, contestants, self.trial.prefer))
    }

    /// The most that any contestant wants. Where there is no room for that, the library is out of question.
    fn workspace(&self, launch: &Launch, layer: &WideLayer, contestants: &mut [Contestant]) -> Result<Option<DeviceMemory>, EngineError> {
        let bytes = contestants.iter().map(|contestant| contestant.call.workspace_bytes()).max().unwrap_or(0);
        match DeviceMemory::new(self.loaded.device().context(), bytes) {
            Ok(memory) => Ok(Some(memory)),
            Err(error) if error.is_out_of_memory() => {
                let reason = format!("{bytes} bytes for its products: {error}");
                let wanting = contestants.iter_mut().filter(|contestant| contestant.call.workspace_bytes() > 0);
                wanting.for_each(|contestant| contestant.refuse(&launch.kernel, layer, reason.clone()));
                Ok(None)
            }
            Err(error) => Err(self.failed("memory for products")(error)),
        }
    }

    /// Runs each way once; refuses what a library cannot do, and what differs from the first, which is the judge.
    fn compare(&mut self, launch: &Launch, layer: &WideLayer, rows: usize, contestants: &mut [Contestant]) -> Result<(), EngineError> {
        let model = &self.loaded.program().model.name;
        let mut judged: Option<Vec<Vec<f32>>> = None;
        for contestant in contestants.iter_mut().filter(|contestant| contestant.refused.is_none()) {
            let name = contestant.name;
            // A kernel that breaks the device takes the process with it: what was tried last is the cause.
            tracing::info!(model, kernel = launch.kernel, "trying layer {} by {name}", layer.name);
            let results = match self.results(&contestant.call, layer, rows) {
                Ok(results) => results,
                Err(error) if error.is_of_library() => {
                    contestant.refuse(&launch.kernel, layer, error.to_string());
                    continue;
                }
                Err(error) => return Err(broken(self.loaded.device(), layer, name)(error)),
            };
            match &judged {
                _ if contestant.leaves_out.is_some() => {}
                None => judged = Some(results),
                Some(expected) => contestant.judge(&launch.kernel, layer, expected, &results),
            }
        }
        Ok(())
    }

    /// Times the ways that agree, and yardsticks, in turns.
    fn measure(&self, kernel: &str, layer: &WideLayer, contestants: &mut [Contestant]) -> Result<(), EngineError> {
        for _ in 0..self.trial.turns {
            for contestant in contestants.iter_mut().filter(|contestant| contestant.refused.is_none()) {
                match self.time(&contestant.call) {
                    Ok(time) => contestant.times.push(time),
                    Err(error) if error.is_of_library() => contestant.refuse(kernel, layer, error.to_string()),
                    Err(error) => return Err(broken(self.loaded.device(), layer, contestant.name)(error)),
                }
            }
        }
        Ok(())
    }

    /// The judge first, then every other way; of a library, as many as it proposes, for a yardstick as well.
    fn contestants(&self, launch: &Launch, layer: &WideLayer, rows: usize) -> Result<Vec<Contestant>, EngineError> {
        let mut contestants = vec![Contestant::new("mma.sync", None, self.kernel(launch))];
        for (number, way) in layer.ways.iter().enumerate() {
            match way {
                Way::Kernel(launch) => contestants.push(Contestant::new(name_of(way), Some(number), self.kernel(launch))),
                Way::Product(product) => {
                    let biases = self.rounded_biases(product);
                    for call in self.products(launch, product, rows, layer)? {
                        let contestant = Contestant::new(name_of(way), Some(number), call);
                        contestants.push(Contestant { biases: biases.clone(), ..contestant });
                    }
                }
            }
        }
        if let Some(Yardstick { product, leaves_out }) = &layer.yardstick {
            let calls = self.products(launch, product, rows, layer)?.into_iter();
            let yardstick = |call| Contestant { leaves_out: Some(leaves_out), ..Contestant::new(BY_LIBRARY, None, call) };
            contestants.extend(calls.map(yardstick));
        }
        Ok(contestants)
    }

    /// What the library proposes in place of a launch.
    fn products(&self, launch: &Launch, product: &Product, rows: usize, layer: &WideLayer) -> Result<Vec<Call>, EngineError> {
        let matmuls = self.matmuls(product, rows, layer)?.into_iter();
        let call = |matmul| Call::Product { instead_of: launch.kernel.clone(), matmul, x: product.x, out: product.out };
        Ok(matmuls.map(call).collect())
    }

    fn kernel(&self, launch: &Launch) -> Call {
        let kernel = self.loaded.kernel(launch);
        let grid = grid(launch, self.trial.rows, self.contexts, kernel.blocks_max);
        Call::Kernel { name: launch.kernel.clone(), function: kernel.function.clone(), grid }
    }

    /// What the library proposes for a layer; nothing where there is no library, or it knows no way.
    fn matmuls(&self, product: &Product, rows: usize, layer: &WideLayer) -> Result<Vec<Matmul>, EngineError> {
        let Some((blas, weights)) = self.loaded.device().blas().zip(self.product_weights.as_ref()) else { return Ok(vec![]) };
        let shape = MatmulShape {
            rows,
            k: product.k,
            n: product.n,
            x_stride: product.x.stride,
            weights_stride: product.weights_stride,
            out_stride: product.out.stride,
            out_is_bf16: product.out.is_bf16,
            relu: product.relu,
            weights: weights.address() + product.weights as u64,
            bias: weights.address() + product.bias as u64,
        };
        match blas.matmuls(&shape, PROPOSALS) {
            Ok(matmuls) => Ok(matmuls),
            Err(error) if error.is_of_library() => {
                tracing::info!("cuBLASLt is not offered for layer {}: {error}", layer.name);
                Ok(vec![])
            }
            Err(error) => Err(self.failed("ways of cuBLASLt")(error)),
        }
    }

    /// A bias in bf16 is off by half of its last bit.
    fn rounded_biases(&self, product: &Product) -> Vec<f32> {
        if !product.out.is_bf16 {
            return vec![];
        }
        let bytes = &self.loaded.program().product_weights[product.bias..][..product.n * 2];
        bytes.chunks_exact(2).map(|bits| bf16::from_le_bytes([bits[0], bits[1]]).to_f32().abs() * 2.0_f32.powi(-8)).collect()
    }

    /// Writes numbers into all values between kernels.
    fn fill(&mut self) -> Result<(), DriverError> {
        for memory in [&mut self.work, &mut self.kept] {
            let mut at = 0;
            while at < memory.bytes() {
                let bytes = self.numbers.len().min(memory.bytes() - at);
                memory.write(at, &self.numbers[..bytes])?;
                at += bytes;
            }
        }
        Ok(())
    }

    /// Runs a call on fresh numbers, over results that are none, and reads what it writes.
    fn results(&mut self, call: &Call, layer: &WideLayer, rows: usize) -> Result<Vec<Vec<f32>>, DriverError> {
        self.fill()?;
        // What a kernel reads, for its tail as well, lies apart from what it writes (`generate/place.rs`).
        for out in &layer.outs {
            self.spoil(out, layer.n, rows)?;
        }
        self.launch(call)?;
        self.stream.wait()?;
        layer.outs.iter().map(|out| self.read(out, layer.n, rows)).collect()
    }

    /// Makes the first `n` elements of each row no numbers. What lies between the rows is other values'.
    fn spoil(&mut self, out: &RowsAt, n: usize, rows: usize) -> Result<(), DriverError> {
        let (first, mut region) = self.region(out, n, rows)?;
        let bytes = out.element_bytes();
        region.chunks_mut(out.stride * bytes).for_each(|row| row[..n * bytes].fill(NO_NUMBER));
        match out.memory {
            RowsMemory::Work { .. } => self.work.write(first, &region),
            RowsMemory::Kept { .. } => self.kept.write(first, &region),
        }
    }

    /// The first `n` elements of each row.
    fn read(&self, out: &RowsAt, n: usize, rows: usize) -> Result<Vec<f32>, DriverError> {
        let (_, region) = self.region(out, n, rows)?;
        let bytes = out.element_bytes();
        let elements = region.chunks(out.stride * bytes).flat_map(|row| row[..n * bytes].chunks_exact(bytes));
        let number = |bits: &[u8]| match out.is_bf16 {
            true => bf16::from_le_bytes([bits[0], bits[1]]).to_f32(),
            false => f32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]),
        };
        Ok(elements.map(number).collect())
    }

    /// From the first row's first element to the last row's last: where it begins, and what is there.
    fn region(&self, out: &RowsAt, n: usize, rows: usize) -> Result<(usize, Vec<u8>), DriverError> {
        let first = out.first_byte(self.job.work_rows as usize);
        let mut region = vec![0; ((rows - 1) * out.stride + n) * out.element_bytes()];
        match out.memory {
            RowsMemory::Work { .. } => self.work.read(first, &mut region)?,
            RowsMemory::Kept { .. } => self.kept.read(first, &mut region)?,
        }
        Ok((first, region))
    }

    /// How long a call takes, of several one behind the other.
    fn time(&self, call: &Call) -> Result<Duration, DriverError> {
        self.events[0].record(&self.stream)?;
        for _ in 0..self.trial.launches {
            self.launch(call)?;
        }
        self.events[1].record(&self.stream)?;
        self.stream.wait()?;
        Ok(self.events[1].since(&self.events[0])? / self.trial.launches as u32)
    }

    fn launch(&self, call: &Call) -> Result<(), DriverError> {
        let workspace = self.workspace.as_ref().map_or(0, DeviceMemory::address);
        // SAFETY: wide layers read and write kept values and work, which have room for the trial's rows, weights, which are loaded, and the
        // workspace, which has the size of the largest that a contestant asks for. All of it lives until the stream is dropped, which waits.
        unsafe { call.put(&self.stream, &self.job, workspace) }
    }

    fn failed(&self, what: &str) -> impl FnOnce(DriverError) -> EngineError {
        self.loaded.device().error(format!("a trial of wide layers: {what}"))
    }
}

/// A way that broke the device while it was tried.
fn broken(device: &Device, layer: &WideLayer, name: &str) -> impl FnOnce(DriverError) -> EngineError {
    device.error(format!("a trial of layer {} by {name} (wide_layers = \"mma\" in [cuda] keeps to kernels by mma.sync)", layer.name))
}

/// Bytes of bf16 from -1 to 1, not more than there is to fill.
fn numbers(wanted_bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bf16::from_f32((state >> 40) as f32 / (1 << 23) as f32 - 1.0).to_le_bytes()
    };
    let once: Vec<u8> = (0..NUMBERS.min(wanted_bytes / 2)).flat_map(|_| draw()).collect();
    if wanted_bytes <= once.len() { once } else { once.repeat(REPEATED) }
}

const CANDIDATES_OF_A_REQUEST: usize = 64;
/// Ways that a library is asked for.
const PROPOSALS: usize = 6;
/// Of f32 and of bf16, where all bytes are this one.
const NO_NUMBER: u8 = 0xff;
/// A prime: rows whose length is none of its multiples all differ.
const NUMBERS: usize = 65_521;
const REPEATED: usize = 64;
