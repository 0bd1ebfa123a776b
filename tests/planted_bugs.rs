//! Bugs planted into a kernel and into its host: each must change a result or be reported, or the emulator proves nothing.
#![allow(unsafe_code, clippy::unwrap_used)]

#[path = "support/emulator.rs"]
mod emulator;
#[path = "support/kernels.rs"]
mod kernels;
#[path = "support/tiny_model.rs"]
mod tiny_model;

use cudarc::driver::{result, sys};
use emulator::Cuda;
use kernels::Kernels;

const HEADERS: &[(&str, &str)] = &[("rt.cuh", include_str!("../kernels/rt.cuh"))];

/// Every launch draws a schedule of its own.
const LAUNCHES: usize = 6;

struct Bug {
    name: &'static str,
    from: &'static str,
    to: &'static str,
    /// Part of the report; empty where only the scores are wrong.
    report: &'static str,
}

const fn bug(name: &'static str, from: &'static str, to: &'static str, report: &'static str) -> Bug {
    Bug { name, from, to, report }
}

const BUGS: &[Bug] = &[
    bug("no barrier after the gather", "sync_block(); // all rows are gathered", "", ""),
    bug("no barrier before a stage", "sync_block(); // the stage is there, and at first what is pooled", "", ""),
    bug("no barrier after a stage", "sync_block(); // the stage may be filled again", "", ""),
    bug("no barrier before the sum", "sync_block(); // all warps have summed", "", ""),
    bug("no meeting of the warp", "sync_warp(); // the warp's ids are there", "", ""),
    bug("no wait for the gather", "cp_async_wait<0>();\n        sync_block();", "sync_block();", ""),
    bug("no wait for the last stage", "cp_async_wait<0>();\n            }", "}", ""),
    bug("a wait for too few stages", "cp_async_wait<1>();", "cp_async_wait<2>();", ""),
    bug("no commit", "    }\n    cp_async_commit();", "    }", ""),
    bug(
        "a barrier that a warp leaves out",
        "sync_block(); // all rows are gathered",
        "if (warp() != 2) { sync_block(); }",
        "divergent barrier",
    ),
    bug("a barrier in half a warp", "sync_block(); // all rows are gathered", "if (lane() < 16) { sync_block(); }", "divergent barrier"),
    bug("a meeting of half a warp", "sync_warp(); // the warp's ids are there", "if (lane() < 16) { sync_warp(); }", "for its warp"),
    bug(
        "a return before a barrier",
        "sync_block(); // all warps have summed",
        "if (warp() == 3) { return; } sync_block();",
        "threads ended",
    ),
    bug("rows off their boundary", "ROW = WIDTH + 8", "ROW = WIDTH + 4", "not on a boundary"),
    bug("a wrong row of a tile", "pooled + lane() % 16 * ROW", "pooled + lane() % 8 * ROW", ""),
    bug("a wrong column of a tile", "lane() / 8 % 2 * 8", "lane() / 16 * 8", ""),
    bug("a sum over too few lanes", "shfl_xor(sum, 2)", "shfl_xor(sum, 1)", ""),
    bug("an unchecked id", "bool there = id < table_rows;", "bool there = true;", "illegal address"),
    bug("a null pointer", "float v = d[e / 4][e % 4] + bias[unit];", "float v = ((const float*)nullptr)[unit];", "illegal address"),
    bug("a loop that ends early", "for (uint32_t k = 0; k < WIDTH; k += STEP)", "for (uint32_t k = 0; k < WIDTH - STEP; k += STEP)", ""),
];

/// Bugs that read or write beside a buffer: only a sanitizer sees them for sure.
const OUT_OF_BOUNDS: &[Bug] = &[
    bug("ids behind the last row", "row < rows ? ids[row * IDS + lane() % IDS] : table_rows", "ids[row * IDS + lane() % IDS]", ""),
    bug("scores behind the last row", "thread_x() < ROWS && first + thread_x() < rows", "thread_x() < ROWS", ""),
    bug("a bias too many", "+ bias[unit]", "+ bias[unit + 1]", ""),
    bug("shared memory behind the block's", "wanted[warp() * 16 + lane()] =", "wanted[warp() * 16 + lane() + 1] =", ""),
];

fn plant(bug: &Bug) -> String {
    assert_eq!(tiny_model::SOURCE.matches(bug.from).count(), 1, "{}: where to plant it", bug.name);
    tiny_model::SOURCE.replacen(bug.from, bug.to, 1)
}

/// The first launch whose scores are wrong or that fails.
fn run(source: &str) -> Option<Result<(), String>> {
    let kernels = Kernels::open(source, HEADERS)?;
    Some((0..LAUNCHES).try_for_each(|_| tiny_model::check(&kernels, 163)))
}

#[test]
fn every_bug_is_noticed() {
    if emulator::cuda() != Some(Cuda::Emulated) {
        return;
    }
    assert_eq!(run(tiny_model::SOURCE), Some(Ok(())), "nothing planted");
    let mut unnoticed = Vec::new();
    for bug in BUGS {
        let found = run(&plant(bug)).unwrap();
        let report = emulator::fault();
        println!("{}: {} {report}", bug.name, found.as_ref().err().map_or("", String::as_str));
        if found.is_ok() || !report.contains(bug.report) {
            unnoticed.push(bug.name);
        }
    }
    assert_eq!(unnoticed, [""; 0]);
}

