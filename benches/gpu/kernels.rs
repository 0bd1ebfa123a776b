//! Each launch of a model's batches, against what the device can do at best.
//!
//! Fresh random requests of 64 candidates with ids drawn evenly from whole tables (the worst case for every cache), several slots in turns. A launch
//! is timed alone, many of it one behind the other between two events: gaps between the launches of a graph are the difference between their
//! sum and the whole batch. The floor of a launch is the longer of its bytes at the bandwidth and its operations at the peaks that `facts` measured;
//! what it reads of tables is also compared with the rate of random rows of that size.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gavel::batch::{Counts, Layout, Need, RowsMut, ScopeLayout, Slot, SlotLimits};
use gavel::engine::EngineError;
use gavel::engine::cpu::Hoist;
use gavel::engine::cuda::compile::{Arch, Cubins};
use gavel::engine::cuda::{Batches, Device, DeviceOptions, LaunchWork, Loaded, Numbers, Target, Trial, works};
use gavel::model::Scope;
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::report::{Report, Spread};
use crate::rig::{Rig, text};
use crate::shapes::{BRIEF_ROWS, Case, Source, generate, wanted};

/// Candidates of a batch.
const BATCHES: [usize; 7] = [16, 64, 256, 1024, 4096, 16_384, 65_536];
/// The same for parts of models.
const FEW_BATCHES: [usize; 3] = [64, 4096, 65_536];
/// Candidates of a request.
const REQUEST: usize = 64;
/// Of all tables, and slots beside them, so much of the free memory may be taken.
const TABLES_SHARE: f64 = 0.75;
/// A launch is repeated for so long.
const TURN: Duration = Duration::from_millis(20);
/// And that so often.
const TURNS: usize = 3;

/// All cases until the time is over; a case that fails is named, and the rest goes on.
pub fn run(arguments: &Arguments) -> Result<Report, String> {
    let began = Instant::now();
    let mut report = Report::new("kernels");
    let peaks = Peaks::read(arguments.facts.as_deref())?;
    let rig = Rig::new(arguments)?;
    report.say("device", rig.gpu.name.as_str());
    report.say("peaks", peaks.as_ref().map_or(Value::Null, Peaks::to_json));
    let mut cases = wanted(arguments);
    if arguments.rows.is_some() {
        cases.truncate(1);
    }
    for case in &cases {
        if began.elapsed().as_secs() >= arguments.seconds {
            report.note(&case.name(), "not begun: no time left");
        } else if let Err(error) = one(arguments, &rig, case, peaks.as_ref(), began, &mut report) {
            report.fail(&case.name(), &error);
        }
    }
    Ok(report)
}

fn one(arguments: &Arguments, rig: &Rig, case: &Case, peaks: Option<&Peaks>, began: Instant, report: &mut Report) -> Result<(), String> {
    let failed = |error: EngineError| error.to_string();
    let device = Device::open(DeviceOptions::default()).map_err(|error| error.to_string())?;
    let arch = Arch::of_device(rig.gpu.capability.0, rig.gpu.capability.1).map_err(|error| error.to_string())?;
    let model = case.model(fitting(rig, case)?)?;
    let bytes: usize = model.weights.tables.iter().map(|table| table.bytes()).sum();
    let program = case.program(&model, arch)?;
    let target = case.target(arch);
    // Short batches may take one launch.
    let plans = [works(&model, &target), works(&model, &Target { hoist: Hoist::Nothing, ..target })];
    let plans = plans.into_iter().collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let cubins = Cubins::new(arguments.cubins.clone(), arguments.nvrtc.clone());
    let code = cubins.find_or_compile(&program, arch, &Default::default()).map_err(failed)?.code;
    let tables = generate(rig, &rig.context, &program, 1)?;
    let loaded = Arc::new(Loaded::with_tables(&device, Arc::new(program), &code, tables).map_err(failed)?);
    println!("\n{}: {bytes} bytes of tables, made on the device", case.name());
    for kernel in loaded.kernels() {
        report.row(json!({
            "case": case.name(), "kernel": kernel.name, "registers": kernel.registers,
            "local bytes": kernel.local_bytes, "shared bytes": kernel.shared_bytes,
        }));
    }
    choose(rig, case, &loaded, report).map_err(failed)?;
    let batches = match (&case.source, arguments.rows) {
        (_, Some(rows)) => vec![rows],
        _ if !rig.measuring => vec![16],
        (Source::Whole(..), None) => BATCHES.to_vec(),
        (Source::Lookups(..) | Source::Pattern { .. }, None) => FEW_BATCHES.to_vec(),
    };
    for rows in batches {
        if began.elapsed().as_secs() >= arguments.seconds {
            report.note(&format!("{} at {rows}", case.name()), "not begun: no time left");
            break;
        }
        batch(rig, case, &loaded, &plans, peaks, rows, report)?;
    }
    Ok(())
}

/// How wide layers are computed: all ways, so that NVIDIA's library measures ours. Small runs take the kernels by mma.sync,
/// and so does every run where the server's setting says so: a kernel that breaks the device leaves no figures at all.
fn choose(rig: &Rig, case: &Case, loaded: &Loaded, report: &mut Report) -> Result<(), EngineError> {
    let by_mma = std::env::var("GAVEL_CUDA_WIDE_LAYERS").is_ok_and(|ways| ways == "mma");
    if !rig.measuring || by_mma {
        return Ok(());
    }
    loaded.choose_wide_layers(&Trial::default())?;
    for choice in loaded.wide_layers() {
        println!("    {choice}");
        report.row(json!({ "case": case.name(), "wide layer": choice }));
    }
    Ok(())
}

/// Batches of one size.
fn batch(
    rig: &Rig,
    case: &Case,
    loaded: &Arc<Loaded>,
    plans: &[Vec<LaunchWork>],
    peaks: Option<&Peaks>,
    rows: usize,
    report: &mut Report,
) -> Result<(), String> {
    let layout = Arc::clone(&loaded.program().layout);
    let contexts = rows.div_ceil(REQUEST);
    let ids = (contexts * layout.context.fixed_ids).max(rows * layout.candidate.fixed_ids).max(1);
    let slots = rig.size(if rows > 16_384 { 2 } else { 4 }, 2);
    let mut batches = Batches::new(loaded, SlotLimits { contexts, rows, ids }, slots).map_err(|error| error.to_string())?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for at in 0..batches.count() {
        fill(batches.slot(at), rows, &mut random);
    }
    batches.run().map_err(text)?;

    let whole = times(rig, |turns| batches.time_batches(turns))?;
    let copies = times(rig, |turns| batches.time_copies(turns))?;
    println!("{} at {rows}: {:.2} µs, {:.2} million candidates/s", case.name(), whole.p50, rows as f64 / whole.p50);
    let launches = batches.launches();
    let works = plans.iter().find(|works| works.len() == launches.len());
    let mut sum = 0.0;
    for (number, launch) in launches.iter().enumerate() {
        let spread = times(rig, |turns| batches.time_launch(number, turns))?;
        sum += spread.p50;
        let inputs = works.map_or(0, |works| input_bytes(&layout, works, number));
        let floor = peaks.zip(works).map(|(peaks, works)| peaks.floor(&works[number], inputs, case.numbers, rows, contexts));
        let share = floor.as_ref().map(|floor| floor.microseconds / spread.p50);
        let mut told = floor.as_ref().map_or(String::new(), |floor| {
            format!("floor {:.2} ({}), {:.0} %", floor.microseconds, floor.bound, share.unwrap_or(0.0) * 100.0)
        });
        // What it reads of tables, bytes a second; small tables come from the L2.
        let read = works.map(|works| &works[number]).filter(|work| work.table_bytes > 0).map(|work| {
            let times = if work.per_request { contexts } else { rows };
            (times as u64 * work.table_bytes) as f64 / spread.p50 * 1e6
        });
        let row_bytes = loaded.program().model.weights.tables.iter().map(|table| table.row_bytes()).min().unwrap_or(0);
        let of_memory = read.zip(peaks).map(|(read, peaks)| read / peaks.memory);
        let of_gathers = read.zip(peaks.and_then(|peaks| peaks.gathers(row_bytes))).map(|(read, gathers)| read / gathers);
        if let Some(read) = read {
            told += &format!("  {:.0} GB/s of tables", read / 1e9);
        }
        if let (Some(of_memory), Some(of_gathers)) = (of_memory, of_gathers) {
            told += &format!(", {:.0} % of reading, {:.0} % of random rows", of_memory * 100.0, of_gathers * 100.0);
        }
        println!("    {:34} {:>6} blocks {:>10.2} µs  {told}", launch.kernel, launch.blocks, spread.p50);
        report.row(json!({
            "case": case.name(), "rows": rows, "launch": number, "kernel": launch.kernel, "blocks": launch.blocks,
            "threads": launch.threads, "shared bytes": launch.shared_bytes, "µs": spread.p50, "least µs": spread.least,
            "work of a row": works.map(|works| &works[number]), "input bytes": inputs, "floor µs": floor.as_ref().map(|floor| floor.microseconds),
            "bound": floor.as_ref().map(|floor| floor.bound), "share of the floor": share,
            "lookups alone": matches!(case.source, Source::Lookups(..)), "table bytes/s": read, "share of reading": of_memory, "share of random rows": of_gathers,
        }));
    }
    report.row(json!({
        "case": case.name(), "published": matches!(case.source, Source::Whole(..)), "rows": rows, "whole batch, µs": whole.p50, "least µs": whole.least, "copies, µs": copies.p50,
        "launches alone, summed, µs": sum, "candidates per second": rows as f64 / whole.p50 * 1e6,
        "input bytes": rows * (layout.candidate.dense_width * 4 + layout.candidate.fixed_ids * 4),
    }));
    Ok(())
}