/// Runs itself again, once per bug, with the sanitizer preloaded.
#[test]
fn what_is_out_of_bounds_is_noticed() {
    const CHILD: &str = "GAVEL_PLANTED";
    if let Ok(planted) = std::env::var(CHILD) {
        let source = OUT_OF_BOUNDS.iter().find(|bug| bug.name == planted).map_or(tiny_model::SOURCE.into(), plant);
        assert_eq!(run(&source), Some(Ok(())));
        return;
    }
    if emulator::cuda() != Some(Cuda::Emulated) {
        return;
    }
    for (planted, bug) in [("nothing", None)].into_iter().chain(OUT_OF_BOUNDS.iter().map(|bug| (bug.name, Some(bug)))) {
        let Some(mut command) = emulator::sanitized("what_is_out_of_bounds_is_noticed") else { return };
        let output = command.env(CHILD, planted).output().unwrap();
        let report = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), bug.is_none(), "{planted}: {report}");
        assert_eq!(report.contains("heap-buffer-overflow"), bug.is_some(), "{planted}: {report}");
    }
}

/// A host that fills its input again before the device has read it gets wrong scores.
#[test]
fn an_input_used_again_too_early_is_noticed() {
    const SOURCE: &str = "#include \"rt.cuh\"\nKERNEL(32) copy(const uint32_t* from, uint32_t* to) { to[thread_x()] = from[thread_x()]; }";
    let Some(kernels) = Kernels::open(SOURCE, HEADERS) else { return };
    if emulator::cuda() != Some(Cuda::Emulated) {
        println!("skipped: a race, which a device may win");
        return;
    }
    let mut input = vec![0_u32; 1024];
    let mut address = 0;
    // SAFETY: the memory lives to the end of the test and is unregistered there.
    unsafe {
        sys::cuMemHostRegister_v2(input.as_mut_ptr().cast(), 4096, 0).result().unwrap();
        sys::cuMemHostGetDevicePointer_v2(&mut address, input.as_mut_ptr().cast(), 0).result().unwrap();
    }
    let out = kernels.zeros::<u32>(32);
    let mut wrong = [0, 0];
    for (early, wrong) in [false, true].into_iter().zip(&mut wrong) {
        for round in 1..=20 {
            // SAFETY: of this test alone; the device reads what is there, which is the point.
            let fill = |value: u32| unsafe { (0..32).for_each(|i| input.as_ptr().cast_mut().add(i).write_volatile(value)) };
            fill(round);
            kernels.launch("copy", (1, 1), 32, 0, &[&address, &out]).unwrap();
            if early {
                fill(1000);
            }
            kernels.stream.synchronize().unwrap();
            *wrong += usize::from(kernels.download::<u32>(&out) != [round; 32]);
        }
    }
    assert_eq!(wrong[0], 0, "a host that waits");
    assert!(wrong[1] > 5, "a host that does not wait was wrong {} times of 20", wrong[1]);
    // SAFETY: nothing runs.
    unsafe {
        result::stream::synchronize(kernels.stream.cu_stream()).and_then(|()| sys::cuMemHostUnregister(input.as_mut_ptr().cast()).result())
    }
    .unwrap();
}

/// A host that launches on memory while the copy into it, or its clearing, is still on its way gets wrong results.
#[test]
fn a_launch_before_its_upload_is_there_is_noticed() {
    const SOURCE: &str = "#include \"rt.cuh\"\nKERNEL(32) copy(const uint32_t* from, uint32_t* to) { to[thread_x()] = from[thread_x()]; }";
    let Some(kernels) = Kernels::open(SOURCE, HEADERS) else { return };
    if emulator::cuda() != Some(Cuda::Emulated) {
        println!("skipped: a race, which a device may win");
        return;
    }
    let out = kernels.zeros::<u32>(32);
    for clears in [false, true] {
        for waits in [false, true] {
            let mut wrong = 0;
            for round in 1..=10 {
                let expected = if clears { 0 } else { round };
                // SAFETY: fresh memory of that size; null is the default stream.
                unsafe {
                    let input = result::malloc_sync(128).unwrap();
                    match clears {
                        true => sys::cuMemsetD8_v2(input, 0, 128).result().unwrap(),
                        false => result::memcpy_htod_sync(input, &[round; 32]).unwrap(),
                    }
                    if waits {
                        result::stream::synchronize(std::ptr::null_mut()).unwrap();
                    }
                    kernels.run("copy", (1, 1), 32, 0, &[&input, &out]);
                    wrong += usize::from(kernels.download::<u32>(&out) != [expected; 32]);
                    result::stream::synchronize(std::ptr::null_mut()).unwrap();
                    result::free_sync(input).unwrap();
                }
            }
            assert_eq!(wrong, if waits { 0 } else { 10 }, "clears: {clears}, waits: {waits}");
        }
    }
}