/// Repeats what `time` times until it took long enough, a few times; µs.
fn times(rig: &Rig, mut time: impl FnMut(usize) -> Result<Duration, gavel::engine::cuda::DriverError>) -> Result<Spread, String> {
    let first = time(rig.size(4, 1)).map_err(text)?.as_secs_f64().max(1e-7);
    let turns = rig.size(((TURN.as_secs_f64() / first) as usize).clamp(4, 2000), 1);
    let spread = (0..rig.size(TURNS, 1)).map(|_| time(turns).map(|took| took.as_secs_f64() * 1e6)).collect::<Result<Vec<f64>, _>>();
    Ok(Spread::of(spread.map_err(text)?))
}

/// The most rows of a table so that all tables fit on the device: all, or a half of that, and so on.
fn fitting(rig: &Rig, case: &Case) -> Result<u32, String> {
    if !rig.measuring {
        return Ok(BRIEF_ROWS);
    }
    let free = rig.context.free_bytes().map_err(text)?;
    let mut cap = u32::MAX;
    loop {
        if case.table_bytes(cap) <= free as f64 * TABLES_SHARE {
            return Ok(cap);
        }
        cap = if cap > 64 << 20 { 32 << 20 } else { cap / 2 };
    }
}

/// Fills a slot with requests of random rows.
pub fn fill(slot: &mut Slot, rows: usize, random: &mut Random) {
    slot.clear();
    let layout = Arc::clone(slot.layout());
    let mut left = rows;
    while left > 0 {
        let rows = left.min(REQUEST);
        let (context_ids, candidate_ids) = (layout.context.fixed_ids, rows * layout.candidate.fixed_ids);
        let draft = slot.reserve(Need { rows, context_ids, candidate_ids }).expect("the limits were made for these requests");
        random.fill(&layout.context, draft.context);
        random.fill(&layout.candidate, draft.candidates);
        slot.commit(0, Counts { rows, context_ids, candidate_ids });
        left -= rows;
    }
}

/// xorshift64*.
pub struct Random(pub u64);

impl Random {
    /// 32 bits.
    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.next()) * u64::from(bound)) >> 32) as u32
    }

    /// From -1 to 1.
    pub fn unit(&mut self) -> f32 {
        self.next() as i32 as f32 / 2_147_483_648.0
    }

    fn fill(&mut self, layout: &ScopeLayout, rows: RowsMut<'_>) {
        rows.dense.iter_mut().for_each(|value| *value = self.unit());
        let bounds = layout.plain_bounds.as_ref().expect("these models have plain ids");
        for row in rows.ids.chunks_exact_mut(bounds.len().max(1)) {
            for (id, bound) in row.iter_mut().zip(bounds) {
                *id = self.below(*bound);
            }
        }
    }
}

/// What the device does at best, in units of a second.
#[derive(Clone, Debug, PartialEq)]
pub struct Peaks {
    /// Bytes of device memory, read one after the other.
    pub memory: f64,
    /// Bytes of L2.
    pub l2: f64,
    /// Operations of products in bf16.
    pub bf16: f64,
    /// Operations in f32.
    pub f32: f64,
    /// Bytes of random rows of device memory, by the bytes of a row, in ascending order.
    pub random_rows: Vec<(usize, f64)>,
}

/// Bytes of a row that a request brings, for the first launch over its scope; 0 for later ones, which read what that left.
pub fn input_bytes(layout: &Layout, works: &[LaunchWork], number: usize) -> u64 {
    let per_request = works[number].per_request;
    if works[..number].iter().any(|work| work.per_request == per_request) {
        return 0;
    }
    let scope = layout.scope(if per_request { Scope::Context } else { Scope::Candidate });
    (scope.dense_width * 4 + scope.fixed_ids * scope.id_bytes) as u64
}

/// What a launch cannot be faster than.
pub struct Floor {
    pub microseconds: f64,
    /// By what.
    pub bound: &'static str,
}

impl Peaks {
    /// From what `facts` wrote.
    fn read(file: Option<&Path>) -> Result<Option<Peaks>, String> {
        let Some(file) = file else { return Ok(None) };
        let wrong = |why: String| format!("{}: {why}", file.display());
        let bytes = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
        let facts: Value = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        let figure = |name: &str| {
            let figures = facts["figures"].as_array()?;
            figures.iter().find(|figure| figure["name"] == name)?["value"].as_f64().filter(|value| *value > 0.0)
        };
        let needed = |name: &str| figure(name).ok_or_else(|| wrong(format!("no figure {name:?}")));
        let by_warps = needed("products in bf16 by warps (mma.sync)")?;
        let by_warpgroups = figure("products in bf16 by warpgroups (wgmma)").unwrap_or(0.0);
        Ok(Some(Peaks {
            memory: needed("reading device memory")? * 1e9,
            l2: needed("reading half of what L2 holds")? * 1e9,
            bf16: by_warps.max(by_warpgroups) * 1e12,
            f32: needed("multiply-adds in f32")? * 1e12,
            random_rows: [32, 64, 128, 256]
                .into_iter()
                .filter_map(|bytes| Some((bytes, figure(&format!("random rows of {bytes} bytes, device memory, rate"))? * 1e9)))
                .collect(),
        }))
    }

    fn to_json(&self) -> Value {
        json!({
            "device memory, B/s": self.memory, "L2, B/s": self.l2, "bf16, FLOP/s": self.bf16, "f32, FLOP/s": self.f32,
            "random rows, B/s": self.random_rows,
        })
    }

    /// Bytes a second of random rows: of the largest rows measured that are no larger than these, or of the smallest.
    pub fn gathers(&self, row_bytes: usize) -> Option<f64> {
        let known = self.random_rows.iter().rev().find(|(bytes, _)| *bytes <= row_bytes).or(self.random_rows.first());
        known.map(|(_, rate)| *rate)
    }

    /// Of a launch: its bytes at the memory's rate, weights once; or its products and the rest of its arithmetic, one beside the other.
    /// `inputs`: [`input_bytes`].
    pub fn floor(&self, work: &LaunchWork, inputs: u64, numbers: Numbers, rows: usize, contexts: usize) -> Floor {
        let rows = if work.per_request { contexts } else { rows } as f64;
        let bytes = rows * (inputs + work.table_bytes + work.passed_bytes) as f64 + work.weight_bytes as f64;
        let products = rows * work.product_flops as f64 / if numbers == Numbers::Bf16 { self.bf16 } else { self.f32 };
        let others = rows * (work.flops - work.product_flops) as f64 / self.f32;
        let all = [(bytes / self.memory, "device memory"), (products, "products"), (others, "other arithmetic")];
        let (seconds, bound) = all.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).expect("three of them");
        Floor { microseconds: seconds * 1e6, bound }
    }
}
